//! How far a pull is, for those who watch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The layers of an image that is being pulled, lowest first; empty until its manifest is known.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PullProgress {
    /// One entry a layer.
    pub layers: Vec<LayerProgress>,
}

/// One layer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LayerProgress {
    /// Digest of the compressed blob.
    pub digest: String,
    /// Size of the compressed blob in bytes.
    pub total: u64,
    /// Bytes of the blob that arrived.
    pub done: u64,
    /// What is happening to it.
    pub state: LayerState,
}

/// What is happening to a layer. It is unpacked while it arrives.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LayerState {
    /// For a free download.
    #[default]
    Waiting,
    /// Bytes arrive and are unpacked.
    Downloading,
    /// All bytes arrived; the rest is unpacked, or the layers below are waited for.
    Unpacking,
    /// It was fetched and is complete.
    Done,
    /// It was there before.
    Present,
}

/// How far one download is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Step {
    pub(crate) done: u64,
    pub(crate) state: LayerState,
}

/// The pulls that are under way or waited for, by resolved reference.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<Entries>);

type Entries = HashMap<String, Arc<watch::Sender<PullProgress>>>;

/// Where one pull reports. When it is dropped, its watchers see the end.
pub(crate) struct Report<'a> {
    board: &'a Board,
    reference: String,
    sender: Arc<watch::Sender<PullProgress>>,
}

impl Board {
    pub(crate) fn watch(&self, reference: &str) -> watch::Receiver<PullProgress> {
        Self::entry(&mut self.lock(), reference).subscribe()
    }

    /// Begins the report of a pull, also for those who watch already.
    pub(crate) fn start(&self, reference: String) -> Report<'_> {
        let sender = Arc::clone(Self::entry(&mut self.lock(), &reference));
        Report {
            board: self,
            reference,
            sender,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry<'a>(
        entries: &'a mut Entries,
        reference: &str,
    ) -> &'a Arc<watch::Sender<PullProgress>> {
        // Forget those who waited for a pull that never came.
        entries.retain(|_, entry| Arc::strong_count(entry) > 1 || entry.receiver_count() > 0);
        entries.entry(reference.to_owned()).or_default()
    }
}

impl Report<'_> {
    pub(crate) fn change(&self, change: impl FnOnce(&mut PullProgress)) {
        self.sender.send_modify(change);
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        let mut entries = self.board.lock();
        if entries
            .get(&self.reference)
            .is_some_and(|entry| Arc::ptr_eq(entry, &self.sender))
        {
            entries.remove(&self.reference);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_see_pulls_that_start_later_and_leave_nothing() {
        let board = Board::default();
        let layer = LayerProgress {
            digest: "sha256:a".into(),
            total: 2,
            done: 1,
            state: LayerState::Downloading,
        };
        let mut early = board.watch("a");
        for number in 0..100 {
            drop(board.watch(&format!("never pulled {number}")));
        }
        let report = board.start("a".into());
        report.change(|progress| progress.layers.push(layer.clone()));
        assert!(early.has_changed().unwrap());
        assert_eq!(early.borrow_and_update().layers, [layer]);
        assert_eq!(board.lock().len(), 1);
        drop(report);
        assert!(early.has_changed().is_err(), "the end is seen");
        assert!(board.lock().is_empty());
    }
}
