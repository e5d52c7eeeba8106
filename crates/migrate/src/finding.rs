//! What was found, where, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::document::{Place, Source};
use crate::rules::{self, Rule};
use crate::secrets;

/// How much a finding matters to whoever takes Docker away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something is lost or does not start any more, unless it is seen to first.
    Blocker,
    /// Something behaves in another way, or has to be carried over.
    Warning,
    /// Good to know; nothing has to be done.
    Note,
}

impl Severity {
    /// As it is written: `blocker`, `warning`, `note`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blocker => "blocker",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Where something was seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Evidence {
    /// A file; `line` and `column` count from 1, and are not there where the whole file is meant.
    File {
        /// As the node has it, without `--root`.
        path: PathBuf,
        /// Counts from 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        line: Option<usize>,
        /// In characters, from 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        column: Option<usize>,
    },
    /// A field of a Kubernetes object.
    Object {
        /// `Deployment`, `Node` …
        #[serde(rename = "type")]
        kind: String,
        /// Empty where it has none.
        #[serde(skip_serializing_if = "String::is_empty")]
        namespace: String,
        /// Its `metadata.name`.
        name: String,
        /// Path of the field, `spec.template.spec.volumes[0].hostPath.path`.
        field: String,
    },
    /// A process of the node.
    Process {
        /// As the node counts.
        pid: u32,
        /// Its command line, cut to what a person reads.
        command: String,
    },
    /// Something that a Docker Engine has.
    Docker {
        /// `container`, `image`, `volume`.
        #[serde(rename = "type")]
        kind: &'static str,
        /// The name that people know it by.
        name: String,
        /// Its ID, where that is not its name.
        #[serde(skip_serializing_if = "String::is_empty")]
        id: String,
    },
    /// What a command of the node printed.
    Output {
        /// The command line.
        command: String,
        /// The line of its output.
        text: String,
    },
}

impl Evidence {
    /// A file as a whole.
    pub fn file(path: impl AsRef<Path>) -> Self {
        Self::File {
            path: path.as_ref().to_path_buf(),
            line: None,
            column: None,
        }
    }

    /// The place of a byte of a file.
    pub fn at(source: &Source, offset: usize) -> Self {
        Self::placed(source.path(), source.place(offset))
    }

    /// A place in a file.
    pub fn placed(path: impl AsRef<Path>, place: Place) -> Self {
        Self::File {
            path: path.as_ref().to_path_buf(),
            line: Some(place.line),
            column: Some(place.column),
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File {
                path, line: None, ..
            } => write!(out, "{}", path.display()),
            Self::File {
                path,
                line: Some(line),
                ..
            } => write!(out, "{}:{line}", path.display()),
            Self::Object {
                kind,
                namespace,
                name,
                field,
            } => {
                let slash = if namespace.is_empty() { "" } else { "/" };
                let space = if name.is_empty() { "" } else { " " };
                write!(out, "{kind}{space}{namespace}{slash}{name} {field}")
            }
            Self::Process { pid, command } => write!(out, "process {pid} ({command})"),
            Self::Docker { kind, name, id } if id.is_empty() => write!(out, "{kind} {name}"),
            Self::Docker { kind, name, id } => {
                let short = id.strip_prefix("sha256:").unwrap_or(id);
                write!(out, "{kind} {name} ({})", short.get(..13).unwrap_or(short))
            }
            Self::Output { command, text } => write!(out, "{command}: {text}"),
        }
    }
}

/// Something that a rule found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The id of the rule; it stays what it is from version to version.
    pub rule: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What was found, in a sentence.
    pub found: String,
    /// Where; the most telling first, and never nothing.
    pub evidence: Vec<Evidence>,
    /// What to do about it.
    pub todo: String,
}

/// Something that could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Unseen {
    /// What it is: a file, a socket, an API.
    pub what: String,
    /// Why it could not be.
    pub why: String,
    /// How to have it looked at.
    pub todo: String,
}

/// What a report comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing stands in the way.
    Fine,
    /// Something has to be thought of.
    Warnings,
    /// Something has to be done first.
    Blockers,
    /// No blocker was found, but not all could be looked at.
    CouldNotLook,
}

impl Verdict {
    /// As the command ends: 0, 1 (warnings), 2 (blockers), 3 (could not look).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Warnings => 1,
            Self::Blockers => 2,
            Self::CouldNotLook => 3,
        }
    }
}

/// What a node of a cluster says that its pods run on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NodeRuntime {
    /// The node's name.
    pub name: String,
    /// `docker://20.10.8`, `containerd://1.7.2` …
    pub runtime: String,
    /// Its kubelet's version.
    pub kubelet: String,
}

