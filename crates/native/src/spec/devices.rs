//! Device nodes and device rules: what every container has, what its request lists, and all of the
//! node's for a privileged one.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};
use slipway_cgroup::{Access, DeviceKind, DeviceRule};
use slipway_cri_api::v1::{
    ContainerConfig, Device as Request, LinuxContainerSecurityContext, Mount,
};
use slipway_engine::{Error, Result};

use crate::config::Config;

/// A container's devices. The nodes that every container has (null, zero, full, tty, random,
/// urandom, ptmx) are the shim's.
#[derive(Debug)]
pub(super) struct Devices {
    pub(super) nodes: Vec<LinuxDevice>,
    pub(super) rules: Vec<DeviceRule>,
}

/// Refuses devices that could not be honoured on any node, by their field.
pub(super) fn check(config: &ContainerConfig) -> Result<()> {
    for device in &config.devices {
        access(device)?;
        let host = Path::new(&device.host_path);
        if !host.is_absolute() {
            return Err(Error::invalid(format!(
                "Device.host_path {:?} is not an absolute path",
                device.host_path
            )));
        }
        let target = container_path(device);
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

fn access(device: &Request) -> Result<Access> {
    device.permissions.parse().map_err(|_| {
        Error::invalid(format!(
            "Device.permissions {:?} of {} must be some of the letters r, w and m",
            device.permissions, device.host_path
        ))
    })
}

/// Where a device is to be: without a path of its own, where the node has it.
fn container_path(device: &Request) -> &Path {
    Path::new(if device.container_path.is_empty() {
        &device.host_path
    } else {
        &device.container_path
    })
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
    let mut listed: Vec<Node> = Vec::new();
    for request in &container.devices {
        let access = access(request)?;
        for mut node in on_node(request)? {
            if config.device_ownership_from_security_context {
                node.belong_to(security)?;
            }
            devices.rules.push(DeviceRule {
                access,
                ..rule(node.kind(), Some(node.major), Some(node.minor))
            });
            match listed.iter().find(|other| other.path == node.path) {
                None => listed.push(node),
                Some(other) if other.is_same_device(&node) => {}
                Some(other) => {
                    return Err(Error::invalid(format!(
                        "Device.container_path {} is asked for twice, for the device {}:{} and for \
                         {}:{}",
                        node.path.display(),
                        other.major,
                        other.minor,
                        node.major,
                        node.minor
                    )));
                }
            }
        }
    }
    for node in &listed {
        node.fits_the_mounts(&container.mounts, "Device.container_path")?;
        // What the request lists takes the place of the node's own by that name.
        devices.nodes.retain(|other| *other.path() != node.path);
        devices.nodes.push(node.in_oci()?);
    }
    Ok(devices)
}

/// A device node of the node, and where it is to be in the container.
#[derive(Debug, Clone)]
pub(super) struct Node {
    path: PathBuf,
    typ: LinuxDeviceType,
    major: i64,
    minor: i64,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Node {
    /// What is at a path, links followed; none where it is not a device.
    fn at(host: &Path, path: PathBuf) -> io::Result<Option<Self>> {
        let metadata = host.metadata()?;
        let kind = metadata.file_type();
        let typ = if kind.is_char_device() {
            LinuxDeviceType::C
        } else if kind.is_block_device() {
            LinuxDeviceType::B
        } else {
            return Ok(None);
        };
        Ok(Some(Self {
            path,
            typ,
            major: i64::from(rustix::fs::major(metadata.rdev())),
            minor: i64::from(rustix::fs::minor(metadata.rdev())),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        }))
    }

    /// A mount over a place where there is to be a device would hide it.
    pub(super) fn fits_the_mounts(&self, mounts: &[Mount], field: &str) -> Result<()> {
        for mount in mounts {
            let target = Path::new(&mount.container_path);
            if self.path != target
                && (target != Path::new("/dev") || !self.path.starts_with(target))
            {
                continue;
            }
            // The volume may have that very device there, as the node's /dev has.
            let there =
                Path::new(&mount.host_path).join(self.path.strip_prefix(target).unwrap_or(target));
            let there = if self.path == target {
                PathBuf::from(&mount.host_path)
            } else {
                there
            };
            let same = Self::at(&there, self.path.clone())
                .is_ok_and(|other| other.is_some_and(|other| other.is_same_device(self)));
            if !same {
                return Err(Error::invalid(format!(
                    "{field} {} is covered by the mount of {} on {}, which has another \
                     thing there",
                    self.path.display(),
                    mount.host_path,
                    mount.container_path
                )));
            }
        }
        Ok(())
    }

    /// What a configuration says already.
    pub(super) fn of_oci(device: &LinuxDevice) -> Self {
        Self {
            path: device.path().clone(),
            typ: device.typ(),
            major: device.major(),
            minor: device.minor(),
            mode: device.file_mode().unwrap_or(0o666),
            uid: device.uid().unwrap_or_default(),
            gid: device.gid().unwrap_or_default(),
        }
    }

    fn kind(&self) -> DeviceKind {
        match self.typ {
            LinuxDeviceType::B => DeviceKind::Block,
            _ => DeviceKind::Char,
        }
    }

    fn is_same_device(&self, other: &Self) -> bool {
        (self.typ, self.major, self.minor) == (other.typ, other.major, other.minor)
    }

    /// Gives it to the user that the request names, so that a container without root can use it.
    fn belong_to(&mut self, security: &LinuxContainerSecurityContext) -> Result<()> {
        for (asked, owner, field) in [
            (&security.run_as_user, &mut self.uid, "run_as_user"),
            (&security.run_as_group, &mut self.gid, "run_as_group"),
        ] {
            let Some(asked) = asked.as_ref().filter(|id| id.value != 0) else {
                continue;
            };
            *owner = u32::try_from(asked.value)
                .map_err(|_| Error::invalid(format!("{field} {} is not an id", asked.value)))?;
        }
        Ok(())
    }

    fn in_oci(&self) -> Result<LinuxDevice> {
        LinuxDeviceBuilder::default()
            .path(&self.path)
            .typ(self.typ)
            .major(self.major)
            .minor(self.minor)
            .file_mode(self.mode)
            .uid(self.uid)
            .gid(self.gid)
            .build()
            .map_err(super::built)
    }
}

/// The devices that a request stands for: one, or for a directory all that are below it.
fn on_node(request: &Request) -> Result<Vec<Node>> {
    let host = Path::new(&request.host_path);
    let unusable = |error: &io::Error| {
        Error::precondition(format!(
            "Device.host_path {} cannot be used on this node: {error}",
            host.display()
        ))
    };
    let target: PathBuf = container_path(request).components().collect();
    let metadata = host.metadata().map_err(|error| unusable(&error))?;
    let nodes = if metadata.is_dir() {
        let mut nodes = Vec::new();
        let host = host.canonicalize().map_err(|error| unusable(&error))?;
        collect(&host, &target, &mut nodes).map_err(|error| unusable(&error))?;
        nodes
    } else {
        let node = Node::at(host, target).map_err(|error| unusable(&error))?;
        node.into_iter().collect()
    };
    if nodes.is_empty() {
        return Err(Error::invalid(format!(
            "Device.host_path {} is not a device, nor a directory with a device in it",
            host.display()
        )));
    }
    Ok(nodes)
}

/// All that the node has.
fn of_node() -> Result<Devices> {
    let mut nodes = Vec::new();
    collect(Path::new("/dev"), Path::new("/dev"), &mut nodes)
        .map_err(|error| Error::internal(format!("the node's /dev cannot be read: {error}")))?;
    Ok(Devices {
        nodes: nodes.iter().map(Node::in_oci).collect::<Result<_>>()?,
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

/// Every device node below a directory, without what a container gets its own of. Links are left
/// out: what they lead to is listed itself, if it is below the directory.
fn collect(directory: &Path, target: &Path, nodes: &mut Vec<Node>) -> io::Result<()> {
    const OWN: &[&str] = &["pts", "shm", "mqueue", "fd", "console", "ptmx", "tty"];
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if directory == Path::new("/dev") && OWN.iter().any(|own| name == *own) {
            continue;
        }
        // A node that goes away meanwhile was not there.
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let target = target.join(&name);
        if kind.is_dir() {
            collect(&entry.path(), &target, nodes)?;
        } else if kind.is_char_device() || kind.is_block_device() {
            nodes.extend(Node::at(&entry.path(), target).ok().flatten());
        }
    }
    Ok(())
}
