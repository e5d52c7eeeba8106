//! Pods that dockershim or cri-dockerd has made. Docker knows them; what it does not know is their
//! network, which is taken over so that it can be given back.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use rustix::process::Pid;
use slipway_cri_api::v1::NamespaceMode;
use slipway_engine::{Result, blocking};
use slipway_network::Attachment;
use tokio::time::timeout;

use crate::checkpoint::Checkpoint;
use crate::failure;
use crate::inspect::Pod;
use crate::node::{Node, now};

/// How long another runtime may take to make a pod's network. As long as a pod has no containers,
/// it may not have begun to, and no record of it is there.
const ATTACHING: Duration = Duration::from_mins(1);

/// Whether another runtime may be about to make a pod's network.
pub(crate) fn is_being_made(node: &Node, pod: &Pod) -> bool {
    let age = u64::try_from(now() - pod.created_at).unwrap_or_default();
    pod.pid.is_some()
        && node.containers_of(&pod.id).is_empty()
        && Duration::from_nanos(age) < ATTACHING
}

/// Waits for another runtime, and takes over then what it has made.
pub(crate) async fn adopt_when_made(node: &Arc<Node>, id: &str) -> Result<()> {
    let made = node.until(|| {
        let pod = node.pods.find(id).ok().flatten();
        !pod.is_some_and(|pod| is_being_made(node, &pod))
    });
    // One that gets no containers is as it is.
    let _ = timeout(ATTACHING, made).await;
    adopt(node, &node.dockerd.up()?.docker, id).await
}

/// Takes a pod over, if there is one of another runtime that was not taken over yet.
///
/// # Errors
///
/// What keeps it from being taken over, which is logged: it can be used all the same.
pub(crate) async fn adopt(node: &Arc<Node>, docker: &Docker, id: &str) -> Result<()> {
    let _gate = node.gates.alone(id).await;
    match node.pods.find(id)? {
        Some(pod) if pod.checkpoint.is_none() => {
            take_over(node, docker, &pod).await.inspect_err(|error| {
                tracing::error!(pod = id, name = %pod.name, %error, "it is not adopted yet");
            })
        }
        _ => Ok(()),
    }
}

/// Whether it is not known yet how a pod's network is given back.
pub(crate) fn is_owed(pod: &Pod) -> bool {
    pod.checkpoint.is_none() && is_of_plugins(pod)
}

/// As [`adopt`], for whoever has the pod alone.
pub(crate) async fn take_over(node: &Arc<Node>, docker: &Docker, pod: &Pod) -> Result<()> {
    let known = network(node, pod).await;
    let addresses =
        known.map_err(|error| error.context(format!("the network of pod {}", pod.id)))?;
    let (writing, id) = (Arc::clone(node), pod.id.clone());
    let checkpoint = Checkpoint::adopted(&addresses);
    blocking::run(move || writing.checkpoints.put(&id, &checkpoint)).await?;
    tracing::info!(pod = pod.id, name = %pod.name, "adopted");
    node.refresh_from(docker, &pod.id).await.map(drop)
}

/// Whether CNI's plugins have made a pod's network.
fn is_of_plugins(pod: &Pod) -> bool {
    pod.namespaces().network() != NamespaceMode::Node && !pod.docker_network
}

async fn network(node: &Arc<Node>, pod: &Pod) -> Result<Vec<IpAddr>> {
    if !is_of_plugins(pod) {
        // Those that Docker has given to it; none on the node's own network.
        return Ok(pod.addresses.clone());
    }
    if let Some(pid) = pod.pid {
        let (node, id) = (Arc::clone(node), pod.id.clone());
        blocking::run(move || {
            // A daemon that was killed may have done so before.
            node.pins.unpin(&id)?;
            node.pins.pin(&id, pid.into())
        })
        .await?;
    }
    let attachment = Attachment {
        pod_id: pod.id.clone(),
        name: pod.name.name.clone(),
        namespace: pod.name.namespace.clone(),
        uid: pod.name.uid.clone(),
        netns: node.pins.path(&pod.id),
        ..Attachment::default()
    };
    let adopted = node
        .network
        .adopt(
            &attachment,
            &node.config.cni_cache,
            pod.pid.and_then(Pid::from_raw),
        )
        .await;
    match adopted {
        // Nothing is left to give back: whoever does so takes the record away, and without a
        // configuration there is no plugin to call.
        Err(slipway_network::Error::NoConfiguration { .. }) if pod.pid.is_none() => Ok(Vec::new()),
        adopted => adopted.map_err(|error| failure::of_network(&error)),
    }
}
