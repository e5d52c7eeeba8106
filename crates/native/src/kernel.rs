//! What the kernel must have before anything is tried.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use rustix::process::geteuid;
use rustix::thread::CapabilitySet;
use slipway_engine::{Error, Result};

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
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "this kernel lacks what pods need: {}",
        missing.join(", ")
    )))
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

/// Whether overlayfs is there; naming it to the kernel loads its module where there is one.
fn has_overlay() -> bool {
    rustix::mount::fsopen("overlay", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC).is_ok()
}
