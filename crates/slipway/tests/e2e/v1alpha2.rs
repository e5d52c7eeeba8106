//! The interface of kubelets up to 1.22.

use slipway_cri_api::v1::image_service_client::ImageServiceClient;
use slipway_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use slipway_cri_api::v1::{
    ContainerState, CreateContainerRequest, ExecSyncRequest, ListContainersRequest,
    ListImagesRequest, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest,
    StopPodSandboxRequest, VersionRequest,
};
use slipway_testbed::pod;
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::http::{Request, Uri};
use tower::ServiceExt as _;

use crate::node;

/// A call of v1 by the name that it had before.
fn older(mut request: Request<Body>) -> Request<Body> {
    let newer = request.uri().to_string();
    let uri: Uri = newer
        .replace("/runtime.v1.", "/runtime.v1alpha2.")
        .parse()
        .unwrap();
    assert_ne!(*request.uri(), uri);
    *request.uri_mut() = uri;
    request
}

#[tokio::test]
async fn a_pod_lives_and_ends() {
    let (node, image) = node().await;
    let cri = node.cri();
    let mut runtime = RuntimeServiceClient::new(cri.channel().map_request(older));
    let mut images = ImageServiceClient::new(cri.channel().map_request(older));

    let version = runtime.version(VersionRequest::default()).await.unwrap();
    assert_eq!(version.into_inner().runtime_api_version, "v1alpha2");
    assert_eq!(cri.version().await.unwrap().runtime_api_version, "v1");
    let listed = images.list_images(ListImagesRequest::default()).await;
    assert_eq!(listed.unwrap().into_inner().images.len(), 1);

    let config = node.pod("older");
    let request = RunPodSandboxRequest {
        config: Some(config.clone()),
        ..Default::default()
    };
    let made = Box::pin(runtime.run_pod_sandbox(request)).await.unwrap();
    let pod_sandbox_id = made.into_inner().pod_sandbox_id;
    let request = CreateContainerRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
        config: Some(pod::sleeper("main", &image)),
        sandbox_config: Some(config),
    };
    let made = Box::pin(runtime.create_container(request)).await.unwrap();
    let container_id = made.into_inner().container_id;
    let request = StartContainerRequest {
        container_id: container_id.clone(),
    };
    runtime.start_container(request).await.unwrap();
    let request = ExecSyncRequest {
        container_id: container_id.clone(),
        cmd: vec!["hostname".to_owned()],
        timeout: 0,
    };
    let ended = runtime.exec_sync(request).await.unwrap().into_inner();
    assert_eq!((ended.exit_code, ended.stdout), (0, b"older\n".to_vec()));

    // Both names are of the same pods.
    let listed = runtime
        .list_containers(ListContainersRequest::default())
        .await;
    let listed = listed.unwrap().into_inner().containers;
    assert_eq!(listed, cri.containers().await.unwrap());
    assert_eq!(listed[0].id, container_id);
    assert_eq!(listed[0].state(), ContainerState::ContainerRunning);

    let request = StopPodSandboxRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
    };
    runtime.stop_pod_sandbox(request).await.unwrap();
    let request = RemovePodSandboxRequest { pod_sandbox_id };
    runtime.remove_pod_sandbox(request).await.unwrap();
    assert!(cri.pods().await.unwrap().is_empty());

    let unknown = ExecSyncRequest {
        container_id,
        ..Default::default()
    };
    let refused = runtime.exec_sync(unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
}
