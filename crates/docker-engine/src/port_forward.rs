//! Connections to ports in a pod, made from inside its network namespace.

use std::path::PathBuf;

use slipway_cri_api::v1::NamespaceMode;
use slipway_engine::{Error, PortConnection, Result};
use slipway_network::PortError;

use crate::node::Node;
use crate::sandbox;

/// Connects to a port on a pod's loopback address (CRI `PortForward`).
pub(crate) async fn connect(node: &Node, id: &str, port: u16) -> Result<PortConnection> {
    let pod = sandbox::ready(node, id)?;
    let on_node = pod.namespaces.network == NamespaceMode::Node as i32;
    let pid = pod.pid.unwrap_or_default();
    let namespace = (!on_node).then(|| PathBuf::from(format!("/proc/{pid}/ns/net")));
    match slipway_network::connect_to_loopback(namespace.as_deref(), port).await {
        Ok(connection) => Ok(Box::pin(connection)),
        Err(error) => Err(of_port(&pod.id, &error)),
    }
}

fn of_port(pod: &str, error: &PortError) -> Error {
    let told = format!("pod {pod}: {error}");
    match error {
        PortError::Zero => Error::invalid(told),
        PortError::Refused { .. } => Error::precondition(told),
        PortError::Failed { .. } => Error::internal(told),
    }
}
