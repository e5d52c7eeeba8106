//! Pods and containers in CRI's words.

use std::collections::HashMap;

use slipway_cri_api::v1::{
    Container as ContainerMessage, ContainerFilter, ContainerResources, ContainerStatus,
    ContainerStatusResponse, ContainerUser, ImageSpec, LinuxContainerResources, LinuxContainerUser,
    LinuxPodSandboxStatus, Namespace, NamespaceOption, PodIp, PodSandbox, PodSandboxFilter,
    PodSandboxMetadata, PodSandboxNetworkStatus, PodSandboxState, PodSandboxStatus,
    PodSandboxStatusResponse,
};
use slipway_engine::{
    ContainerState, ContainerView, PodView, Result, Verbosity, matches_container, matches_pod,
    signal,
};

use crate::images::Names;
use crate::inspect::{Container, Pod};
use crate::node::{Node, Sight, now};

/// Why a container is said to run that may not run any more.
pub(crate) const UNREACHABLE: &str = "DockerUnreachable";

impl Pod {
    fn state(&self) -> PodSandboxState {
        match self.pid {
            Some(_) => PodSandboxState::SandboxReady,
            None => PodSandboxState::SandboxNotready,
        }
    }

    pub(crate) fn metadata(&self) -> PodSandboxMetadata {
        PodSandboxMetadata {
            name: self.name.name.clone(),
            namespace: self.name.namespace.clone(),
            uid: self.name.uid.clone(),
            attempt: self.name.attempt,
        }
    }

    fn handler(&self) -> String {
        self.checkpoint
            .as_ref()
            .map(|checkpoint| checkpoint.handler.clone())
            .unwrap_or_default()
    }

    /// What it takes beside its containers, where that was said.
    fn overhead(&self) -> Option<&LinuxContainerResources> {
        let checkpoint = self.checkpoint.as_ref()?;
        let asked = || {
            checkpoint
                .config
                .as_ref()?
                .linux
                .as_ref()?
                .overhead
                .as_ref()
        };
        checkpoint.overhead.as_ref().or_else(asked)
    }

    /// What its containers may use together, where that was said.
    fn resources(&self) -> Option<&LinuxContainerResources> {
        let checkpoint = self.checkpoint.as_ref()?;
        let asked = || {
            checkpoint
                .config
                .as_ref()?
                .linux
                .as_ref()?
                .resources
                .as_ref()
        };
        checkpoint.resources.as_ref().or_else(asked)
    }

    /// As the request had them; else as Docker has them, which does not tell a PID namespace that
    /// is shared.
    pub(crate) fn namespaces(&self) -> NamespaceOption {
        let asked = self
            .checkpoint
            .as_ref()
            .and_then(|checkpoint| checkpoint.config.as_ref()?.linux.as_ref())
            .map(|linux| linux.security_context.clone().unwrap_or_default());
        match asked {
            Some(security) => security.namespace_options.unwrap_or_default(),
            None => self.namespaces.clone(),
        }
    }

    /// What filters look at.
    pub(crate) fn view(&self) -> PodView<'_> {
        PodView {
            id: &self.id,
            state: self.state(),
            labels: &self.labels,
        }
    }
}

impl Container {
    /// What filters look at.
    pub(crate) fn view(&self) -> ContainerView<'_> {
        ContainerView {
            id: &self.id,
            pod: &self.name.pod,
            state: self.state.cri(),
            labels: &self.labels,
        }
    }
}

pub(crate) fn pods(node: &Node, filter: Option<&PodSandboxFilter>) -> Result<Vec<PodSandbox>> {
    node.dockerd.is_known()?;
    let mut pods: Vec<_> = node
        .pods
        .all()
        .iter()
        .filter(|pod| matches_pod(filter, pod.view()))
        .map(|pod| list_pod(pod))
        .collect();
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
    Ok(pods)
}

/// A pod as lists have it.
pub(crate) fn list_pod(pod: &Pod) -> PodSandbox {
    PodSandbox {
        id: pod.id.clone(),
        metadata: Some(pod.metadata()),
        state: pod.state().into(),
        created_at: pod.created_at,
        labels: pod.labels.clone(),
        annotations: pod.annotations.clone(),
        runtime_handler: pod.handler(),
    }
}

/// A pod as its status has it.
pub(crate) fn pod_message(pod: &Pod) -> PodSandboxStatus {
    let addresses = pod.addresses.iter().filter(|_| pod.pid.is_some());
    let mut addresses = addresses.map(ToString::to_string);
    PodSandboxStatus {
        id: pod.id.clone(),
        metadata: Some(pod.metadata()),
        state: pod.state().into(),
        created_at: pod.created_at,
        network: Some(PodSandboxNetworkStatus {
            ip: addresses.next().unwrap_or_default(),
            additional_ips: addresses.map(|ip| PodIp { ip }).collect(),
        }),
        linux: Some(LinuxPodSandboxStatus {
            namespaces: Some(Namespace {
                options: Some(pod.namespaces()),
            }),
        }),
        labels: pod.labels.clone(),
        annotations: pod.annotations.clone(),
        runtime_handler: pod.handler(),
    }
}

/// The containers of a pod as their statuses have them, ordered by id.
pub(crate) fn container_messages(node: &Node, pod: &str, sight: Sight) -> Vec<ContainerStatus> {
    let containers = node.containers_of(pod);
    containers
        .iter()
        .map(|container| status_of(node, container, sight))
        .collect()
}

