//! Work that many may wait for and that is done once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// What becomes of work for which nobody waits any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Abandoned {
    GoesOn,
    IsCancelled,
}

/// The work under way, by key. `P` is what it reports on the way, `T` its outcome.
pub(crate) struct Flights<K, P, T> {
    shared: Arc<Shared<K, P, T>>,
}

struct Shared<K, P, T> {
    abandoned: Abandoned,
    numbers: AtomicU64,
    flights: Mutex<HashMap<K, Flight<P, T>>>,
}

struct Flight<P, T> {
    number: u64,
    waiting: usize,
    cancel: CancellationToken,
    progress: watch::Receiver<P>,
    outcome: watch::Receiver<Option<T>>,
}

/// A place among those who wait. Dropping it gives the place up.
pub(crate) struct Ticket<K: Eq + Hash, P, T> {
    shared: Arc<Shared<K, P, T>>,
    key: K,
    number: u64,
    progress: watch::Receiver<P>,
    outcome: watch::Receiver<Option<T>>,
    counted: bool,
}

/// Keeps others from starting work under a key until it is dropped.
pub(crate) struct Exclusive<K: Eq + Hash, P, T> {
    _landing: Landing<K, P, T>,
    _outcome: watch::Sender<Option<T>>,
}

/// Takes a flight off the map, whatever happens to its task.
struct Landing<K: Eq + Hash, P, T> {
    shared: Arc<Shared<K, P, T>>,
    key: K,
    number: u64,
}

impl<K: Eq + Hash, P, T> Shared<K, P, T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Flight<P, T>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, P, T> Flights<K, P, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    P: Default + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    pub(crate) fn new(abandoned: Abandoned) -> Self {
        Self {
            shared: Arc::new(Shared {
                abandoned,
                numbers: AtomicU64::new(0),
                flights: Mutex::new(HashMap::new()),
            }),
        }
    }

    /// Joins the work under `key`, or starts it as a task of its own. Work that was abandoned and
    /// has not ended yet is waited for first.
    pub(crate) fn join<F>(
        &self,
        key: K,
        start: impl FnOnce(CancellationToken, watch::Sender<P>) -> F,
    ) -> Ticket<K, P, T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut flights = self.shared.lock();
        let previous = flights.get(&key).map(|flight| flight.outcome.clone());
        if let Some(flight) = flights.get_mut(&key)
            && !flight.cancel.is_cancelled()
        {
            flight.waiting += 1;
            let (number, progress) = (flight.number, flight.progress.clone());
            let outcome = flight.outcome.clone();
            return self.ticket(key, number, progress, outcome);
        }
        let cancel = CancellationToken::new();
        let (progress_sender, progress) = watch::channel(P::default());
        let (landing, outcome_sender, outcome) =
            self.take_off(&mut flights, &key, cancel.clone(), progress.clone());
        let number = landing.number;
        let work = start(cancel, progress_sender);
        drop(flights);
        let task = async move {
            if let Some(mut previous) = previous {
                let _ = previous.wait_for(Option::is_some).await;
            }
            let outcome = work.await;
            drop(landing);
            outcome_sender.send_replace(Some(outcome));
        };
        // Of whoever was first to ask for it.
        tokio::spawn(task.in_current_span());
        self.ticket(key, number, progress, outcome)
    }

    /// Waits for the work under `key`, if there is any, and keeps new work from starting.
    pub(crate) async fn exclusive(&self, key: K) -> Exclusive<K, P, T> {
        loop {
            let mut busy = {
                let mut flights = self.shared.lock();
                let Some(flight) = flights.get(&key) else {
                    let cancelled = CancellationToken::new();
                    cancelled.cancel();
                    let (_, progress) = watch::channel(P::default());
                    let (landing, outcome, _) =
                        self.take_off(&mut flights, &key, cancelled, progress);
                    return Exclusive {
                        _landing: landing,
                        _outcome: outcome,
                    };
                };
                flight.outcome.clone()
            };
            let _ = busy.wait_for(Option::is_some).await;
        }
    }

    #[allow(clippy::type_complexity)]
    fn take_off(
        &self,
        flights: &mut HashMap<K, Flight<P, T>>,
        key: &K,
        cancel: CancellationToken,
        progress: watch::Receiver<P>,
    ) -> (
        Landing<K, P, T>,
        watch::Sender<Option<T>>,
        watch::Receiver<Option<T>>,
    ) {
        let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
        let (sender, outcome) = watch::channel(None);
        let flight = Flight {
            number,
            waiting: 1,
            cancel,
            progress,
            outcome: outcome.clone(),
        };
        flights.insert(key.clone(), flight);
        let shared = Arc::clone(&self.shared);
        (
            Landing {
                shared,
                key: key.clone(),
                number,
            },
            sender,
            outcome,
        )
    }

    fn ticket(
        &self,
        key: K,
        number: u64,
        progress: watch::Receiver<P>,
        outcome: watch::Receiver<Option<T>>,
    ) -> Ticket<K, P, T> {
        let shared = Arc::clone(&self.shared);
        Ticket {
            shared,
            key,
            number,
            progress,
            outcome,
            counted: true,
        }
    }
}

