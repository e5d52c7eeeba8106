//! Making a process in the right PID namespace and cgroup.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use super::{Progress, report};
use crate::failure::{Explain, Outcome};
use crate::protocol::Failure;
use crate::syscall::{self, Cloned, Relation};

/// How a container's first process comes into its PID namespace.
#[derive(Debug)]
pub(crate) enum Birth {
    /// It is born there: into the node's, or as the first in one of its own, where nobody can see
    /// it being set up.
    Inside(Relation),
    /// A process outside prepares it and then makes it inside: in the namespace of this
    /// descriptor, or in a new one that belongs to the container's user namespace.
    Outside(Option<OwnedFd>),
}

impl Birth {
    /// Into the node's PID namespace, which is the shim's.
    pub(crate) const ON_THE_NODE: Self = Self::Inside(Relation::Child);

    /// Into a PID namespace of its own.
    pub(crate) const FIRST: Self = Self::Inside(Relation::ChildIn(UnshareFlags::NEWPID));
}

/// What a new process does.
pub(crate) trait Offspring {
    /// Runs in it, and ends in execve(2) or _exit(2).
    fn run(&self) -> !;
}

/// Makes a process that runs `child`.
pub(crate) fn spawn(
    birth: &Birth,
    cgroup: Option<BorrowedFd<'_>>,
    child: &impl Offspring,
) -> Result<(Pid, OwnedFd), Errno> {
    let relation = match birth {
        Birth::Inside(relation) => *relation,
        Birth::Outside(_) => Relation::Child,
    };
    match syscall::clone_process(relation, cgroup)? {
        Cloned::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Cloned::Child => child.run(),
    }
}

/// Goes on in a new process, another child of the shim, in the PID namespace that the calling
/// process has chosen for its children. The calling process ends.
pub(crate) fn succeed(sync: BorrowedFd<'_>) -> Outcome<()> {
    // The new process waits until the shim can know it: its end must not be the first news.
    let (gate, keeper) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).system(|| "make a pipe")?;
    match syscall::clone_process(Relation::Sibling, None) {
        Ok(Cloned::Parent { pid, pidfd }) => {
            let pid = pid.as_raw_nonzero().get();
            report(sync, &Progress::Succeeded { pid }, Some(&pidfd));
            syscall::exit(0)
        }
        Ok(Cloned::Child) => {
            drop(keeper);
            rustix::io::read(&gate, &mut [0; 1]).system(|| "wait for the shim")?;
            drop(gate);
            rustix::process::setsid().map(drop).system(|| "setsid")
        }
        // The namespace's init has ended, and with it everything in there.
        Err(Errno::NOMEM | Errno::SRCH) => Err(Failure::wrong_state(
            "the PID namespace has just come to its end",
        )),
        Err(error) => Err(Failure::system(format!(
            "clone a process in the container's PID namespace: {error}"
        ))),
    }
}
