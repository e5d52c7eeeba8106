//! A CNI plugin that is as slow as a test wants it to be.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;

use crate::{Cni, eventually};

/// Far more than a plugin takes until it is called.
const PATIENCE: Duration = Duration::from_mins(1);

/// A plugin that answers once it may, and does nothing but that.
#[derive(Debug)]
pub struct SlowPlugin {
    directory: TempDir,
}

impl SlowPlugin {
    /// Writes it, into a directory of its own.
    ///
    /// # Errors
    /// When that cannot be made.
    pub fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let script = format!(
            "#!/bin/sh\ncat > /dev/null\necho $CNI_COMMAND >> {0}/called\n\
             until [ -e {0}/gate ]; do sleep 0.05; done\n\
             [ $CNI_COMMAND = ADD ] && echo '{{\"cniVersion\":\"1.0.0\",\"ips\":[{{\"address\":\"10.9.9.9/24\"}}]}}'\n\
             exit 0\n",
            directory.path().display(),
        );
        let plugin = directory.path().join("slow");
        fs::write(&plugin, script)?;
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755))?;
        Ok(Self { directory })
    }

    /// What the daemon's `--cni-bin-dir` has to have as well.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Makes it the node's network from now on.
    ///
    /// # Errors
    /// When the conflist cannot be written.
    pub fn install(&self, cni: &Cni) -> Result<()> {
        cni.write_conflist(
            r#"{"cniVersion": "1.0.0", "name": "slow", "plugins": [{"type": "slow"}]}"#,
        )
    }

    /// Waits until it was called for something, `ADD` or `DEL`.
    ///
    /// # Errors
    /// When it is not for a minute.
    pub async fn is_called(&self, what: &str) -> Result<()> {
        let log = self.directory.path().join("called");
        eventually("the slow plugin to be called", PATIENCE, async || {
            Ok(fs::read_to_string(&log).is_ok_and(|log| log.contains(what)))
        })
        .await
    }

    /// Lets it answer, now and from now on.
    ///
    /// # Errors
    /// When that cannot be said to it.
    pub fn answers(&self) -> Result<()> {
        Ok(fs::write(self.directory.path().join("gate"), "")?)
    }

    /// Keeps it from answering from now on.
    ///
    /// # Errors
    /// When that cannot be said to it.
    pub fn waits(&self) -> Result<()> {
        Ok(fs::remove_file(self.directory.path().join("gate"))?)
    }
}
