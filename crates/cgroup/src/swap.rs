//! What the limit of memory and swap together means.

use std::fs;
use std::sync::Once;

use crate::Error;

/// Refuses a limit of memory and swap together that is below the limit of memory. Negative numbers
/// are no limit.
pub(crate) fn check(limit: i64, both: i64) -> Result<(), Error> {
    if both < 0 || (0..=both).contains(&limit) {
        return Ok(());
    }
    let limit = if limit < 0 {
        "unlimited".to_owned()
    } else {
        format!("{limit} bytes")
    };
    Err(Error::Invalid {
        setting: format!("memory_swap_limit {both}"),
        problem: format!(
            "it limits memory and swap together, and cannot be below the limit of memory ({limit})"
        ),
    })
}

/// Whether the node swaps.
pub(crate) fn in_use() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1)
}

/// What becomes of a limit where the kernel does not account for swap. Without any swap each is
/// kept by itself. With some, one that allows none is let pass with one warning for the life of the
/// process, because a kubelet sends it for every container, and one that allows some is refused.
pub(crate) fn unaccounted(limit: Option<i64>, both: i64, in_use: bool) -> Result<(), Error> {
    static SAID: Once = Once::new();
    if both < 0 || !in_use {
        return Ok(());
    }
    if limit != Some(both) {
        return Err(Error::NoSwapAccounting(both));
    }
    SAID.call_once(|| {
        tracing::warn!(
            "the kernel does not account for swap, so containers that are allowed none may use it; \
             boot it with swapaccount=1, or switch swap off"
        );
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_cannot_be_kept_is_refused() {
        for (limit, both, in_use, ok) in [
            (Some(100), 200, false, true),
            (Some(100), 200, true, false),
            (Some(100), 100, true, true),
            (Some(100), -1, true, true),
            (None, 100, true, false),
        ] {
            let answer = unaccounted(limit, both, in_use);
            assert_eq!(answer.is_ok(), ok, "{limit:?} {both} {in_use}");
        }
    }

    #[test]
    fn both_are_not_less_than_one() {
        assert!(check(100, 100).is_ok() && check(100, -1).is_ok() && check(-1, -1).is_ok());
        assert!(check(100, 99).is_err() && check(-1, 100).is_err());
    }
}
