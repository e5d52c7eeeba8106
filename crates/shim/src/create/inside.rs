//! Paths inside a root file system that nobody has looked at: an image's, or a volume's that
//! another container writes to at this moment. Every path is resolved by the kernel below the root
//! (`RESOLVE_IN_ROOT` of openat2(2)), and what was found is used by its descriptor.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// As many symbolic links as the kernel itself follows.
const MAX_LINKS: usize = 40;

/// What is to be at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// Opens what is at `path` below `root`, for use as a place.
pub(super) fn open(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    open_with(root, path, OFlags::empty(), ResolveFlags::empty())
}

/// Like [`open`], but a symbolic link anywhere in `path` is `ELOOP`.
pub(super) fn open_without_links(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    open_with(root, path, OFlags::empty(), ResolveFlags::NO_SYMLINKS)
}

fn open_with(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // Something was renamed meanwhile, so that the kernel cannot be sure; it asks to be
            // asked again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Opens what is at `path` below `root`. What is missing is made: directories on the way, and a
/// directory or an empty file in the end.
pub(super) fn ensure(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> Result<OwnedFd, Errno> {
    match open(root, path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let mut pending: VecDeque<OsString> = parts(path).collect();
    let mut resolved = PathBuf::new();
    let mut links = 0;
    while let Some(part) = pending.pop_front() {
        if part == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&part);
        let opened = match open_with(root, &next, OFlags::NOFOLLOW, ResolveFlags::NO_SYMLINKS) {
            Err(Errno::NOENT) => {
                let parent = open_without_links(root, &resolved)?;
                let kind = if pending.is_empty() {
                    kind
                } else {
                    Kind::Directory
                };
                make(parent.as_fd(), &part, kind)?;
                open_with(root, &next, OFlags::NOFOLLOW, ResolveFlags::NO_SYMLINKS)?
            }
            other => other?,
        };
        let found = FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode);
        if found == FileType::Symlink {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            let target = rustix::fs::readlinkat(&opened, c"", Vec::new())?.into_bytes();
            let target = PathBuf::from(OsString::from_vec(target));
            if target.is_absolute() {
                resolved = PathBuf::new();
            }
            for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                pending.push_front(part);
            }
        } else {
            resolved = next;
        }
    }
    open_without_links(root, &resolved)
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

fn make(parent: BorrowedFd<'_>, name: &OsStr, kind: Kind) -> Result<(), Errno> {
    let made = match kind {
        Kind::Directory => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        // Somebody else was quicker; what it is shows when it is opened.
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// The directory that is to hold `path`, made if need be, and the name in it.
pub(super) fn parent<'a>(
    root: BorrowedFd<'_>,
    path: &'a Path,
) -> Result<(OwnedFd, &'a OsStr), Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let directory = ensure(
        root,
        path.parent().unwrap_or(Path::new("/")),
        Kind::Directory,
    )?;
    Ok((directory, name))
}

/// Makes a symbolic link, unless something is there already.
pub(super) fn link(root: BorrowedFd<'_>, path: &Path, target: &str) -> Result<(), Errno> {
    let (directory, name) = parent(root, path)?;
    match rustix::fs::symlinkat(target, &directory, name) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// What a name stands for in a directory, without following it.
pub(super) fn look(directory: BorrowedFd<'_>, name: &OsStr) -> Result<rustix::fs::Stat, Errno> {
    rustix::fs::statat(
        directory,
        OsStr::from_bytes(name.as_bytes()),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Scene {
        directory: tempfile::TempDir,
        root: OwnedFd,
    }

    fn scene() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("a/root");
        fs::create_dir_all(&inside).unwrap();
        let root = rustix::fs::open(&inside, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        Scene {
            directory,
            root: root.unwrap(),
        }
    }

    impl Scene {
        fn inside(&self, path: &str) -> PathBuf {
            self.directory.path().join("a/root").join(path)
        }

        fn ensure(&self, path: &str, kind: Kind) -> Result<OwnedFd, Errno> {
            ensure(self.root.as_fd(), Path::new(path), kind)
        }

        /// Nothing was made beside the root.
        fn nothing_outside(&self) {
            for (path, only) in [("", "a"), ("a", "root")] {
                let path = self.directory.path().join(path);
                let names: Vec<_> = fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name())
                    .collect();
                assert_eq!(names, [only]);
            }
        }
    }

    #[test]
    fn missing_directories_and_files_are_made() {
        let scene = scene();
        scene.ensure("/x/y", Kind::Directory).unwrap();
        scene.ensure("/x/z/file", Kind::File).unwrap();
        assert!(scene.inside("x/y").is_dir());
        assert!(scene.inside("x/z/file").is_file());
    }

    #[test]
    fn a_link_out_of_the_root_stays_in_it() {
        let scene = scene();
        symlink("/../../../outside", scene.inside("absolute")).unwrap();
        symlink("../../../outside", scene.inside("relative")).unwrap();
        scene.ensure("/absolute/one", Kind::Directory).unwrap();
        scene.ensure("/relative/two", Kind::File).unwrap();
        scene.ensure("/../../../three", Kind::File).unwrap();
        assert!(scene.inside("outside/one").is_dir());
        assert!(scene.inside("outside/two").is_file());
        assert!(scene.inside("three").is_file());
        scene.nothing_outside();
    }

    #[test]
    fn a_dangling_link_is_followed() {
        let scene = scene();
        symlink("/run/lock", scene.inside("lock")).unwrap();
        scene.ensure("/lock", Kind::Directory).unwrap();
        assert!(scene.inside("run/lock").is_dir());
    }

    #[test]
    fn links_in_a_circle_are_an_error() {
        let scene = scene();
        symlink("two", scene.inside("one")).unwrap();
        symlink("one", scene.inside("two")).unwrap();
        assert_eq!(scene.ensure("/one/x", Kind::File).unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn a_file_is_no_directory() {
        let scene = scene();
        fs::write(scene.inside("file"), "").unwrap();
        assert_eq!(
            scene.ensure("/file/x", Kind::File).unwrap_err(),
            Errno::NOTDIR
        );
    }
}
