//! The mounts that config.json lists.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use super::inside::{self, Kind};
use super::options::{MountOptions, Reach};
use super::overlay;
use super::rootfs::map_layers;
use super::user::UserNamespace;
use crate::cgroup::Cgroup;
use crate::config::Mount;
use crate::failure::{Explain, Outcome};
use crate::protocol::Failure;
use crate::syscall::{MountSetattr, map_ids, mount_setattr};

/// `PROC_SUPER_MAGIC` of statfs(2).
const PROC: i64 = 0x9fa0;

/// What may be mounted over in `/proc`: files that show a container's own share of the node.
const OVER_PROC: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// The mount option of proc(5) that names a PID namespace.
const PROC_PIDS: &str = "pidns";

/// A mount whose source, if it lies on the node, has been opened there.
#[derive(Debug)]
pub(super) struct Planned<'a> {
    pub(super) mount: &'a Mount,
    options: MountOptions,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// A detached copy of part of the node's mounts.
    Tree(OwnedFd),
    /// A new instance of a file system.
    FileSystem(String),
    /// Read-only directories of the node over each other, the topmost first.
    Overlay(Vec<PathBuf>),
    /// The container's cgroup directories of v1, each under its hierarchy's name.
    Cgroups(Vec<(String, OwnedFd)>),
}

/// Opens the sources of all mounts. To be done while the mounts of the new mount namespace are
/// still peers of the node's, so that a bind mount can go on sharing with it. `label` is the SELinux
/// label of what is new in the container, or empty.
pub(super) fn plan<'a>(
    mounts: &'a [Mount],
    bundle: &Path,
    cgroup: &Cgroup,
    label: &str,
    user: Option<&UserNamespace>,
) -> Outcome<Vec<Planned<'a>>> {
    let plan = |mount| {
        let mut planned = plan_one(mount, bundle, cgroup, user)?;
        planned.label(label);
        Ok(planned)
    };
    mounts.iter().map(plan).collect()
}

fn plan_one<'a>(
    mount: &'a Mount,
    bundle: &Path,
    cgroup: &Cgroup,
    user: Option<&UserNamespace>,
) -> Outcome<Planned<'a>> {
    let mut options = MountOptions::parse(&mount.options);
    let kind = mount.kind.as_str();
    if kind == "bind" && options.bind.is_none() {
        options.bind = Some(Reach::One);
    }
    // A copy of a shared mount is its peer until it is told otherwise.
    let source = if let Some(reach) = options.bind {
        options
            .propagation
            .get_or_insert((libc::MS_PRIVATE, Reach::Recursive));
        if let Some(unknown) = options.data.first() {
            return Err(Failure::invalid(format!(
                "mount {}: a bind mount has no option {unknown:?}",
                mount.destination.display()
            )));
        }
        let source = mount.source.as_deref().ok_or_else(|| {
            Failure::invalid(format!(
                "mount {}: a bind mount needs a source",
                mount.destination.display()
            ))
        })?;
        let source = bundle.join(source);
        let tree = clone_tree(&source, reach).invalid(|| {
            format!(
                "mount {} on {}",
                source.display(),
                mount.destination.display()
            )
        })?;
        if mount.uid_mappings.is_some() || mount.gid_mappings.is_some() {
            map_volume(tree.as_fd(), mount, &source, user)?;
        }
        Source::Tree(tree)
    } else if kind == "overlay" {
        let layers = overlay::layers(&options.data);
        Source::Overlay(layers.map_err(|failure| {
            prefixed(&format!("mount {}", mount.destination.display()), failure)
        })?)
    } else if kind == "cgroup" && !cgroup.hierarchies().is_empty() {
        Source::Cgroups(clone_hierarchies(cgroup)?)
    } else if kind == "cgroup" {
        Source::FileSystem("cgroup2".to_owned())
    } else {
        Source::FileSystem(kind.to_owned())
    };
    Ok(Planned {
        mount,
        options,
        source,
    })
}

