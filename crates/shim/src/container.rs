//! One container, as the shim keeps it: its process, its streams, where it is in its life.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::Pid;

use crate::cgroup::{Cgroup, OwnCgroup, oom_kills, read_oom_kills};
use crate::failure::Outcome;
use crate::hooks::Due;
use crate::log::{Log, Stream};
use crate::poller::{Interest, Poller, Token};
use crate::protocol::{Exit, Failure, Phase, Record, Runtime};
use crate::record::write_record;
use crate::supervisor::watch_stream;
use crate::syscall;

/// Who is waiting for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiter {
    /// The connection.
    pub(crate) connection: u64,
    /// The request's number on it.
    pub(crate) number: u64,
}

/// A container's life from within. The shim forgets a container whose creation has failed as soon
/// as its process is gone.
#[derive(Debug)]
pub(crate) enum Stage {
    /// The child prepares itself.
    Creating(Waiter),
    /// The child has given up. Who waits for it is told why once it has ended, so that nothing is
    /// left by then.
    Failed(Waiter, Failure),
    /// The child that has given up has ended.
    Undone(Waiter, Failure),
    /// The child waits for its start.
    Created,
    /// The child has been told to start.
    Starting(Waiter),
    /// Executed.
    Running { started_at: i64 },
    /// The init has ended; processes that it has left behind are being killed.
    Ending(Ended),
    /// Nothing is left but what is known about it.
    Exited(Ended),
}

/// What leads to a container's standard input.
#[derive(Debug)]
pub(crate) enum Input {
    /// Nothing: there is none, or somebody else has the only end.
    Closed,
    /// The end of a pipe, which keeps it open until somebody attaches to it.
    Pipe(OwnedFd),
    /// The terminal, which is written to by whoever is attached.
    Terminal(OwnedFd),
}

/// What reading a stream once has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// So many bytes in the buffer.
    Bytes(usize),
    Nothing,
    /// The stream is closed.
    Ended,
}

/// How a container's init has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) started_at: Option<i64>,
    pub(crate) finished_at: i64,
    pub(crate) exit: Exit,
}

/// Where the kernel counts the container's processes that it has killed for want of memory.
#[derive(Debug)]
pub(crate) struct OomCount {
    file: PathBuf,
    before: u64,
    /// What was last seen of it.
    now: Cell<u64>,
    /// The file where it goes with the last process, because systemd removes a scope that is empty:
    /// watched, so that it is read before that.
    watched: Option<File>,
}

impl OomCount {
    pub(crate) fn new(file: PathBuf) -> Self {
        let before = oom_kills(&file).unwrap_or(0);
        Self {
            file,
            before,
            now: Cell::new(before),
            watched: None,
        }
    }

    /// Watches the file where somebody else removes it.
    pub(crate) fn watch(&mut self, poller: &Poller, number: u64) {
        let scope = self.file.parent().and_then(Path::extension);
        if scope.is_none_or(|extension| extension != "scope") {
            return;
        }
        // Without it, the count is read at the end, if it is still there.
        self.watched = File::open(&self.file).ok().filter(|file| {
            // What has not been read counts as changed.
            read_oom_kills(file).is_ok()
                && poller
                    .watch(file, Token::Memory(number), Interest::Change)
                    .is_ok()
        });
    }

    /// The file has changed, or has gone.
    pub(crate) fn look(&mut self, poller: &Poller) {
        if !self.count()
            && let Some(file) = self.watched.take()
        {
            poller.remove(&file);
        }
    }

    /// Whether there has been one since.
    pub(crate) fn has_grown(&self) -> bool {
        self.count();
        self.now.get() > self.before
    }

