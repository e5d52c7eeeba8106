//! Files that are there and could not be read: what they say is not known, and is not nothing.

use std::path::Path;

use super::{Error, Target};
use crate::Unseen;
use crate::node::Look;

/// What a plan can do without: whose package the kubelet is, and what is loaded and set at boot, which
/// is then written once more.
const BESIDE: [&str; 5] = [
    "/var/lib/dpkg",
    "/etc/modules",
    "/etc/sysctl.conf",
    "/lib/modules",
    "/proc/sys",
];

/// Directories for the same, wherever they are.
const BESIDE_ANYWHERE: [&str; 2] = ["modules-load.d", "sysctl.d"];

/// Refuses where something could not be read that the plan is made of.
///
/// # Errors
///
/// [`Error::Unread`] with all of it.
pub(super) fn refuse(look: &Look<'_>, target: Target) -> Result<(), Error> {
    let needed = look.unread.iter().filter(|one| matters(&one.what, target));
    let needed: Vec<_> = needed.cloned().collect();
    if needed.is_empty() {
        return Ok(());
    }
    Err(Error::Unread(needed))
}

/// What else could not be read.
pub(super) fn remarks(look: &Look<'_>, target: Target) -> impl Iterator<Item = String> {
    let others = look.unread.iter();
    let others = others.filter(move |one| !matters(&one.what, target));
    others.map(|one| format!("{} could not be read ({}): {}", one.what, one.why, one.todo))
}

fn matters(path: &str, target: Target) -> bool {
    let path = Path::new(path);
    let of_runtimes = [
        ("/etc/containerd", Target::Containerd),
        ("/etc/crio", Target::Crio),
        ("/etc/slipway", Target::Slipway),
    ];
    let of_another = of_runtimes
        .iter()
        .any(|(above, of)| *of != target && path.starts_with(above));
    let beside = BESIDE.iter().any(|above| path.starts_with(above));
    let beside_anywhere = path.iter().any(|part| {
        let part = part.to_str();
        part.is_some_and(|part| BESIDE_ANYWHERE.contains(&part))
    });
    !of_another && !beside && !beside_anywhere
}

/// Each with why, and what to do.
pub(super) fn listed(unread: &[Unseen]) -> String {
    let each = unread
        .iter()
        .map(|one| format!("{} ({}; {})", one.what, one.why, one.todo));
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_others_are_no_reason() {
        for (path, target, needed) in [
            ("/etc/docker/daemon.json", Target::Crio, true),
            ("/etc/containerd/config.toml", Target::Containerd, true),
            ("/etc/containerd/config.toml", Target::Crio, false),
            ("/etc/crio/crio.conf.d", Target::Slipway, false),
            ("/var/lib/kubelet/config.yaml", Target::Slipway, true),
            ("/var/lib/dpkg/status", Target::Slipway, false),
            ("/usr/lib/sysctl.d", Target::Slipway, false),
            ("/etc/modules-load.d/x.conf", Target::Slipway, false),
            ("/lib/systemd/system/kubelet.service", Target::Crio, true),
            ("/run/systemd/system/docker.service.d", Target::Crio, true),
            ("/proc", Target::Crio, true),
        ] {
            assert_eq!(matters(path, target), needed, "{path}, to {target}");
        }
    }
}