/// Maps the ids of a volume as the user namespace does: the files of number 0 are its root's.
fn map_volume(
    tree: BorrowedFd<'_>,
    mount: &Mount,
    source: &Path,
    user: Option<&UserNamespace>,
) -> Outcome<()> {
    let destination = mount.destination.display();
    let user = user.ok_or_else(|| {
        Failure::invalid(format!(
            "mount {destination}: its ids can be mapped only in a container with a user namespace"
        ))
    })?;
    map_ids(tree, user.descriptor()).map_err(|error| {
        Failure::unsupported(format!(
            "mount {destination}: the ids of {} cannot be mapped: {error}: its file system does \
             not support id-mapped mounts on this kernel, or is one already",
            source.display()
        ))
    })
}

/// A detached copy of the mounts at a path of the node.
pub(super) fn clone_tree(path: &Path, reach: Reach) -> Result<OwnedFd, Errno> {
    rustix::mount::open_tree(CWD, path, clone_flags(reach))
}

/// A detached copy of the mounts at an open place.
pub(super) fn clone_tree_at(place: BorrowedFd<'_>, reach: Reach) -> Result<OwnedFd, Errno> {
    rustix::mount::open_tree(
        place,
        c"",
        clone_flags(reach) | OpenTreeFlags::AT_EMPTY_PATH,
    )
}

fn clone_flags(reach: Reach) -> OpenTreeFlags {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, reach == Reach::Recursive);
    flags
}

fn clone_hierarchies(cgroup: &Cgroup) -> Outcome<Vec<(String, OwnedFd)>> {
    let attributes = MountSetattr {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        clear: MountAttrFlags::empty(),
        propagation: libc::MS_PRIVATE,
    };
    cgroup
        .hierarchies()
        .iter()
        .map(|directory| {
            let doing = || format!("mount the cgroup {}", directory.display());
            let tree = clone_tree(directory, Reach::One).system(doing)?;
            mount_setattr(tree.as_fd(), false, &attributes).system(doing)?;
            Ok((hierarchy_name(directory), tree))
        })
        .collect()
}

/// The name of the hierarchy that a directory is in: that of its mount point, which is where the
/// way up leaves the file system.
fn hierarchy_name(directory: &Path) -> String {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.st_dev()).ok();
    let own = device(directory);
    let mount_point = directory
        .ancestors()
        .take_while(|ancestor| device(ancestor) == own)
        .last()
        .unwrap_or(directory);
    mount_point
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// A new instance of a file system, not mounted anywhere yet.
pub(super) fn new_file_system<'a>(
    kind: &str,
    source: &str,
    data: impl IntoIterator<Item = &'a str>,
    attributes: MountAttrFlags,
) -> Outcome<OwnedFd> {
    new_file_system_of(kind, source, data, attributes, None)
}

/// As [`new_file_system`]; a `/proc` shows the processes of the PID namespace `pids`.
fn new_file_system_of<'a>(
    kind: &str,
    source: &str,
    data: impl IntoIterator<Item = &'a str>,
    attributes: MountAttrFlags,
    pids: Option<BorrowedFd<'_>>,
) -> Outcome<OwnedFd> {
    let doing = || format!("a file system of type {kind:?}");
    let context = match rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::NODEV) => {
            return Err(Failure::invalid(format!(
                "the kernel has no file system {kind:?}"
            )));
        }
        other => other.system(doing)?,
    };
    let context = context.as_fd();
    let explained =
        |error: Errno| Failure::invalid(format!("{}: {error}{}", doing(), kernel_message(context)));
    rustix::mount::fsconfig_set_string(context, "source", source).map_err(explained)?;
    if let Some(pids) = pids {
        rustix::mount::fsconfig_set_fd(context, PROC_PIDS, pids).map_err(explained)?;
    }
    for option in data {
        let set = match option.split_once('=') {
            Some((key, value)) => rustix::mount::fsconfig_set_string(context, key, value),
            None => rustix::mount::fsconfig_set_flag(context, option),
        };
        set.map_err(explained)?;
    }
    rustix::mount::fsconfig_create(context).map_err(explained)?;
    rustix::mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).system(doing)
}

