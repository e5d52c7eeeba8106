//! The container's `/dev`.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};
use rustix::io::Errno;

use super::inside::{self, Kind};
use super::mounts::{attach, clone_tree};
use super::options::Reach;
use crate::config::{Device, DeviceKind};
use crate::failure::{Explain, Outcome};
use crate::protocol::Failure;

/// A device node to make.
#[derive(Debug)]
struct Node<'a> {
    path: &'a Path,
    kind: FileType,
    major: u32,
    minor: u32,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// The devices that every container has (OCI runtime specification, "Default Devices").
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The links that programs expect.
const LINKS: [(&str, &str); 6] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/core", "/proc/kcore"),
];

/// Makes the default devices, those of the specification, and the links.
pub(super) fn populate(root: BorrowedFd<'_>, devices: &[Device]) -> Outcome<()> {
    for (path, major, minor) in DEFAULTS {
        let path = Path::new(path);
        if devices.iter().any(|device| device.path == path) {
            continue;
        }
        let kind = FileType::CharacterDevice;
        make(
            root,
            &Node {
                path,
                kind,
                major,
                minor,
                mode: 0o666,
                uid: 0,
                gid: 0,
            },
        )?;
    }
    for device in devices {
        make(root, &node(device))?;
    }
    for (path, target) in LINKS {
        inside::link(root, Path::new(path), target)
            .system(|| format!("link {path} to {target}"))?;
    }
    Ok(())
}

fn node(device: &Device) -> Node<'_> {
    Node {
        path: &device.path,
        kind: match device.kind {
            DeviceKind::Block => FileType::BlockDevice,
            DeviceKind::Character => FileType::CharacterDevice,
            DeviceKind::Pipe => FileType::Fifo,
        },
        major: device.major,
        minor: device.minor,
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        uid: device.uid,
        gid: device.gid,
    }
}

fn make(root: BorrowedFd<'_>, node: &Node<'_>) -> Outcome<()> {
    let doing = || format!("make the device {}", node.path.display());
    let (directory, name) = inside::parent(root, node.path).invalid(doing)?;
    let device = rustix::fs::makedev(node.major, node.minor);
    // The umask is 0 here.
    let mode = Mode::from_raw_mode(node.mode);
    match rustix::fs::mknodat(&directory, name, node.kind, mode, device) {
        Err(Errno::EXIST) => {
            let found = inside::look(directory.as_fd(), name).system(doing)?;
            if FileType::from_raw_mode(found.st_mode) == node.kind && found.st_rdev == device {
                return Ok(());
            }
            Err(Failure::invalid(format!(
                "{}: the image has something else at that path",
                doing()
            )))
        }
        // Without the right to make it, the node's own does as well.
        Err(Errno::PERM) => bind(root, node).system(doing),
        other => {
            other.system(doing)?;
            let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&directory, name, Some(uid), Some(gid), flags).system(doing)
        }
    }
}

fn bind(root: BorrowedFd<'_>, node: &Node<'_>) -> Result<(), Errno> {
    let path = node.path;
    let tree = clone_tree(path, Reach::One)?;
    let found = rustix::fs::fstat(&tree)?;
    if FileType::from_raw_mode(found.st_mode) != node.kind
        || found.st_rdev != rustix::fs::makedev(node.major, node.minor)
    {
        // The node has another device by that name.
        return Err(Errno::NODEV);
    }
    let place = inside::ensure(root, path, Kind::File)?;
    attach(tree.as_fd(), place.as_fd())
}
