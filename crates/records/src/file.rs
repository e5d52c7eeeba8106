//! A file without holes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use redb::{Error, StorageBackend};
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, fcntl_lock};
use rustix::io::Errno;

/// The files that this process has open, by device and inode.
///
/// A lock of fcntl(2) is this process's, so that a child which has not executed its program yet does
/// not keep it when this process is killed, as it would one of flock(2). But it keeps nobody in this
/// process from the file, and is given up with any descriptor of it that is closed here.
static OPEN: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());

/// What redb writes to. As a plain file it would grow by holes, and find out that there is no room
/// for them when it is too late to do without.
#[derive(Debug)]
pub(crate) struct WholeFile {
    // Closed before anybody here may open it again.
    file: File,
    _place: Place,
}

/// An entry of [`OPEN`].
#[derive(Debug)]
struct Place((u64, u64));

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&self.0);
    }
}

impl WholeFile {
    /// Opens the file, or makes it, and locks it until this is dropped.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        if path
            .metadata()
            .is_ok_and(|found| open.contains(&place(found)))
        {
            return Err(Error::DatabaseAlreadyOpen);
        }
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path)?;
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS) => return Err(Error::DatabaseAlreadyOpen),
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let metadata = file.metadata()?;
        let length = metadata.len();
        if length > 0 {
            // Made by an earlier version, or copied. A full disk is no reason not to open it.
            let _ = fallocate(&file, FallocateFlags::empty(), 0, length);
        }
        let place = Place(place(metadata));
        open.insert(place.0);
        Ok(Self {
            file,
            _place: place,
        })
    }
}

impl StorageBackend for WholeFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let before = self.len()?;
        if length <= before {
            return self.file.set_len(length);
        }
        match fallocate(&self.file, FallocateFlags::empty(), before, length - before) {
            Ok(()) => Ok(()),
            // A file system that cannot promise anything.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.file.set_len(length),
            Err(error) => {
                // Some of it may have been had.
                self.file.set_len(before)?;
                Err(error.into())
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether this process keeps others from the file (proc_locks(5)).
    fn is_locked(path: &Path) -> bool {
        let inode = format!(":{} ", path.metadata().unwrap().ino());
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks
            .lines()
            .any(|line| line.contains("POSIX") && line.contains(&inode))
    }

    #[test]
    fn a_file_is_open_once_here_and_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records");
        for _ in 0..2 {
            let file = WholeFile::open(&path).unwrap();
            let second = WholeFile::open(&path).unwrap_err();
            assert!(matches!(second, Error::DatabaseAlreadyOpen), "{second}");
            assert!(is_locked(&path), "whoever was refused has not unlocked it");
            drop(file);
            assert!(!is_locked(&path));
        }
    }
}
