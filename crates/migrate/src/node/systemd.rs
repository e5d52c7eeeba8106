//! Units of systemd, with their drop-ins (systemd.unit(5), "Unit File Load Path").

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::look::{Look, Origin};
use crate::document::{Decoded, EnvFile, Setting, Source, UnitFile, Word};

/// Where units are, the directory that counts most first.
pub(crate) const DIRECTORIES: [&str; 6] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// A unit as systemd puts it together.
#[derive(Debug, Clone)]
pub struct Unit {
    /// `kubelet.service`.
    pub name: String,
    /// The unit's file and its drop-ins, in the order in which they are read.
    pub files: Vec<(Arc<Source>, UnitFile)>,
}

/// A word of a command line, and where it is written.
#[derive(Debug, Clone)]
pub struct Argument {
    /// Without quotes.
    pub text: String,
    /// Where.
    pub origin: Origin,
}

/// Whether it is a link to nothing, which takes a unit or a drop-in away.
fn is_masked(look: &Look<'_>, path: &Path) -> bool {
    look.root.link(path).as_deref() == Some(Path::new("/dev/null"))
}

impl Unit {
    /// A unit, if there is one that is not masked.
    pub(crate) fn load(look: &mut Look<'_>, name: &str) -> Option<Self> {
        let main = DIRECTORIES
            .iter()
            .map(|directory| Path::new(directory).join(name))
            .find(|path| look.root.has(path) || is_masked(look, path))?;
        if is_masked(look, &main) {
            return None;
        }
        let mut dropins: BTreeMap<_, PathBuf> = BTreeMap::new();
        for directory in DIRECTORIES {
            for path in look.list(Path::new(directory).join(format!("{name}.d"))) {
                let Some(file) = path.file_name().map(ToOwned::to_owned) else {
                    continue;
                };
                if path.extension().is_some_and(|end| end == "conf") {
                    dropins.entry(file).or_insert(path);
                }
            }
        }
        let mut files = Vec::new();
        for path in std::iter::once(main).chain(dropins.into_values()) {
            if is_masked(look, &path) {
                continue;
            }
            if let Some(source) = look.read(&path) {
                let unit = UnitFile::read(&source);
                files.push((source, unit));
            }
        }
        Some(Self {
            name: name.to_string(),
            files,
        })
    }

    /// The settings of a key; an empty one takes back those before it.
    pub fn all<'a>(
        &'a self,
        section: &'a str,
        key: &'a str,
    ) -> Vec<(&'a Arc<Source>, &'a Setting)> {
        let mut found = Vec::new();
        for (source, unit) in &self.files {
            for setting in unit.all(section, key) {
                if setting.value.text().is_empty() {
                    found.clear();
                } else {
                    found.push((source, setting));
                }
            }
        }
        found
    }

    /// The files of variables that it names, and whether it starts without them (systemd.exec(5),
    /// `EnvironmentFile=`): one in a line, as it is written, so that quotes would be part of its name;
    /// the last part of it may have an asterisk.
    pub fn environment_files(&self) -> Vec<(PathBuf, bool)> {
        let named = self.all("Service", "EnvironmentFile").into_iter();
        let named = named.filter_map(|(_, setting)| {
            let said = setting.value.text().trim();
            let (path, optional) = match said.strip_prefix('-') {
                Some(path) => (path, true),
                None => (said, false),
            };
            // systemd passes over others.
            let path = path.starts_with('/').then(|| path.replace("%%", "%"));
            path.map(|path| (PathBuf::from(path), optional))
        });
        named.collect()
    }

    /// Those of them that are there, in their order: a later one counts more, and each more than
    /// `Environment=`.
    pub(crate) fn environment_sources(&self, look: &mut Look<'_>) -> Vec<Arc<Source>> {
        let mut sources = Vec::new();
        for (pattern, _) in self.environment_files() {
            for path in look.matching(&pattern.to_string_lossy()) {
                sources.extend(look.read(path));
            }
        }
        sources
    }

    /// The variables that its process gets.
    fn variables(&self, look: &mut Look<'_>) -> BTreeMap<String, (Arc<Source>, Decoded)> {
        let mut variables = BTreeMap::new();
        for (source, setting) in self.all("Service", "Environment") {
            for word in setting.value.words() {
                if let Some((name, _)) = word.text().split_once('=') {
                    let value = word.decoded.after(name.len() + 1);
                    variables.insert(name.to_string(), (Arc::clone(source), value));
                }
            }
        }
        for source in self.environment_sources(look) {
            for one in EnvFile::read(&source).assignments {
                if !one.exported {
                    variables.insert(one.name, (Arc::clone(&source), one.value));
                }
            }
        }
        variables
    }

    /// The command that it starts, with variables put in as systemd does it (systemd.service(5),
    /// "Command lines"): `$NAME` alone is as many words as its value has, `${NAME}` is text.
    pub(crate) fn command(&self, look: &mut Look<'_>) -> Vec<Argument> {
        let Some((source, setting)) = self.all("Service", "ExecStart").into_iter().next_back()
        else {
            return Vec::new();
        };
        let variables = self.variables(look);
        let argument = |source: &Arc<Source>, word: &Word, text: String| Argument {
            text,
            origin: Origin::File(Arc::clone(source), word.range.clone()),
        };
        let mut arguments = Vec::new();
        for word in setting.value.words() {
            if let Some(name) = word.text().strip_prefix('$')
                && !name.starts_with(['{', '$'])
            {
                if let Some((source, value)) = variables.get(name) {
                    let words = value.words();
                    arguments.extend(
                        words
                            .iter()
                            .map(|word| argument(source, word, word.text().to_string())),
                    );
                }
                continue;
            }
            let mut text = word.text().to_string();
            for (name, (_, value)) in &variables {
                text = text.replace(&format!("${{{name}}}"), value.text());
            }
            arguments.push(argument(source, &word, text));
        }
        if let Some(first) = arguments.first_mut() {
            first.text = first
                .text
                .trim_start_matches(['@', '-', ':', '+', '!'])
                .to_string();
        }
        arguments
    }
}
