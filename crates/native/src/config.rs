//! What of the configuration file this engine reads.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::PosixRlimitType;
use serde::{Deserialize, Serialize};
use slipway_engine::{Error, Result};

use crate::cgroups::CgroupDriver;
use crate::handlers;

/// `[runtime]` of the configuration file.
#[derive(Default, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The per-pod process; none takes `slipway-shim` beside the daemon's own binary.
    pub shim: Option<PathBuf>,
    /// Who makes cgroups, which must be what the kubelet's `cgroupDriver` says; none takes
    /// `systemd` where that is the node's init, and `cgroupfs` elsewhere.
    pub cgroup_driver: Option<CgroupDriver>,
    /// The cgroup under which pods are put that name no cgroup parent; none takes `/slipway`, or
    /// `slipway.slice` with the systemd driver.
    pub cgroup_parent: Option<String>,
    /// The most processes a container may have; none sets no limit.
    pub pids_limit: Option<i64>,
    /// Resource limits (setrlimit(2)) of containers' processes by name in lower case, `nofile` for
    /// example; what is not named is as the daemon has it.
    pub rlimits: BTreeMap<String, Rlimit>,
    /// Whether devices that a container's request lists belong to its `run_as_user` and
    /// `run_as_group` in the container, instead of to whom the node's belong.
    pub device_ownership_from_security_context: bool,
    /// Where vendors' specification files of CDI devices are; of two with one device the later
    /// directory's counts. None takes `/etc/cdi` and `/var/run/cdi`.
    pub cdi_spec_dirs: Option<Vec<PathBuf>>,
    /// CRIU, which writes checkpoints; none looks for `criu` in `PATH` when it is needed.
    pub criu_path: Option<PathBuf>,
    /// Other OCI runtimes that a pod can be made with, by the name that a RuntimeClass calls them
    /// (`handler`). `slipway`, or no name, is the built-in one.
    pub handlers: BTreeMap<String, Handler>,
}

/// An OCI runtime with the command line that runc, crun, youki and runsc have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handler {
    /// Its executable.
    pub path: PathBuf,
    /// Where it keeps what it knows of containers (`--root`); none takes `runtimes/<name>` in the
    /// state directory.
    pub root: Option<PathBuf>,
    /// Arguments before the command.
    #[serde(default)]
    pub options: Vec<String>,
    /// How long one of its commands may take, in seconds; it is killed then.
    #[serde(default = "Handler::default_timeout")]
    pub timeout_seconds: u32,
}

impl Handler {
    /// The daemon waits a minute for a shim, which has to kill an overdue command before that.
    pub(crate) const MAX_TIMEOUT: u32 = 50;

    fn default_timeout() -> u32 {
        30
    }
}

/// A resource limit, in the unit that setrlimit(2) gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    /// What a process starts with.
    pub soft: u64,
    /// Up to what it may raise it.
    pub hard: u64,
}

impl Config {
    /// Refuses values that could only fail later, with every pod.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, limit) in &self.rlimits {
            rlimit_type(name)?;
            if limit.soft > limit.hard {
                return Err(Error::invalid(format!(
                    "the configuration's runtime.rlimits.{name} has a soft limit of {} above its \
                     hard one of {}",
                    limit.soft, limit.hard
                )));
            }
        }
        if self.pids_limit.is_some_and(|limit| limit < 1) {
            return Err(Error::invalid(
                "the configuration's runtime.pids_limit is below 1; leave it out for no limit",
            ));
        }
        for directory in self.cdi_spec_dirs.iter().flatten() {
            if !directory.is_absolute() {
                return Err(Error::invalid(format!(
                    "the configuration's runtime.cdi_spec_dirs: {} is not an absolute path",
                    directory.display()
                )));
            }
        }
        if let Some(path) = &self.criu_path {
            let usable = if path.is_absolute() {
                handlers::executable(path)
            } else {
                Err("is not an absolute path".to_owned())
            };
            usable.map_err(|reason| {
                Error::invalid(format!(
                    "the configuration's runtime.criu_path: {} {reason}",
                    path.display()
                ))
            })?;
        }
        Ok(())
    }
}

/// The resource limit that a configuration calls `nofile` and the like.
pub(crate) fn rlimit_type(name: &str) -> Result<PosixRlimitType> {
    let typ = format!("RLIMIT_{}", name.to_ascii_uppercase());
    serde_json::from_value(typ.into()).map_err(|_| {
        Error::invalid(format!(
            "the configuration's runtime.rlimits.{name} is no resource limit; see setrlimit(2) \
             for their names (nofile, nproc, core, …)"
        ))
    })
}