    /// Reads the count; whether it is still there.
    fn count(&self) -> bool {
        // A change is reported again once it has been read through the descriptor that is watched.
        let count = match &self.watched {
            Some(file) => read_oom_kills(file),
            None => oom_kills(&self.file),
        };
        count.map(|count| self.now.set(count)).is_ok()
    }
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    /// The runtime that makes it and works on it; none for the shim itself.
    pub(crate) runtime: Option<Box<Runtime>>,
    /// Its init; while a runtime makes it, that runtime's process.
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) cgroup: Cgroup,
    pub(crate) oom: Option<OomCount>,
    pub(crate) log: Option<Log>,
    /// The socket to the child, until that is executed; then to the process that runs hooks.
    pub(crate) sync: Option<OwnedFd>,
    /// Standard output, or the terminal.
    pub(crate) out: Option<OwnedFd>,
    /// Standard error.
    pub(crate) error: Option<OwnedFd>,
    pub(crate) input: Input,
    pub(crate) stage: Stage,
    pub(crate) hooks: Due,
    /// A process that is being waited for after the init's end.
    pub(crate) leftover: Option<OwnedFd>,
    /// Cgroups of executed processes that had left others behind.
    pub(crate) occupied: Vec<OwnCgroup>,
    /// Who waits for it to be forgotten.
    pub(crate) deleting: Vec<Waiter>,
}

impl Container {
    /// What there is to tell about it.
    pub(crate) fn record(&self) -> Option<Record> {
        let phase = match self.stage {
            Stage::Creating(_) | Stage::Failed(..) | Stage::Undone(..) => return None,
            Stage::Exited(Ended {
                started_at,
                finished_at,
                exit,
            }) => Phase::Exited {
                started_at,
                finished_at,
                exit,
            },
            // Not over as long as something of it is left: its log may still grow.
            Stage::Running { started_at }
            | Stage::Ending(Ended {
                started_at: Some(started_at),
                ..
            }) => Phase::Running { started_at },
            Stage::Created | Stage::Starting(_) | Stage::Ending(_) => Phase::Created,
        };
        let pid = self.pid.as_raw_nonzero().get();
        Some(Record {
            container: self.id.clone(),
            pid,
            phase,
        })
    }

    /// Writes the record into the bundle.
    pub(crate) fn save(&self) {
        if let Some(record) = self.record() {
            // A full disk takes nothing from those who ask the shim itself.
            let _ = write_record(&self.bundle, &record);
        }
    }

    /// Whether its first process is still preparing itself.
    pub(crate) fn is_being_created(&self) -> bool {
        matches!(self.stage, Stage::Creating(_))
    }

    /// Whether its init may still run.
    pub(crate) fn has_process(&self) -> bool {
        !matches!(
            self.stage,
            Stage::Ending(_) | Stage::Exited(_) | Stage::Undone(..)
        )
    }

    /// Sends a signal to the init, or to every process.
    pub(crate) fn signal(&self, signal: i32, all: bool) -> Result<(), Errno> {
        if all && signal == libc::SIGKILL {
            self.cgroup.kill();
        } else if all {
            for pid in self.cgroup.processes() {
                match syscall::kill(pid, signal) {
                    Err(Errno::SRCH) | Ok(()) => {}
                    Err(error) => return Err(error),
                }
            }
            if !self.cgroup.processes().is_empty() {
                return Ok(());
            }
        }
        match syscall::pidfd_send_signal(self.pidfd.as_fd(), signal) {
            Err(Errno::SRCH) => Ok(()),
            other => other,
        }
    }

    /// Reads its streams from now on.
    pub(crate) fn watch(&self, poller: &Poller, number: u64) -> Outcome<()> {
        for (stream, token) in [
            (&self.out, Token::Output(number)),
            (&self.error, Token::ErrorOutput(number)),
        ] {
            if let Some(stream) = stream {
                watch_stream(poller, stream, token)?;
            }
        }
        Ok(())
    }

    /// Where a stream comes from, as long as it has not ended.
    pub(crate) fn source(&self, stream: Stream) -> Option<&OwnedFd> {
        match stream {
            Stream::Out => self.out.as_ref(),
            Stream::Error => self.error.as_ref(),
        }
    }

    fn take_source(&mut self, stream: Stream) -> Option<OwnedFd> {
        match stream {
            Stream::Out => self.out.take(),
            Stream::Error => self.error.take(),
        }
    }

    /// Reads once what a stream has brought, for the log and for whoever else follows it; closes it
    /// at its end.
    pub(crate) fn read(&mut self, poller: &Poller, stream: Stream, buffer: &mut [u8]) -> Reading {
        let Some(descriptor) = self.source(stream) else {
            return Reading::Nothing;
        };
        match rustix::io::read(descriptor, &mut *buffer) {
            Ok(length) if length > 0 => {
                if let Some(log) = &mut self.log {
                    log.push(stream, &buffer[..length]);
                }
                Reading::Bytes(length)
            }
            Err(Errno::AGAIN | Errno::INTR) => Reading::Nothing,
            // A terminal that nobody has open any more says EIO.
            Ok(_) | Err(_) => {
                poller.remove(descriptor);
                self.take_source(stream);
                Reading::Ended
            }
        }
    }

