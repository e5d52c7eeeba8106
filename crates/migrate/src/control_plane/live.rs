//! A cluster that is there: [`ControlPlane`] over the Kubernetes API.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::client::Api;
use super::refusal::Refusal;
use super::request::{NODES, Permission, Verb};
use super::{ControlPlane, DrainOptions, Error, Needs, PreflightError};
use crate::cluster::{self, Access, Unreachable};
use crate::host::Progress;
use crate::node::Version;

/// For what has no deadline of its own: an API server may be started anew meanwhile.
const PATIENCE: Duration = Duration::from_mins(2);

/// One Node of a cluster.
pub struct Live {
    pub(super) api: Api,
    pub(super) node: String,
    pub(super) drain: DrainOptions,
    pub(super) image: Option<String>,
    patience: Duration,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Live")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Live {
    /// The Node of that name. Nothing is asked of the API server yet: see
    /// [`preflight`](ControlPlane::preflight).
    ///
    /// # Errors
    ///
    /// Where there are no credentials, or none that can be used.
    pub async fn connect(access: &Access, node: &str) -> Result<Self, Unreachable> {
        let config = cluster::config(access).await?;
        let api = Api::new(config).map_err(|error| Unreachable::Client(Box::new(error)))?;
        Ok(Self {
            api,
            node: node.to_string(),
            drain: DrainOptions::default(),
            image: None,
            patience: PATIENCE,
        })
    }

    /// What a drain may take away.
    #[must_use]
    pub fn with_drain(self, drain: DrainOptions) -> Self {
        Self { drain, ..self }
    }

    /// Has the probe run this image. Without it, it is a pause image that the Node has (Node
    /// `status.images`), or else `registry.k8s.io/pause:3.10`, which the Node has to pull.
    #[must_use]
    pub fn with_probe_image(self, image: &str) -> Self {
        Self {
            image: Some(image.to_string()),
            ..self
        }
    }

    /// How long an API server may be away, or busy, where no deadline is given; two minutes
    /// without this.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// When to give up what has no deadline of its own.
    pub(super) fn end(&self) -> Instant {
        Instant::now() + self.patience
    }

    pub(super) fn on_node(&self, verb: Verb) -> Permission {
        Permission::new(verb, NODES).named(&self.node)
    }

    /// The Node as it is.
    pub(super) async fn get_node(&self, until: Instant) -> Result<Value, Refusal> {
        self.api.ask(&self.on_node(Verb::Get).ask(), until).await
    }

    pub(super) fn failed(&self, what: &str) -> impl FnOnce(Refusal) -> Error {
        let what = format!("{what} the Node {}", self.node);
        move |refusal| Error::new(what, refusal)
    }
}

impl ControlPlane for Live {
    async fn preflight(&self, needs: Needs) -> Result<(), PreflightError> {
        self.check_access(needs).await
    }

    async fn is_ready(&self) -> Result<bool, Error> {
        let node = self.get_node(self.end()).await;
        let node = node.map_err(self.failed("reading"))?;
        Ok(super::node::is_ready(&node))
    }

    async fn is_cordoned(&self) -> Result<bool, Error> {
        let node = self.get_node(self.end()).await;
        let node = node.map_err(self.failed("reading"))?;
        Ok(node["spec"]["unschedulable"] == true)
    }

    async fn set_cordoned(&self, cordoned: bool) -> Result<(), Error> {
        self.cordon(cordoned).await
    }

    async fn drain(&self, deadline: Duration, progress: Progress<'_>) -> Result<(), Error> {
        self.evict_all(Instant::now() + deadline, progress).await
    }

    async fn annotation(&self, key: &str) -> Result<Option<String>, Error> {
        let node = self.get_node(self.end()).await;
        let node = node.map_err(self.failed("reading"))?;
        let value = node["metadata"]["annotations"][key].as_str();
        Ok(value.map(str::to_string))
    }

    async fn set_annotation(&self, key: &str, value: Option<&str>) -> Result<(), Error> {
        self.annotate(key, value).await
    }

    async fn version(&self) -> Result<Version, Error> {
        self.read_version(self.end()).await
    }

    async fn kubelet_configuration(&self, config_map: &str) -> Result<Option<String>, Error> {
        self.read_configuration(config_map).await
    }

    async fn replace_kubelet_configuration(
        &self,
        config_map: &str,
        expected: &str,
        text: &str,
    ) -> Result<bool, Error> {
        self.replace_configuration(config_map, expected, text).await
    }

    async fn wait_ready(
        &self,
        runtime: &str,
        deadline: Duration,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        self.await_ready(runtime, deadline, progress).await
    }

    async fn probe(&self, deadline: Duration, progress: Progress<'_>) -> Result<(), Error> {
        self.run_probe(Instant::now() + deadline, progress).await
    }

    async fn remove_probe(&self) -> Result<(), Error> {
        self.delete_probe(self.end()).await
    }
}
