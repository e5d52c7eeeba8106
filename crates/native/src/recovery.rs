//! The daemon's start: what the records say is compared with what is there.
//!
//! A pod whose shim answers goes on as if nothing had happened. A pod that was being made is
//! undone. A pod whose shim has gone, or that is of an earlier boot, is kept for its status, and
//! its processes are killed. What no record stands for is removed.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use slipway_cgroup::CgroupPath;
use slipway_engine::{ContainerExit, ContainerName, ContainerState, Error, PodName, Result};
use slipway_network::Attachment;
use slipway_shim::Shim;
use slipway_shim::protocol::{Event, Phase, Record};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::container::{Container, exit_of};
use crate::node::{Node, now};
use crate::pod::{Pod, PodState};
use crate::sandbox::{
    follow, keep_broken, lose_containers, recorded_cgroup, remove_directory, undo, unpin,
};
use crate::store::{ContainerRecord, PodPhase, PodRecord};
use crate::{blocking, failure, lifecycle};

/// What a shim told when it was asked again.
type Told = (Vec<Record>, UnboundedReceiver<Event>);

/// Brings memory, disk and kernel together.
pub(crate) async fn recover(node: &Arc<Node>) -> Result<()> {
    let store = node.store.clone();
    let (pods, containers) = blocking::run(move || store.load()).await?;
    let known = Known::of(&pods, &containers);

    let mut told = Vec::new();
    for record in pods {
        if record.phase() == PodPhase::Starting {
            tracing::warn!(pod = record.id, "undoing a pod that was being made");
            if let Err(error) = undo(node, &record).await {
                tracing::error!(pod = record.id, %error, "it is not wholly undone");
                let cgroup = recorded_cgroup(node, &record)?;
                let broken = keep_broken(node, record, cgroup).await?;
                let name = PodName::of(&broken.record.config)?;
                node.pods
                    .reserve(name, broken.id())?
                    .fill(Arc::clone(&broken));
                told.push((broken, None));
            }
            continue;
        }
        told.push(pod(node, record).await?);
    }
    for record in containers {
        container(node, record, &told).await?;
    }
    for (pod, heard) in told {
        match heard {
            Some((containers, events)) => follow(node, &pod, containers, events),
            None if !matches!(pod.state(), PodState::Stopped) => {
                let message = if pod.record.boot == node.boot {
                    "the pod's slipway-shim was killed; the container was killed with it"
                } else {
                    "the node was rebooted"
                };
                lose_containers(node, &pod, message).await;
            }
            None => {}
        }
    }
    if let Err(error) = sweep(node, &known).await {
        // Nothing that is in use is at stake, and the next start tries again.
        tracing::error!(%error, "something that no pod uses is left on this node");
    }
    node.images
        .collect()
        .await
        .map_err(|error| failure::of_image(&error))
}

/// The ids that records stand for.
struct Known {
    pods: HashSet<String>,
    containers: HashSet<String>,
}

impl Known {
    fn of(pods: &[PodRecord], containers: &[ContainerRecord]) -> Self {
        Self {
            pods: pods.iter().map(|pod| pod.id.clone()).collect(),
            containers: containers
                .iter()
                .map(|container| container.id.clone())
                .collect(),
        }
    }
}

async fn pod(node: &Arc<Node>, record: PodRecord) -> Result<(Arc<Pod>, Option<Told>)> {
    let directory = node.pod_directory(&record.id);
    let cgroup = recorded_cgroup(node, &record)?;
    let mut heard = None;
    let state = if record.phase() == PodPhase::Stopped {
        PodState::Stopped
    } else if record.boot != node.boot {
        PodState::Broken { shim: None }
    } else {
        match revive(&directory).await {
            Ok((shim, told)) => {
                heard = Some(told);
                let addresses = record
                    .addresses
                    .iter()
                    .filter_map(|address| address.parse().ok())
                    .collect();
                PodState::Ready { shim, addresses }
            }
            Err(error) => {
                tracing::error!(pod = record.id, %error, "the pod's shim has gone");
                PodState::Broken { shim: None }
            }
        }
    };
    let name = PodName::of(&record.config)?;
    let reservation = node.pods.reserve(name, &record.id)?;
    let pod = Arc::new(Pod::new(record, directory, cgroup, state));
    reservation.fill(Arc::clone(&pod));
    Ok((pod, heard))
}

async fn revive(directory: &Path) -> std::result::Result<(Shim, Told), slipway_shim::Error> {
    let shim = Shim::connect(directory).await?;
    let told = shim.subscribe().await?;
    Ok((shim, told))
}

