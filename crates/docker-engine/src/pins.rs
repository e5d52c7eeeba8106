//! Pods' network namespaces, mounted on files: a plugin that takes back what it has done in a
//! namespace must find it, also when the pod's pause container was killed or removed. And a path
//! below /proc would be another process's as soon as its number is given out again.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use slipway_engine::{Error, Result};

/// The directory of all pins. Everything here blocks, briefly.
#[derive(Debug)]
pub(crate) struct Pins(PathBuf);

impl Pins {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// Where a pod's namespace is, while it has one.
    pub(crate) fn path(&self, pod: &str) -> PathBuf {
        self.0.join(pod)
    }

    /// Pins the network namespace of a process for a pod.
    pub(crate) fn pin(&self, pod: &str, pid: i64) -> Result<()> {
        let path = self.path(pod);
        let pin = || -> io::Result<()> {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.0)?;
            File::create(&path)?;
            Ok(mount_bind(format!("/proc/{pid}/ns/net"), &path)?)
        };
        pin().map_err(|error| {
            Error::internal(format!(
                "the network namespace of process {pid} cannot be mounted at {}: {error}",
                path.display()
            ))
        })
    }

    /// Gives a pod's back; one that is not there is fine.
    pub(crate) fn unpin(&self, pod: &str) -> Result<()> {
        let path = self.path(pod);
        let unpin = || -> io::Result<()> {
            match unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                // Not there, or no mount point, as after a reboot.
                Ok(()) | Err(Errno::NOENT | Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        unpin().map_err(|error| {
            Error::internal(format!("{} cannot be given back: {error}", path.display()))
        })
    }

    /// The pods that have one, in no order.
    pub(crate) fn pods(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name());
        names.filter_map(|name| name.into_string().ok()).collect()
    }
}
