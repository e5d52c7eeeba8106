//! `runtime.v1.RuntimeService`.

use std::sync::Arc;

use slipway_cri_api::v1::runtime_service_server::RuntimeService;
use slipway_cri_api::v1::{
    ContainerStatusRequest, ContainerStatusResponse, CreateContainerRequest,
    CreateContainerResponse, ExecSyncRequest, ExecSyncResponse, ListContainersRequest,
    ListContainersResponse, ListPodSandboxRequest, ListPodSandboxResponse, PodSandboxStatusRequest,
    PodSandboxStatusResponse, RemoveContainerRequest, RemoveContainerResponse,
    RemovePodSandboxRequest, RemovePodSandboxResponse, ReopenContainerLogRequest,
    ReopenContainerLogResponse, RunPodSandboxRequest, RunPodSandboxResponse, RuntimeConfigRequest,
    RuntimeConfigResponse, StartContainerRequest, StartContainerResponse, StatusRequest,
    StatusResponse, StopContainerRequest, StopContainerResponse, StopPodSandboxRequest,
    StopPodSandboxResponse, VersionRequest, VersionResponse,
};
use slipway_engine::{Engine, Verbosity};
use tonic::{Request, Response, Status, async_trait};

use crate::detached::detached;
use crate::request::required;
use crate::status::status;

/// The service, over an engine.
pub(crate) struct Runtime {
    engine: Arc<dyn Engine>,
    version: String,
}

impl Runtime {
    pub(crate) fn new(engine: Arc<dyn Engine>, version: String) -> Self {
        Self { engine, version }
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
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(VersionResponse {
            // The version of the kubelet's side of the interface, which never became another.
            version: "0.1.0".to_owned(),
            runtime_name: "slipway".to_owned(),
            runtime_version: self.version.clone(),
            runtime_api_version: "v1".to_owned(),
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
}
