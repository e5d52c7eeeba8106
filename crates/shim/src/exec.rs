//! Further processes in a running container.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::Mode;
use rustix::process::Pid;
use rustix::thread::ThreadNameSpaceType;

use crate::cgroup::Cgroup;
use crate::config::Process;
use crate::container::Waiter;
use crate::create::{
    Identity, NOT_EXECUTED, Offspring, Progress, assume, detach, refuse_unsupported, report,
    set_oom_score, set_streams,
};
use crate::failure::{Explain, Outcome};
use crate::protocol::Failure;
use crate::syscall;

/// A process that was started by an exec.
#[derive(Debug)]
pub(crate) struct Executed {
    pub(crate) pid: Pid,
    /// The container, by the shim's number for it.
    pub(crate) container: u64,
    /// The socket to the child, until that is executed.
    pub(crate) sync: Option<OwnedFd>,
    pub(crate) stage: ExecStage,
}

/// Where it is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExecStage {
    /// The child prepares itself.
    Starting(Waiter),
    /// The child has given up; its end is awaited.
    Failed,
    /// Executed.
    Running,
}

/// What the child, which is born into the container's PID namespace, is given by the shim.
#[derive(Debug)]
pub(crate) struct ExecChild<'a> {
    /// An OCI process object.
    pub(crate) process: &'a str,
    /// The container's init.
    pub(crate) init: BorrowedFd<'a>,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) sync: BorrowedFd<'a>,
    pub(crate) streams: [BorrowedFd<'a>; 3],
    /// The shim's oom_score_adj before it changed it.
    pub(crate) oom_score: i32,
}

impl Offspring for ExecChild<'_> {
    fn run(&self) -> ! {
        let failure = match self.prepare() {
            Ok(command) => command.execute(),
            Err(failure) => failure,
        };
        report(self.sync, &Progress::Failed(failure), None);
        syscall::exit(NOT_EXECUTED)
    }
}

impl ExecChild<'_> {
    fn prepare(&self) -> Outcome<crate::create::Command> {
        set_streams(self.streams)?;
        syscall::close_all_but(&mut [self.sync.as_raw_fd(), self.init.as_raw_fd()])
            .system(|| "close descriptors")?;
        // Before the container's processes can see this one.
        detach()?;
        let shim = Identity::of_shim()?;
        rustix::process::umask(Mode::empty());
        self.cgroup.join_hierarchies()?;
        let process: Process =
            serde_json::from_str(self.process).invalid(|| "read the process to execute")?;
        refuse_unsupported(&process)?;
        if process.terminal {
            return Err(Failure::invalid(
                "a terminal for an exec is not supported yet; it comes with a later version",
            ));
        }
        set_oom_score(&process, self.oom_score)?;
        let namespaces = ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::CONTROL_GROUP
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::NETWORK;
        rustix::thread::move_into_thread_name_spaces(self.init, namespaces)
            .system(|| "join the container's namespaces")?;
        assume(&process, shim)
    }
}
