//! Pods that dockershim or cri-dockerd has made. Docker knows them; what it does not know is their
//! network, which is taken over so that it can be given back.

use std::net::IpAddr;
use std::sync::Arc;

use bollard::Docker;
use rustix::process::Pid;
use slipway_cri_api::v1::NamespaceMode;
use slipway_engine::{Result, blocking};
use slipway_network::Attachment;

use crate::checkpoint::Checkpoint;
use crate::failure;
use crate::inspect::Pod;
use crate::node::Node;

/// Takes a pod over. What does not succeed is logged, and tried again when Docker is connected to
/// again: the pod can be used all the same.
pub(crate) async fn adopt(node: &Arc<Node>, docker: &Docker, pod: &Pod) {
    let adopted = async {
        let addresses = network(node, pod).await?;
        let (node, id) = (Arc::clone(node), pod.id.clone());
        let checkpoint = Checkpoint::adopted(&addresses);
        blocking::run(move || node.checkpoints.put(&id, &checkpoint)).await
    };
    match adopted.await {
        Ok(()) => tracing::info!(pod = pod.id, name = %pod.name, "adopted"),
        Err(error) => {
            tracing::error!(pod = pod.id, name = %pod.name, %error, "its network is not known");
            return;
        }
    }
    if let Err(error) = node.refresh_from(docker, &pod.id).await {
        tracing::warn!(pod = pod.id, %error, "what was adopted with it is not seen yet");
    }
}

async fn network(node: &Arc<Node>, pod: &Pod) -> Result<Vec<IpAddr>> {
    if pod.namespaces().network() == NamespaceMode::Node {
        return Ok(Vec::new());
    }
    if pod.docker_network {
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
    adopted.map_err(|error| failure::of_network(&error))
}
