//! The engine on this node's own kernel.
//!
//! A pod is a shim process with pinned namespaces and a network; a container is a process that the
//! shim made from an OCI configuration over an image's layers. This crate decides what they are
//! made of, keeps their records, follows their lives, and finds them again after it was killed.
//!
//! Invariants:
//!
//! - A record is on disk before the first thing it stands for is made, and goes after the last.
//! - Memory holds nothing that cannot be rebuilt from the records, the shims and the kernel.
//! - No lock is held while something is waited for, but for the gates of the one pod or container
//!   that an operation changes; looking never waits for a gate.
#![forbid(unsafe_code)]

mod attach;
mod cgroups;
mod checkpoint;
mod config;
mod container;
mod events;
mod exec;
mod failure;
mod handlers;
mod images;
mod kernel;
mod layers;
mod lifecycle;
mod metrics;
mod mountinfo;
mod node;
mod own_metrics;
mod pod;
mod port_forward;
mod program;
mod recovery;
mod rootfs;
mod sandbox;
mod spec;
mod stats;
mod status;
mod store;
mod streams;
mod systemd;
mod target;
mod update;
mod user;
mod views;
mod volumes;

use std::path::PathBuf;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use slipway_cgroup::Hierarchy;
use slipway_cri_api::slipway;
use slipway_cri_api::v1::{
    AuthConfig, CheckpointContainerRequest, Container, ContainerConfig, ContainerFilter,
    ContainerStats, ContainerStatsFilter, ContainerStatusResponse, ExecSyncResponse, Image,
    ImageFsInfoResponse, ImageSpec, ImageStatusResponse, MetricDescriptor, PodSandbox,
    PodSandboxConfig, PodSandboxFilter, PodSandboxMetrics, PodSandboxStats, PodSandboxStatsFilter,
    PodSandboxStatusResponse, RuntimeConfig, RuntimeConfigResponse, StatusResponse,
    UpdateContainerResourcesRequest, UpdatePodSandboxResourcesRequest,
};
use slipway_engine::{
    Census, ContainerEventStream, Engine, Error, Events, Index, Output, PodName, PortConnection,
    PullProgressStream, Result, Session, Streams, Verbosity, blocking,
};
use slipway_image::Images;
use slipway_network::Network;
use slipway_shim::Launcher;
use tokio::sync::watch;

pub use cgroups::CgroupDriver;
use cgroups::Cgroups;
pub use config::{Config, Handler, Rlimit};
use handlers::{Features, Handlers};
use node::{Node, Reloaded};
use own_metrics::OwnMetrics;
#[doc(hidden)]
pub use spec::fuzzing;
use store::Store;

/// Where an engine keeps its things, and the configuration of its parts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What survives a reboot: images, writable layers, records.
    pub root: PathBuf,
    /// What does not: pods' sockets, pinned namespaces, containers' bundles.
    pub state: PathBuf,
    /// `[runtime]`.
    pub runtime: Config,
    /// `[image]`.
    pub image: slipway_image::Config,
    /// `[network]`.
    pub network: slipway_network::Config,
    /// Where pods and containers are counted.
    pub census: Census,
    /// Where it is counted how long networks take.
    pub network_metrics: slipway_network::Metrics,
}

/// The engine. It implements [`Engine`], which is how it is used.
pub struct Native {
    node: Arc<Node>,
}

impl Native {
    /// Takes a root directory, finds the pods that are there, and undoes what a daemon before this
    /// one was killed over.
    ///
    /// # Errors
    ///
    /// [`slipway_engine::Kind::FailedPrecondition`] when the caller is not root, another daemon
    /// holds the root or the state directory, or the kernel lacks something that pods need, which the message names;
    /// other kinds when records or images cannot be read.
    pub async fn open(settings: Settings) -> Result<Self> {
        // What the built-in one can do.
        let features = Features {
            recursive_read_only_mounts: kernel::recursive_read_only().is_ok(),
            // Where the node has them: that is found out with the shim.
            user_namespaces: true,
        };
        settings.runtime.usable()?;
        let configured = &settings.runtime.handlers;
        let handlers = Handlers::open(configured, &settings.state, features).await;
        let node = blocking::run(move || assemble(settings, handlers)).await?;
        recovery::recover(&node).await?;
        stats::spawn_sampler(&node);
        Ok(Self { node })
    }

