//! A container's root file system: mounting it, closing off parts of it, and moving into it.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, UnmountFlags,
};

use super::inside;
use super::mounts::{
    attach, clone_tree, clone_tree_at, is_directory, kernel_message, new_file_system,
};
use super::options::{Reach, propagation};
use super::overlay::singly;
use super::user::UserNamespace;
use crate::failure::{Explain, Outcome};
use crate::protocol::{Failure, Overlay};
use crate::syscall::{MountSetattr, map_ids, mount_setattr};

/// The size of a page, in bytes, where it is smallest.
pub(super) const SMALLEST_PAGE: usize = 4096;

/// Keeps what is mounted here from reaching the node, and lets what the node mounts come in.
pub(crate) fn turn_away_from_node() -> Outcome<()> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).system(|| "make the container's mounts private")
}

/// Mounts the root file system on `path` and opens it.
pub(crate) fn mount(overlay: &Overlay, path: &Path) -> Outcome<OwnedFd> {
    let doing = || format!("mount the root file system on {}", path.display());
    let tree = make(overlay, path, None)?;
    let place = make_place(path).system(doing)?;
    attach(tree.as_fd(), place.as_fd()).system(doing)?;
    Ok(tree)
}

fn make_place(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            rustix::fs::mkdir(path, Mode::from_raw_mode(0o700))?;
            rustix::fs::open(path, flags, Mode::empty())
        }
        other => other,
    }
}

/// Makes the root file system, as a mount that is nowhere yet; `path` is where it may be for a
/// while. With a user namespace, what belongs to number 0 in the layers belongs to the namespace's
/// root in the container, so that no file has to change its owner. The writable layer has the
/// owners that the node sees: overlayfs makes files there as the node's root, who does not exist in
/// a mapped mount.
pub(super) fn make(
    overlay: &Overlay,
    path: &Path,
    user: Option<&UserNamespace>,
) -> Outcome<OwnedFd> {
    let doing = || "make the root file system";
    if let Some(user) = user {
        map_layers(&overlay.lower, user)?;
    }
    if overlay.lower.is_empty() {
        // An image without layers: there is nothing to lay over.
        return clone_tree(&overlay.upper, Reach::One).system(doing);
    }
    let reason = match singly(|| layered(overlay)) {
        Ok(tree) => return Ok(tree),
        Err((Errno::INVAL, reason)) => reason,
        Err((_, reason)) => return Err(Failure::system(format!("{}: {reason}", doing()))),
    };
    let made = || {
        make_place(path)?;
        mount_at_once(overlay, path)?;
        let tree = clone_tree(path, Reach::One)?;
        rustix::mount::unmount(path, UnmountFlags::DETACH)?;
        Ok::<_, Errno>(tree)
    };
    made().system(|| format!("{} ({reason}, so at once)", doing()))
}

/// Covers the directories that the layers are in with id-mapped mounts of themselves. Kernels
/// before 6.15 take only layers that are mounted somewhere.
pub(super) fn map_layers(layers: &[PathBuf], user: &UserNamespace) -> Outcome<()> {
    // They lie side by side, so that one mount does for many.
    let parents: BTreeSet<_> = layers.iter().filter_map(|path| path.parent()).collect();
    for directory in parents {
        let doing = || format!("map the ids of the layers in {}", directory.display());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::open(directory, flags, Mode::empty()).system(doing)?;
        let tree = clone_tree_at(place.as_fd(), Reach::One).system(doing)?;
        if user.maps(tree.as_fd()) {
            continue;
        }
        map_ids(tree.as_fd(), user.descriptor()).map_err(|error| {
            Failure::unsupported(format!(
                "{}: {error}: the file system there cannot be id-mapped by this kernel, which a \
                 pod with a user namespace needs; ext4, xfs and btrfs can be from Linux 5.19 on",
                doing()
            ))
        })?;
        attach(tree.as_fd(), place.as_fd()).system(doing)?;
    }
    Ok(())
}

/// Mounts a root file system over the process's root directory, for [`move_into`] to go to.
pub(super) fn attach_root(root: BorrowedFd<'_>) -> Outcome<()> {
    let doing = || "mount the root file system";
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::open("/", flags, Mode::empty()).system(doing)?;
    attach(root, place.as_fd()).system(doing)
}

/// Gives the layers to the kernel one by one, so that their number and the length of their paths
/// do not matter. An error comes with what the kernel has to say about it.
fn layered(overlay: &Overlay) -> Result<OwnedFd, (Errno, String)> {
    let plain = |error: Errno| (error, error.to_string());
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(plain)?;
    let context = context.as_fd();
    let explained = |error: Errno| (error, format!("{error}{}", kernel_message(context)));
    rustix::mount::fsconfig_set_string(context, "source", "overlay").map_err(explained)?;
    for layer in overlay.lower.iter().rev() {
        rustix::mount::fsconfig_set_string(context, "lowerdir+", layer).map_err(explained)?;
    }
    rustix::mount::fsconfig_set_string(context, "upperdir", &overlay.upper).map_err(explained)?;
    rustix::mount::fsconfig_set_string(context, "workdir", &overlay.work).map_err(explained)?;
    if let Some(label) = &overlay.label {
        rustix::mount::fsconfig_set_string(context, "context", label).map_err(explained)?;
    }
    rustix::mount::fsconfig_create(context).map_err(explained)?;
    let attributes = MountAttrFlags::empty();
    rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(plain)
}

