//! What an administrator can set.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where CNI's configurations and plugins are, and how long a plugin may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The directory of network configurations (`*.conflist`, `*.conf`, `*.json`).
    pub conf_dir: PathBuf,
    /// The directories of plugins, in the order in which they are searched.
    pub bin_dirs: Vec<PathBuf>,
    /// A template for a configuration that is written into [`conf_dir`](Self::conf_dir) when a
    /// kubelet tells the node's pod CIDR; none leaves that to network add-ons.
    pub conf_template: Option<PathBuf>,
    /// How long one plugin may run before it is killed, in seconds; at least 1, at most 86400.
    pub plugin_timeout: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            // The second is where Debian installs the plugins.
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            conf_template: None,
            plugin_timeout: 60,
        }
    }
}

impl Config {
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.plugin_timeout.clamp(1, 86_400))
    }
}
