//! Looking at a node's files: what cannot be read, or is not what its format allows, goes into the
//! report by itself.

use std::fmt::Display;
use std::fs::Metadata;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::{self, Format, Node, Place, Source};
use crate::rules;
use crate::{Evidence, Report, Root, Unseen};

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
    /// Of what the report has not seen: what is there and could not be read, by its path.
    pub(crate) unread: Vec<Unseen>,
}

impl<'a> Look<'a> {
    pub(crate) fn new(root: &'a Root) -> Self {
        Self {
            root,
            report: Report::default(),
            unread: Vec::new(),
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

    /// Whether a directory can be listed; one that is not there is empty.
    pub(crate) fn can_list(&mut self, path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        let listed = self.root.list(path);
        if let Err(error) = &listed {
            self.miss_path(path, error);
        }
        listed.is_ok()
    }

    /// The text that a file begins with, if it is there.
    pub(crate) fn text(&mut self, path: impl AsRef<Path>) -> Option<Arc<Source>> {
        let path = path.as_ref();
        match self.root.text(path) {
            Ok(source) => source.map(Arc::new),
            Err(error) => {
                self.miss_path(path, &error);
                None
            }
        }
    }

    /// Whether a file says that an interpreter runs it.
    pub(crate) fn names_interpreter(&mut self, path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        self.root.names_interpreter(path).unwrap_or_else(|error| {
            self.miss_path(path, &error);
            false
        })
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

    /// The files that a pattern means, of which only the last part has an asterisk.
    pub(crate) fn matching(&mut self, pattern: &str) -> Vec<PathBuf> {
        let Some((before, after)) = pattern.split_once('*') else {
            return vec![pattern.into()];
        };
        let (directory, prefix) = before.rsplit_once('/').unwrap_or((".", before));
        let mut paths = self.list(directory);
        paths.retain(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| {
                name.len() >= prefix.len() + after.len()
                    && name.starts_with(prefix)
                    && name.ends_with(after)
            })
        });
        paths
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
                self.malformed(&source, error.place, error);
                None
            }
        }
    }

    /// A file whose reader stops at a place of it.
    pub(super) fn malformed(&mut self, source: &Source, place: Place, problem: impl Display) {
        self.report.find(
            &rules::FILE_MALFORMED,
            [Evidence::placed(source.path(), place)],
            format!("{} cannot be read: {problem}", source.path().display()),
            "Repair the file: whoever reads it at its next start stops there, and what it says was not looked at",
        );
    }

    /// Whether a program is where programs of the node are.
    pub(crate) fn has_program(&self, name: &str) -> bool {
        self.program(name).is_some()
    }

    /// Where a program is.
    pub(crate) fn program(&self, name: &str) -> Option<String> {
        [
            "/usr/bin",
            "/usr/sbin",
            "/usr/local/bin",
            "/usr/local/sbin",
            "/opt/bin",
        ]
        .iter()
        .map(|directory| format!("{directory}/{name}"))
        .find(|path| self.root.has(path))
    }

    fn miss_path(&mut self, path: &Path, error: &std::io::Error) {
        let todo = if error.kind() == std::io::ErrorKind::PermissionDenied {
            "run it as root"
        } else {
            "look at it by hand"
        };
        self.unreadable(&path.display().to_string(), error, todo);
    }

    /// What is there and cannot be read.
    pub(super) fn unreadable(&mut self, what: &str, why: impl Display, todo: &str) {
        let unread = Unseen {
            what: what.to_string(),
            why: why.to_string(),
            todo: todo.to_string(),
        };
        self.report.miss(what, &unread.why, todo);
        if !self.unread.contains(&unread) {
            self.unread.push(unread);
        }
    }
}
