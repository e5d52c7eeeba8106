//! `config.json`, as far as the shim acts on it (OCI runtime specification, "Configuration").
//!
//! The `oci-spec` crate is the daemon's: it knows every field of every platform, and brings a
//! regular expression engine along; here it made up two thirds of the executable.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// Something that is there or not, and whose value does not matter.
pub(crate) type Presence = Option<IgnoredAny>;

/// The configuration of a container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    #[serde(default)]
    pub(crate) oci_version: String,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) root: Root,
    pub(crate) process: Process,
    pub(crate) hostname: Option<String>,
    #[serde(default)]
    pub(crate) mounts: Vec<Mount>,
    #[serde(default)]
    pub(crate) linux: Linux,
    #[serde(default)]
    pub(crate) hooks: Hooks,
}

/// Programs of the node that are run at points of the container's life.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Hooks {
    pub(crate) prestart: Vec<Hook>,
    pub(crate) create_runtime: Vec<Hook>,
    pub(crate) create_container: Vec<Hook>,
    pub(crate) start_container: Vec<Hook>,
    pub(crate) poststart: Vec<Hook>,
    pub(crate) poststop: Vec<Hook>,
}

/// One of them.
#[derive(Debug, Deserialize)]
pub(crate) struct Hook {
    pub(crate) path: PathBuf,
    /// With the name of the program, as for execve(2).
    #[serde(default)]
    pub(crate) args: Vec<String>,
    #[serde(default)]
    pub(crate) env: Vec<String>,
    /// In seconds.
    pub(crate) timeout: Option<u64>,
}

/// The root file system.
#[derive(Debug, Deserialize)]
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    #[serde(default)]
    pub(crate) readonly: bool,
}

/// A mount.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mount {
    pub(crate) destination: PathBuf,
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    pub(crate) source: Option<PathBuf>,
    #[serde(default)]
    pub(crate) options: Vec<String>,
    pub(crate) uid_mappings: Presence,
    pub(crate) gid_mappings: Presence,
}

/// A process.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process {
    #[serde(default)]
    pub(crate) terminal: bool,
    pub(crate) console_size: Option<ConsoleSize>,
    #[serde(default)]
    pub(crate) user: User,
    #[serde(default)]
    pub(crate) args: Vec<String>,
    #[serde(default)]
    pub(crate) env: Vec<String>,
    pub(crate) cwd: PathBuf,
    #[serde(default)]
    pub(crate) capabilities: Capabilities,
    #[serde(default)]
    pub(crate) rlimits: Vec<ResourceLimit>,
    #[serde(default)]
    pub(crate) no_new_privileges: bool,
    pub(crate) oom_score_adj: Option<i32>,
    #[serde(default)]
    pub(crate) apparmor_profile: String,
    #[serde(default)]
    pub(crate) selinux_label: String,
    pub(crate) io_priority: Presence,
    pub(crate) scheduler: Presence,
    #[serde(rename = "execCPUAffinity")]
    pub(crate) exec_cpu_affinity: Presence,
}

/// A terminal's size, in characters.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct ConsoleSize {
    pub(crate) height: u16,
    pub(crate) width: u16,
}

/// Whom a process runs as.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct User {
    #[serde(default)]
    pub(crate) uid: u32,
    #[serde(default)]
    pub(crate) gid: u32,
    pub(crate) umask: Option<u32>,
    #[serde(default)]
    pub(crate) additional_gids: Vec<u32>,
}

/// The five sets of capabilities(7), by names with the prefix `CAP_`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Capabilities {
    pub(crate) bounding: Vec<String>,
    pub(crate) effective: Vec<String>,
    pub(crate) inheritable: Vec<String>,
    pub(crate) permitted: Vec<String>,
    pub(crate) ambient: Vec<String>,
}

/// A limit of setrlimit(2), by its name there.
#[derive(Debug, Deserialize)]
pub(crate) struct ResourceLimit {
    #[serde(rename = "type")]
    pub(crate) name: String,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// What only Linux has.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Linux {
    pub(crate) sysctl: BTreeMap<String, String>,
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) uid_mappings: Vec<IdMapping>,
    pub(crate) gid_mappings: Vec<IdMapping>,
    pub(crate) devices: Vec<Device>,
    pub(crate) rootfs_propagation: String,
    pub(crate) masked_paths: Vec<PathBuf>,
    pub(crate) readonly_paths: Vec<PathBuf>,
    pub(crate) mount_label: String,
    pub(crate) seccomp: Option<Seccomp>,
    pub(crate) intel_rdt: Presence,
    pub(crate) personality: Presence,
    pub(crate) memory_policy: Presence,
    pub(crate) time_offsets: Presence,
    pub(crate) net_devices: Presence,
}

/// The filter over system calls, as far as the compiled program does not say it.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Seccomp {
    #[serde(default)]
    pub(crate) flags: Vec<String>,
}

/// A namespace: the one at a path, or a new one.
#[derive(Debug, Deserialize)]
pub(crate) struct Namespace {
    #[serde(rename = "type")]
    pub(crate) kind: NamespaceKind,
    pub(crate) path: Option<PathBuf>,
}

/// A range of ids of a user namespace.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct IdMapping {
    #[serde(rename = "containerID")]
    pub(crate) container: u32,
    #[serde(rename = "hostID")]
    pub(crate) host: u32,
}

/// The kinds of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NamespaceKind {
    Pid,
    Network,
    Mount,
    Ipc,
    Uts,
    User,
    Cgroup,
    Time,
}

/// A device node.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Device {
    pub(crate) path: PathBuf,
    #[serde(rename = "type")]
    pub(crate) kind: DeviceKind,
    #[serde(default)]
    pub(crate) major: u32,
    #[serde(default)]
    pub(crate) minor: u32,
    pub(crate) file_mode: Option<u32>,
    #[serde(default)]
    pub(crate) uid: u32,
    #[serde(default)]
    pub(crate) gid: u32,
}

/// The kinds of device nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum DeviceKind {
    /// A block device.
    #[serde(rename = "b")]
    Block,
    /// A character device.
    #[serde(rename = "c", alias = "u")]
    Character,
    /// A named pipe.
    #[serde(rename = "p")]
    Pipe,
}