pub(crate) fn pod_status(
    node: &Node,
    id: &str,
    verbosity: Verbosity,
) -> Result<PodSandboxStatusResponse> {
    let sight = node.look()?;
    let pod = node.pods.get(id)?;
    let info = match verbosity {
        Verbosity::Plain => HashMap::new(),
        Verbosity::Verbose => info(&serde_json::json!({
            "engine": "docker",
            "pid": pod.pid,
            "netns": pod.pid.map(|pid| format!("/proc/{pid}/ns/net")),
            "cgroupParent": pod.cgroup_parent,
            "runtime": pod.runtime,
            "overhead": pod.overhead(),
            "resources": pod.resources(),
        })),
    };
    Ok(PodSandboxStatusResponse {
        status: Some(pod_message(&pod)),
        info,
        containers_statuses: container_messages(node, &pod.id, sight),
        timestamp: now(),
    })
}

fn info(value: &serde_json::Value) -> HashMap<String, String> {
    HashMap::from([("info".to_owned(), value.to_string())])
}

pub(crate) fn containers(
    node: &Node,
    filter: Option<&ContainerFilter>,
) -> Result<Vec<ContainerMessage>> {
    node.look()?;
    let mut containers: Vec<_> = node
        .containers
        .all()
        .iter()
        .filter(|container| matches_container(filter, container.view()))
        .map(|container| list_message(node, container))
        .collect();
    containers.sort_by_key(|container| std::cmp::Reverse(container.created_at));
    Ok(containers)
}

fn list_message(node: &Node, container: &Container) -> ContainerMessage {
    ContainerMessage {
        id: container.id.clone(),
        pod_sandbox_id: container.name.pod.clone(),
        metadata: Some(container.metadata()),
        image: Some(image_spec(
            container,
            &node.image_names.of(&container.image_id),
        )),
        // The id here, the digest in the status: kubelets compare this one with Image.id.
        image_ref: container.image_id.clone(),
        state: container.state.cri().into(),
        created_at: container.created_at,
        labels: container.labels.clone(),
        annotations: container.annotations.clone(),
        image_id: container.image_id.clone(),
    }
}

/// As the request named it; kubelets had dockershim use an image's id, which tells people nothing.
fn image_spec(container: &Container, names: &Names) -> ImageSpec {
    let tag = names
        .tag
        .as_ref()
        .filter(|_| container.image == container.image_id);
    ImageSpec {
        image: tag.unwrap_or(&container.image).clone(),
        ..ImageSpec::default()
    }
}

pub(crate) fn container_status(
    node: &Node,
    id: &str,
    verbosity: Verbosity,
) -> Result<ContainerStatusResponse> {
    let sight = node.look()?;
    let container = node.containers.get(id)?;
    let info = match verbosity {
        Verbosity::Plain => HashMap::new(),
        Verbosity::Verbose => info(&serde_json::json!({
            "engine": "docker",
            "sandboxID": container.name.pod,
            "pid": container.pid,
            "dockerLog": container.docker_log,
        })),
    };
    Ok(ContainerStatusResponse {
        status: Some(status_of(node, &container, sight)),
        info,
    })
}

fn status_of(node: &Node, container: &Container, sight: Sight) -> ContainerStatus {
    let names = node.image_names.of(&container.image_id);
    status_message(container, names, sight)
}

/// A container as its status has it.
pub(crate) fn status_message(container: &Container, names: Names, sight: Sight) -> ContainerStatus {
    let (started_at, finished_at, exit_code, reason, message) = match container.state.clone() {
        ContainerState::Created => Default::default(),
        ContainerState::Running { started_at } => {
            let (reason, message) = match sight {
                Sight::Present => ("", ""),
                Sight::Remembered => (UNREACHABLE, "this is what Docker said last"),
            };
            (started_at, 0, 0, reason.to_owned(), message.to_owned())
        }
        ContainerState::Exited(exit) => (
            exit.started_at,
            exit.finished_at,
            exit.code,
            exit.reason,
            exit.message,
        ),
    };
    let stop_signal = signal::parse(&container.stop_signal).unwrap_or(signal::SIGTERM);
    ContainerStatus {
        id: container.id.clone(),
        metadata: Some(container.metadata()),
        state: container.state.cri().into(),
        created_at: container.created_at,
        started_at,
        finished_at,
        exit_code,
        image: Some(image_spec(container, &names)),
        image_ref: names.reference,
        reason,
        message,
        labels: container.labels.clone(),
        annotations: container.annotations.clone(),
        mounts: container.mounts.clone(),
        log_path: container
            .log_path
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default(),
        resources: Some(ContainerResources {
            linux: Some(container.resources.clone()),
            windows: None,
        }),
        image_id: container.image_id.clone(),
        user: user(container),
        stop_signal: signal::in_cri(stop_signal).into(),
    }
}

/// The user where it is known by number: Docker looks names up when it starts a container, and
/// keeps to itself what it finds.
fn user(container: &Container) -> Option<ContainerUser> {
    let (user, group) = match container.user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (container.user.as_str(), None),
    };
    let uid = if user.is_empty() { Ok(0) } else { user.parse() };
    let gid = match group {
        None => Some(0),
        Some(group) => group.parse().ok(),
    };
    Some(ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: uid.ok()?,
            gid: gid?,
            supplemental_groups: container.groups.clone(),
        }),
    })
}
