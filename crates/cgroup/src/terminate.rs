//! The end of a cgroup: its processes, killing them, and removing it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::control_file::{self, gone, tree};
use crate::hierarchy::Layout;
use crate::{Cgroup, Error};

/// How long dying processes are waited for. A process that was killed and is still there after this
/// long sits in the kernel, usually on a file system that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many processes are held by descriptor at a time.
const HELD_AT_ONCE: usize = 128;

impl Cgroup {
    /// The processes in it and in all below it, in every hierarchy, sorted; none when it is not
    /// there. Zombies are not among them.
    pub fn processes(&self) -> Result<Vec<i32>, Error> {
        let mut pids = BTreeSet::new();
        for directory in self.directories() {
            for one in tree(&directory)? {
                pids.extend(self.members(&one)?);
            }
        }
        Ok(pids.into_iter().collect())
    }

    pub(crate) fn members(&self, directory: &Path) -> Result<Vec<i32>, Error> {
        let file = directory.join("cgroup.procs");
        let text = match control_file::read_text(&file) {
            Ok(text) => text,
            // Of a threaded cgroup the processes are listed in the one it is a part of.
            Err(error) if gone(&error) || error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                return Ok(Vec::new());
            }
            Err(source) => return Err(Error::Read { file, source }),
        };
        let pids = text.lines().map(|line| match line.parse() {
            Ok(0) => Err(Error::ForeignProcesses(self.path().clone())),
            Ok(pid) => Ok(pid),
            Err(_) => Err(Error::Malformed {
                file: file.clone(),
                found: format!("{line:?}"),
            }),
        });
        pids.collect()
    }

    /// Sends `SIGKILL` to every process in it and below it, so that no fork escapes. One that is
    /// not there is fine.
    ///
    /// On v2 this is `cgroup.kill`, which is atomic and does not wait for the processes to be gone.
    /// On v1 (and v2 before Linux 5.14) the cgroup is frozen while they are signalled and thawed
    /// afterwards, again and again until it is empty; one that is still there after 10 seconds is
    /// [`Error::StillRunning`].
    pub fn kill(&self) -> Result<(), Error> {
        self.refuse_root()?;
        if self.kill_at_once()? {
            return Ok(());
        }
        let deadline = Deadline::after(PATIENCE);
        while !self.processes()?.is_empty() {
            self.check(&deadline)?;
            let frozen = self.freeze();
            let signalled = self.signal_all()?;
            drop(frozen);
            self.await_exit(&signalled, &deadline)?;
        }
        Ok(())
    }

    /// Kills through `cgroup.kill`; false where there is no such file.
    fn kill_at_once(&self) -> Result<bool, Error> {
        let Layout::V2(mount) = self.layout() else {
            return Ok(false);
        };
        let directory = self.path().below(&mount.mount_point);
        let file = directory.join("cgroup.kill");
        match control_file::try_write(&file, "1") {
            Ok(()) => Ok(true),
            Err(error) if gone(&error) => Ok(!directory.exists()),
            // A threaded cgroup, made by the container itself: only the whole can be killed.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
            Err(source) => Err(Error::Write {
                file,
                value: "1".to_owned(),
                hint: "",
                source,
            }),
        }
    }

    /// Stops every process until the guard is dropped, as far as that is possible here. Where it is
    /// not, killing still ends, only later.
    fn freeze(&self) -> impl Drop {
        let (file, frozen, thawed) = match self.layout() {
            Layout::V1(_) => ("freezer.state", "FROZEN", "THAWED"),
            Layout::V2(_) => ("cgroup.freeze", "1", "0"),
        };
        let directory = match self.layout() {
            Layout::V1(_) => self.directory_of("freezer"),
            Layout::V2(mount) => Some(self.path().below(&mount.mount_point)),
        };
        let file = directory.map(|directory| directory.join(file));
        let set = move |state| {
            file.as_ref()
                .map(|file| control_file::try_write(file, state))
        };
        set(frozen);
        Defer(move || {
            set(thawed);
        })
    }

    /// Kills every process that is listed, and returns the first of them to wait for.
    fn signal_all(&self) -> Result<Vec<(i32, OwnedFd)>, Error> {
        let mut held = Vec::new();
        for pids in self.processes()?.chunks(HELD_AT_ONCE) {
            let pidfds = self.hold(pids)?;
            for (pid, pidfd) in &pidfds {
                match pidfd_send_signal(pidfd, Signal::KILL) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(error) => return Err(self.cannot("kill", *pid, error)),
                }
            }
            if held.is_empty() {
                held = pidfds;
            }
        }
        Ok(held)
    }

    /// Descriptors of those of `pids` that are processes of this cgroup: a number may have passed on
    /// to another process between being read and being opened, so it is read once more.
    fn hold(&self, pids: &[i32]) -> Result<Vec<(i32, OwnedFd)>, Error> {
        let mut held = Vec::with_capacity(pids.len());
        for pid in pids {
            let Some(number) = Pid::from_raw(*pid) else {
                continue;
            };
            match pidfd_open(number, PidfdFlags::empty()) {
                Ok(pidfd) => held.push((*pid, pidfd)),
                Err(Errno::SRCH) => {}
                Err(error) => return Err(self.cannot("watch", *pid, error)),
            }
        }
        let still: BTreeSet<_> = self.processes()?.into_iter().collect();
        held.retain(|(pid, _)| still.contains(pid));
        Ok(held)
    }

    /// Removes it and all below it; one that is not there is fine. Processes that are dying are
    /// waited for (on v2 by `cgroup.events`, on v1 by their descriptors): call [`Cgroup::kill`]
    /// first. After 10 seconds the ones that are left are named in [`Error::StillRunning`].
    pub fn remove(&self) -> Result<(), Error> {
        self.remove_within(PATIENCE)
    }

    fn remove_within(&self, patience: Duration) -> Result<(), Error> {
        self.refuse_root()?;
        let deadline = Deadline::after(patience);
        while !self.remove_directories()? {
            self.check(&deadline)?;
            match self.layout() {
                Layout::V1(_) => {
                    let pids = self.processes()?;
                    let watched = self.hold(&pids[..pids.len().min(HELD_AT_ONCE)])?;
                    self.await_exit(&watched, &deadline)?;
                }
                Layout::V2(mount) => {
                    let events = self.path().below(&mount.mount_point).join("cgroup.events");
                    await_unpopulated(&events, &deadline)?;
                }
            }
        }
        Ok(())
    }

    /// Removes every directory that can be; whether all are gone.
    fn remove_directories(&self) -> Result<bool, Error> {
        let mut all_gone = true;
        for top in self.directories() {
            if remove_directory(&top)? {
                continue;
            }
            for directory in tree(&top)? {
                all_gone &= remove_directory(&directory)?;
            }
        }
        Ok(all_gone)
    }

    fn check(&self, deadline: &Deadline) -> Result<(), Error> {
        if deadline.left().is_some() {
            return Ok(());
        }
        let pids = self.processes()?;
        Err(Error::StillRunning {
            path: self.path().clone(),
            pids,
            seconds: deadline.patience.as_secs(),
        })
    }

    /// Waits until all of these processes have ended, or the deadline has passed.
    fn await_exit(&self, pidfds: &[(i32, OwnedFd)], deadline: &Deadline) -> Result<(), Error> {
        if pidfds.is_empty() {
            // Nobody to wait for, and yet not empty: a process is on its last way out, or was
            // forked this instant. It needs the processor more than this thread does.
            rustix::thread::sched_yield();
        }
        for (pid, pidfd) in pidfds {
            wait(&mut [PollFd::new(pidfd, PollFlags::IN)], deadline)
                .map_err(|error| self.cannot("wait for", *pid, error))?;
        }
        Ok(())
    }

    fn cannot(&self, action: &'static str, pid: i32, error: Errno) -> Error {
        Error::Process {
            action,
            pid,
            path: self.path().clone(),
            source: error.into(),
        }
    }
}

