//! What the engine holds: its directories, its parts, and what it knows of pods and containers.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use slipway_cgroup::Hierarchy;
use slipway_engine::{ContainerName, Error, Events, Index, PodName, Result};
use slipway_image::Images;
use slipway_network::Network;
use slipway_shim::Launcher;
use tokio::sync::watch;

use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::container::Container;
use crate::handlers::Handlers;
use crate::kernel::UserNamespaces;
use crate::own_metrics::OwnMetrics;
use crate::pod::Pod;
use crate::stats::Sampler;
use crate::store::Store;

/// What a new configuration replaces while pods run.
#[derive(Debug)]
pub(crate) struct Reloaded {
    pub(crate) config: Config,
    pub(crate) handlers: Handlers,
}

/// Everything that the operations work on. Nothing in it cannot be rebuilt from disk.
pub(crate) struct Node {
    pub(crate) reloaded: watch::Sender<Arc<Reloaded>>,
    pub(crate) root: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) store: Store,
    pub(crate) images: Images,
    pub(crate) network: Arc<Network>,
    pub(crate) launcher: Arc<Launcher>,
    pub(crate) hierarchy: Hierarchy,
    pub(crate) cgroups: Arc<Cgroups>,
    pub(crate) sampler: Arc<Sampler>,
    pub(crate) user_namespaces: UserNamespaces,
    pub(crate) events: Events,
    pub(crate) metrics: OwnMetrics,
    pub(crate) pods: Arc<Index<PodName, Pod>>,
    pub(crate) containers: Arc<Index<ContainerName, Container>>,
    /// The boot in which this is: pods of another one are over.
    pub(crate) boot: String,
    /// Of root and state directory, held for as long as the daemon runs: two must not work on one.
    pub(crate) _locks: [File; 2],
}

impl Node {
    /// The configuration that is in force now. An operation asks once, and has the same one to its
    /// end.
    pub(crate) fn reloaded(&self) -> Arc<Reloaded> {
        Arc::clone(&self.reloaded.borrow())
    }

    /// Where a pod's sockets, pins and containers' bundles are.
    pub(crate) fn pod_directory(&self, pod: &str) -> PathBuf {
        self.state.join("pods").join(pod)
    }

    /// A container's bundle: its OCI configuration and its shim's record.
    pub(crate) fn bundle(&self, pod: &str, container: &str) -> PathBuf {
        self.pod_directory(pod).join("containers").join(container)
    }

    /// Where containers' writable layers are.
    pub(crate) fn writable_layers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// A container's writable layer, `upper` and `work`.
    pub(crate) fn writable(&self, container: &str) -> PathBuf {
        self.writable_layers().join(container)
    }
}

/// Makes a directory that only root may look into: configurations hold secrets, and layers hold
/// programs that run as their owner. Blocking, briefly.
pub(crate) fn private_directory(path: &Path) -> Result<()> {
    let make = || {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
    };
    make()
        .map_err(|error| Error::precondition(format!("{} cannot be made: {error}", path.display())))
}

/// Takes the lock of a directory, which is made where it is not there. It ends with this process
/// (fcntl(2), "Advisory record locking"): one of flock(2) would last a little longer, in children
/// that have not executed their program yet, and keep the next daemon from starting. Blocking,
/// briefly.
pub(crate) fn lock(directory: &Path) -> Result<File> {
    private_directory(directory)?;
    let path = directory.join("lock");
    let open = || {
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
    };
    let file = open().map_err(|error| {
        Error::precondition(format!("{} cannot be opened: {error}", path.display()))
    })?;
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::AGAIN | Errno::ACCESS) => Err(Error::precondition(format!(
            "another slipway works on {}: stop it, or give this one directories of its own with \
             --root and --state",
            directory.display()
        ))),
        Err(error) => Err(Error::internal(format!(
            "{} cannot be locked: {error}",
            path.display()
        ))),
    }
}

/// The kernel's name for this boot (random(4)).
pub(crate) fn boot() -> Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .map_err(|error| {
            Error::internal(format!(
                "/proc/sys/kernel/random/boot_id cannot be read: {error}"
            ))
        })
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
