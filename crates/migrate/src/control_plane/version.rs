//! The API server's version.

use serde_json::Value;
use tokio::time::Instant;

use super::client::Pauses;
use super::live::Live;
use super::refusal::Refusal;
use super::{Error, PreflightError};
use crate::cluster::causes;
use crate::node::Version;

impl Live {
    pub(super) async fn read_version(&self, until: Instant) -> Result<Version, Error> {
        let version = self.ask_version(until).await;
        version.map_err(|refusal| failed(&refusal))
    }

    /// Whether [`read_version`](Self::read_version) will have an answer.
    pub(super) async fn check_version(&self, until: Instant) -> Result<(), PreflightError> {
        match self.ask_version(until).await {
            Ok(_) => Ok(()),
            Err(refusal @ Refusal::Unreachable { .. }) => {
                Err(PreflightError::Unanswered(failed(&refusal)))
            }
            Err(refusal) => Err(PreflightError::Denied(failed(&refusal))),
        }
    }

    async fn ask_version(&self, until: Instant) -> Result<Version, Refusal> {
        let mut pauses = Pauses::default();
        loop {
            let error = match self.api.read("/version", until).await {
                Ok(said) => return version_of(&said),
                Err(error) => error,
            };
            let why = causes(&error);
            match &error {
                kube::Error::Api(status) if status.code == 403 => {
                    let why = format!(
                        "{why}; clusters allow that to all of their users, by the ClusterRole system:public-info-viewer: bind it to this one too, or take a kubeconfig that has it (--kubeconfig)"
                    );
                    return Err(Refusal::Forbidden { why, ending: false });
                }
                kube::Error::Api(status) if status.code == 401 => {
                    return Err(Refusal::Unauthorized(why));
                }
                _ => {}
            }
            if !pauses.pause(None, until).await {
                return Err(self.api.unreachable(why));
            }
        }
    }
}

fn version_of(said: &Value) -> Result<Version, Refusal> {
    let version = said["gitVersion"].as_str().unwrap_or_default();
    let version = version.parse();
    version.map_err(|said| Refusal::Failed { code: 200, said })
}

fn failed(refusal: &Refusal) -> Error {
    Error::new("reading the API server's version (GET /version)", refusal)
}
