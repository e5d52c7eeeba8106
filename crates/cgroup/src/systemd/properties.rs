//! Limits as unit properties. systemd writes them into the unit's cgroup whenever it comes by
//! (`daemon-reload`, a change of the unit), so that what it is not told would be undone.

use crate::{Resources, Version, v2};

/// A property of a unit, as `org.freedesktop.systemd1(5)` names and types it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: Value,
}

/// The value of a [`Property`], by its D-Bus type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `t`.
    Number(u64),
    /// `b`.
    Flag(bool),
    /// `s`.
    Text(String),
    /// `ay`: a bit for each CPU or memory node, the lowest first.
    Bytes(Vec<u8>),
    /// `a(ss)`: devices and kinds of access.
    Pairs(Vec<(String, String)>),
}

/// What systemd calls unlimited.
const INFINITY: u64 = u64::MAX;

/// The kernel's default period of CPU time, in microseconds.
const PERIOD: u64 = 100_000;

/// systemd keeps CPU quotas per second in steps of this many microseconds.
const STEP: u64 = 10_000;

/// The limits that systemd has properties for. What is not among them (huge pages, most of
/// [`Resources::unified`]) it leaves alone.
pub fn properties(version: Version, resources: &Resources) -> Vec<Property> {
    let mut properties = Vec::new();
    let mut add = |name, value| properties.push(Property { name, value });
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares != 0) {
        match version {
            Version::V1 => add("CPUShares", Value::Number(shares)),
            Version::V2 => add("CPUWeight", Value::Number(v2::weight_from_shares(shares))),
        }
    }
    let period = resources.cpu_period.filter(|period| *period != 0);
    if let Some(period) = period {
        add("CPUQuotaPeriodUSec", Value::Number(period));
    }
    if let Some(quota) = resources.cpu_quota.filter(|quota| *quota != 0) {
        let per_second = quota_per_second(quota, period.unwrap_or(PERIOD));
        add("CPUQuotaPerSecUSec", Value::Number(per_second));
    }
    for (name, set) in [
        ("AllowedCPUs", &resources.cpuset_cpus),
        ("AllowedMemoryNodes", &resources.cpuset_mems),
    ] {
        // On v1 systemd knows nothing of sets.
        if let (Version::V2, Some(mask)) = (version, set.as_deref().and_then(bit_mask)) {
            add(name, Value::Bytes(mask));
        }
    }
    if let Some(limit) = resources.memory_limit.filter(|limit| *limit != 0) {
        let name = match version {
            Version::V1 => "MemoryLimit",
            Version::V2 => "MemoryMax",
        };
        add(name, Value::Number(limit_of(limit)));
        let both = resources.memory_swap_limit.filter(|both| *both != 0);
        if let (Version::V2, Some(both)) = (version, both) {
            let swap = if both < 0 { both } else { both - limit };
            let swap = if swap == 0 { 0 } else { limit_of(swap) };
            add("MemorySwapMax", Value::Number(swap));
        }
    }
    if let Some(limit) = resources.pids_limit {
        let limit = if limit > 0 { limit_of(limit) } else { INFINITY };
        add("TasksMax", Value::Number(limit));
    }
    for (file, text) in &resources.unified {
        if let Some((name, value)) = of_control_file(file, text) {
            add(name, value);
        }
    }
    properties
}

/// The property that stands for a control file; none where systemd has none, or where the text is
/// not what it would write.
fn of_control_file(file: &str, text: &str) -> Option<(&'static str, Value)> {
    let text = text.trim();
    let name = match file {
        "memory.min" => "MemoryMin",
        "memory.low" => "MemoryLow",
        "memory.high" => "MemoryHigh",
        "memory.max" => "MemoryMax",
        "memory.swap.max" => "MemorySwapMax",
        "memory.zswap.max" => "MemoryZSwapMax",
        "pids.max" => "TasksMax",
        "cpu.weight" => "CPUWeight",
        "io.weight" => {
            let weight = text.strip_prefix("default").unwrap_or(text).trim();
            return Some(("IOWeight", Value::Number(weight.parse().ok()?)));
        }
        "cpuset.cpus" => return Some(("AllowedCPUs", Value::Bytes(bit_mask(text)?))),
        "cpuset.mems" => return Some(("AllowedMemoryNodes", Value::Bytes(bit_mask(text)?))),
        "cpu.max" => {
            let (quota, period) = text.split_once(' ').unwrap_or((text, ""));
            let period = period.trim().parse().unwrap_or(PERIOD);
            let quota = if quota == "max" {
                -1
            } else {
                quota.parse().ok()?
            };
            let per_second = quota_per_second(quota, period);
            return Some(("CPUQuotaPerSecUSec", Value::Number(per_second)));
        }
        _ => return None,
    };
    let number = match text {
        "max" => INFINITY,
        number => number.parse().ok()?,
    };
    Some((name, Value::Number(number)))
}

