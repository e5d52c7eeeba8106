//! The engine on a Docker Engine that is there already: pods as dockershim made them.
//!
//! A pod is a container that does nothing and holds namespaces; the pod's containers join them.
//! Docker's labels and names say which is which, so that what dockershim and cri-dockerd made can
//! be read as well, and what is made here by them. The network is CNI's, and not Docker's.
//!
//! Invariants:
//!
//! - Docker is what is true. What is known here is asked again whenever Docker tells of a change,
//!   and all of it when Docker has been out of reach. While it is, List and Status tell what it said
//!   last, also to a daemon before this one, Status of the engine that it is, and everything else is
//!   refused.
//! - A pod is seen when its network and its checkpoint are there, and its checkpoint goes last.
//! - Every request to dockerd has a deadline.
#![forbid(unsafe_code)]

mod adopt;
mod attach;
mod attempt;
mod cgroups;
mod checkpoint;
mod config;
mod create;
mod credentials;
mod dockerd;
mod dump;
mod exec;
mod execs;
mod failure;
mod files;
mod gates;
mod holder;
mod image_space;
mod images;
mod inspect;
mod known;
mod lifecycle;
mod limits;
mod log;
mod making;
mod metrics;
mod naming;
mod node;
mod output;
mod pause;
mod pins;
mod port_forward;
mod progress;
mod refuse;
mod sandbox;
mod security;
mod stats;
mod status;
mod streams;
mod update;
mod views;
mod watch;
mod wire;

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
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
    Census, ContainerEventStream, Engine, Error, Output, PodName, PortConnection,
    PullProgressStream, Result, Session, Streams, Verbosity, overview,
};
use slipway_network::Network;
use tokio::io::AsyncRead;

pub use config::Config;
use log::Logs;
use node::{Node, Sight};

/// Where an engine keeps its things, and the configuration of its parts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What survives a reboot: checkpoints of pods, what their networks were made with, and what
    /// Docker had.
    pub root: PathBuf,
    /// What does not: pods' network namespaces, mounted.
    pub state: PathBuf,
    /// `[engine.docker]`.
    pub docker: Config,
    /// `[network]`.
    pub network: slipway_network::Config,
    /// Where pods and containers are counted.
    pub census: Census,
    /// Where it is counted how long networks take.
    pub network_metrics: slipway_network::Metrics,
    /// Whether it writes the logs of containers; false beside another one that does, or has done.
    pub writes_logs: bool,
    /// Whether it tells what Docker had when a daemon before it could ask, until Docker answers; false
    /// where nothing may be concluded from that.
    pub remembers: bool,
}

/// The engine. It implements [`Engine`], which is how it is used.
pub struct DockerEngine {
    node: Arc<Node>,
}

impl DockerEngine {
    /// Takes a root directory and connects to dockerd. One that is not there is waited for in the
    /// background, and until then every operation says so, but Status and what can be told of before.
    ///
    /// # Errors
    ///
    /// [`slipway_engine::Kind::FailedPrecondition`] when another daemon holds the root directory,
    /// or when dockerd is too old; other kinds when the directory cannot be used.
    pub async fn open(settings: Settings) -> Result<Self> {
        let Settings {
            root,
            state,
            docker,
            network,
            census,
            network_metrics,
            writes_logs,
            remembers,
        } = settings;
        // Those that the engine on this kernel takes: there are never two daemons in one place.
        let locks = [lock(&root)?, lock(&state)?];
        let (root, state) = (root.join("docker"), state.join("docker"));
        for directory in [
            node::checkpoints(&root),
            node::limits(&root),
            node::logs(&root),
        ] {
            private_directory(&directory)?;
        }
        dump::clear(&root);
        let network = Network::new(network, node::cni(&root)).measured_by(&network_metrics);
        let logs = Logs::new(node::logs(&root), writes_logs)?;
        let node = Node::new(docker, network, &census, logs, [&root, &state], locks)?;
        let node = Arc::new(node);
        if remembers {
            known::start(&node, node::known(&root)).await?;
        }
        watch::start(&node).await?;
        Ok(Self { node })
    }

