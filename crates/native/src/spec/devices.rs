//! Device nodes and device rules: what every container has, or all of the node's for a privileged
//! one.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};
use slipway_cgroup::{Access, DeviceKind, DeviceRule};
use slipway_engine::{Error, Result};

/// A container's devices. The nodes that every container has (null, zero, full, tty, random,
/// urandom, ptmx) are the shim's.
pub(super) struct Devices {
    pub(super) nodes: Vec<LinuxDevice>,
    pub(super) rules: Vec<DeviceRule>,
}

pub(super) fn of(privileged: bool) -> Result<Devices> {
    if privileged {
        let mut nodes = Vec::new();
        collect(Path::new("/dev"), &mut nodes)
            .map_err(|error| Error::internal(format!("the node's /dev cannot be read: {error}")))?;
        return Ok(Devices {
            nodes,
            rules: vec![rule(DeviceKind::All, None, None)],
        });
    }
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
    Ok(Devices {
        nodes: Vec::new(),
        rules,
    })
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

/// Every device node below a directory, without what a container gets its own of.
fn collect(directory: &Path, nodes: &mut Vec<LinuxDevice>) -> io::Result<()> {
    const OWN: &[&str] = &["pts", "shm", "mqueue", "fd", "console", "ptmx", "tty"];
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if directory == Path::new("/dev") && OWN.iter().any(|own| name == *own) {
            continue;
        }
        // A node that goes away meanwhile was not there.
        let Ok(metadata) = entry.path().symlink_metadata() else {
            continue;
        };
        let kind = metadata.file_type();
        let typ = if kind.is_dir() {
            collect(&entry.path(), nodes)?;
            continue;
        } else if kind.is_char_device() {
            LinuxDeviceType::C
        } else if kind.is_block_device() {
            LinuxDeviceType::B
        } else {
            continue;
        };
        let node = LinuxDeviceBuilder::default()
            .path(entry.path())
            .typ(typ)
            .major(i64::from(rustix::fs::major(metadata.rdev())))
            .minor(i64::from(rustix::fs::minor(metadata.rdev())))
            .file_mode(metadata.mode() & 0o7777)
            .uid(metadata.uid())
            .gid(metadata.gid())
            .build()
            .map_err(io::Error::other)?;
        nodes.push(node);
    }
    Ok(())
}
