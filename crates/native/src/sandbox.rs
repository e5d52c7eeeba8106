//! Making, stopping and removing pods.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use slipway_cgroup::CgroupPath;
use slipway_cri_api::v1::{ContainerEventType, DnsConfig, NamespaceMode, PodSandboxConfig};
use slipway_engine::{
    ContainerExit, ContainerState, Error, OneOf, PodName, Result, blocking, new_id,
    resolver_configuration, signal,
};
use slipway_network::Attachment;
use slipway_shim::Shim;
use slipway_shim::protocol::{Event, Pod as ShimPod, Record, UserMappings};
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::{Instrument as _, trace_span};

use crate::node::{Node, now};
use crate::pod::{Pod, PodState};
use crate::spec::{check_pod, pod_namespaces, user_mappings};
use crate::store::{PodPhase, PodRecord};
use crate::{events, failure, lifecycle, update};

/// What the peers give to `/dev/shm`.
const SHM_BYTES: u64 = 64 * 1024 * 1024;

/// How long a shim may take to end once it was told to.
const SHIM_DEADLINE: Duration = Duration::from_secs(30);

/// Makes a pod; on an error nothing of it is left.
pub(crate) async fn run(
    node: &Arc<Node>,
    config: PodSandboxConfig,
    handler: String,
) -> Result<String> {
    let name = PodName::of(&config)?;
    node.reloaded().handlers.check_pod(&handler, &config)?;
    check_pod(&config)?;
    slipway_resources::check_pod(&node.hierarchy, &config)?;
    let cgroup = cgroup_of(node, &config)?;
    if user_mappings(&config).is_some() {
        let node = Arc::clone(node);
        blocking::run(move || node.user_namespaces.require(&node.launcher, &node.root)).await?;
    }
    let id = new_id()?;
    let reservation = node.pods.reserve(name, &id)?;
    let cgroup = match cgroup {
        Some(cgroup) => cgroup,
        None => node.cgroups.of_pod(&id)?,
    };
    let mut record = PodRecord {
        cgroups: missing(node, &cgroup),
        id: id.clone(),
        config,
        handler,
        created_at: now(),
        phase: PodPhase::Starting.into(),
        addresses: Vec::new(),
        boot: node.boot.clone(),
        update: None,
        cgroup: cgroup.as_str().to_owned(),
    };
    node.store.put_pod(record.clone()).await?;
    match build(node, &mut record, &cgroup).await {
        Ok((shim, addresses, containers, events)) => {
            let directory = node.pod_directory(&id);
            let state = PodState::Ready { shim, addresses };
            let metrics = &node.metrics;
            let pod = Arc::new(Pod::new(record, directory, cgroup, state, metrics));
            events::tell(
                node,
                &pod,
                &id,
                ContainerEventType::ContainerCreatedEvent,
                || {
                    reservation.fill(Arc::clone(&pod));
                    true
                },
            );
            events::tell(
                node,
                &pod,
                &id,
                ContainerEventType::ContainerStartedEvent,
                || true,
            );
            follow(node, &pod, containers, events);
            Ok(id)
        }
        Err(error) => {
            if let Err(left) = undo(node, &record).await {
                tracing::error!(pod = id, error = %left, "a pod that failed is not wholly undone");
                let broken = keep_broken(node, record, cgroup).await?;
                reservation.fill(broken);
            }
            Err(error)
        }
    }
}

type Built = (Shim, Vec<IpAddr>, Vec<Record>, UnboundedReceiver<Event>);

