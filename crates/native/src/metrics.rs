//! cAdvisor's metrics of the pods that are ready, and of their running containers.

use std::sync::Arc;

use slipway_cri_api::v1::{ContainerMetrics, Metric, PodSandboxMetrics};
use slipway_engine::{ContainerState, Result, blocking};
use slipway_resources::metrics::{self, FileSystem, Subject};

use crate::container::Container;
use crate::lifecycle;
use crate::node::{Node, now};
use crate::pod::{Pod, PodState};
use crate::stats::{interfaces, read_all};

/// The newest pods first.
pub(crate) async fn pods(node: &Arc<Node>) -> Result<Vec<PodSandboxMetrics>> {
    let mut pods = node.pods.all();
    pods.retain(|pod| matches!(pod.state(), PodState::Ready { .. }));
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.record.created_at));
    let layers = node.writable_layers();
    let layers = blocking::run(move || Ok(FileSystem::of(&layers))).await?;
    let read = move |node: &Node, pod: &Pod| pod_metrics(node, layers.as_ref(), pod);
    read_all(node, pods, read).await
}

fn pod_metrics(node: &Node, layers: Option<&FileSystem>, pod: &Pod) -> PodSandboxMetrics {
    let metadata = pod.record.config.metadata.clone().unwrap_or_default();
    let subject = Subject::pod(pod.id(), metadata);
    let containers = pod.containers().into_iter();
    PodSandboxMetrics {
        pod_sandbox_id: pod.id().to_owned(),
        metrics: metrics::pod(subject, now(), &interfaces(pod).unwrap_or_default()),
        container_metrics: containers
            .filter_map(|id| node.containers.find(&id).ok().flatten())
            .filter_map(|container| {
                Some(ContainerMetrics {
                    container_id: container.id().to_owned(),
                    metrics: container_metrics(node, layers, &container)?,
                })
            })
            .collect(),
    }
}

/// None for a container that does not run, or that has ended since the caller looked.
fn container_metrics(
    node: &Node,
    layers: Option<&FileSystem>,
    container: &Container,
) -> Option<Vec<Metric>> {
    let ContainerState::Running { started_at } = container.state() else {
        return None;
    };
    let cgroup = lifecycle::cgroup(node, container).ok()?;
    let config = &container.record.config;
    let pod = container.pod.record.config.metadata.clone();
    let name = config.metadata.clone().unwrap_or_default().name;
    let image = config.image.clone().unwrap_or_default();
    let image = if image.user_specified_image.is_empty() {
        image.image
    } else {
        image.user_specified_image
    };
    let running = metrics::Container {
        subject: Subject::container(container.id(), &name, &image, pod.unwrap_or_default()),
        started_at,
        pid: container.pid(),
        limits: &container.resources().unwrap_or_default(),
        file_system: layers,
        // A layer that was not read yet is seconds old and has next to nothing in it.
        layer_bytes: container.observed.layer().map_or(0, |layer| layer.bytes),
    };
    metrics::container(running, &cgroup, now())
}
