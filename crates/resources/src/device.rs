//! Devices of the node, as containers are to have them.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use slipway_cgroup::{Access, DeviceKind};
use slipway_cri_api::v1::{Device, Mount};
use slipway_engine::refuse::device_target;
use slipway_engine::{Error, Result};

/// What a container's requests for devices stand for.
#[derive(Debug, Clone)]
pub struct Devices {
    /// The device nodes, each once.
    pub nodes: Vec<DeviceNode>,
    /// What may be done with them, by each request in their order.
    pub granted: Vec<(DeviceNode, Access)>,
}

/// Finds the device nodes that requests ask for. Blocking, briefly.
///
/// # Errors
///
/// What is no device, what is asked for twice at one place, and what a mount would hide is
/// [`slipway_engine::Kind::InvalidArgument`]; what the node has not got is
/// [`slipway_engine::Kind::FailedPrecondition`].
pub fn device_nodes(devices: &[Device], mounts: &[Mount]) -> Result<Devices> {
    let mut granted = Vec::new();
    let mut listed: Vec<DeviceNode> = Vec::new();
    for request in devices {
        let access = access(request)?;
        for node in on_node(request)? {
            granted.push((node.clone(), access));
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
        node.fits_the_mounts(mounts, "Device.container_path")?;
    }
    Ok(Devices {
        nodes: listed,
        granted,
    })
}

fn access(device: &Device) -> Result<Access> {
    device.permissions.parse().map_err(|_| {
        Error::invalid(format!(
            "Device.permissions {:?} of {} must be some of the letters r, w and m",
            device.permissions, device.host_path
        ))
    })
}

/// A device node of the node, and where it is to be in the container.
#[derive(Debug, Clone)]
pub struct DeviceNode {
    /// In the container.
    pub path: PathBuf,
    /// Character or block.
    pub kind: DeviceKind,
    /// The driver.
    pub major: i64,
    /// Which of the driver's devices.
    pub minor: i64,
    /// Permissions, without the type of file.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
}

impl DeviceNode {
    /// What is at a path, links followed; none where it is not a device.
    fn at(host: &Path, path: PathBuf) -> io::Result<Option<Self>> {
        let metadata = host.metadata()?;
        let file = metadata.file_type();
        let kind = if file.is_char_device() {
            DeviceKind::Char
        } else if file.is_block_device() {
            DeviceKind::Block
        } else {
            return Ok(None);
        };
        Ok(Some(Self {
            path,
            kind,
            major: i64::from(rustix::fs::major(metadata.rdev())),
            minor: i64::from(rustix::fs::minor(metadata.rdev())),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        }))
    }

    /// A mount over a place where there is to be a device would hide it.
    pub fn fits_the_mounts(&self, mounts: &[Mount], field: &str) -> Result<()> {
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

    fn is_same_device(&self, other: &Self) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }
}
/// The devices that a request stands for: one, or for a directory all that are below it.
fn on_node(request: &Device) -> Result<Vec<DeviceNode>> {
    let host = Path::new(&request.host_path);
    let unusable = |error: &io::Error| {
        Error::precondition(format!(
            "Device.host_path {} cannot be used on this node: {error}",
            host.display()
        ))
    };
    let target: PathBuf = Path::new(device_target(request)).components().collect();
    let metadata = host.metadata().map_err(|error| unusable(&error))?;
    let nodes = if metadata.is_dir() {
        let mut nodes = Vec::new();
        let host = host.canonicalize().map_err(|error| unusable(&error))?;
        collect_devices(&host, &target, &mut nodes).map_err(|error| unusable(&error))?;
        nodes
    } else {
        let node = DeviceNode::at(host, target).map_err(|error| unusable(&error))?;
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

/// Every device node below a directory, without what a container gets its own of. Links are left
/// out: what they lead to is listed itself, if it is below the directory. Blocking, briefly.
pub fn collect_devices(
    directory: &Path,
    target: &Path,
    nodes: &mut Vec<DeviceNode>,
) -> io::Result<()> {
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
            collect_devices(&entry.path(), &target, nodes)?;
        } else if kind.is_char_device() || kind.is_block_device() {
            nodes.extend(DeviceNode::at(&entry.path(), target).ok().flatten());
        }
    }
    Ok(())
}
