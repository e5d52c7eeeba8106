//! Containers that another OCI runtime makes.
//!
//! Each of its commands is a process of its own, whose end the event loop awaits like any other
//! child's. The process that `create` or `exec` leaves behind becomes the shim's child, because
//! the shim is a child subreaper: from then on its streams, its log and its end are no different
//! from those of a process that the shim has made itself.
//!
//! `delete` is the daemon's, which must be able to do it when there is no shim any more.

mod console;
mod invocation;
mod messages;

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitStatus};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use self::console::Console;
use self::invocation::{Invocation, Preparation};
use self::messages::Messages;
use crate::container::{Input, Stage, Waiter};
use crate::create::{Birth, spawn};
use crate::exec::{ExecStage, Executed};
use crate::failure::{Explain, Outcome};
use crate::poller::{Poller, Token};
use crate::protocol::{Create, Event, Exec, Failure, Reply, Runtime};
use crate::record::now;
use crate::streams::Streams;
use crate::supervisor::{Effect, Supervisor, describe_status};
use crate::syscall;

/// A command of a runtime that has not ended yet.
#[derive(Debug)]
pub(crate) struct Operation {
    pid: Pid,
    timer: OwnedFd,
    command: &'static str,
    runtime: Runtime,
    overdue: bool,
    messages: Messages,
    aim: Aim,
}

/// What a command is to bring about, and who waits for it.
#[derive(Debug)]
enum Aim {
    /// A container, whose stage says who waits.
    Create {
        container: u64,
        process: PathBuf,
        console: Option<Console>,
    },
    /// A container's process executed.
    Start {
        container: u64,
        asked_at: i64,
        /// That process's end, where it comes before the command's.
        ended: Option<(WaitStatus, i64)>,
    },
    /// A signal.
    Kill {
        container: u64,
        signal: i32,
        waiter: Waiter,
    },
    /// A process in a container, whose stage says who waits.
    Exec {
        exec: u64,
        process: PathBuf,
        console: Option<Console>,
    },
}

/// What becomes of a command's process that was told where to write another's number.
enum Adopted {
    /// It goes on.
    Child(Pid, OwnedFd),
    /// It has ended, and was reaped before anybody knew what it was.
    Ended(Pid, WaitStatus),
}

impl Supervisor {
    /// Has a runtime begin to make a container. Until it has, its process stands for the
    /// container's.
    pub(crate) fn create_by(
        &mut self,
        poller: &Poller,
        runtime: &Runtime,
        container: u64,
        create: &Create,
        streams: &Streams,
    ) -> Outcome<(Pid, OwnedFd)> {
        let bundle = &create.bundle;
        let process = bundle.join("init.pid");
        let console = create
            .terminal
            .then(|| Console::listen(bundle, container))
            .transpose()?;
        let mut arguments: Vec<OsString> = vec![
            "--bundle".into(),
            bundle.into(),
            "--pid-file".into(),
            (&process).into(),
        ];
        if let Some(console) = &console {
            arguments.extend(["--console-socket".into(), console.name().into()]);
        }
        arguments.push((&create.container).into());
        let null = self.null.try_clone().system(|| "copy a descriptor")?;
        let streams = (!create.terminal).then(|| streams.of_child(null.as_fd()));
        let aim = Aim::Create {
            container,
            process,
            console,
        };
        let preparation = Preparation::RootFileSystem(&create.rootfs);
        self.run(
            poller,
            Command {
                runtime,
                bundle,
                name: "create",
                arguments,
                preparation,
                streams,
            },
            aim,
        )
    }

    /// Has a container's runtime execute its process.
    pub(crate) fn start_by(&mut self, poller: &Poller, container: u64) -> Outcome<()> {
        let aim = Aim::Start {
            container,
            asked_at: now(),
            ended: None,
        };
        self.command(poller, container, "start", &[], aim)
    }

    /// Has a container's runtime send a signal to its init.
    pub(crate) fn kill_by(
        &mut self,
        poller: &Poller,
        waiter: Waiter,
        container: u64,
        signal: i32,
    ) -> Outcome<()> {
        let aim = Aim::Kill {
            container,
            signal,
            waiter,
        };
        self.command(poller, container, "kill", &[signal.to_string()], aim)
    }

