//! cAdvisor's metrics of the pods that are ready, and of their running containers.

use std::sync::Arc;

use slipway_cri_api::v1::{ContainerMetrics, Metric, PodSandboxMetrics};
use slipway_engine::{ContainerState, Result};
use slipway_resources::metrics::{self, Subject};

use crate::inspect::{Container, Pod};
use crate::node::{Node, now};
use crate::stats::{Populated, Reader, interfaces, read_all, ready_pods};

/// The newest pods first.
pub(crate) async fn pods(node: &Arc<Node>) -> Result<Vec<PodSandboxMetrics>> {
    node.dockerd.up()?;
    read_all(node, ready_pods(node, |_| true), pod_metrics).await
}

fn pod_metrics(reader: &Reader, (pod, containers): &Populated) -> PodSandboxMetrics {
    let subject = Subject::pod(&pod.id, pod.metadata());
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
    let cgroup = reader.cgroup_of(&container.id, container.pid)?;
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
