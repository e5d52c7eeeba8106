//! What monitoring asks for: cAdvisor's metrics of containers, over CRI (`ListPodSandboxMetrics`).
//!
//! CRI's values are whole numbers, so that seconds are whole ones. What this kernel does not count,
//! and what there is no limit of, is left out rather than zero. Containers that do not run and pods
//! that are not ready have none.

mod container;
mod families;
mod network;
mod processes;
mod series;

use std::fs;
use std::sync::Arc;

use slipway_cri_api::v1::{ContainerMetrics, MetricDescriptor, PodSandboxMetrics};
use slipway_engine::Result;

use crate::node::Node;
use crate::pod::{Pod, PodState};
use crate::stats::read_all;
use series::Series;

/// Every metric that there can be on this node.
pub(crate) fn descriptors() -> Vec<MetricDescriptor> {
    let huge_pages = counts_huge_pages();
    families::ALL
        .iter()
        .filter(|family| huge_pages || !family.name.starts_with("container_hugetlb"))
        .map(families::Family::descriptor)
        .collect()
}

/// Whether a cgroup controller for huge pages is in use: attached to a hierarchy of v1
/// (cgroups(7), `/proc/cgroups`), or there for v2.
fn counts_huge_pages() -> bool {
    let attached = |line: &str| {
        let mut fields = line.split_whitespace();
        fields.next() == Some("hugetlb") && fields.next() != Some("0")
    };
    fs::read_to_string("/proc/cgroups").is_ok_and(|text| text.lines().any(attached))
        || fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
            .is_ok_and(|text| text.split_whitespace().any(|name| name == "hugetlb"))
}

/// The metrics of the pods that are ready, the newest first, and of their running containers.
pub(crate) async fn pods(node: &Arc<Node>) -> Result<Vec<PodSandboxMetrics>> {
    let mut pods = node.pods.all();
    pods.retain(|pod| matches!(pod.state(), PodState::Ready { .. }));
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.record.created_at));
    read_all(node, pods, pod_metrics).await
}

fn pod_metrics(node: &Node, pod: &Pod) -> PodSandboxMetrics {
    let mut own = Series::of_pod(pod);
    network::add(&mut own, pod);
    let containers = pod.containers().into_iter();
    PodSandboxMetrics {
        pod_sandbox_id: pod.id().to_owned(),
        metrics: own.end(),
        container_metrics: containers
            .filter_map(|id| node.containers.find(&id).ok().flatten())
            .filter_map(|container| {
                Some(ContainerMetrics {
                    container_id: container.id().to_owned(),
                    metrics: container::metrics(node, &container)?,
                })
            })
            .collect(),
    }
}
