//! What of the configuration file this engine reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::PosixRlimitType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use slipway_engine::{Error, Result};

use crate::cgroups::{self, CgroupDriver};
use crate::handlers;

/// Pods and containers.
// What its comments say is what an administrator reads in the configuration's reference.
#[derive(Default, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The per-pod process; none takes `slipway-shim` beside the daemon's own binary.
    #[schemars(extend("x-restart" = true), example = "/usr/bin/slipway-shim")]
    pub shim: Option<PathBuf>,
    /// Who makes cgroups, which must be what the kubelet's `cgroupDriver` says; none takes
    /// `systemd` where that is the node's init, and `cgroupfs` elsewhere.
    #[schemars(extend("x-restart" = true), example = CgroupDriver::Systemd)]
    pub cgroup_driver: Option<CgroupDriver>,
    /// The cgroup under which pods are put that name no cgroup parent, in the form of the driver;
    /// none takes `/slipway`, or `slipway.slice` with the systemd driver.
    #[schemars(extend("x-restart" = true), example = "slipway.slice")]
    pub cgroup_parent: Option<String>,
    /// The most processes a container may have; none sets no limit.
    #[schemars(example = 4096)]
    pub pids_limit: Option<i64>,
    /// Resource limits (setrlimit(2)) of containers' processes by name in lower case, `nofile` for
    /// example; what is not named is as the daemon has it.
    #[schemars(extend("propertyNames" = {"enum": rlimit_names(), "examples": ["nofile"]}))]
    pub rlimits: BTreeMap<String, Rlimit>,
    /// Whether devices that a container's request lists belong to its `run_as_user` and
    /// `run_as_group` in the container, instead of to whom the node's belong.
    pub device_ownership_from_security_context: bool,
    /// Where vendors' specification files of CDI devices are; of two with one device the later
    /// directory's counts. None takes `/etc/cdi` and `/var/run/cdi`.
    #[schemars(example = ["/etc/cdi", "/var/run/cdi"])]
    pub cdi_spec_dirs: Option<Vec<PathBuf>>,
    /// CRIU, which writes checkpoints; none looks for `criu` in `PATH` when it is needed.
    #[schemars(example = "/usr/sbin/criu")]
    pub criu_path: Option<PathBuf>,
    /// Other OCI runtimes that a pod can be made with, by the name that a RuntimeClass calls them
    /// (`handler`). `slipway`, or no name, is the built-in one. One that is taken out stays for the
    /// pods that were made with it, until the daemon is restarted.
    #[schemars(extend("propertyNames" = {"examples": ["runc"]}))]
    pub handlers: BTreeMap<String, Handler>,
}

/// An OCI runtime with the command line that runc, crun, youki and runsc have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Handler {
    /// Its executable.
    #[schemars(example = "/usr/sbin/runc")]
    pub path: PathBuf,
    /// Where it keeps what it knows of containers (`--root`); none takes `runtimes/<name>` in the
    /// state directory.
    #[schemars(example = "/run/runc")]
    pub root: Option<PathBuf>,
    /// Arguments before the command.
    #[serde(default)]
    pub options: Vec<String>,
    /// How long one of its commands may take, in seconds, at most 50; it is killed then.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    /// What a process starts with.
    #[schemars(example = 1024)]
    pub soft: u64,
    /// Up to what it may raise it.
    #[schemars(example = 1_048_576)]
    pub hard: u64,
}

impl Config {
    /// Looks for values that cannot be used on this node, and for such as contradict each other.
    /// Each is told to `complain`, by its key below `[runtime]` and in a sentence. Blocking, briefly.
    pub fn check(&self, complain: &mut dyn FnMut(&str, String)) {
        if let Some(path) = &self.shim {
            check_executable("shim", path, complain);
        }
        if let Err(error) = cgroups::parent(self) {
            complain("cgroup_parent", error);
        }
        if let Some(limit) = self.pids_limit.filter(|limit| *limit < 1) {
            complain(
                "pids_limit",
                format!("{limit} is below 1; leave it out for no limit"),
            );
        }
        for (name, limit) in &self.rlimits {
            let key = format!("rlimits.{name}");
            if let Err(error) = rlimit_type(name) {
                complain(&key, error);
            }
            if limit.soft > limit.hard {
                complain(
                    &key,
                    format!(
                        "the soft limit of {} is above the hard one of {}",
                        limit.soft, limit.hard
                    ),
                );
            }
        }
        for directory in self.cdi_spec_dirs.iter().flatten() {
            if !directory.is_absolute() {
                complain("cdi_spec_dirs", not_absolute(directory));
            }
        }
        if let Some(path) = &self.criu_path {
            check_executable("criu_path", path, complain);
        }
        for (name, handler) in &self.handlers {
            handlers::check(name, handler, complain);
        }
    }

    /// As [`check`](Self::check), for those to whom the first complaint is as good as all.
    pub(crate) fn usable(&self) -> Result<()> {
        let mut first = None;
        self.check(&mut |key, reason| {
            first.get_or_insert_with(|| {
                Error::invalid(format!("the configuration's runtime.{key}: {reason}"))
            });
        });
        first.map_or(Ok(()), Err)
    }
}

fn check_executable(key: &str, path: &Path, complain: &mut dyn FnMut(&str, String)) {
    if !path.is_absolute() {
        complain(key, not_absolute(path));
    } else if let Err(reason) = handlers::executable(path) {
        complain(key, format!("{} {reason}", path.display()));
    }
}

pub(crate) fn not_absolute(path: &Path) -> String {
    format!("{:?} is not an absolute path", path.display().to_string())
}

/// The resource limit that a configuration calls `nofile` and the like.
pub(crate) fn rlimit_type(name: &str) -> std::result::Result<PosixRlimitType, String> {
    let typ = format!("RLIMIT_{}", name.to_ascii_uppercase());
    serde_json::from_value(typ.into()).map_err(|_| {
        "is no resource limit; see setrlimit(2) for their names (nofile, nproc, core, …)".to_owned()
    })
}

/// What [`rlimit_type`] knows.
fn rlimit_names() -> Vec<&'static str> {
    vec![
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_limit_that_is_offered_is_one() {
        for name in rlimit_names() {
            assert!(rlimit_type(name).is_ok(), "{name}");
        }
        assert!(rlimit_type("nofiles").is_err());
    }
}
