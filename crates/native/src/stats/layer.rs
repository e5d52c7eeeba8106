//! How much a writable layer holds.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::{Errno, Result};

use crate::node::now;

/// Directories that are nested deeper are counted without what is in them: each level costs a
/// descriptor while it is read, and a container must not be able to use up the daemon's.
const DEEPEST: usize = 128;

/// A layer that changes all the time is not read again sooner than this.
const SHORTEST: Duration = Duration::from_secs(1);

/// Reading a layer takes at most this part of the time.
const SHARE: u32 = 50;

/// What a writable layer held when it was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerUsage {
    /// On disk, in bytes; what is linked several times counts once.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    /// Nanoseconds since the epoch.
    pub(crate) at: i64,
    ended: Instant,
    took: Duration,
}

impl LayerUsage {
    /// Reads a layer. Blocking, as long as it takes to look at every file in it.
    ///
    /// What the container's processes rename or remove meanwhile may be missed or counted twice;
    /// nothing outside of `layer` is ever looked into, whatever they put in its place.
    pub(crate) fn read(layer: &Path) -> Result<Self> {
        let began = Instant::now();
        let at = now();
        let root = openat(CWD, layer, DIRECTORY, Mode::empty())?;
        let mut count = Count::default();
        count.add(&fstat(&root)?);
        count.directory(root)?;
        Ok(Self {
            bytes: count.blocks * 512,
            inodes: count.inodes,
            at,
            ended: Instant::now(),
            took: began.elapsed(),
        })
    }

    /// Whether it is time to read the layer again.
    pub(crate) fn is_stale(&self) -> bool {
        self.ended.elapsed() > SHORTEST.max(self.took * SHARE)
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

#[derive(Default)]
struct Count {
    /// Of 512 bytes, whatever the file system's own are (stat(2)).
    blocks: u64,
    inodes: u64,
    /// The inodes with several names that were seen.
    linked: HashSet<u64>,
}

impl Count {
    fn add(&mut self, file: &Stat) {
        let linked =
            FileType::from_raw_mode(file.st_mode) != FileType::Directory && file.st_nlink > 1;
        if linked && !self.linked.insert(file.st_ino) {
            return;
        }
        self.blocks += u64::try_from(file.st_blocks).unwrap_or(0);
        self.inodes += 1;
    }

    /// Counts all below a directory.
    fn directory(&mut self, root: OwnedFd) -> Result<()> {
        let mut open = vec![Dir::new(root)?];
        loop {
            let depth = open.len();
            let Some(directory) = open.last_mut() else {
                return Ok(());
            };
            let Some(entry) = directory.next() else {
                open.pop();
                continue;
            };
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let parent = directory.fd()?;
            let file = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                file => file?,
            };
            self.add(&file);
            if FileType::from_raw_mode(file.st_mode) != FileType::Directory || depth >= DEEPEST {
                continue;
            }
            match openat(parent, name, DIRECTORY, Mode::empty()) {
                Ok(below) => open.push(Dir::new(below)?),
                // Removed since, or replaced by something that is no directory.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_are_counted_once_and_links_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("large"), vec![1; 1 << 20]).unwrap();
        let layer = tempfile::tempdir().unwrap();
        let path = |name: &str| layer.path().join(name);
        let empty = LayerUsage::read(layer.path()).unwrap();
        assert_eq!(empty.inodes, 1);

        fs::create_dir_all(path("a/b")).unwrap();
        fs::write(path("a/b/file"), vec![1; 100_000]).unwrap();
        fs::hard_link(path("a/b/file"), path("again")).unwrap();
        symlink(outside.path(), path("link")).unwrap();
        let usage = LayerUsage::read(layer.path()).unwrap();
        assert_eq!(usage.inodes, 5, "the layer, a, b, file, link");
        let grown = usage.bytes - empty.bytes;
        assert!((100_000..300_000).contains(&grown), "{grown}");
    }

    #[test]
    fn depth_costs_neither_descriptors_nor_the_stack() {
        let layer = tempfile::tempdir().unwrap();
        let mut path = layer.path().to_owned();
        for _ in 0..DEEPEST + 50 {
            path.push("d");
        }
        fs::create_dir_all(&path).unwrap();
        let usage = LayerUsage::read(layer.path()).unwrap();
        assert_eq!(usage.inodes, DEEPEST as u64 + 1);
    }

    #[test]
    fn a_layer_that_is_gone_is_an_error() {
        let layer = tempfile::tempdir().unwrap();
        let gone = layer.path().join("gone");
        assert_eq!(LayerUsage::read(&gone).unwrap_err(), Errno::NOENT);
    }
}
