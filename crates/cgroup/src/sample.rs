//! What is asked of a cgroup so often that it has to cost little.

use crate::control_file::tree;
use crate::{Cgroup, Error};

impl Cgroup {
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
