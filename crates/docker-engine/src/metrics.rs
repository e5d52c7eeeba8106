//! cAdvisor's metrics of the pods that are ready, and of their running containers.

use std::sync::Arc;

use slipway_cri_api::v1::{ContainerMetrics, Metric, PodSandboxMetrics};
use slipway_engine::{ContainerState, Result};
use slipway_resources::metrics::{self, Subject};

use crate::cgroups::cgroup_of;
use crate::inspect::{Container, Pod};
use crate::node::{Node, now};
use crate::stats::{Reader, interfaces, read_all};

/// The newest pods first.
pub(crate) async fn pods(node: &Arc<Node>) -> Result<Vec<PodSandboxMetrics>> {
    node.dockerd.up()?;
    let mut pods = node.pods.all();
    pods.retain(|pod| pod.pid.is_some());
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
    read_all(node, pods, pod_metrics).await
}

fn pod_metrics(reader: &Reader, pod: &Pod) -> PodSandboxMetrics {
    let subject = Subject::pod(&pod.id, pod.metadata());
    let containers = reader.node.containers_of(&pod.id);
    PodSandboxMetrics {
        pod_sandbox_id: pod.id.clone(),
        metrics: metrics::pod(subject, now(), &interfaces(pod).unwrap_or_default()),
        container_metrics: containers
            .iter()
            .filter_map(|container| {
                Some(ContainerMetrics {
                    container_id: container.id.clone(),
                    metrics: container_metrics(reader, pod, container)?,
                })
            })
            .collect(),
    }
}

/// None for a container that does not run, or that has ended since the caller looked.
fn container_metrics(reader: &Reader, pod: &Pod, container: &Container) -> Option<Vec<Metric>> {
    let ContainerState::Running { started_at } = container.state else {
        return None;
    };
    let cgroup = reader
        .hierarchy
        .open(&cgroup_of(&container.id, container.pid)?);
    let name = &container.name.name;
    let layer = reader.node.observed.layer(&container.id);
    let running = metrics::Container {
        subject: Subject::container(&container.id, name, &container.image, pod.metadata()),
        started_at,
        pid: container.pid,
        limits: &container.resources,
        layer: &reader.root,
        // A layer that was not looked at yet has next to nothing in it.
        layer_bytes: layer.map_or(0, |(bytes, _)| bytes),
    };
    metrics::container(running, &cgroup, now())
}