    /// Offers what the engine and its parts tell of themselves, `slipway_…`, under a registry: beside
    /// what is counted where the settings say.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.node.metrics.register(registry);
        self.node.images.register_metrics(registry);
    }

    /// Puts another configuration into force, as a whole: for operations that begin from now on.
    /// The keys that its reference says take a restart, and the directories, are as they were.
    ///
    /// # Errors
    ///
    /// [`slipway_engine::Kind::InvalidArgument`] when it cannot be used; the old one stays in force.
    pub async fn reload(
        &self,
        runtime: Config,
        image: slipway_image::Config,
        network: slipway_network::Config,
    ) -> Result<()> {
        runtime.usable()?;
        let before = self.node.reloaded();
        let handlers = before
            .handlers
            .replaced(&runtime.handlers, &self.node.state)
            .await;
        let config = Config {
            shim: before.config.shim.clone(),
            cgroup_driver: before.config.cgroup_driver,
            cgroup_parent: before.config.cgroup_parent.clone(),
            ..runtime
        };
        let reloaded = Arc::new(Reloaded { config, handlers });
        self.node.reloaded.send_replace(reloaded);
        self.node.images.reload(image);
        self.node.network.reload(network);
        Ok(())
    }
}

fn assemble(settings: Settings, handlers: Handlers) -> Result<Arc<Node>> {
    let Settings {
        root,
        state,
        runtime,
        image,
        network,
        census,
        network_metrics,
    } = settings;
    let network = Network::new(network, root.join("cni")).measured_by(&network_metrics);
    kernel::check()?;
    let locks = [node::lock(&root)?, node::lock(&state)?];
    let hierarchy = Hierarchy::detect().map_err(|error| failure::of_cgroup(&error))?;
    let cgroups = Arc::new(Cgroups::new(hierarchy.clone(), &runtime)?);
    let shim = shim(&runtime)?;
    let launcher = Launcher::new(&shim).map_err(|error| {
        Error::precondition(format!(
            "the per-pod process {} cannot be used: {error}; say where it is with --shim",
            shim.display()
        ))
    })?;
    if let Some(reason) = launcher.unsealed() {
        tracing::warn!(%reason, "the shim's executable could not be put on a read-only mount");
    }
    for directory in [root.join("containers"), state.join("pods")] {
        node::private_directory(&directory)?;
    }
    let images =
        Images::open(&root.join("image"), image).map_err(|error| failure::of_image(&error))?;
    let user_namespaces = kernel::UserNamespaces::probe(&launcher, &root);
    Ok(Arc::new(Node {
        store: Store::open(&root.join("pods.redb"))?,
        images,
        network: Arc::new(network),
        launcher: Arc::new(launcher),
        hierarchy,
        cgroups,
        sampler: Arc::default(),
        user_namespaces,
        events: Events::default(),
        metrics: OwnMetrics::new(&census),
        pods: Arc::new(Index::new("pod")),
        containers: Arc::new(Index::new("container")),
        boot: node::boot()?,
        reloaded: watch::Sender::new(Arc::new(Reloaded {
            config: runtime,
            handlers,
        })),
        root,
        state,
        _locks: locks,
    }))
}

/// The shim's executable: as configured, or beside this one.
fn shim(config: &Config) -> Result<PathBuf> {
    if let Some(path) = &config.shim {
        return Ok(path.clone());
    }
    std::env::current_exe()
        .map(|own| own.with_file_name("slipway-shim"))
        .map_err(|error| Error::internal(format!("/proc/self/exe cannot be read: {error}")))
}

#[tonic::async_trait]
impl Engine for Native {
    async fn status(&self, verbosity: Verbosity) -> Result<StatusResponse> {
        Ok(status::status(&self.node, verbosity))
    }

    async fn runtime_config(&self) -> Result<RuntimeConfigResponse> {
        Ok(status::runtime_config(&self.node))
    }

    async fn engines(&self) -> Result<Vec<slipway::Engine>> {
        Ok(vec![slipway_engine::overview("native", self).await?])
    }

    fn has_pod(&self, id: &str) -> Result<bool> {
        Ok(self.node.pods.find(id)?.is_some())
    }

    fn has_container(&self, id: &str) -> Result<bool> {
        Ok(self.node.containers.find(id)?.is_some())
    }

    async fn run_pod(&self, config: PodSandboxConfig, handler: String) -> Result<String> {
        sandbox::run(&self.node, config, handler).await
    }

    async fn stop_pod(&self, id: &str) -> Result<()> {
        sandbox::stop(&self.node, id).await
    }

    async fn remove_pod(&self, id: &str) -> Result<()> {
        sandbox::remove(&self.node, id).await
    }

    async fn pod_status(&self, id: &str, verbosity: Verbosity) -> Result<PodSandboxStatusResponse> {
        views::pod_status(&self.node, id, verbosity)
    }

