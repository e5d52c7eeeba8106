//! Device nodes and device rules: what every container has, what its request lists, and all of the
//! node's for a privileged one.

use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};
use slipway_cgroup::{Access, DeviceKind, DeviceRule};
use slipway_cri_api::v1::{ContainerConfig, LinuxContainerSecurityContext};
use slipway_engine::{Error, Result};
use slipway_resources::{DeviceNode, collect_devices, device_nodes};

use crate::config::Config;

/// A container's devices. The nodes that every container has (null, zero, full, tty, random,
/// urandom, ptmx) are the shim's.
#[derive(Debug)]
pub(super) struct Devices {
    pub(super) nodes: Vec<LinuxDevice>,
    pub(super) rules: Vec<DeviceRule>,
}

/// Finds the devices on the node. Blocking.
pub(super) fn of(
    config: &Config,
    container: &ContainerConfig,
    security: &LinuxContainerSecurityContext,
) -> Result<Devices> {
    let mut devices = if security.privileged {
        of_node()?
    } else {
        usual()
    };
    let mut listed = device_nodes(&container.devices, &container.mounts)?;
    for (node, access) in listed.granted {
        devices.rules.push(DeviceRule {
            access,
            ..rule(node.kind, Some(node.major), Some(node.minor))
        });
    }
    for node in &mut listed.nodes {
        if config.device_ownership_from_security_context {
            belong_to(node, security)?;
        }
        // What the request lists takes the place of the node's own by that name.
        devices.nodes.retain(|other| *other.path() != node.path);
        devices.nodes.push(in_oci(node)?);
    }
    Ok(devices)
}

/// Gives a device to the user that the request names, so that a container without root can use it.
fn belong_to(node: &mut DeviceNode, security: &LinuxContainerSecurityContext) -> Result<()> {
    for (asked, owner, field) in [
        (&security.run_as_user, &mut node.uid, "run_as_user"),
        (&security.run_as_group, &mut node.gid, "run_as_group"),
    ] {
        let Some(asked) = asked.as_ref().filter(|id| id.value != 0) else {
            continue;
        };
        *owner = u32::try_from(asked.value)
            .map_err(|_| Error::invalid(format!("{field} {} is not an id", asked.value)))?;
    }
    Ok(())
}

/// A device node as a configuration has it.
pub(super) fn of_oci(device: &LinuxDevice) -> DeviceNode {
    DeviceNode {
        path: device.path().clone(),
        kind: match device.typ() {
            LinuxDeviceType::B => DeviceKind::Block,
            _ => DeviceKind::Char,
        },
        major: device.major(),
        minor: device.minor(),
        mode: device.file_mode().unwrap_or(0o666),
        uid: device.uid().unwrap_or_default(),
        gid: device.gid().unwrap_or_default(),
    }
}

fn in_oci(node: &DeviceNode) -> Result<LinuxDevice> {
    LinuxDeviceBuilder::default()
        .path(&node.path)
        .typ(match node.kind {
            DeviceKind::Block => LinuxDeviceType::B,
            _ => LinuxDeviceType::C,
        })
        .major(node.major)
        .minor(node.minor)
        .file_mode(node.mode)
        .uid(node.uid)
        .gid(node.gid)
        .build()
        .map_err(super::built)
}

/// All that the node has.
fn of_node() -> Result<Devices> {
    let mut nodes = Vec::new();
    collect_devices(Path::new("/dev"), Path::new("/dev"), &mut nodes)
        .map_err(|error| Error::internal(format!("the node's /dev cannot be read: {error}")))?;
    Ok(Devices {
        nodes: nodes.iter().map(in_oci).collect::<Result<_>>()?,
        rules: vec![rule(DeviceKind::All, None, None)],
    })
}

/// What every container has.
fn usual() -> Devices {
    let read_write_mknod = |(major, minor)| rule(DeviceKind::Char, Some(major), minor);
    let mut rules = vec![DeviceRule {
        allow: false,
        ..rule(DeviceKind::All, None, None)
    }];
    // Making a node is harmless while it cannot be opened.
    let mknod = Access {
        read: false,
        write: false,
        mknod: true,
    };
    rules.push(DeviceRule {
        access: mknod,
        ..rule(DeviceKind::Char, None, None)
    });
    rules.push(DeviceRule {
        access: mknod,
        ..rule(DeviceKind::Block, None, None)
    });
    // null, zero, full, random, urandom, tty, ptmx and the pseudo-terminals of devpts.
    let usual = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(2)),
        (136, None),
    ];
    rules.extend(usual.map(read_write_mknod));
    Devices {
        nodes: Vec::new(),
        rules,
    }
}

fn rule(kind: DeviceKind, major: Option<i64>, minor: Option<i64>) -> DeviceRule {
    let access = Access {
        read: true,
        write: true,
        mknod: true,
    };
    DeviceRule {
        allow: true,
        kind,
        major,
        minor,
        access,
    }
}
