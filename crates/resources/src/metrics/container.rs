//! One running container.

use slipway_cgroup::{Cgroup, Details, DeviceIo, MemoryStats, PidsStats, Pressure, Stats};
use slipway_cri_api::v1::{LinuxContainerResources, Metric};

use super::families::{self, Family};
use super::file_system::{FileSystem, device_name};
use super::processes::{Processes, soft_limits};
use super::series::{Series, Subject};

const NANOSECONDS: u64 = 1_000_000_000;
const MICROSECONDS: u64 = 1_000_000;
const SECTOR: u64 = 512;

/// What of a running container is not in its cgroup.
#[derive(Debug)]
pub struct Container<'a> {
    /// Whose metrics they are.
    pub subject: Subject,
    /// Nanoseconds since the epoch.
    pub started_at: i64,
    /// The first process; none where it is not known.
    pub pid: Option<i32>,
    /// What it is limited to.
    pub limits: &'a LinuxContainerResources,
    /// Where its writable layer is; none where that cannot be told.
    pub file_system: Option<&'a FileSystem>,
    /// What the layer held when it was last looked at, in bytes.
    pub layer_bytes: u64,
}

/// A running container's metrics, now, in nanoseconds since the epoch; none where its cgroup has
/// gone, because it has ended since the caller looked.
pub fn container(container: Container<'_>, cgroup: &Cgroup, now: i64) -> Option<Vec<Metric>> {
    let stats = cgroup.stats().ok()?;
    let details = cgroup.details().ok()?;
    let pids = cgroup.sample_processes().ok()?;
    let mut series = Series::new(container.subject, now);
    series.add(&families::LAST_SEEN, seconds(now));
    series.add(&families::START_TIME, seconds(container.started_at));
    processor(&mut series, &stats, &details);
    memory(&mut series, stats.memory.as_ref(), &details);
    hugepages(&mut series, &details);
    if let Some(own) = container.file_system {
        file_system(&mut series, own, container.layer_bytes);
    }
    block_devices(&mut series, &details.devices, container.file_system);
    let threads = cgroup.pids().ok()?;
    processes(&mut series, &Processes::read(pids), threads.as_ref());
    for (name, limit) in container.pid.map(soft_limits).unwrap_or_default() {
        series.labelled(&families::ULIMITS, &[&name], limit);
    }
    specification(&mut series, container.limits);
    pressure(&mut series, &cgroup.pressure().unwrap_or_default());
    Some(series.end())
}

/// Of nanoseconds since the epoch.
fn seconds(time: i64) -> u64 {
    u64::try_from(time).unwrap_or(0) / NANOSECONDS
}

fn optional(series: &mut Series, family: &Family, value: Option<u64>) {
    if let Some(value) = value {
        series.add(family, value);
    }
}

fn processor(series: &mut Series, stats: &Stats, details: &Details) {
    if let Some(cpu) = &stats.cpu {
        let used = cpu.usage_nanoseconds / NANOSECONDS;
        series.labelled(&families::CPU_USAGE, &["total"], used);
    }
    if let Some(modes) = details.cpu_modes {
        series.add(&families::CPU_USER, modes.user / NANOSECONDS);
        series.add(&families::CPU_SYSTEM, modes.system / NANOSECONDS);
    }
    if let Some(throttling) = details.throttling {
        series.add(&families::CFS_PERIODS, throttling.periods);
        series.add(
            &families::CFS_THROTTLED_PERIODS,
            throttling.throttled_periods,
        );
        let held_up = throttling.throttled_nanoseconds / NANOSECONDS;
        series.add(&families::CFS_THROTTLED_SECONDS, held_up);
    }
}

fn memory(series: &mut Series, stats: Option<&MemoryStats>, details: &Details) {
    if let Some(memory) = stats {
        for (family, value) in [
            (families::MEMORY_USAGE, memory.usage),
            (families::MEMORY_WORKING_SET, memory.working_set),
            (families::MEMORY_RSS, memory.rss),
            (families::MEMORY_CACHE, memory.cache),
            (families::MEMORY_MAPPED_FILE, memory.mapped_file),
            (families::MEMORY_ACTIVE_FILE, memory.active_file),
            (families::MEMORY_INACTIVE_FILE, memory.inactive_file),
        ] {
            series.add(&family, value);
        }
        let swap = memory.swap.as_ref().map(|swap| swap.usage);
        optional(series, &families::MEMORY_SWAP, swap);
        // Cgroups that a container makes below its own are part of it.
        for scope in ["container", "hierarchy"] {
            let faults = memory.page_faults;
            series.labelled(&families::MEMORY_FAULTS, &["pgfault", scope], faults);
            let major = memory.major_page_faults;
            series.labelled(&families::MEMORY_FAULTS, &["pgmajfault", scope], major);
        }
    }
    optional(series, &families::MEMORY_KERNEL, details.kernel_memory);
    optional(series, &families::MEMORY_PEAK, details.memory_peak);
    optional(
        series,
        &families::MEMORY_LIMIT_HITS,
        details.memory_limit_hits,
    );
    optional(series, &families::OOM_EVENTS, details.oom_kills);
}

