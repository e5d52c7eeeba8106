//! What Docker says of a container, read as a pod or as a container of one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use bollard::models::{
    ContainerInspectResponse, ContainerState as DockerState, HostConfig, Mount as DockerMount,
    MountBindOptionsPropagationEnum, MountPoint, NetworkSettings,
};
use slipway_cri_api::v1::{
    ContainerMetadata, LinuxContainerResources, Mount, MountPropagation, NamespaceMode,
    NamespaceOption,
};
use slipway_engine::{ContainerExit, ContainerName, ContainerState, PodName};

use crate::checkpoint::{Checkpoint, Checkpoints};
use crate::files::Files;
use crate::{limits, naming};

/// A pod: the container that holds its namespaces, and its checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) name: PodName,
    pub(crate) labels: HashMap<String, String>,
    pub(crate) annotations: HashMap<String, String>,
    /// Nanoseconds since the epoch.
    pub(crate) created_at: i64,
    /// The first process of its namespaces; none when it has ended.
    pub(crate) pid: Option<i32>,
    pub(crate) namespaces: NamespaceOption,
    /// Whether Docker itself has given it its network, as dockershim could have it.
    pub(crate) docker_network: bool,
    pub(crate) privileged: bool,
    /// As Docker has it.
    pub(crate) cgroup_parent: String,
    /// Docker's runtime.
    pub(crate) runtime: String,
    /// None where another runtime has made it and it was not adopted yet.
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) addresses: Vec<IpAddr>,
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: ContainerName,
    pub(crate) labels: HashMap<String, String>,
    pub(crate) annotations: HashMap<String, String>,
    /// Nanoseconds since the epoch.
    pub(crate) created_at: i64,
    pub(crate) state: ContainerState,
    /// Its first process as the node numbers it; none while there is none.
    pub(crate) pid: Option<i32>,
    /// `sha256:…`
    pub(crate) image_id: String,
    /// The image as the request named it.
    pub(crate) image: String,
    pub(crate) maker: Maker,
    /// Where a kubelet looks for its log.
    pub(crate) log_path: Option<PathBuf>,
    /// Docker's own file; none before it was started, or with another log driver.
    pub(crate) docker_log: Option<PathBuf>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) resources: LinuxContainerResources,
    /// Of these, those that Docker has no place for.
    pub(crate) beside: LinuxContainerResources,
    /// `user[:group]` as Docker was told.
    pub(crate) user: String,
    pub(crate) groups: Vec<i64>,
    pub(crate) stop_signal: String,
    pub(crate) terminal: bool,
    pub(crate) stdin: bool,
    pub(crate) stdin_once: bool,
}

/// Who has made a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Maker {
    Slipway = 0,
    /// dockershim or cri-dockerd.
    Other = 1,
}

/// Something of Kubernetes' that is in Docker.
#[derive(Debug)]
pub(crate) enum Found {
    Pod(Box<Pod>),
    /// A pod of Slipway's that is not complete.
    HalfMade,
    Container(Box<Container>),
}

