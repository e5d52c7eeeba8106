//! What pods and containers use: CRI's statistics.
//!
//! Control files and `/proc` are read when somebody asks; nothing here walks a directory tree. What
//! a writable layer holds is told from its last reading, which carries its own time (see
//! [`sampler`]).

mod layer;
mod network;
mod rate;
mod sampler;

use std::sync::Arc;

use rustix::process::Pid;
use slipway_cgroup::{Cgroup, MemoryStats, ResourcePressure, Stalls, Stats};
use slipway_cri_api::v1::{
    ContainerAttributes, ContainerStats, ContainerStatsFilter, CpuUsage, FilesystemIdentifier,
    FilesystemUsage, IoUsage, LinuxPodSandboxStats, MemoryUsage, NamespaceMode,
    NetworkInterfaceUsage, NetworkUsage, PodSandboxAttributes, PodSandboxStats,
    PodSandboxStatsFilter, ProcessUsage, PsiData, PsiStats, SwapUsage, UInt64Value,
};
use slipway_engine::{Result, matches_container_stats, matches_pod_stats};

use crate::container::Container;
use crate::node::{Node, now};
use crate::pod::{Pod, PodState};
use crate::spec::pod_namespaces;
use crate::views::{container_view, pod_view};
use crate::{blocking, lifecycle};

pub(crate) use network::{DEFAULT as DEFAULT_INTERFACE, Interface};
pub(crate) use sampler::{Observed, Sampler, spawn as spawn_sampler};

/// Fewer than this are read faster than another thread begins.
const SHARE: usize = 32;

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

/// Reads many things in their order, on as many threads as there are processors.
pub(crate) async fn read_all<T: Send + Sync + 'static, S: Send + 'static>(
    node: &Arc<Node>,
    all: Vec<Arc<T>>,
    read: fn(&Node, &T) -> S,
) -> Result<Vec<S>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = all.len().div_ceil(threads).max(SHARE);
    let shares: Vec<_> = all
        .chunks(share)
        .map(|share| {
            let (node, share) = (Arc::clone(node), share.to_vec());
            tokio::spawn(blocking::run(move || {
                Ok(share.iter().map(|one| read(&node, one)).collect::<Vec<_>>())
            }))
        })
        .collect();
    let mut answers = Vec::with_capacity(all.len());
    for share in shares {
        let share = share.await.map_err(|ended| {
            slipway_engine::Error::internal(format!("the operation crashed: {ended}"))
        })?;
        answers.extend(share?);
    }
    Ok(answers)
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
        .and_then(|cgroup| Used::read(&cgroup, &container.observed));
    let Used {
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
        .then(|| Used::read(&node.hierarchy.open(&pod.cgroup), &pod.observed))
        .flatten();
    let Used {
        cpu, memory, io, ..
    } = used.unwrap_or_default();
    let processes = containers
        .iter()
        .filter(|container| container.state().is_running())
        .filter_map(|container| {
            lifecycle::cgroup(node, container)
                .ok()?
                .process_count()
                .ok()
        })
        .map(|count| count as u64)
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
    network::interfaces(Pid::from_raw(shim.pid())?).ok()
}

fn network_usage(pod: &Pod) -> Option<NetworkUsage> {
    let mut others = interfaces(pod)?;
    let default = others
        .iter()
        .position(|interface| interface.name == DEFAULT_INTERFACE)
        .map(|position| others.remove(position));
    Some(NetworkUsage {
        timestamp: now(),
        default_interface: default.map(interface_usage),
        interfaces: others.into_iter().map(interface_usage).collect(),
    })
}

fn interface_usage(interface: Interface) -> NetworkInterfaceUsage {
    NetworkInterfaceUsage {
        name: interface.name,
        rx_bytes: value(interface.received.bytes),
        rx_errors: value(interface.received.errors),
        tx_bytes: value(interface.sent.bytes),
        tx_errors: value(interface.sent.errors),
    }
}

/// What a cgroup uses, in CRI's words.
#[derive(Debug, Default)]
struct Used {
    cpu: Option<CpuUsage>,
    memory: Option<MemoryUsage>,
    swap: Option<SwapUsage>,
    io: Option<IoUsage>,
}

impl Used {
    /// None where the cgroup has gone: what it is of has ended since the caller looked.
    fn read(cgroup: &Cgroup, observed: &Observed) -> Option<Self> {
        let timestamp = now();
        let Stats { cpu, memory, .. } = cgroup.stats().ok()?;
        let pressure = cgroup.pressure().unwrap_or_default();
        let swap = memory
            .as_ref()
            .and_then(|memory| memory.swap.as_ref())
            .map(|swap| SwapUsage {
                timestamp,
                swap_available_bytes: swap
                    .limit
                    .and_then(|limit| value(limit.saturating_sub(swap.usage))),
                swap_usage_bytes: value(swap.usage),
            });
        Some(Self {
            cpu: cpu.map(|cpu| CpuUsage {
                timestamp,
                usage_core_nano_seconds: value(cpu.usage_nanoseconds),
                usage_nano_cores: observed.cpu_used(cpu.usage_nanoseconds).and_then(value),
                psi: pressure.cpu.map(psi),
            }),
            memory: memory.map(|memory| MemoryUsage {
                psi: pressure.memory.map(psi),
                ..memory_usage(timestamp, &memory)
            }),
            swap,
            io: pressure.io.map(|pressure| IoUsage {
                timestamp,
                psi: Some(psi(pressure)),
            }),
        })
    }
}

fn memory_usage(timestamp: i64, memory: &MemoryStats) -> MemoryUsage {
    MemoryUsage {
        timestamp,
        working_set_bytes: value(memory.working_set),
        available_bytes: memory.available.and_then(value),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.rss),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: None,
    }
}

fn psi(pressure: ResourcePressure) -> PsiStats {
    let data = |stalls: Stalls| PsiData {
        // CRI counts nanoseconds, the kernel microseconds.
        total: stalls.total_microseconds.saturating_mul(1000),
        avg10: stalls.last_10_seconds,
        avg60: stalls.last_60_seconds,
        avg300: stalls.last_300_seconds,
    };
    PsiStats {
        full: Some(data(pressure.full)),
        some: Some(data(pressure.some)),
    }
}

/// A wrapped number, which is there even when it is zero.
#[expect(
    clippy::unnecessary_wraps,
    reason = "every field of this type is optional"
)]
fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_told_in_nanoseconds_and_percent() {
        let stalls = Stalls {
            last_10_seconds: 1.5,
            last_60_seconds: 0.5,
            last_300_seconds: 0.25,
            total_microseconds: 7,
        };
        let told = psi(ResourcePressure {
            some: stalls,
            full: Stalls::default(),
        });
        let expected = PsiData {
            total: 7000,
            avg10: 1.5,
            avg60: 0.5,
            avg300: 0.25,
        };
        assert_eq!(told.some, Some(expected));
        assert_eq!(told.full, Some(PsiData::default()));
    }
}
