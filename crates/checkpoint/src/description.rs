//! What an archive says of its container.

use serde_json::{Value, json};
use slipway_cri_api::v1::{ImageSpec, PodSandboxMetadata};

/// A container whose state is written down.
#[derive(Debug)]
pub struct Description<'a> {
    /// The container's.
    pub id: &'a str,
    /// Its name in the pod.
    pub name: &'a str,
    /// Its pod's id.
    pub pod_id: &'a str,
    /// Its pod's name.
    pub pod: &'a PodSandboxMetadata,
    /// The image as it was asked for.
    pub image: &'a ImageSpec,
    /// The image as it was found.
    pub image_ref: &'a str,
    /// What runs the container.
    pub runtime: &'a str,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Nanoseconds since the epoch.
    pub started_at: i64,
    /// Its first process, as the node numbers it.
    pub pid: i32,
    /// The OCI configuration that it was made from, as far as it is known.
    pub config: Value,
}

impl Description<'_> {
    /// The files of it by their names in an archive: `config.dump` is podman's and CRI-O's,
    /// `status` containerd's, `spec.dump` the OCI configuration with the annotations by which
    /// containerd's archives tell whose they are.
    #[must_use]
    pub fn files(self) -> Vec<(&'static str, Value)> {
        let image = match self.image.user_specified_image.as_str() {
            "" => &self.image.image,
            asked => asked,
        };
        let mut config = self.config;
        for (name, value) in [
            ("io.container.manager", "slipway"),
            ("io.kubernetes.cri.container-name", self.name),
            ("io.kubernetes.cri.sandbox-name", &self.pod.name),
            ("io.kubernetes.cri.sandbox-namespace", &self.pod.namespace),
            ("io.kubernetes.cri.sandbox-uid", &self.pod.uid),
            ("io.kubernetes.cri.sandbox-id", self.pod_id),
        ] {
            config["annotations"][name] = json!(value);
        }
        let time = |nanoseconds: i64| {
            let time = jiff::Timestamp::from_nanosecond(nanoseconds.into());
            time.unwrap_or_default().to_string()
        };
        let described = json!({
            "id": self.id,
            "name": self.name,
            "rootfsImage": image,
            "rootfsImageName": image,
            "rootfsImageRef": self.image_ref,
            "runtime": self.runtime,
            "createdTime": time(self.created_at),
            "checkpointedTime": jiff::Timestamp::now().to_string(),
            "restoredTime": "0001-01-01T00:00:00Z",
            "restored": false,
        });
        let status = json!({
            "CreatedAt": self.created_at,
            "StartedAt": self.started_at,
            "FinishedAt": 0,
            "ExitCode": 0,
            "Pid": self.pid,
            "Reason": "",
            "Message": "",
        });
        vec![
            ("config.dump", described),
            ("spec.dump", config),
            ("status", status),
        ]
    }
}
