//! The errors of the floors below, as the domain has them.

use std::io;
use std::path::Path;

use slipway_engine::{Error, Kind};
pub(crate) use slipway_resources::of_cgroup;
use slipway_shim::protocol::{Failure, FailureKind};

pub(crate) fn of_shim(error: &slipway_shim::Error) -> Error {
    let kind = match error {
        slipway_shim::Error::Failure(Failure { kind, .. }) => match kind {
            FailureKind::NotFound => Kind::NotFound,
            FailureKind::WrongState | FailureKind::Unsupported => Kind::FailedPrecondition,
            FailureKind::Invalid => Kind::InvalidArgument,
            FailureKind::System => Kind::Internal,
            FailureKind::NoSpace => Kind::ResourceExhausted,
        },
        _ => Kind::Internal,
    };
    Error::new(kind, error.to_string())
}

/// As [`of_shim`], of a container that was to have this writable layer: what its mount points took
/// no room for is said without saying where that is.
pub(crate) fn of_create(error: &slipway_shim::Error, writable: &Path) -> Error {
    let error = of_shim(error);
    match error.kind() {
        Kind::ResourceExhausted => {
            Error::exhausted(format!("{error}; {} has no room", writable.display()))
        }
        _ => error,
    }
}

pub(crate) fn of_network(error: &slipway_network::Error) -> Error {
    let kind = match error {
        slipway_network::Error::PodCidr { .. } => Kind::InvalidArgument,
        slipway_network::Error::Template { .. } => Kind::FailedPrecondition,
        slipway_network::Error::Cache { source, .. } => source.into(),
        _ => Kind::Internal,
    };
    Error::caused(kind, error)
}

pub(crate) fn of_image(error: &slipway_image::Error) -> Error {
    use slipway_image::Kind as Image;
    let kind = match error.kind() {
        Image::InvalidReference => Kind::InvalidArgument,
        Image::NotFound => Kind::NotFound,
        Image::Denied | Image::Blocked => Kind::PermissionDenied,
        Image::RateLimited | Image::NoSpace => Kind::ResourceExhausted,
        Image::Unavailable => Kind::Unavailable,
        Image::Corrupt => Kind::DataLoss,
        Image::Unsupported => Kind::FailedPrecondition,
        Image::Store => Kind::Internal,
    };
    Error::caused(kind, error)
}

/// A file or directory of Slipway's own that cannot be made.
pub(crate) fn of_io(path: &Path, error: &io::Error) -> Error {
    let message = format!("{} cannot be made: {error}", path.display());
    Error::new(error.into(), message)
}
