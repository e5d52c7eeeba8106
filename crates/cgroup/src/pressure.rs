//! Pressure stall information (psi.rst): how long a cgroup's processes waited for something.

use std::fs;
use std::path::Path;

use crate::control_file::read;
use crate::details::is_absent;
use crate::hierarchy::Layout;
use crate::{Cgroup, Error};

/// The pressure on a cgroup and all below it. A part is `None` where the kernel does not tell: on
/// v1, without `CONFIG_PSI`, with `psi=0`, or with a controller missing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// Waiting for a CPU.
    pub cpu: Option<ResourcePressure>,
    /// Waiting for memory.
    pub memory: Option<ResourcePressure>,
    /// Waiting for a disk.
    pub io: Option<ResourcePressure>,
}

/// The pressure on one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ResourcePressure {
    /// Some processes waited.
    pub some: Stalls,
    /// All processes waited, and nothing was done.
    pub full: Stalls,
}

/// How much of the time was spent waiting.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stalls {
    /// Percent of the last 10 seconds.
    pub last_10_seconds: f64,
    /// Percent of the last minute.
    pub last_60_seconds: f64,
    /// Percent of the last 5 minutes.
    pub last_300_seconds: f64,
    /// Since the cgroup was made, in microseconds.
    pub total_microseconds: u64,
}

impl Cgroup {
    /// Reads its `cpu.pressure`, `memory.pressure` and `io.pressure`.
    pub fn pressure(&self) -> Result<Pressure, Error> {
        let Layout::V2(mount) = self.layout() else {
            return Ok(Pressure::default());
        };
        let directory = self.path().below(&mount.mount_point);
        Ok(Pressure {
            cpu: resource(&directory.join("cpu.pressure"))?,
            memory: resource(&directory.join("memory.pressure"))?,
            io: resource(&directory.join("io.pressure"))?,
        })
    }

    /// Whether there is any use in asking for its [`Pressure`].
    pub fn has_pressure(&self) -> bool {
        match self.layout() {
            Layout::V1(_) => false,
            Layout::V2(_) => fs::exists("/proc/pressure").unwrap_or(false),
        }
    }
}

fn resource(file: &Path) -> Result<Option<ResourcePressure>, Error> {
    match read(file) {
        Ok(text) => Ok(Some(parse(&text))),
        Err(Error::Read { source, .. }) if is_absent(&source) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What there is no line for is zero: before Linux 5.13 the CPU has no `full`.
fn parse(text: &str) -> ResourcePressure {
    let line = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .map(stalls)
            .unwrap_or_default()
    };
    ResourcePressure {
        some: line("some"),
        full: line("full"),
    }
}

fn stalls(fields: &str) -> Stalls {
    let mut stalls = Stalls::default();
    for (key, value) in fields.split(' ').filter_map(|field| field.split_once('=')) {
        let percent = || {
            value
                .parse()
                .ok()
                .filter(|percent: &f64| percent.is_finite())
        };
        match key {
            "avg10" => stalls.last_10_seconds = percent().unwrap_or(0.0),
            "avg60" => stalls.last_60_seconds = percent().unwrap_or(0.0),
            "avg300" => stalls.last_300_seconds = percent().unwrap_or(0.0),
            "total" => stalls.total_microseconds = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    stalls
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_lines_are_read() {
        let pressure = parse(
            "some avg10=1.50 avg60=0.25 avg300=0.01 total=1234\n\
             full avg10=0.00 avg60=0.10 avg300=100.00 total=99\n",
        );
        let some = Stalls {
            last_10_seconds: 1.5,
            last_60_seconds: 0.25,
            last_300_seconds: 0.01,
            total_microseconds: 1234,
        };
        assert_eq!(pressure.some, some);
        assert_eq!(pressure.full.total_microseconds, 99);
        assert!((pressure.full.last_300_seconds - 100.0).abs() < f64::EPSILON);
        let old = parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n");
        assert_eq!(
            (old.some.total_microseconds, old.full),
            (7, Stalls::default())
        );
    }

    #[test]
    fn this_machine_tells_where_it_has_psi() {
        let file = Path::new("/proc/pressure/cpu");
        let found = resource(file).unwrap();
        assert_eq!(found.is_some(), fs::read_to_string(file).is_ok());
        assert_eq!(resource(Path::new("/proc/pressure/absent")).unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(some|full)?[ =.0-9a-z\\n]{0,60}") {
            let pressure = parse(&text);
            prop_assert!(pressure.some.last_10_seconds.is_finite());
        }
    }
}
