//! Making, starting, stopping and removing containers.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oci_spec::image::ImageConfiguration;
use slipway_cdi::Edits;
use slipway_cgroup::{Cgroup, CgroupPath};
use slipway_cri_api::v1::{self, ContainerConfig, ContainerEventType};
use slipway_engine::{
    ContainerExit, ContainerName, ContainerState, Error, Result, blocking, new_id, signal,
};
use slipway_shim::protocol::{
    Create, Failure, FailureKind, Overlay, SECCOMP_PROGRAM, UserMappings,
};
use slipway_shim::{Placeholder, Shim};
use tracing::{Instrument as _, trace_span};

use crate::container::Container;
use crate::layers::HeldLayers;
use crate::node::{Node, now};
use crate::pod::{Pod, PodState};
use crate::sandbox::{hostname_of, remove_directory};
use crate::spec::{self, Confinement, Plan};
use crate::store::ContainerRecord;
use crate::volumes::ImageVolumes;
use crate::{events, failure, target, user};

/// How long a process may take to die of SIGKILL: one that waits for a disk or a network file
/// system in the kernel can take any time.
const KILL_DEADLINE: Duration = Duration::from_mins(1);

/// Makes a container; on an error nothing of it is left.
pub(crate) async fn create(
    node: &Arc<Node>,
    pod: &str,
    mut config: ContainerConfig,
) -> Result<String> {
    let pod = node.pods.get(pod)?;
    let _gate = pod.gate.read().await;
    let shim = pod.shim()?;
    let name = ContainerName::of(pod.id(), &config)?;
    spec::check_container(&pod.record.config, &config)?;
    slipway_resources::check_container(&node.hierarchy, &config)?;
    let target = target::of(node, &pod, &config)?;
    let image = config
        .image
        .as_ref()
        .map(|image| image.image.as_str())
        .unwrap_or_default();
    if image.is_empty() {
        return Err(Error::invalid("ContainerConfig.image.image is empty"));
    }
    let id = new_id()?;
    let reservation = node.containers.reserve(name, &id)?;
    let held = node
        .images
        .hold(image)
        .map_err(|error| failure::of_image(&error))?;
    let mut layers = HeldLayers::taken(&node.images, held.chain_ids.clone());
    let volumes = ImageVolumes::hold(&node.images, &mut config.mounts, &mut layers)?;
    let mut record = ContainerRecord {
        id: id.clone(),
        pod: pod.id().to_owned(),
        created_at: now(),
        image_id: held.image.id.clone(),
        image_ref: held.image.reference().to_owned(),
        chain_ids: held.chain_ids.clone(),
        volume_chain_ids: volumes.chain_ids.clone(),
        cgroup: node
            .cgroups
            .of_container(&pod.cgroup, &id)?
            .as_str()
            .to_owned(),
        config,
        ..ContainerRecord::default()
    };
    let made = async {
        record.stop_signal = stop_signal(&record.config, &held.config)?;
        let made = Make {
            node: Arc::clone(node),
            pod: Arc::clone(&pod),
            record: record.clone(),
            image: held.config,
            layers: held.layers,
            volumes,
            target,
        };
        let resolved = made.resolve().await?;
        spec::check_user(&pod.record.config, &resolved.user)?;
        record.uid = resolved.user.uid;
        record.gid = resolved.user.gid;
        record.groups.clone_from(&resolved.user.groups);
        node.store.put_container(record.clone()).await?;
        let prepared = made
            .prepare(resolved)
            .instrument(trace_span!(target: "otel", "prepare container"));
        let (request, placeholder) = prepared.await?;
        let created = shim
            .create(request)
            .instrument(trace_span!(target: "otel", "create container"))
            .await;
        drop(placeholder);
        created.map_err(|error| failure::of_create(&error, &node.writable(&id)))
    };
    if let Err(error) = made.await {
        if let Err(left) = undo(node, &record, Some(&shim)).await {
            tracing::error!(container = id, error = %left, "a container is not wholly undone");
            // Listed, so that a kubelet removes it once that is possible.
            let exit = ContainerExit::start_error(now(), format!("{error}; {left}"));
            let state = ContainerState::Exited(exit);
            pod.add_container(&id);
            reservation.fill(Arc::new(Container::new(
                record,
                Arc::clone(&pod),
                Some(layers),
                state,
                &node.metrics,
            )));
        }
        return Err(error);
    }
    let state = ContainerState::Created;
    let container = Arc::new(Container::new(
        record,
        Arc::clone(&pod),
        Some(layers),
        state,
        &node.metrics,
    ));
    pod.add_container(&id);
    let kind = ContainerEventType::ContainerCreatedEvent;
    events::tell(node, &pod, &id, kind, || {
        reservation.fill(Arc::clone(&container));
        true
    });
    // What was told before the container could be found is asked for: its end, or its shim's.
    for record in shim.list().await.unwrap_or_default() {
        if record.container == id {
            container.follow(node, &record).await;
        }
    }
    if !matches!(pod.state(), PodState::Ready { .. }) {
        crate::sandbox::lose_containers(node, &pod, "the pod's slipway-shim was killed").await;
    }
    Ok(id)
}

