//! What monitoring asks of a cgroup beyond [`Stats`]: more files, for whoever reads them seldom.

use std::fs;
use std::io;
use std::path::Path;

use crate::control_file::{keyed, read_number, read_text};
use crate::hierarchy::Layout;
use crate::stats::number;
use crate::{Cgroup, Error};

#[cfg(doc)]
use crate::Stats;

/// What a cgroup and all below it used and ran into since it was made. What this kernel does not
/// count is `None` or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// CPU time by mode, in nanoseconds.
    pub cpu_modes: Option<CpuModes>,
    /// How the CPU quota was felt.
    pub throttling: Option<Throttling>,
    /// The most memory that was in use at a time, in bytes (v2: Linux 5.19).
    pub memory_peak: Option<u64>,
    /// Memory that the kernel uses on the cgroup's behalf, in bytes (v2: Linux 5.18).
    pub kernel_memory: Option<u64>,
    /// How often the limit of memory was run into.
    pub memory_limit_hits: Option<u64>,
    /// Processes killed for want of memory: on v1 in this cgroup alone.
    pub oom_kills: Option<u64>,
    /// Huge pages by size.
    pub hugepages: Vec<HugepageStats>,
    /// Block I/O by device.
    pub devices: Vec<DeviceIo>,
}

/// A hundredth of a second, in nanoseconds: what `USER_HZ` is on every architecture but Alpha.
const TICK: u64 = 10_000_000;

/// CPU time by mode, in nanoseconds. v1 counts hundredths of a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuModes {
    /// In user mode.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
}

/// How the CPU quota was felt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods that have passed.
    pub periods: u64,
    /// Those in which the quota did not suffice.
    pub throttled_periods: u64,
    /// How long processes were held up, in nanoseconds.
    pub throttled_nanoseconds: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugepageStats {
    /// The size in the kernel's spelling, such as `2MB`.
    pub page_size: String,
    /// In use.
    pub usage: u64,
    /// The most that was in use at a time; v1 only.
    pub peak: Option<u64>,
    /// How often the limit was run into.
    pub limit_hits: u64,
}

/// Reads from and writes to one block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Requests to read.
    pub reads: u64,
    /// Requests to write.
    pub writes: u64,
}

impl Cgroup {
    /// Reads the details, about ten files. A cgroup that is not there has none.
    pub fn details(&self) -> Result<Details, Error> {
        let mut details = Details::default();
        match self.layout() {
            Layout::V1(_) => self.details_v1(&mut details)?,
            Layout::V2(_) => self.details_v2(&mut details)?,
        }
        Ok(details)
    }

    fn details_v1(&self, details: &mut Details) -> Result<(), Error> {
        if let Some(directory) = self.directory_of("cpuacct") {
            let stat = text(&directory.join("cpuacct.stat"))?.unwrap_or_default();
            let nanoseconds = |key| keyed(&stat, key).map(|ticks| ticks.saturating_mul(TICK));
            details.cpu_modes = nanoseconds("user")
                .zip(nanoseconds("system"))
                .map(|(user, system)| CpuModes { user, system });
        }
        if let Some(directory) = self.directory_of("cpu") {
            details.throttling = text(&directory.join("cpu.stat"))?
                .and_then(|stat| throttling(&stat, "throttled_time", 1));
        }
        if let Some(directory) = self.directory_of("memory") {
            details.memory_peak = optional(&directory.join("memory.max_usage_in_bytes"))?;
            details.kernel_memory = optional(&directory.join("memory.kmem.usage_in_bytes"))?;
            details.memory_limit_hits = optional(&directory.join("memory.failcnt"))?;
            details.oom_kills = text(&directory.join("memory.oom_control"))?
                .and_then(|control| keyed(&control, "oom_kill"));
        }
        if let Some(directory) = self.directory_of("hugetlb") {
            details.hugepages = hugepages(&directory, "usage_in_bytes", |size| {
                let at = |what: &str| directory.join(format!("hugetlb.{size}.{what}"));
                Ok(HugepageStats {
                    page_size: size.to_owned(),
                    usage: number(&at("usage_in_bytes"))?,
                    peak: optional(&at("max_usage_in_bytes"))?,
                    limit_hits: optional(&at("failcnt"))?.unwrap_or(0),
                })
            })?;
        }
        if let Some(directory) = self.directory_of("blkio") {
            details.devices = blkio(&directory)?;
        }
        Ok(())
    }

