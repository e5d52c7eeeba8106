//! Changing what containers and pods may use while they run: CRI's `UpdateContainerResources` and
//! `UpdatePodSandboxResources`.
//!
//! A change is in force before it is recorded: a daemon that is killed between the two reports the
//! old limits, and a kubelet then asks again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slipway_cgroup::{Cgroup, Resources};
use slipway_cri_api::v1::{
    PodSandboxConfig, UpdateContainerResourcesRequest, UpdatePodSandboxResourcesRequest,
};
use slipway_engine::{ContainerState, Error, Result, blocking};
use slipway_resources::{Scores, changes, check, check_change, limits, merged};

use crate::cgroups::Cgroups;
use crate::lifecycle;
use crate::node::Node;
use crate::store::{ContainerUpdate, PodRecord, PodUpdate};

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
    let changes = changes(&now, &asked);
    let after = merged(&now, &changes);
    check_change(&node.hierarchy, REQUEST, &after, &changes)?;
    let work = Change {
        cgroups: Arc::clone(&node.cgroups),
        cgroup: lifecycle::cgroup(node, &container)?,
        limits: limits(&changes),
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

/// A change of a container that is there. Blocking.
struct Change {
    cgroups: Arc<Cgroups>,
    cgroup: Cgroup,
    limits: Resources,
    oom_score: Option<i64>,
    config: PathBuf,
}

impl Change {
    fn make(self) -> Result<()> {
        let scores = match self.oom_score {
            Some(score) => {
                let set = Scores::set(&self.cgroup, score);
                Some((set.map_err(|error| error.context(REQUEST))?, score))
            }
            None => None,
        };
        let limited = self
            .cgroups
            .update(&self.cgroup, &self.limits)
            .map_err(|error| error.by_field(REQUEST));
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
            check(&node.hierarchy, field, asked)?;
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
