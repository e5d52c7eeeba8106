//! What can go wrong with an image, in the classes that a caller treats differently.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// The class of an [`Error`]: what a caller can do about it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// The name of an image does not follow the grammar, or stands for several images.
    InvalidReference,
    /// The registry does not have it, or no such image is stored here.
    NotFound,
    /// The registry refused the credentials, or asks for some (401, 403).
    Denied,
    /// The registry asks for fewer requests (429).
    RateLimited,
    /// The registry could not be reached, broke off, or failed (5xx).
    Unavailable,
    /// What arrived is not what was announced: a digest, a size, a diff id, a malformed document
    /// or archive.
    Corrupt,
    /// A file system is full or a quota is used up; what had been written is removed.
    NoSpace,
    /// registries.conf forbids the registry.
    Blocked,
    /// A media type, a platform or a kind of archive entry that cannot be run here.
    Unsupported,
    /// This node's own side: the directory of the store, its metadata, or registries.conf.
    Store,
}

/// An error of this crate. It can be cloned, so that all who wait for one download are told.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The reference does not follow the grammar or is ambiguous.
    #[error("invalid image reference {reference:?}: {reason}")]
    InvalidReference {
        /// The reference as given.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No image of that name or id is stored.
    #[error("image {name:?} is not stored on this node; pull it first")]
    UnknownImage {
        /// The name or id as given.
        name: String,
    },
    /// No layer of that chain id is stored.
    #[error("layer {chain_id} is not in the image store; pull its image again")]
    UnknownLayer {
        /// The chain id as given.
        chain_id: String,
    },
    /// A registry or what it delivered.
    #[error("registry {registry}, repository {repository}: {cause}")]
    Registry {
        /// The class.
        kind: Kind,
        /// Host and port of the registry.
        registry: String,
        /// The repository at the registry.
        repository: String,
        /// What happened.
        cause: String,
    },
    /// An archive that an image was to be taken from.
    #[error("the archive of image {image}: {cause}")]
    Archive {
        /// The class.
        kind: Kind,
        /// The image's id.
        image: String,
        /// What happened.
        cause: String,
    },
    /// A registry that registries.conf blocks.
    #[error("image {reference}: registry {prefix} is blocked in {}", path.display())]
    Blocked {
        /// The reference that was asked for.
        reference: String,
        /// The prefix of the entry that blocks it.
        prefix: String,
        /// The file with that entry.
        path: PathBuf,
    },
    /// A configuration file that cannot be read or is wrong.
    #[error("{}{}: {reason}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1, where there is one.
        line: Option<usize>,
        /// What is wrong.
        reason: String,
    },
    /// The image store on disk.
    #[error("image store {}: {cause}", path.display())]
    Store {
        /// [`Kind::Store`] or [`Kind::NoSpace`].
        kind: Kind,
        /// The file or directory.
        path: PathBuf,
        /// What happened.
        cause: String,
    },
}

impl Error {
    /// The class of this error.
    pub fn kind(&self) -> Kind {
        match self {
            Self::InvalidReference { .. } => Kind::InvalidReference,
            Self::UnknownImage { .. } | Self::UnknownLayer { .. } => Kind::NotFound,
            Self::Registry { kind, .. } | Self::Archive { kind, .. } | Self::Store { kind, .. } => {
                *kind
            }
            Self::Blocked { .. } => Kind::Blocked,
            Self::Configuration { .. } => Kind::Store,
        }
    }

    pub(crate) fn store(path: &Path, asked: &str, error: &io::Error) -> Self {
        Self::Store {
            kind: if is_no_space(error) {
                Kind::NoSpace
            } else {
                Kind::Store
            },
            path: path.to_owned(),
            cause: format!("{asked}: {error}"),
        }
    }
}

/// Whether the error says that a file system or a quota is full.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The error with everything that led to it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// As [`chain`], for errors of the HTTP client: without the address, which may hold a signature.
pub(crate) fn http_cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    error.source().map_or_else(|| error.to_string(), chain)
}
