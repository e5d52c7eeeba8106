//! Hearing of it when Docker writes logs: one inotify for all.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// How long events gather before they are looked at again: a container may write ten thousand lines
/// in a second, and as many pairs of wakings would cost more than the writing.
const GATHERING: Duration = Duration::from_millis(5);

/// Of events, in bytes.
const BUFFER: usize = 16 * 1024;

/// Who is woken when something is written.
pub(super) struct Watcher {
    inotify: AsyncFd<OwnedFd>,
    watched: Mutex<HashMap<i32, Arc<Notify>>>,
}

impl Watcher {
    /// Has to be called in a runtime, in which it listens for as long as that is there.
    pub(super) fn start() -> io::Result<Arc<Self>> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types that are no OwnedFd"
        )]
        let inotify = AsyncFd::new(inotify)?;
        let watcher = Arc::new(Self {
            inotify,
            watched: Mutex::default(),
        });
        tokio::spawn(Arc::clone(&watcher).listen());
        Ok(watcher)
    }

    /// Watches a directory: files that are written, and such as come there. What happened before the
    /// answer is not told.
    pub(super) fn watch(
        self: &Arc<Self>,
        directory: &Path,
        wake: Arc<Notify>,
    ) -> io::Result<Watch> {
        let flags =
            WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        let number = inotify::add_watch(self.inotify.get_ref(), directory, flags)?;
        self.watched().insert(number, wake);
        let watcher = Arc::clone(self);
        Ok(Watch { watcher, number })
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<i32, Arc<Notify>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn listen(self: Arc<Self>) {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        loop {
            let Ok(mut ready) = self.inotify.readable().await else {
                return;
            };
            self.take(&mut buffer);
            ready.clear_ready();
            tokio::time::sleep(GATHERING).await;
        }
    }

    /// Takes all events that there are.
    fn take(&self, buffer: &mut [MaybeUninit<u8>]) {
        let mut events = Reader::new(self.inotify.get_ref(), buffer);
        loop {
            match events.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    self.watched().values().for_each(|wake| wake.notify_one());
                }
                Ok(event) => {
                    if let Some(wake) = self.watched().get(&event.wd()) {
                        wake.notify_one();
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// A directory that is watched until this is dropped.
pub(super) struct Watch {
    watcher: Arc<Watcher>,
    number: i32,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watcher.watched().remove(&self.number);
        // The directory has gone, and the watch with it.
        let _ = inotify::remove_watch(self.watcher.inotify.get_ref(), self.number);
    }
}
