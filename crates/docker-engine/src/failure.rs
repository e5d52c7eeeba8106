//! The errors of Docker and of the floors below, as the domain has them.

use bollard::errors::Error as Docker;
use slipway_engine::{Error, Kind, with_causes};

/// How runc says that it cannot give what it has not got.
const NO_CAPABILITY: &str = "unable to apply caps";

/// How Docker says that an image is not for this machine.
const NO_PLATFORM: &str = "no matching manifest";

/// How Docker before version 23 refuses to measure images while it does so for somebody else.
const MEASURING: &str = "disk usage operation is already running";

/// An error of a request to dockerd at `endpoint`, which was to do `what`.
pub(crate) fn of_docker(what: &str, endpoint: &str, error: &Docker) -> Error {
    match error {
        Docker::DockerResponseServerError {
            status_code,
            message,
        } => {
            let kind = match status_code {
                // A later Docker goes on to say that nothing was found.
                _ if message.contains(NO_PLATFORM) => Kind::FailedPrecondition,
                400 => Kind::InvalidArgument,
                401 | 403 => Kind::PermissionDenied,
                404 => Kind::NotFound,
                409 => Kind::FailedPrecondition,
                503 => Kind::Unavailable,
                _ => of_words(message),
            };
            let hint = if message.contains(NO_CAPABILITY) {
                "; dockerd was started without a capability that the container is to have"
            } else {
                ""
            };
            let message = message.trim();
            Error::new(kind, format!("{what}: Docker answers: {message}{hint}"))
        }
        Docker::DockerStreamError { error } => {
            Error::new(of_words(error), format!("{what}: Docker says: {error}"))
        }
        Docker::RequestTimeoutError => late(what, endpoint),
        Docker::HyperResponseError { .. }
        | Docker::HyperLegacyError { .. }
        | Docker::SocketNotFoundError(_)
        | Docker::IOError { .. } => Error::new(
            Kind::Unavailable,
            format!(
                "{what}: dockerd cannot be reached at {endpoint}: {}; see to it that it runs",
                with_causes(error)
            ),
        ),
        other => Error::internal(format!(
            "{what}: what dockerd answers cannot be read: {}",
            with_causes(other)
        )),
    }
}

/// dockerd has not answered in time.
pub(crate) fn late(what: &str, endpoint: &str) -> Error {
    Error::deadline(format!(
        "{what}: dockerd at {endpoint} has not answered in time; see whether it hangs (its log, \
         the disk), or give it more with engine.docker.request_timeout"
    ))
}

/// What Docker tells only in words.
fn of_words(message: &str) -> Kind {
    let message = message.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if has(&[NO_PLATFORM]) {
        Kind::FailedPrecondition
    } else if has(&["no space left on device", "toomanyrequests"]) {
        Kind::ResourceExhausted
    } else if has(&[
        "unauthorized",
        "access denied",
        "no basic auth credentials",
        "access to the resource is denied",
        "authentication required",
    ]) {
        Kind::PermissionDenied
    } else if has(&["manifest unknown", "not found"]) {
        Kind::NotFound
    } else if has(&[
        // What dockerd or its node has not got.
        NO_CAPABILITY,
        "max depth exceeded",
        "is not a shared mount",
        "is not a shared or slave mount",
    ]) {
        Kind::FailedPrecondition
    } else if has(&["connection refused", "no such host", "i/o timeout"]) {
        Kind::Unavailable
    } else {
        Kind::Internal
    }
}

/// Whether Docker does not have what was asked for.
pub(crate) fn is_missing(error: &Docker) -> bool {
    matches!(
        error,
        Docker::DockerResponseServerError {
            status_code: 404,
            ..
        }
    )
}

/// Whether what was asked for does not fit the state that it is in, or its name is taken.
pub(crate) fn is_conflict(error: &Docker) -> bool {
    matches!(
        error,
        Docker::DockerResponseServerError {
            status_code: 409,
            ..
        }
    )
}

/// Whether Docker refuses to measure images because it does so already.
pub(crate) fn is_measuring(error: &Error) -> bool {
    error.kind() == Kind::Internal && error.to_string().contains(MEASURING)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status_code: u16, message: &str) -> Kind {
        let error = Docker::DockerResponseServerError {
            status_code,
            message: message.to_owned(),
        };
        of_docker("pull image a", "unix:///d.sock", &error).kind()
    }

    #[test]
    fn what_docker_says_becomes_what_a_kubelet_acts_on() {
        assert_eq!(kind(404, "No such container: a"), Kind::NotFound);
        assert_eq!(kind(409, "Conflict"), Kind::FailedPrecondition);
        assert_eq!(
            kind(500, "write /x: no space left on device"),
            Kind::ResourceExhausted
        );
        assert_eq!(kind(500, "manifest unknown"), Kind::NotFound);
        for said in [
            "no matching manifest for linux/amd64 in the manifest list entries",
            "no matching manifest for linux/amd64/v4: no match for platform in manifest: not found",
        ] {
            assert_eq!(kind(404, said), Kind::FailedPrecondition);
            let told = Docker::DockerStreamError {
                error: said.to_owned(),
            };
            let told = of_docker("pull image a", "unix:///d.sock", &told);
            assert_eq!(told.kind(), Kind::FailedPrecondition);
        }
        assert_eq!(
            kind(500, "unauthorized: authentication required"),
            Kind::PermissionDenied
        );
        assert_eq!(kind(500, "dial tcp: connection refused"), Kind::Unavailable);
        assert_eq!(
            kind(500, "unable to apply caps: operation not permitted"),
            Kind::FailedPrecondition
        );
        assert_eq!(kind(500, "whatever"), Kind::Internal);
        let late = of_docker("list", "unix:///d.sock", &Docker::RequestTimeoutError);
        assert_eq!(late.kind(), Kind::DeadlineExceeded);
        assert!(late.to_string().contains("unix:///d.sock"), "{late}");
    }
}
