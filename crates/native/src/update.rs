//! Changing what containers and pods may use while they run: CRI's `UpdateContainerResources` and
//! `UpdatePodSandboxResources`.
//!
//! A change is in force before it is recorded: a daemon that is killed between the two reports the
//! old limits, and a kubelet then asks again.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slipway_cgroup::{Cgroup, Resources};
use slipway_cri_api::v1::{
    LinuxContainerResources, PodSandboxConfig, UpdateContainerResourcesRequest,
    UpdatePodSandboxResourcesRequest,
};
use slipway_engine::{ContainerState, Error, Result};

use crate::cgroups::Cgroups;
use crate::node::Node;
use crate::store::{ContainerUpdate, PodRecord, PodUpdate};
use crate::{blocking, failure, lifecycle, resources};

const REQUEST: &str = "UpdateContainerResourcesRequest.linux";

/// Changes what a created or running container may use. What is refused leaves all as it was.
pub(crate) async fn container(
    node: &Arc<Node>,
    request: UpdateContainerResourcesRequest,
) -> Result<()> {
    let UpdateContainerResourcesRequest {
        container_id,
        linux,
        windows,
        annotations,
    } = request;
    if windows.is_some() {
        return Err(Error::invalid(
            "UpdateContainerResourcesRequest.windows is for a container of Windows",
        ));
    }
    let asked = linux.unwrap_or_default();
    let container = node.containers.get(&container_id)?;
    let _updating = container.updating.lock().await;
    if let ContainerState::Exited(exit) = container.state() {
        return Err(Error::precondition(format!(
            "container {} has exited with code {}, so that nothing of it can be limited",
            container.id(),
            exit.code
        )));
    }
    let now = container.resources().unwrap_or_default();
    let changes = resources::changes(&now, &asked);
    let after = resources::merged(&now, &changes);
    check(node, &after, &changes)?;
    let work = Change {
        cgroups: Arc::clone(&node.cgroups),
        cgroup: lifecycle::cgroup(node, &container)?,
        now: resources::limits(&now),
        limits: resources::limits(&changes),
        oom_score: (asked.oom_score_adj != 0).then_some(asked.oom_score_adj),
        config: node
            .bundle(container.pod.id(), container.id())
            .join("config.json"),
    };
    blocking::run(move || work.make()).await?;
    let update = ContainerUpdate {
        resources: after,
        annotations,
    };
    container.set_update(node, update).await.map_err(|error| {
        error.context(format!(
            "the new limits of container {} are in force, but not recorded",
            container.id()
        ))
    })
}

/// What is changed is checked, with the memory that its limit of swap is held against.
fn check(
    node: &Node,
    after: &LinuxContainerResources,
    changes: &LinuxContainerResources,
) -> Result<()> {
    let mut changes = changes.clone();
    if changes.memory_swap_limit_in_bytes != 0 {
        changes.memory_limit_in_bytes = after.memory_limit_in_bytes;
    }
    resources::check(&node.hierarchy, REQUEST, &changes)
}

/// A change of a container that is there. Blocking.
struct Change {
    cgroups: Arc<Cgroups>,
    cgroup: Cgroup,
    now: Resources,
    limits: Resources,
    oom_score: Option<i64>,
    config: PathBuf,
}

impl Change {
    fn make(self) -> Result<()> {
        let scores = match self.oom_score {
            Some(score) => Some((Scores::set(&self.cgroup, score)?, score)),
            None => None,
        };
        let limited = self
            .cgroups
            .update(&self.cgroup, &self.now, &self.limits)
            .map_err(|error| resources::refused(REQUEST, error));
        let Some((scores, score)) = scores else {
            return limited;
        };
        // Last, because it is what has no other way to fail than a full disk.
        let made = limited.and_then(|()| {
            set_score_of_execs(&self.config, score)
                .map_err(|error| Error::internal(format!("{}: {error}", self.config.display())))
        });
        if made.is_err() {
            scores.put_back();
        }
        made
    }
}

/// The `oom_score_adj` of a container's processes, as it was before it was set (proc(5)).
struct Scores(Vec<(File, String)>);

