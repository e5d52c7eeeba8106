//! What pods cost in memory, by proportional set size.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use slipway_testbed::Runtime;
use slipway_testbed::process::pss;

use super::cycle::{Call, Life, advance};
use super::subject::Subject;

/// Time for a daemon to become idle after its last call, before it is weighed.
const SETTLING: Duration = Duration::from_secs(2);

/// In bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Memory {
    /// The daemon after it has started, before its first call.
    pub(crate) daemon_at_rest: u64,
    /// What one idle pod with one container adds, without the container's own processes.
    pub(crate) pod: u64,
    /// Of this, what lies in processes of the pod: shims, monitors, pause.
    pub(crate) pod_processes: u64,
    /// Of this, by how much the daemon grew.
    pub(crate) pod_daemon: u64,
    /// How many pods were there.
    pub(crate) pods: u64,
}

/// The daemon's size before any call.
///
/// # Errors
/// When the daemon is gone.
pub(crate) async fn at_rest(runtime: &Runtime) -> Result<u64> {
    tokio::time::sleep(SETTLING).await;
    pss(runtime.pid()).context("the daemon is gone")
}

/// Runs `count` idle pods, weighs all that runs for them, and removes them.
///
/// # Errors
/// When a call fails or the daemon is gone.
pub(crate) async fn of_pods(subject: &Subject, image: &str, count: usize) -> Result<Memory> {
    let runtime = &subject.runtime;
    tokio::time::sleep(SETTLING).await;
    let before = pss(runtime.pid()).context("the daemon is gone")?;
    let mut lives = Vec::new();
    for _ in 0..count {
        let life = Life::new(&subject.scratch, image);
        lives.extend(advance(runtime.cri(), vec![life], &Call::UP).await?);
    }
    tokio::time::sleep(SETTLING).await;
    let containers: Vec<_> = lives
        .iter()
        .map(|life| life.container_id.as_str())
        .collect();
    let processes: u64 = runtime
        .pod_processes()
        .into_iter()
        .filter(|(_, cgroup)| {
            !cgroup
                .as_ref()
                .is_some_and(|group| containers.iter().any(|id| holds(group, id)))
        })
        .filter_map(|(pid, _)| pss(pid))
        .sum();
    let after = pss(runtime.pid()).context("the daemon is gone")?;
    for life in lives {
        advance(runtime.cri(), vec![life], &Call::DOWN).await?;
    }
    let pods = count as u64;
    let grown = after.saturating_sub(before);
    Ok(Memory {
        daemon_at_rest: subject.daemon_at_rest,
        pod: (processes + grown) / pods,
        pod_processes: processes / pods,
        pod_daemon: grown / pods,
        pods,
    })
}

/// Whether a cgroup directory is that of a container, with any driver's prefix or suffix.
fn holds(group: &std::path::Path, container: &str) -> bool {
    group.components().any(|part| {
        part.as_os_str()
            .to_str()
            .is_some_and(|name| name.contains(container))
    })
}
