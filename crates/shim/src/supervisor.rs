//! The containers of a pod and the processes executed in them: what is asked of them, and what
//! becomes of them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, WaitStatus};

use crate::attach::{Attachers, Pace, Source};
use crate::cgroup::Cgroup;
use crate::container::{Container, Ended, Input, OomCount, Reading, Stage, Waiter};
use crate::create::hooks::NodeNamespaces;
use crate::create::{self, Child, Progress, START};
use crate::exec::Executed;
use crate::failure::{Explain, Outcome};
use crate::hooks::{self, Due};
use crate::log::{Log, Stream};
use crate::packet::{receive_packet, send_packet};
use crate::pod::open_null;
use crate::poller::{Poller, Token};
use crate::protocol::{Create, Event, Exit, Failure, Record, Reply, Request};
use crate::record::now;
use crate::runtime::Operation;
use crate::streams::{Pipe, Streams};
use crate::syscall;

/// How much is read from a stream at once, in bytes.
const BUFFER: usize = 32 * 1024;

/// What is to be sent.
#[derive(Debug)]
pub(crate) enum Effect {
    /// To whoever asked.
    Answer(Waiter, Result<Reply, Failure>),
    /// To whoever asked, with descriptors beside it.
    Hand(Waiter, Reply, Vec<OwnedFd>),
    /// To all who have subscribed.
    Tell(Event),
}

/// The containers of the pod.
#[derive(Debug)]
pub(crate) struct Supervisor {
    /// By numbers that are never used twice. A pod has a handful of containers, so that looking
    /// through them costs less than an index.
    pub(crate) containers: BTreeMap<u64, Container>,
    pub(crate) executed: BTreeMap<u64, Executed>,
    /// Commands of external runtimes that have not ended.
    pub(crate) operations: BTreeMap<u64, Operation>,
    /// Children that nobody knew, as long as a runtime may still say what they were.
    pub(crate) strays: Vec<(Pid, WaitStatus)>,
    pub(crate) attachers: Attachers,
    next: u64,
    /// The other namespaces that the shim came from.
    pub(crate) node: NodeNamespaces,
    pub(crate) null: OwnedFd,
    /// The shim's oom_score_adj before it changed it.
    pub(crate) oom_score: i32,
    pub(crate) effects: Vec<Effect>,
    buffer: Vec<u8>,
    /// Who has asked for the end.
    ending: Option<Waiter>,
}

impl Supervisor {
    /// `oom_score` is what containers get that ask for none.
    pub(crate) fn new(oom_score: i32) -> Outcome<Self> {
        Ok(Self {
            containers: BTreeMap::new(),
            executed: BTreeMap::new(),
            operations: BTreeMap::new(),
            strays: Vec::new(),
            attachers: Attachers::default(),
            next: 0,
            node: NodeNamespaces::open()?,
            null: open_null().system(|| "open /dev/null")?,
            oom_score,
            effects: Vec::new(),
            buffer: Vec::new(),
            ending: None,
        })
    }

    /// What has come up to be sent.
    pub(crate) fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Every container.
    pub(crate) fn records(&self) -> Vec<Record> {
        self.containers
            .values()
            .filter_map(Container::record)
            .collect()
    }

    /// Who waits for the end, once everything has come to it.
    pub(crate) fn is_over(&self) -> Option<Waiter> {
        self.ending.filter(|_| self.is_idle())
    }

    /// Whether every container has ended, with all that belongs to its end.
    pub(crate) fn is_idle(&self) -> bool {
        let over = |container: &Container| {
            matches!(container.stage, Stage::Exited(_)) && container.hooks.running.is_none()
        };
        self.containers.values().all(over) && self.operations.is_empty()
    }

