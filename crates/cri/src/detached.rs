//! Calls that outlive their callers.

use std::future::Future;

use slipway_engine::{self as engine, Error};
use tonic::Status;
use tracing::Instrument as _;

use crate::status::status;

/// Runs an operation to its end even when the client hangs up before, so that what it leaves
/// behind never depends on who is listening.
pub(crate) async fn detached<T: Send + 'static>(
    operation: impl Future<Output = engine::Result<T>> + Send + 'static,
) -> Result<T, Status> {
    tokio::spawn(operation.in_current_span())
        .await
        .unwrap_or_else(|ended| Err(Error::internal(format!("the operation crashed: {ended}"))))
        .map_err(|error| status(&error))
}
