//! Waiting for something that another process does, with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition in another process is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// Looks every few milliseconds until `check` returns true, for at most `limit`.
///
/// # Errors
/// When the time is over; `what` then says what was waited for.
pub async fn eventually(
    what: &str,
    limit: Duration,
    mut check: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !check().await? {
        if Instant::now() > deadline {
            bail!("waited {limit:?} for {what}, in vain");
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// The blocking form of [`eventually`], for destructors; true if it came to pass.
pub fn within(limit: Duration, mut check: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if check() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
}
