//! What the engine holds, and what it knows of pods and containers.
//!
//! Docker is asked for one container whenever something has happened to it, one request at a time
//! for each, so that what is known of it never goes back in time.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bollard::models::ContainerInspectResponse;
use slipway_cgroup::Hierarchy;
use slipway_cri_api::v1::{ContainerEventResponse, ContainerEventType, LinuxContainerResources};
use slipway_engine::{
    Census, ContainerName, ContainerState, Error, Events, HasState, Index, Kind, OneOf, PodName,
    Population, Result,
};
use slipway_network::Network;
use slipway_resources::of_cgroup;
use tokio::sync::{Notify, watch};

use crate::attempt::Attempt;
use crate::checkpoint::Checkpoints;
use crate::config::Config;
use crate::dockerd::Dockerd;
use crate::execs::Execs;
use crate::files::Files;
use crate::gates::Gates;
use crate::image_space::ImageSpace;
use crate::images::ImageNames;
use crate::inspect::{Container, Found, Pod, read};
use crate::known::Everything;
use crate::log::Logs;
use crate::making::{Making, Makings, Meanwhile};
use crate::pins::Pins;
use crate::progress::Pulls;
use crate::stats::Observed;
use crate::{dump, views};

/// How something is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// As it is.
    Present,
    /// As it was when Docker could last be asked. CRI has a state for it, `CONTAINER_UNKNOWN`, which
    /// kubelets act on: in a status they take it for an end with code 137, and a pod that is not to be
    /// restarted for failed; in a list for a container that ended, so that they remove what came before
    /// it with its logs (`kuberuntime_gc.go`) and give its devices away. So it is for Slipway's own
    /// interface alone, and CRI has the last state, with a reason.
    Remembered,
}

/// What was told of last, for those who count.
struct Told {
    pods: Population,
    containers: Population,
    /// By id.
    counted: HashMap<String, OneOf>,
}

impl Told {
    fn new(census: &Census) -> Self {
        Self {
            pods: census.pods("docker"),
            containers: census.containers("docker"),
            counted: HashMap::new(),
        }
    }

    fn pod(&mut self, pod: &Pod) {
        let counted = self.pods.count(pod);
        self.counted.insert(pod.id.clone(), counted);
    }

    fn container(&mut self, container: &Container) {
        let counted = self.containers.count(&container.state);
        self.counted.insert(container.id.clone(), counted);
    }
}

impl HasState for Pod {
    fn label(&self) -> &'static str {
        match self.pid {
            Some(_) => "ready",
            None => "not_ready",
        }
    }
}

/// Everything that the operations work on. Nothing in it cannot be rebuilt from Docker and from
/// the checkpoints.
pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) dockerd: Dockerd,
    pub(crate) network: Network,
    pub(crate) checkpoints: Checkpoints,
    /// Of containers whose limits were updated, those that Docker has no place for.
    pub(crate) limits: Files<LinuxContainerResources>,
    pub(crate) logs: Logs,
    pub(crate) pins: Pins,
    hierarchy: OnceLock<Hierarchy>,
    pub(crate) pods: Index<PodName, Pod>,
    pub(crate) containers: Index<ContainerName, Container>,
    pub(crate) makings: Arc<Makings>,
    pub(crate) events: Events,
    pub(crate) execs: Execs,
    pub(crate) image_names: ImageNames,
    pub(crate) image_space: ImageSpace,
    pub(crate) observed: Observed,
    pub(crate) pulls: Pulls,
    /// To give Docker the image of pause containers.
    pub(crate) providing: Attempt,
    /// Containers of which a process was killed for want of memory. Docker forgets it where it hears
    /// of that only after the container's end.
    out_of_memory: Mutex<HashSet<String>>,
    /// Of pods: shared by whoever adds to one, alone for whoever stops or removes it.
    pub(crate) gates: Gates,
    /// Of pods and containers whose limits are being changed.
    pub(crate) updates: Gates,
    /// Of containers whose processes' state is being written down.
    pub(crate) dumps: Gates,
    pub(crate) dump_directory: PathBuf,
    /// Held while Docker is asked about a container.
    turns: Gates,
    /// Held while something changes and is told of.
    told: Mutex<Told>,
    /// Changes with everything that is known.
    pub(crate) changes: watch::Sender<u64>,
    /// Told when what is known may not be what is.
    pub(crate) doubts: Notify,
    /// Of root and state directory, held for as long as the daemon runs.
    _locks: [std::fs::File; 2],
}

