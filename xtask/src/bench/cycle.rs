//! The life of a pod with one container, each CRI call of it timed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use slipway_cri_api::v1::{
    ContainerConfig, ContainerStatsRequest, ImageFsInfoRequest, ImageStatusRequest,
    LinuxContainerResources, ListImagesRequest, PodSandboxConfig, PodSandboxStatsRequest,
    StatusRequest, UpdateContainerResourcesRequest,
};
use slipway_testbed::{Cri, Scratch, eventually, pod, read_log};
use tokio::task::JoinSet;

/// The calls, in the order in which a kubelet makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Call {
    RunPodSandbox,
    CreateContainer,
    StartContainer,
    Status,
    PodSandboxStatus,
    ContainerStatus,
    PodSandboxStats,
    ContainerStats,
    UpdateContainerResources,
    ExecSync,
    PullImage,
    ListImages,
    ImageStatus,
    ImageFsInfo,
    StopContainer,
    RemoveContainer,
    StopPodSandbox,
    RemovePodSandbox,
}

impl Call {
    /// All of them, in order.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let up = Self::UP.into_iter();
        up.chain(Self::MEANWHILE).chain(Self::DOWN)
    }

    /// Those that make a pod run.
    pub(crate) const UP: [Self; 3] = [
        Self::RunPodSandbox,
        Self::CreateContainer,
        Self::StartContainer,
    ];

    /// Those that are made while it runs, and leave it as it is.
    pub(crate) const MEANWHILE: [Self; 11] = [
        Self::Status,
        Self::PodSandboxStatus,
        Self::ContainerStatus,
        Self::PodSandboxStats,
        Self::ContainerStats,
        Self::UpdateContainerResources,
        Self::ExecSync,
        Self::PullImage,
        Self::ListImages,
        Self::ImageStatus,
        Self::ImageFsInfo,
    ];

    /// Those that remove it.
    pub(crate) const DOWN: [Self; 4] = [
        Self::StopContainer,
        Self::RemoveContainer,
        Self::StopPodSandbox,
        Self::RemovePodSandbox,
    ];
}

/// One pod, and how long its calls took so far.
#[derive(Debug)]
pub(crate) struct Life {
    pod: PodSandboxConfig,
    container: ContainerConfig,
    pod_id: String,
    pub(crate) container_id: String,
    pub(crate) times: Vec<Timed>,
}

/// A call that was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timed {
    pub(crate) call: Call,
    pub(crate) began: Instant,
    pub(crate) took: Duration,
}

impl Life {
    /// A pod that is yet to be run.
    pub(crate) fn new(scratch: &Arc<Scratch>, image: &str) -> Self {
        Self {
            pod: pod::config(scratch, "bench"),
            container: pod::sleeper("main", image),
            pod_id: String::new(),
            container_id: String::new(),
            times: Vec::new(),
        }
    }

    async fn make(mut self, cri: Cri, call: Call) -> Result<Self> {
        let began = Instant::now();
        match call {
            Call::RunPodSandbox => self.pod_id = cri.run_pod(&self.pod).await?,
            Call::CreateContainer => {
                self.container_id = cri.create(&self.pod_id, &self.pod, &self.container).await?;
            }
            Call::StartContainer => cri.start(&self.container_id).await?,
            Call::PodSandboxStatus => drop(cri.pod_status(&self.pod_id).await?),
            Call::ContainerStatus => drop(cri.container_status(&self.container_id).await?),
            Call::ExecSync => drop(cri.exec(&self.container_id, &["true"]).await?),
            Call::Status
            | Call::PodSandboxStats
            | Call::ContainerStats
            | Call::UpdateContainerResources => self.ask_runtime(&cri, call).await?,
            Call::PullImage | Call::ListImages | Call::ImageStatus | Call::ImageFsInfo => {
                self.ask_for_images(&cri, call).await?;
            }
            Call::StopContainer => cri.stop(&self.container_id, 10).await?,
            Call::RemoveContainer => cri.remove(&self.container_id).await?,
            Call::StopPodSandbox => cri.stop_pod(&self.pod_id).await?,
            Call::RemovePodSandbox => cri.remove_pod(&self.pod_id).await?,
        }
        let took = began.elapsed();
        self.times.push(Timed { call, began, took });
        Ok(self)
    }

    async fn ask_runtime(&self, cri: &Cri, call: Call) -> Result<()> {
        let mut runtime = cri.runtime();
        match call {
            Call::PodSandboxStats => {
                let pod_sandbox_id = self.pod_id.clone();
                let request = PodSandboxStatsRequest { pod_sandbox_id };
                runtime.pod_sandbox_stats(request).await?;
            }
            Call::ContainerStats => {
                let container_id = self.container_id.clone();
                let request = ContainerStatsRequest { container_id };
                runtime.container_stats(request).await?;
            }
            Call::UpdateContainerResources => {
                let limits = LinuxContainerResources {
                    memory_limit_in_bytes: 64 << 20,
                    ..LinuxContainerResources::default()
                };
                let request = UpdateContainerResourcesRequest {
                    container_id: self.container_id.clone(),
                    linux: Some(limits),
                    ..UpdateContainerResourcesRequest::default()
                };
                runtime.update_container_resources(request).await?;
            }
            _ => drop(runtime.status(StatusRequest::default()).await?),
        }
        Ok(())
    }

    async fn ask_for_images(&self, cri: &Cri, call: Call) -> Result<()> {
        let mut images = cri.images();
        let image = self.container.image.clone();
        match call {
            // It is there: the registry is asked whether it is still the same.
            Call::PullImage => drop(cri.pull(&image.unwrap_or_default().image).await?),
            Call::ListImages => {
                let request = ListImagesRequest::default();
                images.list_images(request).await?;
            }
            Call::ImageFsInfo => {
                images.image_fs_info(ImageFsInfoRequest {}).await?;
            }
            _ => {
                let request = ImageStatusRequest {
                    image,
                    verbose: false,
                };
                images.image_status(request).await?;
            }
        }
        Ok(())
    }

    /// Waits until the container's program has said that it takes SIGTERM.
    async fn is_ready(&self) -> Result<()> {
        let log = pod::log_path(&self.pod, &self.container);
        eventually(
            "the container's first line",
            Duration::from_secs(20),
            async || Ok(!read_log(&log).is_empty()),
        )
        .await
    }
}

/// Makes `calls` one after the other, each at the same time for all `lives`. After StartContainer
/// it waits, untimed, until the containers are ready.
///
/// # Errors
/// With the first call that fails.
pub(crate) async fn advance(cri: &Cri, mut lives: Vec<Life>, calls: &[Call]) -> Result<Vec<Life>> {
    for &call in calls {
        let mut tasks: JoinSet<_> = lives
            .drain(..)
            .map(|life| life.make(cri.clone(), call))
            .collect();
        while let Some(life) = tasks.join_next().await {
            lives.push(life?.with_context(|| format!("{call:?} on {}", cri.socket().display()))?);
        }
        if call == Call::StartContainer {
            for life in &lives {
                life.is_ready().await?;
            }
        }
    }
    Ok(lives)
}
