//! Unpacks one archive into a directory that overlayfs can use as a lower layer.
//!
//! The directory holds this layer's entries only. A whiteout becomes a character device 0:0, an
//! opaque directory gets `trusted.overlay.opaque` (Linux, overlayfs.rst). No path is ever resolved
//! through a symbolic link or out of the directory: parents are opened with openat2(2) and
//! `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`, everything else is relative to such a parent.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::BufRead;
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;

use super::archive::{Archive, Entry, EntryKind};
use super::attributes::{Attributes, apply, apply_at};
use super::place::{Place, WHITEOUT, WHITEOUT_OPAQUE, components, is_reserved};
use super::{Failure, Unpacked, lossy};

pub(super) const OPAQUE: &str = "trusted.overlay.opaque";

const BLOCK: u64 = 4096;
/// Far above any real image, so that an archive without end has one.
const ENTRIES_MAX: u64 = 20_000_000;
/// Paths and attributes that are kept until the end, in bytes. A million directories need less.
const REMEMBERED_MAX: usize = 256 * 1024 * 1024;
/// What keeping one path takes beside the path.
const REMEMBERED_EACH: usize = 128;

const IMPLIED_MODE: u32 = 0o755;

/// What a directory of this layer is to look like once its content is there.
#[derive(Debug)]
enum Directory {
    /// Only implied by the path of an entry.
    Implied,
    Described(Attributes),
}

struct Unpacker {
    root: OwnedFd,
    /// The parent of the last entry, which is mostly the parent of the next one too.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// All directories of this layer by path; the root is the empty path.
    directories: BTreeMap<Vec<u8>, Directory>,
    /// Whiteouts that are in the layer now.
    whiteouts: BTreeSet<Vec<u8>>,
    /// Bytes that all of these take.
    remembered: usize,
    unpacked: Unpacked,
}

pub(super) fn unpack(reader: impl BufRead, root: OwnedFd) -> Result<Unpacked, Failure> {
    let mut archive = Archive::new(reader);
    let mut unpacker = Unpacker {
        root,
        parent: None,
        directories: BTreeMap::from([(Vec::new(), Directory::Implied)]),
        whiteouts: BTreeSet::new(),
        remembered: 0,
        unpacked: Unpacked {
            bytes: BLOCK,
            inodes: 1,
            ..Unpacked::default()
        },
    };
    let mut entries = 0;
    while let Some(entry) = archive.next()? {
        entries += 1;
        if entries > ENTRIES_MAX {
            return Err(Failure::Corrupt(format!(
                "the archive has more than {ENTRIES_MAX} entries"
            )));
        }
        unpacker.add(entry, &mut archive)?;
    }
    unpacker.finish()
}

