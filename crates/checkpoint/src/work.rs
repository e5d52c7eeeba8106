//! Where a checkpoint is written before it is an archive.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use slipway_engine::{Error, Result};

/// A directory that only root may look into, for what CRIU writes: as large as the container's
/// memory. Dropping it removes it with all that is in it, which blocks.
#[derive(Debug)]
pub struct Work(PathBuf);

impl Work {
    /// Makes it, empty. Blocking.
    ///
    /// # Errors
    ///
    /// When what is left of an earlier one cannot be removed, or none can be made.
    pub fn begin(directory: PathBuf) -> Result<Self> {
        let failed = |error: io::Error| {
            let message = format!("{} cannot be made anew: {error}", directory.display());
            match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Error::exhausted(message)
                }
                _ => Error::internal(message),
            }
        };
        remove(&directory).map_err(failed)?;
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&directory);
        made.map_err(failed)?;
        Ok(Self(directory))
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// Where CRIU's images belong, which is not there yet.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.0.join("checkpoint")
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            let directory = self.0.display();
            tracing::error!(%directory, %error, "what a checkpoint was made of is left");
        }
    }
}

/// Removes a directory; one that is not there is fine.
fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
