//! A pod and a container on disk: what CRI is told of them, and what the engine needs beside that.
//! Nothing else of what Docker says is here, no variables of an environment for example.

use std::path::PathBuf;

use prost::Message;
use slipway_cri_api::v1::{
    ContainerState as StateInCri, ContainerStatus, LinuxContainerResources, NamespaceOption,
    PodSandbox,
};
use slipway_engine::{ContainerExit, ContainerName, ContainerState, PodName};

use crate::checkpoint::Checkpoints;
use crate::images::Names;
use crate::inspect::{Container, Maker, Pod};
use crate::node::Sight;
use crate::views;

/// A pod, without its checkpoint, which has a file of its own.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PodRecord {
    #[prost(message, required, tag = "1")]
    listed: PodSandbox,
    #[prost(int32, optional, tag = "2")]
    pid: Option<i32>,
    #[prost(message, required, tag = "3")]
    namespaces: NamespaceOption,
    #[prost(bool, tag = "4")]
    docker_network: bool,
    #[prost(bool, tag = "5")]
    privileged: bool,
    #[prost(string, tag = "6")]
    cgroup_parent: String,
    #[prost(string, tag = "7")]
    runtime: String,
    #[prost(string, repeated, tag = "8")]
    addresses: Vec<String>,
    #[prost(bool, tag = "9")]
    has_checkpoint: bool,
}

/// A container.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ContainerRecord {
    #[prost(message, required, tag = "1")]
    status: ContainerStatus,
    #[prost(string, tag = "2")]
    pod: String,
    #[prost(int32, optional, tag = "3")]
    pid: Option<i32>,
    #[prost(enumeration = "Maker", tag = "4")]
    maker: i32,
    #[prost(string, optional, tag = "5")]
    docker_log: Option<String>,
    #[prost(message, required, tag = "6")]
    beside: LinuxContainerResources,
    #[prost(string, tag = "7")]
    user: String,
    #[prost(int64, repeated, tag = "8")]
    groups: Vec<i64>,
    #[prost(bool, tag = "9")]
    terminal: bool,
    #[prost(bool, tag = "10")]
    stdin: bool,
    #[prost(bool, tag = "11")]
    stdin_once: bool,
}

impl PodRecord {
    pub(super) fn of(pod: &Pod) -> Self {
        Self {
            listed: views::list_pod(pod),
            pid: pod.pid,
            namespaces: pod.namespaces.clone(),
            docker_network: pod.docker_network,
            privileged: pod.privileged,
            cgroup_parent: pod.cgroup_parent.clone(),
            runtime: pod.runtime.clone(),
            addresses: pod.addresses.iter().map(ToString::to_string).collect(),
            has_checkpoint: pod.checkpoint.is_some(),
        }
    }

    /// None where it was removed since: its checkpoint goes last.
    pub(super) fn read(self, checkpoints: &Checkpoints) -> Option<Pod> {
        let PodSandbox {
            id,
            metadata,
            created_at,
            labels,
            annotations,
            ..
        } = self.listed;
        let checkpoint = checkpoints.get(&id);
        if self.has_checkpoint && checkpoint.is_none() {
            return None;
        }
        let metadata = metadata.unwrap_or_default();
        let addresses = self.addresses.iter();
        Some(Pod {
            id,
            name: PodName {
                name: metadata.name,
                namespace: metadata.namespace,
                uid: metadata.uid,
                attempt: metadata.attempt,
            },
            labels,
            annotations,
            created_at,
            pid: self.pid,
            namespaces: self.namespaces,
            docker_network: self.docker_network,
            privileged: self.privileged,
            cgroup_parent: self.cgroup_parent,
            runtime: self.runtime,
            checkpoint,
            addresses: addresses.filter_map(|one| one.parse().ok()).collect(),
        })
    }
}

impl ContainerRecord {
    /// `names` are its image's.
    pub(super) fn of(container: &Container, names: Names) -> Self {
        let docker_log = container.docker_log.as_ref();
        Self {
            status: views::status_message(container, names, Sight::Present),
            pod: container.name.pod.clone(),
            pid: container.pid,
            maker: container.maker.into(),
            docker_log: docker_log.map(|path| path.to_string_lossy().into_owned()),
            beside: container.beside.clone(),
            user: container.user.clone(),
            groups: container.groups.clone(),
            terminal: container.terminal,
            stdin: container.stdin,
            stdin_once: container.stdin_once,
        }
    }

    /// The id of its image, and what that is called: what people call it is the container's own.
    pub(super) fn image_names(&self) -> (String, Names) {
        let names = Names {
            reference: self.status.image_ref.clone(),
            tag: None,
        };
        (self.status.image_id.clone(), names)
    }

    pub(super) fn read(self) -> Container {
        let state = state(&self.status);
        let maker = self.maker();
        let stop_signal = self.status.stop_signal().as_str_name().to_owned();
        let ContainerStatus {
            id,
            metadata,
            created_at,
            image,
            labels,
            annotations,
            mounts,
            log_path,
            resources,
            image_id,
            ..
        } = self.status;
        let metadata = metadata.unwrap_or_default();
        Container {
            id,
            name: ContainerName {
                pod: self.pod,
                name: metadata.name,
                attempt: metadata.attempt,
            },
            labels,
            annotations,
            created_at,
            state,
            pid: self.pid,
            image_id,
            image: image.unwrap_or_default().image,
            maker,
            log_path: Some(PathBuf::from(log_path)).filter(|path| !path.as_os_str().is_empty()),
            docker_log: self.docker_log.map(PathBuf::from),
            mounts,
            resources: resources
                .and_then(|resources| resources.linux)
                .unwrap_or_default(),
            beside: self.beside,
            user: self.user,
            groups: self.groups,
            stop_signal,
            terminal: self.terminal,
            stdin: self.stdin,
            stdin_once: self.stdin_once,
        }
    }
}

fn state(status: &ContainerStatus) -> ContainerState {
    match status.state() {
        StateInCri::ContainerCreated => ContainerState::Created,
        StateInCri::ContainerRunning => ContainerState::Running {
            started_at: status.started_at,
        },
        StateInCri::ContainerExited | StateInCri::ContainerUnknown => {
            ContainerState::Exited(ContainerExit {
                started_at: status.started_at,
                finished_at: status.finished_at,
                code: status.exit_code,
                reason: status.reason.clone(),
                message: status.message.clone(),
            })
        }
    }
}

/// A pod of an earlier boot.
pub(super) fn end_pod(pod: &mut Pod) {
    pod.pid = None;
}

/// A container of an earlier boot. Docker says 255 of what a reboot has ended, too.
pub(super) fn end_container(container: &mut Container, seen_at: i64) {
    container.pid = None;
    if let ContainerState::Running { started_at } = container.state {
        let message = "the node was rebooted while it ran; Docker can say how it ended";
        let exit = ContainerExit {
            reason: views::UNREACHABLE.to_owned(),
            ..ContainerExit::unknown(started_at, seen_at, message)
        };
        container.state = ContainerState::Exited(exit);
    }
}
