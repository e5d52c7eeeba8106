//! What a plugin is to a chain.
//!
//! This is where a well-known plugin type can be carried out in process instead of being executed:
//! a variant of [`Plugin`] of its own, which [`Plugin::find`] chooses by the `type`.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::PluginFailure;
use crate::executed::Executed;

/// An operation of CNI (`CNI_COMMAND`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Attach a pod.
    Add,
    /// Detach a pod.
    Del,
}

impl Command {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One plugin, ready to be called.
pub(crate) enum Plugin {
    /// An executable from one of the plugin directories.
    Executed(Executed),
}

/// What a plugin is told.
pub(crate) struct Call<'a> {
    pub(crate) command: Command,
    /// `CNI_CONTAINERID`.
    pub(crate) container: &'a str,
    /// `CNI_NETNS`; empty when there is none any more.
    pub(crate) netns: &'a Path,
    /// `CNI_ARGS`.
    pub(crate) arguments: &'a str,
    /// `CNI_PATH`, for plugins that execute others.
    pub(crate) bin_dirs: &'a [PathBuf],
    /// The execution configuration.
    pub(crate) configuration: &'a Value,
    /// The file through which an executed plugin gets the configuration. Whoever has it open holds
    /// the pod's lock.
    pub(crate) input: &'a File,
    pub(crate) timeout: Duration,
}

impl Plugin {
    /// The plugin of this type, if there is one.
    pub(crate) fn find(kind: &str, bin_dirs: &[PathBuf]) -> Option<Self> {
        Executed::find(kind, bin_dirs).map(Self::Executed)
    }

    /// Runs the plugin to its end; blocks. ADD returns a result, DEL returns null.
    pub(crate) fn call(&self, call: &Call<'_>) -> Result<Value, PluginFailure> {
        match self {
            Self::Executed(plugin) => plugin.call(call),
        }
    }
}
