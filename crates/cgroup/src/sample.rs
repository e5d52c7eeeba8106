//! What is asked of a cgroup so often that it has to cost little.

use crate::control_file::{read, require, tree};
use crate::hierarchy::Layout;
use crate::stats::number;
use crate::{Cgroup, Error};

impl Cgroup {
    /// The processor time that it and all below it have used, in nanoseconds, as
    /// [`Cgroup::stats`] says it too. None without the controller.
    pub fn cpu_time(&self) -> Result<Option<u64>, Error> {
        let time = match self.layout() {
            Layout::V1(_) => self
                .directory_of("cpuacct")
                .map(|directory| number(&directory.join("cpuacct.usage"))),
            Layout::V2(_) => self.directory_of("cpu").map(|directory| {
                let file = directory.join("cpu.stat");
                require(&file, &read(&file)?, "usage_usec").map(|usec| usec.saturating_mul(1000))
            }),
        };
        time.transpose()
    }

    /// The processes in it and below it. In contrast to [`Cgroup::processes`] only one hierarchy is
    /// looked at, and one that is just moving may be missed or be there twice.
    pub fn sample_processes(&self) -> Result<Vec<i32>, Error> {
        let mut pids = Vec::new();
        if let Some(directory) = self.directories().first() {
            for one in tree(directory)? {
                pids.extend(self.members(&one)?);
            }
        }
        Ok(pids)
    }
}