    async fn list_pods(&self, filter: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>> {
        Ok(views::pods(&self.node, filter.as_ref()))
    }

    async fn create_container(&self, pod: &str, config: ContainerConfig) -> Result<String> {
        lifecycle::create(&self.node, pod, config).await
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        lifecycle::start(&self.node, id).await
    }

    async fn stop_container(&self, id: &str, timeout: i64) -> Result<()> {
        lifecycle::stop(&self.node, id, timeout).await
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        lifecycle::remove(&self.node, id).await
    }

    async fn container_status(
        &self,
        id: &str,
        verbosity: Verbosity,
    ) -> Result<ContainerStatusResponse> {
        views::container_status(&self.node, id, verbosity)
    }

    async fn list_containers(&self, filter: Option<ContainerFilter>) -> Result<Vec<Container>> {
        Ok(views::containers(&self.node, filter.as_ref()))
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: i64,
    ) -> Result<ExecSyncResponse> {
        exec::exec_sync(&self.node, id, command, timeout).await
    }

    async fn check_exec(&self, id: &str) -> Result<()> {
        exec::check(&self.node, id)
    }

    async fn exec(&self, id: &str, command: Vec<String>, streams: Streams) -> Result<Session> {
        exec::exec(&self.node, id, command, streams).await
    }

    async fn check_attach(&self, id: &str, streams: Streams) -> Result<()> {
        attach::check(&self.node, id, streams)
    }

    async fn attach(&self, id: &str, streams: Streams) -> Result<Session> {
        attach::attach(&self.node, id, streams).await
    }

    async fn check_port_forward(&self, pod: &str) -> Result<()> {
        port_forward::check(&self.node, pod)
    }

    async fn connect_port(&self, pod: &str, port: u16) -> Result<PortConnection> {
        port_forward::connect(&self.node, pod, port).await
    }

    async fn update_container_resources(
        &self,
        request: UpdateContainerResourcesRequest,
    ) -> Result<()> {
        update::container(&self.node, request).await
    }

    async fn update_pod_resources(&self, request: UpdatePodSandboxResourcesRequest) -> Result<()> {
        update::pod(&self.node, request).await
    }

    async fn container_stats(&self, id: &str) -> Result<ContainerStats> {
        stats::container(&self.node, id).await
    }

    async fn list_container_stats(
        &self,
        filter: Option<ContainerStatsFilter>,
    ) -> Result<Vec<ContainerStats>> {
        stats::containers(&self.node, filter.as_ref()).await
    }

    async fn pod_stats(&self, id: &str) -> Result<PodSandboxStats> {
        stats::pod(&self.node, id).await
    }

    async fn list_pod_stats(
        &self,
        filter: Option<PodSandboxStatsFilter>,
    ) -> Result<Vec<PodSandboxStats>> {
        stats::pods(&self.node, filter.as_ref()).await
    }

    async fn metric_descriptors(&self) -> Result<Vec<MetricDescriptor>> {
        Ok(slipway_resources::metrics::descriptors())
    }

    async fn list_pod_metrics(&self) -> Result<Vec<PodSandboxMetrics>> {
        metrics::pods(&self.node).await
    }

    fn container_events(&self) -> ContainerEventStream {
        self.node.events.listen()
    }

    async fn update_runtime_config(&self, config: RuntimeConfig) -> Result<()> {
        let cidrs = config.network_config.unwrap_or_default().pod_cidr;
        // A kubelet that knows no range yet says so with an empty one.
        if cidrs.is_empty() {
            return Ok(());
        }
        let set = self.node.network.set_pod_cidr(&cidrs).await;
        set.map_err(|error| failure::of_network(&error))
    }

    async fn checkpoint_container(&self, request: CheckpointContainerRequest) -> Result<()> {
        checkpoint::checkpoint(&self.node, request).await
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        let container = self.node.containers.get(id)?;
        if !container.state().is_running() {
            return Err(Error::precondition(format!(
                "container {} is not running, so that nobody writes its log",
                container.id()
            )));
        }
        let shim = container.pod.shim()?;
        shim.reopen_log(container.id())
            .await
            .map_err(|error| failure::of_shim(&error))
    }

    async fn pull_image(
        &self,
        image: ImageSpec,
        auth: Option<AuthConfig>,
        _: Option<PodName>,
    ) -> Result<String> {
        images::pull(&self.node.images, &image, auth).await
    }

    async fn list_images(&self, image: Option<ImageSpec>) -> Result<Vec<Image>> {
        images::list(&self.node.images, image.as_ref())
    }

    async fn image_status(
        &self,
        image: ImageSpec,
        verbosity: Verbosity,
    ) -> Result<ImageStatusResponse> {
        images::status(&self.node.images, &image, verbosity)
    }

    async fn remove_image(&self, image: ImageSpec) -> Result<()> {
        images::remove(&self.node.images, &image).await
    }

    async fn import_image(&self, id: &str, names: Vec<String>, archive: Output) -> Result<()> {
        let imported = self.node.images.import(id, names, archive).await;
        imported.map_err(|error| failure::of_image(&error))
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfoResponse> {
        images::file_systems(&self.node.images).await
    }

    fn watch_pull(&self, image: &str) -> PullProgressStream {
        images::watch(&self.node.images, image)
    }
}