impl Node {
    pub(crate) fn new(
        config: Config,
        network: Network,
        census: &Census,
        logs: Logs,
        [root, state]: [&Path; 2],
        locks: [std::fs::File; 2],
    ) -> Result<Self> {
        Ok(Self {
            dockerd: Dockerd::new(&config)?,
            config,
            network,
            checkpoints: Checkpoints::new(checkpoints(root)),
            limits: Files::new(limits(root)),
            logs,
            hierarchy: OnceLock::new(),
            pins: Pins::new(state.join("netns")),
            pods: Index::new("pod"),
            containers: Index::new("container"),
            makings: Arc::default(),
            events: Events::default(),
            execs: Execs::default(),
            image_names: ImageNames::default(),
            image_space: ImageSpace::default(),
            observed: Observed::default(),
            pulls: Pulls::default(),
            providing: Attempt::default(),
            out_of_memory: Mutex::default(),
            gates: Gates::default(),
            updates: Gates::default(),
            dumps: Gates::default(),
            dump_directory: dump::parent(root),
            turns: Gates::default(),
            told: Mutex::new(Told::new(census)),
            changes: watch::Sender::new(0),
            doubts: Notify::new(),
            _locks: locks,
        })
    }

    /// How pods and containers are looked at now.
    ///
    /// # Errors
    ///
    /// [`Kind::Unavailable`] when it is not known which ones there are.
    pub(crate) fn look(&self) -> Result<Sight> {
        self.dockerd.is_known()?;
        Ok(match self.dockerd.up() {
            Ok(_) => Sight::Present,
            Err(_) => Sight::Remembered,
        })
    }

    /// The control groups of this node, looked at once. Blocking, briefly.
    pub(crate) fn hierarchy(&self) -> Result<&Hierarchy> {
        if let Some(hierarchy) = self.hierarchy.get() {
            return Ok(hierarchy);
        }
        let found = Hierarchy::detect().map_err(|error| of_cgroup(&error))?;
        Ok(self.hierarchy.get_or_init(|| found))
    }

    /// A pod, as Docker last said that it is.
    pub(crate) fn pod(&self, id: &str) -> Result<Arc<Pod>> {
        self.dockerd.is_known()?;
        self.pods.get(id)
    }

    /// A container, as [`Node::pod`].
    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>> {
        self.dockerd.is_known()?;
        self.containers.get(id)
    }

    /// The containers of a pod, ordered by id.
    pub(crate) fn containers_of(&self, pod: &str) -> Vec<Arc<Container>> {
        let mut all = self.containers.all();
        all.retain(|container| container.name.pod == pod);
        all
    }

    /// Has all of Docker's containers asked about again, soon: something may have happened to one
    /// that was not heard of, or something could not be given back.
    pub(crate) fn doubt(&self) {
        self.doubts.notify_one();
    }

    /// Asks Docker about a container of its own and takes what it says.
    pub(crate) async fn refresh(&self, id: &str) -> Result<()> {
        self.see(id).await.map(drop)
    }

    /// As [`Node::refresh`]; answers what has become of it.
    pub(crate) async fn see(&self, id: &str) -> Result<Seen> {
        let docker = self.dockerd.up()?.docker;
        let seen = self.refresh_from(&docker, id).await;
        seen.inspect_err(|_| self.doubt())
    }

