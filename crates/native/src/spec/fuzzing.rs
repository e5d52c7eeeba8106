//! A door for fuzzing: from a request to `config.json`, without a node.

use std::path::Path;

use oci_spec::image::ImageConfiguration;
use slipway_cgroup::CgroupPath;
use slipway_cri_api::v1::{ContainerConfig, PodSandboxConfig};
use slipway_engine::{Error, Result};

use super::{Plan, check_container, check_pod, confine, generate, security};
use crate::config::Config;
use crate::user;
use crate::volumes::ImageVolumes;

/// Does with a request what making a pod and a container would, up to its `config.json`. `image`
/// is an image's configuration; one that cannot be read is an empty one.
///
/// Host paths of mounts are taken to be below `scratch`, because those that are not there are made,
/// and host paths of devices below `/dev`.
///
/// # Errors
///
/// As CRI's `RunPodSandbox` and `CreateContainer`.
#[doc(hidden)]
pub fn config_json(
    pod: &PodSandboxConfig,
    mut container: ContainerConfig,
    image: &[u8],
    scratch: &Path,
) -> Result<Vec<u8>> {
    check_pod(pod)?;
    check_container(pod, &container)?;
    for mount in &mut container.mounts {
        let below: String = mount.host_path.replace("..", "");
        mount.host_path = format!("{}/{below}", scratch.display());
    }
    for device in &mut container.devices {
        device.host_path = format!("/dev/{}", device.host_path.replace("..", ""));
    }
    let image: ImageConfiguration = serde_json::from_slice(image).unwrap_or_default();
    let image_user = image.config().as_ref().and_then(|it| it.user().clone());
    let user = user::resolve(
        image_user.as_deref().unwrap_or_default(),
        &security(&container),
        &[],
    )?;
    let confinement = confine("0123456789abcdef", pod, &container)?;
    let cgroup =
        CgroupPath::parse("/pod/container").map_err(|error| Error::internal(error.to_string()))?;
    let generated = generate(&Plan {
        config: &Config::default(),
        pod,
        pod_directory: scratch,
        hostname: &pod.hostname,
        container: &container,
        image: &image,
        cdi: &slipway_cdi::Edits::default(),
        volumes: &ImageVolumes::default(),
        user: &user,
        confinement: &confinement,
        rootfs: Path::new("rootfs"),
        cgroups: slipway_cgroup::Version::V2,
        cgroup: &cgroup,
        resources: &slipway_resources::of_container(&container, None),
        target: Some(1),
    })?;
    serde_json::to_vec(&generated.spec).map_err(|error| Error::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_request_makes_what_the_shim_reads() {
        let scratch = tempfile::tempdir().unwrap();
        let container = ContainerConfig {
            command: vec!["/bin/true".to_owned()],
            ..ContainerConfig::default()
        };
        let pod = PodSandboxConfig::default();
        let json = config_json(&pod, container, b"", scratch.path()).unwrap();
        slipway_shim::check_config(&json).unwrap();
        let error = config_json(&pod, ContainerConfig::default(), b"", scratch.path()).unwrap_err();
        assert!(error.to_string().contains("command"), "{error}");
    }
}