/// What the blocking part of making a container works on.
struct Make {
    node: Arc<Node>,
    pod: Arc<Pod>,
    record: ContainerRecord,
    image: ImageConfiguration,
    layers: Vec<PathBuf>,
    volumes: ImageVolumes,
    target: Option<Arc<Container>>,
}

/// What is looked up for a container, and can be refused, before anything is made.
struct Resolved {
    /// Who its process is.
    user: user::User,
    confinement: Confinement,
    /// What its CDI devices need.
    cdi: Edits,
}

impl Make {
    async fn resolve(&self) -> Result<Resolved> {
        let image_user = self
            .image
            .config()
            .as_ref()
            .and_then(|config| config.user().clone());
        let (pod, config) = (Arc::clone(&self.pod), self.record.config.clone());
        let (node, layers) = (Arc::clone(&self.node), self.layers.clone());
        blocking::run(move || {
            let mut user = user::resolve(
                image_user.as_deref().unwrap_or_default(),
                &spec::security(&config),
                &layers,
            )?;
            let cdi = spec::resolve_cdi(&node.reloaded().config, &config)?;
            for group in cdi.additional_gids() {
                if !user.groups.contains(group) {
                    user.groups.push(*group);
                }
            }
            Ok(Resolved {
                user,
                confinement: spec::confine(pod.id(), &pod.record.config, &config)?,
                cdi,
            })
        })
        .await
    }

    async fn prepare(self, resolved: Resolved) -> Result<(Create, Option<Placeholder>)> {
        blocking::run(move || self.prepare_blocking(&resolved)).await
    }

    fn prepare_blocking(self, resolved: &Resolved) -> Result<(Create, Option<Placeholder>)> {
        let Resolved {
            user,
            confinement,
            cdi,
        } = resolved;
        let Self {
            node,
            pod,
            record,
            image,
            layers,
            volumes,
            target,
        } = self;
        let reloaded = node.reloaded();
        let runtime = reloaded.handlers.runtime(&pod.record.handler)?.cloned();
        let mut runtime = runtime.map(Box::new);
        let bundle = node.bundle(pod.id(), &record.id);
        let rootfs = bundle.join("rootfs");
        let writable = node.writable(&record.id);
        let (upper, work) = (writable.join("upper"), writable.join("work"));
        for directory in [&rootfs, &upper, &work] {
            fs::create_dir_all(directory).map_err(|error| failure::of_io(directory, &error))?;
        }
        let users = spec::user_mappings(&pod.record.config);
        if let Some(top) = layers.last() {
            copy_owner_and_mode(top, &upper, users.as_ref())
                .map_err(|error| failure::of_io(&upper, &error))?;
        }
        let cgroup = cgroup_path(&record)?;
        let limits = slipway_resources::of_container(&record.config, reloaded.config.pids_limit);
        let mut generated = spec::generate(&Plan {
            config: &reloaded.config,
            pod: &pod.record.config,
            pod_directory: &pod.directory,
            hostname: &hostname_of(&pod.record),
            container: &record.config,
            image: &image,
            cdi,
            volumes: &volumes,
            user,
            confinement,
            rootfs: &rootfs,
            cgroups: node.hierarchy.version(),
            cgroup: &cgroup,
            resources: &limits,
            target: target.as_ref().and_then(|target| target.pid()),
        })?;
        // What the runtime asks systemd for itself.
        let asked = runtime.as_ref().and(node.cgroups.of_runtime(&cgroup));
        if let (Some(asked), Some(runtime)) = (&asked, &mut runtime) {
            runtime.options.push("--systemd-cgroup".to_owned());
            if let Some(linux) = generated.spec.linux_mut() {
                linux.set_cgroups_path(Some(PathBuf::from(asked)));
            }
        }
        let path = bundle.join("config.json");
        generated
            .spec
            .save(&path)
            .map_err(|error| Error::internal(format!("{}: {error}", path.display())))?;
        if let Some(seccomp) = &confinement.seccomp {
            let path = bundle.join(SECCOMP_PROGRAM);
            fs::write(&path, &seccomp.program).map_err(|error| failure::of_io(&path, &error))?;
        }
        confinement.label_files(&pod.directory, &record.config.mounts)?;

        let (cgroup, placeholder) = if asked.is_some() {
            (node.hierarchy.open(&cgroup), None)
        } else {
            node.cgroups
                .create(&node.launcher, &cgroup, &limits, &generated.devices)
                .map_err(|error| error.by_field("LinuxContainerConfig.resources"))?
        };
        let request = Create {
            container: record.id.clone(),
            rootfs: Overlay {
                lower: layers,
                upper,
                work,
                label: confinement.mount_label().map(str::to_owned),
            },
            cgroups: cgroup.directories(),
            oom_events: cgroup.oom_events(),
            log: log_path(&pod, &record.config),
            terminal: record.config.tty,
            stdin: record.config.stdin,
            runtime,
            target: target.map(|target| target.id().to_owned()),
            bundle,
        };
        Ok((request, placeholder))
    }
}

