//! Checkpoints of running containers (CRI `CheckpointContainer`): an archive of their processes'
//! state, as CRIU writes it, with what they have written and what they were made from. The
//! container goes on.
//!
//! The archive has the layout that checkpointctl, CRI-O and containerd read.

mod archive;
mod criu;
mod difference;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::Access;
use serde_json::{Value, json};
use slipway_cri_api::v1::CheckpointContainerRequest;
use slipway_engine::{ContainerState, Error, Result};

use crate::blocking;
use crate::container::Container;
use crate::layers::HeldLayers;
use crate::lifecycle::log_path;
use crate::node::{Node, now, private_directory};
use crate::sandbox::remove_directory;

/// Writes a checkpoint of a running container to where the request says.
pub(crate) async fn checkpoint(
    node: &Arc<Node>,
    request: CheckpointContainerRequest,
) -> Result<()> {
    let CheckpointContainerRequest {
        container_id,
        location,
        timeout,
    } = request;
    let limit = limit(timeout)?;
    let place = PathBuf::from(&location);
    let checked = place.clone();
    blocking::run(move || check_location(&checked)).await?;
    let container = node.containers.get(&container_id)?;
    let _gate = container.gate.lock().await;
    let work = Work::begin(node, &container).await?;
    let outcome = write(node, &container, &work, &place, limit).await;
    work.end().await;
    outcome.map_err(|error| error.context(format!("checkpoint container {}", container.id())))
}

async fn write(
    node: &Arc<Node>,
    container: &Arc<Container>,
    work: &Work,
    place: &Path,
    limit: Option<Duration>,
) -> Result<()> {
    let ContainerState::Running { started_at } = container.state() else {
        return Err(Error::precondition(
            "it is not running, so that there is nothing to write down",
        ));
    };
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
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
        work: &work.directory,
        limit,
    };
    match reloaded.handlers.runtime(handler)? {
        None => dump.run(&config).await?,
        Some(runtime) => dump.run_by(runtime).await?,
    }
    let content = Content {
        work: work.directory.clone(),
        described: describe(container, pid, started_at, config),
        log: log_path(&container.pod, &container.record.config),
        upper: node.writable(container.id()).join("upper"),
        layers: {
            let chain_ids = &container.record.chain_ids;
            let layers = node.images.hold_layers(chain_ids);
            layers.map_err(|error| crate::failure::of_image(&error))?
        },
        deadline,
        _held: HeldLayers::taken(&node.images, container.record.chain_ids.clone()),
    };
    let place = place.to_owned();
    let written = blocking::run(move || archive::write(&content, &place)).await?;
    written.ok_or_else(|| overdue(limit))
}

/// What goes into an archive.
struct Content {
    /// Where CRIU has written.
    work: PathBuf,
    described: Vec<(&'static str, Value)>,
    log: Option<PathBuf>,
    upper: PathBuf,
    /// The lowest first.
    layers: Vec<PathBuf>,
    /// When there is no point in going on.
    deadline: Option<Instant>,
    _held: HeldLayers,
}

/// A directory for what CRIU writes, which is as large as the container's memory.
struct Work {
    directory: PathBuf,
}

impl Work {
    async fn begin(node: &Node, container: &Container) -> Result<Self> {
        let directory = parent(node).join(container.id());
        let made = directory.clone();
        blocking::run(move || {
            remove_directory(&made)?;
            private_directory(&made.join("checkpoint"))
        })
        .await?;
        Ok(Self { directory })
    }

