//! What runs the pods.

use anyhow::Result;
use serde_json::Value;

use crate::command_line::Kubelet;
use crate::cri::Remote;
use crate::dockershim::{self, Dockershim};
use crate::pods::Pod;

/// A pod's sandbox, as the runtime has it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    /// The pod's.
    pub(crate) uid: String,
    pub(crate) ready: bool,
    pub(crate) containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) attempt: u32,
    /// Nothing as long as it runs.
    pub(crate) exit_code: Option<i32>,
}

/// CRI, or Docker alone.
pub(crate) enum Runtime {
    Remote(Remote),
    Dockershim(Dockershim),
}

impl Runtime {
    /// Finds it, and refuses one whose cgroup driver is another one.
    pub(crate) async fn connect(kubelet: &Kubelet) -> Result<Self> {
        match &kubelet.endpoint {
            Some(socket) => Ok(Self::Remote(Remote::connect(socket, kubelet).await?)),
            None => Ok(Self::Dockershim(Dockershim::connect(kubelet)?)),
        }
    }

    /// As `status.nodeInfo.containerRuntimeVersion` has it.
    pub(crate) async fn version(&self) -> Result<String> {
        match self {
            Self::Remote(remote) => remote.version().await,
            Self::Dockershim(_) => dockershim::version().await,
        }
    }

    /// As `status.images` has them.
    pub(crate) async fn images(&self) -> Result<Vec<Value>> {
        match self {
            Self::Remote(remote) => remote.images().await,
            Self::Dockershim(_) => dockershim::images().await,
        }
    }

    /// All of the kubelet's.
    pub(crate) async fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        match self {
            Self::Remote(remote) => remote.sandboxes().await,
            Self::Dockershim(_) => dockershim::sandboxes().await,
        }
    }

    pub(crate) async fn run_sandbox(&self, pod: &Pod) -> Result<String> {
        match self {
            Self::Remote(remote) => remote.run_sandbox(pod).await,
            Self::Dockershim(docker) => docker.run_sandbox(pod),
        }
    }

    /// Starts a container of the pod's: one of `spec.containers`.
    pub(crate) async fn run_container(
        &self,
        pod: &Pod,
        sandbox: &str,
        container: &Value,
        attempt: u32,
    ) -> Result<()> {
        match self {
            Self::Remote(remote) => remote.run_container(pod, sandbox, container, attempt).await,
            Self::Dockershim(docker) => docker.run_container(pod, sandbox, container, attempt),
        }
    }

    pub(crate) async fn remove_container(&self, id: &str) -> Result<()> {
        match self {
            Self::Remote(remote) => remote.remove_container(id).await,
            Self::Dockershim(_) => dockershim::remove_container(id),
        }
    }

    /// Stops the pod's containers, gives its network back, and removes all of it.
    pub(crate) async fn remove_sandbox(&self, sandbox: &Sandbox, grace: i64) -> Result<()> {
        match self {
            Self::Remote(remote) => remote.remove_sandbox(sandbox, grace).await,
            Self::Dockershim(docker) => docker.remove_sandbox(sandbox, grace),
        }
    }
}
