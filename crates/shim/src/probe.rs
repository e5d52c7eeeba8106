//! Finding out whether this node can give pods user namespaces, by doing what such a pod needs.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsOpenFlags, MountPropagationFlags};
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use crate::failure::{Explain, Outcome};
use crate::protocol::Failure;
use crate::syscall::{self, Cloned, Relation, map_ids};
use crate::user;

/// What the shim is called with, before the directories, when it is to probe and nothing else.
pub(crate) const ARGUMENT: &str = "probe-user-namespaces";

/// Makes a user namespace, and an overlay over directories that are id-mapped by it. Nothing of it
/// outlives the process. The reason is the answer where it does not work.
pub(crate) fn user_namespaces(directories: &[OsString]) -> Outcome<()> {
    let (gate, keeper) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).system(|| "make a pipe")?;
    match syscall::clone_process(Relation::ChildIn(UnshareFlags::NEWUSER), None) {
        Ok(Cloned::Child) => {
            drop(keeper);
            // Ends with the process that probes.
            let _ = rustix::io::read(&gate, &mut [0; 1]);
            syscall::exit(0)
        }
        Ok(Cloned::Parent { pid, .. }) => map(pid, directories),
        Err(error) => Err(user::refused(error)),
    }
}

fn map(owner: Pid, directories: &[OsString]) -> Outcome<()> {
    let path = |file: &str| format!("/proc/{}/{file}", owner.as_raw_nonzero());
    for file in ["uid_map", "gid_map"] {
        // Any number but the node's root does.
        fs::write(path(file), "0 65536 1").system(|| format!("write a {file}"))?;
    }
    let namespace = path("ns/user");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let user = rustix::fs::open(&namespace, flags, Mode::empty())
        .system(|| format!("open {namespace}"))?;

    syscall::unshare(UnshareFlags::NEWNS).system(|| "unshare the mount namespace")?;
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).system(|| "make the mounts private")?;
    for directory in directories {
        let directory = Path::new(directory);
        let doing = || format!("id-map {}", directory.display());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::open(directory, flags, Mode::empty()).system(doing)?;
        let tree = crate::create::clone_mount_at(place.as_fd()).system(doing)?;
        map_ids(tree.as_fd(), user.as_fd()).map_err(|error| {
            Failure::unsupported(format!(
                "{}: {error}: its file system cannot be id-mapped by this kernel",
                doing()
            ))
        })?;
        crate::create::attach(tree.as_fd(), place.as_fd()).system(doing)?;
    }
    overlay(directories)
}

fn overlay(directories: &[OsString]) -> Outcome<()> {
    let unsupported = |error| {
        Failure::unsupported(format!(
            "lay an overlay over id-mapped layers: {error}: it takes Linux 5.19"
        ))
    };
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .system(|| "an overlay file system")?;
    let layers = directories.join(std::ffi::OsStr::new(":"));
    rustix::mount::fsconfig_set_string(&context, "lowerdir", &layers).map_err(unsupported)?;
    rustix::mount::fsconfig_create(&context).map_err(unsupported)
}
