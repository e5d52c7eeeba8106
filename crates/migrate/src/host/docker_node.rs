//! What steps have to know of Docker, which is known as long as a move has changed nothing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Root;
use crate::node::{self, Facts, Look, Options, docker_socket};

/// Where Docker is, where nobody says otherwise.
const DOCKER: &str = "/var/run/docker.sock";

/// Where the kubelet has libcni's records, where nobody says otherwise (`--cni-cache-dir`).
const CNI_CACHE: &str = "/var/lib/cni/cache";

/// What steps have to know of Docker and its pods that files tell which a move changes, or that
/// Docker itself tells as long as it runs: gathered before it begins, and kept in its journal.
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
    /// Where dockerd has its data, as it says itself or was told; nothing where nobody says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_root: Option<PathBuf>,
    /// Networks of its driver `bridge` whose bridges it makes itself, as it listed them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<DockerNetwork>,
}

/// A network of Docker's on this node alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerNetwork {
    /// As `docker network ls` has it.
    pub name: String,
    /// The device that Docker has made for it.
    pub bridge: String,
    /// Its ranges of addresses, `172.18.0.0/16`.
    pub subnets: Vec<String>,
}

impl DockerNode {
    /// Finds out where Docker listens, which bridge it was told to use, and where the kubelet has
    /// CNI's files; and asks Docker where its data is and which networks it has, where it answers.
    pub async fn gather(root: &Root) -> Self {
        let mut look = Look::new(root);
        let facts = Facts::gather(&mut look, &Options::default()).await;
        let docker = facts.runtimes.docker.as_ref();
        let socket = docker.and_then(|docker| docker_socket(&look, docker));
        let told = match &socket {
            Some(socket) => node::told_by_docker(socket).await,
            None => node::ToldByDocker::default(),
        };
        let data_root = told
            .data_root
            .or_else(|| docker.and_then(node::Docker::data_root));
        let flag = |name: &str| facts.dockershim_flag(name);
        let cni_cache = flag("cni-cache-dir").unwrap_or_else(|| CNI_CACHE.to_string());
        let plugins = flag("cni-bin-dir").unwrap_or_default();
        let plugins = plugins.split(',').filter(|path| !path.is_empty());
        Self {
            socket: socket.unwrap_or_else(|| PathBuf::from(DOCKER)),
            bridge: docker.and_then(|docker| docker.says("bridge")),
            cni_cache: cni_cache.into(),
            plugins: plugins.map(PathBuf::from).collect(),
            data_root: data_root.map(PathBuf::from),
            networks: told.networks,
        }
    }
}
