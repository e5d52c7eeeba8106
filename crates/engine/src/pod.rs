//! What a pod is called.

use std::fmt;

use slipway_cri_api::v1::{PodSandboxConfig, PodSandboxMetadata};

use crate::{Error, Result};

/// The name under which a pod sandbox is unique on its node: all of `PodSandboxMetadata`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodName {
    /// The pod's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
    /// How many sandboxes of this pod there were before.
    pub attempt: u32,
}

impl PodName {
    /// The name that a configuration gives.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::InvalidArgument`] when the metadata is missing, or its name, namespace or
    /// uid is empty.
    pub fn of(config: &PodSandboxConfig) -> Result<Self> {
        let Some(PodSandboxMetadata {
            name,
            uid,
            namespace,
            attempt,
        }) = &config.metadata
        else {
            return Err(Error::invalid("PodSandboxConfig.metadata is missing"));
        };
        for (field, value) in [("name", name), ("namespace", namespace), ("uid", uid)] {
            if value.is_empty() {
                return Err(Error::invalid(format!(
                    "PodSandboxConfig.metadata.{field} is empty; a pod needs a name, a namespace \
                     and a uid"
                )));
            }
        }
        Ok(Self {
            name: name.clone(),
            namespace: namespace.clone(),
            uid: uid.clone(),
            attempt: *attempt,
        })
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{} (uid {}, attempt {})",
            self.namespace, self.name, self.uid, self.attempt
        )
    }
}
