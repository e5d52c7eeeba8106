//! Something that several need, that is tried once for all who ask meanwhile.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use slipway_engine::Result;

/// The attempt that is under way, if one is. It ends early when nobody waits for it any more.
#[derive(Default)]
pub(crate) struct Attempt(Mutex<Option<WeakShared<BoxFuture<'static, Result<()>>>>>);

impl Attempt {
    /// The outcome of the attempt that is under way, or of this one.
    pub(crate) fn join(
        &self,
        begin: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Shared<BoxFuture<'static, Result<()>>> {
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = under_way.as_ref().and_then(WeakShared::upgrade);
        // One that has ended tells what was, as long as somebody has not looked at it.
        if let Some(attempt) = found.filter(|attempt| attempt.peek().is_none()) {
            return attempt;
        }
        let attempt = begin.boxed().shared();
        *under_way = attempt.downgrade();
        attempt
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Attempt").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use slipway_engine::Error;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn whoever_asks_meanwhile_has_the_same_outcome_and_whoever_asks_later_another() {
        let (attempt, begun) = (Attempt::default(), Arc::new(AtomicUsize::new(0)));
        let gate = Arc::new(Semaphore::new(0));
        let join = || {
            let (begun, gate) = (Arc::clone(&begun), Arc::clone(&gate));
            attempt.join(async move {
                begun.fetch_add(1, Ordering::Relaxed);
                gate.acquire().await.unwrap().forget();
                Err(Error::invalid("nothing comes of it"))
            })
        };
        let (first, second) = (join(), join());
        gate.add_permits(1);
        let (first, second) = tokio::join!(first, second);
        assert!(first.is_err() && second.is_err());
        assert_eq!(begun.load(Ordering::Relaxed), 1);

        // One that nobody waits for any more is none.
        drop(join());
        gate.add_permits(1);
        let kept = join();
        kept.clone().await.unwrap_err();
        assert_eq!(begun.load(Ordering::Relaxed), 2);
        gate.add_permits(1);
        join().await.unwrap_err();
        assert_eq!(begun.load(Ordering::Relaxed), 3);
        drop(kept);
    }
}
