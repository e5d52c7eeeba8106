//! Limits in the control files of cgroup v2.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::changes::Changes;
use crate::control_file::{read, read_number, try_write};
use crate::device::Rule;
use crate::hierarchy::Mounted;
use crate::{Cgroup, CgroupPath, Error, Resources, bpf, device_program, hugepages, swap};

/// What the kernel calls unlimited.
const MAX: &str = "max";

/// The controllers without which a container's usual limits cannot be kept.
const ESSENTIAL: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

/// Sets what is set.
pub(crate) fn apply(
    cgroup: &Cgroup,
    resources: &Resources,
    changes: &mut Changes,
) -> Result<(), Error> {
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares != 0) {
        let weight = weight_from_shares(shares).to_string();
        changes.write(
            &cgroup.require("cpu", "the CPU weight")?.join("cpu.weight"),
            &weight,
        )?;
    }
    cpu_time(cgroup, resources, changes)?;
    for (file, set) in resources.cpusets() {
        changes.write(&cgroup.require("cpuset", file)?.join(file), set)?;
    }
    memory(cgroup, resources, changes)?;
    if let Some(limit) = resources.pids_limit {
        let value = if limit > 0 {
            limit.to_string()
        } else {
            MAX.to_owned()
        };
        changes.write(
            &cgroup
                .require("pids", "the number of processes")?
                .join("pids.max"),
            &value,
        )?;
    }
    hugepages::apply(cgroup, resources, changes, "max")?;
    unified(cgroup, resources, changes)
}

/// `cpu.weight` (1 to 10000, 100 by default) for `cpu.shares` (2 to 262144, 1024 by default). The
/// exponent is the parabola over log2(shares) through minimum, default and maximum: the conversion
/// of opencontainers/cgroups 0.0.3 (runc 1.3.2 and 1.4) and crun 1.23, which replaced the linear
/// one that made 39 of the default (kubernetes/kubernetes#131216).
pub(crate) fn weight_from_shares(shares: u64) -> u64 {
    let shares = u32::try_from(shares.clamp(2, 1 << 18)).unwrap_or(1 << 18);
    let log = f64::from(shares).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between 1 and 10000"
    )]
    let weight = 10_f64.powf(exponent).ceil() as u64;
    weight.clamp(1, 10_000)
}

/// `cpu.max` takes quota and period together, or the quota alone.
fn cpu_time(cgroup: &Cgroup, resources: &Resources, changes: &mut Changes) -> Result<(), Error> {
    let quota = resources.cpu_quota.filter(|quota| *quota != 0);
    let quota = quota.map(|quota| {
        if quota < 0 {
            MAX.to_owned()
        } else {
            quota.to_string()
        }
    });
    let period = resources.cpu_period.filter(|period| *period != 0);
    if quota.is_none() && period.is_none() {
        return Ok(());
    }
    let file = cgroup.require("cpu", "CPU time")?.join("cpu.max");
    let quota = match quota {
        Some(quota) => quota,
        None => read(&file)?
            .split_whitespace()
            .next()
            .unwrap_or(MAX)
            .to_owned(),
    };
    match period {
        Some(period) => changes.write(&file, &format!("{quota} {period}")),
        None => changes.write(&file, &quota),
    }
}

/// v2 limits swap apart from memory; the limit of both together is CRI's and v1's.
fn memory(cgroup: &Cgroup, resources: &Resources, changes: &mut Changes) -> Result<(), Error> {
    let limit = resources.memory_limit.filter(|limit| *limit != 0);
    let both = resources.memory_swap_limit.filter(|both| *both != 0);
    if limit.is_none() && both.is_none() {
        return Ok(());
    }
    let directory = cgroup.require("memory", "memory")?;
    let limit_file = directory.join("memory.max");
    let swap = match (limit, both) {
        (_, None) => limit.filter(|limit| *limit < 0).map(|_| MAX.to_owned()),
        (_, Some(both)) if both < 0 => Some(MAX.to_owned()),
        (limit, Some(both)) => {
            let limit = limit.map_or_else(|| current_limit(&limit_file), Ok)?;
            swap::check(limit, both)?;
            Some((both - limit).to_string())
        }
    };
    // Swap first: memory that is lowered before would be swapped out as far as the old limit goes.
    if let Some(swap) = swap {
        let file = directory.join("memory.swap.max");
        if file.exists() {
            changes.write(&file, &swap)?;
        } else if let Some(both) = both {
            swap::unaccounted(limit, both, swap::in_use())?;
        }
    }
    match limit {
        None => Ok(()),
        Some(limit) if limit < 0 => changes.write(&limit_file, MAX),
        Some(limit) => changes.write(&limit_file, &limit.to_string()),
    }
}

/// The limit of memory in force, -1 being none.
fn current_limit(file: &Path) -> Result<i64, Error> {
    Ok(read_number(file)?
        .and_then(|limit| i64::try_from(limit).ok())
        .unwrap_or(-1))
}

