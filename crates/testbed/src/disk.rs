//! A disk that is small enough to be filled.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{Scratch, daemon, process};

/// An ext4 file system of its own below the root directory of a node's daemon. It is unmounted with
/// the node.
#[derive(Debug)]
pub struct SmallDisk {
    point: PathBuf,
}

impl SmallDisk {
    /// Makes one of so many MiB, before the daemon is started.
    ///
    /// # Errors
    /// When there is no loop device or no mkfs.ext4.
    pub fn mount(scratch: &Scratch, mebibytes: u64) -> Result<Self> {
        let (file, point) = (scratch.join("disk"), daemon::root(scratch));
        File::create(&file)?.set_len(mebibytes << 20)?;
        fs::create_dir_all(&point)?;
        let [disk, directory] = [&file, &point].map(|path| path.to_str());
        let (disk, directory) = disk.zip(directory).context("a path is no UTF-8")?;
        process::run("mkfs.ext4", &["-q", "-F", "-m", "0", "-b", "4096", disk])?;
        process::run("mount", &["-o", "loop", disk, directory])?;
        Ok(Self { point })
    }

    /// Where it is mounted: `--root`.
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// The bytes that can still be written.
    ///
    /// # Errors
    /// When it is not mounted any more.
    pub fn free(&self) -> Result<u64> {
        let found = rustix::fs::statvfs(&self.point)?;
        Ok(found.f_bavail * found.f_frsize)
    }

    /// Leaves no room for anything, until [`empty`](Self::empty).
    ///
    /// # Errors
    /// When something else than room is missing.
    pub fn fill(&self) -> Result<()> {
        let mut filler = File::options()
            .create(true)
            .append(true)
            .open(self.filler())?;
        // Large pieces first: the last blocks are found with small ones. What was removed is free
        // only once the journal is written.
        for size in [1 << 20, 1 << 12] {
            let piece = vec![0; size];
            let mut journal_is_written = false;
            loop {
                match filler.write(&piece) {
                    Ok(_) => journal_is_written = false,
                    Err(error) if error.kind() == ErrorKind::StorageFull => {
                        if journal_is_written {
                            break;
                        }
                        rustix::fs::syncfs(&filler)?;
                        journal_is_written = true;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// When it was not filled.
    pub fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.point.join("filler")
    }
}
