//! Connections to ports in a pod.

use std::sync::Arc;

use slipway_cri_api::v1::NamespaceMode;
use slipway_engine::{Error, PortConnection, Result};
use slipway_network::PortError;

use crate::node::Node;
use crate::pod::Pod;
use crate::spec::pod_namespaces;

/// Whether a pod's ports could be connected to now.
pub(crate) fn check(node: &Node, id: &str) -> Result<()> {
    find(node, id).map(drop)
}

fn find(node: &Node, id: &str) -> Result<Arc<Pod>> {
    let pod = node.pods.get(id)?;
    pod.shim()?;
    Ok(pod)
}

/// Connects to a port on a pod's loopback address (CRI `PortForward`).
pub(crate) async fn connect(node: &Node, id: &str, port: u16) -> Result<PortConnection> {
    let pod = find(node, id)?;
    let on_node = pod_namespaces(&pod.record.config).network == NamespaceMode::Node as i32;
    let namespace = (!on_node).then(|| pod.directory.join("ns/net"));
    match slipway_network::connect_to_loopback(namespace.as_deref(), port).await {
        Ok(connection) => Ok(Box::pin(connection)),
        Err(error) => {
            let told = format!("pod {}: {error}", pod.id());
            Err(match error {
                PortError::Zero => Error::invalid(told),
                PortError::Refused { .. } => Error::precondition(told),
                PortError::Failed { .. } => Error::internal(told),
            })
        }
    }
}
