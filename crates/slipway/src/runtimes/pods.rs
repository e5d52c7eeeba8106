//! Pods behind a CRI socket, stopped and removed.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::time::Duration;

use futures_util::future::join_all;
use slipway_cri_api::slipway::ListEnginesRequest;
use slipway_cri_api::slipway::engines_client::EnginesClient;
use slipway_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use slipway_cri_api::v1::{
    ContainerFilter, ContainerState, ListContainersRequest, ListPodSandboxRequest, PodSandbox,
    RemovePodSandboxRequest, StopContainerRequest, StopPodSandboxRequest,
};
use slipway_migrate::host::{Error, Progress};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{ANSWER, LARGEST_MESSAGE, grace, overdue, path, reason};
use crate::client::open;

/// How long CNI plugins and unmounting may take, beside the time that containers have to stop.
const SLOW: Duration = Duration::from_mins(5);

pub(super) async fn remove(
    endpoint: &str,
    but_dockers: bool,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let what = format!("remove the pods at {endpoint}");
    let failed = |error: &dyn std::fmt::Display| Error::new(&what, error);
    if let Err(error) = UnixStream::connect(path(endpoint)).await
        && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
    {
        return Ok(());
    }
    let channel = open(path(endpoint)).await.map_err(|error| failed(&reason(&error)))?;
    let client =
        RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(LARGEST_MESSAGE);
    let mut asked = client.clone();
    let listed = timeout(ANSWER, asked.list_pod_sandbox(ListPodSandboxRequest::default()));
    let listed = listed.await.map_err(|_| failed(&overdue(ANSWER)))?;
    let listed = listed.map_err(|status| failed(&status.message()))?;
    let mut pods = listed.into_inner().items;
    if but_dockers {
        let dockers = of_docker(channel).await.map_err(|error| failed(&error))?;
        pods.retain(|pod| !dockers.contains(&pod.id));
    }
    let removals = pods.iter().map(async |pod| {
        let removed = remove_pod(client.clone(), pod).await;
        if removed.is_ok() {
            progress(&format!("{} is removed", name(pod)));
        }
        removed.map_err(|why| format!("{}: {why}", name(pod)))
    });
    let left: Vec<_> = join_all(removals).await.into_iter().filter_map(Result::err).collect();
    if left.is_empty() {
        return Ok(());
    }
    let left = left.join("; ");
    Err(failed(&format!(
        "{left}; look at the runtime's log, or remove them with slipway --endpoint {endpoint} rmp -f, then go on"
    )))
}

/// The pods that are Docker's containers, behind a Slipway that runs those of two engines.
async fn of_docker(channel: Channel) -> Result<HashSet<String>, String> {
    let mut client = EnginesClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
    let listed = timeout(ANSWER, client.list(ListEnginesRequest {})).await;
    let listed = match listed.map_err(|_| overdue(ANSWER))? {
        Ok(listed) => listed.into_inner(),
        // It is no Slipway, and has no pods of Docker's.
        Err(status) if status.code() == Code::Unimplemented => return Ok(HashSet::new()),
        Err(status) => return Err(status.message().to_owned()),
    };
    let engines = listed.engines.into_iter();
    let pods = engines
        .filter(|engine| engine.name == "docker")
        .flat_map(|engine| engine.pods);
    Ok(pods.map(|pod| pod.id).collect())
}

fn name(pod: &PodSandbox) -> String {
    let metadata = pod.metadata.clone().unwrap_or_default();
    format!("pod {}/{}", metadata.namespace, metadata.name)
}

async fn remove_pod(mut client: RuntimeServiceClient<Channel>, pod: &PodSandbox) -> Result<(), String> {
    let filter = ContainerFilter {
        pod_sandbox_id: pod.id.clone(),
        ..ContainerFilter::default()
    };
    let request = ListContainersRequest {
        filter: Some(filter),
    };
    let listed = answer(ANSWER, client.list_containers(request)).await?;
    let containers = listed.map_or_else(Vec::new, |listed| listed.containers);
    let running = containers
        .iter()
        .filter(|container| container.state() == ContainerState::ContainerRunning);
    let stops = running.map(async |container| {
        let seconds = grace(&container.annotations);
        let request = StopContainerRequest {
            container_id: container.id.clone(),
            timeout: seconds,
        };
        let patience = SLOW + Duration::from_secs(seconds.unsigned_abs());
        answer(patience, client.clone().stop_container(request)).await
    });
    for stopped in join_all(stops).await {
        stopped?;
    }
    let id = || pod.id.clone();
    let stop = StopPodSandboxRequest {
        pod_sandbox_id: id(),
    };
    answer(SLOW, client.stop_pod_sandbox(stop)).await?;
    let remove = RemovePodSandboxRequest {
        pod_sandbox_id: id(),
    };
    answer(SLOW, client.remove_pod_sandbox(remove)).await?;
    Ok(())
}

/// An answer; none of what has gone meanwhile.
async fn answer<T>(
    patience: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<Option<T>, String> {
    match timeout(patience, call).await {
        Ok(Ok(answer)) => Ok(Some(answer.into_inner())),
        Ok(Err(status)) if status.code() == Code::NotFound => Ok(None),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err(overdue(patience)),
    }
}
