//! Waiting for something that another process does, with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition in another process is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// Looks every few milliseconds until `check` returns true, for at most `limit`. The last look begins
/// when the time is over, however long one takes.
///
/// # Errors
/// When the time is over; `what` then says what was waited for.
pub async fn eventually(
    what: &str,
    limit: Duration,
    mut check: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let is_last = Instant::now() > deadline;
        if check().await? {
            return Ok(());
        }
        if is_last {
            bail!("waited {limit:?} for {what}, in vain");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The blocking form of [`eventually`], for destructors; true if it came to pass.
pub fn within(limit: Duration, mut check: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let is_last = Instant::now() > deadline;
        if check() {
            return true;
        }
        if is_last {
            return false;
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As long as a look at a busy machine may take.
    const LIMIT: Duration = Duration::from_millis(10);

    #[test]
    fn a_slow_look_is_not_the_last_one() {
        let mut looks = 0;
        let came = within(LIMIT, || {
            looks += 1;
            std::thread::sleep(2 * LIMIT);
            looks == 2
        });
        assert!(came);
        assert!(!within(LIMIT, || false));
    }

    #[tokio::test]
    async fn a_slow_look_that_is_awaited_is_not_the_last_one() {
        let mut looks = 0;
        let slow = async || {
            looks += 1;
            tokio::time::sleep(2 * LIMIT).await;
            Ok(looks == 2)
        };
        eventually("the second look", LIMIT, slow).await.unwrap();
        let error = eventually("a miracle", LIMIT, async || Ok(false)).await;
        assert!(error.unwrap_err().to_string().contains("a miracle"));
    }
}
