//! A container's mounts: the kernel's file systems, the pod's files, the request's volumes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};
use slipway_cri_api::v1::{
    LinuxContainerSecurityContext, Mount as Request, MountPropagation, NamespaceMode,
};
use slipway_engine::{Error, Result};

use super::{Plan, built, namespaces, pod_namespaces};
use crate::rootfs::{self, Found};
use crate::{kernel, mountinfo};

/// Refuses volumes that are not to get a container's label, where there are labels.
pub(super) fn check(mounts: &[Request]) -> Result<()> {
    let relabelled = mounts.iter().filter(|mount| mount.selinux_relabel);
    if Path::new("/sys/fs/selinux/enforce").exists() {
        relabelled.into_iter().try_for_each(check_relabel)?;
    }
    Ok(())
}

/// Everything below would get the container's label: of these, the node's own programs need theirs.
fn check_relabel(mount: &Request) -> Result<()> {
    let host: PathBuf = Path::new(&mount.host_path).components().collect();
    let is = |path: &str| host == Path::new(path);
    if [
        "/", "/usr", "/etc", "/var", "/run", "/boot", "/home", "/root", "/dev", "/proc", "/sys",
        "/tmp",
    ]
    .into_iter()
    .any(is)
    {
        return Err(Error::invalid(format!(
            "Mount.selinux_relabel of {:?}: {} is the node's own, and would not work any more with \
             a container's label",
            mount.container_path,
            host.display()
        )));
    }
    Ok(())
}

/// Makes the list, in the order in which things are to be mounted.
pub(super) fn of(plan: &Plan<'_>, security: &LinuxContainerSecurityContext) -> Result<Vec<Mount>> {
    let requests = &plan.container.mounts;
    let targets: Vec<PathBuf> = requests.iter().map(target).collect();
    let mut mounts = of_kernel(security.privileged)?;
    // What the request brings itself is all there is at that path: whoever mounts the node's /dev
    // gets the node's /dev/pts with it.
    mounts.retain(|mount| {
        !targets
            .iter()
            .any(|target| mount.destination().starts_with(target))
    });

    let mut others = of_pod(plan, security)?;
    others.retain(|mount| {
        // The kubelet's /etc/hosts and /dev/shm, for example, win.
        !targets.contains(mount.destination())
            // Nor must the pod's files come to lie on the node's.
            && !requests.iter().any(|request| {
                request.propagation == MountPropagation::PropagationBidirectional as i32
                    && mount.destination().starts_with(target(request))
            })
    });
    for request in requests {
        others.push(match &request.image {
            Some(image) => image_volume(request, plan.volumes.layers(&image.image))?,
            None => volume(request)?,
        });
    }
    // A mount at /a must be there before the one at /a/b. Of several at one place, the last one is
    // seen.
    others.sort_by_key(|mount| mount.destination().components().count());
    mounts.extend(others);
    Ok(mounts)
}

fn target(request: &Request) -> PathBuf {
    Path::new(&request.container_path).components().collect()
}

/// The file systems that show the kernel.
fn of_kernel(privileged: bool) -> Result<Vec<Mount>> {
    let sys = if privileged { "rw" } else { "ro" };
    Ok(vec![
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
    ])
}

/// What the containers of a pod share.
fn of_pod(plan: &Plan<'_>, security: &LinuxContainerSecurityContext) -> Result<Vec<Mount>> {
    let shm = if pod_namespaces(plan.pod).ipc == NamespaceMode::Node as i32 {
        PathBuf::from("/dev/shm")
    } else {
        plan.pod_directory.join("shm")
    };
    let options = ["rbind", "nosuid", "nodev", "noexec"];
    let mut mounts = vec![bind(&shm, "/dev/shm", &options)?];
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
    let destination: PathBuf = Path::new(destination).components().collect();
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
    let source = host_path(request)?;
    let propagation = match MountPropagation::try_from(request.propagation) {
        Ok(MountPropagation::PropagationBidirectional) => "rshared",
        Ok(MountPropagation::PropagationHostToContainer) => "rslave",
        _ => "rprivate",
    };
    if propagation != "rprivate" {
        can_spread(request, &source)?;
    }
    let access = match (request.readonly, request.recursive_read_only) {
        (false, _) => "rw",
        (true, false) => "ro",
        (true, true) => {
            kernel::recursive_read_only().map_err(|error| {
                Error::precondition(format!(
                    "Mount.recursive_read_only of {:?}: this kernel cannot make a mount read-only \
                     with all that is mounted below it ({error}; it takes Linux 5.12)",
                    request.container_path
                ))
            })?;
            "rro"
        }
    };
    let mut mount = bind(
        &source,
        &request.container_path,
        &["rbind", propagation, access],
    )?;
    namespaces::map_mount(&mut mount, request)?;
    Ok(mount)
}

