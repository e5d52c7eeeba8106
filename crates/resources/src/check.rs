//! What is asked for in CRI's `LinuxContainerResources`, checked field by field.

use std::collections::HashSet;
use std::fs;

use slipway_cgroup::{Hierarchy, Resources, Version, huge_page_sizes};
use slipway_cri_api::v1::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};
#[cfg(doc)]
use slipway_engine::Kind;
use slipway_engine::{Error, Result};

/// What the kernel takes as `cpu.shares`.
const SHARES: std::ops::RangeInclusive<i64> = 2..=262_144;
/// What the kernel takes as a period of CPU time, in microseconds.
const PERIOD: std::ops::RangeInclusive<i64> = 1000..=1_000_000;
/// The least CPU time in a period, in microseconds.
const LEAST_QUOTA: i64 = 1000;
const OOM_SCORE: std::ops::RangeInclusive<i64> = -1000..=1000;

/// Checks what a container asks for, before anything is made.
pub fn check_container(hierarchy: &Hierarchy, config: &ContainerConfig) -> Result<()> {
    match config
        .linux
        .as_ref()
        .and_then(|linux| linux.resources.as_ref())
    {
        Some(resources) => check(hierarchy, "LinuxContainerConfig.resources", resources),
        None => Ok(()),
    }
}

/// Checks what a pod asks for, before anything is made.
pub fn check_pod(hierarchy: &Hierarchy, config: &PodSandboxConfig) -> Result<()> {
    let Some(linux) = &config.linux else {
        return Ok(());
    };
    for (field, resources) in [
        ("LinuxPodSandboxConfig.resources", &linux.resources),
        ("LinuxPodSandboxConfig.overhead", &linux.overhead),
    ] {
        if let Some(resources) = resources {
            check(hierarchy, field, resources)?;
        }
    }
    Ok(())
}

/// Refuses values that mean nothing ([`Kind::InvalidArgument`]) or that this node has not got
/// ([`Kind::FailedPrecondition`]); the message begins with the field. Reads some of /sys.
pub fn check(hierarchy: &Hierarchy, at: &str, asked: &LinuxContainerResources) -> Result<()> {
    numbers(at, asked)?;
    list(
        &format!("{at}.cpuset_cpus"),
        &asked.cpuset_cpus,
        "CPUs",
        &online("/sys/devices/system/cpu/online"),
    )?;
    list(
        &format!("{at}.cpuset_mems"),
        &asked.cpuset_mems,
        "memory nodes",
        &online("/sys/devices/system/node/online"),
    )?;
    hugepages(hierarchy, at, asked)?;
    unified(hierarchy, at, asked)
}

/// As [`check`], of what an update changes: its limit of swap is held against the memory that there
/// is afterwards.
pub fn check_change(
    hierarchy: &Hierarchy,
    at: &str,
    after: &LinuxContainerResources,
    changes: &LinuxContainerResources,
) -> Result<()> {
    let mut changes = changes.clone();
    if changes.memory_swap_limit_in_bytes != 0 {
        changes.memory_limit_in_bytes = after.memory_limit_in_bytes;
    }
    check(hierarchy, at, &changes)
}

fn numbers(at: &str, asked: &LinuxContainerResources) -> Result<()> {
    let within = |field: &str, value: i64, range: std::ops::RangeInclusive<i64>, unit: &str| {
        if value == 0 || range.contains(&value) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{at}.{field} {value} is not between {} and {}{unit}",
            range.start(),
            range.end()
        )))
    };
    within("cpu_shares", asked.cpu_shares, SHARES, "")?;
    within("cpu_period", asked.cpu_period, PERIOD, " microseconds")?;
    within("oom_score_adj", asked.oom_score_adj, OOM_SCORE, "")?;
    if (1..LEAST_QUOTA).contains(&asked.cpu_quota) {
        return Err(Error::invalid(format!(
            "{at}.cpu_quota {} is below {LEAST_QUOTA} microseconds; -1 is no limit",
            asked.cpu_quota
        )));
    }
    let (memory, both) = (
        asked.memory_limit_in_bytes,
        asked.memory_swap_limit_in_bytes,
    );
    if both > 0 && memory <= 0 {
        return Err(Error::invalid(format!(
            "{at}.memory_swap_limit_in_bytes {both} limits memory and swap together, and takes a \
             memory_limit_in_bytes (it is {memory})"
        )));
    }
    if both > 0 && both < memory {
        return Err(Error::invalid(format!(
            "{at}.memory_swap_limit_in_bytes {both} limits memory and swap together, and cannot be \
             below memory_limit_in_bytes {memory}"
        )));
    }
    Ok(())
}

