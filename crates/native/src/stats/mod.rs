//! What pods and containers use: CRI's statistics.
//!
//! Control files and `/proc` are read when somebody asks; nothing here walks a directory tree. What
//! a writable layer holds is told from its last reading, which carries its own time (see
//! [`sampler`]).

mod layer;
mod sampler;

use std::sync::Arc;

use rustix::process::Pid;
use slipway_cgroup::{Cgroup, Usage};
use slipway_cri_api::v1::{
    ContainerAttributes, ContainerStats, ContainerStatsFilter, FilesystemIdentifier,
    FilesystemUsage, LinuxPodSandboxStats, NamespaceMode, NetworkUsage, PodSandboxAttributes,
    PodSandboxStats, PodSandboxStatsFilter, ProcessUsage, UInt64Value,
};
use slipway_engine::{Result, blocking, matches_container_stats, matches_pod_stats};
use slipway_network::Interface;

use crate::container::Container;
use crate::lifecycle;
use crate::node::{Node, now};
use crate::pod::{Pod, PodState};
use crate::spec::pod_namespaces;
use crate::views::{container_view, pod_view};

pub(crate) use sampler::{Observed, Sampler, spawn as spawn_sampler};

/// What one container uses; one that does not run uses nothing but its writable layer.
pub(crate) async fn container(node: &Arc<Node>, id: &str) -> Result<ContainerStats> {
    let container = node.containers.get(id)?;
    let reader = Arc::clone(node);
    let stats = blocking::run(move || Ok(container_stats(&reader, &container))).await;
    node.sampler.wake();
    stats
}

/// What the containers that a filter asks for use, the newest first.
pub(crate) async fn containers(
    node: &Arc<Node>,
    filter: Option<&ContainerStatsFilter>,
) -> Result<Vec<ContainerStats>> {
    let mut containers = node.containers.all();
    containers.retain(|container| matches_container_stats(filter, container_view(container)));
    containers.sort_by_key(|container| std::cmp::Reverse(container.record.created_at));
    let stats = read_all(node, containers, container_stats).await;
    node.sampler.wake();
    stats
}

/// What one pod uses; one that is not ready has containers at most.
pub(crate) async fn pod(node: &Arc<Node>, id: &str) -> Result<PodSandboxStats> {
    let pod = node.pods.get(id)?;
    let reader = Arc::clone(node);
    let stats = blocking::run(move || Ok(pod_stats(&reader, &pod))).await;
    node.sampler.wake();
    stats
}

/// What the pods that are ready and that a filter asks for use, the newest first.
pub(crate) async fn pods(
    node: &Arc<Node>,
    filter: Option<&PodSandboxStatsFilter>,
) -> Result<Vec<PodSandboxStats>> {
    let mut pods = node.pods.all();
    pods.retain(|pod| {
        matches!(pod.state(), PodState::Ready { .. }) && matches_pod_stats(filter, pod_view(pod))
    });
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.record.created_at));
    let stats = read_all(node, pods, pod_stats).await;
    node.sampler.wake();
    stats
}

/// Reads many things in their order.
pub(crate) async fn read_all<T: Send + Sync + 'static, S: Send + 'static>(
    node: &Arc<Node>,
    all: Vec<Arc<T>>,
    read: impl Fn(&Node, &T) -> S + Send + Sync + 'static,
) -> Result<Vec<S>> {
    let node = Arc::clone(node);
    blocking::each(all, move |one| read(&node, one)).await
}

fn container_stats(node: &Node, container: &Container) -> ContainerStats {
    let config = &container.record.config;
    let attributes = ContainerAttributes {
        id: container.id().to_owned(),
        metadata: config.metadata.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
    };
    let used = container
        .state()
        .is_running()
        .then(|| lifecycle::cgroup(node, container).ok())
        .flatten()
        .and_then(|cgroup| used(&cgroup, &container.observed));
    let Usage {
        cpu,
        memory,
        swap,
        io,
    } = used.unwrap_or_default();
    ContainerStats {
        attributes: Some(attributes),
        cpu,
        memory,
        swap,
        writable_layer: writable_layer(node, container),
        io,
    }
}

/// None until it was read for the first time.
fn writable_layer(node: &Node, container: &Container) -> Option<FilesystemUsage> {
    let usage = container.observed.layer()?;
    Some(FilesystemUsage {
        timestamp: usage.at,
        // As ImageFsInfo names it: a kubelet looks the file system up by this.
        fs_id: Some(FilesystemIdentifier {
            mountpoint: node.root.join("image").to_string_lossy().into_owned(),
        }),
        used_bytes: value(usage.bytes),
        inodes_used: value(usage.inodes),
    })
}

fn pod_stats(node: &Node, pod: &Pod) -> PodSandboxStats {
    let config = &pod.record.config;
    let containers: Vec<_> = pod
        .containers()
        .iter()
        .filter_map(|id| node.containers.find(id).ok().flatten())
        .collect();
    let ready = matches!(pod.state(), PodState::Ready { .. });
    let used = ready
        .then(|| used(&node.hierarchy.open(&pod.cgroup), &pod.observed))
        .flatten();
    let Usage {
        cpu, memory, io, ..
    } = used.unwrap_or_default();
    let processes = containers
        .iter()
        .filter(|container| container.state().is_running())
        .filter_map(|container| {
            lifecycle::cgroup(node, container)
                .ok()?
                .sample_processes()
                .ok()
        })
        .map(|pids| pids.len() as u64)
        .sum();
    PodSandboxStats {
        attributes: Some(PodSandboxAttributes {
            id: pod.id().to_owned(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        linux: Some(LinuxPodSandboxStats {
            cpu,
            memory,
            network: network_usage(pod),
            process: ready.then(|| ProcessUsage {
                timestamp: now(),
                process_count: value(processes),
            }),
            containers: containers
                .iter()
                .map(|container| container_stats(node, container))
                .collect(),
            io,
        }),
        windows: None,
    }
}

/// The interfaces of a pod that has a network of its own and is ready.
pub(crate) fn interfaces(pod: &Pod) -> Option<Vec<Interface>> {
    let PodState::Ready { shim, .. } = pod.state() else {
        return None;
    };
    if pod_namespaces(&pod.record.config).network == NamespaceMode::Node as i32 {
        return None;
    }
    // The shim lives in the pod's network namespace.
    slipway_network::interfaces(Pid::from_raw(shim.pid())?).ok()
}

fn network_usage(pod: &Pod) -> Option<NetworkUsage> {
    interfaces(pod).map(|interfaces| slipway_network::usage(interfaces, now()))
}

/// None where the cgroup has gone: what it is of has ended since the caller looked.
fn used(cgroup: &Cgroup, observed: &Observed) -> Option<Usage> {
    Usage::read(cgroup, now(), |cpu| observed.cpu_used(cpu))
}

/// A wrapped number, which is there even when it is zero.
#[expect(
    clippy::unnecessary_wraps,
    reason = "every field of this type is optional"
)]
fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}
