//! CRI's `LinuxContainerResources` as the limits of a cgroup, and what an update makes of them.

use slipway_cgroup::Resources;
use slipway_cri_api::v1::{ContainerConfig, LinuxContainerResources};

/// As limits of a cgroup. Zero and the empty string are protobuf's way of saying nothing.
pub fn limits(asked: &LinuxContainerResources) -> Resources {
    let unsigned = |value: i64| u64::try_from(value).ok().filter(|&value| value > 0);
    let signed = |value: i64| (value != 0).then_some(value);
    let text = |value: &String| (!value.is_empty()).then(|| value.clone());
    Resources {
        cpu_shares: unsigned(asked.cpu_shares),
        cpu_quota: signed(asked.cpu_quota),
        cpu_period: unsigned(asked.cpu_period),
        cpuset_cpus: text(&asked.cpuset_cpus),
        cpuset_mems: text(&asked.cpuset_mems),
        memory_limit: signed(asked.memory_limit_in_bytes),
        memory_swap_limit: signed(asked.memory_swap_limit_in_bytes),
        pids_limit: None,
        hugepages: asked
            .hugepage_limits
            .iter()
            .map(|limit| (limit.page_size.clone(), limit.limit))
            .collect(),
        unified: asked.unified.clone().into_iter().collect(),
    }
}

/// What a container is to be limited to from its creation on.
pub fn of_container(config: &ContainerConfig, pids_limit: Option<i64>) -> Resources {
    let asked = config
        .linux
        .as_ref()
        .and_then(|linux| linux.resources.as_ref());
    Resources {
        pids_limit,
        ..asked.map(limits).unwrap_or_default()
    }
}

/// What an update changes: as asked, and where it changes memory and says nothing of swap, the limit
/// of both together moves along, so that as much swap is left as there was. (On v2 that is what the
/// kernel does; on v1 it would refuse memory above the old limit of both.)
pub fn changes(
    now: &LinuxContainerResources,
    asked: &LinuxContainerResources,
) -> LinuxContainerResources {
    let mut changes = asked.clone();
    let (memory, both) = (now.memory_limit_in_bytes, now.memory_swap_limit_in_bytes);
    if asked.memory_swap_limit_in_bytes == 0 && asked.memory_limit_in_bytes != 0 && both != 0 {
        changes.memory_swap_limit_in_bytes = match asked.memory_limit_in_bytes {
            wanted if wanted > 0 && both > 0 => wanted.saturating_add(both - memory),
            _ => -1,
        };
    }
    changes
}

/// What holds after an update; zero and empty keep what was (CRI `UpdateContainerResources`).
pub fn merged(
    now: &LinuxContainerResources,
    changes: &LinuxContainerResources,
) -> LinuxContainerResources {
    let number = |now: i64, asked: i64| if asked == 0 { now } else { asked };
    let text = |now: &String, asked: &String| {
        if asked.is_empty() {
            now.clone()
        } else {
            asked.clone()
        }
    };
    let mut hugepage_limits = now.hugepage_limits.clone();
    for limit in &changes.hugepage_limits {
        hugepage_limits.retain(|one| one.page_size != limit.page_size);
        hugepage_limits.push(limit.clone());
    }
    let mut unified = now.unified.clone();
    unified.extend(changes.unified.clone());
    LinuxContainerResources {
        cpu_period: number(now.cpu_period, changes.cpu_period),
        cpu_quota: number(now.cpu_quota, changes.cpu_quota),
        cpu_shares: number(now.cpu_shares, changes.cpu_shares),
        memory_limit_in_bytes: number(now.memory_limit_in_bytes, changes.memory_limit_in_bytes),
        oom_score_adj: number(now.oom_score_adj, changes.oom_score_adj),
        cpuset_cpus: text(&now.cpuset_cpus, &changes.cpuset_cpus),
        cpuset_mems: text(&now.cpuset_mems, &changes.cpuset_mems),
        hugepage_limits,
        unified,
        memory_swap_limit_in_bytes: number(
            now.memory_swap_limit_in_bytes,
            changes.memory_swap_limit_in_bytes,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_moves_along_with_memory() {
        let now = |memory, both| LinuxContainerResources {
            memory_limit_in_bytes: memory,
            memory_swap_limit_in_bytes: both,
            ..Default::default()
        };
        for (before, asked, memory, both) in [
            (now(64, 64), now(128, 0), 128, 128),
            (now(64, 96), now(32, 0), 32, 64),
            (now(64, 64), now(-1, 0), -1, -1),
            (now(64, -1), now(128, 0), 128, -1),
            (now(64, 0), now(128, 0), 128, 0),
            (now(64, 64), now(128, 200), 128, 200),
            (now(64, 64), now(0, 100), 64, 100),
        ] {
            let after = merged(&before, &changes(&before, &asked));
            assert_eq!(
                (
                    after.memory_limit_in_bytes,
                    after.memory_swap_limit_in_bytes
                ),
                (memory, both)
            );
        }
    }
}
