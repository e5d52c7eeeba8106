//! Files of variables: `/var/lib/kubelet/kubeadm-flags.env`, `/etc/default/*`, `/etc/sysconfig/*`.
//!
//! They are read as systemd reads an `EnvironmentFile=` (systemd.exec(5)), which is nearly what a
//! shell makes of them; `export` in front of a name is for shells only and is told apart.

use std::ops::Range;

use super::decoded::Decoded;
use super::source::Source;

/// `NAME=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The name of the variable.
    pub name: String,
    /// Without quotes.
    pub value: Decoded,
    /// The bytes of the value as it is written, with quotes.
    pub value_range: Range<usize>,
    /// The bytes from the beginning of the name to the end of the value.
    pub range: Range<usize>,
    /// `export NAME=value`, which systemd does not take for an assignment.
    pub exported: bool,
}

/// The assignments of a file, in their order; a later one of the same name wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvFile {
    /// In their order.
    pub assignments: Vec<Assignment>,
    /// Where a line begins that is neither an assignment nor a comment.
    pub strays: Vec<usize>,
}

impl EnvFile {
    /// Reads a file. There is none that cannot be read: what is not an assignment is a stray.
    pub fn read(source: &Source) -> Self {
        let mut reader = Reader {
            text: source.text(),
            at: if source.text().starts_with('\u{feff}') {
                '\u{feff}'.len_utf8()
            } else {
                0
            },
        };
        let mut file = Self::default();
        while reader.at < reader.text.len() {
            reader.statement(&mut file);
        }
        file
    }

    /// What systemd gives to the service for a name.
    pub fn get(&self, name: &str) -> Option<&Assignment> {
        let own = |one: &&Assignment| one.name == name && !one.exported;
        self.assignments.iter().rev().find(own)
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<(usize, char)> {
        let letter = self.peek()?;
        let at = self.at;
        self.at += letter.len_utf8();
        Some((at, letter))
    }

    fn skip_line(&mut self) {
        while let Some((_, letter)) = self.next() {
            if is_line_end(letter) {
                break;
            }
        }
    }

    fn statement(&mut self, file: &mut EnvFile) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.next();
        }
        let start = self.at;
        match self.peek() {
            None => return,
            Some('#' | ';') => return self.skip_line(),
            Some(_) => {}
        }
        let line = self.text[start..].split(is_line_end).next();
        let Some((written, _)) = line.and_then(|line| line.split_once('=')) else {
            file.strays.push(start);
            return self.skip_line();
        };
        self.at = start + written.len() + 1;
        let bare = written.trim_end();
        let exported = bare
            .strip_prefix("export")
            .filter(|rest| rest.starts_with([' ', '\t']));
        let name = exported.unwrap_or(bare).trim_start();
        if !is_name(name) {
            file.strays.push(start);
            return self.skip_line();
        }
        let (value, value_range) = self.value();
        file.assignments.push(Assignment {
            name: name.to_string(),
            value,
            range: start..value_range.end,
            value_range,
            exported: exported.is_some(),
        });
    }

    /// The value behind the equals sign, to the end of the line that it ends in.
    fn value(&mut self) -> (Decoded, Range<usize>) {
        let mut value = Decoded::default();
        // What white space at the end must not take away, because it was in quotes.
        let mut kept = 0;
        let mut range: Option<Range<usize>> = None;
        let mut plain = false;
        let begin = self.at;
        while let Some((at, letter)) = self.next() {
            if is_line_end(letter) {
                break;
            }
            match letter {
                '\'' if !plain => {
                    self.quoted('\'', &mut value);
                    kept = value.text().len();
                }
                '"' if !plain => {
                    self.quoted('"', &mut value);
                    kept = value.text().len();
                }
                '\\' => {
                    plain = true;
                    match self.next() {
                        // CR LF is one end of a line.
                        Some((_, '\r')) if self.peek() == Some('\n') => {
                            self.next();
                        }
                        Some((_, escaped)) if is_line_end(escaped) => {}
                        Some((at, escaped)) => {
                            value.push(escaped, at);
                            kept = value.text().len();
                        }
                        None => {}
                    }
                }
                ' ' | '\t' if !plain => continue,
                _ => {
                    plain = true;
                    value.push(letter, at);
                    if !letter.is_whitespace() {
                        kept = value.text().len();
                    }
                }
            }
            if !letter.is_whitespace() {
                let start = range.map_or(at, |range| range.start);
                range = Some(start..self.at);
            }
        }
        value.truncate(kept);
        (value, range.unwrap_or(begin..begin))
    }

    /// What is between quotes, of which the first has been read. An open one ends with the file.
    fn quoted(&mut self, quote: char, value: &mut Decoded) {
        while let Some((at, letter)) = self.next() {
            if letter == quote {
                return;
            }
            if letter == '\\' && quote == '"' {
                match self.next() {
                    Some((at, escaped @ ('"' | '\\' | '`' | '$'))) => value.push(escaped, at),
                    Some((_, '\r')) if self.peek() == Some('\n') => {
                        self.next();
                    }
                    Some((_, '\n')) | None => {}
                    Some((then, other)) => {
                        value.push('\\', at);
                        value.push(other, then);
                    }
                }
            } else {
                value.push(letter, at);
            }
        }
    }
}

