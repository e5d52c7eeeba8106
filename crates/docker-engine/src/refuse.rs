//! What a request asks that Docker cannot do: refused by name, before anything is made, because a
//! thing that is ignored in silence is worse than one that is refused.

use std::path::{Component, Path};

use slipway_cgroup::CgroupPath;
use slipway_cri_api::v1::{
    ContainerConfig, Mount, NamespaceMode, NamespaceOption, PodSandboxConfig,
};
use slipway_engine::{Error, Result, refuse};

use crate::dockerd::Facts;
use crate::inspect::Pod;

/// Since this version of the interface mounts can be read-only with all that is below them.
const RECURSIVE_READ_ONLY: (usize, usize) = (1, 44);

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
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let (mode, what) = if name.starts_with("net.") {
        (options.network, "network")
    } else if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        (options.ipc, "IPC")
    } else {
        return Err(Error::invalid(format!(
            "LinuxPodSandboxConfig.sysctls: {name} is not one of a pod's own (net.*, kernel.shm*, \
             kernel.msg*, kernel.sem, fs.mqueue.*); set it on the node"
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

fn has_own_users(options: &NamespaceOption) -> bool {
    let users = options.userns_options.as_ref();
    users.is_some_and(|users| users.mode == NamespaceMode::Pod as i32)
}

/// Checks a container's configuration against its pod's.
pub(crate) fn container(pod: &Pod, config: &ContainerConfig, facts: &Facts) -> Result<()> {
    const SECURITY: &str = "ContainerConfig.linux.security_context";
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    refuse::privileges(pod.privileged, security.privileged)?;
    namespaces(pod, security.namespace_options.unwrap_or_default())?;
    let capabilities = security.capabilities.unwrap_or_default();
    if !capabilities.add_ambient_capabilities.is_empty() {
        return Err(Error::precondition(format!(
            "{SECURITY}.capabilities.add_ambient_capabilities: Docker gives no ambient capabilities"
        )));
    }
    if security.run_as_group.is_some()
        && security.run_as_user.is_none()
        && security.run_as_username.is_empty()
    {
        return Err(Error::invalid(format!(
            "{SECURITY}.run_as_group is set, and neither run_as_user nor run_as_username is"
        )));
    }
    if !config.cdi_devices.is_empty() && facts.api < RECURSIVE_READ_ONLY {
        return Err(Error::precondition(
            "ContainerConfig.CDI_devices: this Docker knows no CDI; Docker 25 and later do",
        ));
    }
    for mount in &config.mounts {
        self::mount(mount, facts)?;
    }
    refuse::log_path(config)
}

/// A container has what its pod has.
fn namespaces(pod: &Pod, mut options: NamespaceOption) -> Result<()> {
    let of_pod = pod.namespaces();
    // Of a pod of dockershim it is not known whether it has processes to share.
    if pod.checkpoint.is_none() && options.pid == NamespaceMode::Pod as i32 {
        options.pid = NamespaceMode::Container as i32;
    }
    refuse::container_namespaces(&of_pod, &options)
}

fn mount(mount: &Mount, facts: &Facts) -> Result<()> {
    let path = &mount.container_path;
    let components = Path::new(path).components();
    if !Path::new(path).is_absolute() || components.clone().any(|part| part == Component::ParentDir)
    {
        return Err(Error::invalid(format!(
            "Mount.container_path {path:?} is not an absolute path without \"..\""
        )));
    }
    if let Some(image) = &mount.image
        && !image.image.is_empty()
    {
        if facts.api < IMAGE_MOUNTS {
            return Err(Error::precondition(format!(
                "Mount.image at {path}: this Docker mounts no images; Docker 28 and later do"
            )));
        }
        if !mount.host_path.is_empty() {
            return Err(Error::invalid(format!(
                "Mount at {path} has both an image and a host_path"
            )));
        }
        return Ok(());
    }
    if !Path::new(&mount.host_path).is_absolute() {
        return Err(Error::invalid(format!(
            "Mount.host_path {:?} for {path} is not an absolute path",
            mount.host_path
        )));
    }
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(Error::precondition(format!(
            "Mount.uidMappings at {path}: Docker has no id-mapped mounts"
        )));
    }
    if mount.recursive_read_only {
        if !mount.readonly {
            return Err(Error::invalid(format!(
                "Mount.recursive_read_only at {path} needs readonly"
            )));
        }
        if facts.api < RECURSIVE_READ_ONLY {
            return Err(Error::precondition(format!(
                "Mount.recursive_read_only at {path}: this Docker makes only the mount itself \
                 read-only; Docker 25 and later can do it with all below it"
            )));
        }
    }
    Ok(())
}
