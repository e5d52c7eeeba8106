//! The daemon's start: what the records say is compared with what is there.
//!
//! A pod whose shim answers goes on as if nothing had happened. A pod that was being made is
//! undone. A pod whose shim has gone, or that is of an earlier boot, is kept for its status, and
//! its processes are killed. What no record stands for is removed.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use slipway_engine::{ContainerExit, ContainerName, ContainerState, PodName, Result, blocking};
use slipway_network::Attachment;
use slipway_shim::Shim;
use slipway_shim::protocol::{Event, Phase, Record};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::container::{Container, exit_of};
use crate::layers::HeldLayers;
use crate::node::{Node, now};
use crate::own_metrics::Leak;
use crate::pod::{Pod, PodState};
use crate::sandbox::{
    follow, keep_broken, lose_containers, recorded_cgroup, remove_directory, undo, unpin,
};
use crate::store::{ContainerRecord, PodPhase, PodRecord};
use crate::{checkpoint, failure, lifecycle};

/// How long a shim may take to answer a daemon that comes back.
const SHIM_DEADLINE: Duration = Duration::from_secs(10);

/// What a shim told when it was asked again.
type Told = (Vec<Record>, UnboundedReceiver<Event>);

/// Brings memory, disk and kernel together.
///
/// One pod or container that cannot be dealt with is logged and left for the next start; it never
/// keeps the others from being looked after.
pub(crate) async fn recover(node: &Arc<Node>) -> Result<()> {
    let store = node.store.clone();
    let (pods, containers) = blocking::run(move || store.load()).await?;
    let known = Known::of(&pods, &containers);
    // Before anything is undone, so that no layer is given up that another container stands on.
    let mut layers = hold(node, &containers);

    let mut told = Vec::new();
    for found in join_all(pods.into_iter().map(|record| find_pod(node, record))).await {
        match found {
            Ok(found) => told.extend(found),
            Err(error) => tracing::error!(%error, "a pod is not recovered"),
        }
    }
    for record in containers {
        let (id, layers) = (record.id.clone(), layers.remove(&record.id));
        if let Err(error) = find_container(node, record, layers, &told).await {
            tracing::error!(container = id, %error, "a container is not recovered");
        }
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
    sweep(node, &known).await;
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

fn hold(node: &Node, containers: &[ContainerRecord]) -> HashMap<String, HeldLayers> {
    let mut layers = HashMap::new();
    for record in containers {
        let chain_ids = [&record.chain_ids[..], &record.volume_chain_ids].concat();
        match HeldLayers::again(&node.images, &chain_ids) {
            Ok(held) => {
                layers.insert(record.id.clone(), held);
            }
            Err(error) => {
                tracing::error!(container = record.id, %error, "its image layers are gone");
            }
        }
    }
    layers
}

/// A pod by its record; none where it was undone.
async fn find_pod(node: &Arc<Node>, record: PodRecord) -> Result<Option<(Arc<Pod>, Option<Told>)>> {
    let name = PodName::of(&record.config)?;
    if record.phase() == PodPhase::Starting {
        tracing::warn!(pod = record.id, "undoing a pod that was being made");
        node.metrics.found(Leak::Pod);
        let Err(error) = undo(node, &record).await else {
            return Ok(None);
        };
        tracing::error!(pod = record.id, %error, "it is not wholly undone");
        node.metrics.left(Leak::Pod);
        let cgroup = recorded_cgroup(&record)?;
        let broken = keep_broken(node, record, cgroup).await?;
        let reservation = node.pods.reserve(name, broken.id())?;
        reservation.fill(Arc::clone(&broken));
        return Ok(Some((broken, None)));
    }
    let directory = node.pod_directory(&record.id);
    let cgroup = recorded_cgroup(&record)?;
    let mut heard = None;
    let state = if record.phase() == PodPhase::Stopped {
        PodState::Stopped
    } else if record.boot != node.boot {
        PodState::Broken { shim: None }
    } else {
        match tokio::time::timeout(SHIM_DEADLINE, revive(&directory)).await {
            Ok(Ok((shim, told))) => {
                heard = Some(told);
                let addresses = record.addresses.iter();
                PodState::Ready {
                    shim,
                    addresses: addresses.filter_map(|it| it.parse().ok()).collect(),
                }
            }
            Ok(Err(error)) => {
                tracing::error!(pod = record.id, %error, "the pod's shim has gone");
                node.metrics.lost_shims.inc();
                PodState::Broken { shim: None }
            }
            Err(_) => {
                tracing::error!(pod = record.id, "the pod's shim does not answer");
                node.metrics.lost_shims.inc();
                PodState::Broken { shim: None }
            }
        }
    };
    let reservation = node.pods.reserve(name, &record.id)?;
    let metrics = &node.metrics;
    let pod = Arc::new(Pod::new(record, directory, cgroup, state, metrics));
    reservation.fill(Arc::clone(&pod));
    Ok(Some((pod, heard)))
}

async fn revive(directory: &Path) -> std::result::Result<(Shim, Told), slipway_shim::Error> {
    let shim = Shim::connect(directory).await?;
    let told = shim.subscribe().await?;
    Ok((shim, told))
}

async fn find_container(
    node: &Arc<Node>,
    record: ContainerRecord,
    layers: Option<HeldLayers>,
    told: &[(Arc<Pod>, Option<Told>)],
) -> Result<()> {
    let found = told.iter().find(|(pod, _)| pod.id() == record.pod);
    let Some((pod, heard)) = found else {
        // Its pod was undone: nothing of it is left but its writable layer and its record.
        remove_directory(&node.writable(&record.id))?;
        return node.store.delete_container(&record.id).await;
    };
    let heard = heard.as_ref().and_then(|(records, _)| {
        records
            .iter()
            .find(|told| told.container == record.id)
            .cloned()
    });
    let last = heard.or_else(|| last_words(&node.bundle(&record.pod, &record.id)));
    let rebooted = pod.record.boot != node.boot;
    let state = match (&record.exit, &last) {
        (Some(exit), _) => ContainerState::Exited(exit.clone().into()),
        (None, Some(last)) => match last.phase {
            Phase::Created => ContainerState::Created,
            Phase::Running { started_at } => ContainerState::Running { started_at },
            Phase::Exited { .. } => ContainerState::Exited(exit_of(last).unwrap_or_else(|| {
                ContainerExit::unknown(0, now(), "its shim's record cannot be understood")
            })),
        },
        (None, None) if rebooted => ContainerState::Running { started_at: 0 },
        (None, None) => {
            tracing::warn!(
                container = record.id,
                "undoing a container that was being made"
            );
            node.metrics.found(Leak::Container);
            let shim = pod.any_shim();
            let Err(error) = lifecycle::undo(node, &record, shim.as_ref()).await else {
                return Ok(());
            };
            node.metrics.left(Leak::Container);
            // Listed, so that a kubelet removes it once that is possible.
            let message = format!("it is not wholly undone: {error}");
            ContainerState::Exited(ContainerExit::unknown(0, now(), message))
        }
    };
    let name = ContainerName::of(&record.pod, &record.config)?;
    let reservation = node.containers.reserve(name, &record.id)?;
    pod.add_container(&record.id);
    let pod = Arc::clone(pod);
    let container = Arc::new(Container::new(record, pod, layers, state, &node.metrics));
    reservation.fill(Arc::clone(&container));
    if let Some(last) = last {
        container.follow(node, &last).await;
    }
    Ok(())
}

/// What a shim wrote of a container last.
fn last_words(bundle: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(bundle.join("state.json")).ok()?).ok()
}

/// Removes what no record stands for, each for itself.
async fn sweep(node: &Arc<Node>, known: &Known) {
    let swept = |kind: Leak, result: Result<()>| {
        node.metrics.found(kind);
        if let Err(error) = result {
            tracing::error!(%error, "{} is left", kind.describe());
            node.metrics.left(kind);
        }
    };
    for pod in entries(&node.state.join("pods")) {
        if !known.pods.contains(&pod) {
            swept(Leak::PodDirectory, sweep_pod(node, &pod).await);
            continue;
        }
        for container in entries(&node.pod_directory(&pod).join("containers")) {
            if !known.containers.contains(&container) {
                let bundle = node.bundle(&pod, &container);
                swept(Leak::Bundle, remove_directory(&bundle));
            }
        }
    }
    for container in entries(&node.writable_layers()) {
        if !known.containers.contains(&container) {
            let writable = node.writable(&container);
            swept(Leak::WritableLayer, remove_directory(&writable));
        }
    }
    for checkpoint in entries(&checkpoint::parent(node)) {
        let directory = checkpoint::parent(node).join(checkpoint);
        let removed = blocking::run(move || remove_directory(&directory)).await;
        swept(Leak::Checkpoint, removed);
    }
    let handlers = &node.reloaded().handlers;
    for (handler, container) in handlers.held() {
        if !known.containers.contains(&container) {
            let forgotten = handlers.forget(&node.state, handler, &container).await;
            swept(Leak::RuntimeState, forgotten);
        }
    }
    for pod in node.network.cached().unwrap_or_default() {
        if !known.pods.contains(&pod) {
            let attachment = Attachment {
                pod_id: pod,
                ..Attachment::default()
            };
            let deleted = node.network.delete(&attachment).await;
            let deleted = deleted.map_err(|error| failure::of_network(&error));
            swept(Leak::Network, deleted);
        }
    }
}

/// Removes a pod of this state directory that there is no record of, and what ran in it.
async fn sweep_pod(node: &Arc<Node>, pod: &str) -> Result<()> {
    tracing::warn!(pod, "removing a pod that no record stands for");
    let directory = node.pod_directory(pod);
    let shutdown = async {
        if let Ok(shim) = Shim::connect(&directory).await {
            let _ = shim.shutdown().await;
        }
    };
    let _ = tokio::time::timeout(SHIM_DEADLINE, shutdown).await;
    let cgroup = node.hierarchy.open(&node.cgroups.of_pod(pod)?);
    blocking::run(move || {
        if cgroup.exists() {
            cgroup
                .kill()
                .and_then(|()| cgroup.remove())
                .map_err(|error| failure::of_cgroup(&error))?;
        }
        unpin(&directory)?;
        remove_directory(&directory)
    })
    .await
}

/// The names of the directories in a directory; none where it cannot be read.
fn entries(directory: &Path) -> Vec<String> {
    match fs::read_dir(directory) {
        Ok(listed) => listed
            .filter_map(std::result::Result::ok)
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            tracing::error!(directory = %directory.display(), %error, "it cannot be swept");
            Vec::new()
        }
    }
}