    /// Whether the pod is being shut down.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Carries a request out, or begins to; the answer is among the [`effects`](Self::effects),
    /// now or later.
    pub(crate) fn request(
        &mut self,
        poller: &Poller,
        waiter: Waiter,
        request: Request,
        descriptors: Vec<OwnedFd>,
    ) {
        let outcome = match request {
            Request::Create(_) | Request::Exec(_) if self.ending.is_some() => {
                Err(Failure::wrong_state("the pod is being shut down"))
            }
            Request::Create(create) => self.create(poller, waiter, create).map(|()| None),
            Request::Start { container } => self.start(poller, waiter, &container).map(|()| None),
            Request::Kill {
                container,
                signal,
                all,
            } => self.kill(poller, waiter, &container, signal, all),
            Request::Delete { container } => Ok(self.delete(poller, waiter, &container)),
            Request::Exec(exec) => self
                .exec(poller, waiter, &exec, &descriptors)
                .map(|()| None),
            Request::KillExec { exec } => self.kill_exec(exec).map(|()| Some(Reply::Done)),
            Request::Attach(attach) => self.attach(poller, &attach, descriptors).map(|input| {
                let attached = Effect::Hand(waiter, Reply::Attached, input);
                self.effects.push(attached);
                None
            }),
            Request::ReopenLog { container } => {
                self.reopen_log(&container).map(|()| Some(Reply::Done))
            }
            Request::List | Request::Subscribe => Ok(Some(Reply::Containers(self.records()))),
            Request::Shutdown => {
                self.shut_down(waiter);
                Ok(None)
            }
        };
        if let Some(answer) = outcome.transpose() {
            self.effects.push(Effect::Answer(waiter, answer));
        }
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn find(&self, id: &str) -> Option<u64> {
        let found = self
            .containers
            .iter()
            .find(|(_, container)| container.id == id);
        found.map(|(number, _)| *number)
    }

    pub(crate) fn known(&mut self, id: &str) -> Outcome<(u64, &mut Container)> {
        self.find(id)
            .and_then(|number| Some((number, self.containers.get_mut(&number)?)))
            .ok_or_else(|| Failure::not_found(format!("this pod has no container {id}")))
    }

    fn create(&mut self, poller: &Poller, waiter: Waiter, create: Create) -> Outcome<()> {
        if self.find(&create.container).is_some() {
            let id = create.container;
            return Err(Failure::wrong_state(format!(
                "there is a container {id} already"
            )));
        }
        let cgroup = Cgroup::new(&create.cgroups)?;
        let mut oom = create.oom_events.clone().map(OomCount::new);
        let streams = Streams::open(&create)?;
        let log = create.log.clone().map(Log::open);
        let number = self.number();
        if let Some(oom) = &mut oom {
            oom.watch(poller, number);
        }
        let (pid, pidfd, sync) = match &create.runtime {
            None => self.clone_init(poller, number, &create, &cgroup, &streams)?,
            Some(runtime) => {
                let (pid, pidfd) = self.create_by(poller, runtime, number, &create, &streams)?;
                (pid, pidfd, None)
            }
        };
        let Streams { input, out, error } = streams;
        let (out, error) = (out.map(Pipe::read), error.map(Pipe::read));
        let container = Container {
            id: create.container,
            bundle: create.bundle,
            runtime: create.runtime,
            pid,
            pidfd,
            cgroup,
            oom,
            log,
            sync,
            out,
            error,
            input: input.map_or(Input::Closed, |pipe| Input::Pipe(pipe.write)),
            stage: Stage::Creating(waiter),
            hooks: Due::default(),
            leftover: None,
            occupied: Vec::new(),
            deleting: Vec::new(),
        };
        // What a runtime says while it makes the container is not the container's.
        if container.runtime.is_none() {
            container.watch(poller, number)?;
        }
        self.containers.insert(number, container);
        Ok(())
    }

    /// Makes a container's first process.
    fn clone_init(
        &mut self,
        poller: &Poller,
        number: u64,
        create: &Create,
        cgroup: &Cgroup,
        streams: &Streams,
    ) -> Outcome<(Pid, OwnedFd, Option<OwnedFd>)> {
        let target = match &create.target {
            Some(target) => Some(self.pid_namespace_of(target)?),
            None => None,
        };
        let birth = create::birth(&create.bundle.join("config.json"), target)?;
        let unified = cgroup.open_unified()?;
        let (sync, child_sync) = sync_pair()?;
        poller
            .add(&sync, Token::ContainerSync(number))
            .system(|| "watch the new container")?;
        let child = Child {
            create,
            cgroup,
            birth: &birth,
            sync: child_sync.as_fd(),
            streams: streams.of_child(self.null.as_fd()),
            oom_score: self.oom_score,
        };
        let spawned = create::spawn(&birth, unified.as_ref().map(AsFd::as_fd), &child);
        let (pid, pidfd) =
            spawned.system(|| format!("clone the first process of {}", create.container))?;
        Ok((pid, pidfd, Some(sync)))
    }

    /// The PID namespace of a running container of this pod.
    fn pid_namespace_of(&mut self, id: &str) -> Outcome<OwnedFd> {
        let (_, container) = self.known(id)?;
        if !matches!(container.stage, Stage::Running { .. }) {
            return Err(Failure::wrong_state(format!(
                "the target container {id} is not running: it {}",
                describe(&container.stage)
            )));
        }
        // Nobody else can have its number as long as it has not been reaped.
        let path = format!("/proc/{}/ns/pid", container.pid.as_raw_nonzero());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| {
            Failure::wrong_state(format!(
                "the PID namespace of the target container {id} cannot be opened: {error}; it may \
                 have ended just now"
            ))
        })
    }

