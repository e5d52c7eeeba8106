//! What an engine can do: the operations of CRI v1, as the domain sees them.

use std::pin::Pin;

use futures_util::Stream;
use slipway_cri_api::slipway::PullProgress;
use slipway_cri_api::v1::{
    AuthConfig, ContainerConfig, ContainerFilter, ContainerStatusResponse, ExecSyncResponse, Image,
    ImageFsInfoResponse, ImageSpec, ImageStatusResponse, PodSandbox, PodSandboxConfig,
    PodSandboxFilter, PodSandboxStatusResponse, RuntimeConfigResponse, StatusResponse,
};

use crate::Result;

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

    /// What a kubelet must know to be configured alike (CRI `RuntimeConfig`).
    async fn runtime_config(&self) -> Result<RuntimeConfigResponse>;

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

    /// Opens a container's log path anew (CRI `ReopenContainerLog`).
    async fn reopen_container_log(&self, id: &str) -> Result<()>;

    /// Brings an image here and answers its id (CRI `PullImage`).
    async fn pull_image(&self, image: ImageSpec, auth: Option<AuthConfig>) -> Result<String>;

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

    /// Follows the pull of an image (`slipway.v1.Pulls/Watch`).
    fn watch_pull(&self, image: &str) -> PullProgressStream;
}