/// Whether the directory is gone; false while the kernel calls it busy.
fn remove_directory(directory: &Path) -> Result<bool, Error> {
    match fs::remove_dir(directory) {
        Ok(()) => Ok(true),
        Err(error) if gone(&error) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY)) => {
            Ok(false)
        }
        Err(source) => Err(Error::Remove {
            directory: directory.to_owned(),
            source,
        }),
    }
}

/// Waits until `cgroup.events` says "populated 0", or the deadline has passed.
fn await_unpopulated(events: &Path, deadline: &Deadline) -> Result<(), Error> {
    let failed = |source| Error::Read {
        file: events.to_owned(),
        source,
    };
    let mut file = match File::open(events) {
        Ok(file) => file,
        Err(error) if gone(&error) => return Ok(()),
        Err(source) => return Err(failed(source)),
    };
    while deadline.left().is_some() {
        // Reading is also what makes poll(2) report the next change.
        let mut text = String::new();
        match file.rewind().and_then(|()| file.read_to_string(&mut text)) {
            Ok(_) if control_file::keyed(&text, "populated") == Some(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if gone(&error) => return Ok(()),
            Err(source) => return Err(failed(source)),
        }
        let mut watched = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::PRI)];
        wait(&mut watched, deadline).map_err(|error| failed(io::Error::from(error)))?;
    }
    Ok(())
}

