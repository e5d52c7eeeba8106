//! What happens to pods and containers, told to whoever listens (CRI `GetContainerEvents`).
//!
//! An event carries the status of its pod and of all of the pod's containers from right after the
//! change. Changes of one pod are made and told one after the other, so that the status in a later
//! event is never the older one.

use slipway_cri_api::v1::{ContainerEventResponse, ContainerEventType};

use crate::node::{Node, now};
use crate::pod::Pod;
use crate::views;

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
    if change() {
        node.events.tell(|| ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: now(),
            pod_sandbox_status: Some(views::pod_message(pod)),
            containers_statuses: views::container_messages(node, pod),
        });
    }
}
