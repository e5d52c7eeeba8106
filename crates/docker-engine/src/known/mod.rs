//! What is known of Docker's pods and containers, on disk as well: for a daemon that starts while
//! Docker is away. It tells what Docker said last, as one does that has lost Docker.
//!
//! Invariants:
//!
//! - The file has everything or nothing, for what a list leaves out is taken for gone: it is written
//!   once all of Docker's containers were asked about, and from then on in transactions.
//! - Nobody waits for it, and nobody needs it: Docker is what is true, and is asked about everything
//!   when it answers.
//! - No process outlives a boot. One that ran in an earlier one has ended, and how, nobody knows but
//!   Docker. Its pod can be neither stopped nor removed until then, so that no kubelet makes it anew.

mod file;
mod record;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use slipway_engine::{Error, Result, blocking};
use tokio::time::sleep;

use self::file::{File, Found, Head, Rows};
use self::record::ContainerRecord;
use crate::inspect::{Container, Pod};
use crate::node::{Node, now};

/// How long changes are gathered before they are written together.
const GATHERING: Duration = Duration::from_millis(200);

/// How long after a failure it is written again, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// All that is known, by id.
#[derive(Debug, Clone, Default)]
pub(crate) struct Everything {
    pub(crate) pods: BTreeMap<String, Arc<Pod>>,
    pub(crate) containers: BTreeMap<String, Arc<Container>>,
}

impl Everything {
    /// How many containers run.
    fn running(&self) -> usize {
        let containers = self.containers.values();
        containers.filter(|one| one.state.is_running()).count()
    }
}

/// Has the node know what the file says, and the file say what the node knows, for as long as that
/// is there.
///
/// # Errors
///
/// Where the kernel does not say which boot this is. A file that cannot be read is logged.
pub(crate) async fn start(node: &Arc<Node>, path: PathBuf) -> Result<()> {
    let head = Head::new(boot()?, node.dockerd.endpoint());
    let shown = path.display().to_string();
    let (file, found) = blocking::run(move || {
        let mut file = File::new(path);
        let found = file.read();
        Ok((file, found))
    })
    .await?;
    match found {
        Ok(Found::Nothing) => {}
        Ok(Found::OtherFormat(format)) => tracing::warn!(
            file = shown,
            format,
            "another version of Slipway has written what Docker had; nothing is listed until Docker \
             answers, and it is written anew then"
        ),
        Ok(Found::Known(written, _)) if written.endpoint != head.endpoint => tracing::warn!(
            file = shown,
            endpoint = written.endpoint,
            "what is known is of another Docker; nothing is listed until this one answers"
        ),
        Ok(Found::Known(written, rows)) => remember(node, rows, written.boot == head.boot),
        Err(error) => tracing::error!(
            file = shown, %error,
            "what Docker had cannot be read; nothing is listed until Docker answers, and it is \
             written anew then: see to it that Docker runs"
        ),
    }
    tokio::spawn(keep(Arc::clone(node), file, head, shown));
    Ok(())
}

fn remember(node: &Node, rows: Rows, same_boot: bool) {
    let Rows { pods, containers } = rows;
    let images = containers.iter().map(ContainerRecord::image_names);
    node.image_names.remember(images.collect());
    let pods = pods
        .into_iter()
        .filter_map(|pod| pod.read(&node.checkpoints));
    let mut pods: Vec<_> = pods.collect();
    let mut containers: Vec<_> = containers.into_iter().map(ContainerRecord::read).collect();
    if !same_boot {
        let seen_at = now();
        pods.iter_mut().for_each(record::end_pod);
        for container in &mut containers {
            record::end_container(container, seen_at);
        }
    }
    tracing::info!(
        pods = pods.len(),
        containers = containers.len(),
        same_boot,
        "this is what Docker had, until it answers"
    );
    node.remember(pods, containers);
}

/// Writes what has changed.
async fn keep(node: Arc<Node>, mut file: File, head: Head, shown: String) {
    let mut changes = node.changes.subscribe();
    // Until then there may be more than is known.
    node.dockerd.reached().await;
    let mut written = None;
    let mut pause = FIRST_PAUSE;
    loop {
        changes.mark_unchanged();
        let everything = node.everything();
        let (writer, head) = (Arc::clone(&node), head.clone());
        let done = blocking::run(move || {
            let names = |id: &str| writer.image_names.of(id);
            let done = file.write(&head, written.as_ref(), &everything, names);
            Ok((file, everything, done))
        });
        // Else the daemon is stopping.
        let Ok((same_file, everything, done)) = done.await else {
            return;
        };
        file = same_file;
        match done {
            Ok(()) => {
                tracing::debug!(
                    pods = everything.pods.len(),
                    containers = everything.containers.len(),
                    running = everything.running(),
                    "what Docker has is written down"
                );
                (written, pause) = (Some(everything), FIRST_PAUSE);
                if changes.changed().await.is_err() {
                    return;
                }
                sleep(GATHERING).await;
            }
            Err(error) => {
                if pause == FIRST_PAUSE {
                    tracing::error!(
                        file = shown, %error,
                        "what Docker has cannot be written down; it is tried again, and until then a \
                         daemon that starts while Docker is away lists what was written before"
                    );
                }
                written = None;
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// The kernel's name for this boot (random(4)). Blocking, briefly.
fn boot() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(PATH)
        .map(|id| id.trim().to_owned())
        .map_err(|error| Error::internal(format!("{PATH} cannot be read: {error}")))
}

#[cfg(test)]
mod tests;