async fn container(
    node: &Arc<Node>,
    record: ContainerRecord,
    told: &[(Arc<Pod>, Option<Told>)],
) -> Result<()> {
    let found = told.iter().find(|(pod, _)| pod.id() == record.pod);
    let Some((pod, heard)) = found else {
        // Its pod was undone or never finished: nothing of it is left but its layer and record.
        remove_directory(&node.writable(&record.id))?;
        return node.store.delete_container(&record.id).await;
    };
    let on_disk = last_words(&node.bundle(&record.pod, &record.id));
    let heard = heard.as_ref().and_then(|(records, _)| {
        records
            .iter()
            .find(|told| told.container == record.id)
            .cloned()
    });
    let rebooted = pod.record.boot != node.boot;
    let state = match (&record.exit, heard.or(on_disk)) {
        (Some(exit), _) => ContainerState::Exited(exit.clone().into()),
        (None, Some(last)) => match last.phase {
            Phase::Created => ContainerState::Created,
            Phase::Running { started_at } => ContainerState::Running { started_at },
            Phase::Exited { .. } => ContainerState::Exited(exit_of(&last).unwrap_or_else(|| {
                ContainerExit::unknown(0, now(), "its shim's record cannot be understood")
            })),
        },
        (None, None) if rebooted => ContainerState::Running { started_at: 0 },
        (None, None) => {
            tracing::warn!(
                container = record.id,
                "undoing a container that was being made"
            );
            let shim = pod.any_shim();
            if let Err(error) = lifecycle::undo(node, &record, shim.as_ref()).await {
                tracing::error!(container = record.id, %error, "it is not wholly undone");
            }
            return Ok(());
        }
    };
    if let Err(error) = node.images.hold_layers(&record.chain_ids) {
        tracing::error!(container = record.id, %error, "a container's image layers are gone");
    }
    let name = ContainerName::of(&record.pod, &record.config)?;
    let reservation = node.containers.reserve(name, &record.id)?;
    pod.add_container(&record.id);
    reservation.fill(Arc::new(Container::new(record, Arc::clone(pod), state)));
    Ok(())
}

/// What a shim wrote of a container last.
fn last_words(bundle: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(bundle.join("state.json")).ok()?).ok()
}

/// Removes what no record stands for.
async fn sweep(node: &Arc<Node>, known: &Known) -> Result<()> {
    for pod in entries(&node.state.join("pods"))? {
        if known.pods.contains(&pod) {
            for container in entries(&node.pod_directory(&pod).join("containers"))? {
                if !known.containers.contains(&container) {
                    remove_directory(&node.bundle(&pod, &container))?;
                }
            }
        } else {
            tracing::warn!(pod, "removing a pod's directory that no record stands for");
            let directory = node.pod_directory(&pod);
            if let Ok(shim) = Shim::connect(&directory).await {
                let _ = shim.shutdown().await;
            }
            blocking::run(move || {
                unpin(&directory)?;
                remove_directory(&directory)
            })
            .await?;
        }
    }
    for container in entries(&node.root.join("containers"))? {
        if !known.containers.contains(&container) {
            remove_directory(&node.writable(&container))?;
        }
    }
    for pod in node
        .network
        .cached()
        .map_err(|error| failure::of_network(&error))?
    {
        if !known.pods.contains(&pod) {
            let attachment = Attachment {
                pod_id: pod,
                ..Attachment::default()
            };
            if let Err(error) = node.network.delete(&attachment).await {
                tracing::error!(pod = attachment.pod_id, %error, "an address may be leaked");
            }
        }
    }
    sweep_cgroups(node, known).await
}

/// Removes cgroups of pods without a parent of their own that nobody knows any more.
async fn sweep_cgroups(node: &Arc<Node>, known: &Known) -> Result<()> {
    let Ok(parent) = CgroupPath::parse(&node.config.cgroup_parent) else {
        return Ok(());
    };
    let mut unknown = HashSet::new();
    for directory in node.hierarchy.open(&parent).directories() {
        let ours = |name: &String| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let strange = |name: &String| !known.pods.contains(name);
        unknown.extend(
            entries(&directory)?
                .into_iter()
                .filter(ours)
                .filter(strange),
        );
    }
    for pod in unknown {
        let Ok(path) = parent.join(&pod) else {
            continue;
        };
        let cgroup = node.hierarchy.open(&path);
        blocking::run(move || {
            cgroup
                .kill()
                .and_then(|()| cgroup.remove())
                .map_err(|error| failure::of_cgroup(&error))
        })
        .await?;
    }
    Ok(())
}

/// The names of the directories in a directory, which may not be there.
fn entries(directory: &Path) -> Result<Vec<String>> {
    let listed = match fs::read_dir(directory) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(Error::internal(format!(
                "{} cannot be read: {error}",
                directory.display()
            )));
        }
    };
    Ok(listed
        .filter_map(std::result::Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect())
}
