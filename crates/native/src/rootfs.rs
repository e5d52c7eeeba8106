//! Reading a container's root file system before it is mounted: a lookup over the layers as
//! overlayfs would merge them (whiteouts, opaque directories, symlinks across layers; see
//! overlayfs.rst in the kernel's documentation).

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fgetxattr, openat, readlinkat, statat};
use rustix::io::Errno;

/// As many symbolic links as path_resolution(7) follows.
const MAX_LINKS: usize = 40;

/// The largest file that is read: `/etc/passwd` and `/etc/group` of images.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// An image's file at an absolute path, as a container over these layers (lowest first) would see
/// it; none where it would see no regular file. Blocking.
///
/// # Errors
///
/// What the file system reports; a file of more than 4 MiB.
pub(crate) fn read(layers: &[PathBuf], path: &Path) -> io::Result<Option<Vec<u8>>> {
    let Some(Place::File(file)) = lookup(open_all(layers)?, path)? else {
        return Ok(None);
    };
    let mut content = Vec::new();
    File::from(file)
        .take(MAX_FILE + 1)
        .read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!(
            "{} is larger than 4 MiB",
            path.display()
        )));
    }
    Ok(Some(content))
}

/// What is at a path of an image, on the node's own file system.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A directory: the layers' directories that make it up, the lowest first.
    Directory(Vec<PathBuf>),
    /// A regular file.
    File(PathBuf),
}

/// Where an image has what is at a path, as a container over these layers (lowest first) would
/// see it; none where it would see neither a directory nor a regular file. Blocking.
///
/// # Errors
///
/// What the file system reports.
pub(crate) fn find(layers: &[PathBuf], path: &Path) -> io::Result<Option<Found>> {
    Ok(match lookup(open_all(layers)?, path)? {
        None => None,
        Some(Place::File(file)) => Some(Found::File(name_of(&file)?)),
        Some(Place::Directory(merged)) => {
            let lowest_first = merged.iter().rev().map(name_of);
            Some(Found::Directory(lowest_first.collect::<Result<_, _>>()?))
        }
    })
}

/// The path of something that was opened. Layers do not change, so that it stays the same.
fn name_of(opened: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))
}

/// The layers' directories, the topmost first.
fn open_all(layers: &[PathBuf]) -> io::Result<Vec<OwnedFd>> {
    let opened = layers.iter().rev().map(|layer| open_directory(CWD, layer));
    Ok(opened.collect::<Result<_, _>>()?)
}

/// What a whole path leads to.
enum Place {
    /// The directories that make it up, the topmost layer's first.
    Directory(Vec<OwnedFd>),
    File(OwnedFd),
}

/// What one name in a merged directory is.
enum Entry {
    Absent,
    Directory(Vec<OwnedFd>),
    Link(PathBuf),
    File(OwnedFd),
}

fn lookup(root: Vec<OwnedFd>, path: &Path) -> io::Result<Option<Place>> {
    // The names still to walk, the next one last.
    let mut names: Vec<PathBuf> = reversed(path);
    let mut trail: Vec<Vec<OwnedFd>> = Vec::new();
    let mut links = 0;
    while let Some(name) = names.pop() {
        if name.as_os_str() == ".." {
            trail.pop();
            continue;
        }
        let directory = trail.last().unwrap_or(&root);
        match entry(directory, &name)? {
            Entry::Absent => return Ok(None),
            Entry::Directory(merged) => trail.push(merged),
            Entry::File(file) => return Ok(names.is_empty().then_some(Place::File(file))),
            Entry::Link(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Ok(None);
                }
                if target.is_absolute() {
                    trail.clear();
                }
                names.extend(reversed(&target));
            }
        }
    }
    Ok(Some(Place::Directory(trail.pop().unwrap_or(root))))
}

fn reversed(path: &Path) -> Vec<PathBuf> {
    path.components()
        .rev()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| PathBuf::from(part.as_os_str()))
        .collect()
}

fn entry(directory: &[OwnedFd], name: &Path) -> io::Result<Entry> {
    let mut merged = Vec::new();
    for layer in directory {
        let status = match statat(layer, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(status) => status,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => {
                let opened = open_directory(layer, name)?;
                let opaque = is_opaque(&opened);
                merged.push(opened);
                if opaque {
                    break;
                }
            }
            // Whatever else it is ends the merging: a whiteout, or a file under a directory.
            _ if !merged.is_empty() => break,
            FileType::Symlink => {
                let target = readlinkat(layer, name, Vec::new())?;
                let target = target.into_string().map_err(|_| Errno::ILSEQ)?;
                return Ok(Entry::Link(PathBuf::from(target)));
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                return Ok(Entry::File(openat(layer, name, flags, Mode::empty())?));
            }
            _ => return Ok(Entry::Absent),
        }
    }
    Ok(if merged.is_empty() {
        Entry::Absent
    } else {
        Entry::Directory(merged)
    })
}

