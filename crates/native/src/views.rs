//! Pods and containers in CRI's words.

use std::collections::HashMap;
use std::sync::Arc;

use slipway_cri_api::v1::{
    Container as ContainerMessage, ContainerFilter, ContainerResources, ContainerStatus,
    ContainerStatusResponse, ContainerUser, ImageSpec, LinuxContainerUser, LinuxPodSandboxStatus,
    Namespace, PodIp, PodSandbox, PodSandboxFilter, PodSandboxNetworkStatus, PodSandboxState,
    PodSandboxStatus, PodSandboxStatusResponse,
};
use slipway_engine::{
    ContainerState, ContainerView, PodView, Result, Verbosity, matches_container, matches_pod,
    signal,
};

use crate::container::Container;
use crate::lifecycle::log_path;
use crate::node::{Node, now};
use crate::pod::{Pod, PodState};
use crate::spec::pod_namespaces;

fn pod_state(pod: &Pod) -> PodSandboxState {
    match pod.state() {
        PodState::Ready { .. } => PodSandboxState::SandboxReady,
        PodState::Broken { .. } | PodState::Stopped => PodSandboxState::SandboxNotready,
    }
}

/// What filters look at.
pub(crate) fn pod_view(pod: &Pod) -> PodView<'_> {
    PodView {
        id: pod.id(),
        state: pod_state(pod),
        labels: &pod.record.config.labels,
    }
}

/// What filters look at.
pub(crate) fn container_view(container: &Container) -> ContainerView<'_> {
    ContainerView {
        id: container.id(),
        pod: container.pod.id(),
        state: container.state().cri(),
        labels: &container.record.config.labels,
    }
}

pub(crate) fn pods(node: &Node, filter: Option<&PodSandboxFilter>) -> Vec<PodSandbox> {
    let mut pods: Vec<_> = node
        .pods
        .all()
        .iter()
        .filter(|pod| matches_pod(filter, pod_view(pod)))
        .map(|pod| PodSandbox {
            id: pod.id().to_owned(),
            metadata: pod.record.config.metadata.clone(),
            state: pod_state(pod).into(),
            created_at: pod.record.created_at,
            labels: pod.record.config.labels.clone(),
            annotations: pod.record.config.annotations.clone(),
            runtime_handler: pod.record.handler.clone(),
        })
        .collect();
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
    pods
}

/// A pod as its status has it.
pub(crate) fn pod_message(pod: &Pod) -> PodSandboxStatus {
    let network = match pod.state() {
        PodState::Ready { addresses, .. } => {
            let mut addresses = addresses.iter().map(ToString::to_string);
            PodSandboxNetworkStatus {
                ip: addresses.next().unwrap_or_default(),
                additional_ips: addresses.map(|ip| PodIp { ip }).collect(),
            }
        }
        PodState::Broken { .. } | PodState::Stopped => PodSandboxNetworkStatus::default(),
    };
    PodSandboxStatus {
        id: pod.id().to_owned(),
        metadata: pod.record.config.metadata.clone(),
        state: pod_state(pod).into(),
        created_at: pod.record.created_at,
        network: Some(network),
        linux: Some(LinuxPodSandboxStatus {
            namespaces: Some(Namespace {
                options: Some(pod_namespaces(&pod.record.config)),
            }),
        }),
        labels: pod.record.config.labels.clone(),
        annotations: pod.record.config.annotations.clone(),
        runtime_handler: pod.record.handler.clone(),
    }
}

/// The containers of a pod as their statuses have them, ordered by id.
pub(crate) fn container_messages(node: &Node, pod: &Pod) -> Vec<ContainerStatus> {
    let containers = pod.containers().into_iter();
    containers
        .filter_map(|id| node.containers.find(&id).ok().flatten())
        .map(|container| status_message(&container))
        .collect()
}

