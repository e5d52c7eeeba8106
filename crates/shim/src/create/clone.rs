//! Making a process in the right PID namespace and cgroup.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::LinkNameSpaceType;

use crate::syscall::{self, Cloned, Relation};

/// The PID namespace that a process is born into.
#[derive(Debug)]
pub(crate) enum PidNamespace {
    /// One of its own.
    New,
    /// The shim's, which is the node's.
    Node,
    /// The one that this descriptor (of a namespace or of a process in it) stands for.
    Of(OwnedFd),
}

/// What a new process does.
pub(crate) trait Offspring {
    /// Runs in it, and ends in execve(2) or _exit(2).
    fn run(&self) -> !;
}

/// Makes a process that runs `child`.
///
/// A process's children are born into the PID namespace that it has last joined: so the shim joins
/// for the time of the call and goes back to `own` afterwards.
pub(crate) fn spawn(
    namespace: &PidNamespace,
    own: BorrowedFd<'_>,
    cgroup: Option<BorrowedFd<'_>>,
    child: &impl Offspring,
) -> Result<(Pid, OwnedFd), Errno> {
    let join = |namespace: BorrowedFd<'_>| {
        rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::ProcessID))
    };
    let cloned = match namespace {
        PidNamespace::New => syscall::clone_process(Relation::ChildWithPidNamespace, cgroup),
        PidNamespace::Node => syscall::clone_process(Relation::Child, cgroup),
        PidNamespace::Of(descriptor) => {
            join(descriptor.as_fd())?;
            let cloned = syscall::clone_process(Relation::Child, cgroup);
            if !matches!(cloned, Ok(Cloned::Child)) {
                join(own)?;
            }
            cloned
        }
    };
    match cloned? {
        Cloned::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Cloned::Child => child.run(),
    }
}
