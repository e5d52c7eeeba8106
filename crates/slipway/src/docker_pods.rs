//! Pods that dockershim or cri-dockerd has made, stopped by the engine that has learnt to be in
//! their place: their networks are given back by what libcni has recorded of them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use slipway_cri_api::v1::{Container, ContainerState, PodSandbox, PodSandboxState};
use slipway_docker_engine::{DockerEngine, Settings};
use slipway_engine::{Census, Engine as _};
use slipway_migrate::apply::DIRECTORY;
use slipway_migrate::host::{self, DockerNode, Error, Progress};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// The kubelet has written here how long a pod's containers have to stop (kubelet,
/// `newContainerAnnotations`).
const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// How long they have where it is not said, in seconds.
const USUAL_GRACE: i64 = 30;

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
            .map_err(|error| error.to_string())?;
        runtime.block_on(async {
            tokio::select! {
                stopped = stop_all(&docker, root, state, &lines) => stopped,
                _ = unwanted => Err("it was given up".to_owned()),
            }
        })
    });
    while let Some(line) = said.recv().await {
        progress(&line);
    }
    let stopped = work.await.map_err(|error| Error::new(WHAT, error))?;
    stopped.map_err(|why| {
        Error::new(
            WHAT,
            format!("{why}; see to it that Docker runs (systemctl status docker), then go on"),
        )
    })
}

async fn stop_all(
    docker: &DockerNode,
    root: PathBuf,
    state: PathBuf,
    progress: &UnboundedSender<String>,
) -> Result<(), String> {
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
    };
    let text = |error: slipway_engine::Error| error.to_string();
    let engine = DockerEngine::open(settings).await.map_err(text)?;
    let pods = engine.list_pods(None).await.map_err(text)?;
    let containers = engine.list_containers(None).await.map_err(text)?;
    let stops = pods.iter().map(async |pod| {
        let name = name(pod);
        let own = containers.iter().filter(|one| one.pod_sandbox_id == pod.id);
        let stopped = stop_pod(&engine, pod, own).await;
        if stopped.is_ok() && pod.state() == PodSandboxState::SandboxReady {
            // Nobody listens any more who has given up.
            let _ = progress.send(format!("{name} is stopped"));
        }
        stopped.map_err(|error| format!("{name}: {error}"))
    });
    let left: Vec<_> = join_all(stops)
        .await
        .into_iter()
        .filter_map(Result::err)
        .collect();
    if !left.is_empty() {
        return Err(left.join("; "));
    }
    // Nothing in them is needed for pods that are stopped.
    for directory in [root, state] {
        std::fs::remove_dir_all(&directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
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
        let seconds = grace(&container.annotations);
        engine.stop_container(&container.id, seconds).await
    });
    for stopped in join_all(stops).await {
        stopped?;
    }
    engine.stop_pod(&pod.id).await
}

/// How long a container has to stop, in seconds.
fn grace(annotations: &HashMap<String, String>) -> i64 {
    let said = annotations.get(GRACE).and_then(|said| said.parse().ok());
    said.filter(|said| *said >= 0).unwrap_or(USUAL_GRACE)
}

#[cfg(test)]
mod tests;
