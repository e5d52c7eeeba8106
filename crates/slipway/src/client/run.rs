//! `slipway run`: a pod with one container, shown while it runs and removed when it ends.
//!
//! Whatever was made is removed on every way out, also when a signal asks this process to end. A
//! call that makes something is never given up half-way: the runtime would finish it, and nobody
//! would know what to remove.

mod config;
mod values;

use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use slipway_cri_api::v1::{
    ContainerConfig, CreateContainerRequest, ImageSpec, ImageStatusRequest, KeyValue, Mount,
    PodSandbox, PodSandboxConfig, PortMapping, RunPodSandboxRequest, StartContainerRequest,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::Request;

use self::values::{CpuQuota, User};
use super::connection::Client;
use super::containers::GRACE;
use super::exec::exit_code;
use super::follow::LogFile;
use super::logs::{LogPrinter, follow, watch};
use super::output::print_line;
use super::{failure, pull};

/// How `run` ends after a signal, as shells report a command that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// What `slipway run` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Ends with the exit code of the command; with 125 if the runtime failed before it ran.
Ctrl-C or SIGTERM stop the container, which has 10s to end (a second one kills it), remove it and
end with 130. Standard input is not passed on.

Examples:
  slipway run busybox -- echo hello
  slipway run -v /srv/data:/data:ro --memory 64Mi --cpus 0.5 busybox -- sh -c 'du -s /data'
  slipway run -d --name web -p 8080:80 registry.example.com/web:1.2
  slipway run --host-network --user 1000 busybox -- ip address")]
pub(crate) struct RunArgs {
    /// Name of the pod and of the container [default: one that is not taken]
    #[arg(long)]
    name: Option<String>,

    /// Environment variable; may be repeated
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = values::environment)]
    environment: Vec<KeyValue>,

    /// File or directory of the host to mount; may be repeated
    #[arg(
        short = 'v', long = "mount", value_name = "HOST:CONTAINER[:ro]",
        value_parser = values::mount
    )]
    mounts: Vec<Mount>,

    /// User, by name or number, and group, by number [default: the image's]
    #[arg(short, long, value_name = "USER[:GROUP]", value_parser = values::user)]
    user: Option<User>,

    /// Working directory [default: the image's]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,

    /// Host name [default: the pod's name]
    #[arg(long, conflicts_with = "host_network")]
    hostname: Option<String>,

    /// Use the host's network
    #[arg(long, conflicts_with = "ports")]
    host_network: bool,

    /// Port of the host that leads to one of the container; may be repeated
    #[arg(
        short = 'p', long = "publish", value_name = "[IP:]PORT:PORT[/tcp|udp|sctp]",
        value_parser = values::port
    )]
    ports: Vec<PortMapping>,

    /// Most memory, in bytes or with a unit (64Mi, 1G)
    #[arg(short, long, value_name = "SIZE", value_parser = values::memory)]
    memory: Option<i64>,

    /// Most processors, such as 0.5
    #[arg(long, value_name = "NUMBER", value_parser = values::cpus)]
    cpus: Option<CpuQuota>,

    /// When to pull the image
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pull: PullPolicy,

    /// Where to write the log [default: a temporary directory, removed with the pod]
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,

    /// Keep pod and container when the command has ended
    #[arg(long)]
    keep: bool,

    /// Print the container's ID and leave it running
    #[arg(short, long)]
    detach: bool,

    /// Name or ID
    image: String,

    /// The command with its arguments [default: the image's]
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PullPolicy {
    /// If the runtime does not have it
    Missing,
    /// Even if it is there
    Always,
    /// Not at all
    Never,
}

impl RunArgs {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let mut interrupt = Interrupt::new()?;
        tokio::select! {
            image = self.provide_image(client) => image?,
            () = interrupt.wait() => return Ok(ExitCode::from(INTERRUPTED)),
        }
        let uid = new_uid()?;
        let mut logs = LogDirectory::create(self.log_dir.as_deref(), &uid)?;
        let pod = self.pod_config(&uid, logs.path())?;
        let container = self.container_config(&pod);
        let asked = || format!("run {}", self.image);

        let request = RunPodSandboxRequest {
            config: Some(pod.clone()),
            ..Default::default()
        };
        let response = client
            .runtime()
            .run_pod_sandbox(Request::new(request))
            .await;
        let pod_id = response
            .context("make the pod")
            .with_context(asked)?
            .into_inner()
            .pod_sandbox_id;

