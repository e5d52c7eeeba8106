//! Limits of containers that Docker has no place for: of huge pages, control files of cgroup v2 by
//! their names, and an `oom_score_adj` that was changed.
//!
//! What a container was made with is in its labels, so that it is there with the container or not at
//! all, and what an update has made of it in a file beside ([`crate::node::Node::limits`]). They are
//! set as soon as Docker has started the container, for before it there is no cgroup: limits of
//! Docker's own are there a moment earlier.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use slipway_cgroup::{Cgroup, Updated};
use slipway_cri_api::v1::{HugepageLimit, LinuxContainerResources};
use slipway_engine::{Result, blocking};
use slipway_resources::{Scores, refused};

use crate::cgroups::cgroup_of;
use crate::inspect::{Container, Pod};
use crate::node::Node;
use crate::{lifecycle, naming};

const FIELD: &str = "LinuxContainerConfig.resources";

/// As labels of a container that is made.
pub(crate) fn labels(asked: &LinuxContainerResources) -> Vec<(&'static str, String)> {
    let hugepages: BTreeMap<_, _> = asked
        .hugepage_limits
        .iter()
        .map(|limit| (limit.page_size.as_str(), limit.limit))
        .collect();
    let unified: BTreeMap<_, _> = asked.unified.iter().collect();
    let mut labels = Vec::new();
    if !hugepages.is_empty() {
        labels.push((naming::HUGEPAGES, serde_json::json!(hugepages).to_string()));
    }
    if !unified.is_empty() {
        labels.push((naming::UNIFIED, serde_json::json!(unified).to_string()));
    }
    labels
}

/// What [`labels`] has made labels of.
pub(crate) fn of_labels(labels: &HashMap<String, String>) -> LinuxContainerResources {
    let hugepages: BTreeMap<String, u64> = labels
        .get(naming::HUGEPAGES)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let unified = labels.get(naming::UNIFIED);
    LinuxContainerResources {
        hugepage_limits: hugepages
            .into_iter()
            .map(|(page_size, limit)| HugepageLimit { page_size, limit })
            .collect(),
        unified: unified
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default(),
        ..LinuxContainerResources::default()
    }
}

/// Of limits those that Docker has no place for, after an update that changed these.
pub(crate) fn beside(
    before: &LinuxContainerResources,
    after: &LinuxContainerResources,
    changes: &LinuxContainerResources,
) -> LinuxContainerResources {
    let score = match changes.oom_score_adj {
        0 => before.oom_score_adj,
        changed => changed,
    };
    LinuxContainerResources {
        hugepage_limits: after.hugepage_limits.clone(),
        unified: after.unified.clone(),
        oom_score_adj: score,
        ..LinuxContainerResources::default()
    }
}

/// What limits a container: what Docker says, and what is beside.
pub(crate) fn together(
    docker: LinuxContainerResources,
    beside: &LinuxContainerResources,
) -> LinuxContainerResources {
    LinuxContainerResources {
        hugepage_limits: beside.hugepage_limits.clone(),
        unified: beside.unified.clone(),
        oom_score_adj: match beside.oom_score_adj {
            0 => docker.oom_score_adj,
            changed => changed,
        },
        ..docker
    }
}

/// Refuses what a container of this pod cannot be limited to, before it is made. The pod's own cgroup
/// has the files that the container's will have. Blocking, briefly.
pub(crate) fn check(node: &Node, pod: &Pod, asked: &LinuxContainerResources) -> Result<()> {
    let hierarchy = node.hierarchy()?;
    slipway_resources::check(hierarchy, FIELD, asked)?;
    let Some(path) = cgroup_of(&pod.id, pod.pid) else {
        return Ok(());
    };
    let files = hierarchy
        .open(&path)
        .check_files(&slipway_resources::limits(asked));
    files.map_err(|error| refused(FIELD, &error))
}

/// Limits that were set, and what was there before.
pub(crate) struct Applied {
    scores: Option<Scores>,
    updated: Updated,
}

impl Applied {
    /// Sets limits that Docker has no place for. What is refused, by the field of the message at
    /// `at`, leaves all as it was. Blocking, briefly.
    pub(crate) fn set(cgroup: &Cgroup, limits: &LinuxContainerResources, at: &str) -> Result<Self> {
        let score = limits.oom_score_adj;
        let scores = (score != 0).then(|| Scores::set(cgroup, score)).transpose();
        let scores = scores.map_err(|error| error.context(at))?;
        // Nothing of Docker's is in them.
        let others = slipway_resources::limits(&LinuxContainerResources {
            hugepage_limits: limits.hugepage_limits.clone(),
            unified: limits.unified.clone(),
            ..LinuxContainerResources::default()
        });
        match cgroup.update(&others) {
            Ok(updated) => Ok(Self { scores, updated }),
            Err(error) => {
                scores.into_iter().for_each(Scores::put_back);
                Err(refused(at, &error))
            }
        }
    }

