//! Who waits for the end of a command in a container, which only Docker's event stream tells.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

/// Commands that are waited for, by Docker's id.
#[derive(Debug, Default)]
pub(crate) struct Execs(Mutex<HashMap<String, oneshot::Sender<i32>>>);

impl Execs {
    /// The exit code of a command that is about to be started; an error when Docker's events are
    /// lost first.
    pub(crate) fn wait_for(&self, exec: &str) -> oneshot::Receiver<i32> {
        let (sender, receiver) = oneshot::channel();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(exec.to_owned(), sender);
        receiver
    }

    /// A command has ended.
    pub(crate) fn ended(&self, exec: &str, code: i32) {
        let waiter = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(exec);
        if let Some(waiter) = waiter {
            // Whoever asked may have gone.
            let _ = waiter.send(code);
        }
    }

    /// Docker's events are lost.
    pub(crate) fn abandon(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Nobody waits for this one any more.
    pub(crate) fn forget(&self, exec: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(exec);
    }
}