/// Refuses what is not the name of a controller's control file. Those of the core (`cgroup.kill`,
/// `cgroup.procs`) are no resources.
pub(crate) fn check_unified(key: &str) -> Result<(), Error> {
    let (controller, setting) = key.split_once('.').unwrap_or_default();
    let named = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        !part.is_empty() && part.bytes().all(plain)
    };
    if named(controller) && named(setting) && controller != "cgroup" {
        return Ok(());
    }
    Err(Error::Invalid {
        setting: format!("unified {key:?}"),
        problem: "it must be the name of a controller's control file, such as memory.high".into(),
    })
}

/// Refuses keys of which there is no file.
pub(crate) fn check_files(cgroup: &Cgroup, resources: &Resources) -> Result<(), Error> {
    let directories = cgroup.directories();
    let directory = directories.first().into_iter();
    let mut settings = directory.flat_map(|directory| {
        let keys = resources.unified.keys();
        keys.map(move |key| setting(directory, key))
    });
    settings.try_for_each(|file| file.map(drop))
}

/// The file of a key.
fn setting(directory: &Path, key: &str) -> Result<PathBuf, Error> {
    check_unified(key)?;
    let file = directory.join(key);
    if file.is_file() {
        return Ok(file);
    }
    let enabled = read(&directory.join("cgroup.controllers")).unwrap_or_default();
    Err(Error::Invalid {
        setting: format!("unified {key:?}"),
        problem: format!(
            "there is no {} (the cgroup's controllers are: {})",
            file.display(),
            enabled.trim_ascii()
        ),
    })
}

fn unified(cgroup: &Cgroup, resources: &Resources, changes: &mut Changes) -> Result<(), Error> {
    let [directory] = &cgroup.directories()[..] else {
        return Ok(());
    };
    for (key, value) in &resources.unified {
        changes.write(&setting(directory, key)?, value)?;
    }
    Ok(())
}

/// Enables every controller of the mount point for `path` in the cgroups above it.
pub(crate) fn delegate(mount: &Mounted, path: &CgroupPath) -> Result<(), Error> {
    let wanted: BTreeSet<&str> = mount.controllers.iter().map(String::as_str).collect();
    let own = read(&path.below(&mount.mount_point).join("cgroup.controllers"))?;
    if wanted.is_subset(&own.split_whitespace().collect()) {
        return Ok(());
    }
    let mut directories = vec![mount.mount_point.clone()];
    directories.extend(
        path.lineage()
            .iter()
            .map(|one| one.below(&mount.mount_point)),
    );
    directories.pop();
    directories
        .iter()
        .try_for_each(|directory| enable(directory, &wanted))
}

/// Enables those of `wanted` that are available and not enabled yet.
fn enable(directory: &Path, wanted: &BTreeSet<&str>) -> Result<(), Error> {
    let file = directory.join("cgroup.subtree_control");
    let available = read(&directory.join("cgroup.controllers"))?;
    let enabled = read(&file)?;
    let missing: Vec<_> = available
        .split_whitespace()
        .filter(|one| wanted.contains(one) && !enabled.split_whitespace().any(|e| e == *one))
        .collect();
    let all: Vec<_> = missing
        .iter()
        .map(|controller| format!("+{controller}"))
        .collect();
    if all.is_empty() || try_write(&file, &all.join(" ")).is_ok() {
        return Ok(());
    }
    // The kernel takes all or none; one by one the culprit is known, and the others are not held up.
    for (controller, value) in missing.iter().zip(all) {
        match try_write(&file, &value) {
            Err(source) if ESSENTIAL.contains(controller) => {
                return Err(Error::Delegate {
                    directory: directory.to_owned(),
                    controller: (*controller).to_owned(),
                    hint: delegate_hint(&source),
                    source,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

fn delegate_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            "; it has processes of its own, and a v2 cgroup has either those or children with \
             limits: move them into a child (in a container: its init, before the node starts)"
        }
        Some(libc::EOPNOTSUPP) => "; it is threaded, or below a threaded cgroup",
        Some(libc::EINVAL) => "; real-time processes keep the cpu controller from being enabled",
        _ => "",
    }
}

/// Guards the devices with a program made from the rules, in the place of an earlier one.
pub(crate) fn set_devices(cgroup: &Cgroup, rules: &[Rule]) -> Result<(), Error> {
    let program = device_program::compile(rules);
    cgroup.directories().into_iter().try_for_each(|directory| {
        let failed = |step| {
            let directory = directory.clone();
            move |source: io::Error| Error::DeviceProgram {
                step,
                directory,
                hint: program_hint(&source),
                source,
            }
        };
        let cgroup = File::open(&directory).map_err(failed("open for"))?;
        let program = bpf::load(&program).map_err(failed("load"))?;
        let old = bpf::attached(cgroup.as_fd()).map_err(failed("look for"))?;
        bpf::attach(
            cgroup.as_fd(),
            program.as_fd(),
            old.as_ref().map(AsFd::as_fd),
        )
        .map_err(failed("attach"))
    })
}

fn program_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            "; it takes CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN), and no program above that was \
             attached without BPF_F_ALLOW_MULTI"
        }
        Some(libc::ENOSYS | libc::EINVAL) => "; it takes a kernel with CONFIG_CGROUP_BPF",
        _ => "",
    }
}

#[cfg(test)]
mod tests;
