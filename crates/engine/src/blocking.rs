//! Work that waits for disks and processes, kept off the threads that answer calls.

use std::sync::Arc;

use crate::{Error, Result};

/// Fewer things than this are looked at faster than another thread begins.
const SHARE: usize = 32;

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
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = all.len().div_ceil(threads).max(SHARE);
    let look = Arc::new(look);
    let shares: Vec<_> = all
        .chunks(share)
        .map(|share| {
            let (look, share) = (Arc::clone(&look), share.to_vec());
            tokio::spawn(run(move || {
                Ok(share.iter().map(|one| look(one)).collect::<Vec<_>>())
            }))
        })
        .collect();
    let mut answers = Vec::with_capacity(all.len());
    for share in shares {
        let share = share
            .await
            .map_err(|ended| Error::internal(format!("the operation crashed: {ended}")))?;
        answers.extend(share?);
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_are_in_the_order_of_what_was_asked() {
        for length in [0, 1, SHARE, 10 * SHARE + 1] {
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
