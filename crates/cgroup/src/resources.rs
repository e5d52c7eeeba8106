//! The limits of a cgroup.

use std::collections::BTreeMap;

use crate::{Error, v2};

/// The limits to set; what is `None` or empty is left as it is. The fields are those of CRI's
/// `LinuxContainerResources`, with the meanings and units of the OCI runtime specification's
/// `linux.resources`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Weight against the siblings, 2 to 262144, 1024 being the kernel's default; 0 leaves it. On
    /// v2 it becomes a `cpu.weight`.
    pub cpu_shares: Option<u64>,
    /// CPU time in each period, in microseconds; negative is no limit, 0 leaves it.
    pub cpu_quota: Option<i64>,
    /// The period in microseconds; 0 leaves it.
    pub cpu_period: Option<u64>,
    /// CPUs to run on, in the kernel's list format: `0-3,8`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to allocate from, in the same format.
    pub cpuset_mems: Option<String>,
    /// Memory in bytes; negative is no limit, 0 leaves it.
    pub memory_limit: Option<i64>,
    /// Memory and swap together in bytes; negative is no limit, 0 leaves it. Equal to
    /// `memory_limit` it forbids swap. Where the kernel does not account for swap and some is in
    /// use, a limit that allows none is ignored with one warning for the life of the process, and
    /// one that allows some is an error.
    pub memory_swap_limit: Option<i64>,
    /// Processes and threads; 0 or negative is no limit.
    pub pids_limit: Option<i64>,
    /// Bytes of huge pages for each page size in the kernel's spelling, such as `2MB`. Where there
    /// is no hugetlb controller a limit of zero is ignored, because a kubelet sends one for every
    /// size to every container.
    pub hugepages: Vec<(String, u64)>,
    /// Control files of v2 and what to write into them verbatim, after all else. On v1 it must be
    /// empty.
    pub unified: BTreeMap<String, String>,
}

impl Resources {
    /// Refuses a key of [`Resources::unified`] that is not the name of a controller's control file.
    pub fn check_unified(key: &str) -> Result<(), Error> {
        v2::check_unified(key)
    }

    /// The sets of CPUs and memory nodes that are set, by the name of their control file.
    pub(crate) fn cpusets(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("cpuset.cpus", &self.cpuset_cpus),
            ("cpuset.mems", &self.cpuset_mems),
        ]
        .into_iter()
        .filter_map(|(file, set)| Some((file, set.as_deref().filter(|set| !set.is_empty())?)))
    }
}
