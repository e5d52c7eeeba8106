//! A file without holes.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use redb::{Error, StorageBackend};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// What redb writes to. As a plain file it would grow by holes, and find out that there is no room
/// for them when it is too late to do without.
#[derive(Debug)]
pub(crate) struct WholeFile(File);

impl WholeFile {
    /// Opens the file, or makes it, and locks it until this is dropped.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::DatabaseAlreadyOpen),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let length = file.metadata()?.len();
        if length > 0 {
            // Made by an earlier version, or copied. A full disk is no reason not to open it.
            let _ = fallocate(&file, FallocateFlags::empty(), 0, length);
        }
        Ok(Self(file))
    }
}

impl StorageBackend for WholeFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let before = self.len()?;
        if length <= before {
            return self.0.set_len(length);
        }
        match fallocate(&self.0, FallocateFlags::empty(), before, length - before) {
            Ok(()) => Ok(()),
            // A file system that cannot promise anything.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.0.set_len(length),
            Err(error) => {
                // Some of it may have been had.
                self.0.set_len(before)?;
                Err(error.into())
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}
