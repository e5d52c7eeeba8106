//! What Docker does not keep of a pod: its whole configuration, and the addresses that it was given.
//!
//! A file for each pod, which is written when the pod is complete and removed after the last of it.
//! So a pod that Docker has and that has no file is one that was being made when the daemon was
//! killed.

use std::net::IpAddr;

use prost::Message;
use slipway_cri_api::v1::{LinuxContainerResources, PodSandboxConfig};

use crate::files::Files;

/// A pod's file.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Checkpoint {
    #[prost(message, optional, tag = "1")]
    pub(crate) config: Option<PodSandboxConfig>,
    #[prost(string, repeated, tag = "2")]
    addresses: Vec<String>,
    /// As RunPodSandboxRequest has it.
    #[prost(string, tag = "3")]
    pub(crate) handler: String,
    /// What an update has made of the fields of those names in the configuration.
    #[prost(message, optional, tag = "4")]
    pub(crate) overhead: Option<LinuxContainerResources>,
    #[prost(message, optional, tag = "5")]
    pub(crate) resources: Option<LinuxContainerResources>,
}

impl Checkpoint {
    pub(crate) fn new(config: PodSandboxConfig, handler: String, addresses: &[IpAddr]) -> Self {
        Self {
            config: Some(config),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            handler,
            ..Self::default()
        }
    }

    /// Of a pod that another runtime has made, of which Docker knows the rest.
    pub(crate) fn adopted(addresses: &[IpAddr]) -> Self {
        Self {
            addresses: addresses.iter().map(ToString::to_string).collect(),
            ..Self::default()
        }
    }

    /// With what an update says of the pod and its containers; none keeps what was.
    pub(crate) fn updated(
        self,
        overhead: Option<LinuxContainerResources>,
        resources: Option<LinuxContainerResources>,
    ) -> Self {
        Self {
            overhead: overhead.or(self.overhead),
            resources: resources.or(self.resources),
            ..self
        }
    }

    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let addresses = self.addresses.iter();
        addresses
            .filter_map(|address| address.parse().ok())
            .collect()
    }
}

/// The checkpoints of all pods, by their ids. One that is damaged says no more than that its pod was
/// complete.
pub(crate) type Checkpoints = Files<Checkpoint>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(directory.path().to_owned());
        let config = PodSandboxConfig {
            hostname: "web".to_owned(),
            ..PodSandboxConfig::default()
        };
        let addresses = ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let written = Checkpoint::new(config, "runc".to_owned(), &addresses);
        checkpoints.put("a", &written).unwrap();
        let read = checkpoints.get("a").unwrap();
        assert_eq!(read, written);
        assert_eq!(read.addresses(), addresses);
    }
}
