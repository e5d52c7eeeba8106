//! Limits in the control files of cgroup v1.

use std::path::Path;

use crate::changes::Changes;
use crate::control_file::{read_number, write};
use crate::create::inherit;
use crate::device::{Policy, Rule};
use crate::{Cgroup, CgroupPath, Error, Resources, hugepages, swap};

/// Sets what is set.
pub(crate) fn apply(
    cgroup: &Cgroup,
    resources: &Resources,
    changes: &mut Changes,
) -> Result<(), Error> {
    if let Some(key) = resources.unified.keys().next() {
        return Err(Error::Invalid {
            setting: format!("unified {key:?}"),
            problem: "this node has cgroup v1, and unified settings are for v2".to_owned(),
        });
    }
    cpu(cgroup, resources, changes)?;
    for (file, set) in resources.cpusets() {
        changes.write(&cgroup.require("cpuset", file)?.join(file), set)?;
    }
    memory(cgroup, resources, changes)?;
    if let Some(limit) = resources.pids_limit {
        let value = if limit > 0 {
            limit.to_string()
        } else {
            "max".to_owned()
        };
        changes.write(
            &cgroup
                .require("pids", "the number of processes")?
                .join("pids.max"),
            &value,
        )?;
    }
    hugepages::apply(cgroup, resources, changes, "limit_in_bytes")
}

/// Fills the `cpuset` files of a cgroup and those above it, which are made empty and take no
/// process until they are filled.
pub(crate) fn inherit_cpuset(mount_point: &Path, path: &CgroupPath) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        inherit(&path.below(mount_point), file, mount_point)?;
    }
    Ok(())
}

/// Writes the rules as a default and its exceptions, which is all v1 knows.
pub(crate) fn set_devices(cgroup: &Cgroup, rules: &[Rule]) -> Result<(), Error> {
    let directory = cgroup.require("devices", "access to devices")?;
    let policy = Policy::reduce(rules)?;
    let (default, exception) = if policy.allow {
        ("devices.allow", "devices.deny")
    } else {
        ("devices.deny", "devices.allow")
    };
    write(&directory.join(default), "a")?;
    let exceptions = directory.join(exception);
    policy
        .exceptions
        .iter()
        .try_for_each(|rule| write(&exceptions, &rule.to_string()))
}

fn cpu(cgroup: &Cgroup, resources: &Resources, changes: &mut Changes) -> Result<(), Error> {
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares != 0) {
        changes.write(
            &cgroup.require("cpu", "the CPU weight")?.join("cpu.shares"),
            &shares.to_string(),
        )?;
    }
    let quota = resources
        .cpu_quota
        .filter(|quota| *quota != 0)
        .map(|quota| quota.max(-1));
    let period = resources.cpu_period.filter(|period| *period != 0);
    if quota.is_none() && period.is_none() {
        return Ok(());
    }
    let directory = cgroup.require("cpu", "CPU time")?;
    let (quota_file, period_file) = (
        directory.join("cpu.cfs_quota_us"),
        directory.join("cpu.cfs_period_us"),
    );
    match (quota, period.map(|period| period.to_string())) {
        (None, None) => Ok(()),
        (Some(quota), None) => changes.write(&quota_file, &quota.to_string()),
        (None, Some(period)) => changes.write(&period_file, &period),
        // Each write is held against the parent's share on its own, so one of the two orders may
        // pass through a share that is too large.
        (Some(quota), Some(period)) => {
            let quota = quota.to_string();
            if changes.accepted(&period_file, &period) {
                return changes.write(&quota_file, &quota);
            }
            changes.write(&quota_file, &quota)?;
            changes.write(&period_file, &period)
        }
    }
}

/// Sets memory, and memory with swap, in the order in which the kernel always sees the first no
/// larger than the second.
fn memory(cgroup: &Cgroup, resources: &Resources, changes: &mut Changes) -> Result<(), Error> {
    let limit = resources
        .memory_limit
        .filter(|limit| *limit != 0)
        .map(|limit| limit.max(-1));
    let swap = resources
        .memory_swap_limit
        .filter(|swap| *swap != 0)
        .map(|swap| swap.max(-1));
    if limit.is_none() && swap.is_none() {
        return Ok(());
    }
    let directory = cgroup.require("memory", "memory")?;
    let limit_file = directory.join("memory.limit_in_bytes");
    let swap_file = directory.join("memory.memsw.limit_in_bytes");
    if !swap_file.exists() {
        if let Some(swap) = swap {
            swap::unaccounted(limit, swap, swap::in_use())?;
        }
        return limit.map_or(Ok(()), |limit| {
            changes.write(&limit_file, &limit.to_string())
        });
    }
    match (limit, swap) {
        (None, None) => Ok(()),
        (None, Some(swap)) => changes.write(&swap_file, &swap.to_string()),
        (Some(-1), None) => {
            changes.write(&swap_file, "-1")?;
            changes.write(&limit_file, "-1")
        }
        (Some(limit), None) => changes.write(&limit_file, &limit.to_string()),
        (Some(limit), Some(swap)) => {
            swap::check(limit, swap)?;
            let now = read_number(&limit_file)?.unwrap_or(u64::MAX);
            let lowered = u64::try_from(swap).is_ok_and(|swap| swap < now);
            let (limit, swap) = ((&limit_file, limit), (&swap_file, swap));
            let order = if lowered {
                [limit, swap]
            } else {
                [swap, limit]
            };
            order
                .into_iter()
                .try_for_each(|(file, value)| changes.write(file, &value.to_string()))
        }
    }
}
