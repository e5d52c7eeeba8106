//! Further processes in a running container.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, WaitStatus};
use rustix::thread::ThreadNameSpaceType;

use crate::cgroup::{Cgroup, OwnCgroup};
use crate::config::Process;
use crate::container::{Container, OomCount, Stage, Waiter};
use crate::create::terminal::{TERM, names_terminal};
use crate::create::{
    self, Identity, NOT_EXECUTED, Offspring, Progress, Terminal, UserNamespace, assume, detach,
    limit, refuse_unsupported, report, set_oom_score, set_streams, succeed, terminal,
};
use crate::failure::{Explain, Outcome};
use crate::packet::receive_packet;
use crate::poller::{Poller, Token};
use crate::protocol::{Event, Exec, ExecCgroup, ExecProcess, Exit, Failure, Reply};
use crate::supervisor::{Effect, Supervisor, describe, sync_pair};
use crate::syscall;
use crate::user::become_root;

/// A process that was started by an exec.
#[derive(Debug)]
pub(crate) struct Executed {
    pub(crate) pid: Pid,
    /// The container, by the shim's number for it.
    pub(crate) container: u64,
    /// The socket to the child, until that is executed.
    pub(crate) sync: Option<OwnedFd>,
    /// Its terminal, until whoever asked for it has it.
    pub(crate) terminal: Option<OwnedFd>,
    /// Its cgroup, where that is not the container's.
    pub(crate) cgroup: Option<OwnCgroup>,
    pub(crate) stage: ExecStage,
}

/// Where it is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExecStage {
    /// A process outside of the container's PID namespace prepares it.
    Preparing(Waiter),
    /// The process inside prepares itself.
    Starting(Waiter),
    /// The child has given up; its end is awaited.
    Failed,
    /// Executed.
    Running,
}

impl Supervisor {
    /// Begins to execute a process in a container.
    pub(crate) fn exec(
        &mut self,
        poller: &Poller,
        waiter: Waiter,
        exec: &Exec,
        descriptors: &[OwnedFd],
    ) -> Outcome<()> {
        let number = self.number();
        let (oom_score, id) = (self.oom_score, &exec.container);
        let null = self
            .null
            .try_clone()
            .system(|| "copy the descriptor of /dev/null")?;
        let (container_number, container) = self.known(id)?;
        if !matches!(container.stage, Stage::Running { .. }) {
            return Err(Failure::wrong_state(format!(
                "nothing can be executed in container {id}: it {}",
                describe(&container.stage)
            )));
        }
        let streams = match (descriptors, exec.terminal) {
            ([input, output, error], false) => [input.as_fd(), output.as_fd(), error.as_fd()],
            ([], true) => [null.as_fd(); 3],
            (found, terminal) => {
                return Err(Failure::invalid(format!(
                    "an exec {} a terminal comes with {} descriptors, not {}",
                    if terminal { "with" } else { "without" },
                    if terminal { 0 } else { 3 },
                    found.len()
                )));
            }
        };
        if container.runtime.is_some() {
            return self.exec_by(poller, waiter, container_number, exec, streams);
        }
        let own = container.own_cgroup(number, exec.cgroup);
        let cgroup = own.as_deref().unwrap_or(&container.cgroup);
        let unified = cgroup.open_unified()?;
        let (sync, child_sync) = sync_pair()?;
        poller
            .add(&sync, Token::ExecSync(number))
            .system(|| "watch the new process")?;
        let child = ExecChild {
            process: &exec.process,
            terminal: exec.terminal,
            bundle: &container.bundle,
            init: container.pidfd.as_fd(),
            cgroup,
            sync: child_sync.as_fd(),
            streams,
            oom_score,
        };
        let spawned = create::spawn(
            &create::Birth::ON_THE_NODE,
            unified.as_ref().map(AsFd::as_fd),
            &child,
        );
        let (pid, _) = spawned.system(|| format!("clone a process for container {id}"))?;
        let executed = Executed {
            pid,
            container: container_number,
            sync: Some(sync),
            terminal: None,
            cgroup: own,
            stage: ExecStage::Preparing(waiter),
        };
        self.executed.insert(number, executed);
        Ok(())
    }

