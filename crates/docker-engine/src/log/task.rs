//! What goes on for one container: its log is written whenever Docker has written something, by one
//! thread at a time, and by few for all containers together.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::sleep;

use super::follower::{Follower, Progress};
use super::watcher::Watch;

/// How long after a failure it is tried again, at first and at most: nobody tells that there is room
/// on a disk again, or that a directory is back.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What is asked of a log, and who waits for it.
enum Asked {
    /// To open the path anew.
    Reopen(oneshot::Sender<io::Result<()>>),
    /// To be written to the end, for there will be no more.
    Finish(oneshot::Sender<()>),
    /// To be given up: the container is gone.
    Forget(oneshot::Sender<()>),
}

/// A log that is written.
pub(super) struct Task {
    asked: UnboundedSender<Asked>,
}

impl Task {
    /// Begins to write a log, of which nothing has to be told yet.
    pub(super) fn spawn(
        id: &str,
        follower: Follower,
        watch: Option<Watch>,
        woken: Arc<Notify>,
        turns: Arc<Semaphore>,
    ) -> Self {
        let (sender, receiver) = unbounded_channel();
        // What Docker had written before it was watched.
        woken.notify_one();
        let work = Work {
            id: id.to_owned(),
            woken,
            turns,
            pause: None,
            finishing: false,
        };
        tokio::spawn(run(work, follower, watch, receiver));
        Self { asked: sender }
    }

    /// Whether all is written, so that nothing is left to do.
    pub(super) fn is_over(&self) -> bool {
        self.asked.is_closed()
    }

    /// None where the log is over.
    pub(super) async fn reopen(&self) -> Option<io::Result<()>> {
        self.ask(Asked::Reopen).await
    }

    /// Waits until all is written, or cannot be for now.
    pub(super) async fn finish(&self) {
        self.ask(Asked::Finish).await;
    }

    /// As [`Task::finish`]; then what was noted of it is gone. False where the log is over.
    pub(super) async fn forget(&self) -> bool {
        self.ask(Asked::Forget).await.is_some()
    }

    async fn ask<T>(&self, how: impl FnOnce(oneshot::Sender<T>) -> Asked) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.asked.send(how(answer)).ok()?;
        answered.await.ok()
    }
}

/// What is known beside the log itself.
struct Work {
    id: String,
    woken: Arc<Notify>,
    turns: Arc<Semaphore>,
    /// Until it is tried again, where it has failed.
    pause: Option<Duration>,
    /// Whether it ends as soon as all is written.
    finishing: bool,
}

async fn run(
    mut work: Work,
    mut follower: Follower,
    watch: Option<Watch>,
    mut asked: UnboundedReceiver<Asked>,
) {
    loop {
        let next = tokio::select! {
            biased;
            next = asked.recv() => match next {
                Some(next) => Some(next),
                // The engine is gone.
                None => return,
            },
            () = sleep(work.pause.unwrap_or_default()), if work.pause.is_some() => None,
            () = work.woken.notified(), if work.pause.is_none() => None,
        };
        let Some((back, done)) = work.turn(follower, next).await else {
            return;
        };
        follower = back;
        if work.finishing && done == Done::All {
            break;
        }
    }
    // Before it is known to be over, so that who begins anew is not taken for it.
    drop((follower, watch));
    drop(asked);
}

/// What has become of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    All,
    NotAll,
}

impl Work {
    /// Writes what there is. None where the log is given up.
    async fn turn(&mut self, follower: Follower, asked: Option<Asked>) -> Option<(Follower, Done)> {
        match asked {
            None => Some(self.write(follower).await?),
            Some(Asked::Reopen(answer)) => {
                let mut follower = follower;
                let (follower, reopened) = self
                    .blocking(move || {
                        let reopened = follower.reopen();
                        (follower, reopened)
                    })
                    .await?;
                if reopened.is_ok() && self.pause.take().is_some() {
                    self.woken.notify_one();
                }
                let _ = answer.send(reopened);
                Some((follower, Done::NotAll))
            }
            Some(Asked::Finish(answer)) => {
                self.finishing = true;
                let (follower, done) = self.write_all(follower).await?;
                let _ = answer.send(());
                Some((follower, done))
            }
            Some(Asked::Forget(answer)) => {
                let (follower, _) = self.write_all(follower).await?;
                self.blocking(move || follower.forget()).await?;
                let _ = answer.send(());
                None
            }
        }
    }

    async fn write_all(&mut self, mut follower: Follower) -> Option<(Follower, Done)> {
        loop {
            let (back, done) = self.write(follower).await?;
            follower = back;
            if done == Done::All || self.pause.is_some() {
                return Some((follower, done));
            }
        }
    }

    async fn write(&mut self, mut follower: Follower) -> Option<(Follower, Done)> {
        let (follower, written) = self
            .blocking(move || {
                let written = follower.proceed();
                (follower, written)
            })
            .await?;
        let was_failing = self.pause.is_some();
        let done = match written {
            Ok(progress) => {
                if was_failing {
                    tracing::info!(container = self.id, "its log is written again");
                }
                self.pause = None;
                match progress {
                    Progress::UpToDate => Done::All,
                    Progress::More => {
                        self.woken.notify_one();
                        Done::NotAll
                    }
                }
            }
            Err(error) => {
                if !was_failing {
                    tracing::warn!(
                        container = self.id, %error,
                        "a log cannot be written; the container goes on, and its lines are kept by \
                         Docker for as long as it does not rotate them away"
                    );
                }
                let longer = self.pause.map_or(FIRST_PAUSE, |pause| pause * 2);
                self.pause = Some(longer.min(LONGEST_PAUSE));
                Done::NotAll
            }
        };
        Some((follower, done))
    }

    /// Does what blocks when it is this log's turn. None when the engine ends.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let _turn = self.turns.acquire().await.ok()?;
        tokio::task::spawn_blocking(work).await.ok()
    }
}
