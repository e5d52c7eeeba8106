//! What a request asks that cannot be honoured: refused by name, before anything is made,
//! because a thing that is ignored in silence is worse than one that is refused.

use std::net::IpAddr;
use std::path::{Component, Path};

use slipway_cri_api::v1::{ContainerConfig, PodSandboxConfig, Protocol};
use slipway_engine::{Error, Result};

use super::sysctl;
use super::{identity, namespaces, pod_namespaces, security};

/// Checks a pod's configuration.
pub(crate) fn pod(config: &PodSandboxConfig) -> Result<()> {
    let namespaces = pod_namespaces(config);
    namespaces::check_pod(config)?;
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
    let sysctls = config.linux.as_ref().map(|linux| &linux.sysctls);
    for name in sysctls.into_iter().flat_map(|sysctls| sysctls.keys()) {
        sysctl::check(name, &namespaces)?;
    }
    identity::pod(config)?;
    Ok(())
}

/// Checks a container's configuration against its pod's.
pub(crate) fn container(pod: &PodSandboxConfig, config: &ContainerConfig) -> Result<()> {
    let security = security(config);
    namespaces::check_container(pod, config)?;
    if security.privileged {
        let pod = pod
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref());
        if !pod.is_some_and(|security| security.privileged) {
            return Err(Error::precondition(
                "the container is privileged, but its pod was made without \
                 LinuxSandboxSecurityContext.privileged",
            ));
        }
    }
    identity::container(&security)?;
    super::mounts::check(&config.mounts)?;
    super::devices::check(config)?;
    super::cdi::check(config)?;
    let log = Path::new(&config.log_path);
    if log.is_absolute() || log.components().any(|part| part == Component::ParentDir) {
        return Err(Error::invalid(format!(
            "ContainerConfig.log_path {:?} leaves the pod's log directory {:?}; it must be a \
             relative path without \"..\"",
            config.log_path, pod.log_directory
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
        let pod = PodSandboxConfig::default();
        assert!(container(&pod, &with("web/0.log")).is_ok());
        assert!(container(&pod, &with("")).is_ok());
        for path in ["../0.log", "/var/log/x", "a/../../b"] {
            let error = container(&pod, &with(path)).unwrap_err();
            assert!(error.to_string().contains("log_path"), "{error}");
        }
    }
}
