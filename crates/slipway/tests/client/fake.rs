//! A CRI runtime that keeps its pods in memory and whose containers are scripts of this test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use slipway_cri_api::slipway::engines_server::{Engines, EnginesServer};
use slipway_cri_api::slipway::pulls_server::{Pulls, PullsServer};
use slipway_cri_api::slipway::{
    Engine, LayerProgress, LayerState, ListEnginesRequest, ListEnginesResponse, PullProgress,
    WatchRequest,
};
use slipway_cri_api::v1::image_service_server::{ImageService, ImageServiceServer};
use slipway_cri_api::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use slipway_cri_api::v1::*;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::process::Command;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// What the next container does when it is started.
#[derive(Debug, Clone)]
pub(crate) enum Script {
    /// Writes these bytes into its log, closes it and ends.
    Exits { log: &'static str, code: i32 },
    /// Writes these bytes and runs until it is stopped, and then ends with 143.
    Runs { log: &'static str },
    /// Cannot be started.
    Fails,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) pods: Vec<PodSandbox>,
    pub(crate) containers: Vec<Container>,
    pub(crate) images: Vec<Image>,
    pub(crate) statuses: Vec<ContainerStatus>,
    /// The names of the calls that change something, in their order.
    pub(crate) calls: Vec<String>,
    pub(crate) pulled_with: Option<AuthConfig>,
    pub(crate) pod_config: Option<PodSandboxConfig>,
    pub(crate) container_config: Option<ContainerConfig>,
    pub(crate) script: Script,
    pub(crate) pod_fails: bool,
    /// None at a runtime that is not Slipway.
    pub(crate) engines: Vec<Engine>,
    /// Where sessions are served.
    pub(crate) url: String,
}

/// A fake runtime on a socket of its own, which ends with the test.
pub(crate) struct Fake {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) directory: TempDir,
}

impl Fake {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::new(Mutex::new(State {
            pods: Vec::new(),
            containers: Vec::new(),
            images: Vec::new(),
            statuses: Vec::new(),
            calls: Vec::new(),
            pulled_with: None,
            pod_config: None,
            container_config: None,
            script: Script::Exits { log: "", code: 0 },
            pod_fails: false,
            engines: Vec::new(),
            url: String::new(),
        }));
        let listener = UnixListener::bind(directory.path().join("cri.sock")).unwrap();
        let service = Service(Arc::clone(&state));
        tokio::spawn(
            Server::builder()
                .add_service(RuntimeServiceServer::new(service.clone()))
                .add_service(ImageServiceServer::new(service.clone()))
                .add_service(PullsServer::new(service.clone()))
                .add_service(EnginesServer::new(service))
                .serve_with_incoming(UnixListenerStream::new(listener)),
        );
        Self { state, directory }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("cri.sock")
    }

    /// `slipway` with an environment that has nothing but this runtime in it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = slipway(arguments);
        command
            .env("SLIPWAY_ENDPOINT", self.socket())
            .env("HOME", self.directory.path())
            .env("TMPDIR", self.directory.path());
        command
    }

    pub(crate) async fn slipway(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().await.unwrap()
    }

    /// What is printed by a command that must work.
    pub(crate) async fn stdout(&self, arguments: &[&str]) -> String {
        let output = self.slipway(arguments).await;
        assert_eq!(
            output.status.code(),
            Some(0),
            "{arguments:?}: {}",
            stderr(&output)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is said by a command that must fail with this code.
    pub(crate) async fn failure(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.slipway(arguments).await;
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            stderr(&output)
        );
        stderr(&output)
    }

    pub(crate) fn add_pod(&self, id: &str, name: &str, state: PodSandboxState) {
        self.state.lock().unwrap().pods.push(PodSandbox {
            id: id.into(),
            metadata: Some(PodSandboxMetadata {
                name: name.into(),
                uid: "u".into(),
                namespace: "default".into(),
                attempt: 0,
            }),
            state: state.into(),
            created_at: minutes_ago(5),
            ..Default::default()
        });
    }

    pub(crate) fn add_container(&self, id: &str, pod: &str, name: &str, state: ContainerState) {
        let metadata = Some(ContainerMetadata {
            name: name.into(),
            attempt: 1,
        });
        let image = ImageSpec {
            image: "sha256:0123456789abcdef".into(),
            ..Default::default()
        };
        let mut all = self.state.lock().unwrap();
        all.containers.push(Container {
            id: id.into(),
            pod_sandbox_id: pod.into(),
            metadata: metadata.clone(),
            image: Some(ImageSpec {
                user_specified_image: "busybox:1".into(),
                ..image.clone()
            }),
            state: state.into(),
            created_at: minutes_ago(3),
            ..Default::default()
        });
        all.statuses.push(ContainerStatus {
            id: id.into(),
            metadata,
            state: state.into(),
            log_path: self
                .directory
                .path()
                .join(format!("{name}.log"))
                .display()
                .to_string(),
            image: Some(image),
            ..Default::default()
        });
    }

    pub(crate) fn add_image(&self, id: &str, tags: &[&str], digests: &[&str]) {
        self.state.lock().unwrap().images.push(Image {
            id: id.into(),
            repo_tags: tags.iter().map(ToString::to_string).collect(),
            repo_digests: digests.iter().map(ToString::to_string).collect(),
            size: 2_166_802,
            ..Default::default()
        });
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().unwrap().calls.clone()
    }
}

