//! A container's mounts: the kernel's file systems, the pod's files, the request's volumes.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};
use slipway_cri_api::v1::{
    LinuxContainerSecurityContext, Mount as Request, MountPropagation, NamespaceMode,
};
use slipway_engine::{Error, Result};

use super::{Plan, built, pod_namespaces};

pub(super) fn of(plan: &Plan<'_>, security: &LinuxContainerSecurityContext) -> Result<Vec<Mount>> {
    let wanted: HashSet<PathBuf> = plan
        .container
        .mounts
        .iter()
        .map(|mount| Path::new(&mount.container_path).components().collect())
        .collect();
    let sys = if security.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"])?,
        mount(
            "tmpfs",
            "tmpfs",
            "/dev",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        )?,
        mount(
            "devpts",
            "devpts",
            "/dev/pts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        )?,
        mount(
            "mqueue",
            "mqueue",
            "/dev/mqueue",
            &["nosuid", "noexec", "nodev"],
        )?,
        mount(
            "sysfs",
            "sysfs",
            "/sys",
            &["nosuid", "noexec", "nodev", sys],
        )?,
        mount(
            "cgroup",
            "cgroup",
            "/sys/fs/cgroup",
            &["nosuid", "noexec", "nodev", "relatime", sys],
        )?,
    ];
    let shm = if pod_namespaces(plan.pod).ipc == NamespaceMode::Node as i32 {
        PathBuf::from("/dev/shm")
    } else {
        plan.pod_directory.join("shm")
    };
    mounts.push(bind(
        &shm,
        "/dev/shm",
        &["rbind", "nosuid", "nodev", "noexec"],
    )?);
    let root = if security.readonly_rootfs { "ro" } else { "rw" };
    for (file, target) in [
        ("resolv.conf", "/etc/resolv.conf"),
        ("hostname", "/etc/hostname"),
    ] {
        mounts.push(bind(
            &plan.pod_directory.join(file),
            target,
            &["bind", root],
        )?);
    }
    // What the request brings itself, the kubelet's /etc/hosts and /dev/shm for example, wins.
    mounts.retain(|mount| !wanted.contains(mount.destination()));

    let mut requests: Vec<&Request> = plan.container.mounts.iter().collect();
    // A mount at /a must be there before the one at /a/b.
    requests.sort_by_key(|mount| Path::new(&mount.container_path).components().count());
    for request in requests {
        mounts.push(volume(request)?);
    }
    Ok(mounts)
}

/// How the root of the container's mount namespace must be tied to the node's, so that the mounts'
/// own propagation can work (`linux.rootfsPropagation`).
pub(super) fn propagation(mounts: &[Request]) -> &'static str {
    let any = |wanted: MountPropagation| {
        mounts
            .iter()
            .any(|mount| mount.propagation == wanted as i32)
    };
    if any(MountPropagation::PropagationBidirectional) {
        "rshared"
    } else if any(MountPropagation::PropagationHostToContainer) {
        "rslave"
    } else {
        "rprivate"
    }
}

fn mount(typ: &str, source: &str, destination: &str, options: &[&str]) -> Result<Mount> {
    MountBuilder::default()
        .typ(typ)
        .source(source)
        .destination(destination)
        .options(
            options
                .iter()
                .map(|&option| option.to_owned())
                .collect::<Vec<_>>(),
        )
        .build()
        .map_err(built)
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Result<Mount> {
    let mut mount = mount("bind", "", destination, options)?;
    mount.set_source(Some(source.to_owned()));
    Ok(mount)
}

fn volume(request: &Request) -> Result<Mount> {
    let host = Path::new(&request.host_path);
    let source = match host.canonicalize() {
        Ok(path) => path,
        // As under dockershim: a host path that is not there becomes a directory.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(host).map_err(|error| unusable(host, &error))?;
            host.canonicalize()
                .map_err(|error| unusable(host, &error))?
        }
        Err(error) => return Err(unusable(host, &error)),
    };
    let propagation = match MountPropagation::try_from(request.propagation) {
        Ok(MountPropagation::PropagationBidirectional) => "rshared",
        Ok(MountPropagation::PropagationHostToContainer) => "rslave",
        _ => "rprivate",
    };
    let access = match (request.readonly, request.recursive_read_only) {
        (false, _) => "rw",
        (true, false) => "ro",
        (true, true) => "rro",
    };
    bind(
        &source,
        &request.container_path,
        &["rbind", propagation, access],
    )
}

fn unusable(host: &Path, error: &std::io::Error) -> Error {
    Error::invalid(format!(
        "the host path {} of a mount cannot be used: {error}",
        host.display()
    ))
}
