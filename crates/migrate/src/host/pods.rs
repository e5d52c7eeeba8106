//! Pods behind a CRI socket, removed before the kubelet asks another one.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use slipway_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use slipway_cri_api::v1::{
    ContainerFilter, ContainerState, ContainerStateValue, ListContainersRequest,
    ListPodSandboxRequest, PodSandbox, RemovePodSandboxRequest, StopContainerRequest,
    StopPodSandboxRequest,
};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::{Error, Progress};

/// The kubelet has written here how long a pod's containers have to stop (kubelet,
/// `newContainerAnnotations`).
pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// How long they have where it is not said, in seconds.
const USUAL_GRACE: i64 = 30;

/// How long any answer may take beyond that: network plugins among the reasons.
const PATIENCE: Duration = Duration::from_mins(4);

/// How many pods are stopped at a time: most of the time they are waited for.
const AT_ONCE: usize = 64;

/// How long a container has to stop by itself, in seconds, by its annotations.
pub fn grace_seconds<S: BuildHasher>(annotations: &HashMap<String, String, S>) -> i64 {
    let said = annotations.get(GRACE).and_then(|said| said.parse().ok());
    said.filter(|said| *said >= 0).unwrap_or(USUAL_GRACE)
}

/// A node can have thousands of containers.
const LARGEST_MESSAGE: usize = 16 << 20;

/// Stops and removes all pods behind `endpoint` but those with the ids in `others`.
pub(super) async fn remove(
    endpoint: &str,
    socket: &Path,
    others: &HashSet<String>,
    progress: Progress<'_>,
) -> Result<(), Error> {
    // Whoever never came up has no pods; whoever has died since may have left some.
    if !is_listening(socket) {
        progress(&format!(
            "nobody listens at {endpoint}: containers that it may have left running go with a reboot"
        ));
        return Ok(());
    }
    let failed =
        |why: &dyn std::fmt::Display| Error::new(format!("remove the pods at {endpoint}"), why);
    let address = format!("unix://{}", socket.display());
    let channel = Endpoint::from_shared(address).map_err(|error| failed(&error))?;
    let channel = channel.connect().await.map_err(|error| failed(&error))?;
    let mut client = RuntimeServiceClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
    let listed = client.list_pod_sandbox(limited(ListPodSandboxRequest::default(), PATIENCE));
    let listed = match listed.await {
        Ok(listed) => listed,
        // containerd listens also where its CRI is disabled or has not come up.
        Err(status) if status.code() == tonic::Code::Unimplemented => {
            progress(&format!(
                "whoever listens at {endpoint} does not speak CRI v1: containers that it may have left running go with a reboot"
            ));
            return Ok(());
        }
        Err(status) => return Err(failed(&status.message())),
    };
    let mut pods = listed.into_inner().items;
    pods.retain(|pod| !others.contains(&pod.id));
    if pods.is_empty() {
        return Ok(());
    }
    progress(&format!("stopping {} pods at {endpoint}", pods.len()));
    let mut stopping = JoinSet::new();
    let mut left = pods.into_iter();
    let mut problems = Vec::new();
    loop {
        while stopping.len() < AT_ONCE
            && let Some(pod) = left.next()
        {
            stopping.spawn(remove_pod(client.clone(), pod));
        }
        match stopping.join_next().await {
            None => break,
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(problem))) => problems.push(problem),
            Some(Err(error)) => problems.push(error.to_string()),
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(failed(&problems.join("; ")))
}

async fn remove_pod(
    mut client: RuntimeServiceClient<Channel>,
    pod: PodSandbox,
) -> Result<(), String> {
    let name = pod.metadata.map_or_else(
        || pod.id.clone(),
        |metadata| format!("{}/{}", metadata.namespace, metadata.name),
    );
    let removed = async {
        let filter = ContainerFilter {
            pod_sandbox_id: pod.id.clone(),
            state: Some(ContainerStateValue {
                state: ContainerState::ContainerRunning.into(),
            }),
            ..ContainerFilter::default()
        };
        let request = ListContainersRequest {
            filter: Some(filter),
        };
        let running = client.list_containers(limited(request, PATIENCE)).await?;
        let stops = running
            .into_inner()
            .containers
            .into_iter()
            .map(|container| {
                let mut client = client.clone();
                async move {
                    let timeout = grace_seconds(&container.annotations);
                    let request = StopContainerRequest {
                        container_id: container.id,
                        timeout,
                    };
                    let patience = Duration::from_secs(timeout.unsigned_abs()) + PATIENCE;
                    gone(client.stop_container(limited(request, patience)).await)
                }
            });
        for stopped in join_all(stops).await {
            stopped?;
        }
        let request = StopPodSandboxRequest {
            pod_sandbox_id: pod.id.clone(),
        };
        gone(client.stop_pod_sandbox(limited(request, PATIENCE)).await)?;
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: pod.id.clone(),
        };
        gone(client.remove_pod_sandbox(limited(request, PATIENCE)).await)
    };
    let removed: Result<(), Status> = removed.await;
    removed.map_err(|status| format!("pod {name}: {}", status.message()))
}

/// What is not there any more has been removed.
fn gone<T>(answer: Result<T, Status>) -> Result<(), Status> {
    match answer {
        Ok(_) => Ok(()),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
        Err(status) => Err(status),
    }
}

fn limited<T>(message: T, patience: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(patience);
    request
}

/// Whether anybody takes connections there.
fn is_listening(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

#[cfg(test)]
mod tests;
