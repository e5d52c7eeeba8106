//! What calls Docker, or is set up for it, on a node that has none any more: somebody has removed it,
//! lately or long ago.

use super::Facts;
use super::look::Look;
use crate::Evidence;
use crate::rules::{self, Rule};

/// What runs by itself, and fails each time.
const FAILING: [&Rule; 3] = [
    &rules::CRON_CALLS_DOCKER,
    &rules::UNIT_CALLS_DOCKER,
    &rules::UNIT_NEEDS_DOCKER,
];

/// Whether what is found is left over, and from what.
#[derive(Debug, Clone, Copy)]
pub(super) enum LeftOver {
    /// Docker is on the node.
    Not,
    /// It is not.
    WithoutDocker,
    /// It is not, and a program of its name is: podman's, or the client of an engine elsewhere.
    BesideAnother,
}

impl LeftOver {
    /// As the node is.
    pub(super) fn of(look: &Look<'_>, facts: &Facts) -> Self {
        if facts.runtimes.docker.is_some() {
            Self::Not
        } else if look.has_program("docker") {
            Self::BesideAnother
        } else {
            Self::WithoutDocker
        }
    }

    /// Whether there is no Docker.
    pub(super) fn is_so(self) -> bool {
        !matches!(self, Self::Not)
    }

    /// Adds what `rule` found. Without Docker it is said that there is none, and it is worth no more than
    /// a note where nothing shows that it fails.
    pub(super) fn find(
        self,
        look: &mut Look<'_>,
        rule: &'static Rule,
        evidence: Vec<Evidence>,
        found: &str,
        todo: &str,
    ) {
        let (rule, found) = match self {
            Self::Not => (rule, found.to_string()),
            Self::WithoutDocker if FAILING.contains(&rule) => (
                rule,
                format!("{found}: it fails, Docker is not on this node"),
            ),
            Self::WithoutDocker => (
                &rules::DOCKER_LEFT_OVER,
                format!("{found}: Docker is not on this node"),
            ),
            Self::BesideAnother => (
                &rules::DOCKER_LEFT_OVER,
                format!(
                    "{found}: Docker is not on this node, and its program docker is another's or asks an engine elsewhere"
                ),
            ),
        };
        look.report.find(rule, evidence, found, todo);
    }
}