fn hugepages(series: &mut Series, details: &Details) {
    for pages in &details.hugepages {
        let size = [pages.page_size.as_str()];
        series.labelled(&families::HUGEPAGES, &size, pages.usage);
        if let Some(peak) = pages.peak {
            series.labelled(&families::HUGEPAGES_PEAK, &size, peak);
        }
        series.labelled(&families::HUGEPAGES_LIMIT_HITS, &size, pages.limit_hits);
    }
}

/// The file system of the writable layer, and how much the layer holds.
fn file_system(series: &mut Series, own: &FileSystem, usage: u64) {
    let device = [own.device.as_str()];
    series.labelled(&families::FS_LIMIT, &device, own.size);
    series.labelled(&families::FS_INODES_TOTAL, &device, own.inodes);
    series.labelled(&families::FS_INODES_FREE, &device, own.free_inodes);
    series.labelled(&families::FS_USAGE, &device, usage);
}

/// Those that the kernel counts for, which begins with the first request, and the one that the
/// writable layer is on.
fn block_devices(series: &mut Series, counted: &[DeviceIo], own: Option<&FileSystem>) {
    for io in counted {
        let numbers = (io.major, io.minor);
        match own.filter(|own| own.numbers == numbers) {
            Some(own) => block_device(series, io, &own.device),
            None => block_device(series, io, &device_name(numbers)),
        }
    }
    let is_counted = |own: &FileSystem| {
        let mut numbers = counted.iter().map(|io| (io.major, io.minor));
        numbers.any(|numbers| numbers == own.numbers)
    };
    if let Some(own) = own.filter(|own| !is_counted(own)) {
        let (major, minor) = own.numbers;
        let unused = DeviceIo {
            major,
            minor,
            ..DeviceIo::default()
        };
        block_device(series, &unused, &own.device);
    }
}

fn block_device(series: &mut Series, io: &DeviceIo, device: &str) {
    for (family, value) in [
        (families::FS_READS_BYTES, io.read_bytes),
        (families::FS_READS, io.reads),
        (families::FS_SECTOR_READS, io.read_bytes / SECTOR),
        (families::FS_WRITES_BYTES, io.written_bytes),
        (families::FS_WRITES, io.writes),
        (families::FS_SECTOR_WRITES, io.written_bytes / SECTOR),
    ] {
        series.labelled(&family, &[device], value);
    }
    let (major, minor) = (io.major.to_string(), io.minor.to_string());
    for (operation, bytes) in [("Read", io.read_bytes), ("Write", io.written_bytes)] {
        let labels = [device, &major, &minor, operation];
        series.labelled(&families::BLKIO, &labels, bytes);
    }
}

fn processes(series: &mut Series, processes: &Processes, threads: Option<&PidsStats>) {
    series.add(&families::PROCESSES, processes.count);
    series.add(&families::THREADS, processes.threads);
    if let Some(threads) = threads {
        series.add(&families::THREADS_MAX, threads.limit.unwrap_or(0));
    }
    series.add(&families::FILE_DESCRIPTORS, processes.file_descriptors);
    series.add(&families::SOCKETS, processes.sockets);
    let states = &processes.states;
    for (state, count) in [
        ("sleeping", states.sleeping),
        ("running", states.running),
        ("stopped", states.stopped),
        ("uninterruptible", states.uninterruptible),
        // The kernel tells it from the last one to nobody but delay accounting.
        ("iowaiting", 0),
    ] {
        series.labelled(&families::TASKS, &[state], count);
    }
}

/// What it was limited to. CRI has no reservation of memory.
fn specification(series: &mut Series, resources: &LinuxContainerResources) {
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    if resources.cpu_quota > 0 {
        series.add(&families::SPEC_CPU_QUOTA, number(resources.cpu_quota));
    }
    for (family, value) in [
        (families::SPEC_CPU_PERIOD, resources.cpu_period),
        (families::SPEC_CPU_SHARES, resources.cpu_shares),
        (families::SPEC_MEMORY_LIMIT, resources.memory_limit_in_bytes),
        (families::SPEC_MEMORY_RESERVATION, 0),
        (
            families::SPEC_MEMORY_SWAP_LIMIT,
            resources.memory_swap_limit_in_bytes,
        ),
    ] {
        series.add(&family, number(value));
    }
}

fn pressure(series: &mut Series, pressure: &Pressure) {
    for (waiting, stalled, resource) in [
        (
            families::PRESSURE_CPU_WAITING,
            families::PRESSURE_CPU_STALLED,
            pressure.cpu,
        ),
        (
            families::PRESSURE_MEMORY_WAITING,
            families::PRESSURE_MEMORY_STALLED,
            pressure.memory,
        ),
        (
            families::PRESSURE_IO_WAITING,
            families::PRESSURE_IO_STALLED,
            pressure.io,
        ),
    ] {
        if let Some(resource) = resource {
            let whole = |microseconds: u64| microseconds / MICROSECONDS;
            series.add(&waiting, whole(resource.some.total_microseconds));
            series.add(&stalled, whole(resource.full.total_microseconds));
        }
    }
}
