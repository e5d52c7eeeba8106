//! What no engine can honour of a request: refused by the field's name, before anything is made,
//! because a thing that is ignored in silence is worse than one that is refused.

mod device;
mod mount;
mod security;

use std::net::IpAddr;
use std::path::{Component, Path};

use slipway_cri_api::v1::{
    ContainerConfig, NamespaceMode, NamespaceOption, PodSandboxConfig, Protocol,
};

use crate::{ContainerState, Error, Result, Streams};

pub use device::{device_target, devices};
pub use mount::mounts;
pub use security::{groups_policy, security};

const OF_POD: &str = "PodSandboxConfig.linux.security_context.namespace_options";
const OF_CONTAINER: &str = "ContainerConfig.linux.security_context.namespace_options";

/// Checks the modes of a pod's namespaces.
///
/// # Errors
/// `InvalidArgument` for one that a pod cannot have.
pub fn pod_namespaces(options: &NamespaceOption) -> Result<()> {
    for (field, mode) in [("network", options.network), ("ipc", options.ipc)] {
        if mode != NamespaceMode::Pod as i32 && mode != NamespaceMode::Node as i32 {
            return Err(Error::invalid(format!(
                "{OF_POD}.{field} is POD or NODE, the request says {}",
                mode_name(mode)
            )));
        }
    }
    if options.pid == NamespaceMode::Target as i32 {
        return Err(Error::invalid(format!(
            "{OF_POD}.pid is POD, CONTAINER or NODE, the request says TARGET, which is for a \
             container of the pod"
        )));
    }
    Ok(())
}

/// Checks the modes of a container's namespaces against those of its pod.
///
/// # Errors
/// `InvalidArgument` for one that differs from what the pod has.
pub fn container_namespaces(of_pod: &NamespaceOption, options: &NamespaceOption) -> Result<()> {
    let (node, shared) = (NamespaceMode::Node as i32, NamespaceMode::Pod as i32);
    for (field, mode, has) in [
        ("network", options.network, of_pod.network),
        ("ipc", options.ipc, of_pod.ipc),
    ] {
        if mode != shared && (mode != node || has != node) {
            return Err(Error::invalid(format!(
                "{OF_CONTAINER}.{field} is {}, but a container uses its pod's, which is {}",
                mode_name(mode),
                mode_name(has)
            )));
        }
    }
    if options.pid == shared && of_pod.pid != shared {
        return Err(Error::invalid(format!(
            "{OF_CONTAINER}.pid is POD, but the pod was made without a PID namespace to share \
             (its namespace_options.pid is not POD)"
        )));
    }
    Ok(())
}

/// A mode of a namespace, as CRI calls it.
#[must_use]
pub fn mode_name(mode: i32) -> String {
    NamespaceMode::try_from(mode)
        .map_or_else(|_| mode.to_string(), |mode| mode.as_str_name().to_owned())
}

/// Checks a pod's port mappings.
///
/// # Errors
/// `InvalidArgument` for what is no port, no address or no protocol.
pub fn port_mappings(config: &PodSandboxConfig) -> Result<()> {
    for mapping in &config.port_mappings {
        for (field, port) in [
            ("container_port", mapping.container_port),
            ("host_port", mapping.host_port),
        ] {
            if u16::try_from(port).is_err() {
                return Err(Error::invalid(format!(
                    "PortMapping.{field} {port} is not a port (0 to 65535)"
                )));
            }
        }
        if !mapping.host_ip.is_empty() && mapping.host_ip.parse::<IpAddr>().is_err() {
            return Err(Error::invalid(format!(
                "PortMapping.host_ip {:?} is not an IP address",
                mapping.host_ip
            )));
        }
        if Protocol::try_from(mapping.protocol).is_err() {
            return Err(Error::invalid(format!(
                "PortMapping.protocol {} is unknown",
                mapping.protocol
            )));
        }
    }
    Ok(())
}

/// Checks that a container's log stays in its pod's directory.
///
/// # Errors
/// `InvalidArgument` when it does not.
pub fn log_path(config: &ContainerConfig) -> Result<()> {
    let log = Path::new(&config.log_path);
    if log.is_absolute() || log.components().any(|part| part == Component::ParentDir) {
        return Err(Error::invalid(format!(
            "ContainerConfig.log_path {:?} leaves the pod's log directory; it must be a relative \
             path without \"..\"",
            config.log_path
        )));
    }
    Ok(())
}

/// Checks that a container has no more of the node's rights than its pod.
///
/// # Errors
/// `FailedPrecondition` when it would.
pub fn privileges(of_pod: bool, of_container: bool) -> Result<()> {
    if of_container && !of_pod {
        return Err(Error::precondition(
            "the container is privileged, but its pod was made without \
             LinuxSandboxSecurityContext.privileged",
        ));
    }
    Ok(())
}

/// Checks that a container in this state, which was made with these streams, can be attached to
/// with those that are asked for.
///
/// # Errors
/// `InvalidArgument` for streams that it does not have, `FailedPrecondition` when it has exited.
pub fn attach(id: &str, state: &ContainerState, has: Streams, asked: Streams) -> Result<()> {
    if asked.terminal != has.terminal {
        return Err(Error::invalid(format!(
            "AttachRequest.tty is {}, and ContainerConfig.tty of container {id} is {}: they must \
             be the same",
            asked.terminal, has.terminal
        )));
    }
    if asked.stdin && !has.stdin {
        return Err(Error::invalid(format!(
            "AttachRequest.stdin: container {id} was made without standard input \
             (ContainerConfig.stdin is false)"
        )));
    }
    if let ContainerState::Exited(_) = state {
        return Err(Error::precondition(format!(
            "container {id} has exited: there is nothing to attach to; its log has what it wrote"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_path_stays_in_its_directory() {
        let with = |path: &str| ContainerConfig {
            log_path: path.to_owned(),
            ..ContainerConfig::default()
        };
        assert!(log_path(&with("web/0.log")).is_ok());
        assert!(log_path(&with("")).is_ok());
        for path in ["../0.log", "/var/log/x", "a/../../b"] {
            let error = log_path(&with(path)).unwrap_err();
            assert!(error.to_string().contains("log_path"), "{error}");
        }
    }
}
