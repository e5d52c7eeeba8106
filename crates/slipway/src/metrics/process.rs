//! The metrics of a process that Prometheus's client libraries agree on ("Writing client
//! libraries", process metrics), read from proc(5) at each scrape.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::param::page_size;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// `process_…` of this process.
#[derive(Debug)]
pub(crate) struct Process {
    /// In seconds since the epoch; none where it could not be found out.
    started: Option<f64>,
}

/// What `/proc/self/stat` and `statm` tell.
#[derive(Debug, PartialEq, Eq)]
struct Memory {
    virtual_pages: u64,
    resident_pages: u64,
}

impl Process {
    pub(crate) fn new() -> Self {
        Self { started: started() }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        #[expect(
            clippy::cast_precision_loss,
            reason = "a process does not run for ages"
        )]
        let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        tell(
            &mut encoder,
            "process_cpu_seconds",
            "CPU time that the process has used, in user and system mode",
            &ConstCounter::new(cpu),
        )?;
        if let Some(memory) = fs::read_to_string("/proc/self/statm")
            .ok()
            .as_deref()
            .and_then(memory)
        {
            let page = page_size() as u64;
            tell(
                &mut encoder,
                "process_resident_memory_bytes",
                "Memory that the process has in RAM",
                &ConstGauge::new(memory.resident_pages * page),
            )?;
            tell(
                &mut encoder,
                "process_virtual_memory_bytes",
                "Address space that the process has mapped",
                &ConstGauge::new(memory.virtual_pages * page),
            )?;
        }
        if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
            // Without the one that this is read through.
            let open = descriptors.count().saturating_sub(1) as u64;
            tell(
                &mut encoder,
                "process_open_fds",
                "File descriptors that the process has open",
                &ConstGauge::new(open),
            )?;
        }
        if let Some(limit) = getrlimit(Resource::Nofile).current {
            tell(
                &mut encoder,
                "process_max_fds",
                "File descriptors that the process may have open",
                &ConstGauge::new(limit),
            )?;
        }
        if let Ok(threads) = fs::read_dir("/proc/self/task") {
            tell(
                &mut encoder,
                "process_threads",
                "Threads of the process",
                &ConstGauge::new(threads.count() as u64),
            )?;
        }
        match self.started {
            Some(started) => tell(
                &mut encoder,
                "process_start_time_seconds",
                "When the process was started, in seconds since the epoch",
                &ConstGauge::new(started),
            ),
            None => Ok(()),
        }
    }
}

fn tell(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

/// The first two fields of `/proc/PID/statm`.
fn memory(statm: &str) -> Option<Memory> {
    let mut fields = statm.split_whitespace().map(str::parse);
    Some(Memory {
        virtual_pages: fields.next()?.ok()?,
        resident_pages: fields.next()?.ok()?,
    })
}

/// When this process was started: the boot, and the time from there as its status has it.
fn started() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "hundredths of a second since a boot"
    )]
    let since_boot = start_ticks(&stat)? as f64 / rustix::param::clock_ticks_per_second() as f64;
    Some(boot_time(&boot)? + since_boot)
}

/// Field 22 of `/proc/PID/stat`, of which the second is a name in parentheses that may hold
/// anything.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// The line `btime` of `/proc/stat`, in seconds since the epoch.
fn boot_time(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        let expected = Memory {
            virtual_pages: 300,
            resident_pages: 20,
        };
        assert_eq!(memory("300 20 10 1 0 50 0\n"), Some(expected));
        assert_eq!(memory("300"), None);
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4 5 6 7 8 9 10 11 12 20 0 3 0 4242 1 2";
        assert_eq!(start_ticks(stat), Some(4242));
        assert_eq!(
            boot_time("cpu 1 2\nbtime 1700000000\n"),
            Some(1_700_000_000.0)
        );
    }
}
