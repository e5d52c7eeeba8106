//! The OCI runtime configuration of a container, from what CRI asks and what the image says.
//!
//! Whatever a request asks that cannot be honoured is refused here, before anything is made.

mod apparmor;
mod capabilities;
mod cdi;
mod confinement;
mod devices;
pub mod fuzzing;
mod identity;
mod mounts;
mod namespaces;
mod process;
mod refuse;
mod resources;
mod seccomp;
mod selinux;
mod sysctl;

use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{LinuxBuilder, RootBuilder, Spec, SpecBuilder};
use slipway_cdi::Edits;
use slipway_cgroup::{CgroupPath, DeviceRule, Resources};
use slipway_cri_api::v1::{
    ContainerConfig, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig,
};
use slipway_engine::{Error, Result};

use crate::config::Config;
use crate::user::User;
use crate::volumes::ImageVolumes;

pub(crate) use cdi::resolve as resolve_cdi;
pub(crate) use confinement::{Confinement, confine};
pub(crate) use namespaces::{check_user, user_mappings};
pub(crate) use refuse::{container as check_container, pod as check_pod};

/// What a container's configuration is made from.
pub(crate) struct Plan<'a> {
    pub(crate) config: &'a Config,
    pub(crate) pod: &'a PodSandboxConfig,
    /// Where the pod's pinned namespaces, `shm`, `hostname` and `resolv.conf` are.
    pub(crate) pod_directory: &'a Path,
    pub(crate) hostname: &'a str,
    pub(crate) container: &'a ContainerConfig,
    pub(crate) image: &'a ImageConfiguration,
    /// What its CDI devices need.
    pub(crate) cdi: &'a Edits,
    /// The images that are mounted as volumes.
    pub(crate) volumes: &'a ImageVolumes,
    pub(crate) user: &'a User,
    pub(crate) confinement: &'a Confinement,
    /// Where the root file system is mounted, in the container's own mount namespace.
    pub(crate) rootfs: &'a Path,
    pub(crate) cgroups: slipway_cgroup::Version,
    /// The container's cgroup, from the root of the hierarchies.
    pub(crate) cgroup: &'a CgroupPath,
    pub(crate) resources: &'a Resources,
    /// The first process, as the node numbers it, of the container whose processes it sees.
    pub(crate) target: Option<i32>,
}

/// A configuration, and the device rules for the cgroup that goes with it.
pub(crate) struct Generated {
    pub(crate) spec: Spec,
    pub(crate) devices: Vec<DeviceRule>,
}

/// The security context of a container, or CRI's defaults.
pub(crate) fn security(container: &ContainerConfig) -> LinuxContainerSecurityContext {
    container
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.clone())
        .unwrap_or_default()
}

/// The namespace options of a pod, or CRI's defaults.
pub(crate) fn pod_namespaces(pod: &PodSandboxConfig) -> NamespaceOption {
    pod.linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
        .and_then(|security| security.namespace_options.clone())
        .unwrap_or_default()
}

/// Makes the configuration. Looks at host paths of mounts, so it blocks.
pub(crate) fn generate(plan: &Plan<'_>) -> Result<Generated> {
    let security = security(plan.container);
    let mut devices = devices::of(plan.config, plan.container, &security)?;
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces::of(plan, &security)?)
        .devices(devices.nodes)
        .build()
        .map_err(built)?;
    linux.set_cgroups_path(Some(PathBuf::from(plan.cgroup.as_str())));
    linux.set_resources(Some(resources::of(plan.resources, &devices.rules)?));
    namespaces::map_users(&mut linux, plan.pod)?;
    linux.set_rootfs_propagation(Some(mounts::propagation(&plan.container.mounts).to_owned()));
    let (masked, read_only) = hidden_paths(plan.pod, &security);
    linux.set_masked_paths(Some(masked));
    linux.set_readonly_paths(Some(read_only));

    let mut process = process::of(plan, &security)?;
    plan.confinement.apply(&mut process, &mut linux);

    let mut spec = SpecBuilder::default()
        // Older crun takes no later one; what came since are fields that are not asked for in vain.
        .version("1.0.2")
        .root(
            RootBuilder::default()
                .path(plan.rootfs)
                .readonly(security.readonly_rootfs)
                .build()
                .map_err(built)?,
        )
        .process(process)
        .mounts(mounts::of(plan, &security)?)
        .linux(linux)
        .build()
        .map_err(built)?;
    // The pod's UTS namespace has its name already; what the builder puts here is another's.
    spec.set_hostname(None);
    spec.set_annotations(Some(plan.container.annotations.clone()));
    devices
        .rules
        .extend(cdi::apply(plan.cdi, &mut spec, plan.container)?);
    Ok(Generated {
        spec,
        devices: devices.rules,
    })
}

#[expect(clippy::needless_pass_by_value, reason = "map_err hands it over")]
fn built(error: OciSpecError) -> Error {
    Error::internal(format!(
        "the container's OCI configuration cannot be made: {error}"
    ))
}

/// Paths that are masked and paths that are read-only: what the request lists; where it lists
/// nothing (a list that is empty on purpose looks the same in protobuf), what the peers mask. Only
/// in a user namespace an empty list is taken at its word: there the kernel guards its files
/// itself, and `procMount: Unmasked` is allowed.
fn hidden_paths(
    pod: &PodSandboxConfig,
    security: &LinuxContainerSecurityContext,
) -> (Vec<String>, Vec<String>) {
    const MASKED: &[&str] = &[
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ];
    const READ_ONLY: &[&str] = &[
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger",
    ];
    let user_namespace = pod_namespaces(pod)
        .userns_options
        .is_some_and(|options| options.mode == NamespaceMode::Pod as i32);
    if security.privileged {
        return (Vec::new(), Vec::new());
    }
    let or = |listed: &[String], default: &[&str]| {
        if listed.is_empty() && !user_namespace {
            default.iter().map(|&path| path.to_owned()).collect()
        } else {
            listed.to_vec()
        }
    };
    (
        or(&security.masked_paths, MASKED),
        or(&security.readonly_paths, READ_ONLY),
    )
}
