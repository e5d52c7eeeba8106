//! What a request asks that Docker cannot do: refused by name, before anything is made, because a
//! thing that is ignored in silence is worse than one that is refused.

use std::collections::HashMap;
use std::path::Path;

use slipway_cgroup::CgroupPath;
use slipway_cri_api::v1::{
    ContainerConfig, Mount, NamespaceMode, NamespaceOption, PodSandboxConfig,
    SupplementalGroupsPolicy,
};
use slipway_engine::{Error, Result, refuse};

use crate::dockerd::Facts;
use crate::inspect::Pod;

/// The kernel parameter of a UTS namespace.
const DOMAIN_NAME: &str = "kernel.domainname";

/// Since this version of the interface mounts can be read-only with all that is below them.
const RECURSIVE_READ_ONLY: (usize, usize) = (1, 44);

/// Since this version of the interface a container can have devices of CDI.
const CDI: (usize, usize) = (1, 44);

/// Since this version of the interface an image can be mounted, and a directory in it by itself.
const IMAGE_MOUNTS: (usize, usize) = (1, 48);

/// Checks a pod's configuration.
pub(crate) fn pod(config: &PodSandboxConfig, facts: &Facts) -> Result<()> {
    const OPTIONS: &str = "PodSandboxConfig.linux.security_context.namespace_options";
    let linux = config.linux.clone().unwrap_or_default();
    let options = linux
        .security_context
        .and_then(|security| security.namespace_options)
        .unwrap_or_default();
    refuse::pod_namespaces(&options)?;
    if has_own_users(&options) {
        return Err(Error::precondition(format!(
            "{OPTIONS}.userns_options: Docker has user namespaces for all containers or for none \
             (userns-remap), not for one pod"
        )));
    }
    cgroup_parent(&linux.cgroup_parent, facts)?;
    for name in linux.sysctls.keys() {
        sysctl(name, &options)?;
    }
    refuse::port_mappings(config)
}

fn cgroup_parent(parent: &str, facts: &Facts) -> Result<()> {
    const FIELD: &str = "LinuxPodSandboxConfig.cgroup_parent";
    if parent.is_empty() {
        return Ok(());
    }
    CgroupPath::parse(parent)
        .map_err(|error| Error::invalid(format!("{FIELD} {parent:?}: {error}")))?;
    if facts.systemd_cgroups != parent.strip_suffix(".slice").is_some() {
        let driver = if facts.systemd_cgroups {
            "systemd, which wants a slice"
        } else {
            "cgroupfs, which wants a path"
        };
        return Err(Error::invalid(format!(
            "{FIELD} {parent:?}: Docker's cgroup driver is {driver}; give the kubelet the same \
             cgroupDriver"
        )));
    }
    Ok(())
}

/// Refuses a kernel parameter that Docker sets for no container, or only where the pod has the
/// namespace for itself.
fn sysctl(name: &str, options: &NamespaceOption) -> Result<()> {
    const IPC: [&str; 3] = ["kernel.shm", "kernel.msg", "fs.mqueue."];
    let dotted = dotted(name).ok_or_else(|| {
        Error::invalid(format!(
            "LinuxPodSandboxConfig.sysctls: {name:?} is not the name of a sysctl"
        ))
    })?;
    let (mode, what) = if dotted.starts_with("net.") {
        (options.network, "network")
    } else if dotted == "kernel.sem" || IPC.iter().any(|prefix| dotted.starts_with(prefix)) {
        (options.ipc, "IPC")
    } else if dotted == DOMAIN_NAME {
        // A pod on the node's network has the node's name.
        (options.network, "UTS")
    } else {
        return Err(Error::invalid(format!(
            "LinuxPodSandboxConfig.sysctls: {name} is not one of a pod's own (net.*, kernel.shm*, \
             kernel.msg*, kernel.sem, fs.mqueue.*, kernel.domainname); set it on the node"
        )));
    };
    if mode == NamespaceMode::Node as i32 {
        return Err(Error::invalid(format!(
            "LinuxPodSandboxConfig.sysctls: {name} belongs to the {what} namespace, which this \
             pod shares with the node; set it on the node"
        )));
    }
    Ok(())
}

/// Of a pod's kernel parameters the one that each of its containers has to be told.
pub(crate) fn domain_name(pod: &Pod) -> HashMap<String, String> {
    let config = pod
        .checkpoint
        .as_ref()
        .and_then(|made| made.config.as_ref());
    let linux = config.and_then(|config| config.linux.as_ref());
    let all = linux.into_iter().flat_map(|linux| &linux.sysctls);
    all.filter(|(name, _)| dotted(name).as_deref() == Some(DOMAIN_NAME))
        .map(|(_, value)| (DOMAIN_NAME.to_owned(), value.clone()))
        .collect()
}

