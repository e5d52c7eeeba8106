//! Volumes of a container.

use std::path::{Component, Path};

use slipway_cri_api::v1::{ImageSpec, Mount, MountPropagation};

use crate::{Error, Result};

/// Refuses mounts whose fields mean nothing, or contradict each other.
///
/// # Errors
///
/// [`crate::Kind::InvalidArgument`].
pub fn mounts(mounts: &[Mount]) -> Result<()> {
    for mount in mounts {
        let target = &mount.container_path;
        check_target(target)?;
        let Ok(propagation) = MountPropagation::try_from(mount.propagation) else {
            return Err(Error::invalid(format!(
                "Mount.propagation {} of {target:?} is unknown",
                mount.propagation
            )));
        };
        // Without an image its sub path says nothing: a kubelet sets it on every mount of a sub path in
        // a pod that has an image volume, and has resolved that in the host path already.
        if let Some(image) = &mount.image {
            check_image_volume(mount, image, propagation)?;
            continue;
        }
        if !Path::new(&mount.host_path).is_absolute() {
            return Err(Error::invalid(format!(
                "Mount.host_path {:?} is not an absolute path",
                mount.host_path
            )));
        }
        if mount.recursive_read_only
            && (!mount.readonly || propagation != MountPropagation::PropagationPrivate)
        {
            return Err(Error::invalid(format!(
                "Mount.recursive_read_only of {target:?} needs readonly and private propagation"
            )));
        }
    }
    Ok(())
}

/// Where something can be put in a container: an absolute path, which does not climb.
fn check_target(target: &str) -> Result<()> {
    let path = Path::new(target);
    let climbs = path.components().any(|part| part == Component::ParentDir);
    if !path.is_absolute() || climbs {
        return Err(Error::invalid(format!(
            "Mount.container_path {target:?} is not an absolute path without \"..\""
        )));
    }
    if path.parent().is_none() {
        return Err(Error::invalid(
            "Mount.container_path is \"/\": nothing can be mounted over the whole root file system",
        ));
    }
    Ok(())
}

fn check_image_volume(
    mount: &Mount,
    image: &ImageSpec,
    propagation: MountPropagation,
) -> Result<()> {
    let target = &mount.container_path;
    let problem = if image.image.is_empty() {
        "names no image (ImageSpec.image is empty)"
    } else if !mount.host_path.is_empty() {
        "has a host_path beside it, which is not for image volumes"
    } else if propagation != MountPropagation::PropagationPrivate {
        "has a propagation other than private, but nothing is ever mounted in an image"
    } else if Path::new(&mount.image_sub_path)
        .components()
        .any(|part| part == Component::ParentDir)
    {
        "has an image_sub_path with \"..\""
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!(
        "Mount.image of {target:?} {problem}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_refused_by_its_field() {
        let plain = || Mount {
            host_path: "/data".to_owned(),
            container_path: "/data".to_owned(),
            ..Mount::default()
        };
        mounts(&[plain()]).unwrap();
        for (mount, word) in [
            (
                Mount {
                    container_path: "data".to_owned(),
                    ..plain()
                },
                "container_path",
            ),
            (
                Mount {
                    container_path: "/".to_owned(),
                    ..plain()
                },
                "root file system",
            ),
            (
                Mount {
                    host_path: "data".to_owned(),
                    ..plain()
                },
                "host_path",
            ),
            (
                Mount {
                    propagation: 9,
                    ..plain()
                },
                "propagation",
            ),
            (
                Mount {
                    recursive_read_only: true,
                    ..plain()
                },
                "recursive_read_only",
            ),
            (
                Mount {
                    image: Some(ImageSpec::default()),
                    ..plain()
                },
                "Mount.image",
            ),
        ] {
            let error = mounts(&[mount]).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
