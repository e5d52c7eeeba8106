//! Hooks that the shim has run beside a container: before it is ready, once it runs, after its
//! end.

use std::os::fd::{AsFd, OwnedFd};

use crate::container::{Container, Stage, Waiter};
use crate::create::hooks::{Point, Runner};
use crate::create::{self, Birth};
use crate::failure::{Explain, Outcome};
use crate::poller::{Poller, Token};
use crate::protocol::{Failure, Reply};
use crate::supervisor::{Effect, Supervisor, sync_pair};

/// What of a container's hooks is still to be run.
#[derive(Debug, Default)]
pub(crate) struct Due {
    pub(crate) poststart: bool,
    pub(crate) poststop: bool,
    /// What runs now; its process is at the other end of the container's `sync`.
    pub(crate) running: Option<Running>,
}

/// Hooks that run now.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Running {
    /// Whoever has asked for the start gets this answer.
    Poststart(Waiter, i64),
    Poststop,
}

impl Supervisor {
    /// Runs the hooks of the node that belong to the creation. The answer goes to the container's
    /// child, which has the other end of `socket`.
    pub(crate) fn run_create_hooks(&self, number: u64, socket: &OwnedFd) {
        if let Some(container) = self.containers.get(&number) {
            let points = [Point::Prestart, Point::CreateRuntime];
            // Where it fails, the socket is closed, which the child takes for an answer as well.
            let _ = self.spawn_runner(container, &points, socket);
        }
    }

    fn spawn_runner(
        &self,
        container: &Container,
        points: &[Point],
        socket: &OwnedFd,
    ) -> Outcome<()> {
        let runner = Runner {
            id: &container.id,
            bundle: &container.bundle,
            pid: container.pid,
            points,
            namespaces: &self.node,
            sync: socket.as_fd(),
            oom_score: self.oom_score,
        };
        create::spawn(&Birth::ON_THE_NODE, None, &runner)
            .map(drop)
            .system(|| format!("clone a process for the hooks of {}", container.id))
    }

    /// Begins with hooks whose end is waited for here.
    fn begin_hooks(&mut self, poller: &Poller, number: u64, running: Running) -> Outcome<()> {
        let point = match running {
            Running::Poststart(..) => Point::Poststart,
            Running::Poststop => Point::Poststop,
        };
        let (own, theirs) = sync_pair()?;
        let Some(container) = self.containers.get(&number) else {
            return Ok(());
        };
        self.spawn_runner(container, &[point], &theirs)?;
        poller
            .add(&own, Token::ContainerSync(number))
            .system(|| "watch the hooks")?;
        if let Some(container) = self.containers.get_mut(&number) {
            container.close_sync(poller);
            container.sync = Some(own);
            container.hooks.running = Some(running);
        }
        Ok(())
    }

    /// A container runs. Whoever has asked for that is answered, after its hooks.
    pub(crate) fn started(&mut self, poller: &Poller, number: u64, waiter: Waiter, at: i64) {
        let due = self
            .containers
            .get_mut(&number)
            .is_some_and(|container| std::mem::take(&mut container.hooks.poststart));
        let running = Running::Poststart(waiter, at);
        let begun = if due {
            self.begin_hooks(poller, number, running)
        } else {
            self.answer_start(number, waiter, at, Ok(()));
            return;
        };
        if begun.is_err() {
            self.answer_start(number, waiter, at, begun);
        }
    }

    fn answer_start(&mut self, number: u64, waiter: Waiter, started_at: i64, hooks: Outcome<()>) {
        let answer = hooks.map(|()| Reply::Started { started_at });
        if let (Err(_), Some(container)) = (&answer, self.containers.get(&number))
            && container.has_process()
        {
            // It is a process of ours until we reap it.
            let _ = container.signal(libc::SIGKILL, true);
        }
        self.effects.push(Effect::Answer(waiter, answer));
    }

    /// Hooks that were begun here have come to their end.
    pub(crate) fn hooks_ended(&mut self, poller: &Poller, number: u64, how: Outcome<()>) {
        let Some(container) = self.containers.get_mut(&number) else {
            return;
        };
        container.close_sync(poller);
        match container.hooks.running.take() {
            Some(Running::Poststart(waiter, at)) => self.answer_start(number, waiter, at, how),
            // The container is over: there is nobody whom a failure would help.
            Some(Running::Poststop) | None => {}
        }
        self.conclude(poller, number);
    }

    /// A container that has come to its end: its last hooks are run, and then it is forgotten, if
    /// somebody waits for that.
    pub(crate) fn conclude(&mut self, poller: &Poller, number: u64) {
        let Some(container) = self.containers.get_mut(&number) else {
            return;
        };
        let over = matches!(container.stage, Stage::Exited(_) | Stage::Undone(..));
        if !over || container.hooks.running.is_some() {
            return;
        }
        if std::mem::take(&mut container.hooks.poststop)
            && self.begin_hooks(poller, number, Running::Poststop).is_ok()
        {
            return;
        }
        if let Some(container) = self.containers.get(&number)
            && (!container.deleting.is_empty() || matches!(container.stage, Stage::Undone(..)))
        {
            self.forget(poller, number);
        }
    }
}

/// What a runner that has gone without a word comes to.
pub(crate) fn gone() -> Failure {
    Failure::system("the process that runs the hooks was killed")
}
