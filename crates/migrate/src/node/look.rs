//! Looking at a node's files: what cannot be read, or is not what its format allows, goes into the
//! report by itself.

use std::fs::Metadata;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::{self, Format, Node, Source};
use crate::rules;
use crate::{Evidence, Report, Root};

/// Where something is said.
#[derive(Debug, Clone)]
pub enum Origin {
    /// In a file, with these bytes.
    File(Arc<Source>, Range<usize>),
    /// On the command line of a process.
    Process(Evidence),
}

impl Origin {
    /// As a finding names it.
    pub fn evidence(&self) -> Evidence {
        match self {
            Self::File(source, range) => Evidence::at(source, range.start),
            Self::Process(evidence) => evidence.clone(),
        }
    }
}

/// A value, and where it is said.
#[derive(Debug, Clone)]
pub struct Said {
    /// What is said.
    pub value: String,
    /// Where.
    pub origin: Origin,
}

/// A file of JSON, YAML or TOML.
#[derive(Debug, Clone)]
pub struct Tree {
    /// The file.
    pub source: Arc<Source>,
    /// Its first document; an empty one is an empty map.
    pub node: Node,
}

impl Tree {
    /// The text behind keys, and where it is.
    pub fn said(&self, keys: &[&str]) -> Option<Said> {
        let node = self.node.get(keys)?;
        Some(Said {
            value: node.text()?.to_string(),
            origin: self.origin(node),
        })
    }

    /// Where a value of it is.
    pub fn origin(&self, node: &Node) -> Origin {
        Origin::File(Arc::clone(&self.source), node.range.clone())
    }

    /// The evidence of a value of it.
    pub fn evidence(&self, node: &Node) -> Evidence {
        Evidence::at(&self.source, node.range.start)
    }
}

/// A look at a node, and the report that comes of it.
#[derive(Debug)]
pub(crate) struct Look<'a> {
    pub(crate) root: &'a Root,
    pub(crate) report: Report,
}

impl<'a> Look<'a> {
    pub(crate) fn new(root: &'a Root) -> Self {
        Self {
            root,
            report: Report::default(),
        }
    }

    /// A file, if it is there.
    pub(crate) fn read(&mut self, path: impl AsRef<Path>) -> Option<Arc<Source>> {
        let path = path.as_ref();
        match self.root.read(path) {
            Ok(source) => source.map(Arc::new),
            Err(error) => {
                self.miss_path(path, &error);
                None
            }
        }
    }

    /// What is at a path, links followed.
    pub(crate) fn metadata(&mut self, path: impl AsRef<Path>) -> Option<Metadata> {
        let path = path.as_ref();
        match self.root.stat(path) {
            Ok(metadata) => metadata,
            Err(error) => {
                self.miss_path(path, &error);
                None
            }
        }
    }

    /// The paths in a directory, in order; none if it is not there.
    pub(crate) fn list(&mut self, path: impl AsRef<Path>) -> Vec<PathBuf> {
        let path = path.as_ref();
        match self.root.list(path) {
            Ok(names) => names.into_iter().map(|name| path.join(name)).collect(),
            Err(error) => {
                self.miss_path(path, &error);
                Vec::new()
            }
        }
    }

    /// A file of JSON, YAML or TOML, if it is there and well formed.
    pub(crate) fn tree(&mut self, path: impl AsRef<Path>, format: Format) -> Option<Tree> {
        let source = self.read(path)?;
        match document::read(&source, format) {
            Ok(documents) => {
                let empty = Node {
                    range: 0..0,
                    value: document::Value::Map(Vec::new()),
                };
                let node = documents.into_iter().next().unwrap_or(empty);
                Some(Tree { source, node })
            }
            Err(error) => {
                self.report.find(
                    &rules::FILE_MALFORMED,
                    [Evidence::placed(source.path(), error.place)],
                    format!("{} cannot be read: {}", source.path().display(), error),
                    "Repair the file: whoever reads it at its next start stops there, and what it says was not looked at",
                );
                None
            }
        }
    }

    /// Whether a program is where programs of the node are.
    pub(crate) fn has_program(&self, name: &str) -> bool {
        [
            "/usr/bin",
            "/usr/sbin",
            "/usr/local/bin",
            "/usr/local/sbin",
            "/opt/bin",
        ]
        .iter()
        .any(|directory| self.root.has(format!("{directory}/{name}")))
    }

    fn miss_path(&mut self, path: &Path, error: &std::io::Error) {
        let todo = if error.kind() == std::io::ErrorKind::PermissionDenied {
            "run it as root"
        } else {
            "look at it by hand"
        };
        self.report.miss(path.display().to_string(), error, todo);
    }
}