fn is_line_end(letter: char) -> bool {
    letter == '\n' || letter == '\r'
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|first: char| first.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::document::Edit;

    fn read(text: &str) -> Vec<(String, String)> {
        let file = EnvFile::read(&Source::new("/x", text));
        let pair = |one: Assignment| (one.name, one.value.text().to_string());
        file.assignments.into_iter().map(pair).collect()
    }

    fn only(text: &str) -> String {
        let all = read(text);
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].1.clone()
    }

    #[test]
    fn quotes_are_taken_off() {
        assert_eq!(
            only("KUBELET_KUBEADM_ARGS=\"--network-plugin=cni --v=2\"\n"),
            "--network-plugin=cni --v=2"
        );
        assert_eq!(only("A='it\"s'"), "it\"s");
        assert_eq!(only("A=\"x\"'y'"), "xy");
        assert_eq!(only(r#"A="a\"b\$c\d""#), r#"a"b$c\d"#);
        assert_eq!(only("A=--x=\"b c\"  "), "--x=\"b c\"");
        assert_eq!(only("A=  b  "), "b");
        assert_eq!(only("A="), "");
    }

    #[test]
    fn lines_go_on_and_end_as_windows_ends_them() {
        assert_eq!(only("A=\"--a \\\n--b\"\n"), "--a --b");
        assert_eq!(only("A=\"--a \\\r\n--b\"\r\n"), "--a --b");
        assert_eq!(only("A=--a \\\n  --b\n"), "--a   --b");
        assert_eq!(only("A=b\r\n"), "b");
        assert_eq!(only("A='a\nb'\n"), "a\nb");
    }

    #[test]
    fn comments_exports_and_strays_are_told_apart() {
        let source = Source::new("/x", "# A=1\n; B=2\n  C=3\nexport D=4\nif true\n5=x\nC=6\n");
        let file = EnvFile::read(&source);
        assert_eq!(file.get("C").unwrap().value.text(), "6");
        assert!(file.get("D").is_none());
        assert!(file.assignments[1].exported);
        let lines: Vec<_> = file
            .strays
            .iter()
            .map(|at| source.place(*at).line)
            .collect();
        assert_eq!(lines, [5, 6]);
    }

    #[test]
    fn a_flag_can_be_taken_out_to_the_byte() {
        let text = "# by kubeadm\r\nARGS=\"--a --network-plugin=cni  --b\" \r\nX=1\r\n";
        let source = Source::new("/x", text);
        let file = EnvFile::read(&source);
        let words = file.get("ARGS").unwrap().value.words();
        let edit = Edit {
            range: words[0].range.end..words[1].range.end,
            text: String::new(),
        };
        let expected = text.replace(" --network-plugin=cni", "");
        assert_eq!(source.edited(&[edit]), expected.as_bytes());
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic_and_ranges_hold_what_they_say(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let source = Source::new("/x", bytes.clone());
            let file = EnvFile::read(&source);
            for one in &file.assignments {
                prop_assert!(source.text()[one.range.clone()].contains('='));
                prop_assert!(source.text().get(one.value_range.clone()).is_some());
                for word in one.value.words() {
                    prop_assert!(source.text().get(word.range).is_some());
                }
            }
            prop_assert_eq!(source.edited(&[]), bytes);
        }

        #[test]
        fn what_is_quoted_is_read_back(value in "[ -~]{0,40}", end in "\r?\n") {
            let mut quoted = String::from("A=\"");
            for letter in value.chars() {
                if matches!(letter, '"' | '\\' | '`' | '$') {
                    quoted.push('\\');
                }
                quoted.push(letter);
            }
            prop_assert_eq!(only(&format!("{quoted}\"{end}")), value);
        }

        #[test]
        fn odd_files_do_not_panic(text in "([A-Z]{1,2}=|[\"'\\\\ #;\r\n]|export |--[a-z]=?|[a-z\u{e4}])*") {
            let source = Source::new("/x", text.clone());
            for one in EnvFile::read(&source).assignments {
                one.value.words();
                prop_assert!(source.text().get(one.value_range).is_some());
            }
        }
    }
}
