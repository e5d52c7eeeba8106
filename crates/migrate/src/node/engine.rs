//! What only the Docker Engine has: containers that no kubelet owns, images that were built here,
//! volumes. Asked over its socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{
    ContainerSummary, ContainerSummaryStateEnum, ImageSummary, LocalNodeState, Network, SystemInfo,
    Volume,
};
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, ListNetworksOptions, ListVolumesOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use tokio::time::timeout;

use super::Facts;
use super::look::Look;
use crate::Evidence;
use crate::host::DockerNetwork;
use crate::rules;

/// Listing a few hundred containers on a busy node takes no longer.
const PATIENCE: Duration = Duration::from_mins(1);

/// What dockershim and cri-dockerd put on all containers of theirs.
const OWNED: [&str; 2] = ["io.kubernetes.docker.type", "io.kubernetes.pod.uid"];

/// The bridge between a swarm's containers and their node, and the network that it is of.
const SWARM: &str = "docker_gwbridge";

/// The API of the oldest Docker that cri-dockerd works with, from its version 0.3.12 on.
const CRI_DOCKERD_WANTS: (u32, u32) = (1, 42);

/// All that an engine said of itself.
struct Inventory {
    info: SystemInfo,
    containers: Vec<ContainerSummary>,
    images: Vec<ImageSummary>,
    volumes: Vec<Volume>,
}

pub(super) async fn check(look: &mut Look<'_>, facts: &Facts) {
    let Some(docker) = &facts.runtimes.docker else {
        return;
    };
    let Some(socket) = socket(look, docker) else {
        let has_data = ["/var/lib/docker/containers".to_string()]
            .into_iter()
            .chain(docker.data_root().map(|root| format!("{root}/containers")))
            .any(|path| look.root.list(path).is_ok_and(|names| !names.is_empty()));
        if docker.process.is_some() || has_data {
            look.report.miss(
                "Docker's containers, images and volumes",
                "dockerd has no socket at /run/docker.sock",
                "start Docker, and look again",
            );
        }
        return;
    };
    match timeout(PATIENCE, ask(&socket)).await {
        Ok(Ok(inventory)) => judge(look, &inventory),
        Ok(Err(error)) => look.report.miss(
            "Docker's containers, images and volumes",
            format!("{}: {error}", socket.display()),
            "start Docker, and run it as root",
        ),
        Err(_) => look.report.miss(
            "Docker's containers, images and volumes",
            format!("no answer at {} within {PATIENCE:?}", socket.display()),
            "look at Docker's own log",
        ),
    }
}

/// What a Docker Engine says of itself that nobody knows once it is stopped.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Where its data is.
    pub(crate) data_root: Option<String>,
    /// Networks whose bridges it has made.
    pub(crate) networks: Vec<DockerNetwork>,
}

/// What the one behind a socket says; what it does not say in time is not known.
pub(crate) async fn told(socket: &Path) -> Told {
    let Ok(docker) = connect(socket) else {
        return Told::default();
    };
    let info = timeout(PATIENCE, docker.info()).await;
    let networks = timeout(PATIENCE, docker.list_networks(None::<ListNetworksOptions>)).await;
    let data_root = info.ok().and_then(Result::ok);
    let data_root = data_root.and_then(|info| info.docker_root_dir);
    let networks = networks.ok().and_then(Result::ok).unwrap_or_default();
    Told {
        data_root: data_root.map(|path| without_remap(&path).to_string()),
        networks: networks.iter().filter_map(own_bridge).collect(),
    }
}

/// With userns-remap, dockerd says a directory of `UID.GID` in the one that it was given.
fn without_remap(path: &str) -> &str {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some((above, name)) if is_remapped(name) => above,
        _ => path,
    }
}

/// Whether it is called `UID.GID`, as what dockerd makes for userns-remap.
pub(crate) fn is_remapped(name: &str) -> bool {
    let is_number = |text: &str| text.parse::<u32>().is_ok();
    let ids = name.split_once('.');
    ids.is_some_and(|(uid, gid)| is_number(uid) && is_number(gid))
}

