//! Checkpoints of running containers (CRI `CheckpointContainer`): an archive of their processes'
//! state, as CRIU writes it, with what they have written and what they were made from. The
//! container goes on.

mod criu;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use slipway_checkpoint::{Checkpoint, Content, Description, Work};
use slipway_cri_api::v1::CheckpointContainerRequest;
use slipway_engine::{ContainerState, Error, Result, blocking};

use crate::container::Container;
use crate::layers::HeldLayers;
use crate::lifecycle::log_path;
use crate::node::{Node, private_directory};

/// Writes a checkpoint of a running container to where the request says.
pub(crate) async fn checkpoint(
    node: &Arc<Node>,
    request: CheckpointContainerRequest,
) -> Result<()> {
    let id = request.container_id.clone();
    let checkpoint = blocking::run(move || Checkpoint::of(&request)).await?;
    let container = node.containers.get(&id)?;
    let _gate = container.gate.lock().await;
    let parent = parent(node);
    let directory = parent.join(container.id());
    let work = blocking::run(move || {
        private_directory(&parent)?;
        let work = Work::begin(directory)?;
        private_directory(&work.images())?;
        Ok(work)
    })
    .await?;
    let outcome = write(node, &container, &work, checkpoint).await;
    let ended = blocking::run(move || {
        drop(work);
        Ok(())
    });
    ended.await?;
    outcome.map_err(|error| error.context(format!("checkpoint container {}", container.id())))
}

async fn write(
    node: &Arc<Node>,
    container: &Arc<Container>,
    work: &Work,
    checkpoint: Checkpoint,
) -> Result<()> {
    let ContainerState::Running { started_at } = container.state() else {
        return Err(Error::precondition(
            "it is not running, so that there is nothing to write down",
        ));
    };
    let handler = &container.pod.record.handler;
    let pid = running_pid(container)?;
    let bundle = node.bundle(container.pod.id(), container.id());
    let config = bundle.join("config.json");
    let config: Value = blocking::run(move || read_config(&config)).await?;
    let reloaded = node.reloaded();
    let criu = criu::find(&reloaded.config, &criu::search_path())?;
    let dump = criu::Dump {
        criu: &criu,
        pid,
        container: container.id(),
        work,
        checkpoint: &checkpoint,
    };
    match reloaded.handlers.runtime(handler)? {
        None => dump.run(&config).await?,
        Some(runtime) => dump.run_by(runtime).await?,
    }
    let chain_ids = &container.record.chain_ids;
    let layers = node.images.hold_layers(chain_ids);
    let layers = layers.map_err(|error| crate::failure::of_image(&error))?;
    let held = HeldLayers::taken(&node.images, chain_ids.clone());
    let content = Content {
        work: work.directory().to_owned(),
        described: described(container, pid, started_at, config),
        log: log_path(&container.pod, &container.record.config),
        upper: node.writable(container.id()).join("upper"),
        layers,
    };
    blocking::run(move || {
        let _held = held;
        checkpoint.write(&content)
    })
    .await
}

fn described(
    container: &Container,
    pid: i32,
    started_at: i64,
    config: Value,
) -> Vec<(&'static str, Value)> {
    let record = &container.record;
    let handler = container.pod.record.handler.as_str();
    let own = record.config.metadata.clone().unwrap_or_default();
    Description {
        id: container.id(),
        name: &own.name,
        pod_id: container.pod.id(),
        pod: &container
            .pod
            .record
            .config
            .metadata
            .clone()
            .unwrap_or_default(),
        image: &record.config.image.clone().unwrap_or_default(),
        image_ref: &record.image_ref,
        runtime: if handler.is_empty() {
            "slipway"
        } else {
            handler
        },
        created_at: record.created_at,
        started_at,
        pid,
        config,
    }
    .files()
}

/// Where they are written; at a daemon's start all that is there is of one that was killed.
pub(crate) fn parent(node: &Node) -> PathBuf {
    node.root.join("checkpoints")
}

/// The container's init, which is what its number stands for as long as it is in its cgroup.
fn running_pid(container: &Container) -> Result<i32> {
    let pid = container.pid().filter(|pid| {
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        cgroups.contains(container.id())
    });
    pid.ok_or_else(|| Error::precondition("its process has just ended"))
}

fn read_config(path: &Path) -> Result<Value> {
    let failed = |error: String| Error::internal(format!("{}: {error}", path.display()));
    let text = fs::read(path).map_err(|error| failed(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))
}
