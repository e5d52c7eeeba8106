//! What a container's processes are confined by, beside namespaces and capabilities.

use std::path::Path;

use oci_spec::runtime::{Linux, Process};
use slipway_cri_api::v1::{ContainerConfig, Mount, NamespaceMode, PodSandboxConfig};
use slipway_engine::{Error, Result};

use super::seccomp::Seccomp;
use super::selinux::Labels;
use super::{apparmor, capabilities, pod_namespaces, seccomp, security, selinux};

/// The profiles and labels of a container, which are there and can be applied.
#[derive(Debug, Clone, Default)]
pub(crate) struct Confinement {
    pub(crate) seccomp: Option<Seccomp>,
    apparmor: Option<String>,
    selinux: Option<Labels>,
}

/// Finds out what a container of a pod is to be confined by. Reads files and may execute
/// apparmor_parser(8), so it blocks.
pub(crate) fn confine(
    pod_id: &str,
    pod: &PodSandboxConfig,
    container: &ContainerConfig,
) -> Result<Confinement> {
    let security = security(container);
    let pod_options = pod
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
        .and_then(|security| security.selinux_options.as_ref());
    let node = NamespaceMode::Node as i32;
    let pod_modes = pod_namespaces(pod);
    let container_modes = security.namespace_options.clone().unwrap_or_default();
    let shares_node = pod_modes.ipc == node || container_modes.pid == node;
    // Whoever works on the node's own processes cannot be kept apart from them by labels.
    let selinux = if security.privileged || shares_node {
        None
    } else {
        selinux::of(pod_options, security.selinux_options.as_ref(), pod_id)?
    };
    Ok(Confinement {
        seccomp: seccomp::of(&security, &capabilities::names(&security)?)?,
        apparmor: apparmor::of(&security)?,
        selinux,
    })
}

impl Confinement {
    /// The SELinux label of the container's files, if it has one.
    pub(crate) fn mount_label(&self) -> Option<&str> {
        self.selinux.as_ref().map(|labels| labels.mount.as_str())
    }

    /// Gives the container's SELinux label to what it gets of its pod's files, and to the volumes
    /// for which that is asked. Blocking: a volume may hold any number of files.
    pub(crate) fn label_files(&self, pod_directory: &Path, mounts: &[Mount]) -> Result<()> {
        let Some(label) = self.mount_label() else {
            return Ok(());
        };
        for name in ["shm", "hostname", "resolv.conf"] {
            let path = pod_directory.join(name);
            if path.exists() {
                selinux::relabel(&path, label).map_err(|error| {
                    Error::internal(format!("relabel {}: {error}", path.display()))
                })?;
            }
        }
        // An image's layers are shared with other containers; they are labelled as they are mounted.
        let asked = |mount: &&Mount| mount.selinux_relabel && mount.image.is_none();
        for mount in mounts.iter().filter(asked) {
            let relabelled = Path::new(&mount.host_path)
                .canonicalize()
                .map_err(|error| error.to_string())
                .and_then(|host| selinux::relabel(&host, label).map_err(|error| error.to_string()));
            relabelled.map_err(|error| {
                Error::precondition(format!(
                    "Mount.selinux_relabel of {:?}: {} cannot be relabelled: {error}",
                    mount.container_path, mount.host_path
                ))
            })?;
        }
        Ok(())
    }

    /// Writes it into the two sections of a configuration that it is about.
    pub(super) fn apply(&self, process: &mut Process, linux: &mut Linux) {
        process.set_apparmor_profile(self.apparmor.clone());
        if let Some(labels) = &self.selinux {
            process.set_selinux_label(Some(labels.process.clone()));
            linux.set_mount_label(Some(labels.mount.clone()));
        }
        linux.set_seccomp(self.seccomp.as_ref().map(|seccomp| seccomp.section.clone()));
    }
}
