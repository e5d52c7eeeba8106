//! A container's cgroup: joining it, and finding and killing everything in it.

use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

use crate::failure::{Explain, Outcome};
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
            let found = rustix::fs::statfs(directory)
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

    /// The hierarchy in which processes are looked for: v2, or the one that every v1 system has
    /// and no container can leave.
    fn listed(&self) -> Option<&Path> {
        self.unified
            .as_ref()
            .or_else(|| {
                self.hierarchies
                    .iter()
                    .find(|path| path.components().any(|part| part.as_os_str() == "pids"))
            })
            .or_else(|| self.hierarchies.first())
            .map(PathBuf::as_path)
    }
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
    let text = fs::read_to_string(file)?;
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    Ok(count
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0))
}