fn limit_of(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(INFINITY)
}

/// CPU time in microseconds a second; never less than was asked for.
fn quota_per_second(quota: i64, period: u64) -> u64 {
    match u64::try_from(quota) {
        Err(_) => INFINITY,
        Ok(quota) => {
            let exact = u128::from(quota) * 1_000_000 / u128::from(period.max(1));
            let exact = u64::try_from(exact).unwrap_or(INFINITY - STEP);
            exact.div_ceil(STEP) * STEP
        }
    }
}

/// A list such as `0-3,8` as a mask; none when it is not one, or names what no machine has.
fn bit_mask(list: &str) -> Option<Vec<u8>> {
    let mut mask = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= 1 << 16 {
            return None;
        }
        if mask.len() <= last / 8 {
            mask.resize(last / 8 + 1, 0);
        }
        for bit in first..=last {
            mask[bit / 8] |= 1 << (bit % 8);
        }
    }
    Some(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(version: Version, resources: &Resources) -> Vec<(&'static str, Value)> {
        let all = properties(version, resources).into_iter();
        all.map(|property| (property.name, property.value))
            .collect()
    }

    #[test]
    fn each_limit_has_its_property() {
        let resources = Resources {
            cpu_shares: Some(512),
            cpu_quota: Some(150_000),
            cpu_period: Some(100_000),
            cpuset_cpus: Some("0-1,9".into()),
            cpuset_mems: Some("0".into()),
            memory_limit: Some(100),
            memory_swap_limit: Some(150),
            pids_limit: Some(7),
            hugepages: vec![("2MB".into(), 1)],
            unified: [
                ("memory.high".to_owned(), "90".to_owned()),
                ("memory.low".to_owned(), "max".to_owned()),
                ("memory.oom.group".to_owned(), "1".to_owned()),
                ("io.max".to_owned(), "8:0 rbps=1".to_owned()),
            ]
            .into(),
        };
        let number = Value::Number;
        assert_eq!(
            named(Version::V2, &resources),
            [
                ("CPUWeight", number(59)),
                ("CPUQuotaPeriodUSec", number(100_000)),
                ("CPUQuotaPerSecUSec", number(1_500_000)),
                ("AllowedCPUs", Value::Bytes(vec![3, 2])),
                ("AllowedMemoryNodes", Value::Bytes(vec![1])),
                ("MemoryMax", number(100)),
                ("MemorySwapMax", number(50)),
                ("TasksMax", number(7)),
                ("MemoryHigh", number(90)),
                ("MemoryLow", number(u64::MAX)),
            ]
        );
        let v1 = Resources {
            unified: [].into(),
            ..resources
        };
        assert_eq!(
            named(Version::V1, &v1),
            [
                ("CPUShares", number(512)),
                ("CPUQuotaPeriodUSec", number(100_000)),
                ("CPUQuotaPerSecUSec", number(1_500_000)),
                ("MemoryLimit", number(100)),
                ("TasksMax", number(7)),
            ]
        );
        assert_eq!(named(Version::V2, &Resources::default()), []);
    }

    #[test]
    fn no_limit_is_infinity() {
        let resources = Resources {
            cpu_quota: Some(-1),
            memory_limit: Some(-1),
            memory_swap_limit: Some(-1),
            pids_limit: Some(0),
            ..Resources::default()
        };
        let all = named(Version::V2, &resources);
        assert_eq!(all.len(), 4);
        assert!(
            all.iter()
                .all(|(_, value)| *value == Value::Number(u64::MAX))
        );
        let no_swap = Resources {
            memory_limit: Some(100),
            memory_swap_limit: Some(100),
            ..Resources::default()
        };
        let swap = ("MemorySwapMax", Value::Number(0));
        assert!(named(Version::V2, &no_swap).contains(&swap));
    }

    #[test]
    fn a_quota_is_rounded_up_as_systemd_does() {
        assert_eq!(quota_per_second(50_000, 100_000), 500_000);
        assert_eq!(quota_per_second(1000, 1_000_000), 10_000);
        assert_eq!(quota_per_second(33_333, 100_000), 340_000);
        assert_eq!(quota_per_second(-1, 100_000), u64::MAX);
        assert!(quota_per_second(i64::MAX, 1) > 0);
    }

    #[test]
    fn a_list_is_a_mask() {
        assert_eq!(bit_mask("0"), Some(vec![1]));
        assert_eq!(bit_mask("0-7,15"), Some(vec![255, 128]));
        assert_eq!(bit_mask("4000000000"), None);
        assert_eq!(bit_mask("1-0"), None);
        assert_eq!(bit_mask("a"), None);
    }
}
