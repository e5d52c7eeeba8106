//! How much may be sent before the other side has taken something.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What either side may send at first (2.6.8), in bytes.
pub(super) const INITIAL: u32 = 64 * 1024;

const MAX: i64 = i32::MAX as i64;

/// A sender's credit, of a stream or of a connection.
///
/// The clients that there are never acknowledge anything and would wait for ever for the 65537th
/// byte. So credit is counted from the start but limits nobody until the other side has shown that
/// it counts, too.
#[derive(Debug)]
pub(super) struct Window {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    credit: i64,
    counts: bool,
    closed: bool,
}

/// The credit was raised above what the protocol can count.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overflow;

/// What a look at the credit has brought.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Bytes(usize),
    NothingYet,
    Closed,
}

impl Window {
    pub(super) fn new(credit: i64, counts: bool) -> Self {
        Self {
            state: Mutex::new(State {
                credit,
                counts,
                closed: false,
            }),
            changed: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until at least one byte may be sent, and answers how many of those wanted may; none
    /// when nothing may be sent any more.
    pub(super) async fn take(&self, wanted: usize) -> Option<usize> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.try_take(wanted) {
                Taken::Bytes(taken) => return Some(taken),
                Taken::Closed => return None,
                Taken::NothingYet => changed.await,
            }
        }
    }

    fn try_take(&self, wanted: usize) -> Taken {
        let mut state = self.state();
        if state.closed {
            return Taken::Closed;
        }
        let wanted = i64::try_from(wanted).unwrap_or(MAX);
        let taken = if state.counts {
            wanted.min(state.credit)
        } else {
            wanted
        };
        if taken <= 0 && wanted > 0 {
            return Taken::NothingYet;
        }
        state.credit -= taken;
        usize::try_from(taken).map_or(Taken::NothingYet, Taken::Bytes)
    }

    /// Gives back what was taken and not sent.
    pub(super) fn untake(&self, bytes: usize) {
        self.state().credit += i64::try_from(bytes).unwrap_or(MAX);
        self.changed.notify_waiters();
    }

    /// The other side has changed the credit, which shows that it counts.
    pub(super) fn adjust(&self, delta: i64) -> Result<(), Overflow> {
        let mut state = self.state();
        state.counts = true;
        state.credit += delta;
        let fits = state.credit <= MAX;
        drop(state);
        self.changed.notify_waiters();
        if fits { Ok(()) } else { Err(Overflow) }
    }

    /// Nothing may be sent any more.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_waiters();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Waits until nothing may be sent any more.
    pub(super) async fn closed(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.is_closed() {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_side_that_never_counts_is_never_waited_for() {
        let window = Window::new(10, false);
        assert_eq!(window.take(100).await, Some(100));
        assert_eq!(window.take(1).await, Some(1));
    }

    #[tokio::test]
    async fn a_side_that_counts_is_not_sent_more_than_it_allows() {
        let window = Arc::new(Window::new(10, false));
        assert_eq!(window.take(25).await, Some(25));
        window.adjust(5).unwrap();
        assert_eq!(window.try_take(1), Taken::NothingYet, "10 bytes are owed");
        let waiting = tokio::spawn({
            let window = Arc::clone(&window);
            async move { window.take(7).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        window.adjust(13).unwrap();
        assert_eq!(waiting.await.unwrap(), Some(3));
        window.untake(2);
        assert_eq!(window.take(7).await, Some(2));
    }

    #[tokio::test]
    async fn whoever_waits_is_told_of_the_end() {
        let window = Arc::new(Window::new(0, true));
        let waiting = tokio::spawn({
            let window = Arc::clone(&window);
            async move { tokio::join!(window.take(1), window.closed()).0 }
        });
        tokio::task::yield_now().await;
        window.close();
        assert_eq!(waiting.await.unwrap(), None);
    }

    #[test]
    fn more_credit_than_can_be_counted_is_refused() {
        let window = Window::new(i64::from(INITIAL), true);
        assert_eq!(window.adjust(MAX), Err(Overflow));
    }
}