    /// Takes what is left in the streams, also for those who `follow` them, and closes them, and
    /// the log. Every process of the container is gone; whoever else may hold a stream open is not
    /// waited for.
    pub(crate) fn drain(
        &mut self,
        poller: &Poller,
        buffer: &mut [u8],
        mut follow: impl FnMut(Stream, &[u8]),
    ) {
        for stream in [Stream::Out, Stream::Error] {
            let Some(descriptor) = self.take_source(stream) else {
                continue;
            };
            // What a terminal holds back shows only when it is read.
            let mut left = if rustix::termios::isatty(&descriptor) {
                u64::MAX
            } else {
                rustix::io::ioctl_fionread(&descriptor).unwrap_or(u64::MAX)
            };
            while left > 0 {
                match rustix::io::read(&descriptor, &mut *buffer) {
                    Ok(length) if length > 0 => {
                        left = left.saturating_sub(length as u64);
                        if let Some(log) = &mut self.log {
                            log.push(stream, &buffer[..length]);
                        }
                        follow(stream, &buffer[..length]);
                    }
                    Err(Errno::INTR) => {}
                    Ok(_) | Err(_) => break,
                }
            }
            poller.remove(&descriptor);
        }
        self.input = Input::Closed;
        if let Some(mut log) = self.log.take() {
            log.finish();
        }
    }

    /// Kills what is left of the container. Gives a process that has not ended yet, if there is
    /// one.
    pub(crate) fn kill_leftovers(&self) -> Option<OwnedFd> {
        loop {
            let left = self.cgroup.processes();
            if left.is_empty() {
                return None;
            }
            self.cgroup.kill();
            let flags = rustix::process::PidfdFlags::empty();
            let open = |pid: &Pid| rustix::process::pidfd_open(*pid, flags).ok();
            if let Some(process) = left.iter().find_map(open) {
                return Some(process);
            }
        }
    }

    /// Where to put the child's socket out of the way.
    pub(crate) fn close_sync(&mut self, poller: &Poller) {
        if let Some(sync) = self.sync.take() {
            poller.remove(&sync);
        }
    }

    pub(crate) fn sync(&self) -> Option<BorrowedFd<'_>> {
        self.sync.as_ref().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_known_when_the_file_has_gone() {
        let directory = tempfile::tempdir().unwrap();
        let cgroup = directory.path().join("slipway-1.scope");
        std::fs::create_dir(&cgroup).unwrap();
        let file = cgroup.join("memory.events");
        std::fs::write(&file, "low 0\noom 1\noom_kill 1\n").unwrap();
        let mut count = OomCount::new(file.clone());
        assert!(!count.has_grown());
        std::fs::write(&file, "low 0\noom 2\noom_kill 2\n").unwrap();
        count.look(&Poller::new().unwrap());
        std::fs::remove_dir_all(&cgroup).unwrap();
        assert!(count.has_grown());
    }

    #[test]
    fn a_control_file_that_changes_is_heard_of() {
        let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let is_v2 = |place: &&Path| place.join("cgroup.controllers").exists();
        let root = places.into_iter().find(is_v2).expect("cgroup v2");
        let cgroup = root.join(format!("slipway-watch-{}.scope", std::process::id()));
        std::fs::create_dir(&cgroup).unwrap();
        // Without the memory controller here, another file of the kernel's that tells of changes.
        let mut count = OomCount::new(cgroup.join("cgroup.events"));
        let poller = Poller::new().unwrap();
        count.watch(&poller, 7);
        assert!(count.watched.is_some());
        std::fs::write(cgroup.join("cgroup.freeze"), "1").unwrap();
        let tokens: Vec<_> = poller.wait().unwrap().map(|ready| ready.token).collect();
        std::fs::remove_dir(&cgroup).unwrap();
        assert_eq!(tokens, [Token::Memory(7)]);
        count.look(&poller);
        assert!(count.watched.is_none());
    }
}