pub(crate) fn pod_status(
    node: &Node,
    id: &str,
    verbosity: Verbosity,
) -> Result<PodSandboxStatusResponse> {
    let pod = node.pods.get(id)?;
    let info = match verbosity {
        Verbosity::Plain => HashMap::new(),
        Verbosity::Verbose => info(&serde_json::json!({
            "shimPid": pod.any_shim().map(|shim| shim.pid()),
            "directory": pod.directory,
            "cgroup": pod.cgroup.as_str(),
            "netns": pod.directory.join("ns/net"),
            "overhead": pod.resources().overhead,
            "resources": pod.resources().resources,
        })),
    };
    Ok(PodSandboxStatusResponse {
        status: Some(pod_message(&pod)),
        info,
        containers_statuses: container_messages(node, &pod),
        timestamp: now(),
    })
}

fn info(value: &serde_json::Value) -> HashMap<String, String> {
    HashMap::from([("info".to_owned(), value.to_string())])
}

pub(crate) fn containers(node: &Node, filter: Option<&ContainerFilter>) -> Vec<ContainerMessage> {
    let mut containers: Vec<_> = node
        .containers
        .all()
        .iter()
        .filter(|container| matches_container(filter, container_view(container)))
        .map(list_message)
        .collect();
    containers.sort_by_key(|container| std::cmp::Reverse(container.created_at));
    containers
}

fn list_message(container: &Arc<Container>) -> ContainerMessage {
    let record = &container.record;
    ContainerMessage {
        id: record.id.clone(),
        pod_sandbox_id: record.pod.clone(),
        metadata: record.config.metadata.clone(),
        image: record.config.image.clone(),
        // The id here, the digest in the status: kubelets compare this one with Image.id.
        image_ref: record.image_id.clone(),
        state: container.state().cri().into(),
        created_at: record.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        image_id: record.image_id.clone(),
    }
}

pub(crate) fn container_status(
    node: &Node,
    id: &str,
    verbosity: Verbosity,
) -> Result<ContainerStatusResponse> {
    let container = node.containers.get(id)?;
    let info = match verbosity {
        Verbosity::Plain => HashMap::new(),
        Verbosity::Verbose => info(&serde_json::json!({
            "sandboxID": container.pod.id(),
            "pid": container.pid(),
            "bundle": node.bundle(container.pod.id(), container.id()),
            "writableLayer": node.writable(container.id()).join("upper"),
            "snapshotLayers": container.record.chain_ids,
            "cgroup": container.record.cgroup,
            "updateAnnotations": container.update().map(|update| update.annotations),
        })),
    };
    Ok(ContainerStatusResponse {
        status: Some(status_message(&container)),
        info,
    })
}

fn status_message(container: &Container) -> ContainerStatus {
    let record = &container.record;
    let state = container.state();
    let cri = state.cri();
    let (started_at, finished_at, exit_code, reason, message) = match state {
        ContainerState::Created => Default::default(),
        ContainerState::Running { started_at } => (started_at, 0, 0, String::new(), String::new()),
        ContainerState::Exited(exit) => (
            exit.started_at,
            exit.finished_at,
            exit.code,
            exit.reason,
            exit.message,
        ),
    };
    let log = log_path(&container.pod, &record.config);
    let resources = container.resources();
    ContainerStatus {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: cri.into(),
        created_at: record.created_at,
        started_at,
        finished_at,
        exit_code,
        image: record.config.image.as_ref().map(|image| ImageSpec {
            image: if image.user_specified_image.is_empty() {
                image.image.clone()
            } else {
                image.user_specified_image.clone()
            },
            ..image.clone()
        }),
        image_ref: record.image_ref.clone(),
        reason,
        message,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        mounts: record.config.mounts.clone(),
        log_path: log
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default(),
        resources: resources.map(|linux| ContainerResources {
            linux: Some(linux),
            windows: None,
        }),
        image_id: record.image_id.clone(),
        user: Some(ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: record.uid.into(),
                gid: record.gid.into(),
                supplemental_groups: record.groups.iter().copied().map(i64::from).collect(),
            }),
        }),
        stop_signal: signal::in_cri(record.stop_signal).into(),
    }
}
