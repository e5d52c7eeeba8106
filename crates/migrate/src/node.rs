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
mod kernel;
mod kubelet;
mod look;
mod process;
pub(crate) mod removed_flags;
mod runtime;
mod runtimes;
mod systemd;
mod targets;
mod version;
mod watchers;

use crate::{Report, Root};

pub use flags::Flag;
pub use kubelet::Kubelet;
pub use look::{Origin, Said, Tree};
pub use process::Process;
pub use runtime::{Runtime, Socket};
pub use runtimes::Runtimes;
pub use systemd::{Argument, Unit};
pub use version::Version;

use look::Look;

/// What the person knows better than the node's files.
#[derive(Debug, Clone, Default)]
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

/// Looks at the node below `root` and changes nothing.
///
/// On the live node (`/`), it starts `kubelet --version` where no package says the version.
pub async fn check(root: &Root, options: &Options) -> Report {
    let mut look = Look::new(root);
    let processes = process::all(&mut look);
    let mut kubelet = Kubelet::gather(&mut look, &processes);
    kubelet.version = match options.kubelet_version {
        Some(version) => Some(version),
        None => version::find(&mut look, &kubelet).await,
    };
    let runtimes = Runtimes::gather(&mut look, &processes);
    let facts = Facts {
        processes,
        kubelet,
        runtimes,
    };
    runtime::check(&mut look, &facts);
    removed_flags::check(&mut look, &facts);
    contradictions::check(&mut look, &facts);
    cgroups::check(&mut look, &facts);
    targets::check(&mut look, &facts);
    cni::check(&mut look, &facts);
    daemon::check(&mut look, &facts);
    kernel::check(&mut look, &facts).await;
    callers::check(&mut look, &facts);
    watchers::check(&mut look, &facts);
    engine::check(&mut look, &facts).await;
    look.report.sort();
    look.report
}