    /// Has a container's runtime begin to execute a process in it.
    pub(crate) fn exec_by(
        &mut self,
        poller: &Poller,
        waiter: Waiter,
        container: u64,
        exec: &Exec,
        streams: [BorrowedFd<'_>; 3],
    ) -> Outcome<()> {
        let Some((runtime, bundle)) = self.made_by(container) else {
            return Err(Failure::not_found("the container has gone"));
        };
        let number = self.number();
        let configuration = bundle.join(format!("exec-{number}.json"));
        let process = bundle.join(format!("exec-{number}.pid"));
        let console = exec
            .terminal
            .then(|| Console::listen(&bundle, number))
            .transpose()?;
        let mut arguments: Vec<OsString> = vec![
            "--detach".into(),
            "--process".into(),
            (&configuration).into(),
            "--pid-file".into(),
            (&process).into(),
        ];
        if let Some(console) = &console {
            arguments.extend(["--console-socket".into(), console.name().into()]);
        }
        let own = self.containers.get(&container).and_then(|container| {
            let name = format!("exec-{number}");
            let told = container.cgroup.as_told(runtime.exec_cgroup, &name)?;
            Some((container.own_cgroup(number, exec.cgroup)?, told))
        });
        let cgroup = own.map(|(cgroup, told)| {
            arguments.extend(["--cgroup".into(), told.into()]);
            cgroup
        });
        arguments.push((&exec.container).into());
        let aim = Aim::Exec {
            exec: number,
            process,
            console,
        };
        let command = Command {
            runtime: &runtime,
            bundle: &bundle,
            name: "exec",
            arguments,
            preparation: Preparation::Process(exec, &configuration),
            streams: (!exec.terminal).then_some(streams),
        };
        let (pid, _) = self.run(poller, command, aim)?;
        let executed = Executed {
            pid,
            container,
            sync: None,
            terminal: None,
            cgroup,
            stage: ExecStage::Preparing(waiter),
        };
        self.executed.insert(number, executed);
        Ok(())
    }

    /// The runtime that has made a container, and its bundle.
    fn made_by(&self, container: u64) -> Option<(Box<Runtime>, PathBuf)> {
        let container = self.containers.get(&container)?;
        Some((container.runtime.clone()?, container.bundle.clone()))
    }

    /// Runs a command that needs nothing but the container's name and what comes after it.
    fn command(
        &mut self,
        poller: &Poller,
        container: u64,
        name: &'static str,
        rest: &[String],
        aim: Aim,
    ) -> Outcome<()> {
        let found = self.made_by(container);
        let id = self.containers.get(&container).map(|found| &found.id);
        let (Some((runtime, bundle)), Some(id)) = (found, id) else {
            return Err(Failure::not_found("the container has gone"));
        };
        let arguments = [id].into_iter().chain(rest).map(OsString::from).collect();
        let command = Command {
            runtime: &runtime,
            bundle: &bundle,
            name,
            arguments,
            preparation: Preparation::None,
            streams: None,
        };
        self.run(poller, command, aim).map(drop)
    }

    fn run(&mut self, poller: &Poller, command: Command<'_>, aim: Aim) -> Outcome<(Pid, OwnedFd)> {
        let number = self.number();
        let Command {
            runtime,
            bundle,
            name,
            ..
        } = command;
        let messages = Messages::new(bundle.join(format!("runtime-{number}.log")))?;
        let null = self.null.as_fd();
        let own = [null, messages.error(), messages.error()];
        let invocation = Invocation {
            runtime,
            bundle,
            log: messages.log(),
            command: name,
            arguments: &command.arguments,
            preparation: command.preparation,
            streams: command.streams.unwrap_or(own),
            oom_score: self.oom_score,
        };
        let timer = timer(runtime.timeout)?;
        poller
            .add(&timer, Token::RuntimeDeadline(number))
            .system(|| "watch a timer")?;
        let (pid, pidfd) = spawn(&Birth::ON_THE_NODE, None, &invocation)
            .system(|| format!("clone a process for {} {name}", runtime.path.display()))?;
        let operation = Operation {
            pid,
            timer,
            command: name,
            runtime: runtime.clone(),
            overdue: false,
            messages,
            aim,
        };
        self.operations.insert(number, operation);
        Ok((pid, pidfd))
    }

    /// A command has taken longer than it may.
    pub(crate) fn runtime_overdue(&mut self, number: u64) {
        if let Some(operation) = self.operations.get_mut(&number) {
            operation.overdue = true;
            operation.kill();
        }
    }

    /// Kills every command that has not ended.
    pub(crate) fn kill_operations(&self) {
        self.operations.values().for_each(Operation::kill);
    }

    /// A child has ended: if it was a command of a runtime, what comes of it.
    pub(crate) fn operation_ended(
        &mut self,
        poller: &Poller,
        pid: Pid,
        status: WaitStatus,
    ) -> bool {
        let ended = self
            .operations
            .iter()
            .find(|(_, operation)| operation.pid == pid)
            .map(|(number, _)| *number);
        let Some(operation) = ended.and_then(|number| self.operations.remove(&number)) else {
            if !self.operations.is_empty() {
                // It may be what such a command has left behind, and said nothing of yet.
                self.strays.push((pid, status));
            }
            return false;
        };
        poller.remove(&operation.timer);
        let outcome = operation.outcome(status, self.said_by(&operation.aim));
        match operation.aim {
            Aim::Create {
                container,
                process,
                console,
            } => self.created_by(poller, container, outcome, &process, console),
            Aim::Start {
                container,
                asked_at,
                ended,
            } => self.started_by(poller, container, outcome, asked_at, ended),
            Aim::Kill {
                container,
                signal,
                waiter,
            } => self.killed_by(container, outcome, signal, waiter),
            Aim::Exec {
                exec,
                process,
                console,
            } => self.executed_by(poller, exec, outcome, &process, console),
        }
        if self.operations.is_empty() {
            self.strays = Vec::new();
        }
        true
    }

    /// What a command has written to the standard error that is to be the container's.
    fn said_by(&self, aim: &Aim) -> Option<String> {
        let Aim::Create { container, .. } = aim else {
            return None;
        };
        messages::waiting_in(self.containers.get(container)?.error.as_ref()?)
    }

    fn created_by(
        &mut self,
        poller: &Poller,
        number: u64,
        outcome: Outcome<()>,
        process: &Path,
        console: Option<Console>,
    ) {
        let adopted = outcome
            .and_then(|()| self.adopt(process))
            .and_then(|adopted| match adopted {
                Adopted::Child(pid, pidfd) => Ok((pid, pidfd)),
                Adopted::Ended(_, status) => Err(Failure::system(format!(
                    "the container's first process ended before it was started: {}",
                    describe_status(status)
                ))),
            })
            .and_then(|child| Ok((child, console.map(Console::take).transpose()?)));
        let ending = self.is_ending();
        let Some(container) = self.containers.get_mut(&number) else {
            return;
        };
        let Stage::Creating(waiter) = container.stage else {
            return;
        };
        let made = adopted.and_then(|((pid, pidfd), terminal)| {
            container.pid = pid;
            container.pidfd = pidfd;
            if let Some(copy) = terminal.as_ref().and_then(|master| master.try_clone().ok()) {
                container.input = Input::Terminal(copy);
            }
            container.out = terminal.or(container.out.take());
            container.watch(poller, number)
        });
        match made {
            Ok(()) => {
                container.stage = Stage::Created;
                container.save();
                if ending || !container.deleting.is_empty() {
                    // It is a process of ours until we reap it.
                    let _ = container.signal(libc::SIGKILL, true);
                }
                let pid = container.pid.as_raw_nonzero().get();
                let answer = Effect::Answer(waiter, Ok(Reply::Created { pid }));
                self.effects.push(answer);
            }
            Err(failure) => {
                container.stage = Stage::Failed(waiter, failure);
                self.settle(poller, number);
            }
        }
    }

    fn started_by(
        &mut self,
        poller: &Poller,
        number: u64,
        outcome: Outcome<()>,
        asked_at: i64,
        ended: Option<(WaitStatus, i64)>,
    ) {
        let Some(container) = self.containers.get_mut(&number) else {
            return;
        };
        let Stage::Starting(waiter) = container.stage else {
            return;
        };
        let reply = match outcome {
            Ok(()) => {
                // It was executed at some time between the two.
                let started_at = if ended.is_some() { asked_at } else { now() };
                container.stage = Stage::Running { started_at };
                container.save();
                Ok(Reply::Started { started_at })
            }
            Err(failure) => {
                container.stage = Stage::Created;
                if ended.is_none() {
                    // Its exit follows.
                    let _ = container.signal(libc::SIGKILL, true);
                }
                Err(failure)
            }
        };
        let started = container.record().filter(|_| reply.is_ok());
        self.effects.push(Effect::Answer(waiter, reply));
        self.effects
            .extend(started.map(|record| Effect::Tell(Event::Started(record))));
        if let Some((status, finished_at)) = ended {
            self.init_ended(poller, number, status, finished_at);
        }
    }

    /// Keeps the end of a container's init whose start has not been reported yet. Answers whether
    /// there is such a start.
    pub(crate) fn keep_for_start(&mut self, number: u64, status: WaitStatus, at: i64) -> bool {
        for operation in self.operations.values_mut() {
            if let Aim::Start {
                container, ended, ..
            } = &mut operation.aim
                && *container == number
            {
                *ended = Some((status, at));
                return true;
            }
        }
        false
    }

    /// A runtime that cannot send a signal does not keep a container alive: it is sent directly
    /// then, which is the same for a runtime that runs containers on this kernel.
    fn killed_by(&mut self, number: u64, outcome: Outcome<()>, signal: i32, waiter: Waiter) {
        let container = self.containers.get(&number);
        let sent = match (outcome, container) {
            (Err(failure), Some(container)) if container.has_process() => {
                container.signal(signal, false).map_err(|_| failure)
            }
            _ => Ok(()),
        };
        let answer = sent.map(|()| Reply::Done);
        self.effects.push(Effect::Answer(waiter, answer));
    }

    fn executed_by(
        &mut self,
        poller: &Poller,
        number: u64,
        outcome: Outcome<()>,
        process: &Path,
        console: Option<Console>,
    ) {
        let adopted = outcome
            .and_then(|()| self.adopt(process))
            .and_then(|adopted| Ok((adopted, console.map(Console::take).transpose()?)));
        let _ = fs::remove_file(process);
        let _ = fs::remove_file(process.with_extension("json"));
        let Some(executed) = self.executed.get_mut(&number) else {
            return;
        };
        let ExecStage::Preparing(waiter) = executed.stage else {
            return;
        };
        let (pid, ended, terminal) = match adopted {
            Ok((Adopted::Child(pid, _), terminal)) => (pid, None, terminal),
            Ok((Adopted::Ended(pid, status), terminal)) => (pid, Some(status), terminal),
            Err(failure) => {
                self.executed.remove(&number);
                self.effects.push(Effect::Answer(waiter, Err(failure)));
                return;
            }
        };
        executed.pid = pid;
        executed.stage = ExecStage::Running;
        if let Some(cgroup) = &executed.cgroup {
            cgroup.take(pid);
        }
        let reply = Reply::Executed {
            exec: number,
            pid: pid.as_raw_nonzero().get(),
        };
        let terminal = terminal.into_iter().collect();
        self.effects.push(Effect::Hand(waiter, reply, terminal));
        if let Some(status) = ended {
            self.executed_reaped(poller, pid, status);
        }
    }

    /// Takes over the process whose number a runtime has written into a file.
    fn adopt(&self, file: &Path) -> Outcome<Adopted> {
        let text = fs::read_to_string(file)
            .system(|| format!("read the process id in {}", file.display()))?;
        let pid = text
            .trim()
            .parse()
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| {
                Failure::system(format!("{} holds no process id: {text:?}", file.display()))
            })?;
        if let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            if rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), look).is_ok() {
                return Ok(Adopted::Child(pid, pidfd));
            }
        }
        let stray = self.strays.iter().rev().find(|(stray, _)| *stray == pid);
        stray
            .map(|(pid, status)| Adopted::Ended(*pid, *status))
            .ok_or_else(|| {
                Failure::system(format!(
                    "process {} of {} is none of this pod: does the runtime leave it to its \
                     parent, as runc and crun do?",
                    pid.as_raw_nonzero(),
                    file.display()
                ))
            })
    }
}

