//! Why a step could not be done.

use std::fmt;

/// Why something could not be done to the node, or in the cluster.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Failure {
    what: String,
    why: String,
}

impl Failure {
    /// `what` was to be done; `why` it was not, and what to do.
    pub fn new(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self {
            what: what.to_string(),
            why: why.to_string(),
        }
    }
}
