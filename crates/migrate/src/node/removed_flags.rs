//! Flags that a newer kubelet refuses. An unknown flag ends it at its start.

use std::collections::BTreeMap;

use super::Facts;
use super::flags::Flag;
use super::look::Look;
use super::version::Version;
use crate::rules;

/// A flag, the first version without it, and what takes its place.
struct Removed {
    name: &'static str,
    since: Version,
    instead: &'static str,
}

const fn removed(name: &'static str, minor: u32, instead: &'static str) -> Removed {
    Removed {
        name,
        since: Version::new(1, minor),
        instead,
    }
}

const CNI: &str = "The runtime carries out CNI: its own configuration names the directories";
const DOCKER: &str = "It goes with dockershim, and nothing takes its place";

/// Kubernetes' release notes. Names are whole but for `docker`, which stands for all those that
/// begin with it: dockershim's, and cAdvisor's, which went with its part for Docker.
const REMOVED: &[Removed] = &[
    removed(
        "container-runtime",
        27,
        "Leave it out from 1.24 on, where `remote` is all there is; before, it has to stay",
    ),
    removed("network-plugin", 24, CNI),
    removed("network-plugin-mtu", 24, CNI),
    removed("cni-bin-dir", 24, CNI),
    removed("cni-conf-dir", 24, CNI),
    removed("cni-cache-dir", 24, CNI),
    removed("docker", 24, DOCKER),
    removed("experimental-dockershim-root-directory", 24, DOCKER),
    removed("experimental-dockershim", 24, DOCKER),
    removed(
        "image-pull-progress-deadline",
        24,
        "The runtime decides when a pull makes no progress: set it there",
    ),
    removed(
        "pod-infra-container-image",
        35,
        "The runtime names its pause image: sandbox_image or pinned_images of containerd, pause_image of CRI-O; Slipway needs none",
    ),
];

impl Removed {
    fn of(name: &str) -> Option<&'static Self> {
        let name = match name.split_once('-') {
            Some(("docker", _)) => "docker",
            _ => name,
        };
        REMOVED.iter().find(|one| one.name == name)
    }
}

/// From when on a flag is refused, and what takes its place.
pub(crate) struct Since {
    pub(crate) version: Version,
    pub(crate) instead: &'static str,
}

/// What becomes of a flag, if anything does.
pub(crate) fn of(name: &str) -> Option<Since> {
    let removed = Removed::of(name)?;
    Some(Since {
        version: removed.since,
        instead: removed.instead,
    })
}

pub(super) fn check(look: &mut Look<'_>, facts: &Facts) {
    let kubelet = &facts.kubelet;
    let mut seen: BTreeMap<(&str, &str), Vec<&Flag>> = BTreeMap::new();
    // What files say is where it has to be changed; the process shows what no file does.
    let of_files = kubelet.planned.iter();
    let unplanned = |flag: &&Flag| kubelet.planned.iter().all(|one| one.name != flag.name);
    for flag in of_files.chain(kubelet.running.iter().filter(unplanned)) {
        if Removed::of(&flag.name).is_some() {
            seen.entry((&flag.name, &flag.value))
                .or_default()
                .push(flag);
        }
    }
    for ((name, value), flags) in seen {
        let Some(removed) = Removed::of(name) else {
            continue;
        };
        let refused = kubelet
            .version
            .is_some_and(|version| version >= removed.since);
        let rule = if refused {
            &rules::KUBELET_FLAG_REFUSED
        } else {
            &rules::KUBELET_FLAG_REMOVED_LATER
        };
        look.report.find(
            rule,
            flags.iter().map(|flag| flag.origin.evidence()),
            format!("--{name}={value} is refused from {} on", removed.since),
            format!("Remove it. {}", removed.instead),
        );
    }
}
