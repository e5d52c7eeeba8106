//! What pods and containers use: CRI's statistics.
//!
//! They are read from the cgroups that Docker has made, found by the first process of each
//! container, so that they cost dockerd nothing. Only what a writable layer holds is asked of it,
//! for all containers at once, and told from the last answer, which carries its own time.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::query_parameters::ListContainersOptionsBuilder;
use rustix::process::Pid;
use slipway_cgroup::{Cgroup, CgroupPath, CpuStats, Hierarchy, Usage};
use slipway_cri_api::v1::{
    ContainerAttributes, ContainerStats, ContainerStatsFilter, FilesystemIdentifier,
    FilesystemUsage, LinuxPodSandboxStats, NamespaceMode, PodSandboxAttributes, PodSandboxStats,
    PodSandboxStatsFilter, ProcessUsage, UInt64Value,
};
use slipway_engine::{
    CpuRate, Error, Result, blocking, matches_container_stats, matches_pod_stats,
};
use slipway_network::Interface;

use crate::cgroups::cgroup_of;
use crate::inspect::{Container, Pod};
use crate::naming;
use crate::node::{Node, now};

/// Writable layers are not looked at again sooner than this, and not longer than this part of the
/// time: Docker looks at every file in them.
const SHORTEST: Duration = Duration::from_secs(10);
const SHARE: u32 = 50;

/// What must have been looked at before anybody asks.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    rates: Mutex<HashMap<String, CpuRate>>,
    /// Of a container or pause container, and of its first process.
    cgroups: Mutex<HashMap<String, (i32, CgroupPath)>>,
    layers: Mutex<Layers>,
}

/// What writable layers hold, by container.
#[derive(Debug, Default)]
struct Layers {
    bytes: BTreeMap<String, u64>,
    /// Nanoseconds since the epoch.
    at: i64,
    /// When they may be looked at again; none while somebody does.
    next: Next,
}

#[derive(Debug, Default, Clone, Copy)]
enum Next {
    #[default]
    Now,
    At(Instant),
    Running,
}

impl Observed {
    fn cpu_used(&self, id: &str, cpu: &CpuStats) -> Option<u64> {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates
            .entry(id.to_owned())
            .or_default()
            .observe(cpu.at, cpu.usage_nanoseconds)
    }

    /// As [`cgroup_of`], which is asked once for each first process: Docker moves none.
    pub(crate) fn cgroup_of(&self, id: &str, pid: Option<i32>) -> Option<CgroupPath> {
        let pid = pid?;
        let known = || self.cgroups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, path)) = known().get(id)
            && *of == pid
        {
            return Some(path.clone());
        }
        let path = cgroup_of(id, Some(pid))?;
        known().insert(id.to_owned(), (pid, path.clone()));
        Some(path)
    }

    /// It is gone.
    pub(crate) fn forget(&self, id: &str) {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.remove(id);
        drop(rates);
        let mut cgroups = self.cgroups.lock().unwrap_or_else(PoisonError::into_inner);
        cgroups.remove(id);
    }

    /// What a container's writable layer held, in bytes, and when, in nanoseconds since the epoch.
    pub(crate) fn layer(&self, id: &str) -> Option<(u64, i64)> {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.bytes.get(id).map(|bytes| (*bytes, layers.at))
    }

    /// Whether the caller is to look at the layers.
    fn begin(&self) -> bool {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let due = match layers.next {
            Next::Now => true,
            Next::At(time) => Instant::now() >= time,
            Next::Running => false,
        };
        if due {
            layers.next = Next::Running;
        }
        due
    }

    fn end(&self, found: Option<BTreeMap<String, u64>>, at: i64, took: Duration) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        layers.next = Next::At(Instant::now() + SHORTEST.max(took * SHARE));
        if let Some(bytes) = found {
            layers.bytes = bytes;
            layers.at = at;
        }
    }
}

/// What one container uses; one that does not run uses nothing but its writable layer.
pub(crate) async fn container(node: &Arc<Node>, id: &str) -> Result<ContainerStats> {
    let container = node.container(id)?;
    let mut stats = read_all(node, vec![container], container_stats).await?;
    stats
        .pop()
        .ok_or_else(|| Error::internal("one container has no statistics"))
}