    /// Kills a process that was executed, its group, and what is in a cgroup of its own.
    pub(crate) fn kill_exec(&mut self, exec: u64) -> Outcome<()> {
        let executed = self
            .executed
            .get(&exec)
            .ok_or_else(|| Failure::not_found(format!("no executed process {exec} is running")))?;
        if let Some(cgroup) = &executed.cgroup {
            cgroup.kill_all();
        }
        for sent in [
            syscall::kill_group(executed.pid, libc::SIGKILL),
            syscall::kill(executed.pid, libc::SIGKILL),
        ] {
            match sent {
                // Not the leader of its group yet, or ended and not reaped yet.
                Ok(()) | Err(Errno::SRCH) => {}
                other => other.system(|| format!("kill the executed process {exec}"))?,
            }
        }
        Ok(())
    }

    /// An exec's child has said something, or is gone from the other end of its socket.
    pub(crate) fn exec_ready(&mut self, poller: &Poller, number: u64) {
        let Some(executed) = self.executed.get_mut(&number) else {
            return;
        };
        let Some(sync) = &executed.sync else { return };
        let answer = match receive_packet(sync) {
            Err(Errno::AGAIN | Errno::INTR) => return,
            Ok(Some((bytes, mut descriptors))) => match postcard::from_bytes(&bytes) {
                Ok(Progress::Failed(failure)) => Err(failure),
                Ok(Progress::Terminal) => {
                    executed.terminal = descriptors.pop();
                    return;
                }
                Ok(Progress::Succeeded { pid }) => {
                    if let (ExecStage::Preparing(waiter), Some(pid)) =
                        (executed.stage, Pid::from_raw(pid))
                    {
                        executed.pid = pid;
                        executed.stage = ExecStage::Starting(waiter);
                    }
                    return;
                }
                Ok(Progress::Ready | Progress::Hooks { .. } | Progress::RunHooks) | Err(_) => {
                    return;
                }
            },
            Ok(None) | Err(_) => {
                poller.remove(sync);
                executed.sync = None;
                let pid = executed.pid.as_raw_nonzero().get();
                Ok(Reply::Executed { exec: number, pid })
            }
        };
        if let ExecStage::Preparing(waiter) | ExecStage::Starting(waiter) = executed.stage {
            let terminal = executed.terminal.take();
            let (stage, effect) = match answer {
                Ok(reply) => {
                    let terminal = terminal.into_iter().collect();
                    let effect = Effect::Hand(waiter, reply, terminal);
                    (ExecStage::Running, effect)
                }
                Err(failure) => (ExecStage::Failed, Effect::Answer(waiter, Err(failure))),
            };
            executed.stage = stage;
            self.effects.push(effect);
        }
    }

    /// A child of the shim has ended, which may be a process that was executed.
    pub(crate) fn executed_reaped(&mut self, poller: &Poller, pid: Pid, status: WaitStatus) {
        // Whoever has ended has said before what there was to say: who goes on in his place, for
        // one. Only then is it clear whom a pid stands for.
        let talking: Vec<u64> = self
            .executed
            .iter()
            .filter(|(_, executed)| executed.sync.is_some())
            .map(|(number, _)| *number)
            .collect();
        for number in talking {
            for _ in 0..4 {
                self.exec_ready(poller, number);
            }
        }
        let ended = self
            .executed
            .iter()
            .find(|(_, executed)| executed.pid == pid)
            .map(|(number, _)| *number);
        let Some((number, executed)) =
            ended.and_then(|number| Some((number, self.executed.remove(&number)?)))
        else {
            // It may have been the last in the cgroup of an exec: who prepared one ends in there.
            return self.remove_unoccupied();
        };
        if let Some(sync) = &executed.sync {
            poller.remove(sync);
        }
        if let Some(container) = self.containers.get_mut(&executed.container) {
            container.occupied.extend(executed.cgroup);
        }
        self.remove_unoccupied();
        if executed.stage == ExecStage::Running {
            let signal = status.terminating_signal();
            let container = self.containers.get(&executed.container);
            let oom = container.and_then(|container| container.oom.as_ref());
            let oom_killed = signal == Some(libc::SIGKILL) && oom.is_some_and(OomCount::has_grown);
            let exit = Exit::new(status.exit_status(), signal, oom_killed);
            self.effects
                .push(Effect::Tell(Event::ExecExited { exec: number, exit }));
        }
    }

    /// Removes the cgroups of execs in which nothing is left.
    fn remove_unoccupied(&mut self) {
        for container in self.containers.values_mut() {
            container.occupied.retain(|cgroup| !cgroup.remove());
        }
    }
}

