//! Work that waits for disks and processes, kept off the threads that answer calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Error, Result};

/// Fewer things than this are looked at faster than another thread begins.
const FEW: usize = 32;

/// How many things a thread takes at a time: one that is held up leaves the rest to the others.
const AT_A_TIME: usize = 8;

/// Runs `work` on a thread of its own and waits for it; it goes on when nobody waits any more. Work
/// that panics is an internal error.
pub async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|ended| Err(Error::internal(format!("the operation crashed: {ended}"))))
}

/// Looks at many things, on as many threads as there are processors. The answers are in their order.
pub async fn each<T: Send + Sync + 'static, S: Send + 'static>(
    all: Vec<Arc<T>>,
    look: impl Fn(&T) -> S + Send + Sync + 'static,
) -> Result<Vec<S>> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = processors.min(all.len().div_ceil(FEW));
    let work = Arc::new((all, look, AtomicUsize::new(0)));
    let threads: Vec<_> = (0..threads)
        .map(|_| {
            let work = Arc::clone(&work);
            tokio::spawn(run(move || Ok(look_at_some(&work))))
        })
        .collect();
    let mut parts = Vec::new();
    for thread in threads {
        let ended = thread.await;
        let looked =
            ended.map_err(|ended| Error::internal(format!("the operation crashed: {ended}")))??;
        parts.extend(looked);
    }
    parts.sort_unstable_by_key(|(begin, _)| *begin);
    Ok(parts.into_iter().flat_map(|(_, answers)| answers).collect())
}

/// Takes some after some, until others have taken the rest; the answers by where they begin.
fn look_at_some<T, S>(work: &(Vec<Arc<T>>, impl Fn(&T) -> S, AtomicUsize)) -> Vec<(usize, Vec<S>)> {
    let (all, look, taken) = work;
    let begins = std::iter::from_fn(|| Some(taken.fetch_add(AT_A_TIME, Ordering::Relaxed)));
    begins
        .map_while(|begin| {
            let some = all.get(begin..)?.iter().take(AT_A_TIME);
            Some((begin, some.map(|one| look(one)).collect()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_are_in_the_order_of_what_was_asked() {
        for length in [0, 1, AT_A_TIME, FEW, 10 * FEW + 1] {
            let all: Vec<_> = (0..length).map(Arc::new).collect();
            let answers = each(all, |number| number + 1).await.unwrap();
            assert_eq!(answers, (1..=length).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn what_crashes_is_an_error() {
        let error = each(vec![Arc::new(1)], |_| -> i32 { panic!("of no use") }).await;
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("crashed") && text.contains("of no use"),
            "{text}"
        );
    }
}