/// A network whose bridge Docker has made itself: it is called by the network's id, or it is a swarm's.
/// One that somebody has named may have been there before Docker was.
fn own_bridge(network: &Network) -> Option<DockerNetwork> {
    let (id, name) = (network.id.as_deref()?, network.name.clone()?);
    if network.driver.as_deref() != Some("bridge") || network.scope.as_deref() != Some("local") {
        return None;
    }
    let options = network.options.as_ref();
    let named = options.and_then(|options| options.get("com.docker.network.bridge.name"));
    let of_id = format!("br-{}", id.get(..12)?);
    let bridge = match named.map(String::as_str) {
        None | Some("") => of_id,
        Some(named) if named == of_id => of_id,
        Some(SWARM) if name == SWARM => SWARM.to_string(),
        Some(_) => return None,
    };
    // What Docker calls its first network is docker0, or what it was told to use.
    if name == "bridge" {
        return None;
    }
    let ranges = network.ipam.as_ref().and_then(|ipam| ipam.config.as_ref());
    let ranges = ranges.into_iter().flatten();
    Some(DockerNetwork {
        name,
        bridge,
        subnets: ranges.filter_map(|range| range.subnet.clone()).collect(),
    })
}

/// Where a Docker that runs should listen, and listens at no Unix socket that is found: on TCP alone, or
/// where its socket unit says.
pub(crate) fn missing_socket(look: &Look<'_>, facts: &Facts) -> Option<&'static str> {
    let docker = facts.runtimes.docker.as_ref()?;
    let is_hidden = docker.process.is_some() && socket(look, docker).is_none();
    is_hidden.then_some("/run/docker.sock")
}

/// Containers that run in Docker and are no kubelet's, by name; nobody where no Docker answers that
/// could have some. The other way round, why it cannot be told.
pub(crate) async fn strangers(look: &Look<'_>, facts: &Facts) -> Result<Vec<String>, String> {
    let docker = facts.runtimes.docker.as_ref();
    let Some(socket) = docker.and_then(|docker| socket(look, docker)) else {
        return Ok(Vec::new());
    };
    let asked = timeout(PATIENCE, running(&socket)).await;
    let asked = asked.map_err(|_| format!("no answer within {PATIENCE:?}"));
    let containers = asked.and_then(|asked| asked.map_err(|error| error.to_string()));
    let containers = containers.map_err(|why| format!("{}: {why}", socket.display()))?;
    let strangers = containers.iter().filter(|container| !is_owned(container));
    Ok(strangers.map(name_of).collect())
}

/// The Docker that answers, if its API is older than cri-dockerd wants.
pub(crate) async fn too_old_for_cri_dockerd(look: &Look<'_>, facts: &Facts) -> Option<String> {
    let docker = facts.runtimes.docker.as_ref()?;
    let socket = socket(look, docker)?;
    let docker = connect(&socket).ok()?;
    let version = timeout(PATIENCE, docker.version()).await.ok()?.ok()?;
    let api = version.api_version?;
    let (major, minor) = api.split_once('.')?;
    let is_old = (major.parse().ok()?, minor.parse().ok()?) < CRI_DOCKERD_WANTS;
    let name = version.version.unwrap_or_default();
    is_old.then(|| format!("Docker {name} (API {api})"))
}

async fn running(socket: &Path) -> Result<Vec<ContainerSummary>, bollard::errors::Error> {
    let docker = connect(socket)?;
    let options = ListContainersOptionsBuilder::default().build();
    docker.list_containers(Some(options)).await
}

/// The first Unix socket that it listens on.
pub(crate) fn socket(look: &Look<'_>, docker: &super::runtimes::Docker) -> Option<PathBuf> {
    let of_flags = docker
        .flags
        .iter()
        .filter(|flag| matches!(flag.name.as_str(), "H" | "host"));
    let of_flags = of_flags.map(|flag| flag.value.as_str());
    let of_file = docker
        .config
        .as_ref()
        .and_then(|config| config.node.get(&["hosts"]));
    let of_file = of_file.into_iter().flat_map(crate::document::Node::items);
    let of_file = of_file.filter_map(|node| node.text());
    let named = of_flags
        .chain(of_file)
        .filter_map(|host| host.strip_prefix("unix://"));
    let mut paths = named.chain(["/run/docker.sock", "/var/run/docker.sock"]);
    let path = paths.find(|path| look.root.has(path))?;
    look.root.resolve(path).ok()
}

fn connect(socket: &Path) -> Result<Docker, bollard::errors::Error> {
    let path = socket.to_string_lossy();
    Docker::connect_with_unix(&path, PATIENCE.as_secs(), API_DEFAULT_VERSION)
}

async fn ask(socket: &Path) -> Result<Inventory, bollard::errors::Error> {
    let docker = connect(socket)?;
    let all = ListContainersOptionsBuilder::default().all(true).build();
    let images = ListImagesOptionsBuilder::default().build();
    Ok(Inventory {
        info: docker.info().await?,
        containers: docker.list_containers(Some(all)).await?,
        images: docker.list_images(Some(images)).await?,
        volumes: docker
            .list_volumes(None::<ListVolumesOptions>)
            .await?
            .volumes
            .unwrap_or_default(),
    })
}

fn judge(look: &mut Look<'_>, inventory: &Inventory) {
    let state = inventory.info.swarm.as_ref();
    let state = state.and_then(|swarm| swarm.local_node_state);
    if matches!(state, Some(LocalNodeState::ACTIVE | LocalNodeState::LOCKED)) {
        look.report.find(
            &rules::DOCKER_SWARM,
            [Evidence::Docker {
                kind: "engine",
                name: "swarm".to_string(),
                id: String::new(),
            }],
            "the node is a member of a swarm, whose services end with Docker",
            "Move the services into the cluster, then docker swarm leave",
        );
    }
    for container in &inventory.containers {
        judge_container(look, container);
    }
    for image in &inventory.images {
        judge_image(look, image);
    }
    for volume in &inventory.volumes {
        // A volume without a name of its own belongs to a container, which names it.
        let anonymous =
            volume.name.len() == 64 && volume.name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !anonymous {
            look.report.find(
                &rules::VOLUME_ONLY_HERE,
                [Evidence::Docker {
                    kind: "volume",
                    name: volume.name.clone(),
                    id: String::new(),
                }],
                format!("its data is in {}", volume.mountpoint),
                "Copy what is still needed to where pods find it: a PersistentVolume, or a hostPath outside of Docker's directory",
            );
        }
    }
}

/// Whether a container is a kubelet's.
fn is_owned(container: &ContainerSummary) -> bool {
    let labels = container.labels.as_ref();
    labels.is_some_and(|labels| OWNED.iter().any(|label| labels.contains_key(*label)))
}

fn name_of(container: &ContainerSummary) -> String {
    let name = container.names.as_ref().and_then(|names| names.first());
    let name = name.map_or("", String::as_str);
    name.trim_start_matches('/').to_string()
}

fn judge_container(look: &mut Look<'_>, container: &ContainerSummary) {
    let labels = container.labels.as_ref();
    if is_owned(container) {
        return;
    }
    let evidence = Evidence::Docker {
        kind: "container",
        name: name_of(container),
        id: container.id.clone().unwrap_or_default(),
    };
    let image = container.image.as_deref().unwrap_or("an unknown image");
    let mut found = format!(
        "{image}, {}",
        container.status.as_deref().unwrap_or("state unknown")
    );
    if let Some(project) = labels.and_then(|labels| labels.get("com.docker.compose.project")) {
        found = format!("{found}, of the compose project {project}");
    }
    let mounts = container.mounts.iter().flatten();
    let volumes: Vec<_> = mounts
        .filter(|mount| mount.typ.as_deref() == Some("volume"))
        .filter_map(|mount| mount.destination.as_deref())
        .collect();
    if !volumes.is_empty() {
        found = format!("{found}, with volumes at {}", volumes.join(", "));
    }
    let stopped = matches!(
        container.state,
        Some(
            ContainerSummaryStateEnum::EXITED
                | ContainerSummaryStateEnum::CREATED
                | ContainerSummaryStateEnum::DEAD
        )
    );
    if stopped {
        look.report.find(
            &rules::CONTAINER_STOPPED,
            [evidence],
            found,
            "Look whether anybody starts it again; docker commit or docker cp keeps what is in it",
        );
    } else {
        look.report.find(
            &rules::CONTAINER_OUTSIDE_KUBERNETES,
            [evidence],
            found,
            "Move it into the cluster (a Deployment, a static pod in /etc/kubernetes/manifests), or to another machine, before Docker goes",
        );
    }
}

fn judge_image(look: &mut Look<'_>, image: &ImageSummary) {
    // Slipway makes its pause image itself, and again where it is missing.
    let own = |tag: &&String| !tag.contains("<none>") && !tag.starts_with("slipway/pause:");
    let Some(tag) = image.repo_tags.iter().find(own) else {
        return;
    };
    if image
        .repo_digests
        .iter()
        .any(|digest| !digest.contains("<none>"))
    {
        return;
    }
    look.report.find(
        &rules::IMAGE_ONLY_HERE,
        [Evidence::Docker {
            kind: "image",
            name: tag.clone(),
            id: image.id.clone(),
        }],
        "it has no digest of a registry: it was built or loaded here, and never pulled or pushed",
        "Push it to a registry; or docker save it, and import it with ctr -n k8s.io images import or podman load; slipway with --also docker takes it over by itself",
    );
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::Root;

    fn container(name: &str, label: &str, state: ContainerSummaryStateEnum) -> ContainerSummary {
        ContainerSummary {
            id: Some("0123456789abcdef".to_string()),
            names: Some(vec![format!("/{name}")]),
            image: Some("postgres:15".to_string()),
            labels: Some(HashMap::from([(label.to_string(), "x".to_string())])),
            state: Some(state),
            status: Some("Up 3 weeks".to_string()),
            ..ContainerSummary::default()
        }
    }

    #[test]
    fn bridges_that_docker_has_made_are_known_by_its_networks() {
        let network = |name: &str, driver: &str, bridge: Option<&str>| {
            let key = "com.docker.network.bridge.name".to_string();
            let options = bridge.map(|bridge| HashMap::from([(key, bridge.to_string())]));
            own_bridge(&Network {
                id: Some("0123456789abcdef".to_string()),
                name: Some(name.to_string()),
                driver: Some(driver.to_string()),
                scope: Some("local".to_string()),
                options,
                ..Network::default()
            })
            .map(|network| network.bridge)
        };
        let own = Some("br-0123456789ab".to_string());
        assert_eq!(network("shop_default", "bridge", None), own);
        assert_eq!(network("a", "bridge", Some("br-0123456789ab")), own);
        let swarm = network("docker_gwbridge", "bridge", Some("docker_gwbridge"));
        assert_eq!(swarm.as_deref(), Some("docker_gwbridge"));
        for (name, driver, bridge) in [
            ("bridge", "bridge", Some("docker0")),
            ("lan", "bridge", Some("br0")),
            ("lan", "macvlan", None),
            ("host", "host", None),
        ] {
            assert_eq!(network(name, driver, bridge), None, "{name}");
        }
        for (said, root) in [
            ("/var/lib/docker", "/var/lib/docker"),
            ("/data/docker/100000.100000", "/data/docker"),
            ("/data/24.0", "/data"),
            ("/data/v24.0", "/data/v24.0"),
        ] {
            assert_eq!(without_remap(said), root);
        }
    }

    #[test]
    fn what_no_kubelet_owns_is_named() {
        use ContainerSummaryStateEnum::{EXITED, RUNNING};
        let image = |tag: &str, digests: &[&str]| ImageSummary {
            repo_tags: vec![tag.to_string()],
            repo_digests: digests.iter().map(ToString::to_string).collect(),
            ..ImageSummary::default()
        };
        let volume = |name: &str| Volume {
            name: name.to_string(),
            ..Volume::default()
        };
        let inventory = Inventory {
            info: SystemInfo::default(),
            containers: vec![
                container(
                    "k8s_web_web-0_default_u_0",
                    "io.kubernetes.pod.uid",
                    RUNNING,
                ),
                container("db", "com.docker.compose.project", RUNNING),
                container("old", "x", EXITED),
            ],
            images: vec![
                image("app:1", &[]),
                image("slipway/pause:1", &[]),
                image("nginx:1", &["nginx@sha256:abc"]),
                image("<none>:<none>", &["<none>@<none>"]),
            ],
            volumes: vec![volume("pgdata"), volume(&"ab".repeat(32))],
        };
        let root = Root::new("/nonexistent");
        let mut look = Look::new(&root);
        judge(&mut look, &inventory);
        let found: Vec<_> = look
            .report
            .findings
            .iter()
            .map(|one| format!("{} {}: {}", one.rule, one.evidence[0], one.found))
            .collect();
        assert_eq!(
            found[..2],
            [
                "container-outside-kubernetes container db (0123456789abc): postgres:15, Up 3 weeks, of the compose project x",
                "container-stopped container old (0123456789abc): postgres:15, Up 3 weeks",
            ]
        );
        assert!(found[2].starts_with("image-only-here image app:1: "));
        assert!(found[3].starts_with("volume-only-here volume pgdata: "));
        assert_eq!(found.len(), 4);
    }
}
