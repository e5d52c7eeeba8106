//! `slipway check node`: what of a node depends on Docker.
//!
//! The facts are gathered once ([`Facts`]): processes, the kubelet as it runs and as its files
//! would start it, the runtimes that are there. The rules look at them, one file a subject.

mod callers;
mod cgroups;
mod cni;
mod contradictions;
mod daemon;
mod engine;
mod flags;
mod homes;
mod kernel;
mod kubelet;
mod left_over;
mod look;
mod process;
mod release;
pub(crate) mod removed_flags;
mod runtime;
mod runtimes;
mod static_pods;
mod systemd;
mod targets;
mod version;
mod walk;
mod watchers;

use serde::{Deserialize, Serialize};

use crate::{Report, Root};

pub use flags::Flag;
pub use kubelet::Kubelet;
pub use look::{Origin, Said, Tree};
pub use process::Process;
pub use runtime::{Runtime, Socket};
pub use runtimes::{Containerd, Docker, Runtimes};
pub use systemd::{Argument, Unit};
pub use version::Version;

pub(crate) use cni::plugins_of_network;
pub(crate) use daemon::proxies;
pub(crate) use engine::{
    Told as ToldByDocker, is_remapped, missing_socket, socket as docker_socket, strangers,
    told as told_by_docker, too_old_for_cri_dockerd,
};
pub(crate) use kernel::{modules_not_at_boot, parameters_not_at_boot};
pub(crate) use look::Look;
pub(crate) use release::{Release, release};
pub(crate) use runtimes::SNAP;

/// What the person knows better than the node's files.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Options {
    /// The kubelet's version, where it cannot be found out.
    pub kubelet_version: Option<Version>,
}

/// What the rules look at.
#[derive(Debug)]
pub struct Facts {
    /// All processes of the node.
    pub processes: Vec<Process>,
    /// The kubelet, running or not.
    pub kubelet: Kubelet,
    /// The runtimes that are there.
    pub runtimes: Runtimes,
}

/// Programs that have the kubelet inside of them.
const DISTRIBUTIONS: [&str; 2] = ["k3s", "kubelite"];

impl Facts {
    /// The program that runs here and has the kubelet inside of it, by its name.
    pub(crate) fn distribution(&self) -> Option<&str> {
        let own = self.processes.iter().filter(|process| process.of_host);
        let mut programs = own.map(Process::program);
        programs.find(|program| DISTRIBUTIONS.contains(program))
    }

    /// Looks at all of it once.
    pub(crate) async fn gather(look: &mut Look<'_>, options: &Options) -> Self {
        let processes = process::all(look);
        let mut kubelet = Kubelet::gather(look, &processes);
        kubelet.version = match options.kubelet_version {
            Some(version) => Some(version),
            None => version::find(look, &kubelet).await,
        };
        let runtimes = Runtimes::gather(look, &processes);
        Self {
            processes,
            kubelet,
            runtimes,
        }
    }
}

/// Looks at the node below `root` and changes nothing.
///
/// On the live node (`/`), it starts `kubelet --version` where no package says the version.
pub async fn check(root: &Root, options: &Options) -> Report {
    let mut look = Look::new(root);
    let facts = Facts::gather(&mut look, options).await;
    runtime::check(&mut look, &facts);
    removed_flags::check(&mut look, &facts);
    contradictions::check(&mut look, &facts);
    cgroups::check(&mut look, &facts);
    targets::check(&mut look, &facts);
    cni::check(&mut look, &facts);
    daemon::check(&mut look, &facts);
    kernel::check(&mut look, &facts).await;
    static_pods::check(&mut look, &facts);
    callers::check(&mut look, &facts);
    watchers::check(&mut look, &facts);
    engine::check(&mut look, &facts).await;
    look.report.sort();
    look.report
}