/// A command to be run.
struct Command<'a> {
    runtime: &'a Runtime,
    bundle: &'a Path,
    name: &'static str,
    /// What comes after the name.
    arguments: Vec<OsString>,
    preparation: Preparation<'a>,
    /// Its standard streams, where the process that it leaves behind is to have them.
    streams: Option<[BorrowedFd<'a>; 3]>,
}

impl Operation {
    /// Kills it with what it has started. It is a child that was not reaped, so that the number
    /// cannot be another's.
    fn kill(&self) {
        let _ = syscall::kill_group(self.pid, libc::SIGKILL);
        let _ = syscall::kill(self.pid, libc::SIGKILL);
    }

    fn outcome(&self, status: WaitStatus, said: Option<String>) -> Outcome<()> {
        if status.exit_status() == Some(0) {
            return Ok(());
        }
        let doing = format!("{} {}", self.runtime.path.display(), self.command);
        if self.overdue {
            return Err(Failure::system(format!(
                "{doing} did not end within {} s and was killed",
                self.runtime.timeout
            )));
        }
        let reason = self.messages.reason().or(said);
        let reason = reason.unwrap_or_else(|| describe_status(status));
        Err(messages::failure(&doing, &reason))
    }
}

fn timer(seconds: u32) -> Outcome<OwnedFd> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let value = Itimerspec {
        it_interval: Timespec::default(),
        it_value: Timespec {
            tv_sec: seconds.max(1).into(),
            tv_nsec: 0,
        },
    };
    let make = || {
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &value)?;
        rustix::io::Result::Ok(timer)
    };
    make().system(|| "make a timer")
}