/// The numbers that a list of the kernel's names (cpuset(7), "List format").
fn parse_list(list: &str) -> Option<Vec<(u32, u32)>> {
    list.split(',')
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let number = |text: &str| {
                text.bytes()
                    .all(|byte| byte.is_ascii_digit())
                    .then(|| text.parse().ok())?
            };
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some((first, last))
        })
        .collect()
}

fn online(file: &str) -> String {
    // A kernel without NUMA has memory node 0 and no file.
    fs::read_to_string(file).map_or_else(|_| "0".to_owned(), |list| list.trim().to_owned())
}

fn list(field: &str, asked: &str, what: &str, online: &str) -> Result<()> {
    if asked.is_empty() {
        return Ok(());
    }
    let ranges = parse_list(asked)
        .ok_or_else(|| Error::invalid(format!("{field} {asked:?} is not a list such as 0-3,8")))?;
    let Some(there) = parse_list(online) else {
        // The kernel has the last word anyway.
        return Ok(());
    };
    let is_there = |number| {
        there
            .iter()
            .any(|(first, last)| (first..=last).contains(&&number))
    };
    // By a range's neighbours, not its members, of which there may be four billion.
    let covered = |(first, last): (u32, u32)| {
        let mut next = first;
        while let Some((_, end)) = there.iter().find(|(from, to)| (from..=to).contains(&&next)) {
            if *end >= last {
                return true;
            }
            next = end + 1;
        }
        false
    };
    match ranges.iter().find(|range| !covered(**range)) {
        None => Ok(()),
        Some((first, last)) => {
            let missing = (*first..=*last).find(|number| !is_there(*number));
            Err(Error::precondition(format!(
                "{field} {asked:?} has {}, and this node has the {what} {online}",
                missing.unwrap_or(*first)
            )))
        }
    }
}

fn hugepages(hierarchy: &Hierarchy, at: &str, asked: &LinuxContainerResources) -> Result<()> {
    if asked.hugepage_limits.is_empty() {
        return Ok(());
    }
    let sizes = huge_page_sizes();
    let mut seen = HashSet::new();
    for limit in &asked.hugepage_limits {
        let field = format!("{at}.hugepage_limits page_size {:?}", limit.page_size);
        if !sizes.contains(&limit.page_size) {
            return Err(Error::invalid(format!(
                "{field} is no size of huge pages of this node, which has: {}",
                sizes.join(", ")
            )));
        }
        if !seen.insert(&limit.page_size) {
            return Err(Error::invalid(format!("{field} is there twice")));
        }
        if limit.limit > 0 && !hierarchy.has_controller("hugetlb") {
            return Err(Error::precondition(format!(
                "{field} cannot be limited to {} bytes: this node has no hugetlb controller; mount \
                 it, or see cgroup_disable= on the kernel's command line",
                limit.limit
            )));
        }
    }
    Ok(())
}

