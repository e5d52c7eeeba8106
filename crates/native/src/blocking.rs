//! Work that waits for disks and processes, kept off the threads that answer calls.

use slipway_engine::{Error, Result};

/// Runs `work` on a thread of its own and waits for it; it goes on when nobody waits any more.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|ended| Err(Error::internal(format!("the operation crashed: {ended}"))))
}
