//! A container's cgroup: joining it, and finding and killing everything in it.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::failure::{Explain, Outcome};
use crate::protocol::SubCgroup;
use crate::syscall;

/// `CGROUP2_SUPER_MAGIC` of statfs(2).
const CGROUP2: u64 = 0x6367_7270;

/// The directories of a container's cgroup.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cgroup {
    /// The one of cgroup v2.
    unified: Option<PathBuf>,
    /// Those of cgroup v1, one for each hierarchy.
    hierarchies: Vec<PathBuf>,
}

impl Cgroup {
    /// Sorts the directories by version.
    pub(crate) fn new(directories: &[PathBuf]) -> Outcome<Self> {
        let mut cgroup = Self::default();
        for directory in directories {
            // A runtime that asks systemd for it makes it later, in the same hierarchy.
            let there = directory.ancestors().find(|path| path.exists());
            let found = rustix::fs::statfs(there.unwrap_or(directory))
                .system(|| format!("the cgroup {}", directory.display()))?;
            if u64::try_from(found.f_type).is_ok_and(|magic| magic == CGROUP2) {
                cgroup.unified = Some(directory.clone());
            } else {
                cgroup.hierarchies.push(directory.clone());
            }
        }
        Ok(cgroup)
    }

    /// The directories of v1.
    pub(crate) fn hierarchies(&self) -> &[PathBuf] {
        &self.hierarchies
    }

    /// The directory of v2, for clone3(2).
    pub(crate) fn open_unified(&self) -> Outcome<Option<OwnedFd>> {
        let Some(path) = &self.unified else {
            return Ok(None);
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
            .map(Some)
            .system(|| format!("open the cgroup {}", path.display()))
    }

    /// Moves the calling process, which has one thread, into the directories of v1.
    ///
    /// A thread that moves only itself is spared the kernel's lock over all processes, which
    /// costs milliseconds for each hierarchy: so `0` goes to `tasks`, not the PID to
    /// `cgroup.procs`.
    pub(crate) fn join_hierarchies(&self) -> Outcome<()> {
        for directory in &self.hierarchies {
            let path = directory.join("tasks");
            fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|mut tasks| tasks.write_all(b"0"))
                .system(|| format!("join the cgroup {}", directory.display()))?;
        }
        Ok(())
    }

    /// Every process in it and in those below it. Processes that have ended and wait for their
    /// parent are not among them.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let mut found = Vec::new();
        if let Some(directory) = self.listed() {
            collect(directory, &mut found);
        }
        found
    }

    /// Sends `SIGKILL` to every process in it.
    pub(crate) fn kill(&self) {
        if let Some(directory) = &self.unified
            && fs::write(directory.join("cgroup.kill"), b"1").is_ok()
        {
            return;
        }
        for pid in self.processes() {
            // It may have ended by itself.
            let _ = syscall::kill(pid, libc::SIGKILL);
        }
    }

    /// Makes one below it for some of the container's processes. Of v1 that is in a single
    /// hierarchy: all it is for is to find them. None where the kernel does not let it.
    pub(crate) fn make_below(&self, name: &str) -> Option<OwnCgroup> {
        let below = self.listed()?.join(name);
        fs::create_dir(&below).ok()?;
        let mut cgroup = self.clone();
        let listed = cgroup.unified.as_mut().or_else(|| {
            let hierarchies = &mut cgroup.hierarchies;
            hierarchies.iter_mut().find(|path| below.starts_with(path))
        });
        *listed? = below;
        Some(OwnCgroup(cgroup))
    }

    /// How a runtime is told of the cgroup `name` that [`make_below`](Self::make_below) makes; none
    /// where it cannot be.
    pub(crate) fn as_told(&self, takes: SubCgroup, name: &str) -> Option<String> {
        let of_pids = || self.listed().is_some_and(|path| has_part(path, "pids"));
        match (takes, &self.unified) {
            (SubCgroup::Unsupported, _) | (SubCgroup::Path, None) => None,
            (_, Some(_)) => Some(name.to_owned()),
            (SubCgroup::ControllerAndPath, None) => of_pids().then(|| format!("pids:{name}")),
        }
    }

    /// Kills every process in it, and those that they start meanwhile.
    pub(crate) fn kill_all(&self) {
        let mut killed = HashSet::new();
        loop {
            let left = self.processes();
            if left.iter().all(|pid| killed.contains(pid)) {
                return;
            }
            self.kill();
            killed.extend(left);
        }
    }

    /// The hierarchy in which processes are looked for: v2, or the one that every v1 system has
    /// and no container can leave.
    fn listed(&self) -> Option<&Path> {
        self.unified
            .as_ref()
            .or_else(|| self.hierarchies.iter().find(|path| has_part(path, "pids")))
            .or_else(|| self.hierarchies.first())
            .map(PathBuf::as_path)
    }
}

/// What [`Cgroup::make_below`] has made. Where something still runs in it when it is dropped, it
/// goes with the one that it is below.
#[derive(Debug)]
pub(crate) struct OwnCgroup(Cgroup);

impl Deref for OwnCgroup {
    type Target = Cgroup;

    fn deref(&self) -> &Cgroup {
        &self.0
    }
}

impl OwnCgroup {
    /// Moves a process into it, and with it what that starts from now on.
    pub(crate) fn take(&self, process: Pid) {
        if let Some(directory) = self.listed() {
            // It stays where it is found with the container's other processes.
            let number = process.as_raw_nonzero().to_string();
            let _ = fs::write(directory.join("cgroup.procs"), number);
        }
    }

    /// Removes it if nothing runs in it; whether it is gone.
    pub(crate) fn remove(&self) -> bool {
        let removed = self.listed().map_or(Ok(()), rustix::fs::rmdir);
        !matches!(removed, Err(Errno::BUSY | Errno::NOTEMPTY))
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        self.remove();
    }
}

fn has_part(path: &Path, name: &str) -> bool {
    path.components().any(|part| part.as_os_str() == name)
}

fn collect(directory: &Path, found: &mut Vec<Pid>) {
    // A cgroup that is gone has no processes.
    let Ok(listing) = fs::read_to_string(directory.join("cgroup.procs")) else {
        return;
    };
    found.extend(
        listing
            .lines()
            .filter_map(|line| line.parse().ok().and_then(Pid::from_raw)),
    );
    // A cgroup without children has two links.
    if fs::metadata(directory).is_ok_and(|metadata| metadata.st_nlink() > 2)
        && let Ok(entries) = fs::read_dir(directory)
    {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                collect(&entry.path(), found);
            }
        }
    }
}

/// How many processes the kernel has killed for want of memory, as `oom_kill N` of
/// `memory.events` (v2) or `memory.oom_control` (v1) says; 0 where there is no such line.
pub(crate) fn oom_kills(file: &Path) -> io::Result<u64> {
    read_oom_kills(&fs::File::open(file)?)
}

/// As [`oom_kills`], of an open file, from its beginning.
pub(crate) fn read_oom_kills(file: &fs::File) -> io::Result<u64> {
    let mut buffer = [0; 512];
    let length = file.read_at(&mut buffer, 0)?;
    let text = String::from_utf8_lossy(&buffer[..length]);
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    Ok(count
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0))
}