    async fn end(self) {
        if let Err(error) = blocking::run(move || remove_directory(&self.directory)).await {
            tracing::error!(%error, "what a checkpoint was made of is left");
        }
    }
}

/// Where they are written; at a daemon's start all that is there is of one that was killed.
pub(crate) fn parent(node: &Node) -> PathBuf {
    node.root.join("checkpoints")
}

fn limit(timeout: i64) -> Result<Option<Duration>> {
    match u64::try_from(timeout) {
        Ok(0) => Ok(None),
        Ok(seconds) => Ok(Some(Duration::from_secs(seconds))),
        Err(_) => Err(Error::invalid(format!(
            "CheckpointContainerRequest.timeout is {timeout} s; 0 means no limit"
        ))),
    }
}

fn overdue(limit: Option<Duration>) -> Error {
    Error::deadline(format!(
        "it was not written within {} s (CheckpointContainerRequest.timeout)",
        limit.unwrap_or_default().as_secs()
    ))
}

/// Blocking.
fn check_location(location: &Path) -> Result<()> {
    let refuse = |problem: String| {
        Err(Error::invalid(format!(
            "CheckpointContainerRequest.location {:?} {problem}",
            location.display().to_string()
        )))
    };
    if !location.is_absolute() {
        return refuse("is not an absolute path of a file to be written".to_owned());
    }
    let (Some(parent), Some(_)) = (location.parent(), location.file_name()) else {
        return refuse("names no file".to_owned());
    };
    if location.symlink_metadata().is_ok() {
        return refuse("exists already".to_owned());
    }
    if !parent.is_dir() {
        return refuse(format!("is in no directory: make {}", parent.display()));
    }
    match rustix::fs::access(parent, Access::WRITE_OK) {
        Ok(()) => Ok(()),
        Err(error) => refuse(format!("cannot be written: {error}")),
    }
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

/// The descriptions in an archive, by their name in it: `config.dump` is podman's and CRI-O's,
/// `status` containerd's, `spec.dump` is `config.json` with the annotations by which containerd's
/// archives tell whose they are.
fn describe(
    container: &Container,
    pid: i32,
    started_at: i64,
    mut config: Value,
) -> Vec<(&'static str, Value)> {
    let record = &container.record;
    let pod = container.pod.record.config.metadata.clone();
    let (pod, own) = (
        pod.unwrap_or_default(),
        record.config.metadata.clone().unwrap_or_default(),
    );
    let image = record.config.image.as_ref();
    let image = image.map(|image| match image.user_specified_image.as_str() {
        "" => image.image.clone(),
        asked => asked.to_owned(),
    });
    let handler = match container.pod.record.handler.as_str() {
        "" => "slipway",
        named => named,
    };
    for (name, value) in [
        ("io.container.manager", "slipway"),
        ("io.kubernetes.cri.container-name", &own.name),
        ("io.kubernetes.cri.sandbox-name", &pod.name),
        ("io.kubernetes.cri.sandbox-namespace", &pod.namespace),
        ("io.kubernetes.cri.sandbox-uid", &pod.uid),
        ("io.kubernetes.cri.sandbox-id", container.pod.id()),
    ] {
        config["annotations"][name] = json!(value);
    }
    let time = |nanoseconds: i64| {
        let time = jiff::Timestamp::from_nanosecond(nanoseconds.into());
        time.unwrap_or_default().to_string()
    };
    let described = json!({
        "id": container.id(),
        "name": own.name,
        "rootfsImage": image,
        "rootfsImageName": image,
        "rootfsImageRef": record.image_ref,
        "runtime": handler,
        "createdTime": time(record.created_at),
        "checkpointedTime": time(now()),
        "restoredTime": "0001-01-01T00:00:00Z",
        "restored": false,
    });
    let status = json!({
        "CreatedAt": record.created_at,
        "StartedAt": started_at,
        "FinishedAt": 0,
        "ExitCode": 0,
        "Pid": pid,
        "Reason": "",
        "Message": "",
    });
    vec![
        ("config.dump", described),
        ("spec.dump", config),
        ("status", status),
    ]
}

#[cfg(test)]
mod tests {
    use slipway_engine::Kind;

    use super::*;

    #[test]
    fn a_location_is_a_new_file_in_a_directory_that_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let there = directory.path().join("there");
        fs::write(&there, "").unwrap();
        for (location, problem) in [
            (PathBuf::new(), "absolute"),
            (PathBuf::from("x.tar"), "absolute"),
            (PathBuf::from("/"), "names no file"),
            (there.clone(), "exists already"),
            (directory.path().to_owned(), "exists already"),
            (directory.path().join("no/x.tar"), "is in no directory"),
            (there.join("x.tar"), "is in no directory"),
            (PathBuf::from("/proc/x.tar"), ""),
        ] {
            match check_location(&location) {
                Err(error) => {
                    assert_eq!(error.kind(), Kind::InvalidArgument);
                    assert!(error.to_string().contains(problem), "{error}");
                    assert!(error.to_string().contains("location"), "{error}");
                }
                // Some file systems say no only when it comes to it.
                Ok(()) => assert!(problem.is_empty(), "{}", location.display()),
            }
        }
        assert!(check_location(&directory.path().join("new")).is_ok());
    }

    #[test]
    fn no_time_is_no_limit_and_less_is_none() {
        assert_eq!(limit(0).unwrap(), None);
        assert_eq!(limit(7).unwrap(), Some(Duration::from_secs(7)));
        let error = limit(-1).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.to_string().contains("timeout"), "{error}");
    }
}
