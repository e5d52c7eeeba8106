//! The namespaces of a container.

use std::fs::File;
use std::io::BufReader;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use serde::Deserialize;

use super::clone::Birth;
use super::user::UserNamespace;
use crate::config::{Namespace, NamespaceKind, Spec};
use crate::failure::{Explain, Outcome};
use crate::protocol::Failure;
use crate::syscall;

/// The little of `config.json` that is needed before there is a child to read the rest.
#[derive(Deserialize)]
struct Sketch {
    #[serde(default)]
    linux: SketchLinux,
}

#[derive(Deserialize, Default)]
struct SketchLinux {
    #[serde(default)]
    namespaces: Vec<Namespace>,
}

/// How the first process of the container of this `config.json` comes into its PID namespace.
/// `target` is a namespace that it goes into instead of the one in there.
pub(crate) fn birth(config: &Path, target: Option<OwnedFd>) -> Outcome<Birth> {
    let doing = || format!("read {}", config.display());
    let file = File::open(config).invalid(doing)?;
    // Read in small steps: this is the resident process.
    let reader = BufReader::with_capacity(4096, file);
    let sketch: Sketch = serde_json::from_reader(reader).invalid(doing)?;
    if target.is_some() {
        return Ok(Birth::Outside(target));
    }
    let namespaces = sketch.linux.namespaces;
    let of = |kind| namespaces.iter().find(move |found| found.kind == kind);
    match (of(NamespaceKind::Pid), of(NamespaceKind::User)) {
        (None, None) => Ok(Birth::ON_THE_NODE),
        (None, Some(_)) => Err(Failure::invalid(
            "a container in a user namespace cannot have the node's PID namespace: it could not \
             mount its /proc",
        )),
        (Some(Namespace { path: None, .. }), None) => Ok(Birth::FIRST),
        (Some(Namespace { path: None, .. }), Some(_)) => Ok(Birth::Outside(None)),
        (
            Some(Namespace {
                path: Some(path), ..
            }),
            _,
        ) => {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
                .map(|opened| Birth::Outside(Some(opened)))
                .invalid(|| format!("open the PID namespace {}", path.display()))
        }
    }
}

/// Gives the process mounts of its own, which still are what the node has.
pub(super) fn leave_mounts(spec: &Spec) -> Outcome<()> {
    let namespaces = &spec.linux.namespaces;
    match namespaces
        .iter()
        .find(|namespace| namespace.kind == NamespaceKind::Mount)
    {
        None => Err(Failure::invalid(
            "linux.namespaces of config.json lists no mount namespace",
        )),
        Some(namespace) if namespace.path.is_some() => Err(Failure::invalid(
            "a container cannot join another mount namespace",
        )),
        Some(_) => syscall::unshare(UnshareFlags::NEWNS).system(|| "unshare the mount namespace"),
    }
}

/// Joins and makes the namespaces that the specification lists, besides the mount and the PID
/// namespace. It must have joined its cgroup already, for that is what a new cgroup namespace has
/// as its root.
pub(super) fn enter(spec: &Spec, user: Option<&UserNamespace>) -> Outcome<()> {
    let mut unshared = UnshareFlags::empty();
    for namespace in &spec.linux.namespaces {
        let (link, flag) = match namespace.kind {
            NamespaceKind::Pid | NamespaceKind::User | NamespaceKind::Mount => continue,
            NamespaceKind::Cgroup => (LinkNameSpaceType::ControlGroup, UnshareFlags::NEWCGROUP),
            NamespaceKind::Uts => (
                LinkNameSpaceType::HostNameAndNISDomainName,
                UnshareFlags::NEWUTS,
            ),
            NamespaceKind::Ipc => (
                LinkNameSpaceType::InterProcessCommunication,
                UnshareFlags::NEWIPC,
            ),
            NamespaceKind::Network => (LinkNameSpaceType::Network, UnshareFlags::NEWNET),
            NamespaceKind::Time => (LinkNameSpaceType::Time, UnshareFlags::NEWTIME),
        };
        match &namespace.path {
            Some(path) => join(path, link)?,
            None => unshared |= flag,
        }
    }
    // After what only the node's root can open, and before what its own root is to own.
    if let Some(user) = user {
        user.join()?;
        unshared |= UnshareFlags::NEWNS;
    }
    syscall::unshare(unshared)
        .system(|| format!("unshare the container's namespaces ({unshared:?})"))?;
    match &spec.hostname {
        Some(hostname) if unshared.contains(UnshareFlags::NEWUTS) => {
            rustix::system::sethostname(hostname.as_bytes())
                .system(|| format!("set the host name {hostname:?}"))
        }
        _ => Ok(()),
    }
}

/// Has the children of the process be born into a PID namespace: this one, or a new one.
pub(super) fn choose_pid_namespace(namespace: Option<&OwnedFd>) -> Outcome<()> {
    match namespace {
        Some(namespace) => {
            let kind = Some(LinkNameSpaceType::ProcessID);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)
        }
        None => syscall::unshare(UnshareFlags::NEWPID),
    }
    .system(|| "choose the container's PID namespace")
}

fn join(path: &Path, kind: LinkNameSpaceType) -> Outcome<()> {
    let doing = || format!("join the namespace {}", path.display());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = rustix::fs::open(path, flags, Mode::empty()).invalid(doing)?;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind)).system(doing)
}