impl Scores {
    /// Sets it for every process of the cgroup. Where it takes `CAP_SYS_RESOURCE` to lower it as
    /// far and this process has none, it stays: the same as when a container is made.
    fn set(cgroup: &Cgroup, score: i64) -> Result<Self> {
        let mut scores = Self(Vec::new());
        let mut seen = BTreeSet::new();
        loop {
            // Children of what is set already inherit it, so that this comes to an end.
            let listed = processes(cgroup)?;
            let new: Vec<_> = listed.into_iter().filter(|pid| seen.insert(*pid)).collect();
            if new.is_empty() {
                return Ok(scores);
            }
            let opened: Vec<_> = new
                .into_iter()
                .filter_map(|pid| {
                    let path = format!("/proc/{pid}/oom_score_adj");
                    let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
                    Some((pid, file))
                })
                .collect();
            // A number may have passed on to another process before it was opened, not after.
            let still: BTreeSet<_> = processes(cgroup)?.into_iter().collect();
            for (_, file) in opened.into_iter().filter(|(pid, _)| still.contains(pid)) {
                if let Err(error) = scores.set_one(file, score) {
                    scores.put_back();
                    return Err(Error::internal(format!(
                        "{REQUEST}.oom_score_adj {score} cannot be set: {error}"
                    )));
                }
            }
        }
    }

    fn set_one(&mut self, mut file: File, score: i64) -> io::Result<()> {
        let mut before = String::new();
        let set = file
            .read_to_string(&mut before)
            .and_then(|_| file.rewind())
            .and_then(|()| file.write_all(score.to_string().as_bytes()));
        match set {
            Ok(()) => {
                self.0.push((file, before));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!(
                    score,
                    "oom_score_adj cannot be lowered so far without CAP_SYS_RESOURCE"
                );
                Ok(())
            }
            // It has ended.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn put_back(self) {
        for (mut file, before) in self.0 {
            // It may have ended meanwhile.
            let _ = file
                .rewind()
                .and_then(|()| file.write_all(before.trim().as_bytes()));
        }
    }
}

fn processes(cgroup: &Cgroup) -> Result<Vec<i32>> {
    cgroup
        .processes()
        .map_err(|error| failure::of_cgroup(&error))
}

/// Writes the score into the OCI configuration, by which later execs are made.
fn set_score_of_execs(path: &Path, score: i64) -> io::Result<()> {
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(path)?)?;
    let Some(process) = config.get_mut("process") else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it has no process",
        ));
    };
    process["oomScoreAdj"] = score.into();
    let temporary = path.with_extension("json.new");
    fs::write(&temporary, serde_json::to_vec(&config)?)?;
    fs::rename(&temporary, path)
}

/// Records what a pod and its containers may use. It limits nothing: a kubelet limits its own
/// cgroups itself, and what it says here is the sum of those containers that have limits, which is
/// no limit of the others.
pub(crate) async fn pod(node: &Arc<Node>, request: UpdatePodSandboxResourcesRequest) -> Result<()> {
    let UpdatePodSandboxResourcesRequest {
        pod_sandbox_id,
        overhead,
        resources,
    } = request;
    for (field, asked) in [
        ("UpdatePodSandboxResourcesRequest.overhead", &overhead),
        ("UpdatePodSandboxResourcesRequest.resources", &resources),
    ] {
        if let Some(asked) = asked {
            resources::check(&node.hierarchy, field, asked)?;
        }
    }
    let pod = node.pods.get(&pod_sandbox_id)?;
    let _gate = pod.gate.read().await;
    let _updating = pod.updating.lock().await;
    pod.shim()?;
    let now = pod.resources();
    let changed = PodUpdate {
        overhead: overhead.or(now.overhead.clone()),
        resources: resources.or(now.resources.clone()),
    };
    let record = PodRecord {
        update: Some(changed.clone()),
        ..pod.record.clone()
    };
    node.store.put_pod(record).await?;
    pod.set_resources(changed);
    Ok(())
}

/// Whether somebody else has named the pod's cgroup, who then limits and removes it.
pub(crate) fn names_parent(config: &PodSandboxConfig) -> bool {
    config
        .linux
        .as_ref()
        .is_some_and(|linux| !linux.cgroup_parent.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn execs_get_the_new_score_and_all_else_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        fs::write(&path, r#"{"a":1,"process":{"cwd":"/","oomScoreAdj":5}}"#).unwrap();
        set_score_of_execs(&path, -7).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let expected = serde_json::json!({"a": 1, "process": {"cwd": "/", "oomScoreAdj": -7}});
        assert_eq!(config, expected);
        fs::write(&path, "{}").unwrap();
        assert!(set_score_of_execs(&path, 1).is_err());
    }
}
