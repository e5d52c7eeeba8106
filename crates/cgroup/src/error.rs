//! What can go wrong.

use std::io;
use std::path::PathBuf;

use crate::{CgroupPath, PathError};

/// An error of this crate. Its text says what was asked, what was found and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no cgroup file system.
    #[error(
        "no cgroup file system is mounted (looked in /proc/self/mountinfo); \
         mount cgroup2 at /sys/fs/cgroup"
    )]
    NotMounted,
    /// There is one, but it controls nothing.
    #[error(
        "the cgroup file system at {mount_point} has none of the controllers {wanted}; \
         check cgroup_disable= and cgroup_no_v1= on the kernel's command line and, \
         in a container, what its parent delegates in cgroup.subtree_control"
    )]
    NoControllers {
        /// Where it is.
        mount_point: PathBuf,
        /// What was looked for.
        wanted: String,
    },
    /// There is one, but it cannot be written.
    #[error(
        "the cgroup file system at {0} is mounted read-only; remount it read-write, \
         or give the container that this process runs in a writable one"
    )]
    ReadOnly(PathBuf),
    /// The path is not a good one.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The root of the hierarchy was to be made, changed, killed or removed.
    #[error(
        "the root cgroup belongs to the node and can be neither limited nor removed; name one below it"
    )]
    Root,
    /// A cgroup that was to be made is in use.
    #[error(
        "the cgroup {path} exists and has processes in it: {pids:?}; stop them, or choose another path"
    )]
    Occupied {
        /// The cgroup.
        path: CgroupPath,
        /// Its processes and those below it.
        pids: Vec<i32>,
    },
    /// A directory could not be made.
    #[error("cannot make the cgroup {directory}: {source}{hint}")]
    Create {
        /// The directory.
        directory: PathBuf,
        /// The kernel's answer.
        source: io::Error,
        /// What to do about it.
        hint: &'static str,
    },
    /// The controllers of a v2 cgroup could not be handed to its children.
    #[error(
        "cannot enable the {controller} controller for the children of {directory}: {source}{hint}"
    )]
    Delegate {
        /// The cgroup whose `cgroup.subtree_control` was written.
        directory: PathBuf,
        /// The controller.
        controller: String,
        /// The kernel's answer.
        source: io::Error,
        /// What to do about it.
        hint: &'static str,
    },
    /// A limit was asked for that this node cannot keep.
    #[error("{setting} cannot be limited: this node has no {controller} controller")]
    MissingController {
        /// The controller.
        controller: &'static str,
        /// What was to be limited.
        setting: &'static str,
    },
    /// Memory was to be limited below what is in use.
    #[error(
        "memory cannot be limited to {limit} bytes: {in_use} are in use beside what can be \
         reclaimed, and the kernel would kill for the rest"
    )]
    MemoryInUse {
        /// The limit in bytes.
        limit: i64,
        /// The working set in bytes.
        in_use: u64,
    },
    /// Swap was to be limited on a node that does not count it.
    #[error(
        "memory and swap together cannot be limited to {0} bytes: the kernel does not account for \
         swap; boot it with swapaccount=1"
    )]
    NoSwapAccounting(i64),
    /// A value that means nothing.
    #[error("{setting}: {problem}")]
    Invalid {
        /// Which setting.
        setting: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A control file could not be read.
    #[error("cannot read {file}: {source}")]
    Read {
        /// The file or directory.
        file: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A control file could not be written.
    #[error("cannot write {value:?} to {file}: {source}{hint}")]
    Write {
        /// The file.
        file: PathBuf,
        /// What was written.
        value: String,
        /// What the kernel means by it; empty, or a clause that begins with a semicolon.
        hint: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A control file says what no kernel is known to say.
    #[error("{file} does not look like the kernel's: {found}")]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is in it, or missing from it.
        found: String,
    },
    /// The kernel refused the program that guards a v2 cgroup's devices.
    #[error("cannot {step} the device program of {directory}: {source}{hint}")]
    DeviceProgram {
        /// Which step of bpf(2).
        step: &'static str,
        /// The cgroup.
        directory: PathBuf,
        /// What to do about it.
        hint: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A process could not be watched or signalled.
    #[error("cannot {action} process {pid} of the cgroup {path}: {source}")]
    Process {
        /// What was tried.
        action: &'static str,
        /// The process.
        pid: i32,
        /// The cgroup.
        path: CgroupPath,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The cgroup has processes that this process cannot name.
    #[error(
        "the cgroup {0} has processes of another PID namespace, which cannot be reached from here"
    )]
    ForeignProcesses(CgroupPath),
    /// Processes would not end.
    #[error(
        "the cgroup {path} cannot be removed: after {seconds} s it still has the processes {pids:?}; \
         if they were killed, see /proc/PID/stack for what the kernel waits for"
    )]
    StillRunning {
        /// The cgroup.
        path: CgroupPath,
        /// What is left in it and below it.
        pids: Vec<i32>,
        /// How long was waited.
        seconds: u64,
    },
    /// A directory could not be removed.
    #[error("cannot remove the cgroup {directory}: {source}")]
    Remove {
        /// The directory.
        directory: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}
