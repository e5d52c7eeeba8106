//! Checkpoints of running containers (CRI `CheckpointContainer`): Docker has runc and CRIU write
//! them, where its experimental features are on. The container goes on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::container::CreateCheckpointOptions;
use bollard::models::ContainerInspectResponse;
use serde_json::{Value, json};
use slipway_checkpoint::{Checkpoint, Content, Description, Work};
use slipway_cri_api::v1::{CheckpointContainerRequest, ImageSpec, PodSandboxMetadata};
use slipway_engine::{ContainerState, Error, Kind, Result, blocking};

use crate::dockerd::Experiments;
use crate::inspect::{Container, Pod};
use crate::node::Node;

/// How long Docker may take where the request has no limit: tens of gigabytes of memory on a slow
/// disk.
const LONGEST: Duration = Duration::from_hours(1);

/// The name that Docker is given for a checkpoint, which is that of its directory.
const NAME: &str = "checkpoint";

/// Where they are written; at a daemon's start all that is there is of one that was killed.
pub(crate) fn parent(root: &Path) -> PathBuf {
    root.join("checkpoints")
}

/// Removes what a daemon has left that was killed over a checkpoint, as far as Docker does not write
/// there any more: the rest goes with the next one. Blocking.
pub(crate) fn clear(root: &Path) {
    let directory = parent(root);
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let directory = directory.display();
            tracing::error!(%directory, %error, "what a checkpoint was made of is left");
        }
        _ => {}
    }
}

/// Writes a checkpoint of a running container to where the request says.
pub(crate) async fn checkpoint(
    node: &Arc<Node>,
    request: CheckpointContainerRequest,
) -> Result<()> {
    let id = request.container_id.clone();
    let checkpoint = blocking::run(move || Checkpoint::of(&request)).await?;
    let container = node.container(&id)?;
    let id = container.id.as_str();
    let _turn = node.dumps.alone(id).await;
    let directory = node.dump_directory.join(id);
    let work = blocking::run(move || Work::begin(directory)).await?;
    let outcome = write(node, id, &work, checkpoint).await;
    let ended = blocking::run(move || {
        drop(work);
        Ok(())
    });
    ended.await?;
    outcome.map_err(|error| error.context(format!("checkpoint container {id}")))
}

async fn write(node: &Arc<Node>, id: &str, work: &Work, checkpoint: Checkpoint) -> Result<()> {
    let up = node.dockerd.up()?;
    let container = node.container(id)?;
    let pod = node.pod(&container.name.pod)?;
    let (ContainerState::Running { started_at }, Some(pid)) = (&container.state, container.pid)
    else {
        return Err(Error::precondition(
            "it is not running, so that there is nothing to write down",
        ));
    };
    if up.facts.experiments == Experiments::Refused {
        return Err(Error::precondition(
            "dockerd writes checkpoints only with its experimental features: set \"experimental\": \
             true in daemon.json and restart dockerd",
        ));
    }
    let asked = up.docker.inspect_container(id, None);
    let inspected = node
        .dockerd
        .answer(node.config.timeout(), "inspect the container", asked)
        .await?;
    let (upper, layers) = storage(&inspected, pid)?;
    dump(node, id, work, &checkpoint).await?;
    let content = Content {
        work: work.directory().to_owned(),
        described: described(&pod, &container, pid, *started_at, inspected),
        log: container.log_path.clone(),
        upper,
        layers,
    };
    blocking::run(move || checkpoint.write(&content)).await
}

/// Has Docker write the state of the container's processes.
async fn dump(node: &Node, id: &str, work: &Work, checkpoint: &Checkpoint) -> Result<()> {
    let options = CreateCheckpointOptions {
        checkpoint_id: NAME.to_owned(),
        checkpoint_dir: Some(work.directory().display().to_string()),
        exit: false,
    };
    let docker = node.dockerd.up()?.docker;
    let asked = docker.create_checkpoint(id, options);
    let limit = checkpoint.limit().unwrap_or(LONGEST);
    let answered = node.dockerd.answer(limit, "write its state", asked).await;
    answered.map_err(|error| match error.kind() {
        Kind::DeadlineExceeded if checkpoint.limit().is_some() => checkpoint.overdue(),
        Kind::Internal => Error::internal(format!(
            "{error}; `criu check` on the node says whether CRIU works there at all"
        )),
        _ => error,
    })
}

