//! Names in Docker that may be taken: by what a crash has left, or by a stranger's container.

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::CreateContainerOptionsBuilder;
use slipway_engine::{Kind, Result, new_id};

use crate::failure;
use crate::inspect::{Found, read};
use crate::node::Node;

/// Who has a name, each with its id.
#[derive(Debug)]
pub(crate) enum Holder {
    Nobody,
    Pod(String),
    /// A pod of Slipway's that is not complete.
    HalfMade(String),
    /// A container, and its pod.
    Container(String, String),
    /// A container that is nothing of Kubernetes'.
    Stranger(String),
}

/// Has Docker make a container; none where its name is taken.
pub(crate) async fn create(
    node: &Node,
    what: &str,
    docker_name: &str,
    body: ContainerCreateBody,
) -> Result<Option<String>> {
    let options = CreateContainerOptionsBuilder::default()
        .name(docker_name)
        .build();
    let ask = |docker: Docker| {
        Box::pin(async move {
            match docker.create_container(Some(options), body).await {
                Ok(created) => Ok(Some(created.id)),
                Err(error) if failure::is_conflict(&error) => Ok(None),
                Err(error) => Err(error),
            }
        })
    };
    node.dockerd.call(what, ask).await
}

/// Who has a name now.
pub(crate) async fn holder(node: &Node, docker_name: &str) -> Result<Holder> {
    let what = format!("inspect container {docker_name}");
    let asked = node
        .dockerd
        .call(&what, |docker| async move {
            docker.inspect_container(docker_name, None).await
        })
        .await;
    let inspected = match asked {
        Err(error) if error.kind() == Kind::NotFound => return Ok(Holder::Nobody),
        other => other?,
    };
    let id = inspected.id.clone().unwrap_or_default();
    Ok(match read(inspected, &node.checkpoints, &node.limits) {
        None => Holder::Stranger(id),
        Some(Found::HalfMade) => Holder::HalfMade(id),
        Some(Found::Pod(_)) => Holder::Pod(id),
        Some(Found::Container(container)) => Holder::Container(id, container.name.pod),
    })
}

/// Another name for what cannot have its own, of the form that dockershim gave.
pub(crate) fn beside(docker_name: &str) -> Result<String> {
    let unique = new_id()?;
    Ok(format!("{docker_name}_{}", &unique[..8]))
}
