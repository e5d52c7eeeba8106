//! Making, starting, stopping and removing containers.

use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{KillContainerOptionsBuilder, StopContainerOptionsBuilder};
use slipway_cri_api::v1::{ContainerConfig, NamespaceMode};
use slipway_engine::{ContainerName, ContainerState, Error, Result, blocking};

use crate::holder::{self, Holder};
use crate::node::Node;
use crate::{create, failure, limits, log, naming, refuse, sandbox};

/// How long a process may take to die of SIGKILL: one that waits for a disk or a network file
/// system in the kernel can take any time.
const KILL_DEADLINE: Duration = Duration::from_mins(1);

/// Makes a container. Where Docker does not answer it may have made it all the same: then it is
/// listed, as one that has not been started.
pub(crate) async fn create(node: &Arc<Node>, pod: &str, config: ContainerConfig) -> Result<String> {
    let pod = node.pod(pod)?;
    let _gate = node.gates.shared(&pod.id).await;
    let pod = sandbox::ready(node, &pod.id)?;
    let name = ContainerName::of(&pod.id, &config)?;
    if let Some(known) = node.containers.named(&name) {
        return Err(exists(&name, &known.id));
    }
    let facts = node.dockerd.up()?.facts;
    refuse::container(&pod, &config, &facts)?;
    check_target(node, &pod.id, &config)?;
    let docker_name = naming::of_container(&pod.name, &name);
    let checker = Arc::clone(node);
    let named = name.clone();
    let body = blocking::run(move || {
        let linux = config.linux.as_ref();
        if let Some(asked) = linux.and_then(|linux| linux.resources.as_ref()) {
            limits::check(&checker, &pod, asked)?;
        }
        slipway_resources::device_nodes(&config.devices, &config.mounts)?;
        create::body(&pod, &named, &config, &facts)
    })
    .await?;
    let made = make(node, &name, docker_name, body).await;
    let id = made.inspect_err(|_| node.doubt())?;
    node.refresh(&id).await?;
    Ok(id)
}

/// Has Docker make a container, also where its name is not free.
async fn make(
    node: &Node,
    name: &ContainerName,
    docker_name: String,
    body: ContainerCreateBody,
) -> Result<String> {
    let what = format!("make container {name}");
    if let Some(id) = holder::create(node, &what, &docker_name, body.clone()).await? {
        return Ok(id);
    }
    let other_name = match holder::holder(node, &docker_name).await? {
        Holder::Nobody => docker_name,
        Holder::Container(id, pod) if pod == name.pod => {
            node.refresh(&id).await?;
            return Err(exists(name, &id));
        }
        Holder::Pod(id)
        | Holder::HalfMade(id)
        | Holder::Container(id, _)
        | Holder::Stranger(id) => {
            tracing::warn!(
                name = docker_name,
                holder = id,
                "a container's name in Docker is taken"
            );
            holder::beside(&docker_name)?
        }
    };
    let made = holder::create(node, &what, &other_name, body).await?;
    made.ok_or_else(|| {
        Error::already_exists(format!(
            "{what}: Docker's name {other_name} is taken; use the next attempt number"
        ))
    })
}

fn exists(name: &ContainerName, id: &str) -> Error {
    Error::already_exists(format!(
        "container {name} exists already as {id}; remove it first or use the next attempt number"
    ))
}

/// Refuses a container whose processes another one is to see, if that is none of the pod's that run.
fn check_target(node: &Node, pod: &str, config: &ContainerConfig) -> Result<()> {
    const FIELD: &str = "ContainerConfig.linux.security_context.namespace_options.target_id";
    let linux = config.linux.as_ref();
    let options = linux
        .and_then(|linux| linux.security_context.as_ref()?.namespace_options.as_ref())
        .filter(|options| options.pid == NamespaceMode::Target as i32);
    let Some(options) = options else {
        return Ok(());
    };
    if options.target_id.is_empty() {
        return Err(Error::invalid(format!(
            "{FIELD} is empty, but pid is TARGET: it names the container to look at"
        )));
    }
    let target = node
        .container(&options.target_id)
        .map_err(|error| error.context(FIELD))?;
    if target.name.pod != pod {
        return Err(Error::invalid(format!(
            "{FIELD}: container {} belongs to pod {}, not to {pod}",
            target.id, target.name.pod
        )));
    }
    if !target.state.is_running() {
        return Err(Error::precondition(format!(
            "{FIELD}: container {} is not running: only the PID namespace of one that is can be \
             joined",
            target.id
        )));
    }
    Ok(())
}

