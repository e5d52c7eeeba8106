//! With a runtime of the tests, whose containers end when enough of them were asked to.

use std::sync::{Arc, Mutex};

use slipway_cri_api::v1::image_service_server::{ImageService, ImageServiceServer};
use slipway_cri_api::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use slipway_cri_api::v1::{
    Container, ListContainersResponse, ListPodSandboxResponse, PodSandboxMetadata,
    RemovePodSandboxResponse, StopContainerResponse, StopPodSandboxResponse,
};
use tokio::net::UnixListener;
use tokio::sync::Barrier;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Response;
use tonic::transport::Server;

use super::*;

const PODS: usize = 20;

struct Runtime {
    /// All containers are asked before one of them ends.
    asked: Barrier,
    calls: Arc<Mutex<Vec<String>>>,
}

type Answer<T> = Result<Response<T>, Status>;

impl Runtime {
    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }
}

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn list_pod_sandbox(
        &self,
        _: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        let items = (0..PODS).map(|number| PodSandbox {
            id: format!("pod-{number}"),
            metadata: Some(PodSandboxMetadata::default()),
            ..PodSandbox::default()
        });
        let items = items.collect();
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        let pod = request.into_inner().filter.unwrap().pod_sandbox_id;
        let container = |name: &str, grace: Option<&str>| Container {
            id: format!("{pod}-{name}"),
            annotations: grace
                .map(|grace| (GRACE.to_string(), grace.to_string()))
                .into_iter()
                .collect(),
            ..Container::default()
        };
        let containers = vec![container("a", Some("600")), container("b", None)];
        Ok(Response::new(ListContainersResponse { containers }))
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Answer<StopContainerResponse> {
        let request = request.into_inner();
        self.note(format!("{} {}", request.container_id, request.timeout));
        self.asked.wait().await;
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn stop_pod_sandbox(
        &self,
        _: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        self.note(format!("remove {}", request.into_inner().pod_sandbox_id));
        Ok(Response::new(RemovePodSandboxResponse {}))
    }
}

#[tokio::test]
async fn containers_have_the_time_of_their_pods_all_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("cri.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let calls = Arc::new(Mutex::new(Vec::new()));
    // One pod is somebody else's.
    let runtime = Runtime {
        asked: Barrier::new(2 * (PODS - 1)),
        calls: Arc::clone(&calls),
    };
    let server = Server::builder().add_service(RuntimeServiceServer::new(runtime));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    let others = HashSet::from(["pod-0".to_string()]);
    let removed = remove("unix://x", &socket, &others, &|_| {});
    let removed = tokio::time::timeout(Duration::from_mins(1), removed);
    removed.await.expect("one waits for another one").unwrap();
    let calls = calls.lock().unwrap();
    for number in 1..PODS {
        for call in [
            format!("pod-{number}-a 600"),
            format!("pod-{number}-b {USUAL_GRACE}"),
            format!("remove pod-{number}"),
        ] {
            assert!(calls.contains(&call), "{call} is not in {calls:?}");
        }
    }
    assert!(
        !calls.iter().any(|call| call.contains("pod-0")),
        "{calls:?}"
    );
}

struct Images;

impl ImageService for Images {}

#[tokio::test]
async fn a_runtime_whose_cri_is_disabled_has_no_pods() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("cri.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    // It serves something all the same.
    let server = Server::builder().add_service(ImageServiceServer::new(Images));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    let said = Mutex::new(Vec::new());
    let say = |line: &str| said.lock().unwrap().push(line.to_string());
    remove("unix://x", &socket, &HashSet::new(), &say)
        .await
        .unwrap();
    let said = said.into_inner().unwrap();
    assert!(
        matches!(&said[..], [line] if line.contains("unix://x does not speak CRI v1")),
        "{said:?}"
    );
}

#[test]
fn a_grace_period_is_what_the_kubelet_wrote() {
    let said = |text: &str| {
        let annotations = HashMap::from([(GRACE.to_owned(), text.to_owned())]);
        grace_seconds(&annotations)
    };
    assert_eq!((said("0"), said("600")), (0, 600));
    assert_eq!((said("-1"), said("soon")), (USUAL_GRACE, USUAL_GRACE));
    assert_eq!(grace_seconds(&HashMap::new()), USUAL_GRACE);
}
