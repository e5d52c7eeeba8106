//! What the kernel refuses.

use std::io::ErrorKind;

use slipway_engine::{Error, Kind};

/// An error of a cgroup, as the domain has it.
pub fn of_cgroup(error: &slipway_cgroup::Error) -> Error {
    use slipway_cgroup::Error as Cgroup;
    let kind = match error {
        Cgroup::Path(_) | Cgroup::Invalid { .. } => Kind::InvalidArgument,
        Cgroup::MissingController { .. }
        | Cgroup::MemoryInUse { .. }
        | Cgroup::NoSwapAccounting(_) => Kind::FailedPrecondition,
        Cgroup::Write { source, .. } => match source.kind() {
            ErrorKind::InvalidInput => Kind::InvalidArgument,
            // What the node's files, what is above or what is in use do not allow.
            ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::ResourceBusy => {
                Kind::FailedPrecondition
            }
            _ => Kind::Internal,
        },
        _ => Kind::Internal,
    };
    Error::caused(kind, error)
}

/// The refusal of a limit, by the field of the message at `at` that asked for it.
pub fn refused(at: &str, error: &slipway_cgroup::Error) -> Error {
    let refused = of_cgroup(error);
    match error {
        slipway_cgroup::Error::Write { file, .. } => {
            let name = file
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            match field_of(name) {
                Some(field) => refused.context(format!("{at}.{field}")),
                None => refused,
            }
        }
        slipway_cgroup::Error::MemoryInUse { .. } => {
            refused.context(format!("{at}.memory_limit_in_bytes"))
        }
        slipway_cgroup::Error::NoSwapAccounting(_) => {
            refused.context(format!("{at}.memory_swap_limit_in_bytes"))
        }
        slipway_cgroup::Error::MissingController { .. } | slipway_cgroup::Error::Invalid { .. } => {
            refused.context(at)
        }
        _ => refused,
    }
}

fn field_of(control_file: &str) -> Option<&'static str> {
    Some(match control_file {
        "cpu.shares" | "cpu.weight" => "cpu_shares",
        "cpu.cfs_quota_us" | "cpu.max" => "cpu_quota",
        "cpu.cfs_period_us" => "cpu_period",
        "cpuset.cpus" => "cpuset_cpus",
        "cpuset.mems" => "cpuset_mems",
        "memory.limit_in_bytes" | "memory.max" => "memory_limit_in_bytes",
        "memory.memsw.limit_in_bytes" | "memory.swap.max" => "memory_swap_limit_in_bytes",
        name if name.starts_with("hugetlb.") => "hugepage_limits",
        _ => return None,
    })
}