    fn details_v2(&self, details: &mut Details) -> Result<(), Error> {
        if let Some(directory) = self.directory_of("cpu")
            && let Some(stat) = text(&directory.join("cpu.stat"))?
        {
            let nanoseconds = |key| keyed(&stat, key).map(|usec| usec.saturating_mul(1000));
            details.cpu_modes = nanoseconds("user_usec")
                .zip(nanoseconds("system_usec"))
                .map(|(user, system)| CpuModes { user, system });
            details.throttling = throttling(&stat, "throttled_usec", 1000);
        }
        if let Some(directory) = self.directory_of("memory") {
            details.memory_peak = optional(&directory.join("memory.peak"))?;
            details.kernel_memory =
                text(&directory.join("memory.stat"))?.and_then(|stat| keyed(&stat, "kernel"));
            if let Some(events) = text(&directory.join("memory.events"))? {
                details.memory_limit_hits = keyed(&events, "max");
                details.oom_kills = keyed(&events, "oom_kill");
            }
        }
        if let Some(directory) = self.directory_of("hugetlb") {
            details.hugepages = hugepages(&directory, "current", |size| {
                let at = |what: &str| directory.join(format!("hugetlb.{size}.{what}"));
                let events = text(&at("events"))?.unwrap_or_default();
                Ok(HugepageStats {
                    page_size: size.to_owned(),
                    usage: number(&at("current"))?,
                    peak: None,
                    limit_hits: keyed(&events, "max").unwrap_or(0),
                })
            })?;
        }
        if let Some(directory) = self.directory_of("io") {
            let stat = text(&directory.join("io.stat"))?.unwrap_or_default();
            details.devices = stat.lines().filter_map(io_stat_line).collect();
        }
        Ok(())
    }
}

/// The text of a control file; none where it is not there.
fn text(file: &Path) -> Result<Option<String>, Error> {
    match read_text(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(source) => Err(Error::Read {
            file: file.to_owned(),
            source,
        }),
    }
}

/// `EOPNOTSUPP` is what a file answers whose accounting is switched off.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)
    )
}

fn optional(file: &Path) -> Result<Option<u64>, Error> {
    match read_number(file) {
        Err(Error::Read { source, .. }) if is_absent(&source) => Ok(None),
        other => other,
    }
}

fn throttling(stat: &str, time: &str, nanoseconds: u64) -> Option<Throttling> {
    Some(Throttling {
        periods: keyed(stat, "nr_periods")?,
        throttled_periods: keyed(stat, "nr_throttled")?,
        throttled_nanoseconds: keyed(stat, time)?.saturating_mul(nanoseconds),
    })
}

/// One entry for each size that has a file `hugetlb.<size>.<usage>`, in the sizes' order.
fn hugepages(
    directory: &Path,
    usage: &str,
    read: impl Fn(&str) -> Result<HugepageStats, Error>,
) -> Result<Vec<HugepageStats>, Error> {
    let mut sizes = page_sizes(directory, usage);
    sizes.sort();
    sizes.iter().map(|size| read(size)).collect()
}

/// The page sizes for which there is a file `hugetlb.<size>.<suffix>`.
pub(crate) fn page_sizes(directory: &Path, suffix: &str) -> Vec<String> {
    let size = |name: &str| {
        let size = name
            .strip_prefix("hugetlb.")?
            .strip_suffix(suffix)?
            .strip_suffix('.')?;
        (!size.contains('.')).then(|| size.to_owned())
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| size(entry.file_name().to_str()?))
        .collect()
}

/// A line of `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn io_stat_line(line: &str) -> Option<DeviceIo> {
    let mut words = line.split_whitespace();
    let mut io = device(words.next()?)?;
    for (key, value) in words.filter_map(|word| word.split_once('=')) {
        let Ok(value) = value.parse() else { continue };
        match key {
            "rbytes" => io.read_bytes = value,
            "wbytes" => io.written_bytes = value,
            "rios" => io.reads = value,
            "wios" => io.writes = value,
            _ => {}
        }
    }
    Some(io)
}

fn device(numbers: &str) -> Option<DeviceIo> {
    let (major, minor) = numbers.split_once(':')?;
    Some(DeviceIo {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        ..DeviceIo::default()
    })
}