/// An overlay shows its upper directory's own owner and mode for `/`. The layers show their owners
/// as the pod's users are mapped; the upper directory is not mapped.
fn copy_owner_and_mode(from: &Path, to: &Path, users: Option<&UserMappings>) -> io::Result<()> {
    let metadata = fs::metadata(from)?;
    let owner = (metadata.uid(), metadata.gid());
    let (uid, gid) = users
        .and_then(|users| users.on_node(owner.0, owner.1).or(users.root()))
        .unwrap_or(owner);
    std::os::unix::fs::chown(to, Some(uid), Some(gid))?;
    fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777))
}

/// Where a container's log is, when it has one (CRI `log_directory`, `log_path`).
pub(crate) fn log_path(pod: &Pod, config: &ContainerConfig) -> Option<PathBuf> {
    let directory = &pod.record.config.log_directory;
    if directory.is_empty() || config.log_path.is_empty() {
        return None;
    }
    Some(Path::new(directory).join(&config.log_path))
}

fn stop_signal(config: &ContainerConfig, image: &ImageConfiguration) -> Result<i32> {
    match v1::Signal::try_from(config.stop_signal) {
        Ok(v1::Signal::RuntimeDefault) => {
            let image = image
                .config()
                .as_ref()
                .and_then(|config| config.stop_signal().clone());
            // An image that names no signal that exists is stopped like any other.
            Ok(image
                .and_then(|name| signal::parse(&name))
                .unwrap_or(signal::SIGTERM))
        }
        Ok(asked) => signal::parse(asked.as_str_name()).ok_or_else(|| {
            Error::invalid(format!(
                "stop_signal {} has no number here",
                asked.as_str_name()
            ))
        }),
        Err(_) => Err(Error::invalid(format!(
            "stop_signal {} is unknown",
            config.stop_signal
        ))),
    }
}

fn cgroup_path(record: &ContainerRecord) -> Result<CgroupPath> {
    CgroupPath::parse(&record.cgroup).map_err(|error| {
        Error::data_loss(format!("the record of container {}: {error}", record.id))
    })
}

/// A container's cgroup; it may be gone.
pub(crate) fn cgroup(node: &Node, container: &Container) -> Result<Cgroup> {
    Ok(node.hierarchy.open(&cgroup_path(&container.record)?))
}

/// Kills every process of a container by its cgroup, without a shim, and waits until they are gone.
pub(crate) async fn kill_cgroup(node: &Node, container: &Container) -> Result<()> {
    let cgroup = cgroup(node, container)?;
    blocking::run(move || {
        if cgroup.exists() {
            cgroup
                .kill()
                .and_then(|()| cgroup.remove())
                .map_err(|error| failure::of_cgroup(&error))?;
        }
        Ok(())
    })
    .await
}

/// Executes a created container's process.
pub(crate) async fn start(node: &Arc<Node>, id: &str) -> Result<()> {
    let container = node.containers.get(id)?;
    let _pod = container.pod.gate.read().await;
    let _gate = container.gate.lock().await;
    container.state().started(now()).map_err(|error| {
        error.context(format!("container {} cannot be started", container.id()))
    })?;
    let shim = container.pod.shim()?;
    let span = trace_span!(target: "otel", "start container");
    // The answer may be heard long after its process has begun to use the processor.
    container.observed.begin(Instant::now());
    match shim.start(container.id()).instrument(span).await {
        Ok(started_at) => {
            container.set_started(node, started_at);
            Ok(())
        }
        Err(error) => {
            match &error {
                slipway_shim::Error::Failure(Failure {
                    kind: FailureKind::Invalid | FailureKind::System,
                    ..
                }) => {
                    let exit = ContainerExit::start_error(now(), error.to_string());
                    container.set_exited(node, exit).await;
                }
                // Nobody executed anything now; what the shim knows is what is so.
                _ => {
                    for record in shim.list().await.unwrap_or_default() {
                        if record.container == container.id() {
                            container.follow(node, &record).await;
                        }
                    }
                }
            }
            Err(failure::of_shim(&error))
        }
    }
}

