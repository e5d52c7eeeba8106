//! What is there for the pods of a node, and must not be once they are removed.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Scratch, cgroup, cni, daemon, docker, mount, process, wait};

/// The kernel takes a network namespace's interfaces away after its last user has gone, and a
/// process that was told to end needs a moment.
const GRACE: Duration = Duration::from_secs(2);

/// Something that belongs to a pod or container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leak {
    /// A mount below the scratch directory; `nsfs` is a pinned namespace.
    Mount(PathBuf, String),
    /// An address that host-local has given out.
    Address(String),
    /// An interface on the node's bridge.
    Interface(String),
    /// A packet filter rule that names the node's network or an address of it.
    FilterRule(String),
    /// A cgroup below the node's parent, or below its slice.
    Cgroup(PathBuf),
    /// A pod's or a container's directory, or a cached CNI result.
    Directory(PathBuf),
    /// A process other than those that the testbed started.
    Process(process::Found),
}

impl fmt::Display for Leak {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount(point, kind) => write!(out, "mount      {} ({kind})", point.display()),
            Self::Address(address) => write!(out, "address    {address}"),
            Self::Interface(name) => write!(out, "interface  {name}"),
            Self::FilterRule(rule) => write!(out, "rule       {rule}"),
            Self::Cgroup(path) => write!(out, "cgroup     {}", path.display()),
            Self::Directory(path) => write!(out, "directory  {}", path.display()),
            Self::Process(found) => write!(out, "process    {} {}", found.pid, found.command),
        }
    }
}

/// Everything of this kind that there is now.
pub fn snapshot(scratch: &Scratch) -> BTreeSet<Leak> {
    // The daemon's root may be a disk of its own.
    let disk = daemon::root(scratch);
    let mounts = mount::below(scratch.path()).into_iter();
    let mounts =
        mounts.filter(|mount| mount.point != disk && !docker::is_own_mount(scratch, &mount.point));
    let mounts = mounts.map(|mount| Leak::Mount(mount.point, mount.kind));
    let addresses = cni::allocations(scratch).into_iter().map(Leak::Address);
    let interfaces = cni::ports_of_bridge(scratch.number())
        .into_iter()
        .map(Leak::Interface);
    let rules = cni::rules(scratch.number())
        .into_iter()
        .map(Leak::FilterRule);
    let cgroups = [scratch.cgroup_parent(), scratch.slice()];
    let cgroups = cgroups
        .iter()
        .flat_map(|parent| cgroup::below(parent))
        .map(Leak::Cgroup);
    let directories = [
        daemon::state(scratch).join("pods"),
        daemon::root(scratch).join("containers"),
        daemon::root(scratch).join("cni"),
        daemon::state(scratch).join("docker/netns"),
        daemon::root(scratch).join("docker/pods"),
        daemon::root(scratch).join("docker/logs"),
        daemon::root(scratch).join("docker/cni"),
        docker::data(scratch).join("containers"),
    ];
    let directories = directories
        .iter()
        .flat_map(|parent| children(parent))
        .map(Leak::Directory);
    let started = process::recorded(scratch.path());
    let processes = process::of(scratch.path()).into_iter();
    let processes = processes
        .filter(|found| !started.contains(&found.pid))
        .map(Leak::Process);
    mounts
        .chain(addresses)
        .chain(interfaces)
        .chain(rules)
        .chain(cgroups)
        .chain(directories)
        .chain(processes)
        .collect()
}

/// Fails the test if anything of a removed pod is there; see [`Leak`]. Waits at most two seconds
/// for what the kernel takes away by itself.
///
/// # Panics
/// When something is left; the message lists it all.
pub fn assert_none(scratch: &Scratch) {
    assert_no_more(scratch, &BTreeSet::new());
}

/// As [`assert_none`], for a node whose other pods stay: nothing that `before` does not have.
///
/// # Panics
/// When there is more; the message lists it all.
pub fn assert_no_more(scratch: &Scratch, before: &BTreeSet<Leak>) {
    let mut more = Vec::new();
    wait::within(GRACE, || {
        more = snapshot(scratch)
            .difference(before)
            .map(ToString::to_string)
            .collect();
        more.is_empty()
    });
    assert!(
        more.is_empty(),
        "{} things were left behind:\n  {}",
        more.len(),
        more.join("\n  ")
    );
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_a_directory_an_address_and_a_process_are_seen() {
        let scratch = Scratch::new().unwrap();
        assert_none(&scratch);
        let before = snapshot(&scratch);
        let pod = daemon::state(&scratch).join("pods/p");
        let address = scratch.join(format!("ipam/slipway-test-{}/10.0.0.2", scratch.number()));
        std::fs::create_dir_all(&pod).unwrap();
        std::fs::create_dir_all(address.parent().unwrap()).unwrap();
        std::fs::write(&address, "").unwrap();
        process::run("mount", &["-t", "tmpfs", "none", pod.to_str().unwrap()]).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .env(process::MARK, scratch.path())
            .spawn()
            .unwrap();
        let found = snapshot(&scratch);
        child.kill().unwrap();
        child.wait().unwrap();
        let more: Vec<_> = found.difference(&before).collect();
        let [
            Leak::Mount(..),
            Leak::Address(_),
            Leak::Directory(_),
            Leak::Process(process),
        ] = &more[..]
        else {
            panic!("found {more:?}");
        };
        assert_eq!(process.command, "sleep 1000");
    }
}
