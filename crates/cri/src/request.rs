//! What every request must carry before an engine sees it.

use tonic::Status;

/// A message field that CRI requires.
pub(crate) fn required<T>(field: Option<T>, name: &str) -> Result<T, Status> {
    field.ok_or_else(|| Status::invalid_argument(format!("{name} is missing from the request")))
}