async fn build(node: &Arc<Node>, record: &mut PodRecord, cgroup: &CgroupPath) -> Result<Built> {
    let directory = node.pod_directory(&record.id);
    let namespaces = pod_namespaces(&record.config);
    let host_network = namespaces.network == NamespaceMode::Node as i32;
    let host_ipc = namespaces.ipc == NamespaceMode::Node as i32;
    let hostname = hostname(&record.config);
    let user = user_mappings(&record.config);
    let files = (
        directory.clone(),
        hostname.clone(),
        record.config.dns_config.clone(),
        user.as_ref().and_then(UserMappings::root),
    );
    let (cgroups, parent) = (Arc::clone(&node.cgroups), cgroup.clone());
    blocking::run(move || {
        let (directory, hostname, dns, owner) = files;
        write_files(&directory, &hostname, dns.as_ref(), owner)
            .map_err(|error| failure::of_io(&directory, &error))?;
        cgroups.create_parent(&parent)
    })
    .await?;

    let sysctls = record
        .config
        .linux
        .as_ref()
        .map(|linux| linux.sysctls.clone());
    let shim = node
        .launcher
        .launch(&ShimPod {
            id: record.id.clone(),
            directory,
            network: !host_network,
            ipc: !host_ipc,
            hostname: (!host_network).then_some(hostname),
            shared_pid: namespaces.pid == NamespaceMode::Pod as i32,
            shm_size: (!host_ipc).then_some(SHM_BYTES),
            sysctls: sysctls.unwrap_or_default().into_iter().collect(),
            user,
        })
        .instrument(trace_span!(target: "otel", "start shim"))
        .await
        .map_err(|error| failure::of_shim(&error))?;
    let (containers, events) = shim
        .subscribe()
        .await
        .map_err(|error| failure::of_shim(&error))?;

    let addresses = if host_network {
        Vec::new()
    } else {
        let attached = node
            .network
            .add(&attachment(node, record))
            .instrument(trace_span!(target: "otel", "attach network"))
            .await
            .map_err(|error| failure::of_network(&error))?;
        attached.ips
    };
    record.phase = PodPhase::Ready.into();
    record.addresses = addresses.iter().map(IpAddr::to_string).collect();
    node.store.put_pod(record.clone()).await?;
    Ok((shim, addresses, containers, events))
}

/// Hears what a pod's shim tells, until it ends. A shim that ends unasked takes its containers
/// with it.
pub(crate) fn follow(
    node: &Arc<Node>,
    pod: &Arc<Pod>,
    containers: Vec<Record>,
    mut events: UnboundedReceiver<Event>,
) {
    let (node, pod) = (Arc::clone(node), Arc::clone(pod));
    let shim = OneOf::new(&node.metrics.shims);
    tokio::spawn(async move {
        for record in containers {
            if let Ok(Some(container)) = node.containers.find(&record.container) {
                container.follow(&node, &record).await;
            }
        }
        while let Some(event) = events.recv().await {
            match event {
                Event::Started(record) | Event::Exited(record) => {
                    if let Ok(Some(container)) = node.containers.find(&record.container) {
                        container.follow(&node, &record).await;
                    }
                }
                Event::ExecExited { exec, exit } => pod.exec_ended(exec, exit),
            }
        }
        drop(shim);
        pod.abandon_execs();
        let kind = ContainerEventType::ContainerStoppedEvent;
        events::tell(&node, &pod, pod.id(), kind, || {
            let unasked = pod.lose_shim();
            if unasked {
                node.metrics.lost_shims.inc();
                tracing::error!(pod = pod.id(), "the pod's shim has ended unasked");
            }
            unasked
        });
        let message = "the pod's slipway-shim was killed; the container was killed with it";
        lose_containers(&node, &pod, message).await;
    });
}

/// Kills what is left of a pod's containers whose shim has gone, and records their end.
pub(crate) async fn lose_containers(node: &Arc<Node>, pod: &Pod, message: &str) {
    for id in pod.containers() {
        let Ok(Some(container)) = node.containers.find(&id) else {
            continue;
        };
        let state = container.state();
        if matches!(state, ContainerState::Exited(_)) {
            continue;
        }
        let started_at = match state {
            ContainerState::Running { started_at } => started_at,
            _ => 0,
        };
        if let Err(error) = lifecycle::kill_cgroup(node, &container).await {
            tracing::error!(container = id, %error, "processes of a lost container may be left");
        }
        container
            .set_exited(node, ContainerExit::unknown(started_at, now(), message))
            .await;
    }
}

/// Stops a pod: its containers are killed, its network is given back.
pub(crate) async fn stop(node: &Arc<Node>, id: &str) -> Result<()> {
    match node.pods.find(id)? {
        Some(pod) => {
            let _gate = pod.gate.write().await;
            stop_pod(node, &pod).await
        }
        None => Ok(()),
    }
}

