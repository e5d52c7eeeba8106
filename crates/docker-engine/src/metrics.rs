//! cAdvisor's metrics of the pods that are ready, and of their running containers.

use std::sync::Arc;

use slipway_cri_api::v1::{ContainerMetrics, Metric, PodSandboxMetrics};
use slipway_engine::{ContainerState, Result, blocking};
use slipway_resources::metrics::{self, FileSystem, Subject};

use crate::inspect::{Container, Pod};
use crate::node::{Node, now};
use crate::stats::{Populated, Reader, interfaces, read_all, ready_pods};

/// The newest pods first.
pub(crate) async fn pods(node: &Arc<Node>) -> Result<Vec<PodSandboxMetrics>> {
    let root = node.dockerd.up()?.facts.root.clone();
    let layers = blocking::run(move || Ok(FileSystem::of(&root))).await?;
    let read = move |reader: &Reader, pod: &Populated| pod_metrics(reader, layers.as_ref(), pod);
    read_all(node, ready_pods(node, |_| true), read).await
}

fn pod_metrics(
    reader: &Reader,
    layers: Option<&FileSystem>,
    (pod, containers): &Populated,
) -> PodSandboxMetrics {
    let subject = Subject::pod(&pod.id, pod.metadata());
    PodSandboxMetrics {
        pod_sandbox_id: pod.id.clone(),
        metrics: metrics::pod(subject, now(), &interfaces(pod).unwrap_or_default()),
        container_metrics: containers
            .iter()
            .filter_map(|container| {
                Some(ContainerMetrics {
                    container_id: container.id.clone(),
                    metrics: container_metrics(reader, layers, pod, container)?,
                })
            })
            .collect(),
    }
}

/// None for a container that does not run, or that has ended since the caller looked.
fn container_metrics(
    reader: &Reader,
    layers: Option<&FileSystem>,
    pod: &Pod,
    container: &Container,
) -> Option<Vec<Metric>> {
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
        file_system: layers,
        // A layer that was not looked at yet has next to nothing in it.
        layer_bytes: layer.map_or(0, |(bytes, _)| bytes),
    };
    metrics::container(running, &cgroup, now())
}
