//! Making, stopping and removing pods.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse, HostConfig};
use bollard::query_parameters::RemoveContainerOptionsBuilder;
use slipway_cri_api::v1::{
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, PodSandboxConfig,
};
use slipway_engine::{Error, Kind, PodName, Result, blocking, resolver_configuration};
use slipway_network::Attachment;

use crate::checkpoint::Checkpoint;
use crate::dockerd::Facts;
use crate::holder::{self, Holder};
use crate::inspect::Pod;
use crate::node::Node;
use crate::{adopt, failure, images, lifecycle, naming, refuse, security};

/// What dockershim gave to the container that holds a pod's namespaces: killed after the pod's
/// containers, and before the node's daemons.
const OOM_SCORE: i64 = -998;
const CPU_SHARES: i64 = 2;

/// The name of the runtime that a RuntimeClass of dockershim's nodes has: Docker's default one.
const DEFAULT_HANDLER: &str = "docker";

/// Makes a pod. On an error nothing of it is left, or only for as long as Docker cannot be asked to
/// remove it.
pub(crate) async fn run(
    node: &Arc<Node>,
    config: PodSandboxConfig,
    handler: String,
) -> Result<String> {
    let name = PodName::of(&config)?;
    let up = node.dockerd.up()?;
    refuse::pod(&config, &up.facts)?;
    let (checker, checked) = (Arc::clone(node), config.clone());
    blocking::run(move || slipway_resources::check_pod(checker.hierarchy()?, &checked)).await?;
    let runtime = runtime(&handler, &up.facts)?;
    let image = images::pause_name(node).to_owned();
    let body = body(&config, runtime, image, &up.facts);
    let making = node.make(&name)?;
    // What Docker has made without being heard of is found when it is asked about everything.
    let id = create(node, &name, body)
        .await
        .inspect_err(|_| node.doubt())?;
    let made = match build(node, &id, config, handler).await {
        Ok(inspected) => node.complete(making, &id, Box::new(inspected)).await,
        Err(error) => Err(error),
    };
    match made {
        Ok(()) => Ok(id),
        Err(error) => {
            if let Err(left) = undo(node, &up.docker, &id).await {
                tracing::error!(pod = id, error = %left, "a pod that failed is not wholly undone");
                node.doubt();
            }
            Err(error)
        }
    }
}

/// Has Docker make the container, also where its name is not free, or the image is not there.
async fn create(node: &Arc<Node>, name: &PodName, body: ContainerCreateBody) -> Result<String> {
    let what = format!("make pod {name}");
    let docker_name = naming::of_pod(name);
    let created = match holder::create(node, &what, &docker_name, body.clone()).await {
        Err(error) if error.kind() == Kind::NotFound => {
            images::provide_pause(node).await?;
            holder::create(node, &what, &docker_name, body.clone()).await
        }
        created => created,
    };
    if let Some(id) = created? {
        return Ok(id);
    }
    let other_name = match holder::holder(node, &docker_name).await? {
        Holder::Nobody => docker_name,
        Holder::HalfMade(id) => {
            tracing::warn!(pod = id, "removing a pod that was left half-made");
            undo(node, &node.dockerd.up()?.docker, &id).await?;
            docker_name
        }
        Holder::Pod(id) => {
            node.refresh(&id).await?;
            return Err(Error::already_exists(format!(
                "pod {name} exists already as {id}; remove it first or use the next attempt number"
            )));
        }
        Holder::Container(id, _) | Holder::Stranger(id) => {
            tracing::warn!(
                name = docker_name,
                holder = id,
                "a pod's name in Docker is taken"
            );
            holder::beside(&docker_name)?
        }
    };
    let made = holder::create(node, &what, &other_name, body).await?;
    made.ok_or_else(|| {
        Error::already_exists(format!(
            "Docker's name {other_name} of pod {name} is taken; use the next attempt number"
        ))
    })
}

/// Makes a pod of the container, and answers what Docker says of it when it runs.
async fn build(
    node: &Arc<Node>,
    id: &str,
    config: PodSandboxConfig,
    handler: String,
) -> Result<ContainerInspectResponse> {
    let what = format!("start the pause container of pod {id}");
    node.dockerd
        .call(&what, |docker| async move {
            docker.start_container(id, None).await
        })
        .await?;
    let what = format!("inspect the pause container of pod {id}");
    let inspected = node
        .dockerd
        .call(&what, |docker| async move {
            docker.inspect_container(id, None).await
        })
        .await?;
    let resolver = inspected.resolv_conf_path.as_deref().unwrap_or_default();
    write_resolver(PathBuf::from(resolver), &config).await?;
    let state = inspected.state.clone().unwrap_or_default();
    let pid = state
        .pid
        .filter(|_| state.running == Some(true))
        .ok_or_else(|| {
            Error::internal(format!(
                "the pause container of pod {id} has ended at once with code {}: {}; its log in \
             Docker may say more",
                state.exit_code.unwrap_or_default(),
                state.error.unwrap_or_default()
            ))
        })?;
    let addresses = if has_own_network(&config) {
        let (pinning, pod) = (Arc::clone(node), id.to_owned());
        blocking::run(move || pinning.pins.pin(&pod, pid)).await?;
        let attachment = Attachment::of_pod(id, &config, node.pins.path(id));
        let attached = node.network.add(&attachment).await;
        attached.map_err(|error| failure::of_network(&error))?.ips
    } else {
        Vec::new()
    };
    let checkpoint = Checkpoint::new(config, handler, &addresses);
    let (node, id) = (Arc::clone(node), id.to_owned());
    blocking::run(move || node.checkpoints.put(&id, &checkpoint)).await?;
    Ok(inspected)
}

