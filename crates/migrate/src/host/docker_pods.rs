//! Pods on Docker, which only those can stop who know how dockershim made them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Error, Progress};
use crate::Root;
use crate::node::{Facts, Look, Options, docker_socket};

/// Where Docker is, where nobody says otherwise.
const DOCKER: &str = "/var/run/docker.sock";

/// Where the kubelet has libcni's records, where nobody says otherwise (`--cni-cache-dir`).
const CNI_CACHE: &str = "/var/lib/cni/cache";

/// Stops pods that dockershim or cri-dockerd made.
#[expect(async_fn_in_trait, reason = "one thread does one step at a time")]
pub trait DockerPods {
    /// Stops all of them, each container with the time that its pod gives it, and gives their
    /// networks back. The containers stay, as stopped ones. It can be called again after it was cut
    /// off anywhere.
    async fn stop(&self, docker: &DockerNode, progress: Progress<'_>) -> Result<(), Error>;

    /// Gives back what a [`Self::stop`] that did not come to its end holds of pods.
    fn forget(&self) -> Result<(), Error>;
}

/// What steps have to know of Docker and its pods that files tell which a move changes: gathered
/// before it begins, and kept in its journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerNode {
    /// Where dockerd listens.
    pub socket: PathBuf,
    /// The bridge that dockerd was told to use.
    pub bridge: Option<String>,
    /// Where libcni has recorded the networks of pods.
    pub cni_cache: PathBuf,
    /// Directories of CNI plugins that the kubelet was told of.
    pub plugins: Vec<PathBuf>,
}

impl DockerNode {
    /// Finds out where Docker listens, which bridge it was told to use, and where the kubelet has
    /// CNI's files. Nothing is connected to.
    pub async fn gather(root: &Root) -> Self {
        let mut look = Look::new(root);
        let facts = Facts::gather(&mut look, &Options::default()).await;
        let docker = facts.runtimes.docker.as_ref();
        let socket = docker.and_then(|docker| docker_socket(&look, docker));
        let flag = |name: &str| facts.kubelet.flag(name).map(|said| said.value);
        let cni_cache = flag("cni-cache-dir").unwrap_or_else(|| CNI_CACHE.to_string());
        let plugins = flag("cni-bin-dir").unwrap_or_default();
        let plugins = plugins.split(',').filter(|path| !path.is_empty());
        Self {
            socket: socket.unwrap_or_else(|| PathBuf::from(DOCKER)),
            bridge: docker.and_then(|docker| docker.says("bridge")),
            cni_cache: cni_cache.into(),
            plugins: plugins.map(PathBuf::from).collect(),
        }
    }
}