/// What the containers that a filter asks for use, the newest first.
pub(crate) async fn containers(
    node: &Arc<Node>,
    filter: Option<&ContainerStatsFilter>,
) -> Result<Vec<ContainerStats>> {
    node.dockerd.up()?;
    let mut containers = node.containers.all();
    containers.retain(|container| matches_container_stats(filter, container.view()));
    containers.sort_by_key(|container| std::cmp::Reverse(container.created_at));
    read_all(node, containers, container_stats).await
}

/// What one pod uses; one that is not ready has containers at most.
pub(crate) async fn pod(node: &Arc<Node>, id: &str) -> Result<PodSandboxStats> {
    let pod = node.pod(id)?;
    let containers = node.containers_of(&pod.id);
    let mut stats = read_all(node, vec![Arc::new((pod, containers))], pod_stats).await?;
    stats
        .pop()
        .ok_or_else(|| Error::internal("one pod has no statistics"))
}

/// What the pods that are ready and that a filter asks for use, the newest first.
pub(crate) async fn pods(
    node: &Arc<Node>,
    filter: Option<&PodSandboxStatsFilter>,
) -> Result<Vec<PodSandboxStats>> {
    node.dockerd.up()?;
    let pods = ready_pods(node, |pod| matches_pod_stats(filter, pod.view()));
    read_all(node, pods, pod_stats).await
}

/// A pod with its containers, ordered by id.
pub(crate) type Populated = (Arc<Pod>, Vec<Arc<Container>>);

/// Those of the pods that are ready that are wanted, the newest first.
pub(crate) fn ready_pods(node: &Node, wanted: impl Fn(&Pod) -> bool) -> Vec<Arc<Populated>> {
    let mut containers: HashMap<String, Vec<_>> = HashMap::new();
    for container in node.containers.all() {
        let of = containers.entry(container.name.pod.clone()).or_default();
        of.push(container);
    }
    let mut pods = node.pods.all();
    pods.retain(|pod| pod.pid.is_some() && wanted(pod));
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
    pods.into_iter()
        .map(|pod| {
            let of = containers.remove(&pod.id).unwrap_or_default();
            Arc::new((pod, of))
        })
        .collect()
}

/// Reads what pods or containers use, in their order.
pub(crate) async fn read_all<T: Send + Sync + 'static, S: Send + 'static>(
    node: &Arc<Node>,
    all: Vec<Arc<T>>,
    read: impl Fn(&Reader, &T) -> S + Send + Sync + 'static,
) -> Result<Vec<S>> {
    look_at_layers(node);
    let detecting = Arc::clone(node);
    let reader = Reader {
        node: Arc::clone(node),
        hierarchy: blocking::run(move || detecting.hierarchy().cloned()).await?,
        root: node.dockerd.up()?.facts.root.clone(),
    };
    blocking::each(all, move |one| read(&reader, one)).await
}

/// What it takes to read what is used.
pub(crate) struct Reader {
    pub(crate) node: Arc<Node>,
    pub(crate) hierarchy: Hierarchy,
    /// Docker's directory, as ImageFsInfo names the file system.
    pub(crate) root: PathBuf,
}

impl Reader {
    /// The cgroup of a container or pause container, as [`cgroup_of`] finds it.
    pub(crate) fn cgroup_of(&self, id: &str, pid: Option<i32>) -> Option<Cgroup> {
        let path = self.node.observed.cgroup_of(id, pid)?;
        Some(self.hierarchy.open(&path))
    }

    /// What the cgroup of a process uses; none where it has ended.
    fn used(&self, id: &str, cgroup: &Cgroup) -> Usage {
        let rate = |cpu: &CpuStats| self.node.observed.cpu_used(id, cpu);
        Usage::read(cgroup, now(), rate).unwrap_or_default()
    }
}

