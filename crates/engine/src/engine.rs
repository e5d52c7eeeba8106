//! What an engine can do: the operations of CRI v1, as the domain sees them.

use std::pin::Pin;

use futures_util::Stream;
use slipway_cri_api::slipway::{self, PullProgress};
use slipway_cri_api::v1::{
    AuthConfig, CheckpointContainerRequest, ContainerConfig, ContainerEventResponse,
    ContainerFilter, ContainerStats, ContainerStatsFilter, ContainerStatusResponse,
    ExecSyncResponse, Image, ImageFsInfoResponse, ImageSpec, ImageStatusResponse, MetricDescriptor,
    PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxMetrics, PodSandboxStats,
    PodSandboxStatsFilter, PodSandboxStatusResponse, RuntimeConfig, RuntimeConfigResponse,
    StatusResponse, UpdateContainerResourcesRequest, UpdatePodSandboxResourcesRequest,
};

use crate::{Output, PodName, PortConnection, Result, Session, Streams};

/// Whether a status carries the engine's own details in its `info` map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// What CRI asks for.
    Plain,
    /// With details for people.
    Verbose,
}

/// The states of one pull, as they change; it ends with the pull.
pub type PullProgressStream = Pin<Box<dyn Stream<Item = PullProgress> + Send>>;

/// What happens to containers and pods, from the moment it was asked for; it ends only when its
/// reader falls so far behind that events were lost to it.
pub type ContainerEventStream = Pin<Box<dyn Stream<Item = ContainerEventResponse> + Send>>;