/// Whether the kernel mounts the `/proc` of a PID namespace that the caller is not in.
pub(super) fn can_mount_proc_of(pids: BorrowedFd<'_>) -> bool {
    rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)
        .and_then(|context| rustix::mount::fsconfig_set_fd(context, PROC_PIDS, pids))
        .is_ok()
}

/// What the kernel has to say about a file system that it did not make.
pub(super) fn kernel_message(context: BorrowedFd<'_>) -> String {
    let mut message = String::new();
    let mut buffer = [0; 1024];
    while let Ok(length) = rustix::io::read(context, &mut buffer) {
        if length == 0 {
            break;
        }
        message.push_str("; ");
        // Each message begins with its severity: "e overlay: ...".
        message.push_str(
            String::from_utf8_lossy(&buffer[..length])
                .trim_end()
                .get(2..)
                .unwrap_or(""),
        );
    }
    message
}

/// Puts a detached mount at an open place.
pub(crate) fn attach(tree: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, c"", place, c"", flags)
}

/// Whether a descriptor is a directory.
pub(super) fn is_directory(descriptor: impl AsFd) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(descriptor)?.st_mode) == FileType::Directory)
}

impl Planned<'_> {
    /// Gives new file systems of files the container's SELinux label, if there is one.
    fn label(&mut self, label: &str) {
        if !label.is_empty()
            && let Source::FileSystem(kind) = &self.source
            && ["tmpfs", "devpts"].contains(&kind.as_str())
        {
            self.options.data.push(format!("context={label}"));
        }
    }

    /// Makes an overlay as the node's root, who alone can look into the layers, with their owners
    /// as the user namespace has them.
    pub(super) fn lay(&mut self, user: &UserNamespace) -> Outcome<()> {
        let Source::Overlay(layers) = &self.source else {
            return Ok(());
        };
        map_layers(layers, user)?;
        let attributes = MountAttrFlags::empty();
        let tree = overlay::one_by_one(layers, attributes).map_err(|(_, reason)| {
            Failure::unsupported(format!(
                "mount {}: {reason}: an image in a pod with a user namespace takes Linux 6.8",
                self.mount.destination.display()
            ))
        })?;
        self.source = Source::Tree(tree);
        Ok(())
    }

    /// Whether this is a mount of the node's files on exactly that place.
    pub(super) fn binds(&self, destination: &str) -> bool {
        matches!(self.source, Source::Tree(_)) && self.mount.destination == Path::new(destination)
    }

    /// Mounts it below `root`. Gives the mount that is still to be made read-only, once everything
    /// that lies in it has been made.
    /// `proc_of` is the PID namespace whose `/proc` it is, where that is not the process's own.
    pub(super) fn mount(
        self,
        root: BorrowedFd<'_>,
        proc_of: Option<BorrowedFd<'_>>,
    ) -> Outcome<Option<OwnedFd>> {
        let destination = &self.mount.destination;
        let doing = || format!("mount {}", destination.display());
        let place = self.place(root, destination)?;
        if rustix::fs::fstatfs(&place).system(doing)?.f_type == PROC
            && !OVER_PROC
                .iter()
                .any(|allowed| Path::new(allowed) == *destination)
        {
            return Err(Failure::invalid(format!(
                "mount {}: nothing may be mounted over a part of /proc",
                destination.display()
            )));
        }
        let read_only = self.options.read_only();
        let MountOptions {
            mut attributes,
            recursive,
            propagation,
            data,
            ..
        } = self.options;
        let (tree, sealed_later) = match self.source {
            Source::Tree(tree) => {
                change(&tree, false, &attributes).system(doing)?;
                change(&tree, true, &recursive).system(doing)?;
                (tree, false)
            }
            Source::FileSystem(kind) => {
                let later = read_only && kind == "tmpfs";
                attributes
                    .set
                    .set(MountAttrFlags::MOUNT_ATTR_RDONLY, read_only && !later);
                let source = self.mount.source.as_deref().unwrap_or(Path::new(&kind));
                let source = source.to_string_lossy();
                let data = data.iter().map(String::as_str);
                let pids = proc_of.filter(|_| kind == "proc");
                let tree = new_file_system_of(&kind, &source, data, attributes.set, pids)
                    .map_err(|failure| prefixed(&doing(), failure))?;
                (tree, later)
            }
            Source::Overlay(layers) => {
                return overlay::mount(&layers, attributes.set, place.as_fd())
                    .map_err(|failure| prefixed(&doing(), failure))
                    .map(|()| None);
            }
            Source::Cgroups(hierarchies) => {
                return mount_hierarchies(&place, &hierarchies)
                    .system(doing)
                    .map(|()| None);
            }
        };
        if let Some((propagation, reach)) = propagation {
            let spread = MountSetattr {
                propagation,
                ..MountSetattr::default()
            };
            mount_setattr(tree.as_fd(), reach == Reach::Recursive, &spread).system(doing)?;
        }
        attach(tree.as_fd(), place.as_fd()).system(doing)?;
        Ok(sealed_later.then_some(tree))
    }

    /// Where it goes. `/proc` and `/sys` are the kernel's word to the container: an image that has
    /// symbolic links there could have other files taken for it.
    fn place(&self, root: BorrowedFd<'_>, destination: &Path) -> Outcome<OwnedFd> {
        let doing = || format!("mount {}", destination.display());
        let kind = match &self.source {
            Source::Tree(tree) if !is_directory(tree).system(doing)? => Kind::File,
            _ => Kind::Directory,
        };
        let place = inside::ensure(root, destination, kind).invalid(doing)?;
        if is_directory(&place).system(doing)? != (kind == Kind::Directory) {
            return Err(Failure::invalid(format!(
                "{}: {}",
                doing(),
                match kind {
                    Kind::File => "the source is a file, and there is a directory at that path",
                    Kind::Directory => "that path is a file, and a directory goes there",
                }
            )));
        }
        match &self.source {
            Source::FileSystem(kind) if kind == "proc" || kind == "sysfs" => {
                inside::open_without_links(root, destination)
                    .invalid(|| format!("{}: the image has a symbolic link there", doing()))
            }
            _ => Ok(place),
        }
    }
}

