//! Saying why something was not done.

use std::fmt::Display;

use crate::protocol::{Failure, FailureKind};

/// What a request comes to.
pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::NotFound,
            message: message.into(),
        }
    }

    pub(crate) fn wrong_state(message: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::WrongState,
            message: message.into(),
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Invalid,
            message: message.into(),
        }
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::Unsupported,
            message: message.into(),
        }
    }

    pub(crate) fn system(message: impl Into<String>) -> Self {
        Self {
            kind: FailureKind::System,
            message: message.into(),
        }
    }
}

/// Puts what was being done before an error.
pub(crate) trait Explain<T> {
    /// The kernel refused.
    fn system<S: Display>(self, doing: impl FnOnce() -> S) -> Outcome<T>;
    /// The request cannot be honoured.
    fn invalid<S: Display>(self, doing: impl FnOnce() -> S) -> Outcome<T>;
}

impl<T, E: Display> Explain<T> for Result<T, E> {
    fn system<S: Display>(self, doing: impl FnOnce() -> S) -> Outcome<T> {
        self.map_err(|error| Failure::system(format!("{}: {error}", doing())))
    }

    fn invalid<S: Display>(self, doing: impl FnOnce() -> S) -> Outcome<T> {
        self.map_err(|error| Failure::invalid(format!("{}: {error}", doing())))
    }
}
