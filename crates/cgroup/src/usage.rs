//! What a cgroup uses, in the words of CRI's statistics.

use slipway_cri_api::v1::{
    CpuUsage, IoUsage, MemoryUsage, PsiData, PsiStats, SwapUsage, UInt64Value,
};

use crate::{Cgroup, CpuStats, MemoryStats, ResourcePressure, Stalls, Stats};

/// What a cgroup uses, in CRI's words.
#[derive(Debug, Default)]
pub struct Usage {
    /// Processor time.
    pub cpu: Option<CpuUsage>,
    /// Memory.
    pub memory: Option<MemoryUsage>,
    /// Swap, where it is counted.
    pub swap: Option<SwapUsage>,
    /// Waiting for disks.
    pub io: Option<IoUsage>,
}

impl Usage {
    /// What a cgroup uses at this time, in nanoseconds since the epoch; none where it has gone.
    /// `rate` makes billionths of a processor of the processor time that was used ever.
    /// Blocking, briefly.
    pub fn read(
        cgroup: &Cgroup,
        timestamp: i64,
        rate: impl FnOnce(&CpuStats) -> Option<u64>,
    ) -> Option<Self> {
        let Stats { cpu, memory, .. } = cgroup.stats().ok()?;
        let pressure = cgroup.pressure().unwrap_or_default();
        let swap = memory
            .as_ref()
            .and_then(|memory| memory.swap.as_ref())
            .map(|swap| SwapUsage {
                timestamp,
                swap_available_bytes: swap
                    .limit
                    .and_then(|limit| value(limit.saturating_sub(swap.usage))),
                swap_usage_bytes: value(swap.usage),
            });
        Some(Self {
            cpu: cpu.map(|cpu| CpuUsage {
                timestamp,
                usage_core_nano_seconds: value(cpu.usage_nanoseconds),
                usage_nano_cores: rate(&cpu).and_then(value),
                psi: pressure.cpu.map(psi),
            }),
            memory: memory.map(|memory| MemoryUsage {
                psi: pressure.memory.map(psi),
                ..memory_usage(timestamp, &memory)
            }),
            swap,
            io: pressure.io.map(|pressure| IoUsage {
                timestamp,
                psi: Some(psi(pressure)),
            }),
        })
    }
}

fn memory_usage(timestamp: i64, memory: &MemoryStats) -> MemoryUsage {
    MemoryUsage {
        timestamp,
        working_set_bytes: value(memory.working_set),
        available_bytes: memory.available.and_then(value),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.rss),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: None,
    }
}

fn psi(pressure: ResourcePressure) -> PsiStats {
    let data = |stalls: Stalls| PsiData {
        // CRI counts nanoseconds, the kernel microseconds.
        total: stalls.total_microseconds.saturating_mul(1000),
        avg10: stalls.last_10_seconds,
        avg60: stalls.last_60_seconds,
        avg300: stalls.last_300_seconds,
    };
    PsiStats {
        full: Some(data(pressure.full)),
        some: Some(data(pressure.some)),
    }
}

/// A wrapped number, which is there even when it is zero.
#[expect(
    clippy::unnecessary_wraps,
    reason = "every field of this type is optional"
)]
fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_told_in_nanoseconds_and_percent() {
        let stalls = Stalls {
            last_10_seconds: 1.5,
            last_60_seconds: 0.5,
            last_300_seconds: 0.25,
            total_microseconds: 7,
        };
        let told = psi(ResourcePressure {
            some: stalls,
            full: Stalls::default(),
        });
        let expected = PsiData {
            total: 7000,
            avg10: 1.5,
            avg60: 0.5,
            avg300: 0.25,
        };
        assert_eq!(told.some, Some(expected));
        assert_eq!(told.full, Some(PsiData::default()));
    }
}