/// Replaces what Docker has made of the node's resolver configuration. All containers of the pod
/// have this file.
async fn write_resolver(path: PathBuf, config: &PodSandboxConfig) -> Result<()> {
    let content = config.dns_config.as_ref().map(resolver_configuration);
    let Some(content) = content.filter(|content| !content.is_empty()) else {
        return Ok(());
    };
    blocking::run(move || {
        std::fs::write(&path, content).map_err(|error| {
            Error::internal(format!("{} cannot be written: {error}", path.display()))
        })
    })
    .await
}

/// Stops a pod: its containers are killed, its network is given back.
pub(crate) async fn stop(node: &Arc<Node>, id: &str) -> Result<()> {
    node.dockerd.up()?;
    match node.pods.find(id)? {
        Some(pod) => {
            let _gate = node.gates.alone(&pod.id).await;
            stop_pod(node, &pod.id).await
        }
        None => Ok(()),
    }
}

async fn stop_pod(node: &Arc<Node>, id: &str) -> Result<()> {
    for container in node.containers_of(id) {
        if container.state.is_running() {
            lifecycle::kill(node, &container.id).await?;
        }
    }
    let Some(pod) = node.pods.find(id)? else {
        return Ok(());
    };
    if adopt::is_owed(&pod) {
        adopt::take_over(node, &node.dockerd.up()?.docker, &pod).await?;
    }
    detach(node, &pod.id).await?;
    if pod.pid.is_some() {
        lifecycle::kill(node, id).await?;
    }
    Ok(())
}

/// Gives a pod's network back. Safe to repeat.
async fn detach(node: &Arc<Node>, id: &str) -> Result<()> {
    let attachment = Attachment {
        pod_id: id.to_owned(),
        netns: node.pins.path(id),
        ..Attachment::default()
    };
    let detached = node.network.delete(&attachment).await;
    detached.map_err(|error| failure::of_network(&error))?;
    let (node, id) = (Arc::clone(node), id.to_owned());
    blocking::run(move || node.pins.unpin(&id)).await
}

/// Removes a pod and its containers.
pub(crate) async fn remove(node: &Arc<Node>, id: &str) -> Result<()> {
    node.dockerd.up()?;
    let Some(pod) = node.pods.find(id)? else {
        return Ok(());
    };
    let id = pod.id.as_str();
    let _gate = node.gates.alone(id).await;
    stop_pod(node, id).await?;
    for container in node.containers_of(id) {
        lifecycle::remove(node, &container.id).await?;
    }
    remove_container(node, &node.dockerd.up()?.docker, id).await?;
    node.checkpoints.remove(id)?;
    node.refresh(id).await
}

/// Has Docker remove a container with its anonymous volumes; one that is not there is fine.
pub(crate) async fn remove_container(node: &Node, docker: &Docker, id: &str) -> Result<()> {
    let options = RemoveContainerOptionsBuilder::default()
        .force(true)
        .v(true)
        .build();
    let what = format!("remove container {id}");
    let removed = async {
        match docker.remove_container(id, Some(options)).await {
            Err(error) if failure::is_missing(&error) => Ok(()),
            // Somebody else has Docker remove it.
            Err(error) if failure::is_conflict(&error) => Ok(()),
            other => other,
        }
    };
    node.dockerd
        .answer(node.config.timeout(), &what, removed)
        .await
}

/// Undoes a pod that was being made. Safe to repeat: its checkpoint, without which it is half-made,
/// goes first.
async fn undo(node: &Arc<Node>, docker: &Docker, id: &str) -> Result<()> {
    node.withdraw(id).await?;
    detach(node, id).await?;
    remove_container(node, docker, id).await
}

/// Undoes a pod of Slipway's that has no checkpoint and that nobody is making: the daemon was
/// killed over it.
///
/// # Errors
///
/// What is left, which is logged.
pub(crate) async fn undo_half_made(node: &Arc<Node>, docker: &Docker, id: &str) -> Result<()> {
    tracing::warn!(pod = id, "removing a pod that was left half-made");
    undo(node, docker, id).await.inspect_err(|error| {
        tracing::error!(pod = id, %error, "a pod that was left half-made is not wholly undone");
    })
}

