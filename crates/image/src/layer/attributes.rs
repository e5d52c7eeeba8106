//! Owner, mode, times and extended attributes of what is unpacked.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::archive::{Entry, Time};
use super::{Failure, lossy};

/// Overlayfs keeps its own state in these; an image has no say in it.
pub(super) const OVERLAY_ATTRIBUTES: &[u8] = b"trusted.overlay.";

/// What an archive says about an inode beside its kind and content.
#[derive(Debug)]
pub(super) struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    times: Timestamps,
    pub(super) extended: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    pub(super) fn of(entry: Entry) -> Self {
        let times = times(entry.modified, entry.accessed);
        let Entry {
            mode,
            uid,
            gid,
            attributes,
            ..
        } = entry;
        Self {
            mode,
            uid,
            gid,
            times,
            extended: attributes,
        }
    }
}

fn times(modified: Time, accessed: Option<Time>) -> Timestamps {
    let timespec = |time: Time| Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds.into(),
    };
    Timestamps {
        last_access: timespec(accessed.unwrap_or(modified)),
        last_modification: timespec(modified),
    }
}

/// Owner first, because a change of owner clears the set-id bits and the capabilities; times last,
/// because everything else sets them.
pub(super) fn apply(
    file: BorrowedFd<'_>,
    path: &[u8],
    attributes: &Attributes,
) -> Result<(), Failure> {
    if attributes.uid != 0 || attributes.gid != 0 {
        let (uid, gid) = owner(path, attributes)?;
        rustix::fs::fchown(file, Some(uid), Some(gid))
            .map_err(|error| Failure::writing(path, "set the owner of", error))?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(attributes.mode))
        .map_err(|error| Failure::writing(path, "set the mode of", error))?;
    set_extended(path, attributes, |name, value| {
        rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())
    })?;
    rustix::fs::futimens(file, &attributes.times)
        .map_err(|error| Failure::writing(path, "set the times of", error))
}

/// As [`apply`], for what cannot be opened: symbolic links, devices and FIFOs.
pub(super) fn apply_at(
    parent: BorrowedFd<'_>,
    name: &[u8],
    path: &[u8],
    has_mode: bool,
    attributes: &Attributes,
) -> Result<(), Failure> {
    if attributes.uid != 0 || attributes.gid != 0 {
        let (uid, gid) = owner(path, attributes)?;
        rustix::fs::chownat(
            parent,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|error| Failure::writing(path, "set the owner of", error))?;
    }
    // Symbolic links have none of their own.
    if has_mode {
        rustix::fs::chmodat(
            parent,
            name,
            Mode::from_raw_mode(attributes.mode),
            AtFlags::empty(),
        )
        .map_err(|error| Failure::writing(path, "set the mode of", error))?;
    }
    if !attributes.extended.is_empty() {
        // There is no setxattrat before Linux 6.13; the descriptor's path leads to the same parent.
        let file = [
            format!("/proc/self/fd/{}/", parent.as_raw_fd()).as_bytes(),
            name,
        ]
        .concat();
        set_extended(path, attributes, |attribute, value| {
            rustix::fs::lsetxattr(file.as_slice(), attribute, value, XattrFlags::empty())
        })?;
    }
    rustix::fs::utimensat(parent, name, &attributes.times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| Failure::writing(path, "set the times of", error))
}

fn owner(path: &[u8], attributes: &Attributes) -> Result<(Uid, Gid), Failure> {
    // The highest number means "leave it" to chown(2).
    if attributes.uid == u32::MAX || attributes.gid == u32::MAX {
        return Err(Failure::Corrupt(format!(
            "archive entry {:?} has an impossible owner",
            lossy(path)
        )));
    }
    Ok((Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid)))
}

fn set_extended(
    path: &[u8],
    attributes: &Attributes,
    set: impl Fn(&CString, &[u8]) -> Result<(), Errno>,
) -> Result<(), Failure> {
    for (name, value) in &attributes.extended {
        if name.starts_with(OVERLAY_ATTRIBUTES) {
            continue;
        }
        let c_name = CString::new(name.as_slice()).map_err(|_| {
            Failure::Corrupt(format!(
                "archive entry {:?} has an extended attribute with a NUL in its name",
                lossy(path)
            ))
        })?;
        match set(&c_name, value) {
            Ok(()) => {}
            // Attributes of a security module or a file system that this node does not have, and
            // user attributes on what cannot carry any, cannot matter here.
            Err(Errno::NOTSUP) => {
                tracing::debug!(path = %lossy(path), attribute = %lossy(name), "not supported");
            }
            Err(Errno::PERM) if name.starts_with(b"user.") => {}
            Err(error) => {
                let asked = format!("set extended attribute {:?} of", lossy(name));
                return Err(Failure::writing(path, &asked, error));
            }
        }
    }
    Ok(())
}
