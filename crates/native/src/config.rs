//! What of the configuration file this engine reads.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[runtime]` of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The per-pod process; none takes `slipway-shim` beside the daemon's own binary.
    pub shim: Option<PathBuf>,
    /// The cgroup under which pods are put that name no cgroup parent.
    pub cgroup_parent: String,
    /// The most processes a container may have; none sets no limit.
    pub pids_limit: Option<i64>,
    /// Resource limits (setrlimit(2)) of containers' processes by name in lower case, `nofile` for
    /// example; what is not named is as the daemon has it.
    pub rlimits: BTreeMap<String, Rlimit>,
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

impl Default for Config {
    fn default() -> Self {
        Self {
            shim: None,
            cgroup_parent: "/slipway".to_owned(),
            pids_limit: None,
            rlimits: BTreeMap::new(),
        }
    }
}