/// Executes a created container's process.
pub(crate) async fn start(node: &Arc<Node>, id: &str) -> Result<()> {
    let container = node.container(id)?;
    let _gate = node.gates.shared(&container.name.pod).await;
    let id = container.id.as_str();
    let _updating = node.updates.alone(id).await;
    // Docker would start one that has run once more.
    node.container(id)?.state.started(0)?;
    sandbox::ready(node, &container.name.pod)?;
    let what = format!("start container {id}");
    let started = node
        .dockerd
        .call(&what, |docker| async move {
            docker.start_container(id, None).await
        })
        .await;
    let seen = node.refresh(id).await;
    match started {
        // What counts is what Docker says now, whatever became of its answer.
        Err(error) if !node.container(id).is_ok_and(|now| now.state.has_run()) => {
            return Err(error);
        }
        _ => seen?,
    }
    limits::begin(node, id).await
}

/// Sends the stop signal, and SIGKILL after `timeout` seconds.
pub(crate) async fn stop(node: &Arc<Node>, id: &str, timeout: i64) -> Result<()> {
    node.dockerd.up()?;
    let Some(container) = node.containers.find(id)? else {
        return Ok(());
    };
    if !container.state.is_running() {
        return Ok(());
    }
    let id = container.id.as_str();
    // For what is longer than Docker can count, it waits as long as it can.
    let seconds = i32::try_from(timeout.max(0)).unwrap_or(i32::MAX);
    if seconds == 0 {
        return kill(node, id).await;
    }
    let options = StopContainerOptionsBuilder::default().t(seconds).build();
    let what = format!("stop container {id}");
    let longer = Duration::from_secs(u64::from(seconds.unsigned_abs()));
    node.dockerd
        .call_longer(longer, &what, |docker| async move {
            missing_is_fine(docker.stop_container(id, Some(options)).await)
        })
        .await?;
    node.refresh(id).await
}

/// Kills a container, or a pod's pause container, and waits until it is known to have ended.
pub(crate) async fn kill(node: &Arc<Node>, id: &str) -> Result<()> {
    let options = KillContainerOptionsBuilder::default()
        .signal("SIGKILL")
        .build();
    let what = format!("kill container {id}");
    node.dockerd
        .call(&what, |docker| async move {
            match docker.kill_container(id, Some(options)).await {
                // It has ended by itself.
                Err(error) if failure::is_conflict(&error) => Ok(()),
                other => missing_is_fine(other),
            }
        })
        .await?;
    let ended = node.until(|| {
        let container = node.containers.find(id).ok().flatten();
        let pod = node.pods.find(id).ok().flatten();
        !container.is_some_and(|container| container.state.is_running())
            && pod.is_none_or(|pod| pod.pid.is_none())
    });
    // It may have ended before it was asked to, and told of that already.
    node.refresh(id).await?;
    tokio::time::timeout(KILL_DEADLINE, ended).await.map_err(|_| {
        Error::deadline(format!(
            "container {id} has not died of SIGKILL within {} s: see what its processes wait for \
             in the kernel (/proc/<pid>/stack)",
            KILL_DEADLINE.as_secs()
        ))
    })
}

fn missing_is_fine(
    done: std::result::Result<(), bollard::errors::Error>,
) -> std::result::Result<(), bollard::errors::Error> {
    match done {
        Err(error) if failure::is_missing(&error) => Ok(()),
        other => other,
    }
}

/// Removes a container and its writable layer; one that runs is killed first.
pub(crate) async fn remove(node: &Arc<Node>, id: &str) -> Result<()> {
    node.dockerd.up()?;
    let Some(container) = node.containers.find(id)? else {
        return Ok(());
    };
    if let Some(path) = &container.log_path {
        log::remove_link(path);
    }
    let docker: Docker = node.dockerd.up()?.docker;
    sandbox::remove_container(node, &docker, &container.id).await?;
    node.refresh(&container.id).await
}

/// A running container.
///
/// # Errors
///
/// [`slipway_engine::Kind::FailedPrecondition`] where it does not run.
pub(crate) fn running(node: &Node, id: &str) -> Result<Arc<crate::inspect::Container>> {
    let container = node.container(id)?;
    if matches!(container.state, ContainerState::Running { .. }) {
        return Ok(container);
    }
    Err(Error::precondition(format!(
        "container {} is not running: commands can be run only while it is",
        container.id
    )))
}
