//! The life of a pod with one container, each CRI call of it timed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use slipway_cri_api::v1::{ContainerConfig, PodSandboxConfig};
use slipway_testbed::{Cri, Scratch, eventually, pod, read_log};
use tokio::task::JoinSet;

/// The calls, in the order in which a kubelet makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Call {
    RunPodSandbox,
    CreateContainer,
    StartContainer,
    StopContainer,
    RemoveContainer,
    StopPodSandbox,
    RemovePodSandbox,
}

impl Call {
    /// Those that make a pod run.
    pub(crate) const UP: [Self; 3] = [
        Self::RunPodSandbox,
        Self::CreateContainer,
        Self::StartContainer,
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
            Call::StopContainer => cri.stop(&self.container_id, 10).await?,
            Call::RemoveContainer => cri.remove(&self.container_id).await?,
            Call::StopPodSandbox => cri.stop_pod(&self.pod_id).await?,
            Call::RemovePodSandbox => cri.remove_pod(&self.pod_id).await?,
        }
        let took = began.elapsed();
        self.times.push(Timed { call, began, took });
        Ok(self)
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