    fn start(&mut self, poller: &Poller, waiter: Waiter, id: &str) -> Outcome<()> {
        let (number, container) = self.known(id)?;
        if container.runtime.is_some() && matches!(container.stage, Stage::Created) {
            self.start_by(poller, number)?;
            let (_, container) = self.known(id)?;
            container.stage = Stage::Starting(waiter);
            return Ok(());
        }
        match (&container.stage, container.sync()) {
            (Stage::Created, Some(sync)) => {
                send_packet(sync, START, &[]).system(|| format!("start container {id}"))?;
                container.stage = Stage::Starting(waiter);
                Ok(())
            }
            (stage, _) => Err(Failure::wrong_state(format!(
                "container {id} cannot be started: it {}",
                describe(stage)
            ))),
        }
    }

    fn kill(
        &mut self,
        poller: &Poller,
        waiter: Waiter,
        id: &str,
        signal: i32,
        all: bool,
    ) -> Outcome<Option<Reply>> {
        let (number, container) = self.known(id)?;
        let by_runtime = container.runtime.is_some() && signal != libc::SIGKILL && !all;
        match container.stage {
            Stage::Exited(_) | Stage::Ending(_) => {}
            Stage::Running { .. } if by_runtime => {
                self.kill_by(poller, waiter, number, signal)?;
                return Ok(None);
            }
            _ => match container.signal(signal, all) {
                Err(Errno::INVAL) => {
                    return Err(Failure::invalid(format!("{signal} is not a signal")));
                }
                other => other.system(|| format!("send signal {signal} to container {id}"))?,
            },
        }
        Ok(Some(Reply::Done))
    }

    fn delete(&mut self, poller: &Poller, waiter: Waiter, id: &str) -> Option<Reply> {
        let Some(number) = self.find(id) else {
            return Some(Reply::Done);
        };
        let container = self.containers.get_mut(&number)?;
        container.deleting.push(waiter);
        if matches!(container.stage, Stage::Exited(_)) {
            self.conclude(poller, number);
            return None;
        }
        if container.has_process() {
            // It is a process of ours until we reap it.
            let _ = container.signal(libc::SIGKILL, false);
        }
        None
    }

    fn reopen_log(&mut self, id: &str) -> Outcome<()> {
        let (_, container) = self.known(id)?;
        container.log.as_mut().map_or(Ok(()), Log::reopen)
    }

    fn shut_down(&mut self, waiter: Waiter) {
        self.ending = Some(waiter);
        self.kill_operations();
        for container in self
            .containers
            .values()
            .filter(|container| container.has_process())
        {
            // It is a process of ours until we reap it.
            let _ = container.signal(libc::SIGKILL, false);
            container.cgroup.kill();
        }
    }

    /// The kernel has counted something about a container's memory.
    pub(crate) fn memory_changed(&mut self, poller: &Poller, number: u64) {
        let container = self.containers.get_mut(&number);
        if let Some(oom) = container.and_then(|container| container.oom.as_mut()) {
            oom.look(poller);
        }
    }

    /// A stream of a container has something, or has ended.
    pub(crate) fn stream_ready(&mut self, poller: &Poller, number: u64, stream: Stream) {
        self.buffer.resize(BUFFER, 0);
        let Some(container) = self.containers.get_mut(&number) else {
            return;
        };
        let source = Source {
            container: number,
            stream,
        };
        match container.read(poller, stream, &mut self.buffer) {
            Reading::Nothing => {}
            Reading::Bytes(length) => {
                let pace = self.attachers.push(poller, source, &self.buffer[..length]);
                if pace == Pace::Behind {
                    container.pause(poller, stream);
                }
            }
            Reading::Ended => self.attachers.finish(poller, source),
        }
    }