/// Something that runs pods: this kernel, or a Docker Engine.
///
/// Every operation carries on when its caller stops waiting: what it leaves behind is the same
/// whether or not anybody is there to hear the answer. Stop and Remove are idempotent: what is
/// gone already is a success. List and Status never wait for an operation on another pod. Ids may
/// be abbreviated to an unambiguous prefix.
#[tonic::async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Whether pods can be run now, and with a network (CRI `Status`).
    async fn status(&self, verbosity: Verbosity) -> Result<StatusResponse>;

    /// The engines that this one stands for, the one that gets new pods first; itself where it
    /// stands for no other (`slipway.v1.Engines/List`).
    async fn engines(&self) -> Result<Vec<slipway::Engine>>;

    /// What a kubelet must know to be configured alike (CRI `RuntimeConfig`).
    async fn runtime_config(&self) -> Result<RuntimeConfigResponse>;

    /// Whether a pod has this id, or the only id that begins so. Asks nobody and never waits.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::InvalidArgument`] as [`crate::Index::find`], and
    /// [`crate::Kind::Unavailable`] as long as the engine does not know which pods it has.
    fn has_pod(&self, id: &str) -> Result<bool>;

    /// Whether a container has this id; as [`Engine::has_pod`].
    ///
    /// # Errors
    ///
    /// The same.
    fn has_container(&self, id: &str) -> Result<bool>;

    /// Makes a pod with its namespaces and its network and answers its id (CRI `RunPodSandbox`).
    async fn run_pod(&self, config: PodSandboxConfig, handler: String) -> Result<String>;

    /// Stops a pod's containers and gives its network back (CRI `StopPodSandbox`).
    async fn stop_pod(&self, id: &str) -> Result<()>;

    /// Removes a pod and its containers; one that runs is stopped first (CRI `RemovePodSandbox`).
    async fn remove_pod(&self, id: &str) -> Result<()>;

    /// What is known of a pod (CRI `PodSandboxStatus`).
    async fn pod_status(&self, id: &str, verbosity: Verbosity) -> Result<PodSandboxStatusResponse>;

    /// The pods that a filter asks for, the newest first (CRI `ListPodSandbox`).
    async fn list_pods(&self, filter: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>>;

    /// Makes a container in a pod and answers its id (CRI `CreateContainer`).
    async fn create_container(&self, pod: &str, config: ContainerConfig) -> Result<String>;

    /// Executes a created container's process (CRI `StartContainer`).
    async fn start_container(&self, id: &str) -> Result<()>;

    /// Sends the stop signal, and SIGKILL after `timeout` seconds; 0 or less kills at once
    /// (CRI `StopContainer`). Returns when the container has exited.
    async fn stop_container(&self, id: &str, timeout: i64) -> Result<()>;

    /// Removes a container and its writable layer; one that runs is killed first
    /// (CRI `RemoveContainer`).
    async fn remove_container(&self, id: &str) -> Result<()>;

    /// What is known of a container (CRI `ContainerStatus`).
    async fn container_status(
        &self,
        id: &str,
        verbosity: Verbosity,
    ) -> Result<ContainerStatusResponse>;

    /// The containers that a filter asks for, the newest first (CRI `ListContainers`).
    async fn list_containers(
        &self,
        filter: Option<ContainerFilter>,
    ) -> Result<Vec<slipway_cri_api::v1::Container>>;

    /// Runs a command in a container and answers what it wrote and its exit code; it is killed
    /// after `timeout` seconds, 0 or less meaning no limit (CRI `ExecSync`).
    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: i64,
    ) -> Result<ExecSyncResponse>;

    /// Whether a command could be run in a container now: what [`Engine::exec`] would refuse before
    /// it does anything is refused here (CRI `Exec`, whose client comes later).
    async fn check_exec(&self, id: &str) -> Result<()>;

    /// Runs a command in a container with streams in the caller's hands (CRI `Exec`).
    async fn exec(&self, id: &str, command: Vec<String>, streams: Streams) -> Result<Session>;

    /// Whether a container could be attached to now with these streams (CRI `Attach`).
    async fn check_attach(&self, id: &str, streams: Streams) -> Result<()>;

    /// Gives the caller the streams of a container's own process (CRI `Attach`).
    async fn attach(&self, id: &str, streams: Streams) -> Result<Session>;

    /// Whether a pod's ports could be connected to now (CRI `PortForward`).
    async fn check_port_forward(&self, pod: &str) -> Result<()>;

    /// Connects to a TCP port on a pod's loopback address (CRI `PortForward`).
    async fn connect_port(&self, pod: &str, port: u16) -> Result<PortConnection>;

    /// Changes a container's limits in place (CRI `UpdateContainerResources`).
    async fn update_container_resources(
        &self,
        request: UpdateContainerResourcesRequest,
    ) -> Result<()>;

    /// Notes a pod's limits and changes those of its cgroup (CRI `UpdatePodSandboxResources`).
    async fn update_pod_resources(&self, request: UpdatePodSandboxResourcesRequest) -> Result<()>;

    /// What a container uses (CRI `ContainerStats`).
    async fn container_stats(&self, id: &str) -> Result<ContainerStats>;

    /// What the containers that a filter asks for use (CRI `ListContainerStats`).
    async fn list_container_stats(
        &self,
        filter: Option<ContainerStatsFilter>,
    ) -> Result<Vec<ContainerStats>>;

    /// What a pod uses (CRI `PodSandboxStats`).
    async fn pod_stats(&self, id: &str) -> Result<PodSandboxStats>;

    /// What the pods that a filter asks for use (CRI `ListPodSandboxStats`).
    async fn list_pod_stats(
        &self,
        filter: Option<PodSandboxStatsFilter>,
    ) -> Result<Vec<PodSandboxStats>>;

    /// What [`Engine::list_pod_metrics`] gives (CRI `ListMetricDescriptors`).
    async fn metric_descriptors(&self) -> Result<Vec<MetricDescriptor>>;

    /// Every pod's metrics under the names that cAdvisor gives them (CRI `ListPodSandboxMetrics`).
    async fn list_pod_metrics(&self) -> Result<Vec<PodSandboxMetrics>>;

    /// Follows what happens to containers and pods (CRI `GetContainerEvents`).
    fn container_events(&self) -> ContainerEventStream;

    /// Takes what a kubelet tells all runtimes, which is the node's pod CIDR
    /// (CRI `UpdateRuntimeConfig`).
    async fn update_runtime_config(&self, config: RuntimeConfig) -> Result<()>;

    /// Writes a running container's state into an archive (CRI `CheckpointContainer`).
    async fn checkpoint_container(&self, request: CheckpointContainerRequest) -> Result<()>;

    /// Opens a container's log path anew (CRI `ReopenContainerLog`).
    async fn reopen_container_log(&self, id: &str) -> Result<()>;

    /// Brings an image here, for that pod if it is known, and answers its id (CRI `PullImage`).
    async fn pull_image(
        &self,
        image: ImageSpec,
        auth: Option<AuthConfig>,
        pod: Option<PodName>,
    ) -> Result<String>;

    /// The images that are here; with a filter the one that it names (CRI `ListImages`).
    async fn list_images(&self, image: Option<ImageSpec>) -> Result<Vec<Image>>;

    /// What is known of an image; a response without one where it is not here
    /// (CRI `ImageStatus`).
    async fn image_status(
        &self,
        image: ImageSpec,
        verbosity: Verbosity,
    ) -> Result<ImageStatusResponse>;

    /// Removes an image with all its names (CRI `RemoveImage`).
    async fn remove_image(&self, image: ImageSpec) -> Result<()>;

    /// The space that images and writable layers take (CRI `ImageFsInfo`).
    async fn image_fs_info(&self) -> Result<ImageFsInfoResponse>;

    /// Takes an image from an archive as `docker save` writes it (`slipway.v1.Images/Import`); `id` is
    /// what Docker knows it by. Those of its names that another image has stay with that.
    async fn import_image(&self, id: &str, names: Vec<String>, archive: Output) -> Result<()>;

    /// Follows the pull of an image (`slipway.v1.Pulls/Watch`).
    fn watch_pull(&self, image: &str) -> PullProgressStream;
}