fn wait(watched: &mut [PollFd<'_>], deadline: &Deadline) -> Result<(), Errno> {
    while let Some(left) = deadline.left() {
        match poll(watched, Some(&left)) {
            Err(Errno::INTR) => {}
            result => return result.map(drop),
        }
    }
    Ok(())
}

/// An instant after which nothing is waited for any more.
struct Deadline {
    at: Instant,
    patience: Duration,
}

impl Deadline {
    fn after(patience: Duration) -> Self {
        Self {
            at: Instant::now() + patience,
            patience,
        }
    }

    /// The time that is left; none when it has passed.
    fn left(&self) -> Option<Timespec> {
        let left = self
            .at
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())?;
        Timespec::try_from(left).ok()
    }
}

/// Does something when dropped.
struct Defer<F: Fn()>(F);

impl<F: Fn()> Drop for Defer<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::{CgroupPath, Hierarchy, Resources};

    #[test]
    fn a_process_that_stays_is_named() {
        let name = format!("/slipway-cgroup-test-{:016x}", rand());
        let hierarchy = Hierarchy::detect().unwrap();
        let path = CgroupPath::parse(&name).unwrap();
        let cgroup = hierarchy.create(&path, &Resources::default(), &[]).unwrap();
        let mut child = Command::new("/bin/sleep")
            .arg("60")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        for directory in cgroup.directories() {
            fs::write(directory.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        let error = cgroup.remove_within(Duration::from_millis(50)).unwrap_err();
        let occupied = hierarchy
            .create(&path, &Resources::default(), &[])
            .unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
        cgroup.remove().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(matches!(error, Error::StillRunning { pids, .. } if pids == [pid]));
        assert!(matches!(occupied, Error::Occupied { pids, .. } if pids == [pid]));
    }

    #[test]
    fn the_root_is_left_alone() {
        let root = Hierarchy::detect().unwrap().open(&CgroupPath::root());
        assert!(matches!(root.kill(), Err(Error::Root)));
        assert!(matches!(root.remove(), Err(Error::Root)));
        assert!(matches!(
            root.update(&Resources::default()),
            Err(Error::Root)
        ));
    }

    fn rand() -> u64 {
        let mut bytes = [0; 8];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
        u64::from_ne_bytes(bytes)
    }
}
