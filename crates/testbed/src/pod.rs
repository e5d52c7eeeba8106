//! Configurations of pods and containers as a kubelet would send them, for tests to change.

use std::path::PathBuf;

use slipway_cri_api::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext,
    NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol,
};

use crate::Scratch;

/// A pod of the namespace `default`: a PID namespace for each container, the node's own cgroup
/// parent, a unique uid, and a log directory that exists.
///
/// # Panics
/// When the log directory cannot be made.
pub fn config(scratch: &Scratch, name: &str) -> PodSandboxConfig {
    let uid = format!(
        "00000000-0000-4000-8000-{:06}{:06}",
        scratch.number(),
        scratch.serial()
    );
    let log_directory = scratch.join("logs").join(format!("default_{name}_{uid}"));
    std::fs::create_dir_all(&log_directory).expect("a scratch directory takes a log directory");
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.into(),
            uid,
            namespace: "default".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        log_directory: log_directory.display().to_string(),
        labels: [("app".into(), name.into())].into(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: scratch.cgroup_parent(),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A container with the log `<name>.log` in its pod's log directory. An empty `command` leaves the
/// image's own.
pub fn container<const N: usize>(name: &str, image: &str, command: [&str; N]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: name.into(),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image: image.into(),
            ..Default::default()
        }),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A container that runs a shell script.
pub fn shell(name: &str, image: &str, script: &str) -> ContainerConfig {
    container(name, image, ["/bin/sh", "-c", script])
}

/// A container that says `ready` in its log, sleeps, and ends with code 0 on SIGTERM.
pub fn sleeper(name: &str, image: &str) -> ContainerConfig {
    shell(
        name,
        image,
        "trap 'exit 0' TERM; echo ready; sleep 2147483647 & wait",
    )
}

/// A TCP port of the pod on all of the host's addresses.
pub fn port(container_port: u16, host_port: u16) -> PortMapping {
    PortMapping {
        protocol: Protocol::Tcp.into(),
        container_port: container_port.into(),
        host_port: host_port.into(),
        host_ip: String::new(),
    }
}

/// Where a container of a pod logs to.
pub fn log_path(pod: &PodSandboxConfig, container: &ContainerConfig) -> PathBuf {
    PathBuf::from(&pod.log_directory).join(&container.log_path)
}

fn namespaces() -> NamespaceOption {
    NamespaceOption {
        pid: NamespaceMode::Container.into(),
        ..Default::default()
    }
}
