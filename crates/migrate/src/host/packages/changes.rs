//! A package manager while it changes the node.
//!
//! It must not be ended half-way, so it outlives this process, whatever that is ended by: it is in a
//! process group of its own, and writes to a file that is there without a reader. That file is locked
//! (flock(2)) by the descriptor that it writes to, which all that it starts has as well: while any of
//! that is at work the lock is held, and whoever comes after waits for it before it looks at packages.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::Root;
use crate::apply::DIRECTORY;
use crate::host::Progress;
use crate::host::process::Failure;

/// Beside the journal.
const LOG: &str = "packages.log";

/// Downloads over a slow line, and triggers of other packages.
const PATIENCE: Duration = Duration::from_mins(30);

/// How often it is looked what has been written, for those who read along.
const GLANCE: Duration = Duration::from_millis(200);

/// So many of its last lines say why it has failed.
const TOLD: usize = 12;

/// What changes the node's packages, one after the other.
#[derive(Debug)]
pub(super) struct Changes {
    root: Root,
}

impl Changes {
    pub(super) fn new(root: Root) -> Self {
        Self { root }
    }

    /// Waits until nothing is at work any more that an earlier call has started, in this process or
    /// in one that is no more.
    pub(super) async fn wait(&self, progress: Progress<'_>) -> Result<(), Failure> {
        self.lock(progress).await.map(drop)
    }

    /// Runs a package manager to its end, and says on the way what it writes.
    pub(super) async fn run(
        &self,
        mut command: Command,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        let (path, lock) = self.lock(progress).await?;
        let at = failed(&path);
        let mut written = Written::from_now(&path).map_err(&at)?;
        command
            .stdin(Stdio::null())
            .stdout(lock.try_clone().map_err(&at)?)
            .stderr(lock)
            .process_group(0)
            .kill_on_drop(false);
        let program = command.as_std().get_program().to_os_string();
        let mut child = command
            .spawn()
            .map_err(|error| Failure::NotStarted(program.clone(), error))?;
        // It has the lock as well.
        drop(command);
        let ended = written.follow(child.wait(), progress).await;
        let Some(status) = ended.map_err(&at)? else {
            return Err(Failure::Overdue(program, PATIENCE));
        };
        let status = status.map_err(|error| Failure::NotStarted(program.clone(), error))?;
        if status.success() {
            return Ok(());
        }
        Err(Failure::Failed(program, status, written.end()))
    }

    /// The file, locked.
    async fn lock(&self, progress: Progress<'_>) -> Result<(PathBuf, File), Failure> {
        let path = Path::new(DIRECTORY).join(LOG);
        let path = self.root.resolve(&path).map_err(failed(&path))?;
        let at = failed(&path);
        let directory = path.parent().unwrap_or(&path);
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory);
        made.map_err(&at)?;
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path);
        let file = file.map_err(&at)?;
        match file.try_lock() {
            Ok(()) => return Ok((path, file)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(at(error)),
        }
        progress(&format!(
            "a package manager that was started before is still at work, and is waited for; what it says is in {}",
            path.display()
        ));
        let mut written = Written::from_now(&path).map_err(&at)?;
        // On a thread that nobody has to wait for at the end of this process.
        let (send, locked) = oneshot::channel();
        std::thread::spawn(move || {
            let locked = file.lock().map(|()| file);
            let _ = send.send(locked);
        });
        match written.follow(locked, progress).await.map_err(&at)? {
            Some(Ok(Ok(file))) => Ok((path, file)),
            Some(Ok(Err(error))) => Err(at(error)),
            Some(Err(_)) => Err(at(io::Error::other("it could not be waited for"))),
            None => Err(Failure::StillAtWork(path, PATIENCE)),
        }
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Failure + use<> {
    let path = path.to_path_buf();
    move |error| Failure::File(path.clone(), error)
}

/// What is written to a file.
struct Written {
    file: File,
    /// Of a line that is not whole yet.
    begun: Vec<u8>,
    last: VecDeque<String>,
}

impl Written {
    /// Nothing of what is there already.
    fn from_now(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self {
            file,
            begun: Vec::new(),
            last: VecDeque::new(),
        })
    }

    /// Says what is written until `end`; nothing where that takes too long.
    async fn follow<T>(
        &mut self,
        end: impl Future<Output = T>,
        progress: Progress<'_>,
    ) -> io::Result<Option<T>> {
        let until = Instant::now() + PATIENCE;
        let mut end = std::pin::pin!(end);
        while Instant::now() < until {
            let ended = timeout(GLANCE, end.as_mut()).await;
            self.say(progress)?;
            if let Ok(ended) = ended {
                return Ok(Some(ended));
            }
        }
        Ok(None)
    }

    fn say(&mut self, progress: Progress<'_>) -> io::Result<()> {
        self.file.read_to_end(&mut self.begun)?;
        while let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.begun.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            progress(line);
            if self.last.len() == TOLD {
                self.last.pop_front();
            }
            self.last.push_back(line.to_string());
        }
        Ok(())
    }

    /// The last that was said.
    fn end(self) -> String {
        let begun = String::from_utf8_lossy(&self.begun).trim().to_string();
        let mut last: Vec<_> = self.last.into();
        last.extend(Some(begun).filter(|begun| !begun.is_empty()));
        last.join("; ")
    }
}