impl NodeRuntime {
    /// Whether it is Docker, by dockershim or by cri-dockerd.
    pub fn is_docker(&self) -> bool {
        self.runtime.starts_with("docker://")
    }
}

/// All that was found, and all that could not be looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order of severity and rule once [`Report::sort`] was called.
    pub findings: Vec<Finding>,
    /// What is missing from it.
    pub unseen: Vec<Unseen>,
    /// The nodes, where a cluster was looked at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeRuntime>,
}

impl Report {
    /// Adds what `rule` found; what is a secret in it is not shown.
    pub fn find(
        &mut self,
        rule: &'static Rule,
        evidence: impl IntoIterator<Item = Evidence>,
        found: impl Into<String>,
        todo: impl Into<String>,
    ) {
        let finding = Finding {
            rule: rule.id,
            severity: rule.severity,
            found: secrets::hidden(&found.into()),
            evidence: evidence.into_iter().collect(),
            todo: todo.into(),
        };
        self.add(finding);
    }

    /// Adds a finding, if it is not there already.
    pub(crate) fn add(&mut self, finding: Finding) {
        debug_assert!(!finding.evidence.is_empty(), "{finding:?}");
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// Adds what could not be looked at.
    pub fn miss(
        &mut self,
        what: impl Into<String>,
        why: impl fmt::Display,
        todo: impl Into<String>,
    ) {
        let unseen = Unseen {
            what: what.into(),
            why: secrets::hidden(&why.to_string()),
            todo: todo.into(),
        };
        if !self.unseen.contains(&unseen) {
            self.unseen.push(unseen);
        }
    }

    /// Blockers first, then by rule and place: the same node gives the same report.
    pub fn sort(&mut self) {
        self.findings.sort_by(|a, b| {
            let key = |one: &Finding| (one.severity, one.rule);
            key(a)
                .cmp(&key(b))
                .then_with(|| a.evidence.cmp(&b.evidence))
        });
        self.unseen.sort();
    }

    /// What each rule has found, in the order of the findings.
    pub fn by_rule(&self) -> Vec<(&'static Rule, Vec<&Finding>)> {
        let mut groups: Vec<(&'static Rule, Vec<&Finding>)> = Vec::new();
        for finding in &self.findings {
            let known = groups.iter_mut().find(|(rule, _)| rule.id == finding.rule);
            if let Some((_, findings)) = known {
                findings.push(finding);
            } else if let Some(rule) = rules::ALL.iter().find(|rule| rule.id == finding.rule) {
                groups.push((rule, vec![finding]));
            }
        }
        groups
    }

    /// How many findings have this severity.
    pub fn count(&self, severity: Severity) -> usize {
        let of_it = |finding: &&Finding| finding.severity == severity;
        self.findings.iter().filter(of_it).count()
    }

    /// What it comes to: a blocker is one whatever else could not be seen, and what could not be
    /// seen outweighs a warning.
    pub fn verdict(&self) -> Verdict {
        if self.count(Severity::Blocker) > 0 {
            Verdict::Blockers
        } else if !self.unseen.is_empty() {
            Verdict::CouldNotLook
        } else if self.count(Severity::Warning) > 0 {
            Verdict::Warnings
        } else {
            Verdict::Fine
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_seen_is_never_fine() {
        let mut report = Report::default();
        assert_eq!(report.verdict(), Verdict::Fine);
        report.find(&rules::RUNTIME_CRI, [Evidence::file("/x")], "a", "b");
        assert_eq!(report.verdict(), Verdict::Fine);
        report.find(&rules::RUNTIME_DOCKERSHIM, [Evidence::file("/x")], "a", "b");
        assert_eq!(report.verdict(), Verdict::Warnings);
        report.miss("/y", "permission denied", "run it as root");
        assert_eq!(report.verdict(), Verdict::CouldNotLook);
        report.find(&rules::FILE_MALFORMED, [Evidence::file("/x")], "a", "b");
        assert_eq!(report.verdict(), Verdict::Blockers);
        report.sort();
        assert_eq!(report.findings[0].rule, rules::FILE_MALFORMED.id);
    }

    #[test]
    fn evidence_reads_as_editors_and_people_write_it() {
        let place = Place { line: 3, column: 7 };
        assert_eq!(Evidence::placed("/etc/x", place).to_string(), "/etc/x:3");
        let object = Evidence::Object {
            kind: "Pod".into(),
            namespace: "default".into(),
            name: "a".into(),
            field: "spec".into(),
        };
        assert_eq!(object.to_string(), "Pod default/a spec");
    }
}
