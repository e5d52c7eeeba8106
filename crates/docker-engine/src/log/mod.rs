//! Container logs: what Docker writes of a container is written once more, in CRI's format, where
//! the kubelet looks for it.
//!
//! Docker's own format (`json-file`) is none that whoever collects logs on a node of CRI has to know, and
//! only Docker can rotate its files. Invariants:
//!
//! - A log has what Docker has: no line twice and none left out, also where this daemon was killed and
//!   where Docker or the kubelet rotates meanwhile. What Docker removes before it was read is missing,
//!   which is told.
//! - A container's end is seen when its log is whole, unless that cannot be written.
//! - Nobody waits for a log that cannot be written. It is tried again, from where it stood.
//!
//! A log that dockershim, cri-dockerd or an older Slipway has begun as a link to Docker's own file
//! stays one.

mod entry;
mod follower;
mod link;
mod position;
mod source;
mod target;
mod task;
mod watcher;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slipway_engine::{ContainerState, Error, Result, blocking};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use self::follower::{Follower, Paths, remove_position};
use self::task::Task;
use self::watcher::Watcher;
use crate::inspect::{Container, Maker};

pub(crate) use self::link::remove as remove_link;

/// How many logs are written at the same time.
const AT_ONCE: usize = 4;

/// How long a container's end may wait for its log: longer than it takes to write as much as Docker
/// keeps, with its defaults, on a disk that works.
const PATIENCE: Duration = Duration::from_secs(10);

/// The logs of the containers that were started.
pub(crate) struct Logs {
    /// Where it is noted how far each is written.
    positions: PathBuf,
    /// None where logs are another daemon's to write.
    watcher: Option<Arc<Watcher>>,
    turns: Arc<Semaphore>,
    known: Mutex<HashMap<String, Log>>,
}

/// What a container's log is.
#[derive(Clone)]
enum Log {
    /// A file that is written here.
    Written(Arc<Task>),
    /// A link to Docker's own.
    Linked,
    /// Nothing: Docker has none, or nobody has said where to.
    None,
}

impl Logs {
    /// Has to be called in a runtime. Without positions no log is written.
    ///
    /// # Errors
    ///
    /// [`slipway_engine::Kind::FailedPrecondition`] where the kernel has no more inotify to give.
    pub(crate) fn new(positions: PathBuf, written: bool) -> Result<Self> {
        let watcher = written.then(Watcher::start).transpose().map_err(|error| {
            Error::precondition(format!(
                "Docker's logs cannot be watched by inotify: {error}; raise \
                 fs.inotify.max_user_instances"
            ))
        })?;
        Ok(Self {
            positions,
            watcher,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            known: Mutex::default(),
        })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Log>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, id: &str) -> Option<Log> {
        self.known().get(id).cloned()
    }

    /// Sees to a container's log, before others see the container as it is now: one that has started
    /// has one, and when it has ended it is whole. Called for one container at a time.
    pub(crate) async fn attend(&self, container: &Container) {
        let running = container.state.is_running();
        if !container.state.has_run() {
            return;
        }
        let log = match self.log(&container.id) {
            // Somebody had Docker start it once more.
            Some(Log::Written(task)) if running && task.is_over() => self.begin(container).await,
            None => self.begin(container).await,
            Some(known) => known,
        };
        let Log::Written(task) = log else { return };
        if matches!(container.state, ContainerState::Exited(_))
            && timeout(PATIENCE, task.finish()).await.is_err()
        {
            tracing::warn!(
                container = container.id,
                "its end is told before its log is whole: what is missing is still being written"
            );
        }
    }

    async fn begin(&self, container: &Container) -> Log {
        let log = match self.find(container).await {
            Ok(log) => log,
            // It is tried again when something else happens to the container.
            Err(error) => {
                tracing::error!(
                    container = container.id, %error,
                    "a container has no log for a kubelet; it goes on without"
                );
                return Log::None;
            }
        };
        self.known().insert(container.id.clone(), log.clone());
        log
    }