    /// A container's child has said something, or is gone from the other end of its socket.
    pub(crate) fn container_ready(&mut self, poller: &Poller, number: u64) {
        let Some(container) = self.containers.get_mut(&number) else {
            return;
        };
        let Some(sync) = container.sync() else { return };
        match receive_packet(sync) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(Some((bytes, descriptors))) => {
                let progress = postcard::from_bytes(&bytes).unwrap_or_else(|error| {
                    Progress::Failed(Failure::system(format!("the child said: {error}")))
                });
                self.container_progress(poller, number, progress, descriptors);
            }
            Ok(None) | Err(_) => {
                container.close_sync(poller);
                if container.hooks.running.is_some() {
                    self.hooks_ended(poller, number, Err(hooks::gone()));
                } else if let Stage::Starting(waiter) = container.stage {
                    let started_at = now();
                    container.stage = Stage::Running { started_at };
                    container.save();
                    let record = container.record();
                    self.effects
                        .extend(record.map(|record| Effect::Tell(Event::Started(record))));
                    self.started(poller, number, waiter, started_at);
                }
            }
        }
    }

    fn container_progress(
        &mut self,
        poller: &Poller,
        number: u64,
        progress: Progress,
        mut descriptors: Vec<OwnedFd>,
    ) {
        let Some(container) = self.containers.get_mut(&number) else {
            return;
        };
        if container.hooks.running.is_some() {
            let how = match progress {
                Progress::Ready => Ok(()),
                Progress::Failed(failure) => Err(failure),
                _ => Err(hooks::gone()),
            };
            return self.hooks_ended(poller, number, how);
        }
        let answer = match (progress, &container.stage) {
            (
                Progress::Hooks {
                    poststart,
                    poststop,
                },
                _,
            ) => {
                container.hooks.poststart = poststart;
                container.hooks.poststop = poststop;
                return;
            }
            (Progress::RunHooks, _) => {
                if let Some(socket) = descriptors.pop() {
                    self.run_create_hooks(number, &socket);
                }
                return;
            }
            (Progress::Succeeded { pid }, Stage::Creating(_)) => {
                if let (Some(pid), Some(pidfd)) = (Pid::from_raw(pid), descriptors.pop()) {
                    container.pid = pid;
                    container.pidfd = pidfd;
                }
                return;
            }
            (Progress::Ready, Stage::Creating(waiter)) => {
                let waiter = *waiter;
                if let Some(master) = descriptors.pop()
                    && watch_stream(poller, &master, Token::Output(number)).is_ok()
                {
                    if let Ok(copy) = master.try_clone() {
                        container.input = Input::Terminal(copy);
                    }
                    container.out = Some(master);
                }
                container.stage = Stage::Created;
                container.save();
                let pid = container.pid.as_raw_nonzero().get();
                Effect::Answer(waiter, Ok(Reply::Created { pid }))
            }
            (Progress::Failed(failure), Stage::Creating(waiter)) => {
                container.stage = Stage::Failed(*waiter, failure);
                return;
            }
            (Progress::Failed(failure), Stage::Starting(waiter)) => {
                let waiter = *waiter;
                // Its exit follows.
                container.stage = Stage::Created;
                Effect::Answer(waiter, Err(failure))
            }
            _ => return,
        };
        self.effects.push(answer);
    }

    /// A child of the shim has ended. One that is not known was orphaned in a container.
    pub(crate) fn reaped(&mut self, poller: &Poller, pid: Pid, status: WaitStatus) {
        if self.operation_ended(poller, pid, status) {
            return;
        }
        let of = |containers: &BTreeMap<u64, Container>| {
            let found = containers
                .iter()
                .find(|(_, container)| container.pid == pid && container.has_process());
            found.map(|(number, container)| (*number, container.is_being_created()))
        };
        if let Some((number, true)) = of(&self.containers) {
            // It may have said who goes on in its place, after its hooks.
            for _ in 0..2 {
                self.container_ready(poller, number);
            }
        }
        if let Some((number, _)) = of(&self.containers) {
            let finished_at = now();
            if !self.keep_for_start(number, status, finished_at) {
                self.init_ended(poller, number, status, finished_at);
            }
            return;
        }
        self.executed_reaped(poller, pid, status);
    }

    pub(crate) fn init_ended(
        &mut self,
        poller: &Poller,
        number: u64,
        status: WaitStatus,
        finished_at: i64,
    ) {
        self.finish_conversation(poller, number);
        let Some(container) = self.containers.get_mut(&number) else {
            return;
        };
        if container.hooks.running.is_none() {
            container.close_sync(poller);
        }
        let failed = match &container.stage {
            Stage::Creating(waiter) => {
                let failure = Failure::system(format!(
                    "the first process of container {} ended while it was being set up: {}",
                    container.id,
                    describe_status(status)
                ));
                Some((*waiter, failure))
            }
            Stage::Failed(waiter, failure) => Some((*waiter, failure.clone())),
            _ => None,
        };
        if let Some((waiter, failure)) = failed {
            container.stage = Stage::Failed(waiter, failure);
            self.settle(poller, number);
            return;
        }
        let started_at = match container.stage {
            Stage::Running { started_at } => Some(started_at),
            _ => None,
        };
        let exit = Exit::new(status.exit_status(), status.terminating_signal(), false);
        container.stage = Stage::Ending(Ended {
            started_at,
            finished_at,
            exit,
        });
        self.settle(poller, number);
    }

    /// Hears what a child that is gone had still to say.
    fn finish_conversation(&mut self, poller: &Poller, number: u64) {
        for _ in 0..4 {
            self.container_ready(poller, number);
        }
    }

    /// Ends what the init, or the attempt to make one, has left behind, and when nothing is left, the
    /// container.
    pub(crate) fn settle(&mut self, poller: &Poller, number: u64) {
        self.buffer.resize(BUFFER, 0);
        let Some(container) = self.containers.get_mut(&number) else {
            return;
        };
        if !matches!(container.stage, Stage::Ending(_) | Stage::Failed(..)) {
            return;
        }
        if let Some(process) = container.leftover.take() {
            poller.remove(&process);
        }
        if let Some(process) = container.kill_leftovers()
            && poller.add(&process, Token::Leftover(number)).is_ok()
        {
            container.leftover = Some(process);
            return;
        }
        if let Stage::Failed(waiter, failure) = &container.stage {
            container.stage = Stage::Undone(*waiter, failure.clone());
            self.conclude(poller, number);
            return;
        }
        let Stage::Ending(mut ended) = container.stage else {
            return;
        };
        // First, because the file may go with the last process.
        ended.exit.oom_killed = container.oom.as_ref().is_some_and(OomCount::has_grown);
        let attachers = &mut self.attachers;
        let source = |stream| Source {
            container: number,
            stream,
        };
        container.drain(poller, &mut self.buffer, |stream, bytes| {
            attachers.push(poller, source(stream), bytes);
        });
        for stream in [Stream::Out, Stream::Error] {
            attachers.finish(poller, source(stream));
        }
        container.stage = Stage::Exited(ended);
        container.save();
        self.effects.extend(
            container
                .record()
                .map(|record| Effect::Tell(Event::Exited(record))),
        );
        self.conclude(poller, number);
        syscall::trim_heap();
    }

    /// Lets go of a container that has no processes any more, and tells those who wait for that.
    pub(crate) fn forget(&mut self, poller: &Poller, number: u64) {
        let Some(mut container) = self.containers.remove(&number) else {
            return;
        };
        container.close_sync(poller);
        for stream in [&container.out, &container.error].into_iter().flatten() {
            poller.remove(stream);
        }
        if let Stage::Undone(waiter, failure) = container.stage {
            self.effects.push(Effect::Answer(waiter, Err(failure)));
        }
        for waiter in container.deleting {
            self.effects.push(Effect::Answer(waiter, Ok(Reply::Done)));
        }
    }
}

/// The two ends of the socket between the shim and a child.
pub(crate) fn sync_pair() -> Outcome<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .system(|| "make a socket for the new process")
}

/// Reads from a stream whenever it has something.
pub(crate) fn watch_stream(poller: &Poller, stream: &OwnedFd, token: Token) -> Outcome<()> {
    rustix::fs::fcntl_setfl(stream, OFlags::NONBLOCK)
        .and_then(|()| poller.add(stream, token))
        .system(|| "watch a container's output")
}

pub(crate) fn describe(stage: &Stage) -> &'static str {
    match stage {
        Stage::Creating(_) | Stage::Failed(..) | Stage::Undone(..) => "is still being created",
        Stage::Created => "has not been started",
        Stage::Starting(_) => "is being started",
        Stage::Running { .. } => "is running",
        Stage::Ending(_) | Stage::Exited(_) => "has exited",
    }
}

pub(crate) fn describe_status(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (_, Some(signal)) => format!("signal {signal}"),
        (Some(code), None) => format!("exit code {code}"),
        (None, None) => "for no reason known".to_owned(),
    }
}
