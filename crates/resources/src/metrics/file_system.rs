//! The file system that writable layers are on.

use std::path::Path;

use rustix::fs::{major, minor, stat, statvfs};

/// A file system, as it was looked at once for all containers whose writable layers are on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// The major and minor number of its device.
    pub(super) numbers: (u32, u32),
    /// As [`device_name`] has it.
    pub(super) device: String,
    /// How much it can hold, in bytes.
    pub(super) size: u64,
    pub(super) inodes: u64,
    pub(super) free_inodes: u64,
}

impl FileSystem {
    /// The one that a directory is on; none where that cannot be looked at. Blocking, briefly.
    pub fn of(directory: &Path) -> Option<Self> {
        let device = stat(directory).ok()?.st_dev;
        let size = statvfs(directory).ok()?;
        let numbers = (major(device), minor(device));
        Some(Self {
            numbers,
            device: device_name(numbers),
            size: size.f_blocks.saturating_mul(size.f_frsize),
            inodes: size.f_files,
            free_inodes: size.f_ffree,
        })
    }
}

/// `/dev/sda`; the numbers of what is no block device, such as a btrfs.
pub(super) fn device_name((major, minor): (u32, u32)) -> String {
    let numbers = format!("{major}:{minor}");
    let target = std::fs::read_link(format!("/sys/dev/block/{numbers}")).unwrap_or_default();
    match target.file_name() {
        Some(name) => format!("/dev/{}", name.display()),
        None => numbers,
    }
}
