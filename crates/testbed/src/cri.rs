//! A CRI client with one method for each call that tests make.

use std::path::{Path, PathBuf};
use std::time::Duration;

use slipway_cri_api::v1::image_service_client::ImageServiceClient;
use slipway_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use slipway_cri_api::v1::{
    Container, ContainerConfig, ContainerState, ContainerStatus, ContainerStatusRequest,
    CreateContainerRequest, ExecSyncRequest, ExecSyncResponse, ImageSpec, ListContainersRequest,
    ListPodSandboxRequest, PodSandbox, PodSandboxConfig, PodSandboxStatus, PodSandboxStatusRequest,
    PullImageRequest, RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StopContainerRequest, StopPodSandboxRequest, VersionRequest,
    VersionResponse,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::wait;

/// The largest message that CRI's peers send or take.
const LARGEST_MESSAGE: usize = 16 << 20;

/// No call of a test takes longer than this, unless something hangs.
const LONGEST_CALL: Duration = Duration::from_mins(2);

/// A client of both CRI services on a Unix socket. It connects with the first call, and again
/// after the runtime was restarted.
#[derive(Clone, Debug)]
pub struct Cri {
    socket: PathBuf,
    channel: Channel,
}

/// Short forms of the calls. They return the server's status as it is, so that a test can look at
/// its code; the full requests go through [`runtime`](Self::runtime) and [`images`](Self::images).
/// The generated futures are large, so they live on the heap.
impl Cri {
    /// A client for `socket`.
    ///
    /// # Panics
    /// Outside of a tokio runtime, and when the path is no valid UTF-8.
    pub fn new(socket: &Path) -> Self {
        let path = socket
            .to_str()
            .expect("a scratch directory's path is ASCII");
        let endpoint = Endpoint::from_shared(format!("unix://{path}"))
            .expect("a socket's path makes a valid endpoint")
            .timeout(LONGEST_CALL);
        Self {
            socket: socket.to_owned(),
            channel: endpoint.connect_lazy(),
        }
    }

    /// Where the runtime listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The generated client of the runtime service.
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE)
    }

    /// The generated client of the image service.
    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE)
    }

    /// The connection, for other services and limits.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Version.
    pub async fn version(&self) -> Result<VersionResponse, Status> {
        let request = VersionRequest {
            version: "v1".into(),
        };
        Ok(Box::pin(self.runtime().version(request))
            .await?
            .into_inner())
    }

    /// PullImage; returns the image's reference in the runtime's store.
    pub async fn pull(&self, image: &str) -> Result<String, Status> {
        let request = PullImageRequest {
            image: Some(spec(image)),
            ..Default::default()
        };
        Ok(Box::pin(self.images().pull_image(request))
            .await?
            .into_inner()
            .image_ref)
    }

    /// RunPodSandbox; returns the pod's id.
    pub async fn run_pod(&self, pod: &PodSandboxConfig) -> Result<String, Status> {
        let request = RunPodSandboxRequest {
            config: Some(pod.clone()),
            ..Default::default()
        };
        Ok(Box::pin(self.runtime().run_pod_sandbox(request))
            .await?
            .into_inner()
            .pod_sandbox_id)
    }

    /// CreateContainer; returns the container's id.
    pub async fn create(
        &self,
        pod_id: &str,
        pod: &PodSandboxConfig,
        container: &ContainerConfig,
    ) -> Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod_id.into(),
            config: Some(container.clone()),
            sandbox_config: Some(pod.clone()),
        };
        Ok(Box::pin(self.runtime().create_container(request))
            .await?
            .into_inner()
            .container_id)
    }

    /// StartContainer.
    pub async fn start(&self, id: &str) -> Result<(), Status> {
        let request = StartContainerRequest {
            container_id: id.into(),
        };
        Box::pin(self.runtime().start_container(request))
            .await
            .map(drop)
    }

    /// CreateContainer and StartContainer; returns the container's id.
    pub async fn launch(
        &self,
        pod_id: &str,
        pod: &PodSandboxConfig,
        container: &ContainerConfig,
    ) -> Result<String, Status> {
        let id = self.create(pod_id, pod, container).await?;
        self.start(&id).await?;
        Ok(id)
    }

    /// ExecSync without a timeout.
    pub async fn exec(&self, id: &str, command: &[&str]) -> Result<ExecSyncResponse, Status> {
        let cmd = command.iter().map(|&word| word.to_owned()).collect();
        let request = ExecSyncRequest {
            container_id: id.into(),
            cmd,
            timeout: 0,
        };
        Ok(Box::pin(self.runtime().exec_sync(request))
            .await?
            .into_inner())
    }

    /// ContainerStatus.
    pub async fn container_status(&self, id: &str) -> Result<ContainerStatus, Status> {
        let request = ContainerStatusRequest {
            container_id: id.into(),
            verbose: false,
        };
        let answer = Box::pin(self.runtime().container_status(request))
            .await?
            .into_inner();
        answer
            .status
            .ok_or_else(|| Status::data_loss("ContainerStatus without a status"))
    }

    /// PodSandboxStatus.
    pub async fn pod_status(&self, id: &str) -> Result<PodSandboxStatus, Status> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.into(),
            verbose: false,
        };
        let answer = Box::pin(self.runtime().pod_sandbox_status(request))
            .await?
            .into_inner();
        answer
            .status
            .ok_or_else(|| Status::data_loss("PodSandboxStatus without a status"))
    }

    /// ListPodSandbox without a filter.
    pub async fn pods(&self) -> Result<Vec<PodSandbox>, Status> {
        let request = ListPodSandboxRequest::default();
        Ok(Box::pin(self.runtime().list_pod_sandbox(request))
            .await?
            .into_inner()
            .items)
    }

    /// Waits until the runtime knows which pods there are: one on a Docker Engine serves before that one
    /// has answered, and says that it does not know.
    ///
    /// # Errors
    /// When it refuses for another reason, or for half a minute.
    pub async fn knows_its_pods(&self) -> anyhow::Result<()> {
        let limit = Duration::from_secs(30);
        wait::eventually("the runtime to know its pods", limit, async || {
            match self.pods().await {
                Ok(_) => Ok(true),
                Err(status) if status.code() == Code::Unavailable => Ok(false),
                Err(status) => Err(status.into()),
            }
        })
        .await
    }

    /// ListContainers without a filter.
    pub async fn containers(&self) -> Result<Vec<Container>, Status> {
        let request = ListContainersRequest::default();
        Ok(Box::pin(self.runtime().list_containers(request))
            .await?
            .into_inner()
            .containers)
    }

    /// StopContainer with a timeout in seconds.
    pub async fn stop(&self, id: &str, timeout: i64) -> Result<(), Status> {
        let request = StopContainerRequest {
            container_id: id.into(),
            timeout,
        };
        Box::pin(self.runtime().stop_container(request))
            .await
            .map(drop)
    }

    /// RemoveContainer.
    pub async fn remove(&self, id: &str) -> Result<(), Status> {
        let request = RemoveContainerRequest {
            container_id: id.into(),
        };
        Box::pin(self.runtime().remove_container(request))
            .await
            .map(drop)
    }

    /// StopPodSandbox.
    pub async fn stop_pod(&self, id: &str) -> Result<(), Status> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.into(),
        };
        Box::pin(self.runtime().stop_pod_sandbox(request))
            .await
            .map(drop)
    }

    /// RemovePodSandbox.
    pub async fn remove_pod(&self, id: &str) -> Result<(), Status> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.into(),
        };
        Box::pin(self.runtime().remove_pod_sandbox(request))
            .await
            .map(drop)
    }

    /// Stops and removes every pod, with its containers.
    pub async fn remove_all(&self) -> Result<(), Status> {
        for pod in self.pods().await? {
            self.stop_pod(&pod.id).await?;
            self.remove_pod(&pod.id).await?;
        }
        Ok(())
    }

    /// Waits until the container has ended, for at most 30 seconds, and returns its status.
    ///
    /// # Errors
    /// When it does not end, or when the runtime does not know it.
    pub async fn wait_for_exit(&self, id: &str) -> anyhow::Result<ContainerStatus> {
        let mut last = None;
        wait::eventually(
            "the container to end",
            Duration::from_secs(30),
            async || {
                let status = self.container_status(id).await?;
                let ended = status.state() == ContainerState::ContainerExited;
                last = Some(status);
                Ok(ended)
            },
        )
        .await?;
        Ok(last.unwrap_or_default())
    }
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.into(),
        ..Default::default()
    }
}