async fn stop_pod(node: &Arc<Node>, pod: &Pod) -> Result<()> {
    if matches!(pod.state(), PodState::Stopped) {
        return Ok(());
    }
    let shim = pod.begin_stop();
    kill_containers(node, pod, shim.as_ref()).await?;
    release(node, &pod.record, shim).await?;
    let mut record = pod.current_record();
    record.phase = PodPhase::Stopped.into();
    node.store.put_pod(record).await?;
    let kind = ContainerEventType::ContainerStoppedEvent;
    events::tell(node, pod, pod.id(), kind, || {
        pod.end_stop();
        true
    });
    Ok(())
}

async fn kill_containers(node: &Arc<Node>, pod: &Pod, shim: Option<&Shim>) -> Result<()> {
    let mut running = Vec::new();
    for id in pod.containers() {
        let Some(container) = node.containers.find(&id)? else {
            continue;
        };
        if matches!(container.state(), ContainerState::Exited(_)) {
            continue;
        }
        if let Some(shim) = shim {
            let _ = shim.kill(&id, signal::SIGKILL, true).await;
        }
        running.push(container);
    }
    match shim {
        Some(_) => {
            for container in running {
                lifecycle::await_exit(&container).await?;
            }
        }
        None => {
            lose_containers(node, pod, "the pod was stopped after its shim had gone").await;
        }
    }
    Ok(())
}

/// Gives back what a pod holds beside its records and directories: network, shim, pinned
/// namespaces. Safe to repeat.
async fn release(node: &Node, record: &PodRecord, shim: Option<Shim>) -> Result<()> {
    if pod_namespaces(&record.config).network != NamespaceMode::Node as i32 {
        node.network
            .delete(&attachment(node, record))
            .instrument(trace_span!(target: "otel", "detach network"))
            .await
            .map_err(|error| failure::of_network(&error))?;
    }
    if let Some(shim) = shim {
        match shim.subscribe().await {
            Ok((_, mut events)) => {
                let end = async {
                    let _ = shim.shutdown().await;
                    // The channel ends with the connection, and that with the process.
                    while events.recv().await.is_some() {}
                };
                let end = end.instrument(trace_span!(target: "otel", "end shim"));
                if tokio::time::timeout(SHIM_DEADLINE, end).await.is_err() {
                    tracing::error!(
                        pod = record.id,
                        pid = shim.pid(),
                        "killing a shim that hangs"
                    );
                    kill_shim(&shim);
                }
            }
            Err(error) => tracing::debug!(pod = record.id, %error, "the shim had gone"),
        }
    }
    let directory = node.pod_directory(&record.id);
    blocking::run(move || unpin(&directory)).await
}

fn kill_shim(shim: &Shim) {
    if let Some(pid) = rustix::process::Pid::from_raw(shim.pid()) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Unmounts what a shim has pinned in a pod's directory. Blocking.
pub(crate) fn unpin(directory: &Path) -> Result<()> {
    for name in ["ns/net", "ns/ipc", "ns/uts", "ns/pid", "ns/user", "shm"] {
        let path = directory.join(name);
        match unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // Not there, or no mount point: there is nothing to give back.
            Ok(()) | Err(Errno::NOENT | Errno::INVAL | Errno::NOTDIR) => {}
            Err(error) => {
                return Err(Error::internal(format!(
                    "{} cannot be unmounted: {error}",
                    path.display()
                )));
            }
        }
    }
    Ok(())
}

/// Removes a pod and its containers.
pub(crate) async fn remove(node: &Arc<Node>, id: &str) -> Result<()> {
    let Some(pod) = node.pods.find(id)? else {
        return Ok(());
    };
    let _gate = pod.gate.write().await;
    stop_pod(node, &pod).await?;
    for container in pod.containers() {
        lifecycle::remove(node, &container).await?;
    }
    forget(node, &pod.record).await?;
    let kind = ContainerEventType::ContainerDeletedEvent;
    events::tell(node, &pod, pod.id(), kind, || {
        node.pods.remove(pod.id());
        true
    });
    Ok(())
}

/// Undoes a pod that was being made.
pub(crate) async fn undo(node: &Node, record: &PodRecord) -> Result<()> {
    let shim = Shim::connect(&node.pod_directory(&record.id)).await.ok();
    release(node, record, shim).await?;
    forget(node, record).await
}