fn open_directory(at: impl std::os::fd::AsFd, name: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty())
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0_u8; 1];
    matches!(fgetxattr(directory, "trusted.overlay.opaque", &mut value), Ok(1) if value == *b"y")
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;

    use super::*;

    fn layers(count: usize) -> (tempfile::TempDir, Vec<PathBuf>) {
        let directory = tempfile::tempdir().unwrap();
        let layers: Vec<_> = (0..count)
            .map(|number| directory.path().join(number.to_string()))
            .collect();
        for layer in &layers {
            create_dir_all(layer.join("etc")).unwrap();
        }
        (directory, layers)
    }

    fn passwd(layers: &[PathBuf]) -> Option<String> {
        let content = read(layers, Path::new("/etc/passwd")).unwrap();
        content.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn the_topmost_layer_wins() {
        let (_guard, layers) = layers(3);
        assert_eq!(passwd(&layers), None);
        write(layers[0].join("etc/passwd"), "low").unwrap();
        assert_eq!(passwd(&layers).as_deref(), Some("low"));
        write(layers[1].join("etc/passwd"), "high").unwrap();
        assert_eq!(passwd(&layers).as_deref(), Some("high"));
    }

    #[test]
    fn links_are_followed_across_layers_and_never_out_of_them() {
        let (_guard, layers) = layers(2);
        create_dir_all(layers[0].join("store")).unwrap();
        write(layers[0].join("store/passwd"), "stored").unwrap();
        symlink("../../../../store/passwd", layers[1].join("etc/passwd")).unwrap();
        assert_eq!(passwd(&layers).as_deref(), Some("stored"));

        std::fs::remove_file(layers[1].join("etc/passwd")).unwrap();
        symlink("/etc/passwd", layers[1].join("etc/passwd")).unwrap();
        assert_eq!(passwd(&layers), None, "a link to itself ends");
    }

    #[test]
    fn a_directory_is_what_all_layers_have_of_it() {
        let (_guard, layers) = layers(3);
        let find = |path: &str| find(&layers, Path::new(path)).unwrap();
        create_dir_all(layers[0].join("data/sub")).unwrap();
        create_dir_all(layers[2].join("data/sub")).unwrap();
        write(layers[1].join("data"), "hides what is below").unwrap();
        write(layers[2].join("data/file"), "").unwrap();
        symlink("/data/sub/../../data", layers[2].join("link")).unwrap();
        let in_layer = |layer: usize, path: &str| layers[layer].join(path);
        assert_eq!(
            find("data/sub"),
            Some(Found::Directory(vec![in_layer(2, "data/sub")]))
        );
        assert_eq!(
            find("/etc"),
            Some(Found::Directory(vec![
                in_layer(0, "etc"),
                in_layer(1, "etc"),
                in_layer(2, "etc")
            ]))
        );
        assert_eq!(find(""), Some(Found::Directory(layers.clone())));
        assert_eq!(find("../../.."), Some(Found::Directory(layers.clone())));
        assert_eq!(
            find("link/file"),
            Some(Found::File(in_layer(2, "data/file")))
        );
        assert_eq!(find("data/none"), None);
        assert_eq!(find("data/file/below"), None);
    }

    #[test]
    fn whiteouts_and_opaque_directories_hide_what_is_below() {
        let (_guard, layers) = layers(2);
        write(layers[0].join("etc/passwd"), "low").unwrap();
        let etc = layers[1].join("etc");
        rustix::fs::setxattr(
            &etc,
            "trusted.overlay.opaque",
            b"y",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        assert_eq!(passwd(&layers), None);

        std::fs::remove_dir(&etc).unwrap();
        assert_eq!(passwd(&layers).as_deref(), Some("low"));
        let whiteout = rustix::fs::makedev(0, 0);
        rustix::fs::mknodat(
            CWD,
            &etc,
            FileType::CharacterDevice,
            Mode::empty(),
            whiteout,
        )
        .unwrap();
        assert_eq!(passwd(&layers), None);
    }
}
