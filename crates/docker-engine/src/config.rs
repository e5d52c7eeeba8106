//! What of the configuration file this engine reads.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Pods on a Docker Engine.
// What its comments say is what an administrator reads in the configuration's reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where dockerd answers, as `unix://` and an absolute path.
    #[schemars(extend("x-restart" = true))]
    pub endpoint: String,
    /// The image of the container that holds a pod's namespaces; it is pulled, without credentials,
    /// where Docker does not have it. None takes the built-in one, which needs no registry.
    #[schemars(extend("x-restart" = true), example = "registry.k8s.io/pause:3.10")]
    pub pause_image: Option<String>,
    /// Where dockershim or cri-dockerd has recorded the networks of the pods that it made (libcni's
    /// cache). They are given back by what is found there.
    #[schemars(extend("x-restart" = true))]
    pub cni_cache: PathBuf,
    /// How long dockerd may take to answer one request, in seconds, from 1 to 600: beside the time
    /// that a container is given to stop. A pull may take as long as it likes.
    #[schemars(extend("x-restart" = true))]
    pub request_timeout: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: "unix:///var/run/docker.sock".to_owned(),
            pause_image: None,
            cni_cache: "/var/lib/cni/cache".into(),
            request_timeout: 60,
        }
    }
}

impl Config {
    /// Looks for values that cannot be used. Each is told to `complain`, by its key in this table
    /// and in a sentence.
    pub fn check(&self, complain: &mut dyn FnMut(&str, String)) {
        if self.socket().is_none() {
            complain(
                "endpoint",
                format!(
                    "{:?} is not unix:// and an absolute path, such as {:?}",
                    self.endpoint,
                    Self::default().endpoint
                ),
            );
        }
        if !self.cni_cache.is_absolute() {
            let path = self.cni_cache.display();
            complain("cni_cache", format!("\"{path}\" is not an absolute path"));
        }
        if self.pause_image.as_deref() == Some("") {
            let reason = "is empty; leave it out for the built-in image";
            complain("pause_image", reason.to_owned());
        }
        if !(1..=600).contains(&self.request_timeout) {
            let given = self.request_timeout;
            complain(
                "request_timeout",
                format!("{given} is not between 1 and 600"),
            );
        }
    }

    /// The path of dockerd's socket; none where the endpoint is no such thing.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        let path = Path::new(self.endpoint.strip_prefix("unix://")?);
        path.is_absolute().then(|| path.to_owned())
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout.clamp(1, 600))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(config: &Config) -> Vec<String> {
        let mut keys = Vec::new();
        config.check(&mut |key, _| keys.push(key.to_owned()));
        keys
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        assert!(complaints(&Config::default()).is_empty());
        let wrong = Config {
            endpoint: "tcp://127.0.0.1:2375".to_owned(),
            pause_image: Some(String::new()),
            cni_cache: "cache".into(),
            request_timeout: 0,
        };
        assert_eq!(
            complaints(&wrong),
            ["endpoint", "cni_cache", "pause_image", "request_timeout"]
        );
        let relative = Config {
            endpoint: "unix://docker.sock".to_owned(),
            ..Config::default()
        };
        assert_eq!(complaints(&relative), ["endpoint"]);
    }
}