fn unified(hierarchy: &Hierarchy, at: &str, asked: &LinuxContainerResources) -> Result<()> {
    let mut keys: Vec<_> = asked.unified.keys().collect();
    keys.sort();
    for key in keys {
        let field = format!("{at}.unified key {key:?}");
        if hierarchy.version() == Version::V1 {
            return Err(Error::invalid(format!(
                "{field} is for cgroup v2, and this node has v1"
            )));
        }
        Resources::check_unified(key)
            .map_err(|error| Error::invalid(format!("{field}: {error}")))?;
        let controller = key.split('.').next().unwrap_or_default();
        if !hierarchy.has_controller(controller) {
            return Err(Error::precondition(format!(
                "{field}: this node has no {controller} controller"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use slipway_cri_api::v1::HugepageLimit;
    use slipway_engine::Kind;

    use super::*;

    fn refused_with(resources: &LinuxContainerResources, kind: Kind, words: &[&str]) {
        let hierarchy = Hierarchy::detect().unwrap();
        let error = check(&hierarchy, "R", resources).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        for word in words {
            assert!(
                error.to_string().contains(word),
                "{word:?} is not in: {error}"
            );
        }
    }

    #[test]
    fn each_field_is_refused_by_its_name() {
        use Kind::{FailedPrecondition, InvalidArgument};
        let page = |size: &str| HugepageLimit {
            page_size: size.to_owned(),
            limit: 0,
        };
        let none = LinuxContainerResources::default;
        for (asked, kind, field) in [
            (
                LinuxContainerResources {
                    cpu_shares: 1,
                    ..none()
                },
                InvalidArgument,
                "R.cpu_shares",
            ),
            (
                LinuxContainerResources {
                    cpu_shares: 262_145,
                    ..none()
                },
                InvalidArgument,
                "R.cpu_shares",
            ),
            (
                LinuxContainerResources {
                    cpu_period: -1,
                    ..none()
                },
                InvalidArgument,
                "R.cpu_period",
            ),
            (
                LinuxContainerResources {
                    cpu_period: 1_000_001,
                    ..none()
                },
                InvalidArgument,
                "R.cpu_period",
            ),
            (
                LinuxContainerResources {
                    cpu_quota: 999,
                    ..none()
                },
                InvalidArgument,
                "R.cpu_quota",
            ),
            (
                LinuxContainerResources {
                    oom_score_adj: 1001,
                    ..none()
                },
                InvalidArgument,
                "R.oom_score_adj",
            ),
            (
                LinuxContainerResources {
                    memory_swap_limit_in_bytes: 1 << 20,
                    ..none()
                },
                InvalidArgument,
                "R.memory_swap_limit_in_bytes",
            ),
            (
                LinuxContainerResources {
                    cpuset_cpus: "0,".to_owned(),
                    ..none()
                },
                InvalidArgument,
                "R.cpuset_cpus",
            ),
            (
                LinuxContainerResources {
                    cpuset_cpus: "0-4000000000".to_owned(),
                    ..none()
                },
                FailedPrecondition,
                "R.cpuset_cpus",
            ),
            (
                LinuxContainerResources {
                    cpuset_mems: "4095".to_owned(),
                    ..none()
                },
                FailedPrecondition,
                "R.cpuset_mems",
            ),
            (
                LinuxContainerResources {
                    hugepage_limits: vec![page("3MB")],
                    ..none()
                },
                InvalidArgument,
                "R.hugepage_limits page_size \"3MB\"",
            ),
            (
                LinuxContainerResources {
                    unified: [("memory/high".to_owned(), "1".to_owned())].into(),
                    ..none()
                },
                InvalidArgument,
                "R.unified key \"memory/high\"",
            ),
        ] {
            refused_with(&asked, kind, &[field]);
        }
        check(&Hierarchy::detect().unwrap(), "R", &none()).unwrap();
    }

    #[test]
    fn a_list_is_checked_against_what_is_there() {
        for (asked, there, kind) in [
            ("0-3,8", "0-3,8", None),
            ("0-7", "0-3,4-7", None),
            ("0-4", "0-3", Some(Kind::FailedPrecondition)),
            ("3-1", "0-3", Some(Kind::InvalidArgument)),
            ("a", "0-3", Some(Kind::InvalidArgument)),
            ("0-", "0-3", Some(Kind::InvalidArgument)),
            ("+1", "0-3", Some(Kind::InvalidArgument)),
            ("4294967295", "0-4294967295", None),
        ] {
            let answer = list("f", asked, "CPUs", there);
            assert_eq!(answer.err().map(|error| error.kind()), kind, "{asked}");
        }
    }

    proptest! {
        #[test]
        fn any_list_is_survived(text in "[0-9,\\- a:/]{0,16}", there in "[0-9]{1,2}(-[0-9]{1,3})?") {
            let _ = list("f", &text, "CPUs", &there);
        }
    }
}