/// Reads what Docker answers, with what was noted beside; none where it is nothing of Kubernetes'.
pub(crate) fn read(
    inspected: ContainerInspectResponse,
    checkpoints: &Checkpoints,
    noted: &Files<LinuxContainerResources>,
) -> Option<Found> {
    let id = inspected.id?;
    let config = inspected.config.unwrap_or_default();
    let host = inspected.host_config.unwrap_or_default();
    let all = config.labels.unwrap_or_default();
    let (labels, annotations) = naming::split_labels(&all);
    let state = inspected.state.unwrap_or_default();
    let created_at = inspected.created.as_deref().map_or(0, nanoseconds);
    let pid = pid(&state);
    let docker_name = inspected.name.unwrap_or_default();
    match all.get(naming::TYPE)?.as_str() {
        naming::SANDBOX => {
            let own = all.contains_key(naming::CHECKPOINTED);
            let checkpoint = checkpoints.get(&id);
            if own && checkpoint.is_none() {
                return Some(Found::HalfMade);
            }
            Some(Found::Pod(Box::new(Pod {
                name: naming::parse_pod(&docker_name)?,
                addresses: checkpoint.as_ref().map_or_else(
                    || addresses(inspected.network_settings.as_ref()),
                    Checkpoint::addresses,
                ),
                docker_network: has_docker_network(&host),
                id,
                labels,
                annotations,
                created_at,
                pid,
                namespaces: namespaces(&host),
                privileged: is_privileged(checkpoint.as_ref(), &host),
                cgroup_parent: host.cgroup_parent.unwrap_or_default(),
                runtime: host.runtime.unwrap_or_default(),
                checkpoint,
            })))
        }
        naming::CONTAINER => {
            let pod = all.get(naming::SANDBOX_ID)?;
            let image = config.image.unwrap_or_default();
            let groups = host.group_add.iter().flatten();
            let beside = noted.get(&id).unwrap_or_else(|| limits::of_labels(&all));
            Some(Found::Container(Box::new(Container {
                name: naming::parse_container(&docker_name, pod)?,
                labels,
                annotations,
                created_at,
                state: container_state(&state),
                pid,
                image_id: inspected.image.unwrap_or_default(),
                image: all.get(naming::IMAGE).cloned().unwrap_or(image),
                maker: if all.contains_key(naming::IMAGE) {
                    Maker::Slipway
                } else {
                    Maker::Other
                },
                log_path: all
                    .get(naming::LOG_PATH)
                    .filter(|path| !path.is_empty())
                    .map(PathBuf::from),
                docker_log: inspected
                    .log_path
                    .filter(|path| !path.is_empty())
                    .map(PathBuf::from),
                mounts: match host.mounts.as_deref() {
                    Some(mounts) if !mounts.is_empty() => mounts.iter().map(mount).collect(),
                    // dockershim asked for them in Docker's older way (`Binds`).
                    _ => inspected
                        .mounts
                        .iter()
                        .flatten()
                        .filter_map(bound)
                        .collect(),
                },
                groups: groups.filter_map(|group| group.parse().ok()).collect(),
                resources: limits::together(resources(&host), &beside),
                beside,
                user: config.user.unwrap_or_default(),
                stop_signal: config.stop_signal.unwrap_or_default(),
                terminal: config.tty.unwrap_or_default(),
                stdin: config.open_stdin.unwrap_or_default(),
                stdin_once: config.stdin_once.unwrap_or_default(),
                id,
            })))
        }
        _ => None,
    }
}

/// The addresses that Docker has given to a container.
fn addresses(settings: Option<&NetworkSettings>) -> Vec<IpAddr> {
    let networks = settings.and_then(|settings| settings.networks.as_ref());
    let networks = networks.into_iter().flat_map(|networks| networks.values());
    let addresses = networks.flat_map(|one| [&one.ip_address, &one.global_ipv6_address]);
    addresses
        .filter_map(|address| address.as_deref()?.parse().ok())
        .collect()
}

fn has_docker_network(host: &HostConfig) -> bool {
    match host.network_mode.as_deref() {
        None | Some("none" | "host") => false,
        Some(mode) => !mode.starts_with("container:"),
    }
}

/// Whether a pod may have privileged containers. Its pause container needs no privileges to hold
/// namespaces, but dockershim gave them to it.
fn is_privileged(checkpoint: Option<&Checkpoint>, host: &HostConfig) -> bool {
    let asked = checkpoint
        .and_then(|checkpoint| checkpoint.config.as_ref()?.linux.as_ref())
        .and_then(|linux| linux.security_context.as_ref());
    let asked = asked.is_some_and(|security| security.privileged);
    asked || host.privileged.unwrap_or_default()
}

impl Container {
    pub(crate) fn metadata(&self) -> ContainerMetadata {
        ContainerMetadata {
            name: self.name.name.clone(),
            attempt: self.name.attempt,
        }
    }
}

