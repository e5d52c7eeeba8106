//! What the steps of a move do to the node beside its files: units, packages, the kernel, and what
//! Docker has.

mod docker_node;
mod docker_pods;
mod images;
mod kernel;
mod live;
mod network;
mod packages;
mod pods;
mod process;
mod units;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::plan::Target;

pub use crate::failure::Failure as Error;

pub use docker_node::{DockerNetwork, DockerNode};
pub use docker_pods::DockerPods;
pub use live::Live;
pub(crate) use packages::{offered, packages_of};
pub use pods::{GRACE, grace_seconds};
pub(crate) use units::MASKED;
pub use units::Units;

/// Whom the person who waits hears from, a line at a time.
pub type Progress<'a> = &'a dyn Fn(&str);

/// The node's units as they are looked at.
#[expect(async_fn_in_trait, reason = "one thread does one step at a time")]
pub trait Services {
    /// What there is of a unit.
    async fn unit(&self, name: &str) -> Result<UnitState, Error>;
}

/// The node as steps see it. Each method can be called again after it was cut off anywhere: it comes
/// to the same.
#[expect(async_fn_in_trait, reason = "one thread does one step at a time")]
pub trait Host: Services {
    /// What there is of a unit, with the links to it that [`Self::disable`] takes away, to be kept for
    /// [`Self::restore_unit`].
    async fn unit_to_keep(&self, name: &str) -> Result<UnitState, Error>;

    /// Has a unit start with the node, and now; one that runs already is started anew. Waits until
    /// systemd says that it runs.
    async fn start(&self, name: &str) -> Result<(), Error>;

    /// Stops a unit, and waits until it has; one that is not there is stopped.
    async fn stop(&self, name: &str) -> Result<(), Error>;

    /// Stops a unit, and has it not start with the node; one that is not there is so already.
    /// `before` is what it was when that was begun.
    async fn disable(&self, name: &str, before: &UnitState) -> Result<(), Error>;

    /// Makes a unit what it was.
    async fn restore_unit(&self, name: &str, before: &UnitState) -> Result<(), Error>;

    /// Has systemd read its units again.
    async fn reload(&self) -> Result<(), Error>;

