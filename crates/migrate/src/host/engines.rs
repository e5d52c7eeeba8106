//! What only those can do to pods and images who speak to runtimes: the program that this library
//! is a part of.

use std::path::PathBuf;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::{Error, Progress};

/// The runtimes of the node. Each method can be called again after it was cut off anywhere.
#[expect(async_fn_in_trait, reason = "one thread does one step at a time")]
pub trait Engines {
    /// Stops the pods that dockershim or cri-dockerd made, each container with the time that its
    /// pod gives it, and gives their networks back. The containers stay, as stopped ones.
    async fn stop_docker_pods(
        &self,
        docker: &DockerPods,
        progress: Progress<'_>,
    ) -> Result<(), Error>;

    /// See [`super::Host::remove_pods`].
    async fn remove_pods(
        &self,
        endpoint: &str,
        but_dockers: bool,
        progress: Progress<'_>,
    ) -> Result<(), Error>;

    /// The names of all images behind a CRI socket, with the registry written out: tags and
    /// digests.
    async fn images(&self, endpoint: &str) -> Result<Vec<String>, Error>;

    /// Gives an image to the Slipway that listens at a socket.
    async fn import(&self, endpoint: &str, image: DockerImage) -> Result<(), Error>;
}

/// Where pods on Docker are, and what their networks were made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerPods {
    /// Where dockerd listens.
    pub socket: PathBuf,
    /// Where libcni has recorded the networks of pods.
    pub cni_cache: PathBuf,
    /// Directories of CNI plugins that the kubelet was told of.
    pub plugins: Vec<PathBuf>,
}

/// An image of Docker's.
pub struct DockerImage {
    /// What Docker knows it by: the digest of its configuration, or of a manifest.
    pub id: String,
    /// All its names, as Docker has them.
    pub names: Vec<String>,
    /// It, as `docker save` writes it; asked for when it is first read from.
    pub archive: BoxStream<'static, Result<Bytes, bollard::errors::Error>>,
}