fn container_stats(reader: &Reader, container: &Container) -> ContainerStats {
    let cgroup = reader.cgroup_of(&container.id, container.pid);
    let used = cgroup.map(|cgroup| reader.used(&container.id, &cgroup));
    let Usage {
        cpu,
        memory,
        swap,
        io,
    } = used.unwrap_or_default();
    let layer = reader.node.observed.layer(&container.id);
    ContainerStats {
        attributes: Some(ContainerAttributes {
            id: container.id.clone(),
            metadata: Some(container.metadata()),
            labels: container.labels.clone(),
            annotations: container.annotations.clone(),
        }),
        cpu,
        memory,
        swap,
        writable_layer: layer.map(|(bytes, timestamp)| FilesystemUsage {
            timestamp,
            fs_id: Some(FilesystemIdentifier {
                mountpoint: reader.root.to_string_lossy().into_owned(),
            }),
            used_bytes: Some(UInt64Value { value: bytes }),
            inodes_used: None,
        }),
        io,
    }
}

/// What is in the pod's cgroup: the cgroup that its pause container's is in, where that is the
/// pod's alone, as a kubelet has it.
fn pod_stats(reader: &Reader, (pod, containers): &Populated) -> PodSandboxStats {
    let own = reader.cgroup_of(&pod.id, pod.pid);
    let parent = own.and_then(|cgroup| cgroup.path().parent());
    let parent = parent.filter(|_| !pod.cgroup_parent.is_empty());
    let used = parent.map(|path| reader.used(&pod.id, &reader.hierarchy.open(&path)));
    let Usage {
        cpu, memory, io, ..
    } = used.unwrap_or_default();
    let processes = containers
        .iter()
        .filter_map(|container| reader.cgroup_of(&container.id, container.pid))
        .filter_map(|cgroup| cgroup.sample_processes().ok())
        .map(|pids| pids.len() as u64)
        .sum();
    PodSandboxStats {
        attributes: Some(PodSandboxAttributes {
            id: pod.id.clone(),
            metadata: Some(pod.metadata()),
            labels: pod.labels.clone(),
            annotations: pod.annotations.clone(),
        }),
        linux: Some(LinuxPodSandboxStats {
            cpu,
            memory,
            network: interfaces(pod).map(|interfaces| slipway_network::usage(interfaces, now())),
            process: pod.pid.map(|_| ProcessUsage {
                timestamp: now(),
                process_count: Some(UInt64Value { value: processes }),
            }),
            containers: containers
                .iter()
                .map(|container| container_stats(reader, container))
                .collect(),
            io,
        }),
        windows: None,
    }
}

/// The interfaces of a pod that has a network of its own and is ready.
pub(crate) fn interfaces(pod: &Pod) -> Option<Vec<Interface>> {
    if pod.namespaces.network == NamespaceMode::Node as i32 {
        return None;
    }
    slipway_network::interfaces(Pid::from_raw(pod.pid?)?).ok()
}

/// Has Docker look at the writable layers, if it is time to; nobody waits for it.
fn look_at_layers(node: &Arc<Node>) {
    if !node.observed.begin() {
        return;
    }
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let (began, at) = (Instant::now(), now());
        let filters = HashMap::from([("label", vec![naming::TYPE])]);
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .size(true)
            .filters(&filters)
            .build();
        let listed = node
            .dockerd
            .call("measure writable layers", |docker| async move {
                docker.list_containers(Some(options)).await
            })
            .await;
        let found = listed.map(|listed| {
            let sizes = listed.into_iter().filter_map(|container| {
                let bytes = u64::try_from(container.size_rw.unwrap_or_default()).ok()?;
                Some((container.id?, bytes))
            });
            sizes.collect()
        });
        if let Err(error) = &found {
            tracing::warn!(%error, "what writable layers hold is not known");
        }
        node.observed.end(found.ok(), at, began.elapsed());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_looked_at_by_one_and_not_again_at_once() {
        let observed = Observed::default();
        assert!(observed.begin());
        assert!(!observed.begin());
        let found = BTreeMap::from([("a".to_owned(), 7)]);
        observed.end(Some(found), 5, Duration::ZERO);
        assert!(!observed.begin());
        assert_eq!(observed.layer("a"), Some((7, 5)));
        assert_eq!(observed.layer("b"), None);
    }
}
