//! What a request asks that this version cannot honour: refused by name, before anything is made,
//! because a thing that is ignored in silence is worse than one that is refused.

use std::net::IpAddr;
use std::path::{Component, Path};

use slipway_cri_api::v1::security_profile::ProfileType;
use slipway_cri_api::v1::{
    ContainerConfig, NamespaceMode, NamespaceOption, PodSandboxConfig, Protocol, SeLinuxOption,
    SecurityProfile,
};
use slipway_engine::{Error, Result};

use super::{pod_namespaces, security};

/// Checks a pod's configuration.
pub(crate) fn pod(config: &PodSandboxConfig) -> Result<()> {
    let namespaces = pod_namespaces(config);
    modes(
        &namespaces,
        "PodSandboxConfig.linux.security_context.namespace_options",
    )?;
    for (field, mode) in [("network", namespaces.network), ("ipc", namespaces.ipc)] {
        if mode != NamespaceMode::Pod as i32 && mode != NamespaceMode::Node as i32 {
            return Err(Error::invalid(format!(
                "a pod's {field} namespace is POD or NODE, the request says {}",
                name(mode)
            )));
        }
    }
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
    let host_network = namespaces.network == NamespaceMode::Node as i32;
    let host_ipc = namespaces.ipc == NamespaceMode::Node as i32;
    let sysctls = config.linux.as_ref().map(|linux| &linux.sysctls);
    for key in sysctls.into_iter().flat_map(|sysctls| sysctls.keys()) {
        sysctl(key, host_network, host_ipc)?;
    }
    if let Some(context) = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
    {
        selinux(context.selinux_options.as_ref())?;
    }
    Ok(())
}

/// Checks a container's configuration against its pod's.
#[expect(
    deprecated,
    reason = "kubelets before 1.25 still send the paths of profiles"
)]
pub(crate) fn container(pod: &PodSandboxConfig, config: &ContainerConfig) -> Result<()> {
    let security = security(config);
    let namespaces = security.namespace_options.clone().unwrap_or_default();
    modes(
        &namespaces,
        "ContainerConfig.linux.security_context.namespace_options",
    )?;
    if namespaces.pid == NamespaceMode::Pod as i32
        && pod_namespaces(pod).pid != NamespaceMode::Pod as i32
    {
        return Err(Error::invalid(
            "the container asks for the pod's PID namespace, but the pod was made without one \
             (its namespace_options.pid is not POD)",
        ));
    }
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
    } else {
        // A privileged container runs without profiles, whatever it asks for, as at the peers.
        profile(
            security.seccomp.as_ref(),
            &security.seccomp_profile_path,
            "seccomp",
        )?;
        profile(
            security.apparmor.as_ref(),
            &security.apparmor_profile,
            "apparmor",
        )?;
    }
    selinux(security.selinux_options.as_ref())?;
    super::mounts::check(&config.mounts)?;
    super::devices::check(config)?;
    if !config.cdi_devices.is_empty() {
        return Err(later("ContainerConfig.CDI_devices"));
    }
    for mount in &config.mounts {
        if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
            return Err(later("Mount.uidMappings and gidMappings"));
        }
        if mount.selinux_relabel && Path::new("/sys/fs/selinux/enforce").exists() {
            return Err(later("Mount.selinux_relabel"));
        }
    }
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

fn modes(options: &NamespaceOption, field: &str) -> Result<()> {
    for mode in [options.network, options.pid, options.ipc] {
        if NamespaceMode::try_from(mode).is_err() {
            return Err(Error::invalid(format!(
                "{field} has the unknown mode {mode}"
            )));
        }
    }
    if options.pid == NamespaceMode::Target as i32 {
        return Err(later("namespace_options.pid TARGET"));
    }
    if options
        .userns_options
        .as_ref()
        .is_some_and(|user| user.mode != NamespaceMode::Node as i32)
    {
        return Err(later("namespace_options.userns_options (user namespaces)"));
    }
    Ok(())
}

fn name(mode: i32) -> String {
    NamespaceMode::try_from(mode)
        .map_or_else(|_| mode.to_string(), |mode| mode.as_str_name().to_owned())
}

fn profile(profile: Option<&SecurityProfile>, deprecated: &str, field: &str) -> Result<()> {
    let confined = match profile {
        Some(profile) => profile.profile_type != ProfileType::Unconfined as i32,
        None => !deprecated.is_empty() && deprecated != "unconfined",
    };
    // Where the kernel has no AppArmor there is no default profile to apply, as at the peers.
    let nothing_to_apply = field == "apparmor"
        && !Path::new("/sys/kernel/security/apparmor").exists()
        && profile.is_some_and(|it| it.profile_type == ProfileType::RuntimeDefault as i32);
    if confined && !nothing_to_apply {
        return Err(later(&format!(
            "security_context.{field} other than Unconfined"
        )));
    }
    Ok(())
}

fn selinux(options: Option<&SeLinuxOption>) -> Result<()> {
    let labelled = options.is_some_and(|options| *options != SeLinuxOption::default());
    if labelled && Path::new("/sys/fs/selinux/enforce").exists() {
        return Err(later("security_context.selinux_options"));
    }
    Ok(())
}

/// Kernel parameters that belong to a namespace (sysctl.d(5) names, also with slashes).
fn sysctl(key: &str, host_network: bool, host_ipc: bool) -> Result<()> {
    let dotted = key.replace('/', ".");
    let of_network = dotted.starts_with("net.");
    let of_ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."]
        .iter()
        .any(|prefix| dotted.starts_with(prefix))
        || dotted == "kernel.sem";
    if dotted.contains("..") || !(of_network || of_ipc) {
        return Err(Error::invalid(format!(
            "sysctl {key} is not one of a pod's own (net.*, kernel.shm*, kernel.msg*, kernel.sem, \
             fs.mqueue.*); set it on the node"
        )));
    }
    if (of_network && host_network) || (of_ipc && host_ipc) {
        return Err(Error::invalid(format!(
            "sysctl {key} belongs to a namespace that this pod shares with the node; set it on \
             the node"
        )));
    }
    Ok(())
}

fn later(what: &str) -> Error {
    Error::unimplemented(format!(
        "{what} cannot be honoured by this version of slipway"
    ))
}

#[cfg(test)]
mod tests {
    use slipway_engine::Kind;

    use super::*;

    #[test]
    fn sysctls_of_the_node_are_refused() {
        assert!(sysctl("net.ipv4.ip_forward", false, false).is_ok());
        assert!(sysctl("net/ipv4/ip_forward", false, false).is_ok());
        assert!(sysctl("kernel.shmmax", false, false).is_ok());
        for (key, network, ipc) in [
            ("net.ipv4.ip_forward", true, false),
            ("kernel.shmmax", false, true),
            ("kernel.panic", false, false),
            ("net/../kernel/panic", false, false),
        ] {
            let error = sysctl(key, network, ipc).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{key}");
        }
    }

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

    #[test]
    fn a_profile_that_is_not_there_yet_is_refused() {
        let mut config = ContainerConfig::default();
        let security = config
            .linux
            .get_or_insert_default()
            .security_context
            .get_or_insert_default();
        security.seccomp = Some(SecurityProfile {
            profile_type: ProfileType::RuntimeDefault as i32,
            localhost_ref: String::new(),
        });
        let error = container(&PodSandboxConfig::default(), &config).unwrap_err();
        assert_eq!(error.kind(), Kind::Unimplemented);
        assert!(error.to_string().contains("seccomp"), "{error}");
    }
}