/// Where overlayfs keeps what the container has written, and its image's layers, the lowest first.
fn storage(inspected: &ContainerInspectResponse, pid: i32) -> Result<(PathBuf, Vec<PathBuf>)> {
    let driver = inspected.graph_driver.as_ref();
    let told = driver.and_then(|driver| {
        let upper = driver.data.get("UpperDir")?;
        Some((upper.as_str(), driver.data.get("LowerDir")?.as_str()))
    });
    if let Some((upper, lower)) = told {
        return Ok(overlay(upper, lower));
    }
    // With containerd's image store Docker does not tell, and the kernel does.
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    root_overlay(&mounts).ok_or_else(|| {
        let name = inspected.driver.as_deref().unwrap_or_default();
        Error::precondition(format!(
            "what it has written can be told only on overlayfs, and Docker keeps it with {name:?}; \
             use the storage driver overlay2"
        ))
    })
}

/// The root file system's in a process's `mountinfo` (proc(5)), where it is an overlayfs whose upper
/// directory was mounted with its whole path.
fn root_overlay(mounts: &str) -> Option<(PathBuf, Vec<PathBuf>)> {
    let (_, options) = mounts
        .lines()
        .filter_map(|line| line.split_once(" - overlay "))
        .find(|(mount, _)| mount.split(' ').nth(4) == Some("/"))?;
    let option = |name: &str| {
        let mut options = options.rsplit(' ').next()?.split(',');
        options.find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    };
    let (upper, lower) = (option("upperdir")?, option("lowerdir")?);
    upper.starts_with('/').then(|| overlay(upper, lower))
}

/// The directories in their order. Where the list was too long for mount(2), containerd gives the
/// lower ones from the directory that all snapshots are in.
fn overlay(upper: &str, lower: &str) -> (PathBuf, Vec<PathBuf>) {
    let upper = PathBuf::from(upper);
    let all = upper.ancestors().nth(2).unwrap_or(Path::new("/"));
    let layers = lower.split(':').rev().map(|layer| all.join(layer));
    let layers = layers.collect();
    (upper, layers)
}

fn described(
    pod: &Pod,
    container: &Container,
    pid: i32,
    started_at: i64,
    inspected: ContainerInspectResponse,
) -> Vec<(&'static str, Value)> {
    Description {
        id: &container.id,
        name: &container.name.name,
        pod_id: &pod.id,
        pod: &PodSandboxMetadata {
            name: pod.name.name.clone(),
            uid: pod.name.uid.clone(),
            namespace: pod.name.namespace.clone(),
            attempt: pod.name.attempt,
        },
        image: &ImageSpec {
            image: container.image.clone(),
            ..ImageSpec::default()
        },
        image_ref: &container.image_id,
        runtime: if pod.runtime.is_empty() {
            "docker"
        } else {
            &pod.runtime
        },
        created_at: container.created_at,
        started_at,
        pid,
        config: configuration(container, inspected),
    }
    .files()
}

/// The OCI configuration, as far as Docker tells it.
fn configuration(container: &Container, inspected: ContainerInspectResponse) -> Value {
    let config = inspected.config.unwrap_or_default();
    let directory = config.working_dir.filter(|directory| !directory.is_empty());
    let mounts = inspected.mounts.unwrap_or_default().into_iter();
    let mounts: Vec<Value> = mounts
        .map(|mount| {
            let writable = if mount.rw == Some(false) { "ro" } else { "rw" };
            json!({
                "destination": mount.destination,
                "type": "bind",
                "source": mount.source,
                "options": ["rbind", writable],
            })
        })
        .collect();
    let arguments = inspected
        .path
        .into_iter()
        .chain(inspected.args.unwrap_or_default());
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": container.terminal,
            "args": arguments.collect::<Vec<_>>(),
            "env": config.env.unwrap_or_default(),
            "cwd": directory.unwrap_or_else(|| "/".to_owned()),
        },
        "hostname": config.hostname.unwrap_or_default(),
        "mounts": mounts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_the_root_and_of_its_layers_from_the_lowest() {
        let mounts = "\
            22 21 0:5 / /proc rw - proc proc rw\n\
            30 21 0:40 / /data rw - overlay overlay rw,lowerdir=/no,upperdir=/no,workdir=/no\n\
            21 1 0:39 / / rw,relatime master:7 - overlay overlay \
            rw,lowerdir=/s/2/fs:/s/1/fs,upperdir=/s/3/fs,workdir=/s/3/work,index=off\n";
        let layers = ["/s/1/fs", "/s/2/fs"].map(PathBuf::from).to_vec();
        let expected = Some((PathBuf::from("/s/3/fs"), layers));
        assert_eq!(root_overlay(mounts), expected);
        let short = mounts.replace("=/s/2/fs:/s/1/fs", "=2/fs:1/fs");
        assert_eq!(root_overlay(&short), expected);
        for other in [
            mounts.replace("- overlay", "- btrfs"),
            mounts.replace("upperdir=/s/3", "upperdir=3"),
            mounts.replace("lowerdir=/s", "no=/s"),
            String::new(),
            "21 1 0:39 / / - overlay".to_owned(),
        ] {
            assert_eq!(root_overlay(&other), None, "{other}");
        }
    }
}