    /// An image as `docker save` writes it. Docker is asked when it is first read from.
    ///
    /// # Errors
    ///
    /// [`slipway_engine::Kind::Unavailable`] when Docker is out of reach.
    pub fn export_image(&self, id: &str) -> Result<impl AsyncRead + Send + use<>> {
        images::export(&self.node, id)
    }

    /// Puts another configuration of the network into force, for operations that begin from now on.
    pub fn reload(&self, network: slipway_network::Config) {
        self.node.network.reload(network);
    }
}

/// Makes a directory that only root may look into. Blocking, briefly.
fn private_directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Error::precondition(format!("{} cannot be made: {error}", path.display())))
}

/// Takes the lock of a directory, which is made where it is not there. It ends with this process
/// (fcntl(2), "Advisory record locking"), and is not in the way of an engine in the same one.
fn lock(directory: &Path) -> Result<File> {
    private_directory(directory)?;
    let path = directory.join("lock");
    let failed =
        |error: std::io::Error| Error::precondition(format!("{}: {error}", path.display()));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed)?;
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::AGAIN | Errno::ACCESS) => Err(Error::precondition(format!(
            "another slipway works on {}: stop it, or give this one directories of its own with \
             --root and --state",
            directory.display()
        ))),
        Err(error) => Err(failed(error.into())),
    }
}

#[tonic::async_trait]
impl Engine for DockerEngine {
    async fn status(&self, verbosity: Verbosity) -> Result<StatusResponse> {
        Ok(status::status(&self.node, verbosity))
    }

    async fn engines(&self) -> Result<Vec<slipway::Engine>> {
        let mut docker = overview("docker", self).await?;
        let unknown = self.node.look()? == Sight::Remembered;
        let ready = docker.pods.iter_mut().filter(|pod| pod.ready);
        ready.for_each(|pod| pod.unknown = unknown);
        Ok(vec![docker])
    }

    fn has_pod(&self, id: &str) -> Result<bool> {
        self.node.dockerd.is_known()?;
        Ok(self.node.pods.find(id)?.is_some())
    }

    fn has_container(&self, id: &str) -> Result<bool> {
        self.node.dockerd.is_known()?;
        Ok(self.node.containers.find(id)?.is_some())
    }

    async fn runtime_config(&self) -> Result<RuntimeConfigResponse> {
        status::runtime_config(&self.node)
    }

    async fn run_pod(&self, config: PodSandboxConfig, handler: String) -> Result<String> {
        Box::pin(sandbox::run(&self.node, config, handler)).await
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
        views::pods(&self.node, filter.as_ref())
    }

    async fn create_container(&self, pod: &str, config: ContainerConfig) -> Result<String> {
        Box::pin(lifecycle::create(&self.node, pod, config)).await
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
        views::containers(&self.node, filter.as_ref())
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
        lifecycle::running(&self.node, id).map(drop)
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
        sandbox::ready(&self.node, pod).map(drop)
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
        dump::checkpoint(&self.node, request).await
    }

    async fn reopen_container_log(&self, id: &str) -> Result<()> {
        let container = self.node.container(id)?;
        self.node.logs.reopen(&container).await
    }

    async fn pull_image(
        &self,
        image: ImageSpec,
        auth: Option<AuthConfig>,
        _pod: Option<PodName>,
    ) -> Result<String> {
        images::pull(&self.node, &image, auth).await
    }

    async fn list_images(&self, image: Option<ImageSpec>) -> Result<Vec<Image>> {
        images::list(&self.node, image.as_ref()).await
    }

    async fn image_status(
        &self,
        image: ImageSpec,
        verbosity: Verbosity,
    ) -> Result<ImageStatusResponse> {
        images::status(&self.node, &image, verbosity).await
    }

    async fn remove_image(&self, image: ImageSpec) -> Result<()> {
        images::remove(&self.node, &image).await
    }

    async fn import_image(&self, _: &str, _: Vec<String>, _: Output) -> Result<()> {
        Err(Error::unimplemented(
            "images are Docker's here: give it to dockerd with docker load",
        ))
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfoResponse> {
        image_space::file_systems(&self.node).await
    }

    fn watch_pull(&self, image: &str) -> PullProgressStream {
        images::watch(&self.node, image)
    }
}
