//! `runtime.v1.RuntimeService`.

use std::sync::Arc;

use slipway_cri_api::v1::runtime_service_server::RuntimeService;
use slipway_cri_api::v1::{
    AttachRequest, AttachResponse, CheckpointContainerRequest, CheckpointContainerResponse,
    ContainerEventResponse, ContainerStatsRequest, ContainerStatsResponse, ContainerStatusRequest,
    ContainerStatusResponse, CreateContainerRequest, CreateContainerResponse, ExecRequest,
    ExecResponse, ExecSyncRequest, ExecSyncResponse, GetEventsRequest, ListContainerStatsRequest,
    ListContainerStatsResponse, ListContainersRequest, ListContainersResponse,
    ListMetricDescriptorsRequest, ListMetricDescriptorsResponse, ListPodSandboxMetricsRequest,
    ListPodSandboxMetricsResponse, ListPodSandboxRequest, ListPodSandboxResponse,
    ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, PodSandboxStatsRequest,
    PodSandboxStatsResponse, PodSandboxStatusRequest, PodSandboxStatusResponse, PortForwardRequest,
    PortForwardResponse, RemoveContainerRequest, RemoveContainerResponse, RemovePodSandboxRequest,
    RemovePodSandboxResponse, ReopenContainerLogRequest, ReopenContainerLogResponse,
    RunPodSandboxRequest, RunPodSandboxResponse, RuntimeConfigRequest, RuntimeConfigResponse,
    StartContainerRequest, StartContainerResponse, StatusRequest, StatusResponse,
    StopContainerRequest, StopContainerResponse, StopPodSandboxRequest, StopPodSandboxResponse,
    StreamContainerStatsRequest, StreamContainerStatsResponse, StreamContainersRequest,
    StreamContainersResponse, StreamPodSandboxMetricsRequest, StreamPodSandboxMetricsResponse,
    StreamPodSandboxStatsRequest, StreamPodSandboxStatsResponse, StreamPodSandboxesRequest,
    StreamPodSandboxesResponse, UpdateContainerResourcesRequest, UpdateContainerResourcesResponse,
    UpdatePodSandboxResourcesRequest, UpdatePodSandboxResourcesResponse,
    UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse, VersionRequest, VersionResponse,
};
use slipway_engine::{Engine, Verbosity};
use slipway_streaming::Streaming;
use tokio_stream::StreamExt as _;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, async_trait};

use crate::chunks;
use crate::detached::detached;
use crate::request::required;
use crate::status::status;
use crate::streaming;
use crate::v1alpha2::V1Alpha2;

/// The service, over an engine.
pub(crate) struct Runtime {
    engine: Arc<dyn Engine>,
    streaming: Streaming,
    version: String,
}

impl Runtime {
    pub(crate) fn new(engine: Arc<dyn Engine>, streaming: Streaming, version: String) -> Self {
        Self {
            engine,
            streaming,
            version,
        }
    }
}

