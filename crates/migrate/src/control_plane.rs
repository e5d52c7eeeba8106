//! What the steps of a move do to the node's objects in the Kubernetes API.

pub(crate) mod client;
mod configuration;
mod drain;
mod live;
mod node;
pub(crate) mod preflight;
mod probe;
pub(crate) mod refusal;
pub(crate) mod request;
mod version;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::failure::Failure as Error;
use crate::host::Progress;
use crate::node::Version;
pub use live::Live;
pub(crate) use node::{is_ready, spoken};
pub(crate) use preflight::SYSTEM;
pub(crate) use probe::pod_words;
pub(crate) use request::encoded;

/// The cluster as one node's steps see it. Each method can be called again after it was cut off
/// anywhere: it comes to the same.
#[expect(async_fn_in_trait, reason = "one thread does one step at a time")]
pub trait ControlPlane {
    /// Whether all that the steps ask for is allowed, and the Node is there; to be asked before
    /// anything is changed.
    async fn preflight(&self, needs: Needs) -> Result<(), PreflightError>;

    /// Whether the Node is Ready.
    async fn is_ready(&self) -> Result<bool, Error>;

    /// Whether the Node takes no new pods (`spec.unschedulable`).
    async fn is_cordoned(&self) -> Result<bool, Error>;

    /// Has the Node take new pods, or none.
    async fn set_cordoned(&self, cordoned: bool) -> Result<(), Error>;

    /// Evicts pods that are neither a DaemonSet's nor static, as their disruption budgets allow,
    /// and waits until they are gone; gives up after `deadline`. Where there are pods that it must
    /// not take away ([`DrainOptions`]), none is evicted.
    async fn drain(&self, deadline: Duration, progress: Progress<'_>) -> Result<(), Error>;

    /// The value of an annotation of the Node.
    async fn annotation(&self, key: &str) -> Result<Option<String>, Error>;

    /// Sets an annotation of the Node, or takes it away.
    async fn set_annotation(&self, key: &str, value: Option<&str>) -> Result<(), Error>;

    /// The API server's version.
    async fn version(&self) -> Result<Version, Error>;

    /// What the `kubelet` key of a ConfigMap in `kube-system` says: the kubelet's configuration as
    /// kubeadm gives it to new nodes. Nothing where there is no such ConfigMap.
    async fn kubelet_configuration(&self, config_map: &str) -> Result<Option<String>, Error>;

    /// Replaces that text by another, if it is still `expected`; whether it was.
    async fn replace_kubelet_configuration(
        &self,
        config_map: &str,
        expected: &str,
        text: &str,
    ) -> Result<bool, Error>;

    /// Waits until the Node is Ready, by a heartbeat younger than this call, and its
    /// `containerRuntimeVersion` begins with `runtime`; gives up after `deadline`.
    ///
    /// A heartbeat is younger when its time is another one than at the first look (the node's clock
    /// may differ from ours), or when the Node's lease has been renewed twice since.
    async fn wait_ready(
        &self,
        runtime: &str,
        deadline: Duration,
        progress: Progress<'_>,
    ) -> Result<(), Error>;

    /// Runs a pod on the Node and removes it, also one that an earlier call left; gives up after
    /// `deadline`.
    async fn probe(&self, deadline: Duration, progress: Progress<'_>) -> Result<(), Error>;

    /// Removes a pod that a probe that was cut off may have left. With a kubelet that is stopped it
    /// is only marked, and goes when that is started.
    async fn remove_probe(&self) -> Result<(), Error>;
}

/// Why a cluster does not let steps begin.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// It says no: permissions are missing, the credentials do not count, or there is no such Node.
    #[error(transparent)]
    Denied(Error),
    /// It could not be asked.
    #[error(transparent)]
    Unanswered(Error),
}

/// What a plan's steps ask of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// To list pods, to evict them.
    pub drain: bool,
    /// To read and update a ConfigMap of `kube-system`, whose name goes by the server's version.
    pub config_map: bool,
    /// To create and delete a pod in `kube-system`.
    pub probe: bool,
}

/// What a drain may take away that does not come back by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainOptions {
    /// Pods that no controller makes again (`--force`).
    pub force: bool,
    /// What pods have written into their `emptyDir` volumes (`--delete-emptydir-data`).
    pub delete_emptydir_data: bool,
}