/// Sends the stop signal, then SIGKILL when `timeout` seconds have passed.
pub(crate) async fn stop(node: &Arc<Node>, id: &str, timeout: i64) -> Result<()> {
    let Some(container) = node.containers.find(id)? else {
        return Ok(());
    };
    let running = match container.state() {
        ContainerState::Exited(_) => return Ok(()),
        ContainerState::Running { .. } => true,
        // Nothing runs in it that could hear a signal.
        ContainerState::Created => false,
    };
    let grace = u64::try_from(timeout).unwrap_or(0);
    if running && grace > 0 {
        let signal = container.record.stop_signal;
        signal_container(node, &container, signal, false).await?;
        let grace = Duration::from_secs(grace);
        if tokio::time::timeout(grace, container.exited())
            .await
            .is_ok()
        {
            return Ok(());
        }
    }
    kill(node, &container).await
}

/// Kills a container and waits for its end.
async fn kill(node: &Arc<Node>, container: &Container) -> Result<()> {
    signal_container(node, container, signal::SIGKILL, true).await?;
    await_exit(container).await
}

async fn signal_container(
    node: &Arc<Node>,
    container: &Container,
    signal: i32,
    all: bool,
) -> Result<()> {
    match container.pod.any_shim() {
        Some(shim) => match shim.kill(container.id(), signal, all).await {
            // Where the shim has gone, the end is on its way: whoever follows it tells.
            Ok(()) | Err(slipway_shim::Error::Gone { .. }) => Ok(()),
            Err(error) => Err(failure::of_shim(&error)),
        },
        None => kill_cgroup(node, container).await,
    }
}

/// Waits for the end of a container that was sent SIGKILL.
pub(crate) async fn await_exit(container: &Container) -> Result<()> {
    let exited = container
        .exited()
        .instrument(trace_span!(target: "otel", "await exit"));
    tokio::time::timeout(KILL_DEADLINE, exited).await.map_err(|_| {
        Error::deadline(format!(
            "container {} has not ended {} s after SIGKILL: a process of it is probably stuck in \
             the kernel (state D in ps), waiting for a disk or a network file system",
            container.id(),
            KILL_DEADLINE.as_secs()
        ))
    })
}

/// Removes a container and its writable layer.
pub(crate) async fn remove(node: &Arc<Node>, id: &str) -> Result<()> {
    let Some(container) = node.containers.find(id)? else {
        return Ok(());
    };
    let _gate = container.gate.lock().await;
    if node.containers.find(container.id())?.is_none() {
        return Ok(());
    }
    if !matches!(container.state(), ContainerState::Exited(_)) {
        kill(node, &container).await?;
    }
    let shim = container.pod.any_shim();
    clean(node, &container.record, &container.pod, shim.as_ref()).await?;
    container.forget(node).await?;
    let kind = ContainerEventType::ContainerDeletedEvent;
    events::tell(node, &container.pod, container.id(), kind, || {
        container.pod.remove_container(container.id());
        node.containers.remove(container.id());
        true
    });
    container.release_layers();
    Ok(())
}

/// Undoes a container that was being made.
pub(crate) async fn undo(node: &Node, record: &ContainerRecord, shim: Option<&Shim>) -> Result<()> {
    let pod = node.pods.find(&record.pod)?;
    if let Some(pod) = pod {
        clean(node, record, &pod, shim).await?;
    }
    node.store.delete_container(&record.id).await
}

/// Removes what a container has beside its record: safe to repeat.
async fn clean(
    node: &Node,
    record: &ContainerRecord,
    pod: &Pod,
    shim: Option<&Shim>,
) -> Result<()> {
    let deleted = match shim {
        None => false,
        Some(shim) => match shim.delete(&record.id).await {
            Ok(()) => true,
            Err(slipway_shim::Error::Gone { .. }) => false,
            Err(error) => return Err(failure::of_shim(&error)),
        },
    };
    let cgroup = node.hierarchy.open(&cgroup_path(record)?);
    let killed = cgroup.clone();
    if !deleted {
        blocking::run(move || {
            if killed.exists() {
                killed.kill().map_err(|error| failure::of_cgroup(&error))?;
            }
            Ok(())
        })
        .await?;
    }
    let handler = &pod.record.handler;
    let reloaded = node.reloaded();
    let forgotten = reloaded
        .handlers
        .forget(&node.state, handler, &record.id)
        .await;
    if let Err(error) = forgotten {
        tracing::error!(container = record.id, %error, "a runtime's state is left");
    }
    let beside = node.hierarchy.beside(cgroup.path());
    let cgroups = Arc::clone(&node.cgroups);
    let bundle = node.bundle(&record.pod, &record.id);
    let writable = node.writable(&record.id);
    blocking::run(move || {
        cgroups.remove(&cgroup)?;
        if let Some(beside) = beside {
            // A runtime that was killed has left it; none of the container's processes is left.
            let _ = fs::remove_dir(beside);
        }
        remove_directory(&bundle)?;
        remove_directory(&writable)
    })
    .await
}
