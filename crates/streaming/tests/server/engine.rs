//! An engine without containers: its processes are tasks, and its ports are served by tasks.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use slipway_cri_api::slipway;
use slipway_cri_api::v1::{
    AuthConfig, CheckpointContainerRequest, ContainerConfig, ContainerFilter, ContainerStats,
    ContainerStatsFilter, ContainerStatusResponse, ExecSyncResponse, Image, ImageFsInfoResponse,
    ImageSpec, ImageStatusResponse, MetricDescriptor, PodSandbox, PodSandboxConfig,
    PodSandboxFilter, PodSandboxMetrics, PodSandboxStats, PodSandboxStatsFilter,
    PodSandboxStatusResponse, RuntimeConfig, RuntimeConfigResponse, StatusResponse,
    UpdateContainerResourcesRequest, UpdatePodSandboxResourcesRequest,
};
use slipway_engine::{
    ContainerEventStream, Engine, Error, Output, PodName, PortConnection, PullProgressStream,
    Result, Session, SessionEnd, Streams, Terminal, TerminalSize, Verbosity,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, split};
use tokio::sync::{mpsc, oneshot};

/// Bytes that a pipe holds.
const PIPE: usize = 64 * 1024;

/// What it counts, for tests.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    /// Bytes that `yes` has written.
    pub(crate) written: Arc<AtomicUsize>,
    /// Processes and connections that have not ended.
    pub(crate) running: Arc<AtomicUsize>,
}

struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Sizes(mpsc::Sender<TerminalSize>);

#[tonic::async_trait]
impl Terminal for Sizes {
    async fn resize(&self, size: TerminalSize) -> Result<()> {
        let sent = self.0.send(size).await;
        sent.map_err(|_| Error::precondition("the terminal is gone"))
    }
}

/// The process's side of its streams.
struct Process {
    stdin: Option<DuplexStream>,
    stdout: DuplexStream,
    stderr: DuplexStream,
    sizes: mpsc::Receiver<TerminalSize>,
}

impl Tasks {
    fn session(&self, command: Vec<String>, streams: Streams) -> Session {
        let ((stdin, to_stdin), (stdout, from_stdout)) = (duplex(PIPE), duplex(PIPE));
        let (stderr, from_stderr) = duplex(PIPE);
        let (resized, sizes) = mpsc::channel(4);
        let process = Process {
            stdin: streams.stdin.then_some(stdin),
            stdout,
            stderr,
            sizes,
        };
        let (exited, exit) = oneshot::channel();
        let running = Running::new(&self.running);
        let written = Arc::clone(&self.written);
        tokio::spawn(async move {
            let code = process.run(&command, &written).await;
            drop(running);
            let _ = exited.send(code);
        });
        Session {
            stdin: streams.stdin.then(|| Box::pin(to_stdin) as Pin<Box<_>>),
            stdout: streams.stdout.then(|| Box::pin(from_stdout) as Pin<Box<_>>),
            stderr: streams.stderr.then(|| Box::pin(from_stderr) as Pin<Box<_>>),
            terminal: streams.terminal.then(|| Box::new(Sizes(resized)) as Box<_>),
            end: Box::pin(async move {
                exit.await
                    .map(SessionEnd::Exited)
                    .map_err(|_| Error::internal("the process was lost"))
            }),
        }
    }
}