    /// As [`Node::refresh`], also with a dockerd that is only just being connected to.
    pub(crate) async fn refresh_from(&self, docker: &bollard::Docker, id: &str) -> Result<Seen> {
        let _turn = self.turns.alone(id).await;
        let what = format!("inspect container {id}");
        let asked = docker.inspect_container(id, None);
        let limit = self.config.timeout();
        match self.dockerd.answer(limit, &what, asked).await {
            Ok(inspected) => {
                let image = inspected.image.as_deref().unwrap_or_default();
                self.image_names
                    .learn(&self.dockerd, limit, docker, image)
                    .await;
                let name = inspected.name.clone().unwrap_or_default();
                let found = read(inspected, &self.checkpoints, &self.limits);
                if let Some(Found::Container(container)) = &found {
                    self.logs.attend(container).await;
                }
                Ok(self.take(id, &name, found))
            }
            Err(error) if error.kind() == Kind::NotFound => {
                self.logs.forget(id).await;
                Ok(self.take(id, "", None))
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the making of a pod, and shows it if nothing was heard of it: both at once, so that whoever
    /// asks for the same pod again finds either.
    fn take_made(&self, making: Making, id: &str, found: Option<Found>) -> Meanwhile {
        let mut told = self.told();
        let heard = making.end();
        if heard == Meanwhile::Nothing {
            self.know(&mut told, id, found);
        }
        heard
    }

    /// Knows from now on what Docker says of a container, and tells of the difference.
    fn take(&self, id: &str, docker_name: &str, found: Option<Found>) -> Seen {
        let mut told = self.told();
        match found {
            Some(Found::Pod(_) | Found::HalfMade) if self.makings.hears(docker_name) => {
                Seen::Making
            }
            found => self.know(&mut told, id, found),
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn know(&self, told: &mut Told, id: &str, found: Option<Found>) -> Seen {
        match found {
            Some(Found::HalfMade) => return Seen::HalfMade,
            Some(Found::Pod(pod)) => {
                told.pod(&pod);
                self.take_pod(*pod);
            }
            Some(Found::Container(container)) => {
                told.container(&container);
                self.take_container(*container);
            }
            None => self.forget(told, id),
        }
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
        Seen::Known
    }

    /// Shows a pod whose making has come to its end, as Docker said in the meantime that it is.
    pub(crate) async fn complete(
        &self,
        making: Making,
        id: &str,
        inspected: Box<ContainerInspectResponse>,
    ) -> Result<()> {
        // Whoever has asked about it before has taken what it was then.
        let turn = self.turns.alone(id).await;
        let found = read(*inspected, &self.checkpoints, &self.limits);
        if self.take_made(making, id, found) == Meanwhile::Something {
            drop(turn);
            return self.refresh(id).await;
        }
        Ok(())
    }

    /// Shows a pod no more that is to be undone: from here on it is half-made, whoever looks, and
    /// however long Docker takes to remove it.
    pub(crate) async fn withdraw(&self, id: &str) -> Result<()> {
        // Whoever asks about it now has seen its checkpoint.
        let _turn = self.turns.alone(id).await;
        self.checkpoints.remove(id)?;
        let mut told = self.told();
        self.forget(&mut told, id);
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
        Ok(())
    }

    fn take_pod(&self, pod: Pod) {
        let before = self.pods.find(&pod.id).ok().flatten();
        let (id, running) = (pod.id.clone(), pod.pid.is_some());
        self.pods.put(pod.name.clone(), &id, Arc::new(pod));
        let was_running = before.as_ref().is_some_and(|pod| pod.pid.is_some());
        if before.is_none() {
            self.tell(&id, &id, ContainerEventType::ContainerCreatedEvent);
        }
        if running && !was_running {
            self.tell(&id, &id, ContainerEventType::ContainerStartedEvent);
        }
        if !running && was_running {
            self.tell(&id, &id, ContainerEventType::ContainerStoppedEvent);
        }
    }

    /// Docker has told that a process of a container was killed for want of memory.
    pub(crate) fn note_out_of_memory(&self, id: &str) {
        self.out_of_memory().insert(id.to_owned());
    }

    fn out_of_memory(&self) -> MutexGuard<'_, HashSet<String>> {
        let noted = self.out_of_memory.lock();
        noted.unwrap_or_else(PoisonError::into_inner)
    }

    fn take_container(&self, mut container: Container) {
        if self.out_of_memory().contains(&container.id) {
            container.state = container.state.out_of_memory();
        }
        let before = self.containers.find(&container.id).ok().flatten();
        let before = before.map(|container| container.state.clone());
        let (id, pod) = (container.id.clone(), container.name.pod.clone());
        let now = container.state.clone();
        self.containers
            .put(container.name.clone(), &id, Arc::new(container));
        if before.is_none() {
            self.tell(&pod, &id, ContainerEventType::ContainerCreatedEvent);
        }
        let began = !matches!(
            before,
            Some(ContainerState::Running { .. } | ContainerState::Exited(_))
        );
        if began && now.has_run() {
            self.tell(&pod, &id, ContainerEventType::ContainerStartedEvent);
        }
        let ended = matches!(now, ContainerState::Exited(_));
        if ended && !matches!(before, Some(ContainerState::Exited(_))) {
            self.tell(&pod, &id, ContainerEventType::ContainerStoppedEvent);
        }
    }

    fn forget(&self, told: &mut Told, id: &str) {
        told.counted.remove(id);
        if let Ok(Some(container)) = self.containers.find(id) {
            self.containers.remove(&container.id);
            self.observed.forget(&container.id);
            self.out_of_memory().remove(&container.id);
            if let Err(error) = self.limits.remove(&container.id) {
                tracing::error!(container = container.id, %error, "its limits are left");
            }
            let kind = ContainerEventType::ContainerDeletedEvent;
            self.tell(&container.name.pod, &container.id, kind);
        }
        if let Ok(Some(pod)) = self.pods.find(id) {
            let status = views::pod_message(&pod);
            self.pods.remove(&pod.id);
            self.observed.forget(&pod.id);
            self.events.tell(|| ContainerEventResponse {
                container_id: pod.id.clone(),
                container_event_type: ContainerEventType::ContainerDeletedEvent.into(),
                created_at: now(),
                pod_sandbox_status: Some(status),
                containers_statuses: views::container_messages(self, &pod.id, Sight::Present),
            });
        }
    }

    fn tell(&self, pod: &str, id: &str, kind: ContainerEventType) {
        self.events.tell(|| {
            let pod_status = self.pods.find(pod).ok().flatten();
            ContainerEventResponse {
                container_id: id.to_owned(),
                container_event_type: kind.into(),
                created_at: now(),
                pod_sandbox_status: pod_status.map(|pod| views::pod_message(&pod)),
                containers_statuses: views::container_messages(self, pod, Sight::Present),
            }
        });
    }

    /// Knows what a daemon before this one has known, until Docker is asked.
    pub(crate) fn remember(&self, pods: Vec<Pod>, containers: Vec<Container>) {
        let mut told = self.told();
        for pod in pods.into_iter().map(Arc::new) {
            told.pod(&pod);
            self.pods.put(pod.name.clone(), &pod.id, Arc::clone(&pod));
        }
        for container in containers.into_iter().map(Arc::new) {
            told.container(&container);
            self.containers.put(
                container.name.clone(),
                &container.id,
                Arc::clone(&container),
            );
        }
        self.dockerd.remember();
    }

    /// What is known, all at one moment.
    pub(crate) fn everything(&self) -> Everything {
        let _told = self.told();
        let by_id = |pod: Arc<Pod>| (pod.id.clone(), pod);
        let pods = self.pods.all().into_iter().map(by_id).collect();
        let by_id = |container: Arc<Container>| (container.id.clone(), container);
        let containers = self.containers.all().into_iter().map(by_id).collect();
        Everything { pods, containers }
    }

    /// Goes on with the logs of containers that are remembered to run, as it would without a restart.
    pub(crate) async fn attend_remembered(&self) {
        for container in self.containers.all() {
            if container.state.is_running() {
                let _turn = self.turns.alone(&container.id).await;
                self.logs.attend(&container).await;
            }
        }
    }

    /// Waits until something is known, however long that takes.
    pub(crate) async fn until(&self, known: impl Fn() -> bool) {
        let mut changes = self.changes.subscribe();
        while !known() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Holds the name of a pod that is being made.
    ///
    /// # Errors
    ///
    /// [`Kind::AlreadyExists`] where there is one, or one is being made.
    pub(crate) fn make(&self, name: &PodName) -> Result<Making> {
        let _told = self.told();
        let making = self.makings.begin(name).ok_or_else(|| {
            Error::already_exists(format!(
                "pod {name} is being made; wait for that, or use the next attempt number"
            ))
        })?;
        if let Some(pod) = self.pods.named(name) {
            return Err(Error::already_exists(format!(
                "pod {name} exists already as {}; remove it first or use the next attempt number",
                pod.id
            )));
        }
        Ok(making)
    }
}

/// What has become of something that Docker was asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It is known as it is now, and if it is gone, that is known.
    Known,
    /// A pod that somebody is making.
    Making,
    /// A pod that nobody makes any more, and that is not complete.
    HalfMade,
}

/// Where the network keeps what each pod was attached with.
pub(crate) fn cni(root: &Path) -> PathBuf {
    root.join("cni")
}

/// Where the pods' checkpoints are.
pub(crate) fn checkpoints(root: &Path) -> PathBuf {
    root.join("pods")
}

/// Where updated limits are.
pub(crate) fn limits(root: &Path) -> PathBuf {
    root.join("limits")
}

/// Where it is written what Docker has.
pub(crate) fn known(root: &Path) -> PathBuf {
    root.join("known.redb")
}

/// Where it is noted how far logs are written.
pub(crate) fn logs(root: &Path) -> PathBuf {
    root.join("logs")
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