fn pid(state: &DockerState) -> Option<i32> {
    let running = state.running.unwrap_or_default();
    let pid = state.pid.and_then(|pid| i32::try_from(pid).ok());
    pid.filter(|&pid| running && pid > 0)
}

/// Nanoseconds since the epoch; 0 for what is no time, or Go's zero time.
fn nanoseconds(time: &str) -> i64 {
    let time: Option<jiff::Timestamp> = time.parse().ok();
    time.and_then(|time| i64::try_from(time.as_nanosecond()).ok())
        .unwrap_or_default()
        .max(0)
}

fn container_state(state: &DockerState) -> ContainerState {
    let started_at = state.started_at.as_deref().map_or(0, nanoseconds);
    let finished_at = state.finished_at.as_deref().map_or(0, nanoseconds);
    let code = state
        .exit_code
        .and_then(|code| i32::try_from(code).ok())
        .unwrap_or_default();
    let message = state.error.clone().unwrap_or_default();
    if state.running.unwrap_or_default() {
        return ContainerState::Running { started_at };
    }
    if started_at == 0 {
        // Docker keeps a container that it could not start as created, with the reason.
        return if code == 0 && message.is_empty() {
            ContainerState::Created
        } else {
            ContainerState::Exited(ContainerExit::start_error(finished_at, message))
        };
    }
    // Docker notes the start of a container when it hears of it, which may be after its end.
    let finished_at = finished_at.max(started_at);
    let killed = state.oom_killed.unwrap_or_default();
    let mut exit = ContainerExit::of_process(started_at, finished_at, code, killed);
    exit.message = message;
    ContainerState::Exited(exit)
}

fn namespaces(host: &HostConfig) -> NamespaceOption {
    let mode = |mode: &Option<String>, own: NamespaceMode| {
        if mode.as_deref() == Some("host") {
            NamespaceMode::Node.into()
        } else {
            own.into()
        }
    };
    NamespaceOption {
        network: mode(&host.network_mode, NamespaceMode::Pod),
        pid: mode(&host.pid_mode, NamespaceMode::Container),
        ipc: mode(&host.ipc_mode, NamespaceMode::Pod),
        ..NamespaceOption::default()
    }
}

fn mount(mount: &DockerMount) -> Mount {
    let bind = mount.bind_options.clone().unwrap_or_default();
    let propagation = match bind.propagation {
        Some(MountBindOptionsPropagationEnum::RSLAVE | MountBindOptionsPropagationEnum::SLAVE) => {
            MountPropagation::PropagationHostToContainer
        }
        Some(
            MountBindOptionsPropagationEnum::RSHARED | MountBindOptionsPropagationEnum::SHARED,
        ) => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    };
    Mount {
        container_path: mount.target.clone().unwrap_or_default(),
        host_path: mount.source.clone().unwrap_or_default(),
        readonly: mount.read_only.unwrap_or_default(),
        recursive_read_only: bind.read_only_force_recursive.unwrap_or_default(),
        propagation: propagation.into(),
        ..Mount::default()
    }
}

/// What of the node is at a place in the container, whichever way it was asked for; no volumes of Docker's.
fn bound(mount: &MountPoint) -> Option<Mount> {
    if mount.typ.as_deref() != Some("bind") {
        return None;
    }
    let propagation = match mount.propagation.as_deref() {
        Some("rslave" | "slave") => MountPropagation::PropagationHostToContainer,
        Some("rshared" | "shared") => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    };
    Some(Mount {
        container_path: mount.destination.clone().unwrap_or_default(),
        host_path: mount.source.clone().unwrap_or_default(),
        readonly: mount.rw == Some(false),
        propagation: propagation.into(),
        ..Mount::default()
    })
}

