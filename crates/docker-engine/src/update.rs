//! Changing what containers and pods may use while they run: CRI's `UpdateContainerResources` and
//! `UpdatePodSandboxResources`.
//!
//! What Docker has no place for is set first, because it can be put back when Docker refuses the rest.

use std::sync::Arc;

use bollard::models::ContainerUpdateBody;
use slipway_cri_api::v1::{
    LinuxContainerResources, UpdateContainerResourcesRequest, UpdatePodSandboxResourcesRequest,
};
use slipway_engine::{ContainerState, Error, Result, blocking};
use slipway_resources::{changes, check, check_change, merged, refused};

use crate::cgroups::cgroup_of;
use crate::inspect::Container;
use crate::limits::{self, Applied};
use crate::node::Node;
use crate::sandbox;

const REQUEST: &str = "UpdateContainerResourcesRequest.linux";

/// Changes what a created or running container may use: zero keeps what was. What is refused leaves
/// all as it was.
pub(crate) async fn container(
    node: &Arc<Node>,
    request: UpdateContainerResourcesRequest,
) -> Result<()> {
    if request.windows.is_some() {
        return Err(Error::invalid(
            "UpdateContainerResourcesRequest.windows is for a container of Windows",
        ));
    }
    let asked = request.linux.unwrap_or_default();
    let id = node.container(&request.container_id)?.id.clone();
    node.dockerd.up()?;
    let _updating = node.updates.alone(&id).await;
    let container = node.container(&id)?;
    if let ContainerState::Exited(exit) = &container.state {
        return Err(Error::precondition(format!(
            "container {id} has exited with code {}, so that nothing of it can be limited",
            exit.code
        )));
    }
    let now = &container.resources;
    let changes = changes(now, &asked);
    let after = merged(now, &changes);
    let beside = limits::beside(&container.beside, &after, &changes);
    refuse_unlimited(&changes)?;
    let applied = set(node, &container, after, changes.clone()).await?;
    let changed = change(node, &id, changes).await;
    if changed.is_err()
        && let Some(applied) = applied
    {
        blocking::run(move || {
            applied.undo();
            Ok(())
        })
        .await?;
    }
    changed?;
    if beside != container.beside {
        let (node, id) = (Arc::clone(node), id.clone());
        blocking::run(move || node.limits.put(&id, &beside))
            .await
            .map_err(|error| {
                error.context("the new limits are in force, but not all of them are recorded")
            })?;
    }
    node.refresh(&id).await
}

/// Docker takes zero for no change, and less for less than a container can live on.
fn refuse_unlimited(changes: &LinuxContainerResources) -> Result<()> {
    if changes.memory_limit_in_bytes < 0 {
        return Err(Error::precondition(format!(
            "{REQUEST}.memory_limit_in_bytes {}: Docker can change a container's limit of memory, \
             and not take it away; give a number, or make the container anew",
            changes.memory_limit_in_bytes
        )));
    }
    Ok(())
}

/// Sets what Docker has no place for, where the container runs. What Docker is to set is only looked
/// at.
async fn set(
    node: &Arc<Node>,
    container: &Arc<Container>,
    after: LinuxContainerResources,
    changes: LinuxContainerResources,
) -> Result<Option<Applied>> {
    let (node, container) = (Arc::clone(node), Arc::clone(container));
    blocking::run(move || {
        let hierarchy = node.hierarchy()?;
        check_change(hierarchy, REQUEST, &after, &changes)?;
        let Some(path) = cgroup_of(&container.id, container.pid) else {
            return Ok(None);
        };
        let cgroup = hierarchy.open(&path);
        cgroup
            .refuse_below_use(&slipway_resources::limits(&changes))
            .map_err(|error| refused(REQUEST, &error))?;
        Applied::set(&cgroup, &changes, REQUEST).map(Some)
    })
    .await
}

/// Has Docker change what it has a place for.
async fn change(node: &Node, id: &str, changes: LinuxContainerResources) -> Result<()> {
    let number = |number: i64| (number != 0).then_some(number);
    let text = |text: String| (!text.is_empty()).then_some(text);
    let memory = number(changes.memory_limit_in_bytes);
    let body = ContainerUpdateBody {
        cpu_period: number(changes.cpu_period),
        cpu_quota: number(changes.cpu_quota),
        cpu_shares: number(changes.cpu_shares),
        cpuset_cpus: text(changes.cpuset_cpus),
        cpuset_mems: text(changes.cpuset_mems),
        memory,
        // A container that had no limit gets no swap with it, as one that is made with a limit.
        memory_swap: number(changes.memory_swap_limit_in_bytes).or(memory),
        ..ContainerUpdateBody::default()
    };
    if body == ContainerUpdateBody::default() {
        return Ok(());
    }
    let what = format!("change the limits of container {id}");
    node.dockerd
        .call(&what, |docker| async move {
            docker.update_container(id, body).await
        })
        .await
        .map_err(by_field)
}

/// runc's refusal to limit memory below what is in use, by the field that asked for it.
fn by_field(error: Error) -> Error {
    let text = error.to_string();
    if text.contains("unable to set memory limit") {
        return Error::precondition(format!("{REQUEST}.memory_limit_in_bytes: {text}"));
    }
    error
}

/// Records what a pod and its containers may use. The pod's cgroup is the kubelet's, which limits it
/// itself.
pub(crate) async fn pod(node: &Arc<Node>, request: UpdatePodSandboxResourcesRequest) -> Result<()> {
    let UpdatePodSandboxResourcesRequest {
        pod_sandbox_id,
        overhead,
        resources,
    } = request;
    let id = node.pod(&pod_sandbox_id)?.id.clone();
    node.dockerd.up()?;
    let _gate = node.gates.shared(&id).await;
    let _updating = node.updates.alone(&id).await;
    let pod = sandbox::ready(node, &id)?;
    let work = Arc::clone(node);
    blocking::run(move || {
        for (field, asked) in [
            ("UpdatePodSandboxResourcesRequest.overhead", &overhead),
            ("UpdatePodSandboxResourcesRequest.resources", &resources),
        ] {
            if let Some(asked) = asked {
                check(work.hierarchy()?, field, asked)?;
            }
        }
        let checkpoint = pod.checkpoint.clone().unwrap_or_default();
        let checkpoint = checkpoint.updated(overhead, resources);
        work.checkpoints.put(&pod.id, &checkpoint)
    })
    .await?;
    node.refresh(&id).await
}
