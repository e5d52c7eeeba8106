//! Saying why something was not done.

use std::fmt::Display;
use std::io;

use rustix::io::Errno;

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

/// Why something did not work.
pub(crate) trait Cause: Display {
    /// Whether there was no room for it, which is nobody's mistake and can change.
    fn is_no_space(&self) -> bool {
        false
    }
}

impl Cause for Errno {
    fn is_no_space(&self) -> bool {
        matches!(*self, Self::NOSPC | Self::DQUOT)
    }
}

impl Cause for io::Error {
    fn is_no_space(&self) -> bool {
        Errno::from_io_error(self).is_some_and(|error| error.is_no_space())
    }
}

impl Cause for std::ffi::NulError {}
impl Cause for serde_json::Error {}
impl Cause for postcard::Error {}

impl Cause for Failure {
    fn is_no_space(&self) -> bool {
        self.kind == FailureKind::NoSpace
    }
}

/// Puts what was being done before an error.
pub(crate) trait Explain<T> {
    /// The kernel refused.
    fn system<S: Display>(self, doing: impl FnOnce() -> S) -> Outcome<T>;
    /// The request cannot be honoured.
    fn invalid<S: Display>(self, doing: impl FnOnce() -> S) -> Outcome<T>;
}

impl<T, E: Cause> Explain<T> for Result<T, E> {
    fn system<S: Display>(self, doing: impl FnOnce() -> S) -> Outcome<T> {
        self.map_err(|error| failure(FailureKind::System, &doing(), &error))
    }

    fn invalid<S: Display>(self, doing: impl FnOnce() -> S) -> Outcome<T> {
        self.map_err(|error| failure(FailureKind::Invalid, &doing(), &error))
    }
}

fn failure(kind: FailureKind, doing: &impl Display, error: &impl Cause) -> Failure {
    Failure {
        kind: if error.is_no_space() {
            FailureKind::NoSpace
        } else {
            kind
        },
        message: format!("{doing}: {error}"),
    }
}