pub(crate) fn slipway(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipway"));
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .kill_on_drop(true);
    command
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn minutes_ago(minutes: i64) -> i64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    i64::try_from(now.as_nanos()).unwrap() - minutes * 60_000_000_000
}

#[derive(Clone)]
struct Service(Arc<Mutex<State>>);

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    /// Notes that a session was asked for and answers where it is served.
    fn session(&self, call: &str, what: &str) -> String {
        let mut state = self.0.lock().unwrap();
        state.calls.push(format!("{call} {what}"));
        state.url.clone()
    }

    fn change<T>(&self, name: &str, id: &str, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.lock().unwrap();
        state
            .calls
            .push(format!("{name} {id}").trim_end().to_string());
        change(&mut state)
    }
}

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        Ok(Response::new(VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "fake".into(),
            runtime_version: "9.9".into(),
            runtime_api_version: "v1".into(),
        }))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        let condition = |name: &str, status, reason: &str| RuntimeCondition {
            r#type: name.into(),
            status,
            reason: reason.into(),
            message: String::new(),
        };
        let mut info = std::collections::HashMap::new();
        if request.into_inner().verbose {
            info.insert("config".to_string(), r#"{"root": "/x"}"#.to_string());
        }
        Ok(Response::new(StatusResponse {
            status: Some(RuntimeStatus {
                conditions: vec![
                    condition("RuntimeReady", true, ""),
                    condition("NetworkReady", false, "NoNetwork"),
                ],
            }),
            info,
            ..Default::default()
        }))
    }

    async fn runtime_config(
        &self,
        _: Request<RuntimeConfigRequest>,
    ) -> Answer<RuntimeConfigResponse> {
        let cgroup_driver = CgroupDriver::Systemd.into();
        let linux = Some(LinuxRuntimeConfiguration { cgroup_driver });
        Ok(Response::new(RuntimeConfigResponse { linux }))
    }

    async fn list_pod_sandbox(
        &self,
        _: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        let items = self.0.lock().unwrap().pods.clone();
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let mut containers = self.0.lock().unwrap().containers.clone();
        containers.retain(|container| {
            filter
                .state
                .is_none_or(|wanted| wanted.state == container.state)
                && (filter.pod_sandbox_id.is_empty()
                    || filter.pod_sandbox_id == container.pod_sandbox_id)
        });
        Ok(Response::new(ListContainersResponse { containers }))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let status = Some(PodSandboxStatus {
            id,
            ..Default::default()
        });
        Ok(Response::new(PodSandboxStatusResponse {
            status,
            ..Default::default()
        }))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        let request = request.into_inner();
        let state = self.0.lock().unwrap();
        let status = state
            .statuses
            .iter()
            .find(|status| status.id == request.container_id);
        let Some(status) = status else {
            return Err(Status::not_found(format!(
                "no container {}",
                request.container_id
            )));
        };
        let mut info = std::collections::HashMap::new();
        if request.verbose {
            info.insert("info".to_string(), r#"{"pid": 42}"#.to_string());
            info.insert("note".to_string(), "not JSON".to_string());
        }
        Ok(Response::new(ContainerStatusResponse {
            status: Some(status.clone()),
            info,
        }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> Answer<RunPodSandboxResponse> {
        let config = request.into_inner().config.unwrap();
        self.change("RunPodSandbox", "", |state| {
            if state.pod_fails {
                return Err(Status::internal("plugin bridge: no address is left"));
            }
            state.pods.push(PodSandbox {
                id: "pod1".into(),
                metadata: config.metadata.clone(),
                ..Default::default()
            });
            state.pod_config = Some(config);
            Ok(Response::new(RunPodSandboxResponse {
                pod_sandbox_id: "pod1".into(),
            }))
        })
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap();
        let logs = request.sandbox_config.unwrap().log_directory;
        self.change("CreateContainer", "", |state| {
            state.statuses.push(ContainerStatus {
                id: "c1".into(),
                log_path: format!("{logs}/{}", config.log_path),
                ..Default::default()
            });
            state.container_config = Some(config);
        });
        Ok(Response::new(CreateContainerResponse {
            container_id: "c1".into(),
        }))
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        let id = request.into_inner().container_id;
        let script = self.change("StartContainer", &id, |state| {
            let status = state
                .statuses
                .iter_mut()
                .find(|status| status.id == id)
                .unwrap();
            status.set_state(ContainerState::ContainerRunning);
            (state.script.clone(), status.log_path.clone())
        });
        match script {
            (Script::Fails, _) => return Err(Status::invalid_argument("exec nothing: not found")),
            (Script::Runs { log }, path) => fs::write(path, log).unwrap(),
            (Script::Exits { log, code }, path) => {
                let service = self.clone();
                tokio::spawn(async move {
                    // Answers first, so that the client sees the container run.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    fs::write(path, log).unwrap();
                    service.change("exit", "", |state| {
                        let status = state.statuses.iter_mut().find(|one| one.id == id).unwrap();
                        status.set_state(ContainerState::ContainerExited);
                        status.exit_code = code;
                    });
                });
            }
        }
        Ok(Response::new(StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Answer<StopContainerResponse> {
        let request = request.into_inner();
        let call = format!("StopContainer {}s", request.timeout);
        self.change(&call, &request.container_id, |state| {
            for status in &mut state.statuses {
                if status.id == request.container_id {
                    status.set_state(ContainerState::ContainerExited);
                    status.exit_code = 143;
                }
            }
        });
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        self.change("RemoveContainer", &id, |state| {
            state.containers.retain(|container| container.id != id);
        });
        Ok(Response::new(RemoveContainerResponse {}))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        self.change(
            "StopPodSandbox",
            &request.into_inner().pod_sandbox_id,
            |_| (),
        );
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.change("RemovePodSandbox", &id, |state| {
            state.pods.retain(|pod| pod.id != id);
        });
        Ok(Response::new(RemovePodSandboxResponse {}))
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let request = request.into_inner();
        Ok(Response::new(ExecSyncResponse {
            stdout: request.cmd.join("|").into(),
            stderr: format!("timeout {}", request.timeout).into(),
            exit_code: 42,
        }))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let ExecRequest {
            container_id,
            cmd,
            tty,
            stdin,
            stdout,
            stderr,
        } = request.into_inner();
        let streams = streams([tty, stdin, stdout, stderr]);
        let what = format!("{container_id} {}{streams}", cmd.join("|"));
        let url = self.session("Exec", &what);
        Ok(Response::new(ExecResponse { url }))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        let AttachRequest {
            container_id,
            stdin,
            tty,
            stdout,
            stderr,
        } = request.into_inner();
        let what = container_id + &streams([tty, stdin, stdout, stderr]);
        let url = self.session("Attach", &what);
        Ok(Response::new(AttachResponse { url }))
    }
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(&self, _: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        let images = self.0.lock().unwrap().images.clone();
        Ok(Response::new(ListImagesResponse { images }))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Answer<ImageStatusResponse> {
        let name = request.into_inner().image.unwrap().image;
        let state = self.0.lock().unwrap();
        let image = state.images.iter().find(|image| image.id == name).cloned();
        Ok(Response::new(ImageStatusResponse {
            image,
            ..Default::default()
        }))
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let request = request.into_inner();
        let image = request.image.unwrap().image;
        if image.contains("none") {
            return Err(Status::not_found(format!("registry has no {image}")));
        }
        if image.contains("layers") {
            // Long enough for the progress to be drawn.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        self.change("PullImage", &image, |state| {
            state.pulled_with = request.auth;
        });
        Ok(Response::new(PullImageResponse {
            image_ref: "sha256:abc".into(),
        }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Answer<RemoveImageResponse> {
        let image = request.into_inner().image.unwrap().image;
        self.change("RemoveImage", &image, |_| ());
        Ok(Response::new(RemoveImageResponse {}))
    }
}

#[tonic::async_trait]
impl Engines for Service {
    async fn list(&self, _: Request<ListEnginesRequest>) -> Answer<ListEnginesResponse> {
        let engines = self.0.lock().unwrap().engines.clone();
        if engines.is_empty() {
            return Err(Status::unimplemented("unknown service slipway.v1.Engines"));
        }
        Ok(Response::new(ListEnginesResponse { engines }))
    }
}

#[tonic::async_trait]
impl Pulls for Service {
    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Answer<tonic::codegen::BoxStream<PullProgress>> {
        if !request.into_inner().image.contains("layers") {
            return Err(Status::unimplemented("not by the fake"));
        }
        let layer = |digest: &str, done, state: LayerState| LayerProgress {
            digest: digest.into(),
            total: 2_000_000,
            done,
            state: state.into(),
        };
        let progress = PullProgress {
            layers: vec![
                layer(
                    "sha256:aaaaaaaaaaaaaaaa",
                    1_000_000,
                    LayerState::LayerDownloading,
                ),
                layer(
                    "sha256:bbbbbbbbbbbbbbbb",
                    2_000_000,
                    LayerState::LayerPresent,
                ),
            ],
        };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(progress)))))
    }
}

/// What is in a directory, but for the runtime's socket.
pub(crate) fn leftovers(directory: &Path) -> Vec<String> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "cri.sock")
        .collect()
}

/// The names of the streams that were asked for: a terminal, standard input, output and error.
fn streams(asked: [bool; 4]) -> String {
    let names = [" tty", " stdin", " stdout", " stderr"];
    let asked = names.into_iter().zip(asked);
    asked
        .filter_map(|(name, asked)| asked.then_some(name))
        .collect()
}