fn prefixed(doing: &str, mut failure: Failure) -> Failure {
    failure.message = format!("{doing}: {}", failure.message);
    failure
}

fn change(tree: &OwnedFd, recursive: bool, wanted: &MountSetattr) -> Result<(), Errno> {
    if wanted.set.is_empty() && wanted.clear.is_empty() {
        return Ok(());
    }
    mount_setattr(tree.as_fd(), recursive, wanted)
}

/// A read-only directory with one read-only mount for each hierarchy, and for hierarchies of
/// several controllers a link under each one's name.
fn mount_hierarchies(place: &OwnedFd, hierarchies: &[(String, OwnedFd)]) -> Result<(), Errno> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let directory =
        new_file_system("tmpfs", "cgroup", ["mode=755"], attributes).map_err(|_| Errno::NODEV)?;
    for (name, _) in hierarchies {
        rustix::fs::mkdirat(&directory, name.as_str(), Mode::from_raw_mode(0o755))?;
        if name.contains(',') {
            for controller in name.split(',') {
                rustix::fs::symlinkat(name.as_str(), &directory, controller)?;
            }
        }
    }
    // Only a mount that is in the namespace can be mounted upon.
    attach(directory.as_fd(), place.as_fd())?;
    for (name, tree) in hierarchies {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let child = rustix::fs::openat(&directory, name.as_str(), flags, Mode::empty())?;
        attach(tree.as_fd(), child.as_fd())?;
    }
    let sealed = MountSetattr {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY,
        ..MountSetattr::default()
    };
    mount_setattr(directory.as_fd(), false, &sealed)
}
