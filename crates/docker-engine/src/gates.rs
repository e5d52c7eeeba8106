//! Locks by id, each of which is there for as long as somebody uses it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// One lock for each id.
#[derive(Debug, Default)]
pub(crate) struct Gates(Mutex<HashMap<String, Weak<RwLock<()>>>>);

impl Gates {
    /// Together with others of its kind.
    pub(crate) async fn shared(&self, id: &str) -> OwnedRwLockReadGuard<()> {
        self.of(id).read_owned().await
    }

    /// Alone.
    pub(crate) async fn alone(&self, id: &str) -> OwnedRwLockWriteGuard<()> {
        self.of(id).write_owned().await
    }

    fn of(&self, id: &str) -> Arc<RwLock<()>> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = gates.get(id).and_then(Weak::upgrade) {
            return gate;
        }
        gates.retain(|_, gate| gate.strong_count() > 0);
        let gate = Arc::new(RwLock::new(()));
        gates.insert(id.to_owned(), Arc::downgrade(&gate));
        gate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_id_is_locked_and_another_is_not_and_nothing_is_kept() {
        let gates = Gates::default();
        let one = gates.alone("a").await;
        let _other = gates.alone("b").await;
        assert!(gates.of("a").try_read().is_err());
        drop(one);
        assert!(gates.of("a").try_write().is_ok());
        let _third = gates.shared("c").await;
        let left = gates.0.lock().unwrap();
        assert!(!left.contains_key("a"), "{left:?}");
    }
}
