//! What happens to pods and containers, told to whoever listens (CRI `GetContainerEvents`).
//!
//! A listener that falls behind by more than a bounded number of events loses its stream, never an
//! event in the middle of it.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use slipway_cri_api::v1::ContainerEventResponse;
use tokio::sync::broadcast::{self, Receiver, error::RecvError};

use crate::ContainerEventStream;

/// How many events a listener may be behind: several times what a node's pods tell when all of
/// them end at once.
const BACKLOG: usize = 1024;

/// The listeners.
#[derive(Debug)]
pub struct Events(broadcast::Sender<Arc<ContainerEventResponse>>);

impl Default for Events {
    fn default() -> Self {
        Self::with_backlog(BACKLOG)
    }
}

impl Events {
    fn with_backlog(backlog: usize) -> Self {
        Self(broadcast::Sender::new(backlog))
    }

    /// What is told from now on, until the listener has fallen too far behind.
    pub fn listen(&self) -> ContainerEventStream {
        Box::pin(stream::unfold(self.0.subscribe(), next).map(Arc::unwrap_or_clone))
    }

    /// Tells of something that has happened, where anybody listens.
    pub fn tell(&self, event: impl FnOnce() -> ContainerEventResponse) {
        if self.0.receiver_count() > 0 {
            // The last one may just have gone.
            let _ = self.0.send(Arc::new(event()));
        }
    }
}

async fn next(
    mut receiver: Receiver<Arc<ContainerEventResponse>>,
) -> Option<(
    Arc<ContainerEventResponse>,
    Receiver<Arc<ContainerEventResponse>>,
)> {
    match receiver.recv().await {
        Ok(event) => Some((event, receiver)),
        Err(RecvError::Lagged(_) | RecvError::Closed) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(events: &Events, id: &str) {
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            ..Default::default()
        };
        events.tell(|| event);
    }

    #[tokio::test]
    async fn a_listener_that_falls_behind_loses_its_stream_and_nobody_elses() {
        let events = Events::with_backlog(4);
        let mut slow = events.listen();
        let mut quick = events.listen();
        for number in 0..20 {
            send(&events, &number.to_string());
            let heard = quick.next().await.map(|event| event.container_id);
            assert_eq!(heard, Some(number.to_string()));
        }
        assert!(slow.next().await.is_none(), "no event with a gap before it");
        let mut again = events.listen();
        send(&events, "new");
        assert_eq!(again.next().await.unwrap().container_id, "new");
    }

    #[tokio::test]
    async fn a_listener_hears_only_what_comes_after_it() {
        let events = Events::with_backlog(4);
        send(&events, "before");
        let mut listener = events.listen();
        send(&events, "after");
        assert_eq!(listener.next().await.unwrap().container_id, "after");
    }
}