pub(crate) fn verbosity(verbose: bool) -> Verbosity {
    if verbose {
        Verbosity::Verbose
    } else {
        Verbosity::Plain
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[async_trait]
impl RuntimeService for Runtime {
    async fn version(&self, request: Request<VersionRequest>) -> Answer<VersionResponse> {
        let is_older = request.extensions().get::<V1Alpha2>().is_some();
        Ok(Response::new(VersionResponse {
            // The version of the kubelet's side of the interface, which never became another.
            version: "0.1.0".to_owned(),
            runtime_name: "slipway".to_owned(),
            runtime_version: self.version.clone(),
            runtime_api_version: if is_older { "v1alpha2" } else { "v1" }.to_owned(),
        }))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        let verbosity = verbosity(request.into_inner().verbose);
        let answer = self.engine.status(verbosity).await;
        answer.map(Response::new).map_err(|error| status(&error))
    }

    async fn runtime_config(
        &self,
        _: Request<RuntimeConfigRequest>,
    ) -> Answer<RuntimeConfigResponse> {
        self.engine
            .runtime_config()
            .await
            .map(Response::new)
            .map_err(|error| status(&error))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> Answer<RunPodSandboxResponse> {
        let RunPodSandboxRequest {
            config,
            runtime_handler,
        } = request.into_inner();
        let config = required(config, "RunPodSandboxRequest.config")?;
        let engine = Arc::clone(&self.engine);
        let pod_sandbox_id =
            detached(async move { engine.run_pod(config, runtime_handler).await }).await?;
        Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let engine = Arc::clone(&self.engine);
        detached(async move { engine.stop_pod(&id).await }).await?;
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let engine = Arc::clone(&self.engine);
        detached(async move { engine.remove_pod(&id).await }).await?;
        Ok(Response::new(RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        let PodSandboxStatusRequest {
            pod_sandbox_id,
            verbose,
        } = request.into_inner();
        let answer = self
            .engine
            .pod_status(&pod_sandbox_id, verbosity(verbose))
            .await;
        answer.map(Response::new).map_err(|error| status(&error))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        let answer = self.engine.list_pods(request.into_inner().filter).await;
        answer
            .map(|items| Response::new(ListPodSandboxResponse { items }))
            .map_err(|error| status(&error))
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        // The sandbox's configuration comes along for runtimes that kept none; Slipway keeps it.
        let CreateContainerRequest {
            pod_sandbox_id,
            config,
            sandbox_config: _,
        } = request.into_inner();
        let config = required(config, "CreateContainerRequest.config")?;
        let engine = Arc::clone(&self.engine);
        let container_id =
            detached(async move { engine.create_container(&pod_sandbox_id, config).await }).await?;
        Ok(Response::new(CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        let id = request.into_inner().container_id;
        let engine = Arc::clone(&self.engine);
        detached(async move { engine.start_container(&id).await }).await?;
        Ok(Response::new(StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Answer<StopContainerResponse> {
        let StopContainerRequest {
            container_id,
            timeout,
        } = request.into_inner();
        let engine = Arc::clone(&self.engine);
        detached(async move { engine.stop_container(&container_id, timeout).await }).await?;
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        let engine = Arc::clone(&self.engine);
        detached(async move { engine.remove_container(&id).await }).await?;
        Ok(Response::new(RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        let answer = self
            .engine
            .list_containers(request.into_inner().filter)
            .await;
        answer
            .map(|containers| Response::new(ListContainersResponse { containers }))
            .map_err(|error| status(&error))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        let ContainerStatusRequest {
            container_id,
            verbose,
        } = request.into_inner();
        let answer = self
            .engine
            .container_status(&container_id, verbosity(verbose))
            .await;
        answer.map(Response::new).map_err(|error| status(&error))
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        let id = request.into_inner().container_id;
        let engine = Arc::clone(&self.engine);
        detached(async move { engine.reopen_container_log(&id).await }).await?;
        Ok(Response::new(ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let ExecSyncRequest {
            container_id,
            cmd,
            timeout,
        } = request.into_inner();
        let engine = Arc::clone(&self.engine);
        let answer =
            detached(async move { engine.exec_sync(&container_id, cmd, timeout).await }).await?;
        Ok(Response::new(answer))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let request = request.into_inner();
        let streams = streaming::exec(&request)?;
        let ExecRequest {
            container_id, cmd, ..
        } = request;
        let checked = self.engine.check_exec(&container_id).await;
        checked
            .and_then(|()| self.streaming.exec(container_id, cmd, streams))
            .map(|url| Response::new(ExecResponse { url }))
            .map_err(|error| status(&error))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        let request = request.into_inner();
        let streams = streaming::attach(&request)?;
        let container = request.container_id;
        let checked = self.engine.check_attach(&container, streams).await;
        checked
            .and_then(|()| self.streaming.attach(container, streams))
            .map(|url| Response::new(AttachResponse { url }))
            .map_err(|error| status(&error))
    }

    async fn port_forward(
        &self,
        request: Request<PortForwardRequest>,
    ) -> Answer<PortForwardResponse> {
        let request = request.into_inner();
        let ports = streaming::ports(&request)?;
        let pod = request.pod_sandbox_id;
        let checked = self.engine.check_port_forward(&pod).await;
        checked
            .and_then(|()| self.streaming.port_forward(pod, ports))
            .map(|url| Response::new(PortForwardResponse { url }))
            .map_err(|error| status(&error))
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let engine = Arc::clone(&self.engine);
        detached(async move { engine.update_container_resources(request).await }).await?;
        Ok(Response::new(UpdateContainerResourcesResponse {}))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        let request = request.into_inner();
        let engine = Arc::clone(&self.engine);
        detached(async move { engine.update_pod_resources(request).await }).await?;
        Ok(Response::new(UpdatePodSandboxResourcesResponse {}))
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Answer<ContainerStatsResponse> {
        let id = request.into_inner().container_id;
        let answer = self.engine.container_stats(&id).await;
        answer
            .map(|stats| Response::new(ContainerStatsResponse { stats: Some(stats) }))
            .map_err(|error| status(&error))
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        let filter = request.into_inner().filter;
        let answer = self.engine.list_container_stats(filter).await;
        answer
            .map(|stats| Response::new(ListContainerStatsResponse { stats }))
            .map_err(|error| status(&error))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> Answer<PodSandboxStatsResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let answer = self.engine.pod_stats(&id).await;
        answer
            .map(|stats| Response::new(PodSandboxStatsResponse { stats: Some(stats) }))
            .map_err(|error| status(&error))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        let filter = request.into_inner().filter;
        let answer = self.engine.list_pod_stats(filter).await;
        answer
            .map(|stats| Response::new(ListPodSandboxStatsResponse { stats }))
            .map_err(|error| status(&error))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        let answer = self.engine.metric_descriptors().await;
        answer
            .map(|descriptors| Response::new(ListMetricDescriptorsResponse { descriptors }))
            .map_err(|error| status(&error))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        let answer = self.engine.list_pod_metrics().await;
        answer
            .map(|pod_metrics| Response::new(ListPodSandboxMetricsResponse { pod_metrics }))
            .map_err(|error| status(&error))
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        let config = request.into_inner().runtime_config;
        let config = required(config, "UpdateRuntimeConfigRequest.runtime_config")?;
        let engine = Arc::clone(&self.engine);
        detached(async move { engine.update_runtime_config(config).await }).await?;
        Ok(Response::new(UpdateRuntimeConfigResponse {}))
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Answer<BoxStream<StreamPodSandboxesResponse>> {
        let list = self.engine.list_pods(request.into_inner().filter).await;
        chunks::answer(list, |pod_sandboxes| StreamPodSandboxesResponse {
            pod_sandboxes,
        })
    }

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Answer<BoxStream<StreamContainersResponse>> {
        let list = self
            .engine
            .list_containers(request.into_inner().filter)
            .await;
        chunks::answer(list, |containers| StreamContainersResponse { containers })
    }

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Answer<BoxStream<StreamContainerStatsResponse>> {
        let list = self
            .engine
            .list_container_stats(request.into_inner().filter)
            .await;
        chunks::answer(list, |container_stats| StreamContainerStatsResponse {
            container_stats,
        })
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Answer<BoxStream<StreamPodSandboxStatsResponse>> {
        let list = self
            .engine
            .list_pod_stats(request.into_inner().filter)
            .await;
        chunks::answer(list, |pod_sandbox_stats| StreamPodSandboxStatsResponse {
            pod_sandbox_stats,
        })
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Answer<BoxStream<StreamPodSandboxMetricsResponse>> {
        let list = self.engine.list_pod_metrics().await;
        chunks::answer(list, |pod_sandbox_metrics| {
            StreamPodSandboxMetricsResponse {
                pod_sandbox_metrics,
            }
        })
    }

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Answer<BoxStream<ContainerEventResponse>> {
        let lost = "this client reads slower than things happen, and events were lost to it: list \
                    everything and listen again";
        let end = tokio_stream::once(Err(Status::data_loss(lost)));
        let events = self.engine.container_events().map(Ok);
        Ok(Response::new(Box::pin(events.chain(end))))
    }

    async fn checkpoint_container(
        &self,
        request: Request<CheckpointContainerRequest>,
    ) -> Answer<CheckpointContainerResponse> {
        let request = request.into_inner();
        let engine = Arc::clone(&self.engine);
        detached(async move { engine.checkpoint_container(request).await }).await?;
        Ok(Response::new(CheckpointContainerResponse {}))
    }
}
