//! What the kernel must have before anything is tried.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::process::geteuid;
use rustix::thread::CapabilitySet;
use slipway_engine::{Error, Result};
use slipway_shim::Launcher;

/// How many user namespaces there may be below the one that asks (namespaces(7)).
const MOST: &str = "/proc/sys/user/max_user_namespaces";

/// Refuses to go on where pods cannot be run, naming everything that is missing. Blocking.
pub(crate) fn check() -> Result<()> {
    if !geteuid().is_root() {
        return Err(Error::precondition(
            "slipway serve must run as root: it makes namespaces, mounts and cgroups",
        ));
    }
    let mut missing: Vec<String> = ["net", "ipc", "uts", "pid", "mnt"]
        .into_iter()
        .filter(|name| !Path::new("/proc/self/ns").join(name).exists())
        .map(|name| format!("{name} namespaces"))
        .collect();
    if !has_overlay() {
        missing.push("the overlay file system (modprobe overlay)".to_owned());
    }
    missing.extend(missing_calls());
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "this kernel (Linux {}) lacks what pods need: {}",
        rustix::system::uname().release().to_string_lossy(),
        missing.join(", ")
    )))
}

/// The newest system calls that nothing can be done without: found out by making them, because
/// kernels that look old can have them, and a sandbox around this daemon can forbid them.
fn missing_calls() -> impl Iterator<Item = String> {
    let opened = openat2(
        CWD,
        c"/",
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    );
    let opened = opened.map(drop).map_err(io::Error::from);
    let attributes = slipway_shim::try_recursive_read_only();
    [
        ("openat2(2)", "5.6", opened),
        ("mount_setattr(2)", "5.12", attributes),
    ]
    .into_iter()
    .filter_map(|(call, since, tried)| {
        let error = tried.err()?;
        Some(format!("{call}, since Linux {since} ({error})"))
    })
}

/// Whether a mount can be made read-only together with those below it (CRI
/// `Mount.recursive_read_only`), tried once; else what the kernel answers. Blocking, briefly.
pub(crate) fn recursive_read_only() -> std::result::Result<(), String> {
    static TRIED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    TRIED
        .get_or_init(|| slipway_shim::try_recursive_read_only().map_err(|error| error.to_string()))
        .clone()
}

/// The lowest `oom_score_adj` that a process may be given here: without `CAP_SYS_RESOURCE`, in a
/// container for example, the daemon's own (proc(5)).
pub(crate) fn lowest_oom_score() -> i32 {
    static LOWEST: OnceLock<i32> = OnceLock::new();
    *LOWEST.get_or_init(|| {
        let sets = rustix::thread::capabilities(None);
        if sets.is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE)) {
            return -1000;
        }
        let own = fs::read_to_string("/proc/self/oom_score_adj").ok();
        let own = own.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        tracing::warn!(
            lowest = own,
            "without CAP_SYS_RESOURCE no container can be given a lower oom_score_adj than this; \
             what is lower is raised to it"
        );
        own
    })
}

/// Whether pods can have user namespaces of their own, with id-mapped layers and volumes: found out
/// by doing it.
#[derive(Debug)]
pub(crate) struct UserNamespaces {
    /// Why not, when it was last tried.
    refused: Mutex<Option<String>>,
}

impl UserNamespaces {
    /// Tries it. Blocking, for some milliseconds.
    pub(crate) fn probe(launcher: &Launcher, root: &Path) -> Self {
        let refused = Mutex::new(probe(launcher, root).err());
        Self { refused }
    }

    /// Whether it worked when it was last tried.
    pub(crate) fn available(&self) -> bool {
        self.locked().is_none()
    }

    /// Refuses a pod that needs them where they do not work, and tries again before. Blocking.
    ///
    /// # Errors
    ///
    /// [`slipway_engine::Kind::FailedPrecondition`] with the reason.
    pub(crate) fn require(&self, launcher: &Launcher, root: &Path) -> Result<()> {
        let limit = std::fs::read_to_string(MOST).unwrap_or_default();
        if limit.trim() == "0" {
            return Err(Error::precondition(format!(
                "the pod asks for a user namespace (userns_options.mode POD), but the node's \
                 sysctl user.max_user_namespaces is 0; raise it ({MOST})"
            )));
        }
        if self.available() {
            return Ok(());
        }
        let refused = probe(launcher, root).err();
        self.locked().clone_from(&refused);
        match refused {
            None => Ok(()),
            Some(reason) => Err(Error::precondition(format!(
                "the pod asks for a user namespace (userns_options.mode POD), which this node \
                 cannot give: {reason}"
            ))),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Option<String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Layers and writable layers may lie on two file systems.
fn probe(launcher: &Launcher, root: &Path) -> std::result::Result<(), String> {
    launcher.probe_user_namespaces(&[&root.join("image"), &root.join("containers")])
}

/// Whether overlayfs is there; naming it to the kernel loads its module where there is one.
fn has_overlay() -> bool {
    rustix::mount::fsopen("overlay", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC).is_ok()
}
