//! The errors of the floors below, as the domain has them.

use std::io::ErrorKind;

use slipway_engine::{Error, Kind};
use slipway_shim::protocol::{Failure, FailureKind};

pub(crate) fn of_shim(error: &slipway_shim::Error) -> Error {
    let kind = match error {
        slipway_shim::Error::Failure(Failure { kind, .. }) => match kind {
            FailureKind::NotFound => Kind::NotFound,
            FailureKind::WrongState | FailureKind::Unsupported => Kind::FailedPrecondition,
            FailureKind::Invalid => Kind::InvalidArgument,
            FailureKind::System => Kind::Internal,
        },
        _ => Kind::Internal,
    };
    Error::new(kind, error.to_string())
}

pub(crate) fn of_network(error: &slipway_network::Error) -> Error {
    let kind = match error {
        slipway_network::Error::PodCidr { .. } => Kind::InvalidArgument,
        slipway_network::Error::Template { .. } => Kind::FailedPrecondition,
        _ => Kind::Internal,
    };
    Error::new(kind, with_causes(error))
}

pub(crate) fn of_cgroup(error: &slipway_cgroup::Error) -> Error {
    use slipway_cgroup::Error as Cgroup;
    let kind = match error {
        Cgroup::Path(_) | Cgroup::Invalid { .. } => Kind::InvalidArgument,
        Cgroup::MissingController { .. }
        | Cgroup::MemoryInUse { .. }
        | Cgroup::NoSwapAccounting(_) => Kind::FailedPrecondition,
        Cgroup::Write { source, .. } => match source.kind() {
            ErrorKind::InvalidInput => Kind::InvalidArgument,
            // What the node's files, what is above or what is in use do not allow.
            ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::ResourceBusy => {
                Kind::FailedPrecondition
            }
            _ => Kind::Internal,
        },
        _ => Kind::Internal,
    };
    Error::new(kind, with_causes(error))
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
    Error::new(kind, with_causes(error))
}

/// An error with what caused it, in one line, without saying anything twice.
fn with_causes(error: &dyn std::error::Error) -> String {
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