    /// Whether a package is installed. A package manager that an earlier [`Self::install`] or
    /// [`Self::remove`] has left at work is waited for.
    async fn has_package(&self, name: &str, progress: Progress<'_>) -> Result<bool, Error>;

    /// Installs a package of the node's package manager, and has none of its services run by that.
    async fn install(&self, name: &str, progress: Progress<'_>) -> Result<(), Error>;

    /// Removes a package that was installed by [`Self::install`], with its configuration.
    async fn remove(&self, name: &str, progress: Progress<'_>) -> Result<(), Error>;

    /// What the kernel has of these modules and parameters.
    async fn kernel(&self, modules: &[String], parameters: &[String])
    -> Result<KernelState, Error>;

    /// Loads modules, and sets parameters to 1.
    async fn set_kernel(&self, modules: &[String], parameters: &[String]) -> Result<(), Error>;

    /// Sets parameters to what they were, and unloads what was not loaded and nobody uses.
    async fn restore_kernel(&self, before: &KernelState) -> Result<(), Error>;

    /// Gives Docker's images that the target does not have to it.
    async fn carry_images(&self, target: Target, progress: Progress<'_>) -> Result<(), Error>;

    /// Stops pods that Docker still has (those of DaemonSets, and static ones), and gives their
    /// networks back. The kubelet is stopped while this is done.
    async fn stop_pods(&self, progress: Progress<'_>) -> Result<(), Error>;

    /// Gives back what [`Self::carry_images`] and [`Self::stop_pods`] have left where they did not
    /// come to their end.
    async fn forget(&self) -> Result<(), Error>;

    /// Stops and removes the pods behind a CRI socket; with `but_dockers` only those that are not
    /// Docker's containers. Nobody who listens there has no pods.
    async fn remove_pods(
        &self,
        endpoint: &str,
        but_dockers: bool,
        progress: Progress<'_>,
    ) -> Result<(), Error>;

    /// Docker's bridge and what Docker has in the packet filter; of nftables nothing is kept, for a Docker
    /// that is started makes its tables anew.
    async fn network(&self) -> Result<NetworkState, Error>;

    /// Removes Docker's chains, the jumps into them, its FORWARD policy, its tables of nftables and its
    /// bridges. What has to stay because others use it is said.
    async fn clean_network(&self, progress: Progress<'_>) -> Result<(), Error>;

    /// Makes the packet filter what it was; a Docker that is started makes the rest.
    async fn restore_network(&self, before: &NetworkState) -> Result<(), Error>;
}

/// What there is of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitState {
    /// Whether it starts with the node.
    pub enablement: Enablement,
    /// Whether it runs now.
    pub active: bool,
    /// Its file, where that is in none of systemd's directories: somebody made a link to it with
    /// systemctl link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked: Option<PathBuf>,
    /// Links to it below /etc/systemd/system, whoever made them; by [`Host::unit_to_keep`] alone. Older
    /// journals do not have them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
}

/// A symbolic link, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Where it is.
    pub path: PathBuf,
    /// What it says, which may be relative to where it is.
    pub target: PathBuf,
}

impl UnitState {
    /// What it is once [`Host::stop`] is done.
    pub(crate) fn stopped(&self) -> Self {
        Self {
            active: false,
            ..self.clone()
        }
    }

    /// What it is once [`Host::disable`] is done.
    pub(crate) fn disabled(&self) -> Self {
        Self {
            enablement: self.enablement.disabled(),
            ..self.stopped()
        }
    }

    /// What it is once [`Host::start`] is done.
    pub(crate) fn started(&self) -> Self {
        let enablement = match self.enablement {
            // It comes with a package or a file before that.
            Enablement::Absent => Enablement::Enabled,
            there => there.enabled(),
        };
        Self {
            enablement,
            active: true,
            ..self.clone()
        }
    }
}

impl fmt::Display for UnitState {
    /// As systemctl(1) has it with `is-enabled` and `is-active`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let enablement = match self.enablement {
            Enablement::Absent => "not-found",
            Enablement::Enabled => "enabled",
            Enablement::Disabled => "disabled",
            Enablement::Masked => "masked",
            Enablement::Fixed => "static or generated",
        };
        let active = if self.active { "active" } else { "inactive" };
        write!(out, "{enablement}, {active}")
    }
}

/// Whether a unit starts with the node, systemctl(1) `is-enabled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enablement {
    /// There is no such unit.
    Absent,
    /// It does.
    Enabled,
    /// It does not.
    Disabled,
    /// It cannot.
    Masked,
    /// Others say so (`static`, `generated`, `indirect` and the like).
    Fixed,
}

impl Enablement {
    /// What it is once links were made as the unit's `[Install]` section says.
    pub(crate) fn enabled(self) -> Self {
        match self {
            Self::Disabled => Self::Enabled,
            other => other,
        }
    }

    /// What it is once those links were taken away.
    pub(crate) fn disabled(self) -> Self {
        match self {
            Self::Enabled => Self::Disabled,
            other => other,
        }
    }
}

/// What the kernel had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelState {
    /// Modules that were not loaded.
    pub missing: Vec<String>,
    /// Parameters and their values; nothing where the kernel did not have the parameter.
    pub parameters: Vec<(String, Option<String>)>,
}

/// What Docker had in the node's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkState {
    /// The policies of the FORWARD chains of IPv4 and IPv6; nothing where there is no such table.
    pub forward: [Option<String>; 2],
    /// Docker's chains and the rules that Docker has in others, as `iptables-restore` has to be told
    /// to make them again, IPv4 and IPv6.
    pub rules: [Vec<String>; 2],
    /// Docker's bridge, where it is there.
    pub bridge: Option<String>,
}
