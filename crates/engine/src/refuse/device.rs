//! Devices of a container.

use std::path::{Component, Path};

use slipway_cri_api::v1::Device;

use crate::{Error, Result};

/// Refuses devices whose paths or permissions mean nothing.
///
/// # Errors
///
/// [`crate::Kind::InvalidArgument`].
pub fn devices(devices: &[Device]) -> Result<()> {
    for device in devices {
        let letters = &device.permissions;
        if letters.is_empty() || !letters.chars().all(|letter| "rwm".contains(letter)) {
            return Err(Error::invalid(format!(
                "Device.permissions {letters:?} of {} must be some of the letters r, w and m",
                device.host_path
            )));
        }
        let host = Path::new(&device.host_path);
        if !host.is_absolute() {
            return Err(Error::invalid(format!(
                "Device.host_path {:?} is not an absolute path",
                device.host_path
            )));
        }
        let target = Path::new(device_target(device));
        let climbs = target.components().any(|part| part == Component::ParentDir);
        if !target.is_absolute() || climbs || target.parent().is_none() {
            return Err(Error::invalid(format!(
                "Device.container_path {:?} is not an absolute path without \"..\"",
                device.container_path
            )));
        }
    }
    Ok(())
}

/// Where a device is to be: without a path of its own, where the node has it.
pub fn device_target(device: &Device) -> &str {
    if device.container_path.is_empty() {
        &device.host_path
    } else {
        &device.container_path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_refused_by_its_field() {
        let device = |host: &str, container: &str, permissions: &str| Device {
            host_path: host.to_owned(),
            container_path: container.to_owned(),
            permissions: permissions.to_owned(),
        };
        devices(&[device("/dev/null", "", "rwm"), device("/a", "/b", "m")]).unwrap();
        for (device, word) in [
            (device("null", "", "r"), "host_path"),
            (device("/dev/null", "x", "r"), "container_path"),
            (device("/dev/null", "/dev/../x", "r"), "container_path"),
            (device("/dev/null", "/", "r"), "container_path"),
            (device("/dev/null", "", ""), "permissions"),
            (device("/dev/null", "", "rx"), "permissions"),
        ] {
            let error = devices(&[device]).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