/// The way of mount(2): all layers in one string, which must fit into a page. They are named by
/// descriptors, so that neither the length of their paths nor what is in them matters.
fn mount_at_once(overlay: &Overlay, path: &Path) -> Result<(), Errno> {
    let open = |directory: &PathBuf| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(directory, flags, Mode::empty())
    };
    let name = |opened: &OwnedFd| format!("/proc/self/fd/{}", opened.as_raw_fd());
    let layers = overlay.lower.iter().rev().map(open);
    let layers: Vec<_> = layers.collect::<Result<_, _>>()?;
    let (upper, work) = (open(&overlay.upper)?, open(&overlay.work)?);
    let label = overlay.label.as_ref();
    // A label has commas, which divide options as well.
    let label = label.map(|label| format!(",context=\"{label}\""));
    let data = format!(
        "lowerdir={},upperdir={},workdir={}{}",
        layers.iter().map(name).collect::<Vec<_>>().join(":"),
        name(&upper),
        name(&work),
        label.unwrap_or_default()
    );
    if data.len() >= SMALLEST_PAGE {
        // The kernel would cut it off, and with it the layers at the bottom.
        return Err(Errno::TOOBIG);
    }
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    let flags = MountFlags::empty();
    rustix::mount::mount("overlay", path, "overlay", flags, data.as_c_str())
}

/// Hides a path: a directory behind an empty one, a file behind the node's `/dev/null`, which can
/// still be seen as long as nobody has moved into the root file system. One that is not there needs
/// no hiding.
pub(super) fn mask(root: BorrowedFd<'_>, path: &Path) -> Outcome<()> {
    let doing = || format!("mask {}", path.display());
    let place = match inside::open(root, path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        other => other.system(doing)?,
    };
    let cover = if is_directory(&place).system(doing)? {
        new_file_system(
            "tmpfs",
            "tmpfs",
            ["size=0k", "mode=755"],
            MountAttrFlags::MOUNT_ATTR_RDONLY,
        )?
    } else {
        // A copy each: kernels before 6.15 do not copy a mount that is mounted nowhere. It is on its
        // own, so that what the container mounts over it never reaches the node's.
        let null = clone_tree(Path::new("/dev/null"), Reach::One).system(doing)?;
        let alone = MountSetattr {
            propagation: libc::MS_PRIVATE,
            ..MountSetattr::default()
        };
        mount_setattr(null.as_fd(), false, &alone).system(doing)?;
        null
    };
    attach(cover.as_fd(), place.as_fd()).system(doing)
}

/// Makes a path read-only, if it is there.
pub(super) fn protect(root: BorrowedFd<'_>, path: &Path) -> Outcome<()> {
    let doing = || format!("make {} read-only", path.display());
    let place = match inside::open(root, path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        other => other.system(doing)?,
    };
    let tree = clone_tree_at(place.as_fd(), Reach::Recursive).system(doing)?;
    seal(tree.as_fd(), true).system(doing)?;
    attach(tree.as_fd(), place.as_fd()).system(doing)
}

/// Makes a mount read-only.
pub(super) fn seal(mount: BorrowedFd<'_>, recursive: bool) -> Result<(), Errno> {
    let read_only = MountSetattr {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY,
        ..MountSetattr::default()
    };
    mount_setattr(mount, recursive, &read_only)
}

/// Makes `root` the root directory of the mount namespace and lets go of the old one.
pub(super) fn move_into(root: BorrowedFd<'_>, spread: &str) -> Outcome<()> {
    let doing = || "move into the root file system";
    rustix::process::fchdir(root).system(doing)?;
    // The old root ends up on top of the new one (pivot_root(2)), and is taken off from there.
    rustix::process::pivot_root(".", ".").system(doing)?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).system(doing)?;
    rustix::process::chdir("/").system(doing)?;
    if spread.is_empty() {
        return Ok(());
    }
    // Volumes have a propagation of their own: this is the root's alone.
    let (propagation, _) = propagation(spread)
        .ok_or_else(|| Failure::invalid(format!("rootfsPropagation {spread:?} is unknown")))?;
    if matches!(propagation, libc::MS_SLAVE | libc::MS_PRIVATE) {
        // A new file system in a namespace that has turned away from the node is both.
        return Ok(());
    }
    let change = MountSetattr {
        propagation,
        ..MountSetattr::default()
    };
    mount_setattr(root, false, &change).system(doing)
}
