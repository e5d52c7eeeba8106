//! The cgroup driver of the kubelet against that of each runtime: where they differ, pods get two
//! places for their limits, or do not start.

use super::look::{Look, Said};
use super::runtime::Socket;
use super::runtimes::Runtimes;
use super::version::Version;
use super::{Facts, Kubelet};
use crate::Evidence;
use crate::rules;

/// From here on a kubelet asks its runtime, and its own setting is for runtimes that do not tell.
const ASKS_RUNTIME: Version = Version::new(1, 34);

/// A driver, and what says so.
struct Driver {
    name: String,
    evidence: Option<Evidence>,
    /// As a finding names it.
    whose: String,
}

impl Driver {
    fn said(whose: &str, said: Said) -> Self {
        Self {
            whose: format!("{whose} is set to {}", said.value),
            evidence: Some(said.origin.evidence()),
            name: said.value,
        }
    }

    fn default(whose: &str, name: &str) -> Self {
        Self {
            whose: format!("{whose} uses {name}, its default"),
            evidence: None,
            name: name.to_string(),
        }
    }

    fn new(whose: &str, said: Option<Said>, default: &str) -> Self {
        said.map_or_else(
            || Self::default(whose, default),
            |said| Self::said(whose, said),
        )
    }
}

/// The driver of whoever listens on a kind of socket, if it is there.
fn of_runtime(runtimes: &Runtimes, socket: Socket) -> Option<Driver> {
    match socket {
        Socket::Docker => {
            let docker = runtimes.docker.as_ref()?;
            let default = runtimes.docker_default_driver();
            let said = docker.cgroup_driver();
            if said.is_none() && docker.config_broken {
                return None;
            }
            Some(Driver::new("Docker", said, default))
        }
        Socket::Containerd => {
            let containerd = runtimes.containerd.as_ref()?;
            if containerd.cri_disabled().is_some() || containerd.config_broken {
                return None;
            }
            let said = containerd.systemd_cgroup().map(|said| Said {
                value: if said.value == "true" {
                    "systemd"
                } else {
                    "cgroupfs"
                }
                .to_string(),
                ..said
            });
            Some(Driver::new("containerd", said, "cgroupfs"))
        }
        Socket::Crio => {
            let crio = runtimes.crio.as_ref().filter(|crio| !crio.config_broken)?;
            Some(Driver::new("CRI-O", crio.cgroup_manager(), "systemd"))
        }
        Socket::Slipway => {
            let config = runtimes.slipway.as_ref()?;
            let default = if runtimes.systemd {
                "systemd"
            } else {
                "cgroupfs"
            };
            let said = config.said(&["runtime", "cgroup_driver"]);
            Some(Driver::new("Slipway", said, default))
        }
        Socket::Other => None,
    }
}

/// Nothing where the file that may say it cannot be read.
fn of_kubelet(kubelet: &Kubelet) -> Option<Driver> {
    let said = kubelet.setting("cgroup-driver", "cgroupDriver");
    if said.is_none() && kubelet.config_broken {
        return None;
    }
    Some(Driver::new("the kubelet", said, "cgroupfs"))
}

pub(super) fn check(look: &mut Look<'_>, facts: &Facts) {
    let (kubelet, runtimes) = (&facts.kubelet, &facts.runtimes);
    if !kubelet.is_there()
        || kubelet
            .version
            .is_some_and(|version| version >= ASKS_RUNTIME)
    {
        return;
    }
    let Some(own) = of_kubelet(kubelet) else {
        return;
    };
    let place = || {
        let file = kubelet.config.as_ref().map(|config| config.source.path());
        let process = kubelet.processes.first().map(super::Process::evidence);
        let unit = kubelet.unit.as_ref().and_then(|unit| unit.files.first());
        own.evidence
            .clone()
            .or_else(|| file.map(Evidence::file))
            .or(process)
            .or_else(|| unit.map(|(source, _)| Evidence::file(source.path())))
    };
    let in_use = facts.runtime().map(|runtime| runtime.socket());
    for socket in [
        Socket::Docker,
        Socket::Containerd,
        Socket::Crio,
        Socket::Slipway,
    ] {
        let Some(driver) = of_runtime(runtimes, socket) else {
            continue;
        };
        if driver.name == own.name {
            continue;
        }
        // Docker that runs no pods may do as it likes.
        let rule = match (in_use == Some(socket), socket) {
            (true, _) => &rules::CGROUP_DRIVER_MISMATCH,
            (false, Socket::Docker) => continue,
            (false, _) => &rules::CGROUP_DRIVER_TARGET,
        };
        look.report.find(
            rule,
            driver.evidence.into_iter().chain(place()),
            format!("{}, and {}", driver.whose, own.whose),
            if runtimes.systemd {
                "Set both to systemd, with the node drained: a changed driver starts all pods anew"
            } else {
                "Set both to cgroupfs, with the node drained: a changed driver starts all pods anew"
            },
        );
    }
    if runtimes.systemd && own.name == "cgroupfs" && facts.is_on_docker() {
        look.report.find(
            &rules::CGROUP_DRIVER_CGROUPFS,
            place(),
            format!("{}, on a node whose init is systemd", own.whose),
            "Set cgroupDriver: systemd in the kubelet's configuration and systemd in the new runtime's, while the node is drained for the change",
        );
    }
}