/// What a mount's host path leads to now; links are followed this once.
fn host_path(request: &Request) -> Result<PathBuf> {
    let host = Path::new(&request.host_path);
    let unusable = |error: &io::Error| {
        Error::invalid(format!(
            "Mount.host_path {} of {:?} cannot be used: {error}",
            host.display(),
            request.container_path
        ))
    };
    match host.canonicalize() {
        // As under dockershim: a host path that is not there becomes a directory.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(host).map_err(|error| unusable(&error))?;
            host.canonicalize().map_err(|error| unusable(&error))
        }
        other => other.map_err(|error| unusable(&error)),
    }
}

/// Mounts spread only from and to a mount of the node that is prepared for it.
fn can_spread(request: &Request, source: &Path) -> Result<()> {
    let mount = mountinfo::of(source).map_err(|error| {
        Error::internal(format!(
            "the mount of {} cannot be looked up: {error}",
            source.display()
        ))
    })?;
    let both_ways = request.propagation == MountPropagation::PropagationBidirectional as i32;
    if mount.shared || (mount.slave && !both_ways) {
        return Ok(());
    }
    let (asked, needed) = if both_ways {
        ("BIDIRECTIONAL", "shared")
    } else {
        ("HOST_TO_CONTAINER", "shared or slave")
    };
    let point = mount.point.display();
    Err(Error::precondition(format!(
        "Mount.propagation of {:?} is {asked}, but its host path {} lies on the mount {point}, which \
         is not a {needed} one, so that mounts would not spread; run `mount --make-rshared {point}` \
         on the node",
        request.container_path,
        source.display()
    )))
}

/// An image, or a part of one, that nothing is written to. Programs in it may be executed: CRI's
/// conformance tests want it.
fn image_volume(request: &Request, layers: &[PathBuf]) -> Result<Mount> {
    const OPTIONS: [&str; 3] = ["ro", "nosuid", "nodev"];
    let target = &request.container_path;
    let image = request.image.as_ref().map_or("", |image| &image.image);
    let sub_path = Path::new(&request.image_sub_path);
    let found = rootfs::find(layers, sub_path).map_err(|error| {
        Error::internal(format!(
            "Mount.image_sub_path {} of {target:?} cannot be looked up in the image {image}: \
             {error}",
            sub_path.display()
        ))
    })?;
    let directories = match found {
        None => {
            return Err(Error::invalid(format!(
                "Mount.image_sub_path {:?} of {target:?} is not in the image {image}",
                request.image_sub_path
            )));
        }
        Some(Found::File(file)) => {
            return bind(
                &file,
                target,
                &[&["bind", "rprivate"], &OPTIONS[..]].concat(),
            );
        }
        Some(Found::Directory(directories)) => directories,
    };
    match &directories[..] {
        // An image of no layers is an empty directory.
        [] => mount(
            "tmpfs",
            "tmpfs",
            target,
            &[&["size=0k"], &OPTIONS[..]].concat(),
        ),
        // An overlay takes two directories or more.
        [only] => bind(
            only,
            target,
            &[&["bind", "rprivate"], &OPTIONS[..]].concat(),
        ),
        several => {
            let topmost_first = several.iter().rev().map(|path| escaped(path));
            let lower = topmost_first.collect::<Result<Vec<_>>>()?.join(":");
            let lower = format!("lowerdir={lower}");
            let options = [&[lower.as_str()], &OPTIONS[..]].concat();
            mount("overlay", "overlay", target, &options)
        }
    }
}

/// A directory in the list of layers (overlayfs.rst): a colon would end it.
fn escaped(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| {
        Error::invalid(format!(
            "the path {} of a layer is not UTF-8",
            path.display()
        ))
    })?;
    Ok(text.replace('\\', "\\\\").replace(':', "\\:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_own_directories_are_not_relabelled() {
        let check = |host: &str| {
            check_relabel(&Request {
                host_path: host.to_owned(),
                container_path: "/data".to_owned(),
                selinux_relabel: true,
                ..Request::default()
            })
        };
        for host in ["/", "/etc", "/usr/", "//var/.", "/home"] {
            let error = check(host).unwrap_err().to_string();
            assert!(error.contains("Mount.selinux_relabel"), "{error}");
            assert!(error.contains("/data"), "{error}");
        }
        for host in ["/etc/app", "/var/lib/kubelet/pods/x", "/srv", "/data"] {
            assert!(check(host).is_ok(), "{host}");
        }
    }

    #[test]
    fn the_root_spreads_as_far_as_the_furthest_of_its_mounts() {
        use MountPropagation::{
            PropagationBidirectional, PropagationHostToContainer, PropagationPrivate,
        };
        for (mounts, expected) in [
            (&[][..], "rprivate"),
            (&[PropagationPrivate], "rprivate"),
            (&[PropagationPrivate, PropagationHostToContainer], "rslave"),
            (
                &[PropagationBidirectional, PropagationHostToContainer],
                "rshared",
            ),
        ] {
            let requests = mounts.iter().map(|&propagation| Request {
                propagation: propagation as i32,
                ..Request::default()
            });
            assert_eq!(propagation(&requests.collect::<Vec<_>>()), expected);
        }
    }
}