impl<K: Clone + Eq + Hash, P, T: Clone> Ticket<K, P, T> {
    /// What the work reports on the way.
    pub(crate) fn progress(&self) -> watch::Receiver<P> {
        self.progress.clone()
    }

    /// The outcome; `None` if the task died without one. Independent of the ticket, which must be
    /// kept for as long as the outcome is wanted.
    pub(crate) fn outcome(&self) -> impl Future<Output = Option<T>> + use<K, P, T> {
        let mut outcome = self.outcome.clone();
        async move { outcome.wait_for(Option::is_some).await.ok()?.clone() }
    }

    /// Another place among those who wait for the same work.
    pub(crate) fn again(&self) -> Self {
        let mut flights = self.shared.lock();
        let flight = flights
            .get_mut(&self.key)
            .filter(|flight| flight.number == self.number);
        let counted = flight.is_some();
        if let Some(flight) = flight {
            flight.waiting += 1;
        }
        Self {
            shared: Arc::clone(&self.shared),
            key: self.key.clone(),
            number: self.number,
            progress: self.progress.clone(),
            outcome: self.outcome.clone(),
            counted,
        }
    }

    /// Gives the place up. When nobody else waits and the work is cancelled by that, returns once
    /// it has cleaned up after itself.
    pub(crate) async fn leave(mut self) {
        if self.give_up() {
            let _ = self.outcome.wait_for(Option::is_some).await;
        }
    }
}

impl<K: Eq + Hash, P, T> Ticket<K, P, T> {
    /// True if that has cancelled the work.
    fn give_up(&mut self) -> bool {
        if !std::mem::take(&mut self.counted) {
            return false;
        }
        let mut flights = self.shared.lock();
        let Some(flight) = flights.get_mut(&self.key) else {
            return false;
        };
        if flight.number != self.number {
            return false;
        }
        flight.waiting -= 1;
        let cancels = flight.waiting == 0 && self.shared.abandoned == Abandoned::IsCancelled;
        if cancels {
            flight.cancel.cancel();
        }
        cancels
    }
}

impl<K: Eq + Hash, P, T> Drop for Ticket<K, P, T> {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl<K: Eq + Hash, P, T> Drop for Landing<K, P, T> {
    fn drop(&mut self) {
        let mut flights = self.shared.lock();
        if flights
            .get(&self.key)
            .is_some_and(|flight| flight.number == self.number)
        {
            flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    type Numbers = Flights<&'static str, (), usize>;

    #[tokio::test]
    async fn many_wait_for_one() {
        let flights = Numbers::new(Abandoned::GoesOn);
        let runs = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let tickets: Vec<_> = (0..10)
            .map(|_| {
                flights.join("a", |_, _| {
                    let (runs, gate) = (Arc::clone(&runs), Arc::clone(&gate));
                    async move {
                        let _permit = gate.acquire().await;
                        runs.fetch_add(1, Ordering::SeqCst) + 1
                    }
                })
            })
            .collect();
        gate.add_permits(1);
        for ticket in &tickets {
            assert_eq!(ticket.outcome().await, Some(1));
        }
        assert!(flights.shared.lock().is_empty());
    }

    #[tokio::test]
    async fn abandoned_work_is_cancelled_and_waited_for() {
        let flights = Numbers::new(Abandoned::IsCancelled);
        let cleaned = Arc::new(AtomicUsize::new(0));
        let work = |result| {
            let cleaned = Arc::clone(&cleaned);
            move |cancel: CancellationToken, _| async move {
                cancel.cancelled().await;
                tokio::task::yield_now().await;
                cleaned.fetch_add(1, Ordering::SeqCst);
                result
            }
        };
        let first = flights.join("a", work(1));
        let second = flights.join("a", work(2));
        first.leave().await;
        assert_eq!(cleaned.load(Ordering::SeqCst), 0, "somebody still waits");
        drop(second);
        let started_after = Arc::clone(&cleaned);
        let third = flights.join("a", move |_, _| async move {
            started_after.load(Ordering::SeqCst) + 10
        });
        assert_eq!(
            third.outcome().await,
            Some(11),
            "it starts after the cancelled one has ended"
        );
        let last = flights.join("a", work(3));
        last.leave().await;
        assert_eq!(cleaned.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn exclusive_keeps_new_work_waiting() {
        let flights = Numbers::new(Abandoned::IsCancelled);
        let exclusive = flights.exclusive("a").await;
        let ticket = flights.join("a", |_, _| async { 7 });
        tokio::task::yield_now().await;
        assert!(ticket.outcome.borrow().is_none());
        drop(exclusive);
        assert_eq!(ticket.outcome().await, Some(7));
    }
}
