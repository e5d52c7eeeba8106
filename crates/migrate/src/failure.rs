//! Why a step could not be done.

use std::fmt;

use crate::secrets;

/// Why something could not be done to the node, or in the cluster.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Failure {
    what: String,
    why: String,
}

impl Failure {
    /// `what` was to be done; `why` it was not, and what to do. What programs say of it may have
    /// secrets, which are left out: failures are shown, and get into an annotation of the Node.
    pub fn new(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self {
            what: what.to_string(),
            why: secrets::hidden(&why.to_string()),
        }
    }
}