impl Unpacker {
    fn add<R: BufRead>(
        &mut self,
        mut entry: Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), Failure> {
        let path = std::mem::take(&mut entry.path);
        let components = components(&path)?;
        let Some((&name, parents)) = components.split_last() else {
            return self.describe_root(entry, &path);
        };
        if components[..].iter().any(|name| is_reserved(name)) {
            return Ok(());
        }
        if let Some(component) = parents.iter().find(|name| name.starts_with(WHITEOUT)) {
            return Err(Failure::Corrupt(format!(
                "archive entry {:?} is below the whiteout {:?}",
                lossy(&path),
                lossy(component)
            )));
        }
        let place = Place {
            parent: parents.join(&b'/'),
            name,
        };
        if name == WHITEOUT_OPAQUE {
            return self.make_opaque(&place.parent);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(Failure::Corrupt(format!(
                    "archive entry {:?} is a whiteout of nothing",
                    lossy(&path)
                )));
            }
            return self.add_whiteout(&Place {
                parent: place.parent,
                name: hidden,
            });
        }
        if entry.kind == EntryKind::Directory {
            return self.add_directory(&place, entry);
        }
        self.open_parent(&place.parent)?;
        self.make_way(&place)?;
        match &entry.kind {
            EntryKind::File => self.add_file(&place, entry, archive),
            EntryKind::HardLink { target } => self.add_hard_link(&place, target),
            _ => self.add_special(&place, entry),
        }
    }

    fn describe_root(&mut self, entry: Entry, path: &[u8]) -> Result<(), Failure> {
        if entry.kind != EntryKind::Directory {
            return Err(Failure::Corrupt(format!(
                "archive entry {:?} replaces the root directory",
                lossy(path)
            )));
        }
        self.describe(Vec::new(), Attributes::of(entry))
    }

    fn add_directory(&mut self, place: &Place<'_>, entry: Entry) -> Result<(), Failure> {
        let path = place.path();
        if !self.directories.contains_key(&path) {
            self.open_parent(&place.parent)?;
            self.create_directory(place)?;
        }
        self.describe(path, Attributes::of(entry))
    }

    fn describe(&mut self, path: Vec<u8>, attributes: Attributes) -> Result<(), Failure> {
        let extended = &attributes.extended;
        self.remember(
            extended
                .iter()
                .map(|(name, value)| name.len() + value.len())
                .sum(),
        )?;
        self.directories
            .insert(path, Directory::Described(attributes));
        Ok(())
    }

    fn remember(&mut self, bytes: usize) -> Result<(), Failure> {
        self.remembered += bytes + REMEMBERED_EACH;
        if self.remembered > REMEMBERED_MAX {
            return Err(Failure::Corrupt(
                "the archive has more directories and whiteouts than any image needs".into(),
            ));
        }
        Ok(())
    }

    /// Creates a directory where the layer has none. A whiteout of the same name means that the
    /// directory replaces what the lower layers have there.
    fn create_directory(&mut self, place: &Place<'_>) -> Result<(), Failure> {
        let path = place.path();
        let replaces_lower = self.whiteouts.contains(&path);
        self.make_way(place)?;
        let parent = self.parent_fd();
        rustix::fs::mkdirat(parent, place.name, Mode::from_raw_mode(0o700))
            .map_err(|error| Failure::writing(&path, "create directory", error))?;
        if replaces_lower {
            let directory = open_directory(parent, place.name)
                .map_err(|error| Failure::writing(&path, "open directory", error))?;
            set_opaque(directory.as_fd(), &path)?;
        }
        self.count(BLOCK);
        self.remember(path.len())?;
        self.directories.insert(path, Directory::Implied);
        Ok(())
    }

    fn add_whiteout(&mut self, place: &Place<'_>) -> Result<(), Failure> {
        let path = place.path();
        self.open_parent(&place.parent)?;
        if self.directories.contains_key(&path) {
            // Whiteouts hide lower layers only, whatever the order of the archive.
            let directory = open_directory(self.parent_fd(), place.name)
                .map_err(|error| Failure::writing(&path, "open directory", error))?;
            return set_opaque(directory.as_fd(), &path);
        }
        match rustix::fs::mknodat(
            self.parent_fd(),
            place.name,
            FileType::CharacterDevice,
            Mode::empty(),
            rustix::fs::makedev(0, 0),
        ) {
            Ok(()) => {
                self.count(0);
                self.remember(path.len())?;
                self.whiteouts.insert(path);
                Ok(())
            }
            // A file of this layer hides the lower one by itself.
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(Failure::writing(&path, "create whiteout", error)),
        }
    }

    fn make_opaque(&mut self, path: &[u8]) -> Result<(), Failure> {
        if path.is_empty() {
            self.unpacked.hides_lower = true;
            return Ok(());
        }
        self.open_parent(path)?;
        set_opaque(self.parent_fd(), path)
    }

    fn add_file<R: BufRead>(
        &mut self,
        place: &Place<'_>,
        entry: Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), Failure> {
        let path = &place.path();
        let file = rustix::fs::openat(
            self.parent_fd(),
            place.name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )
        .map_err(|error| Failure::writing(path, "create file", error))?;
        loop {
            let content = archive.content()?;
            if content.is_empty() {
                break;
            }
            let written = match rustix::io::write(&file, content) {
                Ok(written) => written,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(Failure::writing(path, "write file", error)),
            };
            archive.consume(written);
        }
        self.count(entry.size.next_multiple_of(BLOCK));
        apply(file.as_fd(), path, &Attributes::of(entry))
    }

    fn add_hard_link(&mut self, place: &Place<'_>, target: &[u8]) -> Result<(), Failure> {
        let path = &place.path();
        // A leading slash is the root of the image here, as for every other unpacker; the target
        // is still looked up inside this layer.
        let relative = &target[target.iter().take_while(|&&byte| byte == b'/').count()..];
        let components = components(relative)?;
        let missing = || {
            Failure::Corrupt(format!(
                "archive entry {:?} is a hard link to {:?}, which is not a file of this layer",
                lossy(path),
                lossy(target)
            ))
        };
        let (&target_name, parents) = components.split_last().ok_or_else(missing)?;
        let target_parent = parents.join(&b'/');
        let directory =
            open_beneath(self.root.as_fd(), &target_parent).map_err(|error| match error {
                Errno::LOOP => through_symlink(target, &target_parent),
                Errno::NOENT | Errno::NOTDIR => missing(),
                other => Failure::writing(target, "open the parent of", other),
            })?;
        rustix::fs::linkat(
            &directory,
            target_name,
            self.parent_fd(),
            place.name,
            AtFlags::empty(),
        )
        .map_err(|error| match error {
            Errno::NOENT | Errno::PERM => missing(),
            other => Failure::writing(path, "create hard link", other),
        })
    }

    fn add_special(&mut self, place: &Place<'_>, entry: Entry) -> Result<(), Failure> {
        let path = &place.path();
        let parent = self.parent_fd();
        let node = |file_type, device| {
            rustix::fs::mknodat(
                parent,
                place.name,
                file_type,
                Mode::from_raw_mode(0o600),
                device,
            )
        };
        let created = match &entry.kind {
            EntryKind::Symlink { target } => {
                rustix::fs::symlinkat(target.as_slice(), parent, place.name)
            }
            EntryKind::CharacterDevice { major, minor } => node(
                FileType::CharacterDevice,
                rustix::fs::makedev(*major, *minor),
            ),
            EntryKind::BlockDevice { major, minor } => {
                node(FileType::BlockDevice, rustix::fs::makedev(*major, *minor))
            }
            EntryKind::Fifo => node(FileType::Fifo, 0),
            EntryKind::File | EntryKind::Directory | EntryKind::HardLink { .. } => {
                unreachable!("has its own function")
            }
        };
        created.map_err(|error| Failure::writing(path, "create", error))?;
        let has_mode = !matches!(entry.kind, EntryKind::Symlink { .. });
        apply_at(parent, place.name, path, has_mode, &Attributes::of(entry))?;
        self.count(0);
        Ok(())
    }

    /// Removes what an earlier entry of this archive put here; the later one counts.
    fn make_way(&mut self, place: &Place<'_>) -> Result<(), Failure> {
        let path = place.path();
        if self.directories.contains_key(&path) {
            self.forget_below(&path);
            let directory = open_directory(self.parent_fd(), place.name)
                .map_err(|error| Failure::writing(&path, "open directory", error))?;
            remove_content(directory.as_fd())
                .and_then(|()| {
                    rustix::fs::unlinkat(self.parent_fd(), place.name, AtFlags::REMOVEDIR)
                })
                .map_err(|error| Failure::writing(&path, "replace directory", error))?;
            return Ok(());
        }
        self.whiteouts.remove(&path);
        match rustix::fs::unlinkat(self.parent_fd(), place.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(Failure::writing(&path, "replace", error)),
        }
    }

    fn forget_below(&mut self, path: &[u8]) {
        let prefix = [path, b"/"].concat();
        let from = (Bound::Included(prefix.as_slice()), Bound::Unbounded);
        let is_below = |other: &&Vec<u8>| other.starts_with(&prefix);
        let directories = self
            .directories
            .range::<[u8], _>(from)
            .map(|(other, _)| other);
        let directories: Vec<_> = directories.take_while(is_below).cloned().collect();
        let whiteouts = self.whiteouts.range::<[u8], _>(from);
        let whiteouts: Vec<_> = whiteouts.take_while(is_below).cloned().collect();
        self.directories.remove(path);
        for directory in directories {
            self.directories.remove(&directory);
        }
        for whiteout in whiteouts {
            self.whiteouts.remove(&whiteout);
        }
    }

    /// Opens the directory `path` of this layer as the present parent and creates what is missing
    /// on the way.
    fn open_parent(&mut self, path: &[u8]) -> Result<(), Failure> {
        if self
            .parent
            .as_ref()
            .is_some_and(|(present, _)| present == path)
        {
            return Ok(());
        }
        if !self.directories.contains_key(path) {
            self.create_implied(path)?;
        }
        let directory = open_beneath(self.root.as_fd(), path).map_err(|error| match error {
            Errno::LOOP | Errno::NOTDIR => through_symlink(path, path),
            other => Failure::writing(path, "open directory", other),
        })?;
        self.parent = Some((path.to_vec(), directory));
        Ok(())
    }

    fn create_implied(&mut self, path: &[u8]) -> Result<(), Failure> {
        let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], path),
        };
        self.open_parent(parent)?;
        let place = Place {
            parent: parent.to_vec(),
            name,
        };
        let exists = rustix::fs::statat(self.parent_fd(), name, AtFlags::SYMLINK_NOFOLLOW);
        if exists.is_ok() && !self.whiteouts.contains(path) {
            return Err(through_symlink(path, path));
        }
        self.create_directory(&place)
    }

    fn parent_fd(&self) -> BorrowedFd<'_> {
        self.parent
            .as_ref()
            .map_or(self.root.as_fd(), |(_, directory)| directory.as_fd())
    }

    fn count(&mut self, bytes: u64) {
        self.unpacked.bytes = self.unpacked.bytes.saturating_add(bytes);
        self.unpacked.inodes += 1;
    }

    /// Gives the directories their attributes, which the creation of their content would have
    /// changed again.
    fn finish(mut self) -> Result<Unpacked, Failure> {
        self.parent = None;
        for (path, directory) in std::mem::take(&mut self.directories) {
            let opened = open_beneath(self.root.as_fd(), &path)
                .map_err(|error| Failure::writing(&path, "open directory", error))?;
            match directory {
                Directory::Described(attributes) => apply(opened.as_fd(), &path, &attributes)?,
                Directory::Implied => {
                    rustix::fs::fchmod(&opened, Mode::from_raw_mode(IMPLIED_MODE))
                        .map_err(|error| Failure::writing(&path, "set the mode of", error))?;
                    self.unpacked
                        .implied
                        .push(PathBuf::from(OsString::from_vec(path)));
                }
            }
        }
        Ok(self.unpacked)
    }
}

fn through_symlink(path: &[u8], parent: &[u8]) -> Failure {
    Failure::Corrupt(format!(
        "archive entry below {:?} is refused: {:?} or a part of it is a symbolic link or not a \
         directory in the same layer",
        lossy(path),
        lossy(parent)
    ))
}

pub(super) fn open_beneath(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    rustix::fs::openat2(
        root,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
}

fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn set_opaque(directory: BorrowedFd<'_>, path: &[u8]) -> Result<(), Failure> {
    rustix::fs::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())
        .map_err(|error| Failure::writing(path, "mark as opaque", error))
}

fn remove_content(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {
                let below = open_directory(directory, name.to_bytes())?;
                remove_content(below.as_fd())?;
                rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?;
            }
            other => other?,
        }
    }
    Ok(())
}
