//! systemd's unit files and drop-ins (systemd.syntax(7)).

use super::decoded::Decoded;
use super::source::Source;

/// `Key=value` in a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// `Unit`, `Service`, `Install` …
    pub section: String,
    /// `ExecStart`, `Environment` …
    pub key: String,
    /// Continued lines are one, with a space between them.
    pub value: Decoded,
    /// Where the key begins.
    pub offset: usize,
}

/// The settings of one file, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitFile {
    /// In their order.
    pub settings: Vec<Setting>,
}

impl UnitFile {
    /// Reads a file; systemd passes over a line that is none of its own, and so does this.
    pub fn read(source: &Source) -> Self {
        let mut settings = Vec::new();
        let mut section = String::new();
        let mut open: Option<Setting> = None;
        for (start, line) in source.lines() {
            let bare = line.trim_start();
            // Comments may stand between a line and its continuation.
            if bare.starts_with(['#', ';']) {
                continue;
            }
            let start = start + (line.len() - bare.len());
            let (bare, goes_on) = match bare.trim_end().strip_suffix('\\') {
                Some(rest) => (rest, true),
                None => (bare.trim_end(), false),
            };
            if let Some(setting) = &mut open {
                push(&mut setting.value, bare, start);
                if goes_on {
                    setting.value.push(' ', start + bare.len());
                } else {
                    settings.extend(open.take());
                }
                continue;
            }
            if let Some(name) = bare
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
            {
                section = name.to_string();
                continue;
            }
            let Some((key, value)) = bare.split_once('=') else {
                continue;
            };
            let mut setting = Setting {
                section: section.clone(),
                key: key.trim_end().to_string(),
                value: Decoded::default(),
                offset: start,
            };
            let skipped = value.len() - value.trim_start().len();
            push(
                &mut setting.value,
                value.trim_start(),
                start + key.len() + 1 + skipped,
            );
            if goes_on {
                setting.value.push(' ', start + bare.len());
                open = Some(setting);
            } else {
                settings.push(setting);
            }
        }
        settings.extend(open);
        Self { settings }
    }

    /// The settings of a key, in their order.
    pub fn all<'a>(&'a self, section: &'a str, key: &'a str) -> impl Iterator<Item = &'a Setting> {
        self.settings
            .iter()
            .filter(move |one| one.section == section && one.key == key)
    }
}

fn push(value: &mut Decoded, text: &str, start: usize) {
    for (at, letter) in text.char_indices() {
        value.push(letter, start + at);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::document::Word;

    const KUBEADM: &str = "\
# Note: This dropin only works with kubeadm and kubelet v1.11+
[Service]
Environment=\"KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml\"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_CONFIG_ARGS \\
# between
  $KUBELET_EXTRA_ARGS
[Install]
WantedBy = multi-user.target\r
";

    #[test]
    fn settings_have_their_section_and_place() {
        let source = Source::new("/x", KUBEADM);
        let unit = UnitFile::read(&source);
        let starts: Vec<_> = unit.all("Service", "ExecStart").collect();
        assert_eq!(starts[0].value.text(), "");
        let words = starts[1].value.words();
        let texts: Vec<_> = words.iter().map(Word::text).collect();
        assert_eq!(
            texts,
            [
                "/usr/bin/kubelet",
                "$KUBELET_CONFIG_ARGS",
                "$KUBELET_EXTRA_ARGS"
            ]
        );
        assert_eq!(source.place(words[2].range.start).line, 8);
        let wanted = unit.all("Install", "WantedBy").next().unwrap();
        assert_eq!(wanted.value.text(), "multi-user.target");
        assert_eq!(source.place(wanted.offset).line, 10);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "(\\[[A-Z]*\\]|[A-Z]=|[\"'\\\\ #;\r\n]|[a-z\u{e4}])*") {
            let source = Source::new("/x", text);
            for setting in UnitFile::read(&source).settings {
                for word in setting.value.words() {
                    prop_assert!(source.text().get(word.range).is_some());
                }
            }
        }
    }
}