    async fn find(&self, container: &Container) -> io::Result<Log> {
        let (Some(watcher), Some(log)) = (&self.watcher, container.log_path.clone()) else {
            return Ok(Log::None);
        };
        let Some(docker) = container.docker_log.clone() else {
            tracing::warn!(
                container = container.id,
                "Docker has no log file of this container, so that there is none for a kubelet"
            );
            return Ok(Log::None);
        };
        let paths = Paths {
            docker,
            log,
            position: self.positions.join(&container.id),
        };
        let (id, maker) = (container.id.clone(), container.maker);
        let follower = tokio::task::spawn_blocking({
            let paths = paths.clone();
            move || {
                if maker == Maker::Other || link::is_to(&paths.log, &paths.docker) {
                    return link::replace(&paths.log, &paths.docker).map(|()| None);
                }
                Follower::open(&id, paths).map(Some)
            }
        });
        let Some(follower) = follower.await.map_err(io::Error::other)?? else {
            return Ok(Log::Linked);
        };
        let woken = Arc::new(Notify::new());
        let directory = paths.docker.parent().unwrap_or(Path::new("/"));
        let watch = watcher.watch(directory, Arc::clone(&woken));
        if let Err(error) = &watch {
            tracing::error!(
                container = container.id, %error,
                "Docker's log of it cannot be watched, and is written when it ends; raise \
                 fs.inotify.max_user_watches"
            );
        }
        let turns = Arc::clone(&self.turns);
        let task = Task::spawn(&container.id, follower, watch.ok(), woken, turns);
        Ok(Log::Written(Arc::new(task)))
    }

    /// Opens a log's path anew (CRI `ReopenContainerLog`).
    ///
    /// # Errors
    ///
    /// [`slipway_engine::Kind::FailedPrecondition`] where nobody writes it, or Docker does.
    pub(crate) async fn reopen(&self, container: &Container) -> Result<()> {
        let id = &container.id;
        let idle = || {
            Error::precondition(format!(
                "container {id} is not running, so that nobody writes its log"
            ))
        };
        if !container.state.is_running() {
            return Err(idle());
        }
        match self.log(id) {
            Some(Log::Written(task)) => {
                let reopened = task.reopen().await.ok_or_else(idle)?;
                reopened.map_err(|error| {
                    Error::internal(format!("ReopenContainerLog of container {id}: {error}"))
                })
            }
            Some(Log::Linked) => Err(Error::precondition(format!(
                "ReopenContainerLog: the log of container {id} is a link to Docker's own file, as \
                 dockershim made them, which Docker alone rotates; set max-size and max-file in \
                 dockerd's log-opts"
            ))),
            Some(Log::None) | None if container.log_path.is_none() => Ok(()),
            Some(Log::None) | None => Err(Error::precondition(format!(
                "ReopenContainerLog: container {id} has no log: Docker has no file of it, or it \
                 could not be followed; see the daemon's log for the reason"
            ))),
        }
    }

    /// Gives up the log of a container that is gone, once all is written that Docker had of it.
    pub(crate) async fn forget(&self, id: &str) {
        let known = self.known().remove(id);
        if let Some(Log::Written(task)) = known {
            match timeout(PATIENCE, task.forget()).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(_) => {
                    tracing::warn!(container = id, "the end of its log is still being written");
                }
            }
        }
        self.forget_position(id).await;
    }

    async fn forget_position(&self, id: &str) {
        let path = self.positions.join(id);
        let removed = blocking::run(move || {
            remove_position(&path);
            Ok(())
        });
        let _ = removed.await;
    }

    /// The ids of containers of whose logs something is noted. Blocking, briefly.
    pub(crate) fn noted(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.positions).into_iter().flatten();
        let names = entries.flatten().map(|entry| entry.file_name());
        names.filter_map(|name| name.into_string().ok()).collect()
    }
}

/// A number that is the same for the same bytes, on disk too (FNV-1a, 64 bits).
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}
