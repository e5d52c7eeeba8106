//! Attributes of directories that a layer's archive has entries in without mentioning them.
//!
//! Overlayfs shows the attributes of the topmost directory of a name. Layers are unpacked side by
//! side, so where an archive has `tmp/file` and no `tmp`, the directory is made up; once the layers
//! below are complete, it gets the attributes that an unpacker on top of them would have found.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::Failure;
use super::attributes::OVERLAY_ATTRIBUTES;
use super::unpack::{OPAQUE, open_beneath};

/// Gives the `implied` directories below `layer` the attributes of the directories of the same
/// name that are visible in `lower`, the directories of the layers below, topmost first. Where
/// there is none, a directory keeps mode 0755 and root as its owner. Blocking.
///
/// A name that is not a directory below (a symbolic link, say) is hidden by the made-up directory,
/// as Docker and CRI-O have it.
pub(crate) fn inherit_attributes(
    layer: &Path,
    implied: &[PathBuf],
    lower: &[PathBuf],
) -> Result<(), Failure> {
    if implied.is_empty() || lower.is_empty() {
        return Ok(());
    }
    let open = |path: &Path| {
        File::open(path).map(OwnedFd::from).map_err(|error| {
            Failure::Store(format!("cannot open layer {}: {error}", path.display()))
        })
    };
    let layer = open(layer)?;
    let lower = lower
        .iter()
        .map(|path| open(path))
        .collect::<Result<Vec<_>, _>>()?;
    for path in implied {
        let bytes = path.as_os_str().as_bytes();
        let failed = |error| Failure::writing(bytes, "inherit the attributes of", error);
        if let Some(source) = visible(layer.as_fd(), &lower, bytes).map_err(failed)? {
            let directory = open_beneath(layer.as_fd(), bytes).map_err(failed)?;
            copy(source.as_fd(), directory.as_fd()).map_err(failed)?;
        }
    }
    Ok(())
}

/// The directory `path` as it is visible in the layers below.
fn visible(
    layer: BorrowedFd<'_>,
    lower: &[OwnedFd],
    path: &[u8],
) -> Result<Option<OwnedFd>, Errno> {
    if let Seen::Directory {
        below_opaque: true, ..
    } = look(layer, path)?
    {
        return Ok(None);
    }
    for root in lower {
        match look(root.as_fd(), path)? {
            Seen::Directory { directory, .. } => return Ok(Some(directory)),
            Seen::Hidden => return Ok(None),
            Seen::Nothing => {}
        }
    }
    Ok(None)
}

/// What one layer has to say about a path.
enum Seen {
    Directory {
        directory: OwnedFd,
        /// A directory above it is opaque: what lower layers have there is hidden.
        below_opaque: bool,
    },
    /// Something that is not a directory, or nothing below an opaque directory.
    Hidden,
    Nothing,
}

fn look(root: BorrowedFd<'_>, path: &[u8]) -> Result<Seen, Errno> {
    let mut directory = open_beneath(root, b"")?;
    let mut below_opaque = false;
    for (depth, name) in path.split(|&byte| byte == b'/').enumerate() {
        if name.is_empty() {
            break;
        }
        below_opaque = below_opaque || (depth > 0 && is_opaque(directory.as_fd()));
        directory = match open_beneath(directory.as_fd(), name) {
            Ok(directory) => directory,
            Err(Errno::NOENT) if !below_opaque => return Ok(Seen::Nothing),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Seen::Hidden),
            Err(error) => return Err(error),
        };
    }
    Ok(Seen::Directory {
        directory,
        below_opaque,
    })
}

fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    let mut value = [0; 1];
    matches!(rustix::fs::fgetxattr(directory, OPAQUE, &mut value), Ok(1)) && value == *b"y"
}

fn copy(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(source)?;
    rustix::fs::fchown(
        target,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode))?;
    copy_extended(source, target)?;
    rustix::fs::futimens(target, &times(&stat))
}

fn copy_extended(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut names = vec![0; rustix::fs::flistxattr_query(source)?];
    let length = rustix::fs::flistxattr(source, &mut names)?;
    for name in names[..length].split(|&byte| byte == 0) {
        if name.is_empty() || name.starts_with(OVERLAY_ATTRIBUTES) {
            continue;
        }
        let mut value = vec![0; rustix::fs::fgetxattr_query(source, name)?];
        let length = rustix::fs::fgetxattr(source, name, &mut value)?;
        rustix::fs::fsetxattr(target, name, &value[..length], XattrFlags::empty())?;
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    // The field types differ between architectures.
    #[allow(
        clippy::cast_possible_wrap,
        clippy::useless_conversion,
        clippy::unnecessary_cast
    )]
    let timespec = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as _,
    };
    Timestamps {
        last_access: timespec(stat.st_atime, stat.st_atime_nsec),
        last_modification: timespec(stat.st_mtime, stat.st_mtime_nsec),
    }
}
