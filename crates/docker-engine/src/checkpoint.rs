//! What Docker does not keep of a pod: its whole configuration, and the addresses that it was given.
//!
//! A file for each pod, which is written when the pod is complete and removed after the last of it.
//! So a pod that Docker has and that has no file is one that was being made when the daemon was
//! killed.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use prost::Message;
use slipway_cri_api::v1::PodSandboxConfig;
use slipway_engine::{Error, Result};

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
}

impl Checkpoint {
    pub(crate) fn new(config: PodSandboxConfig, handler: String, addresses: &[IpAddr]) -> Self {
        Self {
            config: Some(config),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            handler,
        }
    }

    /// Of a pod that another runtime has made, of which Docker knows the rest.
    pub(crate) fn adopted(addresses: &[IpAddr]) -> Self {
        Self {
            addresses: addresses.iter().map(ToString::to_string).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let addresses = self.addresses.iter();
        addresses
            .filter_map(|address| address.parse().ok())
            .collect()
    }
}

/// The directory of all files. Everything here blocks, briefly.
#[derive(Debug)]
pub(crate) struct Checkpoints(PathBuf);

impl Checkpoints {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// A pod's; none where there is no file. One that cannot be read is logged and says nothing: the
    /// pod is complete all the same.
    pub(crate) fn get(&self, pod: &str) -> Option<Checkpoint> {
        let path = self.0.join(pod);
        let read = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(error),
            Ok(bytes) => Checkpoint::decode(bytes.as_slice()).map_err(io::Error::other),
        };
        Some(read.unwrap_or_else(|error| {
            tracing::error!(file = %path.display(), %error, "a pod's checkpoint cannot be read");
            Checkpoint::default()
        }))
    }

    /// Writes a pod's, whole or not at all.
    pub(crate) fn put(&self, pod: &str, checkpoint: &Checkpoint) -> Result<()> {
        let (path, incomplete) = (self.0.join(pod), self.0.join(format!(".{pod}")));
        let write = || {
            let mut file = fs::File::create(&incomplete)?;
            file.write_all(&checkpoint.encode_to_vec())?;
            fs::rename(&incomplete, &path)
        };
        write().map_err(|error| failed("written", &path, &error))
    }

    /// Removes a pod's; one that is not there is fine.
    pub(crate) fn remove(&self, pod: &str) -> Result<()> {
        let path = self.0.join(pod);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("removed", &path, &error))
            }
            _ => Ok(()),
        }
    }

    /// The pods that have one, in no order.
    pub(crate) fn pods(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.0).map_err(|error| failed("read", &self.0, &error))?;
        let names = entries.flatten().map(|entry| entry.file_name());
        Ok(names
            .filter_map(|name| name.into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect())
    }
}

fn failed(done: &str, path: &Path, error: &io::Error) -> Error {
    Error::internal(format!("{} cannot be {done}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_there_until_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(directory.path().to_owned());
        assert_eq!(checkpoints.get("a"), None);
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
        assert_eq!(checkpoints.pods().unwrap(), ["a"]);
        checkpoints.remove("a").unwrap();
        checkpoints.remove("a").unwrap();
        assert_eq!(checkpoints.get("a"), None);
    }

    #[test]
    fn a_damaged_one_says_that_the_pod_was_complete() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), [0xff; 7]).unwrap();
        let checkpoints = Checkpoints::new(directory.path().to_owned());
        assert_eq!(checkpoints.get("a"), Some(Checkpoint::default()));
        assert_eq!(checkpoints.pods().unwrap(), ["a"]);
    }
}