        let running = self.run_container(client, &pod_id, pod, container, &mut interrupt);
        let ended = Box::pin(running).await;
        let keeps = self.keep || self.detach;
        if keeps && matches!(ended, Ok(End::Exited(_) | End::Detached)) {
            logs.keep();
        } else if let Err(error) = client.remove_pod(&pod_id).await {
            logs.keep();
            let command = format!("remove pod {pod_id} (`slipway rmp -f` tries again)");
            failure::complain(&error.context(command));
        }
        Ok(match ended.with_context(asked)? {
            End::Exited(code) => exit_code(code),
            End::Detached => ExitCode::SUCCESS,
            End::Interrupted => ExitCode::from(INTERRUPTED),
            End::Lost(error) => failure::fail(&error.context(asked()), 1),
        })
    }

    async fn provide_image(&self, client: &Client) -> anyhow::Result<()> {
        let is_there = match self.pull {
            PullPolicy::Always => false,
            PullPolicy::Missing | PullPolicy::Never => {
                let image = Some(ImageSpec {
                    image: self.image.clone(),
                    ..Default::default()
                });
                let request = client.request(ImageStatusRequest {
                    image,
                    verbose: false,
                });
                let status = client.images().image_status(request).await;
                let status = status.with_context(|| format!("look for image {}", self.image))?;
                status.into_inner().image.is_some()
            }
        };
        if is_there {
            Ok(())
        } else if self.pull == PullPolicy::Never {
            Err(anyhow!(
                "run {}: the image is not there, and --pull never",
                self.image
            ))
        } else {
            pull::pull(client, &self.image, None, false).await.map(drop)
        }
    }

    /// Makes the container and stays with it to its end. An error means that it never ran.
    async fn run_container(
        &self,
        client: &Client,
        pod_id: &str,
        pod: PodSandboxConfig,
        config: ContainerConfig,
        interrupt: &mut Interrupt,
    ) -> anyhow::Result<End> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod_id.into(),
            config: Some(config),
            sandbox_config: Some(pod),
        };
        let response = client
            .runtime()
            .create_container(Request::new(request))
            .await;
        let id = response
            .context("make the container")?
            .into_inner()
            .container_id;
        let path = client.container_status(&id).await?.log_path;
        let watch = watch(Path::new(&path))?;
        if interrupt.has_come().await {
            return Ok(End::Interrupted);
        }
        let start = StartContainerRequest {
            container_id: id.clone(),
        };
        client
            .runtime()
            .start_container(Request::new(start))
            .await
            .context("start it")?;
        if self.detach {
            return Ok(print_line(&id).map_or_else(End::Lost, |()| End::Detached));
        }
        let mut log = LogFile::new(path);
        let mut printer = LogPrinter::default();
        let end = tokio::select! {
            end = follow(client, &id, &mut log, &watch, &mut printer) => Some(end),
            () = interrupt.wait() => None,
        };
        if let Some(end) = end {
            return Ok(end_of(end));
        }
        let stopping = async {
            // The second signal has no patience; the pod's removal kills what is left.
            tokio::select! {
                stopped = client.stop_container(&id, GRACE) => stopped,
                () = interrupt.wait() => client.stop_container(&id, Duration::ZERO).await,
            }
        };
        let (stopped, last_output) = tokio::join!(
            stopping,
            follow(client, &id, &mut log, &watch, &mut printer)
        );
        for error in [stopped.err(), last_output.err()].into_iter().flatten() {
            failure::complain(&error.context("stop the container"));
        }
        Ok(End::Interrupted)
    }
}

/// How a container that was started came to its end here.
enum End {
    Exited(i32),
    Detached,
    Interrupted,
    /// It ran, but nobody can say how it ended.
    Lost(anyhow::Error),
}

fn end_of(end: anyhow::Result<Option<slipway_cri_api::v1::ContainerStatus>>) -> End {
    match end {
        Ok(Some(status)) => {
            if status.reason == "OOMKilled" {
                failure::complain(&anyhow!("the container ran out of memory and was killed"));
            }
            End::Exited(status.exit_code)
        }
        Ok(None) => End::Lost(anyhow!("somebody else removed the container while it ran")),
        Err(error) => End::Lost(error),
    }
}

/// A wish of whoever started this process that it end.
struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    fn new() -> anyhow::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self {
            interrupt,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Whether a signal has come since the last look.
    async fn has_come(&mut self) -> bool {
        // Signals are delivered by the runtime's driver, which runs when a task yields.
        tokio::time::timeout(Duration::ZERO, self.wait())
            .await
            .is_ok()
    }
}

/// Random, as the UIDs of a kubelet's pods are, but of 32 hexadecimal digits without dashes.
fn new_uid() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// Where the container's log is written. Removed when it is dropped, unless it belongs to the user
/// or to a pod that stays.
struct LogDirectory {
    path: PathBuf,
    temporary: bool,
}

impl LogDirectory {
    fn create(chosen: Option<&Path>, uid: &str) -> anyhow::Result<Self> {
        let mut builder = std::fs::DirBuilder::new();
        let (path, temporary) = match chosen {
            Some(path) => (std::path::absolute(path)?, false),
            None => (temporary_logs(uid), true),
        };
        builder
            .recursive(!temporary)
            .mode(if temporary { 0o700 } else { 0o755 })
            .create(&path)
            .with_context(|| format!("make the log directory {}", path.display()))?;
        Ok(Self { path, temporary })
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn keep(&mut self) {
        self.temporary = false;
    }
}

impl Drop for LogDirectory {
    fn drop(&mut self) {
        if self.temporary {
            remove_directory(&self.path);
        }
    }
}

fn temporary_logs(uid: &str) -> PathBuf {
    std::env::temp_dir().join(format!("slipway-run-{uid}"))
}

/// Removes the log of a pod that `run --detach` or `run --keep` left.
pub(super) fn remove_logs(pod: &PodSandbox) {
    // A pod's UID comes from whoever made the pod; only one as `run` makes them names a directory.
    let uid = pod.metadata.as_ref().map_or("", |metadata| &metadata.uid);
    if uid.len() == 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        remove_directory(&temporary_logs(uid));
    }
}

fn remove_directory(path: &Path) {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            let context = format!("remove the log directory {}", path.display());
            failure::complain(&anyhow::Error::from(error).context(context));
        }
        _ => {}
    }
}
