//! Pods that dockershim or cri-dockerd has made, stopped by the engine that has learnt to be in
//! their place: their networks are given back by what libcni has recorded of them.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use slipway_cri_api::v1::{Container, ContainerState, PodSandbox, PodSandboxState};
use slipway_docker_engine::{DockerEngine, Settings};
use slipway_engine::{Census, Engine as _, Kind};
use slipway_migrate::apply::DIRECTORY;
use slipway_migrate::host::{self, DockerNode, Error, Progress};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

const WHAT: &str = "stop the pods that Docker has";

/// Where namespaces of pods are mounted for the moment.
const STATE: &str = "/run/slipway-migrate";

/// Stops pods by the engine on Docker.
#[derive(Debug)]
pub(crate) struct DockerPods;

impl host::DockerPods for DockerPods {
    async fn stop(&self, docker: &DockerNode, progress: Progress<'_>) -> Result<(), Error> {
        // What a call leaves that was cut off is given back by the next one.
        let root = Path::new(DIRECTORY).join("pods");
        stop_in(docker, root, STATE.into(), progress).await
    }

    fn forget(&self) -> Result<(), Error> {
        forget_in(&Path::new(DIRECTORY).join("pods"), Path::new(STATE))
    }
}

/// Unmounts the namespaces of pods that are still pinned, and removes the directories.
fn forget_in(root: &Path, state: &Path) -> Result<(), Error> {
    let failed = |path: &Path, error: io::Error| {
        let what = format!("give {} back", path.display());
        Error::new(what, format!("{error}; unmount and remove it, then go on"))
    };
    let pins = fs::read_dir(state.join("docker/netns"));
    for pin in pins.into_iter().flatten().flatten() {
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        match rustix::mount::unmount(pin.path(), flags) {
            // One that was made and is not mounted on yet.
            Ok(()) | Err(Errno::NOENT | Errno::INVAL) => {}
            Err(error) => return Err(failed(&pin.path(), error.into())),
        }
    }
    for directory in [root, state] {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(directory, error));
            }
            _ => {}
        }
    }
    Ok(())
}

async fn stop_in(
    docker: &DockerNode,
    root: PathBuf,
    state: PathBuf,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let (lines, mut said) = unbounded_channel();
    let docker = docker.clone();
    let (_wanted, unwanted) = oneshot::channel::<()>();
    // On a runtime of its own, which takes with it what the engine does in the background; also
    // where nobody waits for it any more.
    let work = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| Failed::Other(error.to_string()))?;
        runtime.block_on(async {
            tokio::select! {
                stopped = stop_all(&docker, root, state, &lines) => stopped,
                _ = unwanted => Err(Failed::Other("it was given up".to_owned())),
            }
        })
    });
    while let Some(line) = said.recv().await {
        progress(&line);
    }
    let stopped = work.await.map_err(|error| Error::new(WHAT, error))?;
    stopped.map_err(|failed| Error::new(WHAT, failed))
}

/// Why pods are not stopped.
#[derive(Debug)]
enum Failed {
    /// Docker does not answer, in these words.
    NoAnswer(String),
    /// It does: what was asked, and what was found.
    Other(String),
}

impl Failed {
    /// Of several, it is Docker's fault where it does not answer one of them.
    fn all(failed: Vec<Self>) -> Option<Self> {
        let no_answer = failed.iter().any(|one| matches!(one, Self::NoAnswer(_)));
        let whys = failed.into_iter().map(|one| match one {
            Self::NoAnswer(why) | Self::Other(why) => why,
        });
        let whys: Vec<_> = whys.collect();
        let whys = (!whys.is_empty()).then(|| whys.join("; "))?;
        Some(if no_answer {
            Self::NoAnswer(whys)
        } else {
            Self::Other(whys)
        })
    }

    fn of_engine(what: impl fmt::Display) -> impl Fn(slipway_engine::Error) -> Self {
        move |error| match error.kind() {
            Kind::Unavailable => Self::NoAnswer(format!("{what}: {error}")),
            _ => Self::Other(format!("{what}: {error}")),
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer(why) => write!(
                out,
                "{why}; systemctl status docker says whether Docker runs: start it, then go on"
            ),
            Self::Other(why) => write!(out, "{why}; mend that, then go on"),
        }
    }
}

async fn stop_all(
    docker: &DockerNode,
    root: PathBuf,
    state: PathBuf,
    progress: &UnboundedSender<String>,
) -> Result<(), Failed> {
    let settings = Settings {
        root: root.clone(),
        state: state.clone(),
        docker: slipway_docker_engine::Config {
            endpoint: format!("unix://{}", docker.socket.display()),
            cni_cache: docker.cni_cache.clone(),
            ..slipway_docker_engine::Config::default()
        },
        network: network(docker),
        census: Census::default(),
        network_metrics: slipway_network::Metrics::default(),
        writes_logs: false,
        remembers: false,
    };
    let asking = |what: &str| Failed::of_engine(format!("{what} of {}", docker.socket.display()));
    let engine = DockerEngine::open(settings).await;
    let engine = engine.map_err(asking("reading the pods"))?;
    let pods = engine.list_pods(None).await;
    let pods = pods.map_err(asking("listing the pods"))?;
    let containers = engine.list_containers(None).await;
    let containers = containers.map_err(asking("listing the containers"))?;
    let stops = pods.iter().map(async |pod| {
        let name = name(pod);
        let own = containers.iter().filter(|one| one.pod_sandbox_id == pod.id);
        let stopped = stop_pod(&engine, pod, own).await;
        if stopped.is_ok() && pod.state() == PodSandboxState::SandboxReady {
            // Nobody listens any more who has given up.
            let _ = progress.send(format!("{name} is stopped"));
        }
        stopped.map_err(Failed::of_engine(name))
    });
    let stopped = join_all(stops).await;
    let left = stopped.into_iter().filter_map(Result::err).collect();
    if let Some(failed) = Failed::all(left) {
        return Err(failed);
    }
    // Nothing in them is needed for pods that are stopped.
    for directory in [root, state] {
        std::fs::remove_dir_all(&directory)
            .map_err(|error| Failed::Other(format!("{}: {error}", directory.display())))?;
    }
    Ok(())
}

fn network(docker: &DockerNode) -> slipway_network::Config {
    let mut network = slipway_network::Config::default();
    let own = docker.plugins.iter().filter(|path| path.is_absolute());
    network.bin_dirs.splice(0..0, own.cloned());
    network
}

fn name(pod: &PodSandbox) -> String {
    let metadata = pod.metadata.clone().unwrap_or_default();
    format!("pod {}/{}", metadata.namespace, metadata.name)
}

/// Its containers have the time that the pod gives them, all at once; then the rest goes.
async fn stop_pod(
    engine: &DockerEngine,
    pod: &PodSandbox,
    containers: impl Iterator<Item = &Container>,
) -> Result<(), slipway_engine::Error> {
    let running = containers.filter(|one| one.state() == ContainerState::ContainerRunning);
    let stops = running.map(async |container| {
        let seconds = host::grace_seconds(&container.annotations);
        engine.stop_container(&container.id, seconds).await
    });
    for stopped in join_all(stops).await {
        stopped?;
    }
    engine.stop_pod(&pod.id).await
}

#[cfg(test)]
mod tests;