impl Container {
    /// The cgroup that an exec is to have for itself; none where it is to be the container's.
    pub(crate) fn own_cgroup(&self, exec: u64, wanted: ExecCgroup) -> Option<OwnCgroup> {
        match wanted {
            ExecCgroup::Container => None,
            ExecCgroup::Own => self.cgroup.make_below(&format!("exec-{exec}")),
        }
    }
}

/// What the process that prepares an exec is given by the shim.
///
/// It works outside of the container's PID namespace: nothing in the container can see it while it
/// still has the node's files and capabilities before it. Once it has joined all of the
/// container's namespaces, it makes the process that goes on inside, and ends.
#[derive(Debug)]
pub(crate) struct ExecChild<'a> {
    pub(crate) process: &'a ExecProcess,
    /// Whether it gets a terminal.
    pub(crate) terminal: bool,
    /// The container's bundle, with its `config.json`.
    pub(crate) bundle: &'a Path,
    /// The container's init.
    pub(crate) init: BorrowedFd<'a>,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) sync: BorrowedFd<'a>,
    /// What it has for standard streams as long as it has no terminal.
    pub(crate) streams: [BorrowedFd<'a>; 3],
    /// The shim's oom_score_adj before it changed it.
    pub(crate) oom_score: i32,
}

impl Offspring for ExecChild<'_> {
    fn run(&self) -> ! {
        let failure = match self.prepare().and_then(|prepared| self.succeed(prepared)) {
            Ok(command) => command.execute(),
            Err(failure) => failure,
        };
        report(self.sync, &Progress::Failed(failure), None);
        syscall::exit(NOT_EXECUTED)
    }
}

/// What was found out before the container's namespaces were joined.
struct Prepared {
    process: Process,
    shim: Identity,
    filter: Option<create::Filter>,
    /// The terminal that it is to have.
    terminal: Option<OwnedFd>,
}

impl ExecChild<'_> {
    fn prepare(&self) -> Outcome<Prepared> {
        set_streams(self.streams)?;
        syscall::close_all_but(&mut [self.sync.as_raw_fd(), self.init.as_raw_fd()])
            .system(|| "close descriptors")?;
        detach()?;
        let shim = Identity::of_shim()?;
        rustix::process::umask(Mode::empty());
        self.cgroup.join_hierarchies()?;
        let spec = create::read(&self.bundle.join("config.json"))?;
        let filter = create::Filter::read(&spec, self.bundle)?;
        let user = UserNamespace::of(&spec)?;
        let mut process = match self.process {
            ExecProcess::Own { args } => Process {
                args: args.clone(),
                ..spec.process
            },
            ExecProcess::Given(json) => {
                serde_json::from_str(json).invalid(|| "read the process to execute")?
            }
        };
        if self.terminal && !process.env.iter().any(|value| names_terminal(value)) {
            process.env.push(TERM.to_owned());
        }
        refuse_unsupported(&process)?;
        set_oom_score(&process, self.oom_score)?;
        let mut namespaces = ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::CONTROL_GROUP
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::NETWORK
            | ThreadNameSpaceType::PROCESS_ID;
        if let Some(user) = &user {
            user.own_streams();
            limit(&process)?;
            namespaces |= ThreadNameSpaceType::USER;
        }
        rustix::thread::move_into_thread_name_spaces(self.init, namespaces)
            .system(|| "join the container's namespaces")?;
        if user.is_some() {
            become_root()?;
        }
        let terminal = if self.terminal {
            Some(self.open_terminal(&process)?)
        } else {
            None
        };
        Ok(Prepared {
            process,
            shim,
            filter,
            terminal,
        })
    }

    /// Opens a terminal in the container and gives the shim the end that shows and types.
    fn open_terminal(&self, process: &Process) -> Outcome<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open("/", flags, Mode::empty())
            .system(|| "open the container's root directory")?;
        let Terminal { master, slave } = Terminal::open(root.as_fd(), process)?;
        report(self.sync, &Progress::Terminal, Some(&master));
        Ok(slave)
    }

    /// Goes on in a new process in the container's PID namespace; this one ends.
    fn succeed(&self, prepared: Prepared) -> Outcome<create::Command> {
        succeed(self.sync)?;
        if let Some(terminal) = &prepared.terminal {
            terminal::take(terminal.as_fd())?;
        }
        assume(&prepared.process, prepared.shim, prepared.filter)
    }
}
