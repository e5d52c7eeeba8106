//! What a request asks that cannot be honoured: refused by name, before anything is made,
//! because a thing that is ignored in silence is worse than one that is refused.

use slipway_cri_api::v1::{ContainerConfig, PodSandboxConfig};
use slipway_engine::{Result, refuse};

use super::sysctl;
use super::{identity, namespaces, pod_namespaces, security};

/// Checks a pod's configuration.
pub(crate) fn pod(config: &PodSandboxConfig) -> Result<()> {
    let namespaces = pod_namespaces(config);
    namespaces::check_pod(config)?;
    refuse::port_mappings(config)?;
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
    let of_pod = pod
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref());
    refuse::privileges(
        of_pod.is_some_and(|security| security.privileged),
        security.privileged,
    )?;
    identity::container(&security)?;
    refuse::mounts(&config.mounts)?;
    super::mounts::check(&config.mounts)?;
    refuse::devices(&config.devices)?;
    super::cdi::check(config)?;
    refuse::log_path(config)
}
