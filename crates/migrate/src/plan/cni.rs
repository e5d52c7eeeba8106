//! Where the node has CNI's files, and which of them its network needs.

use super::files::Files;
use crate::node::{self, Facts, Look};

/// Where everybody has them, and containerd looks where its files do not say it.
pub(super) const CONFIGURATIONS: &str = "/etc/cni/net.d";
pub(super) const PLUGINS: &str = "/opt/cni/bin";

/// What the network of pods is made with.
#[derive(Debug, Default)]
pub(super) struct Cni {
    /// `--cni-conf-dir`, where it is not what everybody has.
    pub(super) configurations: Option<String>,
    /// `--cni-bin-dir`, likewise.
    pub(super) plugins: Vec<String>,
    /// Whether pods have their network from there: whoever makes them on Docker is told so, or takes
    /// what everybody has.
    pub(super) is_in_use: bool,
    /// The plugins that the network needs.
    needed: Vec<String>,
}

impl Cni {
    pub(super) fn of(look: &mut Look<'_>, facts: &Facts) -> Self {
        let elsewhere = |flag: &str, usual: &str| {
            let path = facts.dockershim_flag(flag);
            path.filter(|path| path.trim_end_matches('/') != usual)
        };
        let configurations = elsewhere("cni-conf-dir", CONFIGURATIONS);
        let plugins = elsewhere("cni-bin-dir", PLUGINS);
        let plugins = plugins.iter().flat_map(|paths| paths.split(','));
        let plugins = plugins.filter(|path| !path.is_empty());
        let plugins: Vec<_> = plugins.map(str::to_string).collect();
        let directory = configurations.as_deref().unwrap_or(CONFIGURATIONS);
        Self {
            needed: node::plugins_of_network(look, directory),
            is_in_use: facts.is_on_docker() || facts.dockershim_flag("cni-bin-dir").is_some(),
            configurations,
            plugins,
        }
    }

    pub(super) fn is_default(&self) -> bool {
        self.configurations.is_none() && self.plugins.is_empty()
    }

    /// Where the configuration is.
    pub(super) fn directory(&self) -> &str {
        self.configurations.as_deref().unwrap_or(CONFIGURATIONS)
    }

    /// Where plugins are, in the order in which they are looked for.
    pub(super) fn directories(&self) -> Vec<String> {
        if self.plugins.is_empty() {
            vec![PLUGINS.to_string()]
        } else {
            self.plugins.clone()
        }
    }

    /// What the network needs, and none of some directories has.
    pub(super) fn lacking(&self, files: &Files<'_>, directories: &[String]) -> Vec<&str> {
        let needed = self.needed.iter().map(String::as_str);
        let is_in = |plugin: &str, directory: &String| files.has(format!("{directory}/{plugin}"));
        needed
            .filter(|plugin| !directories.iter().any(|one| is_in(plugin, one)))
            .collect()
    }
}
