//! What a cgroup uses.

use std::path::Path;
use std::time::Instant;

use crate::control_file::{keyed, read, read_number, require};
use crate::hierarchy::Layout;
use crate::{Cgroup, Error};

/// What a cgroup and all below it use, in as few reads as that takes. A part is `None` when its
/// controller is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// CPU time.
    pub cpu: Option<CpuStats>,
    /// Memory and swap.
    pub memory: Option<MemoryStats>,
}

/// CPU time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuStats {
    /// Used since the cgroup was made, over all CPUs, in nanoseconds. v2 counts microseconds.
    pub usage_nanoseconds: u64,
    /// When that was read: a rate takes both, and a busy node lets its reader wait afterwards.
    pub at: Instant,
}

/// Memory, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryStats {
    /// In use, page cache included.
    pub usage: u64,
    /// In use without the inactive page cache, which can be reclaimed at once.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// The page cache, tmpfs included.
    pub cache: u64,
    /// The part of the page cache that is mapped into processes.
    pub mapped_file: u64,
    /// The part of the page cache that was used of late.
    pub active_file: u64,
    /// The part of the page cache that was not, and is reclaimed first.
    pub inactive_file: u64,
    /// Page faults since the cgroup was made.
    pub page_faults: u64,
    /// Page faults that waited for a disk.
    pub major_page_faults: u64,
    /// The limit in force here or (v1) above.
    pub limit: Option<u64>,
    /// What the limit leaves above the working set; none without a limit.
    pub available: Option<u64>,
    /// Swap; none where the kernel does not account for it.
    pub swap: Option<SwapStats>,
}

/// Swap, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapStats {
    /// In use.
    pub usage: u64,
    /// The most that may be used; none without a limit.
    pub limit: Option<u64>,
}

/// Processes and threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PidsStats {
    /// How many threads there are, of which each process has at least one.
    pub current: u64,
    /// The most there may be; none without a limit.
    pub limit: Option<u64>,
}

/// v1 says "no limit" with the largest number of whole pages.
const V1_UNLIMITED: u64 = 1 << 62;

impl Cgroup {
    /// Reads what it uses, each control file once. A cgroup that is not there is [`Error::Read`].
    pub fn stats(&self) -> Result<Stats, Error> {
        let directory = self.directory_of("memory");
        let memory = directory.map(|directory| match self.layout() {
            Layout::V1(_) => memory_v1(&directory),
            Layout::V2(_) => memory_v2(&directory),
        });
        Ok(Stats {
            cpu: self.cpu_time()?,
            memory: memory.transpose()?,
        })
    }

    /// The processor time alone. `None` when its controller is missing.
    pub fn cpu_time(&self) -> Result<Option<CpuStats>, Error> {
        let cpu = match self.layout() {
            Layout::V1(_) => self
                .directory_of("cpuacct")
                .map(|directory| cpu_v1(&directory)),
            Layout::V2(_) => self.directory_of("cpu").map(|directory| cpu_v2(&directory)),
        };
        cpu.transpose()
    }

    /// Reads how many threads there are and may be; `None` when the pids controller is missing.
    pub fn pids(&self) -> Result<Option<PidsStats>, Error> {
        let directory = self.directory_of("pids");
        directory.map(|directory| pids(&directory)).transpose()
    }
}

fn cpu_v1(directory: &Path) -> Result<CpuStats, Error> {
    let usage_nanoseconds = number(&directory.join("cpuacct.usage"))?;
    Ok(CpuStats {
        usage_nanoseconds,
        at: Instant::now(),
    })
}

fn cpu_v2(directory: &Path) -> Result<CpuStats, Error> {
    let file = directory.join("cpu.stat");
    let text = read(&file)?;
    let at = Instant::now();
    let usage = require(&file, &text, "usage_usec")?;
    Ok(CpuStats {
        usage_nanoseconds: usage.saturating_mul(1000),
        at,
    })
}

fn memory_v1(directory: &Path) -> Result<MemoryStats, Error> {
    let usage = number(&directory.join("memory.usage_in_bytes"))?;
    let file = directory.join("memory.stat");
    let text = read(&file)?;
    let limited = |key| keyed(&text, key).filter(|limit| *limit < V1_UNLIMITED);
    let limit = limited("hierarchical_memory_limit");
    let swap = keyed(&text, "total_swap").map(|usage| SwapStats {
        usage,
        limit: limited("hierarchical_memsw_limit")
            .map(|both| both.saturating_sub(limit.unwrap_or(both))),
    });
    MemoryStats::new(&file, &text, usage, limit, swap, "total_")
}

fn memory_v2(directory: &Path) -> Result<MemoryStats, Error> {
    let usage = number(&directory.join("memory.current"))?;
    let limit = read_number(&directory.join("memory.max"))?;
    let swap_file = directory.join("memory.swap.current");
    let swap = if swap_file.exists() {
        let limit = read_number(&directory.join("memory.swap.max"))?;
        Some(SwapStats {
            usage: number(&swap_file)?,
            limit,
        })
    } else {
        None
    };
    let file = directory.join("memory.stat");
    MemoryStats::new(&file, &read(&file)?, usage, limit, swap, "")
}

impl MemoryStats {
    /// From the text of `memory.stat`, whose keys for the whole subtree begin with `prefix`.
    fn new(
        file: &Path,
        text: &str,
        usage: u64,
        limit: Option<u64>,
        swap: Option<SwapStats>,
        prefix: &str,
    ) -> Result<Self, Error> {
        let field = |key: &str| require(file, text, &format!("{prefix}{key}"));
        let inactive_file = field("inactive_file")?;
        let working_set = usage.saturating_sub(inactive_file);
        let (rss, cache, mapped_file) = if prefix.is_empty() {
            ("anon", "file", "file_mapped")
        } else {
            ("rss", "cache", "mapped_file")
        };
        Ok(Self {
            usage,
            working_set,
            rss: field(rss)?,
            cache: field(cache)?,
            mapped_file: field(mapped_file)?,
            active_file: field("active_file")?,
            inactive_file,
            page_faults: field("pgfault")?,
            major_page_faults: field("pgmajfault")?,
            limit,
            available: limit.map(|limit| limit.saturating_sub(working_set)),
            swap,
        })
    }
}

fn pids(directory: &Path) -> Result<PidsStats, Error> {
    Ok(PidsStats {
        current: number(&directory.join("pids.current"))?,
        limit: read_number(&directory.join("pids.max"))?,
    })
}

/// A control file whose number cannot be `max`.
pub(crate) fn number(file: &Path) -> Result<u64, Error> {
    read_number(file)?.ok_or_else(|| Error::Malformed {
        file: file.to_owned(),
        found: "\"max\"".to_owned(),
    })
}
