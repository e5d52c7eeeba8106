//! The metrics that there are: names and units are those of cAdvisor, which dashboards and alerts
//! are written for.

use slipway_cri_api::v1::{MetricDescriptor, MetricType};

/// The labels that every value begins with.
const BASE: [&str; 6] = ["id", "name", "image", "namespace", "pod", "container"];

/// One metric of containers, or of pods where it is of a network.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Family {
    pub(super) name: &'static str,
    help: &'static str,
    pub(super) kind: MetricType,
    /// Its own labels, after those that every value has.
    pub(super) labels: &'static [&'static str],
}

impl Family {
    pub(super) fn descriptor(&self) -> MetricDescriptor {
        let keys = BASE.iter().chain(self.labels);
        MetricDescriptor {
            name: self.name.to_owned(),
            help: self.help.to_owned(),
            label_keys: keys.map(|&key| key.to_owned()).collect(),
        }
    }
}

/// Declares families as constants, and [`ALL`] of them in their order.
macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $constant: Family = Family {
            name: $name,
            help: $help,
            kind: MetricType::$kind,
            labels: &[$($label),*],
        };)*
        pub(super) const ALL: &[Family] = &[$($constant),*];
    };
}

families! {
    LAST_SEEN = Gauge "container_last_seen" []
        "When the container was last looked at, in seconds since the epoch.";
    START_TIME = Gauge "container_start_time_seconds" []
        "When the container was started, in seconds since the epoch.";

    CPU_USAGE = Counter "container_cpu_usage_seconds_total" ["cpu"]
        "CPU time used, in seconds.";
    CPU_USER = Counter "container_cpu_user_seconds_total" []
        "CPU time used in user mode, in seconds.";
    CPU_SYSTEM = Counter "container_cpu_system_seconds_total" []
        "CPU time used by the kernel on the container's behalf, in seconds.";
    CFS_PERIODS = Counter "container_cpu_cfs_periods_total" []
        "Periods of the CPU quota that have passed.";
    CFS_THROTTLED_PERIODS = Counter "container_cpu_cfs_throttled_periods_total" []
        "Periods in which the CPU quota did not suffice.";
    CFS_THROTTLED_SECONDS = Counter "container_cpu_cfs_throttled_seconds_total" []
        "Time for which the CPU quota held the container up, in seconds.";

    MEMORY_USAGE = Gauge "container_memory_usage_bytes" []
        "Memory in use, page cache included, in bytes.";
    MEMORY_WORKING_SET = Gauge "container_memory_working_set_bytes" []
        "Memory in use without the inactive page cache, in bytes.";
    MEMORY_RSS = Gauge "container_memory_rss" []
        "Anonymous memory, in bytes.";
    MEMORY_CACHE = Gauge "container_memory_cache" []
        "Page cache, in bytes.";
    MEMORY_MAPPED_FILE = Gauge "container_memory_mapped_file" []
        "Page cache that is mapped into processes, in bytes.";
    MEMORY_ACTIVE_FILE = Gauge "container_memory_total_active_file_bytes" []
        "Page cache that was used of late, in bytes.";
    MEMORY_INACTIVE_FILE = Gauge "container_memory_total_inactive_file_bytes" []
        "Page cache that is reclaimed first, in bytes.";
    MEMORY_SWAP = Gauge "container_memory_swap" []
        "Swap in use, in bytes.";
    MEMORY_KERNEL = Gauge "container_memory_kernel_usage" []
        "Memory that the kernel uses on the container's behalf, in bytes.";
    MEMORY_PEAK = Gauge "container_memory_max_usage_bytes" []
        "The most memory that was in use at a time, in bytes.";
    MEMORY_LIMIT_HITS = Counter "container_memory_failcnt" []
        "How often the limit of memory was run into.";
    MEMORY_FAULTS = Counter "container_memory_failures_total" ["failure_type", "scope"]
        "Page faults.";
    OOM_EVENTS = Counter "container_oom_events_total" []
        "Processes that the kernel killed for want of memory.";

    HUGEPAGES = Gauge "container_hugetlb_usage_bytes" ["pagesize"]
        "Huge pages in use, in bytes.";
    HUGEPAGES_PEAK = Gauge "container_hugetlb_max_usage_bytes" ["pagesize"]
        "The most huge pages that were in use at a time, in bytes.";
    HUGEPAGES_LIMIT_HITS = Counter "container_hugetlb_failcnt" ["pagesize"]
        "How often the limit of huge pages was run into.";

    FS_USAGE = Gauge "container_fs_usage_bytes" ["device"]
        "What the writable layer holds, in bytes.";
    FS_LIMIT = Gauge "container_fs_limit_bytes" ["device"]
        "The size of the file system that the writable layer is on, in bytes.";
    FS_INODES_TOTAL = Gauge "container_fs_inodes_total" ["device"]
        "Inodes of the file system that the writable layer is on.";
    FS_INODES_FREE = Gauge "container_fs_inodes_free" ["device"]
        "Free inodes of the file system that the writable layer is on.";
    FS_READS_BYTES = Counter "container_fs_reads_bytes_total" ["device"]
        "Bytes read from a block device.";
    FS_READS = Counter "container_fs_reads_total" ["device"]
        "Requests to read from a block device.";
    FS_SECTOR_READS = Counter "container_fs_sector_reads_total" ["device"]
        "Sectors of 512 bytes read from a block device.";
    FS_WRITES_BYTES = Counter "container_fs_writes_bytes_total" ["device"]
        "Bytes written to a block device.";
    FS_WRITES = Counter "container_fs_writes_total" ["device"]
        "Requests to write to a block device.";
    FS_SECTOR_WRITES = Counter "container_fs_sector_writes_total" ["device"]
        "Sectors of 512 bytes written to a block device.";
    BLKIO = Counter "container_blkio_device_usage_total" ["device", "major", "minor", "operation"]
        "Bytes read from and written to a block device.";

    PROCESSES = Gauge "container_processes" []
        "Processes.";
    THREADS = Gauge "container_threads" []
        "Threads.";
    THREADS_MAX = Gauge "container_threads_max" []
        "The most threads that there may be; 0 where there is no limit.";
    FILE_DESCRIPTORS = Gauge "container_file_descriptors" []
        "Open file descriptors.";
    SOCKETS = Gauge "container_sockets" []
        "Open file descriptors that are sockets.";
    ULIMITS = Gauge "container_ulimits_soft" ["ulimit"]
        "Soft resource limits of the container's first process; one that is unlimited is left out.";
    TASKS = Gauge "container_tasks_state" ["state"]
        "Processes by what they are doing.";

    SPEC_CPU_PERIOD = Gauge "container_spec_cpu_period" []
        "Period of the CPU quota, in microseconds.";
    SPEC_CPU_QUOTA = Gauge "container_spec_cpu_quota" []
        "CPU quota in a period, in microseconds; left out where there is none.";
    SPEC_CPU_SHARES = Gauge "container_spec_cpu_shares" []
        "CPU shares.";
    SPEC_MEMORY_LIMIT = Gauge "container_spec_memory_limit_bytes" []
        "Limit of memory, in bytes; 0 where there is none.";
    SPEC_MEMORY_RESERVATION = Gauge "container_spec_memory_reservation_limit_bytes" []
        "Reservation of memory, in bytes; 0 where there is none.";
    SPEC_MEMORY_SWAP_LIMIT = Gauge "container_spec_memory_swap_limit_bytes" []
        "Limit of memory and swap together, in bytes; 0 where there is none.";

    PRESSURE_CPU_WAITING = Counter "container_pressure_cpu_waiting_seconds_total" []
        "Time in which some processes waited for a CPU, in seconds.";
    PRESSURE_CPU_STALLED = Counter "container_pressure_cpu_stalled_seconds_total" []
        "Time in which all processes waited for a CPU, in seconds.";
    PRESSURE_MEMORY_WAITING = Counter "container_pressure_memory_waiting_seconds_total" []
        "Time in which some processes waited for memory, in seconds.";
    PRESSURE_MEMORY_STALLED = Counter "container_pressure_memory_stalled_seconds_total" []
        "Time in which all processes waited for memory, in seconds.";
    PRESSURE_IO_WAITING = Counter "container_pressure_io_waiting_seconds_total" []
        "Time in which some processes waited for a disk, in seconds.";
    PRESSURE_IO_STALLED = Counter "container_pressure_io_stalled_seconds_total" []
        "Time in which all processes waited for a disk, in seconds.";

    NETWORK_RECEIVE_BYTES = Counter "container_network_receive_bytes_total" ["interface"]
        "Bytes received.";
    NETWORK_RECEIVE_PACKETS = Counter "container_network_receive_packets_total" ["interface"]
        "Packets received.";
    NETWORK_RECEIVE_DROPPED = Counter "container_network_receive_packets_dropped_total" ["interface"]
        "Packets that were dropped while they were received.";
    NETWORK_RECEIVE_ERRORS = Counter "container_network_receive_errors_total" ["interface"]
        "Errors of receiving.";
    NETWORK_TRANSMIT_BYTES = Counter "container_network_transmit_bytes_total" ["interface"]
        "Bytes sent.";
    NETWORK_TRANSMIT_PACKETS = Counter "container_network_transmit_packets_total" ["interface"]
        "Packets sent.";
    NETWORK_TRANSMIT_DROPPED = Counter "container_network_transmit_packets_dropped_total" ["interface"]
        "Packets that were dropped while they were sent.";
    NETWORK_TRANSMIT_ERRORS = Counter "container_network_transmit_errors_total" ["interface"]
        "Errors of sending.";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_say_what_they_count() {
        let names: HashSet<_> = ALL.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), ALL.len());
        for family in ALL {
            assert!(family.name.starts_with("container_"), "{family:?}");
            let total = family.name.ends_with("_total") || family.name.ends_with("_failcnt");
            let counts = family.name != "container_fs_inodes_total" && total;
            assert_eq!(counts, family.kind == MetricType::Counter, "{family:?}");
        }
    }
}