impl Process {
    async fn run(mut self, command: &[String], written: &AtomicUsize) -> i32 {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        match words[..] {
            ["cat"] => {
                if let Some(mut stdin) = self.stdin.take() {
                    let _ = tokio::io::copy(&mut stdin, &mut self.stdout).await;
                }
                0
            }
            ["say", out, err, code] => {
                let _ = self.stdout.write_all(out.as_bytes()).await;
                let _ = self.stderr.write_all(err.as_bytes()).await;
                code.parse().unwrap()
            }
            ["sizes"] => {
                while let Some(TerminalSize { width, height }) = self.sizes.recv().await {
                    let line = format!("{width}x{height}\n");
                    let _ = self.stdout.write_all(line.as_bytes()).await;
                    if (width, height) == (0, 0) {
                        break;
                    }
                }
                0
            }
            ["yes"] => loop {
                let Ok(bytes) = self.stdout.write(&[b'y'; 4096]).await else {
                    return 141;
                };
                written.fetch_add(bytes, Ordering::SeqCst);
            },
            ["much", bytes] => {
                let mut left: usize = bytes.parse().unwrap();
                while left > 0 {
                    let piece = vec![b'm'; left.min(10_000)];
                    if self.stdout.write_all(&piece).await.is_err() {
                        return 141;
                    }
                    left -= piece.len();
                }
                0
            }
            // Its output stays open after its end.
            ["daemon"] => {
                let _ = self.stdout.write_all(b"started").await;
                tokio::spawn(async move {
                    let mut stdout = self.stdout;
                    let mut end = [0];
                    let _ = stdout.read(&mut end).await;
                });
                0
            }
            // Never reads its input, and ends when nobody reads its output.
            ["deaf"] => {
                let _ = self.stdout.read_u8().await;
                0
            }
            _ => 127,
        }
    }
}

async fn serve_port(port: u16, connection: DuplexStream) {
    let (mut read, mut write) = split(connection);
    match port {
        // echo
        7 => {
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        }
        // Answers only when the whole request is there.
        80 => {
            let mut request = Vec::new();
            if read.read_to_end(&mut request).await.is_ok() {
                let answer = format!("{} bytes", request.len());
                let _ = write.write_all(answer.as_bytes()).await;
            }
        }
        // Says something, says that this is all, and still listens.
        17 => {
            let _ = write.write_all(b"quote").await;
            let _ = write.shutdown().await;
            let mut rest = Vec::new();
            let _ = read.read_to_end(&mut rest).await;
        }
        // Listens and says nothing as long as the other side is there.
        _ => {
            let mut rest = Vec::new();
            let _ = read.read_to_end(&mut rest).await;
        }
    }
}