/// Makes a pod of what could not be undone: not ready, but listed, so that a kubelet stops and
/// removes it once that is possible.
pub(crate) async fn keep_broken(
    node: &Node,
    mut record: PodRecord,
    cgroup: CgroupPath,
) -> Result<Arc<Pod>> {
    record.phase = PodPhase::Ready.into();
    node.store.put_pod(record.clone()).await?;
    let directory = node.pod_directory(&record.id);
    let shim = Shim::connect(&directory).await.ok();
    let state = PodState::Broken { shim };
    let metrics = &node.metrics;
    Ok(Arc::new(Pod::new(
        record, directory, cgroup, state, metrics,
    )))
}

/// Removes a released pod's directory, cgroups and record.
async fn forget(node: &Node, record: &PodRecord) -> Result<()> {
    let directory = node.pod_directory(&record.id);
    let cgroups: Vec<_> = record
        .cgroups
        .iter()
        .rev()
        .filter_map(|path| CgroupPath::parse(path).ok())
        .collect();
    let driver = Arc::clone(&node.cgroups);
    let own = !update::names_parent(&record.config);
    blocking::run(move || {
        remove_directory(&directory)?;
        for cgroup in &cgroups {
            driver.remove_parent(cgroup, own);
        }
        Ok(())
    })
    .await?;
    node.store.delete_pod(&record.id).await
}

/// Removes a directory with all that is in it; one that is not there is fine. Blocking.
pub(crate) fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::internal(format!(
            "{} cannot be removed: {error}",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// The cgroup that a pod's configuration names.
fn cgroup_of(node: &Node, config: &PodSandboxConfig) -> Result<Option<CgroupPath>> {
    let parent = config
        .linux
        .as_ref()
        .map(|linux| linux.cgroup_parent.as_str());
    match parent {
        None | Some("") => Ok(None),
        Some(parent) => node.cgroups.named(parent).map(Some).map_err(|error| {
            Error::invalid(format!(
                "LinuxPodSandboxConfig.cgroup_parent {parent:?}: {error}"
            ))
        }),
    }
}

/// The cgroup of a pod, as its record says.
pub(crate) fn recorded_cgroup(record: &PodRecord) -> Result<CgroupPath> {
    CgroupPath::parse(&record.cgroup)
        .map_err(|error| Error::data_loss(format!("the record of pod {}: {error}", record.id)))
}

/// The cgroups on the way to `path` that are not there yet, the outermost first; what all pods
/// without a parent share stays.
fn missing(node: &Node, path: &CgroupPath) -> Vec<String> {
    let mut missing = Vec::new();
    let mut next = Some(path.clone());
    while let Some(path) = next.filter(|path| !path.is_root()) {
        if path == *node.cgroups.parent() || node.hierarchy.open(&path).exists() {
            break;
        }
        missing.insert(0, path.as_str().to_owned());
        next = path.parent();
    }
    missing
}

fn hostname(config: &PodSandboxConfig) -> String {
    if config.hostname.is_empty() {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    } else {
        config.hostname.clone()
    }
}

/// The name that a pod's processes see.
pub(crate) fn hostname_of(record: &PodRecord) -> String {
    hostname(&record.config)
}

/// `owner` is the pod's root, user and group, where that is not the node's.
fn write_files(
    directory: &Path,
    hostname: &str,
    dns: Option<&DnsConfig>,
    owner: Option<(u32, u32)>,
) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory.join("containers"))?;
    write_for_all(&directory.join("hostname"), &format!("{hostname}\n"))?;
    let resolver = match dns.map(resolver_configuration) {
        Some(resolver) if !resolver.is_empty() => resolver,
        _ => match fs::read_to_string("/etc/resolv.conf") {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        },
    };
    write_for_all(&directory.join("resolv.conf"), &resolver)?;
    for file in ["hostname", "resolv.conf"] {
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::chown(directory.join(file), Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

/// Writes a file that a container's users may read, whatever the daemon's umask is.
fn write_for_all(path: &Path, content: &str) -> io::Result<()> {
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

/// What a pod's network plugins are told.
pub(crate) fn attachment(node: &Node, record: &PodRecord) -> Attachment {
    Attachment {
        cgroup_path: recorded_cgroup(record)
            .ok()
            .map(|path| path.as_str().to_owned()),
        ..Attachment::of_pod(
            &record.id,
            &record.config,
            node.pod_directory(&record.id).join("ns/net"),
        )
    }
}
