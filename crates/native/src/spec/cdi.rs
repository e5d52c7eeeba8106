//! Devices of the Container Device Interface: by `ContainerConfig.CDI_devices`, and by annotations,
//! which kubelets and device plugins use that are older than the field.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, Spec};
use slipway_cdi::{Edits, QualifiedName, Registry};
use slipway_cgroup::{DeviceKind, DeviceRule};
use slipway_cri_api::v1::ContainerConfig;
use slipway_engine::{Error, Kind, Result};

use super::devices::of_oci;
use crate::config::Config;

/// How the keys of annotations begin whose values are names of devices, with commas between.
const ANNOTATION: &str = "cdi.k8s.io/";

/// Refuses names that no device can have.
pub(super) fn check(container: &ContainerConfig) -> Result<()> {
    asked(container).map(drop)
}

/// Looks up the devices that a container asks for, and what they need on the node. Reads the
/// specification files, so that it always has what they say now; without CDI devices it reads
/// nothing. Blocking.
pub(crate) fn resolve(config: &Config, container: &ContainerConfig) -> Result<Edits> {
    let asked = asked(container)?;
    let mut edits = Edits::default();
    if asked.is_empty() {
        return Ok(edits);
    }
    let usual = || ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).to_vec();
    let directories = config.cdi_spec_dirs.clone().unwrap_or_else(usual);
    let registry = Registry::load(&directories);
    for damaged in registry.damaged() {
        let (path, problem) = (damaged.path.display(), &damaged.problem);
        tracing::warn!(%path, problem, "a CDI specification cannot be used");
    }
    for (field, name) in asked {
        edits
            .add(&registry, &name)
            .map_err(|error| refused(&error, &field))?;
    }
    Ok(edits)
}

/// Applies edits to a configuration, and returns the rules for the cgroup that go with them.
pub(super) fn apply(
    edits: &Edits,
    spec: &mut Spec,
    container: &ContainerConfig,
) -> Result<Vec<DeviceRule>> {
    let mut rules = Vec::new();
    for (device, added) in edits.apply(spec) {
        of_oci(&device).fits_the_mounts(&container.mounts, "the CDI device node")?;
        rules.extend(added.as_ref().map(rule).transpose()?);
    }
    Ok(rules)
}

fn rule(rule: &LinuxDeviceCgroup) -> Result<DeviceRule> {
    let access = rule.access().as_deref().unwrap_or("rwm");
    Ok(DeviceRule {
        allow: rule.allow(),
        kind: match rule.typ() {
            Some(LinuxDeviceType::B) => DeviceKind::Block,
            _ => DeviceKind::Char,
        },
        major: rule.major(),
        minor: rule.minor(),
        access: access
            .parse()
            .map_err(|error| Error::internal(format!("a CDI device's rule: {error}")))?,
    })
}

/// The devices that a container asks for, each with the field that it is in.
fn asked(container: &ContainerConfig) -> Result<Vec<(String, QualifiedName)>> {
    let by_field = container
        .cdi_devices
        .iter()
        .map(|device| ("ContainerConfig.CDI_devices".to_owned(), &*device.name));
    let mut annotations: Vec<_> = container
        .annotations
        .iter()
        .filter(|(key, _)| key.starts_with(ANNOTATION))
        .collect();
    annotations.sort();
    let by_annotation = annotations.into_iter().flat_map(|(key, names)| {
        let field = format!("the annotation {key:?}");
        names.split(',').map(move |name| (field.clone(), name))
    });
    by_field
        .chain(by_annotation)
        .map(|(field, name)| match name.parse() {
            Ok(name) => Ok((field, name)),
            Err(error) => Err(refused(&error, &field)),
        })
        .collect()
}

fn refused(error: &slipway_cdi::Error, field: &str) -> Error {
    let kind = match error {
        slipway_cdi::Error::Unusable { .. } => Kind::FailedPrecondition,
        _ => Kind::InvalidArgument,
    };
    Error::new(kind, format!("{field}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_field_and_from_annotations() {
        let mut container = ContainerConfig::default();
        assert_eq!(asked(&container).unwrap(), []);
        let annotate = |container: &mut ContainerConfig, key: &str, value: &str| {
            let annotations = &mut container.annotations;
            annotations.insert(key.to_owned(), value.to_owned());
        };
        annotate(&mut container, "cdi.k8s.io/b", "v/c=2,v/c=3");
        annotate(&mut container, "cdi.k8s.io/a", "v/c=1");
        annotate(&mut container, "other.io/a", "not a name");
        container.cdi_devices = vec![slipway_cri_api::v1::CdiDevice {
            name: "v/c=0".to_owned(),
        }];
        let names: Vec<_> = asked(&container)
            .unwrap()
            .iter()
            .map(|(_, name)| name.to_string())
            .collect();
        assert_eq!(names, ["v/c=0", "v/c=1", "v/c=2", "v/c=3"]);
        annotate(&mut container, "cdi.k8s.io/b", "v/c=2,");
        let error = check(&container).unwrap_err().to_string();
        assert!(error.contains("cdi.k8s.io/b"), "{error}");
        container.cdi_devices[0].name = "gpu".to_owned();
        let error = check(&container).unwrap_err().to_string();
        assert!(error.contains("CDI_devices"), "{error}");
    }
}