#[tonic::async_trait]
impl Engine for Tasks {
    async fn check_exec(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn exec(&self, id: &str, command: Vec<String>, streams: Streams) -> Result<Session> {
        if id != "container" {
            return Err(Error::not_found(format!("there is no container {id}")));
        }
        Ok(self.session(command, streams))
    }

    async fn check_attach(&self, _: &str, _: Streams) -> Result<()> {
        Ok(())
    }

    async fn attach(&self, id: &str, streams: Streams) -> Result<Session> {
        Ok(self.session(id.split(' ').map(str::to_owned).collect(), streams))
    }

    async fn check_port_forward(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn connect_port(&self, _: &str, port: u16) -> Result<PortConnection> {
        if port == 1 {
            return Err(Error::precondition("nobody listens on port 1"));
        }
        let (near, far) = duplex(PIPE);
        let running = Running::new(&self.running);
        tokio::spawn(async move {
            serve_port(port, far).await;
            drop(running);
        });
        Ok(Box::pin(near))
    }

    async fn status(&self, _: Verbosity) -> Result<StatusResponse> {
        unreachable!("no session asks for this")
    }

    async fn runtime_config(&self) -> Result<RuntimeConfigResponse> {
        unreachable!("no session asks for this")
    }

    async fn engines(&self) -> Result<Vec<slipway::Engine>> {
        unreachable!("no session asks for this")
    }

    fn has_pod(&self, _: &str) -> Result<bool> {
        unreachable!("no session asks for this")
    }

    fn has_container(&self, _: &str) -> Result<bool> {
        unreachable!("no session asks for this")
    }

    async fn run_pod(&self, _: PodSandboxConfig, _: String) -> Result<String> {
        unreachable!("no session asks for this")
    }

    async fn stop_pod(&self, _: &str) -> Result<()> {
        unreachable!("no session asks for this")
    }

    async fn remove_pod(&self, _: &str) -> Result<()> {
        unreachable!("no session asks for this")
    }

    async fn pod_status(&self, _: &str, _: Verbosity) -> Result<PodSandboxStatusResponse> {
        unreachable!("no session asks for this")
    }

    async fn list_pods(&self, _: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>> {
        unreachable!("no session asks for this")
    }

    async fn create_container(&self, _: &str, _: ContainerConfig) -> Result<String> {
        unreachable!("no session asks for this")
    }

    async fn start_container(&self, _: &str) -> Result<()> {
        unreachable!("no session asks for this")
    }

    async fn stop_container(&self, _: &str, _: i64) -> Result<()> {
        unreachable!("no session asks for this")
    }

    async fn remove_container(&self, _: &str) -> Result<()> {
        unreachable!("no session asks for this")
    }

    async fn container_status(&self, _: &str, _: Verbosity) -> Result<ContainerStatusResponse> {
        unreachable!("no session asks for this")
    }

    async fn list_containers(
        &self,
        _: Option<ContainerFilter>,
    ) -> Result<Vec<slipway_cri_api::v1::Container>> {
        unreachable!("no session asks for this")
    }

    async fn exec_sync(&self, _: &str, _: Vec<String>, _: i64) -> Result<ExecSyncResponse> {
        unreachable!("no session asks for this")
    }

    async fn update_container_resources(&self, _: UpdateContainerResourcesRequest) -> Result<()> {
        unreachable!("no session asks for this")
    }

    async fn update_pod_resources(&self, _: UpdatePodSandboxResourcesRequest) -> Result<()> {
        unreachable!("no session asks for this")
    }

    async fn container_stats(&self, _: &str) -> Result<ContainerStats> {
        unreachable!("no session asks for this")
    }

    async fn list_container_stats(
        &self,
        _: Option<ContainerStatsFilter>,
    ) -> Result<Vec<ContainerStats>> {
        unreachable!("no session asks for this")
    }

    async fn pod_stats(&self, _: &str) -> Result<PodSandboxStats> {
        unreachable!("no session asks for this")
    }

    async fn list_pod_stats(
        &self,
        _: Option<PodSandboxStatsFilter>,
    ) -> Result<Vec<PodSandboxStats>> {
        unreachable!("no session asks for this")
    }

    async fn metric_descriptors(&self) -> Result<Vec<MetricDescriptor>> {
        unreachable!("no session asks for this")
    }

    async fn list_pod_metrics(&self) -> Result<Vec<PodSandboxMetrics>> {
        unreachable!("no session asks for this")
    }

    fn container_events(&self) -> ContainerEventStream {
        unreachable!("no session asks for this")
    }

    async fn update_runtime_config(&self, _: RuntimeConfig) -> Result<()> {
        unreachable!("no session asks for this")
    }

    async fn checkpoint_container(&self, _: CheckpointContainerRequest) -> Result<()> {
        unreachable!("no session asks for this")
    }

    async fn reopen_container_log(&self, _: &str) -> Result<()> {
        unreachable!("no session asks for this")
    }

    async fn pull_image(
        &self,
        _: ImageSpec,
        _: Option<AuthConfig>,
        _: Option<PodName>,
    ) -> Result<String> {
        unreachable!("no session asks for this")
    }

    async fn list_images(&self, _: Option<ImageSpec>) -> Result<Vec<Image>> {
        unreachable!("no session asks for this")
    }

    async fn image_status(&self, _: ImageSpec, _: Verbosity) -> Result<ImageStatusResponse> {
        unreachable!("no session asks for this")
    }

    async fn remove_image(&self, _: ImageSpec) -> Result<()> {
        unreachable!("no session asks for this")
    }

    async fn import_image(&self, _: &str, _: Vec<String>, _: Output) -> Result<()> {
        unreachable!("no session asks for this")
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfoResponse> {
        unreachable!("no session asks for this")
    }

    fn watch_pull(&self, _: &str) -> PullProgressStream {
        unreachable!("no session asks for this")
    }
}
