//! The node's files as they would be: each is read once, changed as often as need be, and compared
//! with what it was.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use similar::TextDiff;

use super::Error;
use crate::Root;
use crate::document::Source;
use crate::secrets;

/// Lines around a change that are shown.
const CONTEXT: usize = 3;

/// What becomes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// Where the node has it; links in it are followed, and stay.
    pub path: PathBuf,
    /// Its bytes; nothing where there is no such file.
    pub before: Option<Vec<u8>>,
    /// Its bytes afterwards.
    pub after: Vec<u8>,
}

impl FileChange {
    /// Whether it is one of systemd's units, which reads it only when it is told to.
    pub(crate) fn is_of_units(&self) -> bool {
        self.path.starts_with("/etc/systemd/system")
    }

    /// The difference, as diff(1) has it with `-u`, with a dot for each secret.
    pub fn diff(&self) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let before = self.before.as_deref().map(text);
        let path = self.path.display().to_string();
        difference(&path, before.as_deref(), &text(&self.after))
    }
}

/// The difference of two texts of that name, as diff(1) has it with `-u`, with a dot for each secret.
pub(crate) fn difference(name: &str, before: Option<&str>, after: &str) -> String {
    let from = before.map_or("/dev/null", |_| name);
    let difference = TextDiff::from_lines(before.unwrap_or_default(), after)
        .unified_diff()
        .context_radius(CONTEXT)
        .header(from, name)
        .to_string();
    secrets::hidden(&difference)
}

/// How a change is written down: with its difference for those who read, and with all bytes for
/// whoever makes the change, or takes it back.
#[derive(Serialize, Deserialize)]
struct Written<'a> {
    path: Cow<'a, Path>,
    before: Option<Bytes<'a>>,
    after: Bytes<'a>,
    #[serde(default)]
    diff: String,
}

/// A file's bytes: a string, where they are UTF-8.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Bytes<'a> {
    Text(Cow<'a, str>),
    Other(Cow<'a, [u8]>),
}

impl<'a> From<&'a [u8]> for Bytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(Cow::Borrowed(text)),
            Err(_) => Self::Other(Cow::Borrowed(bytes)),
        }
    }
}

impl From<Bytes<'_>> for Vec<u8> {
    fn from(bytes: Bytes<'_>) -> Self {
        match bytes {
            Bytes::Text(text) => text.into_owned().into_bytes(),
            Bytes::Other(bytes) => bytes.into_owned(),
        }
    }
}

impl Serialize for FileChange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = Written {
            path: Cow::Borrowed(&self.path),
            before: self.before.as_deref().map(Bytes::from),
            after: Bytes::from(self.after.as_slice()),
            diff: self.diff(),
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for FileChange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        Ok(Self {
            path: written.path.into_owned(),
            before: written.before.map(Vec::from),
            after: written.after.into(),
        })
    }
}

/// A file's bytes, where there is one.
#[derive(Debug, Clone)]
struct Known {
    before: Option<Vec<u8>>,
    now: Option<Vec<u8>>,
}

/// Files of a node, changed in memory alone.
#[derive(Debug)]
pub(super) struct Files<'a> {
    root: &'a Root,
    known: BTreeMap<PathBuf, Known>,
    /// In the order in which they were first changed.
    order: Vec<PathBuf>,
}

impl<'a> Files<'a> {
    pub(super) fn new(root: &'a Root) -> Self {
        Self {
            root,
            known: BTreeMap::new(),
            order: Vec::new(),
        }
    }

    /// Whether the node has a file.
    pub(super) fn has(&self, path: impl AsRef<Path>) -> bool {
        self.root.has(path)
    }

    /// A file as it would be by now.
    pub(super) fn read(&mut self, path: &Path) -> Result<Option<Source>, Error> {
        if let Some(known) = self.known.get(path) {
            let now = known.now.clone();
            return Ok(now.map(|bytes| Source::new(path, bytes)));
        }
        let unreadable = |source: io::Error| Error::Unreadable {
            path: path.to_path_buf(),
            source,
        };
        let source = self.root.read(path).map_err(unreadable)?;
        let bytes = source.as_ref().map(|source| source.bytes().to_vec());
        let known = Known {
            before: bytes.clone(),
            now: bytes,
        };
        self.known.insert(path.to_path_buf(), known);
        Ok(source)
    }

    /// Says what a file is to be.
    pub(super) fn write(&mut self, path: &Path, bytes: Vec<u8>) -> Result<(), Error> {
        self.read(path)?;
        if let Some(known) = self.known.get_mut(path) {
            known.now = Some(bytes);
        }
        if !self.order.iter().any(|known| known == path) {
            self.order.push(path.to_path_buf());
        }
        Ok(())
    }

    /// What was changed since this was last asked for, in order.
    pub(super) fn take(&mut self) -> Vec<FileChange> {
        let order = std::mem::take(&mut self.order);
        let changes = order.into_iter().filter_map(|path| {
            let known = self.known.get_mut(&path)?;
            let after = known.now.clone()?;
            let before = known.before.replace(after.clone());
            (before.as_ref() != Some(&after)).then_some(FileChange {
                path,
                before,
                after,
            })
        });
        changes.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_back_to_the_byte() {
        let text = |text: &str| text.as_bytes().to_vec();
        for (before, after) in [
            (None, text("a\n")),
            (Some(text("a\r\n")), text("")),
            (Some(vec![0xff, 0, b'\n']), vec![0xc3, 0x28]),
        ] {
            let change = FileChange {
                path: "/etc/x".into(),
                before,
                after,
            };
            let written = serde_json::to_string(&change).unwrap();
            let read: FileChange = serde_json::from_str(&written).unwrap();
            assert_eq!(read, change, "{written}");
        }
    }
}
