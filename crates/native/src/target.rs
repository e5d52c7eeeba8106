//! The container whose processes an ephemeral debug container sees (`NamespaceMode::Target`).

use std::sync::Arc;

use slipway_cri_api::v1::{ContainerConfig, NamespaceMode};
use slipway_engine::{Error, Result};

use crate::container::Container;
use crate::node::Node;
use crate::pod::Pod;
use crate::spec;

const FIELD: &str = "ContainerConfig.linux.security_context.namespace_options.target_id";

/// Finds it; none where the container asks for no target. It may end at any time, which the shim
/// then sees.
pub(crate) fn of(
    node: &Node,
    pod: &Pod,
    config: &ContainerConfig,
) -> Result<Option<Arc<Container>>> {
    let options = spec::security(config).namespace_options.unwrap_or_default();
    if options.pid != NamespaceMode::Target as i32 {
        return Ok(None);
    }
    if options.target_id.is_empty() {
        return Err(Error::invalid(format!(
            "{FIELD} is empty, but pid is TARGET: it names the container to look at"
        )));
    }
    let target = node
        .containers
        .get(&options.target_id)
        .map_err(|error| error.context(FIELD))?;
    if target.pod.id() != pod.id() {
        return Err(Error::invalid(format!(
            "{FIELD}: container {} belongs to pod {}, not to {}",
            target.id(),
            target.pod.id(),
            pod.id()
        )));
    }
    if !target.state().is_running() {
        return Err(Error::precondition(format!(
            "{FIELD}: container {} is not running: only the PID namespace of one that is can be \
             joined",
            target.id()
        )));
    }
    Ok(Some(target))
}