    /// Puts back what was there.
    pub(crate) fn undo(self) {
        self.updated.undo();
        self.scores.into_iter().for_each(Scores::put_back);
    }
}

/// Limits a container that Docker has just started. One that cannot be limited is killed.
pub(crate) async fn begin(node: &Arc<Node>, id: &str) -> Result<()> {
    let container = node.container(id)?;
    let Err(error) = set(node, &container, container.beside.clone()).await else {
        return Ok(());
    };
    // It may have ended meanwhile, and with it its cgroup.
    node.refresh(id).await?;
    if !node.container(id)?.state.is_running() {
        return Ok(());
    }
    lifecycle::kill(node, id).await?;
    Err(error.context(format!("container {id} was started, and killed again")))
}

/// Limits a container, if there are limits and it still runs.
async fn set(
    node: &Arc<Node>,
    container: &Arc<Container>,
    limits: LinuxContainerResources,
) -> Result<()> {
    if limits == LinuxContainerResources::default() {
        return Ok(());
    }
    let (node, container) = (Arc::clone(node), Arc::clone(container));
    blocking::run(move || {
        let Some(path) = cgroup_of(&container.id, container.pid) else {
            return Ok(());
        };
        let cgroup = node.hierarchy()?.open(&path);
        Applied::set(&cgroup, &limits, FIELD).map(drop)
    })
    .await
}

/// Limits all containers again, some of which may have been started without anybody hearing of it: a
/// daemon was killed over it, or Docker's answer was lost.
pub(crate) async fn set_again(node: &Arc<Node>) {
    for container in node.containers.all() {
        set_again_of(node, &container.id).await;
    }
}

/// As [`set_again`], one of them.
pub(crate) async fn set_again_of(node: &Arc<Node>, id: &str) {
    let known = || node.containers.find(id).ok().flatten();
    if known().is_none_or(|container| again(&container) == LinuxContainerResources::default()) {
        return;
    }
    // Whoever starts it or changes them goes first.
    let _updating = node.updates.alone(id).await;
    let Some(container) = known() else { return };
    if let Err(error) = set(node, &container, again(&container)).await {
        tracing::error!(container = container.id, %error, "not all of its limits are set");
    }
}

/// What is set again of a container's limits.
fn again(container: &Container) -> LinuxContainerResources {
    LinuxContainerResources {
        // Processes may have given themselves others since.
        oom_score_adj: 0,
        ..container.beside.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(huge: &[(&str, u64)], unified: &[(&str, &str)]) -> LinuxContainerResources {
        let unified = unified.iter();
        LinuxContainerResources {
            hugepage_limits: huge
                .iter()
                .map(|&(size, limit)| HugepageLimit {
                    page_size: size.to_owned(),
                    limit,
                })
                .collect(),
            unified: unified
                .map(|&(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            ..LinuxContainerResources::default()
        }
    }

    #[test]
    fn what_is_asked_for_comes_back_from_labels() {
        for asked in [
            limits(&[], &[]),
            limits(&[("1GB", 0), ("2MB", u64::MAX)], &[]),
            limits(&[("2MB", 0)], &[("memory.oom.group", "1"), ("a.b", "\"\n")]),
        ] {
            let labels = labels(&asked).into_iter();
            let labels = labels.map(|(key, value)| (key.to_owned(), value)).collect();
            assert_eq!(of_labels(&labels), asked);
        }
        let damaged = [(naming::UNIFIED.to_owned(), "[1]".to_owned())].into();
        assert_eq!(of_labels(&damaged), limits(&[], &[]));
    }

    #[test]
    fn an_oom_score_is_dockers_until_it_was_changed() {
        let score = |oom_score_adj| LinuxContainerResources {
            oom_score_adj,
            ..LinuxContainerResources::default()
        };
        let before = limits(&[("2MB", 0)], &[]);
        let after = limits(&[("2MB", 4)], &[("memory.high", "1")]);
        let unchanged = beside(&before, &after, &score(0));
        assert_eq!(together(score(7), &unchanged).oom_score_adj, 7);
        assert_eq!(unchanged, after);
        let changed = beside(&unchanged, &after, &score(-3));
        assert_eq!(together(score(7), &changed).oom_score_adj, -3);
        assert_eq!(beside(&changed, &after, &score(0)).oom_score_adj, -3);
    }
}