fn resources(host: &HostConfig) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_period: host.cpu_period.unwrap_or_default(),
        cpu_quota: host.cpu_quota.unwrap_or_default(),
        cpu_shares: host.cpu_shares.unwrap_or_default(),
        memory_limit_in_bytes: host.memory.unwrap_or_default(),
        memory_swap_limit_in_bytes: host.memory_swap.unwrap_or_default(),
        oom_score_adj: host.oom_score_adj.unwrap_or_default(),
        cpuset_cpus: host.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: host.cpuset_mems.clone().unwrap_or_default(),
        ..LinuxContainerResources::default()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn state(json: serde_json::Value) -> ContainerState {
        container_state(&serde_json::from_value(json).unwrap())
    }

    const NEVER: &str = "0001-01-01T00:00:00Z";
    const START: &str = "2024-01-02T03:04:05.000000006Z";
    const END: &str = "2024-01-02T03:04:06Z";

    #[test]
    fn dockers_states_are_those_of_cri() {
        let at = |seconds: i64| (1_704_164_645 + seconds) * 1_000_000_000;
        let created = state(serde_json::json!({
            "Status": "created", "StartedAt": NEVER, "FinishedAt": NEVER, "ExitCode": 0, "Error": "",
        }));
        assert_eq!(created, ContainerState::Created);
        let running = state(serde_json::json!({
            "Status": "running", "Running": true, "StartedAt": START, "FinishedAt": NEVER,
        }));
        assert_eq!(
            running,
            ContainerState::Running {
                started_at: at(0) + 6
            }
        );
        let ContainerState::Exited(exit) = state(serde_json::json!({
            "Status": "exited", "StartedAt": START, "FinishedAt": END, "ExitCode": 137,
            "OOMKilled": true,
        })) else {
            panic!("it has exited");
        };
        assert_eq!((exit.code, exit.reason.as_str()), (137, "OOMKilled"));
        assert_eq!(exit.finished_at, at(1));
        let ContainerState::Exited(exit) = state(serde_json::json!({
            "Status": "created", "StartedAt": NEVER, "FinishedAt": NEVER, "ExitCode": 127,
            "Error": "no such file",
        })) else {
            panic!("it cannot be started");
        };
        assert_eq!((exit.code, exit.reason.as_str()), (128, "StartError"));
        assert_eq!(exit.message, "no such file");
    }

    /// With nothing that was noted beside.
    fn read_alone(json: serde_json::Value) -> Option<Found> {
        let nowhere = || Path::new("/not/there").to_owned();
        let inspected = serde_json::from_value(json).unwrap();
        read(inspected, &Files::new(nowhere()), &Files::new(nowhere()))
    }

    #[test]
    fn what_is_not_of_kubernetes_is_left_alone() {
        let other = serde_json::json!({
            "Id": "a", "Name": "/web", "Config": { "Labels": { "app": "web" } },
        });
        assert!(read_alone(other).is_none());
    }

    #[test]
    fn a_pod_of_dockershim_is_one_without_a_checkpoint() {
        let pod = serde_json::json!({
            "Id": "a", "Name": "/k8s_POD_web_shop_7c1e_0",
            "State": { "Running": true, "Pid": 7 },
            "HostConfig": { "NetworkMode": "host", "IpcMode": "shareable" },
            "Config": { "Labels": {
                "io.kubernetes.docker.type": "podsandbox",
                "io.kubernetes.container.name": "POD",
                "app": "web", "annotation.a": "b",
            } },
        });
        let Some(Found::Pod(pod)) = read_alone(pod) else {
            panic!("it is a pod");
        };
        assert_eq!(
            pod.labels,
            HashMap::from([("app".to_owned(), "web".to_owned())])
        );
        assert_eq!(
            pod.annotations,
            HashMap::from([("a".to_owned(), "b".to_owned())])
        );
        assert_eq!(pod.pid, Some(7));
        assert_eq!(pod.namespaces.network, NamespaceMode::Node as i32);
        assert!(pod.checkpoint.is_none());
    }
}