/// A kernel parameter in the notation with dots, which is the only one that runc knows. The first
/// separator tells which notation it is in, and the other character is then part of a name
/// (sysctl(8)). None where it is no name.
pub(crate) fn dotted(name: &str) -> Option<String> {
    let separator = name.find(['.', '/']).map(|at| name.as_bytes()[at])?;
    let dotted: String = if separator == b'.' {
        name.to_owned()
    } else {
        let swapped = name.chars().map(|letter| match letter {
            '.' => '/',
            '/' => '.',
            other => other,
        });
        swapped.collect()
    };
    let mut parts = dotted.split('.');
    let good = !dotted.contains("..") && parts.all(|part| !matches!(part, "" | "/" | "//"));
    good.then_some(dotted)
}

fn has_own_users(options: &NamespaceOption) -> bool {
    let users = options.userns_options.as_ref();
    users.is_some_and(|users| users.mode != NamespaceMode::Node as i32)
}

/// The CDI devices that a container asks for, by field and by annotation.
pub(crate) fn cdi_devices(config: &ContainerConfig) -> impl Iterator<Item = &str> {
    let annotated = config
        .annotations
        .iter()
        .filter(|(key, _)| key.starts_with("cdi.k8s.io/"))
        .flat_map(|(_, names)| names.split(','));
    let fields = config.cdi_devices.iter();
    fields.map(|device| device.name.as_str()).chain(annotated)
}

/// Checks a container's configuration against its pod's.
pub(crate) fn container(pod: &Pod, config: &ContainerConfig, facts: &Facts) -> Result<()> {
    const SECURITY: &str = "ContainerConfig.linux.security_context";
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    refuse::privileges(pod.privileged, security.privileged)?;
    refuse::security(&security)?;
    namespaces(pod, security.namespace_options.unwrap_or_default())?;
    let capabilities = security.capabilities.unwrap_or_default();
    if !capabilities.add_ambient_capabilities.is_empty() {
        return Err(Error::precondition(format!(
            "{SECURITY}.capabilities.add_ambient_capabilities: Docker gives no ambient capabilities"
        )));
    }
    if security.supplemental_groups_policy == SupplementalGroupsPolicy::Strict as i32 {
        return Err(Error::precondition(format!(
            "{SECURITY}.supplemental_groups_policy is Strict: Docker always adds the groups that \
             the image has for the user"
        )));
    }
    if facts.api < CDI
        && let Some(device) = cdi_devices(config).next()
    {
        return Err(Error::precondition(format!(
            "ContainerConfig.CDI_devices has {device:?}: this Docker knows no CDI; Docker 25 and \
             later do"
        )));
    }
    refuse::devices(&config.devices)?;
    refuse::mounts(&config.mounts)?;
    for mount in &config.mounts {
        self::mount(mount, facts)?;
    }
    refuse::log_path(config)
}

/// A container has what its pod has.
fn namespaces(pod: &Pod, mut options: NamespaceOption) -> Result<()> {
    let of_pod = pod.namespaces();
    // Of a pod of dockershim, also an adopted one, it is not known whether it has processes to share.
    let config = pod.checkpoint.as_ref().and_then(|it| it.config.as_ref());
    if config.is_none() && options.pid == NamespaceMode::Pod as i32 {
        options.pid = NamespaceMode::Container as i32;
    }
    refuse::container_namespaces(&of_pod, &options)
}

fn mount(mount: &Mount, facts: &Facts) -> Result<()> {
    let path = &mount.container_path;
    if mount.image.is_some() {
        if facts.api < IMAGE_MOUNTS {
            return Err(Error::precondition(format!(
                "Mount.image at {path}: this Docker mounts no images; Docker 28 and later do"
            )));
        }
        return Ok(());
    }
    if Path::new(path).starts_with("/proc") && Path::new(path) != Path::new("/proc") {
        return Err(Error::invalid(format!(
            "Mount.container_path {path:?} is in /proc, where Docker mounts nothing"
        )));
    }
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(Error::precondition(format!(
            "Mount.uidMappings at {path}: Docker has no id-mapped mounts"
        )));
    }
    if mount.recursive_read_only && facts.api < RECURSIVE_READ_ONLY {
        return Err(Error::precondition(format!(
            "Mount.recursive_read_only at {path}: this Docker makes only the mount itself \
             read-only; Docker 25 and later can do it with all below it"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_parameters_are_known_in_both_notations() {
        let dotted = |name: &str| super::dotted(name);
        for (name, expected) in [
            ("net.ipv4.ip_forward", "net.ipv4.ip_forward"),
            ("net/ipv4/ip_forward", "net.ipv4.ip_forward"),
            (
                "net/ipv4/conf/eth0.100/forwarding",
                "net.ipv4.conf.eth0/100.forwarding",
            ),
        ] {
            assert_eq!(dotted(name).as_deref(), Some(expected));
        }
        for nonsense in ["", "net", "net..x", "net/../kernel/panic", "net/", ".net"] {
            assert_eq!(dotted(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn cdi_devices_are_found_in_annotations_too() {
        let mut config = ContainerConfig::default();
        assert_eq!(cdi_devices(&config).count(), 0);
        let annotation = ("cdi.k8s.io/plugin".to_owned(), "v/c=0,v/c=1".to_owned());
        config.annotations = [annotation].into();
        assert_eq!(cdi_devices(&config).collect::<Vec<_>>(), ["v/c=0", "v/c=1"]);
    }
}
