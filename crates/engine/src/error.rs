//! What can go wrong with a request, in the kinds that callers act on.

use std::io;

/// The result of an engine's operation.
pub type Result<T> = std::result::Result<T, Error>;

/// A request that was not carried out. The message is for the person who reads the kubelet's log:
/// what was asked, what was found, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
}

/// Kinds of [`Error`]: each is one gRPC status code that a kubelet tells from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There is no such pod, container or image.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The request can never be honoured as it stands.
    InvalidArgument,
    /// The request does not fit the state that the pod or container is in.
    FailedPrecondition,
    /// Disk, memory or a limit is used up.
    ResourceExhausted,
    /// A time limit that the request or the configuration sets has passed.
    DeadlineExceeded,
    /// A registry refused the credentials.
    PermissionDenied,
    /// A registry or another service is out of reach; trying again later can help.
    Unavailable,
    /// It is a part of CRI that this engine does not have.
    Unimplemented,
    /// Data is damaged: a digest that does not match, a record that cannot be read.
    DataLoss,
    /// The kernel, a plugin or the engine itself failed.
    Internal,
}

impl Error {
    /// An error of a kind, with its message.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// An error of a kind, with that of a floor below and its causes in one line, which says nothing
    /// twice.
    pub fn caused(kind: Kind, error: &dyn std::error::Error) -> Self {
        Self::new(kind, with_causes(error))
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The same error with what was being done when it happened in front.
    #[must_use]
    pub fn context(self, doing: impl std::fmt::Display) -> Self {
        Self {
            kind: self.kind,
            message: format!("{doing}: {}", self.message),
        }
    }
}

/// An error with what caused it, in one line, without saying anything twice.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

impl From<&io::Error> for Kind {
    /// What is not to be had for want of room can be had later.
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::ResourceExhausted,
            _ => Self::Internal,
        }
    }
}

macro_rules! constructors {
    ($($name:ident => $kind:ident),* $(,)?) => {
        impl Error {
            $(
                #[doc = concat!("An error of kind [`Kind::", stringify!($kind), "`].")]
                pub fn $name(message: impl Into<String>) -> Self {
                    Self::new(Kind::$kind, message)
                }
            )*
        }
    };
}

constructors! {
    not_found => NotFound,
    already_exists => AlreadyExists,
    invalid => InvalidArgument,
    precondition => FailedPrecondition,
    exhausted => ResourceExhausted,
    deadline => DeadlineExceeded,
    unimplemented => Unimplemented,
    data_loss => DataLoss,
    internal => Internal,
}
