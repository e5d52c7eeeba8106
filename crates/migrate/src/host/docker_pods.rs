//! Pods on Docker, which only those can stop who know how dockershim made them.

use super::{DockerNode, Error, Progress};

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
