//! The namespaces of a container.

use std::fs::File;
use std::io::BufReader;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use serde::Deserialize;

use super::clone::PidNamespace;
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

/// Which PID namespace the container of this `config.json` is born into.
pub(crate) fn pid_namespace(config: &Path) -> Outcome<PidNamespace> {
    let doing = || format!("read {}", config.display());
    let file = File::open(config).invalid(doing)?;
    // Read in small steps: this is the resident process.
    let reader = BufReader::with_capacity(4096, file);
    let sketch: Sketch = serde_json::from_reader(reader).invalid(doing)?;
    let Some(namespace) = sketch
        .linux
        .namespaces
        .into_iter()
        .find(|found| found.kind == NamespaceKind::Pid)
    else {
        return Ok(PidNamespace::Node);
    };
    let Some(path) = namespace.path else {
        return Ok(PidNamespace::New);
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, Mode::empty())
        .map(PidNamespace::Of)
        .invalid(|| format!("open the PID namespace {}", path.display()))
}

/// Joins and makes the namespaces that the specification lists, besides the PID namespace, into
/// which the caller was born. It must have joined its cgroup already, for that is what a new
/// cgroup namespace has as its root.
pub(super) fn enter(spec: &Spec) -> Outcome<()> {
    let mut unshared = UnshareFlags::empty();
    for namespace in &spec.linux.namespaces {
        let (link, flag) = match namespace.kind {
            NamespaceKind::Pid => continue,
            NamespaceKind::User => {
                return Err(Failure::invalid(
                    "user namespaces come with a later version",
                ));
            }
            NamespaceKind::Mount if namespace.path.is_some() => {
                return Err(Failure::invalid(
                    "a container cannot join another mount namespace",
                ));
            }
            NamespaceKind::Mount => (LinkNameSpaceType::Mount, UnshareFlags::NEWNS),
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
    if !unshared.contains(UnshareFlags::NEWNS) {
        return Err(Failure::invalid(
            "linux.namespaces of config.json lists no mount namespace",
        ));
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

fn join(path: &Path, kind: LinkNameSpaceType) -> Outcome<()> {
    let doing = || format!("join the namespace {}", path.display());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = rustix::fs::open(path, flags, Mode::empty()).invalid(doing)?;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind)).system(doing)
}
