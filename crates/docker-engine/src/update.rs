//! Changing a container's limits in place.

use std::sync::Arc;

use bollard::models::ContainerUpdateBody;
use slipway_cri_api::v1::UpdateContainerResourcesRequest;
use slipway_engine::{ContainerState, Error, Result};

use crate::node::Node;

/// Changes what the request names: zero keeps what was (CRI `UpdateContainerResources`).
pub(crate) async fn container(
    node: &Arc<Node>,
    request: UpdateContainerResourcesRequest,
) -> Result<()> {
    let container = node.container(&request.container_id)?;
    if let ContainerState::Exited(_) = container.state {
        return Err(Error::precondition(format!(
            "container {} has exited: it has no limits any more",
            container.id
        )));
    }
    let Some(limits) = request.linux else {
        return Ok(());
    };
    let number = |number: i64| (number != 0).then_some(number);
    let text = |text: String| (!text.is_empty()).then_some(text);
    let memory = number(limits.memory_limit_in_bytes);
    let body = ContainerUpdateBody {
        cpu_period: number(limits.cpu_period),
        cpu_quota: number(limits.cpu_quota),
        cpu_shares: number(limits.cpu_shares),
        cpuset_cpus: text(limits.cpuset_cpus),
        cpuset_mems: text(limits.cpuset_mems),
        memory,
        // Memory that is changed alone takes the limit of memory and swap along.
        memory_swap: number(limits.memory_swap_limit_in_bytes).or(memory),
        ..ContainerUpdateBody::default()
    };
    let id = container.id.as_str();
    let what = format!("change the limits of container {id}");
    node.dockerd
        .call(&what, |docker| async move {
            docker.update_container(id, body).await
        })
        .await?;
    node.refresh(id).await
}
