//! What an administrator can set.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::catalog::is_configuration;

/// Pods' networks: where CNI's configurations and plugins are, and how long a plugin may take.
// What its comments say is what an administrator reads in the configuration's reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The directory of network configurations (`*.conflist`, `*.conf`, `*.json`).
    pub conf_dir: PathBuf,
    /// The directories of plugins, in the order in which they are searched.
    pub bin_dirs: Vec<PathBuf>,
    /// A template for a configuration that is written into `conf_dir` when a kubelet tells the
    /// node's pod CIDR; none leaves that to network add-ons.
    #[schemars(example = "/etc/slipway/cni.template")]
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
    /// Looks for values that cannot be used, and for such as contradict each other. Each is told to
    /// `complain`, by its key in this table and in a sentence.
    pub fn check(&self, complain: &mut dyn FnMut(&str, String)) {
        let directories = self.bin_dirs.iter().map(|path| ("bin_dirs", path));
        let template = self.conf_template.iter();
        let paths = [("conf_dir", &self.conf_dir)]
            .into_iter()
            .chain(directories)
            .chain(template.map(|path| ("conf_template", path)));
        for (key, path) in paths.filter(|(_, path)| !path.is_absolute()) {
            let path = path.display().to_string();
            complain(key, format!("{path:?} is not an absolute path"));
        }
        if let Some(template) = &self.conf_template
            && template.parent() == Some(&self.conf_dir)
            && is_configuration(template)
        {
            complain(
                "conf_template",
                format!(
                    "{} is in conf_dir, where it would be read as a configuration; put it \
                     elsewhere, or give it another extension",
                    template.display()
                ),
            );
        }
        if self.bin_dirs.is_empty() {
            let reason = "no directory is given, so that no plugin can be found";
            complain("bin_dirs", reason.to_owned());
        }
        if !(1..=86_400).contains(&self.plugin_timeout) {
            let given = self.plugin_timeout;
            complain(
                "plugin_timeout",
                format!("{given} is not between 1 and 86400"),
            );
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.plugin_timeout.clamp(1, 86_400))
    }
}
