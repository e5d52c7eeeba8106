//! The cgroups of one test: everything below its own parent, in every hierarchy there is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{mount, process, wait};

/// Where cgroup hierarchies (version 1 and 2) are mounted.
pub(crate) fn hierarchies() -> Vec<PathBuf> {
    let points: BTreeSet<_> = mount::all()
        .into_iter()
        .filter(|mount| mount.kind == "cgroup" || mount.kind == "cgroup2")
        .map(|mount| mount.point)
        .collect();
    points.into_iter().collect()
}

/// The hierarchy in which systemd makes its units' cgroups: v2, or v1's `name=systemd`.
pub(crate) fn of_systemd() -> Option<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let whole = root.join("cgroup.controllers").exists();
    let own = if whole {
        root.to_owned()
    } else {
        root.join("systemd")
    };
    own.join("cgroup.procs").exists().then_some(own)
}

/// The directories of cgroup `parent` (from the root, as CRI's `cgroup_parent`) that exist.
pub(crate) fn roots(parent: &str) -> Vec<PathBuf> {
    hierarchies()
        .into_iter()
        .map(|hierarchy| hierarchy.join(parent.trim_start_matches('/')))
        .filter(|directory| directory.is_dir())
        .collect()
}

/// The cgroups below `parent`, without itself; deepest first.
pub(crate) fn below(parent: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for root in roots(parent) {
        walk(&root, &mut found);
    }
    found
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
            found.push(entry.path());
        }
    }
}

/// The processes in one cgroup directory.
fn members(directory: &Path) -> Vec<i32> {
    let list = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    list.lines().filter_map(|line| line.parse().ok()).collect()
}

/// The processes in `parent` and below it, with the cgroup directory that was seen to hold them.
pub(crate) fn processes(parent: &str) -> Vec<(i32, PathBuf)> {
    let groups = below(parent).into_iter().chain(roots(parent));
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for group in groups {
        for pid in members(&group) {
            if seen.insert(pid) {
                found.push((pid, group.clone()));
            }
        }
    }
    found
}

/// Kills what runs in `parent` and below, and removes these cgroups and `parent` itself.
pub(crate) fn kill_and_remove(parent: &str) {
    if roots(parent).is_empty() {
        return;
    }
    wait::within(Duration::from_secs(5), || {
        for (pid, _) in processes(parent) {
            process::kill(pid);
        }
        for group in below(parent).into_iter().chain(roots(parent)) {
            let _ = fs::remove_dir(group);
        }
        roots(parent).is_empty()
    });
}