/// The lines of v1's two files, `8:0 Read 4096` and the like, by device.
fn blkio(directory: &Path) -> Result<Vec<DeviceIo>, Error> {
    let mut found: Vec<DeviceIo> = Vec::new();
    for (file, is_bytes) in [
        ("blkio.throttle.io_service_bytes_recursive", true),
        ("blkio.throttle.io_serviced_recursive", false),
    ] {
        let text = text(&directory.join(file))?.unwrap_or_default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(numbers), Some(operation), Some(value)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let (Some(empty), Ok(value)) = (device(numbers), value.parse::<u64>()) else {
                continue;
            };
            let same = |io: &DeviceIo| (io.major, io.minor) == (empty.major, empty.minor);
            let position = found.iter().position(same).unwrap_or_else(|| {
                found.push(empty);
                found.len() - 1
            });
            let io = &mut found[position];
            match (operation, is_bytes) {
                ("Read", true) => io.read_bytes = value,
                ("Write", true) => io.written_bytes = value,
                ("Read", false) => io.reads = value,
                ("Write", false) => io.writes = value,
                _ => {}
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use crate::hierarchy::Mounted;
    use crate::{CgroupPath, Hierarchy};

    use super::*;

    /// A cgroup that is a directory with these files.
    fn paper(v2: bool, files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("c")).unwrap();
        for (file, text) in files {
            fs::write(directory.path().join("c").join(file), text).unwrap();
        }
        let names = ["cpu", "cpuacct", "memory", "hugetlb", "io", "blkio", "pids"];
        let mounted = Mounted {
            mount_point: directory.path().to_owned(),
            controllers: names.map(str::to_owned).into(),
        };
        let layout = if v2 {
            Layout::V2(mounted)
        } else {
            Layout::V1(vec![mounted])
        };
        let cgroup = Hierarchy::with(layout).open(&CgroupPath::parse("/c").unwrap());
        (directory, cgroup)
    }

    #[test]
    fn v2_is_read() {
        let (_directory, cgroup) = paper(
            true,
            &[
                (
                    "cpu.stat",
                    "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_periods 5\nnr_throttled 2\nthrottled_usec 7\n",
                ),
                ("memory.peak", "4096\n"),
                ("memory.stat", "anon 1\nkernel 77\n"),
                (
                    "memory.events",
                    "low 0\nhigh 0\nmax 9\noom 1\noom_kill 3\noom_group_kill 1\n",
                ),
                ("hugetlb.2MB.current", "2097152\n"),
                ("hugetlb.2MB.rsvd.current", "0\n"),
                ("hugetlb.2MB.events", "max 4\n"),
                ("hugetlb.1GB.current", "0\n"),
                (
                    "io.stat",
                    "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n253:0 \nnonsense\n",
                ),
            ],
        );
        let details = cgroup.details().unwrap();
        assert_eq!(
            details.cpu_modes,
            Some(CpuModes {
                user: 20_000,
                system: 10_000
            })
        );
        assert_eq!(
            details.throttling,
            Some(Throttling {
                periods: 5,
                throttled_periods: 2,
                throttled_nanoseconds: 7000
            })
        );
        assert_eq!(
            (details.memory_peak, details.kernel_memory),
            (Some(4096), Some(77))
        );
        assert_eq!(
            (details.memory_limit_hits, details.oom_kills),
            (Some(9), Some(3))
        );
        let page = |size: &str, usage, limit_hits| HugepageStats {
            page_size: size.to_owned(),
            usage,
            peak: None,
            limit_hits,
        };
        assert_eq!(
            details.hugepages,
            [page("1GB", 0, 0), page("2MB", 2 << 20, 4)]
        );
        let io = DeviceIo {
            major: 8,
            minor: 16,
            read_bytes: 1,
            written_bytes: 2,
            reads: 3,
            writes: 4,
        };
        let idle = DeviceIo {
            major: 253,
            ..DeviceIo::default()
        };
        assert_eq!(details.devices, [io, idle]);
    }

    #[test]
    fn v1_is_read() {
        let (_directory, cgroup) = paper(
            false,
            &[
                ("cpuacct.stat", "user 20\nsystem 10\n"),
                (
                    "cpu.stat",
                    "nr_periods 5\nnr_throttled 2\nthrottled_time 7\n",
                ),
                ("memory.max_usage_in_bytes", "4096\n"),
                ("memory.kmem.usage_in_bytes", "77\n"),
                ("memory.failcnt", "9\n"),
                (
                    "memory.oom_control",
                    "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
                ),
                ("hugetlb.2MB.usage_in_bytes", "2097152\n"),
                ("hugetlb.2MB.rsvd.usage_in_bytes", "0\n"),
                ("hugetlb.2MB.max_usage_in_bytes", "4194304\n"),
                ("hugetlb.2MB.failcnt", "4\n"),
                (
                    "blkio.throttle.io_service_bytes_recursive",
                    "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\n8:0 Total 3\nTotal 3\n",
                ),
                (
                    "blkio.throttle.io_serviced_recursive",
                    "8:0 Read 3\n8:0 Write 4\n8:16 Read 5\nTotal 12\n",
                ),
            ],
        );
        let details = cgroup.details().unwrap();
        let modes = details.cpu_modes.unwrap();
        assert_eq!((modes.user, modes.system), (200_000_000, 100_000_000));
        assert_eq!(details.throttling.unwrap().throttled_nanoseconds, 7);
        assert_eq!(
            (details.memory_peak, details.kernel_memory),
            (Some(4096), Some(77))
        );
        assert_eq!(
            (details.memory_limit_hits, details.oom_kills),
            (Some(9), Some(3))
        );
        assert_eq!(
            details.hugepages,
            [HugepageStats {
                page_size: "2MB".to_owned(),
                usage: 2 << 20,
                peak: Some(4 << 20),
                limit_hits: 4,
            }]
        );
        let first = DeviceIo {
            major: 8,
            minor: 0,
            read_bytes: 1,
            written_bytes: 2,
            reads: 3,
            writes: 4,
        };
        let second = DeviceIo {
            major: 8,
            minor: 16,
            reads: 5,
            ..DeviceIo::default()
        };
        assert_eq!(details.devices, [first, second]);
    }

    #[test]
    fn what_is_not_counted_is_left_out() {
        for v2 in [false, true] {
            let (_directory, cgroup) = paper(v2, &[]);
            assert_eq!(cgroup.details().unwrap(), Details::default());
        }
    }
}
