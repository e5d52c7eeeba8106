//! What happens to pods and containers, told to whoever listens (CRI `GetContainerEvents`).
//!
//! An event carries the status of its pod and of all of the pod's containers from right after the
//! change. Changes of one pod are made and told one after the other, so that the status in a later
//! event is never the older one. A listener that falls behind by more than a bounded number of
//! events loses its stream, never an event in the middle of it.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use slipway_cri_api::v1::{ContainerEventResponse, ContainerEventType};
use slipway_engine::ContainerEventStream;
use tokio::sync::broadcast::{self, Receiver, error::RecvError};

use crate::node::{Node, now};
use crate::pod::Pod;
use crate::views;

/// How many events a listener may be behind: several times what a node's pods tell when all of
/// them end at once.
const BACKLOG: usize = 1024;

/// The listeners.
#[derive(Debug)]
pub(crate) struct Events(broadcast::Sender<Arc<ContainerEventResponse>>);

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
    pub(crate) fn listen(&self) -> ContainerEventStream {
        Box::pin(stream::unfold(self.0.subscribe(), next).map(Arc::unwrap_or_clone))
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

/// Makes a change of a pod or of a container in it, and tells of it if `change` says that it was
/// one. `id` is the container's, or the pod's own.
pub(crate) fn tell(
    node: &Node,
    pod: &Pod,
    id: &str,
    kind: ContainerEventType,
    change: impl FnOnce() -> bool,
) {
    let _turn = pod.turn_to_tell();
    if !change() || node.events.0.receiver_count() == 0 {
        return;
    }
    let event = ContainerEventResponse {
        container_id: id.to_owned(),
        container_event_type: kind.into(),
        created_at: now(),
        pod_sandbox_status: Some(views::pod_message(pod)),
        containers_statuses: views::container_messages(node, pod),
    };
    // Nobody may be listening any more.
    let _ = node.events.0.send(Arc::new(event));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(events: &Events, id: &str) {
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            ..Default::default()
        };
        let _ = events.0.send(Arc::new(event));
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