/// Gives back what a pod held that Docker does not have any more.
///
/// # Errors
///
/// What is left, which is logged.
pub(crate) async fn lost(node: &Arc<Node>, id: &str) -> Result<()> {
    let _gate = node.gates.alone(id).await;
    let detached = detach(node, id).await;
    let given_back = detached.and_then(|()| node.checkpoints.remove(id));
    given_back.inspect_err(|error| {
        tracing::error!(pod = id, %error, "the network of a pod that is gone is not given back");
    })
}

/// Docker's runtime for a handler.
fn runtime(handler: &str, facts: &Facts) -> Result<Option<String>> {
    if handler.is_empty() || handler == DEFAULT_HANDLER {
        return Ok(None);
    }
    if facts.runtimes.iter().any(|name| name == handler) {
        return Ok(Some(handler.to_owned()));
    }
    Err(Error::invalid(format!(
        "RunPodSandboxRequest.runtime_handler {handler:?} is none of Docker's runtimes ({}); add \
         it to dockerd's configuration, or change the RuntimeClass",
        facts.runtimes.join(", ")
    )))
}

fn has_own_network(config: &PodSandboxConfig) -> bool {
    options(config).network != NamespaceMode::Node as i32
}

fn options(config: &PodSandboxConfig) -> slipway_cri_api::v1::NamespaceOption {
    let linux = config.linux.as_ref();
    linux
        .and_then(|linux| linux.security_context.as_ref()?.namespace_options.clone())
        .unwrap_or_default()
}

/// What Docker is asked to make.
fn body(
    config: &PodSandboxConfig,
    runtime: Option<String>,
    image: String,
    facts: &Facts,
) -> ContainerCreateBody {
    let mut labels = naming::labels(&config.labels, &config.annotations);
    naming::mark_sandbox(&mut labels);
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.clone().unwrap_or_default();
    let options = options(config);
    let host = |mode: i32| mode == NamespaceMode::Node as i32;
    let named = |mode, other: Option<&str>| {
        if host(mode) { Some("host") } else { other }.map(ToOwned::to_owned)
    };
    let user = security
        .run_as_user
        .map(|user| match &security.run_as_group {
            Some(group) => format!("{}:{}", user.value, group.value),
            None => user.value.to_string(),
        });
    let groups = security.supplemental_groups.iter().map(i64::to_string);
    ContainerCreateBody {
        hostname: (!host(options.network) && !config.hostname.is_empty())
            .then(|| config.hostname.clone()),
        user,
        image: Some(image),
        labels: Some(labels),
        host_config: Some(HostConfig {
            network_mode: named(options.network, Some("none")),
            ipc_mode: named(options.ipc, Some("shareable")),
            pid_mode: named(options.pid, None),
            uts_mode: named(options.network, None),
            readonly_rootfs: Some(security.readonly_rootfs),
            group_add: Some(groups.collect()),
            // It does nothing that takes one, and containers that share its processes see it.
            cap_drop: Some(vec!["ALL".to_owned()]),
            sysctls: Some(sysctls(&linux)),
            cgroup_parent: cgroup_parent(&linux.cgroup_parent, facts),
            cpu_shares: Some(CPU_SHARES),
            oom_score_adj: Some(OOM_SCORE.max(facts.lowest_oom_score)),
            security_opt: Some(security_options(&security)),
            runtime,
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// Containers that share the pod's IPC namespace take its SELinux label over from it.
fn security_options(security: &LinuxSandboxSecurityContext) -> Vec<String> {
    let mut options = vec!["no-new-privileges".to_owned()];
    options.extend(security::selinux(security.selinux_options.as_ref()));
    options
}

fn sysctls(linux: &LinuxPodSandboxConfig) -> HashMap<String, String> {
    let all = linux.sysctls.iter();
    all.filter_map(|(name, value)| Some((refuse::dotted(name)?, value.clone())))
        .collect()
}

/// The parent as Docker wants it: with the systemd driver the slice alone.
fn cgroup_parent(parent: &str, facts: &Facts) -> Option<String> {
    let parent = match parent.rsplit_once('/') {
        Some((_, slice)) if facts.systemd_cgroups => slice,
        _ => parent,
    };
    (!parent.is_empty()).then(|| parent.to_owned())
}

/// The pod of a container that is to be made.
///
/// # Errors
///
/// [`slipway_engine::Kind::FailedPrecondition`] where it does not run.
pub(crate) fn ready(node: &Node, id: &str) -> Result<Arc<Pod>> {
    let pod = node.pod(id)?;
    match pod.pid {
        Some(_) => Ok(pod),
        None => Err(Error::precondition(format!(
            "pod {} is not ready: it was stopped, or its pause container has ended; make a new one",
            pod.id
        ))),
    }
}
