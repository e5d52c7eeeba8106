//! Overlays that nothing is written to (overlayfs.rst): an image's layers as a volume.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags};

use super::mounts::{attach, kernel_message};
use super::rootfs::SMALLEST_PAGE;
use crate::failure::{Explain, Outcome};
use crate::protocol::Failure;

/// The directories of the option `lowerdir`, the topmost first; all other options must be none.
pub(super) fn layers(options: &[String]) -> Outcome<Vec<PathBuf>> {
    let mut layers = Vec::new();
    for option in options {
        match option.strip_prefix("lowerdir=") {
            Some(list) => layers.extend(split(list)),
            None => {
                return Err(Failure::invalid(format!(
                    "an overlay without a writable layer has no option {option:?}"
                )));
            }
        }
    }
    Ok(layers)
}

/// A colon ends a directory, unless a backslash is before it.
fn split(list: &str) -> Vec<PathBuf> {
    let mut paths = vec![String::new()];
    let mut letters = list.chars();
    while let Some(letter) = letters.next() {
        let escaped = if letter == '\\' { letters.next() } else { None };
        match (escaped, paths.last_mut()) {
            (Some(literal), Some(path)) => path.push(literal),
            (None, Some(path)) if letter != ':' => path.push(letter),
            _ => paths.push(String::new()),
        }
    }
    paths.into_iter().map(PathBuf::from).collect()
}

/// Mounts it at an open place, and gives the mount where it is a new one of its own.
pub(super) fn mount(
    layers: &[PathBuf],
    attributes: MountAttrFlags,
    place: BorrowedFd<'_>,
) -> Outcome<()> {
    let reason = match singly(|| one_by_one(layers, attributes)) {
        Ok(tree) => return attach(tree.as_fd(), place).system(|| "attach the overlay"),
        Err((Errno::INVAL, reason)) => reason,
        Err((_, reason)) => return Err(Failure::system(format!("the overlay: {reason}"))),
    };
    at_once(layers, attributes, place).system(|| format!("the overlay ({reason}, so at once)"))
}

/// Gives layers to the kernel one by one, unless it is older than 6.8 and knows no such option:
/// it would write that into its log each time. Some that are newer say so only in the end. It is
/// `EINVAL` in either case.
pub(super) fn singly(
    mount: impl FnOnce() -> Result<OwnedFd, (Errno, String)>,
) -> Result<OwnedFd, (Errno, String)> {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    if knows_single_layers(&release) {
        mount()
    } else {
        Err((Errno::INVAL, format!("this is Linux {release}")))
    }
}

fn knows_single_layers(release: &str) -> bool {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    let mut number = || numbers.next()?.parse::<u32>().ok();
    let version = number().zip(number());
    // Whoever names it otherwise is asked.
    version.is_none_or(|version| version >= (6, 8))
}

pub(super) fn one_by_one(
    layers: &[PathBuf],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, (Errno, String)> {
    let plain = |error: Errno| (error, error.to_string());
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(plain)?;
    let context = context.as_fd();
    let explained = |error: Errno| (error, format!("{error}{}", kernel_message(context)));
    rustix::mount::fsconfig_set_string(context, "source", "overlay").map_err(explained)?;
    for layer in layers {
        rustix::mount::fsconfig_set_string(context, "lowerdir+", layer).map_err(explained)?;
    }
    rustix::mount::fsconfig_create(context).map_err(explained)?;
    rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(plain)
}

/// The way of mount(2): all layers in one string, which must fit into a page. They are named by
/// descriptors, so that neither the length of their paths nor what is in them matters.
fn at_once(
    layers: &[PathBuf],
    attributes: MountAttrFlags,
    place: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |layer: &PathBuf| rustix::fs::open(layer, flags, Mode::empty());
    let opened = layers.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let name = |descriptor: i32| format!("/proc/self/fd/{descriptor}");
    let names: Vec<_> = opened.iter().map(|it| name(it.as_raw_fd())).collect();
    let data = format!("lowerdir={}", names.join(":"));
    if data.len() >= SMALLEST_PAGE {
        // The kernel would cut it off, and with it the layers at the bottom.
        return Err(Errno::TOOBIG);
    }
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    let mut mount_flags = MountFlags::empty();
    for (attribute, flag) in [
        (MountAttrFlags::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
        (MountAttrFlags::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
        (MountAttrFlags::MOUNT_ATTR_NODEV, MountFlags::NODEV),
        (MountAttrFlags::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
    ] {
        mount_flags.set(flag, attributes.contains(attribute));
    }
    let place = name(place.as_raw_fd());
    rustix::mount::mount("overlay", place, "overlay", mount_flags, data.as_c_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_know_no_single_layers_are_told_by_their_release() {
        for (release, knows) in [
            ("5.15.0-91-generic", false),
            ("6.1.0-50-cloud-amd64", false),
            ("6.7.12", false),
            ("6.8.0-31-generic", true),
            ("6.12", true),
            ("6.18+deb14-amd64", true),
            ("10.0", true),
            ("mine", true),
        ] {
            assert_eq!(knows_single_layers(release), knows, "{release}");
        }
    }

    #[test]
    fn a_list_of_layers_is_taken_apart() {
        let parsed = |option: &str| layers(&[option.to_owned()]).unwrap();
        assert_eq!(
            parsed(r"lowerdir=/a\:b:/c\\d:/e"),
            ["/a:b", r"/c\d", "/e"].map(PathBuf::from)
        );
        assert_eq!(parsed("lowerdir=/a"), [PathBuf::from("/a")]);
        assert!(layers(&["upperdir=/x".to_owned()]).is_err());
    }
}
