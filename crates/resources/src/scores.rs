//! How ready the kernel is to kill the processes of a container for want of memory.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};

use slipway_cgroup::Cgroup;
use slipway_engine::{Error, Result};

use crate::of_cgroup;

/// The `oom_score_adj` of a container's processes, as it was before it was set (proc(5)).
pub struct Scores(Vec<(File, String)>);

impl Scores {
    /// Sets it for every process of the cgroup. Where it takes `CAP_SYS_RESOURCE` to lower it as
    /// far and this process has none, it stays: the same as when a container is made.
    pub fn set(cgroup: &Cgroup, score: i64) -> Result<Self> {
        let mut scores = Self(Vec::new());
        let mut seen = BTreeSet::new();
        loop {
            // Children of what is set already inherit it, so that this comes to an end.
            let listed = processes(cgroup)?;
            let new: Vec<_> = listed.into_iter().filter(|pid| seen.insert(*pid)).collect();
            if new.is_empty() {
                return Ok(scores);
            }
            let opened: Vec<_> = new
                .into_iter()
                .filter_map(|pid| {
                    let path = format!("/proc/{pid}/oom_score_adj");
                    let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
                    Some((pid, file))
                })
                .collect();
            // A number may have passed on to another process before it was opened, not after.
            let still: BTreeSet<_> = processes(cgroup)?.into_iter().collect();
            for (_, file) in opened.into_iter().filter(|(pid, _)| still.contains(pid)) {
                if let Err(error) = scores.set_one(file, score) {
                    scores.put_back();
                    return Err(Error::internal(format!(
                        "oom_score_adj {score} cannot be set: {error}"
                    )));
                }
            }
        }
    }

    fn set_one(&mut self, mut file: File, score: i64) -> io::Result<()> {
        let mut before = String::new();
        let set = file
            .read_to_string(&mut before)
            .and_then(|_| file.rewind())
            .and_then(|()| file.write_all(score.to_string().as_bytes()));
        match set {
            Ok(()) => {
                self.0.push((file, before));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!(
                    score,
                    "oom_score_adj cannot be lowered so far without CAP_SYS_RESOURCE"
                );
                Ok(())
            }
            // It has ended.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Gives each process the score that it had.
    pub fn put_back(self) {
        for (mut file, before) in self.0 {
            // It may have ended meanwhile.
            let _ = file
                .rewind()
                .and_then(|()| file.write_all(before.trim().as_bytes()));
        }
    }
}

fn processes(cgroup: &Cgroup) -> Result<Vec<i32>> {
    cgroup.processes().map_err(|error| of_cgroup(&error))
}
