//! A node that leaves Docker without being drained: two engines behind one socket.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use slipway_cri_api::v1::{
    AuthConfig, ContainerConfig, ContainerState, ImageFsInfoRequest, ImageSpec, ImageStatusRequest,
    LinuxContainerResources, ListImagesRequest, ListMetricDescriptorsRequest, PodSandbox,
    PodSandboxConfig, PodSandboxState, PullImageRequest, RemoveImageRequest, StatusRequest,
};
use slipway_testbed::{
    Cni, Daemon, Docker, Image, Node, PASSWORD, Pushed, Registry, Scratch, USER, eventually, pod,
    slipway_binary,
};
use tonic::Code;

use crate::prometheus::Scrape;
use crate::{metrics, refused, resource};

const PATIENCE: Duration = Duration::from_secs(30);

/// The configuration of a daemon that says what [`written_down`] waits for.
pub(crate) const LOUD: &str = "log_level = \"debug\"\n";

/// Waits until the daemon that runs now has written down that so many containers run in Docker.
pub(crate) async fn written_down(daemon: &Daemon, running: usize) {
    let count = format!("running={running}");
    eventually("it to be written down", PATIENCE, async || {
        let log = daemon.log();
        let since = log.rfind("Docker answers").map_or("", |at| &log[at..]);
        let mut lines = since.lines();
        Ok(lines.any(|line| line.contains("is written down") && line.contains(&count)))
    })
    .await
    .unwrap();
}

/// A node that had its pods in Docker, and whose daemon now runs new ones itself.
struct Leaving {
    node: Node,
    image: Pushed,
    /// Docker's pod with its container.
    config: PodSandboxConfig,
    container: ContainerConfig,
    pod: String,
    id: String,
    metrics: SocketAddr,
}

impl Leaving {
    async fn new(more: &str) -> Self {
        Self::configured(more, "").await
    }

    async fn configured(more: &str, config: &str) -> Self {
        let scratch = Scratch::new().unwrap();
        let docker = Docker::start(&scratch).await.unwrap();
        Self::from(docker, &scratch, more, config).await
    }

    /// One whose Docker leaves containers running when it ends.
    async fn live() -> Self {
        let scratch = Scratch::new().unwrap();
        let mut docker = Docker::start(&scratch).await.unwrap();
        let live = "{\"live-restore\": true}";
        docker.reconfigure(live).await.unwrap();
        Self::from(docker, &scratch, "", LOUD).await
    }

    async fn from(docker: Docker, scratch: &Arc<Scratch>, more: &str, config: &str) -> Self {
        let scratch = Arc::clone(scratch);
        let cni = Cni::new(&scratch).unwrap();
        let registry = Registry::start(&scratch).await.unwrap();
        let metrics = SocketAddr::from(([127, 0, 0, 1], scratch.host_port()));
        let daemon = Daemon::builder(&scratch, &cni)
            .docker(&docker)
            .config(config)
            .argument("--metrics-listen")
            .argument(metrics.to_string());
        let mut node = Node {
            daemon: daemon.start().await.unwrap(),
            docker: Some(docker),
            registry,
            cni,
            scratch,
        };
        let image = node.provide("busybox:1", &Image::busybox()).await.unwrap();
        let config = node.pod("old");
        let script = "echo from docker; sleep 1000 & wait";
        let container = pod::shell("main", &image.reference, script);
        let pod = node.cri().run_pod(&config).await.unwrap();
        let id = node.cri().launch(&pod, &config, &container).await.unwrap();
        let docker = node.docker.as_ref().unwrap();
        node.daemon.leave_docker(docker, more).unwrap();
        node.daemon.restart().await.unwrap();
        Self {
            node,
            image,
            config,
            container,
            pod,
            id,
            metrics,
        }
    }

    fn docker(&mut self) -> &mut Docker {
        self.node.docker.as_mut().unwrap()
    }

    async fn state(&self, id: &str) -> ContainerState {
        let status = self.node.cri().container_status(id).await.unwrap();
        status.state()
    }

    /// A new pod's container, which runs.
    async fn launch(&self, name: &str) -> (String, String) {
        let config = self.node.pod(name);
        let cri = self.node.cri();
        let pod = cri.run_pod(&config).await.unwrap();
        let container = pod::sleeper("main", &self.image.reference);
        let id = cri.launch(&pod, &config, &container).await.unwrap();
        (pod, id)
    }

    fn engines(&self) -> String {
        self.slipway("engines")
    }

    fn slipway(&self, command: &str) -> String {
        let endpoint = format!("unix://{}", self.node.cri().socket().display());
        let output = Command::new(slipway_binary().unwrap())
            .args(["--endpoint", &endpoint, command])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn image_is_there(&self) -> bool {
        let image = ImageSpec {
            image: self.image.reference.clone(),
            ..Default::default()
        };
        let request = ImageStatusRequest {
            image: Some(image),
            verbose: false,
        };
        let answer = self.node.cri().images().image_status(request).await;
        answer.unwrap().into_inner().image.is_some()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_keeps_its_pods_and_new_ones_are_native() {
    let leaving = Leaving::new("").await;
    let docker = leaving.node.docker.as_ref().unwrap();
    let inspect = ["inspect", "--format", "{{.State.Pid}}", &leaving.id];
    let before = docker.cli(&inspect).unwrap();
    let (new_pod, new_id) = leaving.launch("new").await;
    let cri = leaving.node.cri();
    let ids: Vec<_> = cri
        .pods()
        .await
        .unwrap()
        .into_iter()
        .map(|pod| pod.id)
        .collect();
    assert_eq!(
        ids,
        [new_pod.clone(), leaving.pod.clone()],
        "the newest first"
    );
    let containers = cri.containers().await.unwrap();
    let ids: Vec<_> = containers.iter().map(|one| one.id.clone()).collect();
    assert_eq!(ids, [new_id.clone(), leaving.id.clone()]);
    let mut addresses = Vec::new();
    for id in [&new_pod, &leaving.pod] {
        addresses.push(cri.pod_status(id).await.unwrap().network.unwrap().ip);
    }
    assert_ne!(addresses[0], addresses[1]);
    // Docker has one pod, and Slipway runs the other without it.
    let listed = docker.cli(&["ps", "-q", "--no-trunc"]).unwrap();
    assert!(listed.contains(&leaving.pod) && listed.contains(&leaving.id));
    assert!(!listed.contains(&new_id));
    let engines = leaving.engines();
    assert!(
        engines.contains("Left in docker:") && engines.contains("old"),
        "{engines}"
    );

    // A restart of what died goes where its pod is.
    let again = ContainerConfig {
        metadata: leaving.container.metadata.clone().map(|metadata| {
            slipway_cri_api::v1::ContainerMetadata {
                attempt: metadata.attempt + 1,
                ..metadata
            }
        }),
        ..leaving.container.clone()
    };
    let second = cri
        .launch(&leaving.pod, &leaving.config, &again)
        .await
        .unwrap();
    assert_eq!(
        leaving.state(&second).await,
        ContainerState::ContainerRunning
    );
    assert_eq!(
        docker.cli(&inspect).unwrap(),
        before,
        "nothing has restarted it"
    );
    let log = pod::log_path(&leaving.config, &leaving.container);
    assert!(log.exists(), "{}", log.display());

    let cri = leaving.node.cri();
    cri.stop(&leaving.id, 0).await.unwrap();
    assert_eq!(
        leaving.state(&leaving.id).await,
        ContainerState::ContainerExited
    );
    assert_eq!(
        leaving.state(&new_id).await,
        ContainerState::ContainerRunning
    );
    cri.remove(&leaving.id).await.unwrap();
    cri.stop_pod(&leaving.pod).await.unwrap();
    let pods = cri.pods().await.unwrap();
    let state = |id: &str| pods.iter().find(|pod| pod.id == id).unwrap().state();
    assert_eq!(state(&leaving.pod), PodSandboxState::SandboxNotready);
    assert_eq!(state(&new_pod), PodSandboxState::SandboxReady);
    cri.remove_pod(&leaving.pod).await.unwrap();
    let engines = leaving.engines();
    assert!(
        engines.contains("No pod is left in docker: it can be stopped"),
        "{engines}"
    );
    eventually("the log to say so", PATIENCE, async || {
        Ok(leaving
            .node
            .daemon
            .log()
            .contains("no pod is left in Docker"))
    })
    .await
    .unwrap();
    leaving.node.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_docker_is_away_its_pods_are_not_gone_and_the_others_are_none_the_worse() {
    let mut leaving = Leaving::new("").await;
    let (pod, id) = leaving.launch("new").await;
    leaving.docker().kill9();
    let old = leaving.id.clone();
    eventually("the loss to be seen", PATIENCE, async || {
        let status = leaving.node.cri().container_status(&old).await?;
        Ok(status.reason == "DockerUnreachable")
    })
    .await
    .unwrap();
    let cri = leaving.node.cri();
    // People are told that it is unknown, and of the native pod that it is ready and runs.
    for (command, others) in [
        ("engines", " Ready"),
        ("pods", " Ready"),
        ("ps", " Running"),
    ] {
        let told = leaving.slipway(command);
        assert_eq!(told.matches(" Unknown ").count(), 1, "{told}");
        assert!(told.contains(others), "{told}");
    }
    // A kubelet takes CONTAINER_UNKNOWN for an end.
    assert_eq!(leaving.state(&old).await, ContainerState::ContainerRunning);
    assert_eq!(cri.pods().await.unwrap().len(), 2);
    let listed = cri.containers().await.unwrap();
    assert_eq!(listed.len(), 2);
    let running = ContainerState::ContainerRunning;
    assert!(listed.iter().all(|one| one.state() == running));
    let pods = cri.pods().await.unwrap();
    assert!(
        pods.iter()
            .all(|pod| pod.state() == PodSandboxState::SandboxReady)
    );
    assert_eq!(leaving.state(&id).await, ContainerState::ContainerRunning);
    let output = cri.exec(&id, &["echo", "here"]).await.unwrap();
    assert_eq!(output.stdout, b"here\n");
    refused(
        cri.stop(&leaving.id, 0).await,
        Code::Unavailable,
        &["docker.sock"],
    );
    refused(
        cri.stop_pod(&leaving.pod).await,
        Code::Unavailable,
        &["docker.sock"],
    );
    let status = cri
        .runtime()
        .status(StatusRequest::default())
        .await
        .unwrap();
    let conditions = status.into_inner().status.unwrap().conditions;
    let states: Vec<_> = conditions
        .iter()
        .map(|condition| (condition.r#type.as_str(), condition.status))
        .collect();
    assert_eq!(
        states,
        [
            ("RuntimeReady", true),
            ("NetworkReady", true),
            ("DockerReady", false)
        ]
    );
    cri.stop_pod(&pod).await.unwrap();
    cri.remove_pod(&pod).await.unwrap();
    leaving.launch("newer").await;

    leaving.docker().restart().await.unwrap();
    eventually("Docker's pods to be known again", PATIENCE, async || {
        let status = leaving.node.cri().container_status(&old).await?;
        // It has ended what ran in the one before it.
        Ok(status.state() == ContainerState::ContainerExited)
    })
    .await
    .unwrap();
    for command in ["engines", "pods", "ps"] {
        let told = leaving.slipway(command);
        assert!(!told.contains("Unknown"), "{told}");
    }
    let cri = leaving.node.cri();
    cri.stop_pod(&leaving.pod).await.unwrap();
    cri.remove_pod(&leaving.pod).await.unwrap();
    leaving.node.finish().await.unwrap();
}

/// A kubelet that is told of an error has no figures of the node, starts no pod, and frees no image.
#[tokio::test(flavor = "multi_thread")]
async fn a_docker_that_does_not_answer_takes_nothing_but_its_own_away() {
    let mut leaving = Leaving::configured("", "[engine.docker]\nrequest_timeout = 2\n").await;
    let image = |name: &str| {
        Some(ImageSpec {
            image: name.to_owned(),
            ..Default::default()
        })
    };
    leaving.launch("new").await;
    let other = Image::busybox().stop_signal("SIGINT");
    let other = leaving.node.provide("other:1", &other).await;
    let other = other.unwrap().reference;
    leaving.node.cri().pull(&other).await.unwrap();
    leaving.docker().freeze();
    let images = || leaving.node.cri().images();
    let listed = images().list_images(ListImagesRequest::default()).await;
    assert_eq!(listed.unwrap().into_inner().images.len(), 2);
    let info = images().image_fs_info(ImageFsInfoRequest {}).await;
    assert!(!info.unwrap().into_inner().image_filesystems.is_empty());
    let request = ImageStatusRequest {
        image: image("nobody:1"),
        verbose: false,
    };
    let status = images().image_status(request).await.unwrap();
    assert!(status.into_inner().image.is_none());
    let request = RemoveImageRequest {
        image: image(&other),
    };
    images().remove_image(request).await.unwrap();
    leaving.docker().resume();
    leaving.node.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_docker_that_hangs_keeps_no_daemon_from_starting() {
    let mut leaving = Leaving::new("").await;
    leaving.docker().freeze();
    leaving.node.daemon.restart().await.unwrap();
    let config = leaving.node.pod("new");
    leaving.node.cri().run_pod(&config).await.unwrap();
    leaving.docker().resume();
    eventually("Docker's pods to be known", PATIENCE, async || {
        let pods = leaving.node.cri().pods().await;
        Ok(pods.is_ok_and(|pods| pods.len() == 2))
    })
    .await
    .unwrap();
    leaving.node.finish().await.unwrap();
}

/// A partial list would have a kubelet make Docker's pods anew, and none at all takes it for ill.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_starts_while_docker_is_away_knows_what_it_had() {
    let mut leaving = Leaving::live().await;
    let (new_pod, new_id) = leaving.launch("new").await;
    let extra = pod::sleeper("extra", &leaving.image.reference);
    let cri = leaving.node.cri();
    let extra = cri.launch(&leaving.pod, &leaving.config, &extra).await;
    let extra = extra.unwrap();
    let docker = leaving.node.docker.as_ref().unwrap();
    let life = "{{.State.Pid}} {{.State.StartedAt}} {{.RestartCount}}";
    let inspected = [leaving.id.clone(), leaving.pod.clone()];
    let inspect = ["inspect", "--format", life, &inspected[0], &inspected[1]];
    let before = docker.cli(&inspect).unwrap();
    written_down(&leaving.node.daemon, 2).await;
    leaving.node.daemon.kill9();
    docker.cli(&["rm", "-f", &extra]).unwrap();
    leaving.docker().kill9();
    leaving.node.daemon.restart().await.unwrap();

    let cri = leaving.node.cri();
    let pods = cri.pods().await.unwrap();
    let ids: Vec<_> = pods.iter().map(|pod| pod.id.clone()).collect();
    assert_eq!(ids, [new_pod.clone(), leaving.pod.clone()]);
    let ready = |pod: &PodSandbox| pod.state() == PodSandboxState::SandboxReady;
    assert!(pods.iter().all(ready), "{pods:?}");
    assert_eq!(cri.containers().await.unwrap().len(), 3);
    assert_eq!(leaving.slipway("ps").matches(" Unknown ").count(), 2);
    let status = cri.container_status(&leaving.id).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    assert_eq!(status.reason, "DockerUnreachable");
    assert_eq!(status.image_ref, leaving.image.by_digest);
    let status = cri.pod_status(&leaving.pod).await.unwrap();
    assert!(!status.network.unwrap().ip.is_empty());
    let refusals = [
        cri.stop(&leaving.id, 0).await,
        cri.stop_pod(&leaving.pod).await,
        cri.remove_pod(&leaving.pod).await,
    ];
    for refusal in refusals {
        refused(refusal, Code::Unavailable, &["docker.sock"]);
    }
    assert!(leaving.engines().contains("Left in docker:"));
    // The others are none the worse.
    let output = cri.exec(&new_id, &["echo", "here"]).await.unwrap();
    assert_eq!(output.stdout, b"here\n");
    cri.stop_pod(&new_pod).await.unwrap();
    cri.remove_pod(&new_pod).await.unwrap();
    let (newer, _) = leaving.launch("newer").await;

    leaving.docker().restart().await.unwrap();
    let (cri, old) = (leaving.node.cri(), &leaving.id);
    eventually("Docker's pods to be known again", PATIENCE, async || {
        Ok(cri.container_status(old).await?.reason.is_empty())
    })
    .await
    .unwrap();
    assert_eq!(leaving.state(old).await, ContainerState::ContainerRunning);
    let docker = leaving.node.docker.as_ref().unwrap();
    assert_eq!(docker.cli(&inspect).unwrap(), before, "nothing was started");
    let output = cri.exec(old, &["echo", "there"]).await.unwrap();
    assert_eq!(output.stdout, b"there\n");
    let gone = cri.container_status(&extra).await;
    refused(gone, Code::NotFound, &[&extra]);
    let pods = cri.pods().await.unwrap();
    let ids: Vec<_> = pods.iter().map(|pod| pod.id.as_str()).collect();
    assert_eq!(ids, [newer.as_str(), leaving.pod.as_str()]);
    leaving.node.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_docker_that_was_never_reached_is_not_said_to_be_gone() {
    let mut leaving = Leaving::configured("", LOUD).await;
    leaving.docker().kill9();
    leaving.node.daemon.kill9();
    let known = leaving.node.daemon.root().join("docker/known.redb");
    std::fs::write(known, "this is no database").unwrap();
    leaving.node.daemon.restart().await.unwrap();
    let log = leaving.node.daemon.log();
    assert!(log.contains("what Docker had cannot be read"), "{log}");
    let cri = leaving.node.cri();
    refused(cri.pods().await, Code::Unavailable, &["docker.sock"]);
    refused(
        cri.pod_status(&leaving.pod).await,
        Code::Unavailable,
        &[&leaving.pod, "may be in Docker"],
    );
    refused(
        cri.remove_pod(&leaving.pod).await,
        Code::Unavailable,
        &["may be in Docker"],
    );
    // What is known to be here is looked after.
    let config = leaving.node.pod("new");
    let pod = cri.run_pod(&config).await.unwrap();
    assert_eq!(cri.pod_status(&pod).await.unwrap().id, pod);
    leaving.docker().restart().await.unwrap();
    eventually("Docker's pods to be known", PATIENCE, async || {
        Ok(leaving
            .node
            .cri()
            .pods()
            .await
            .is_ok_and(|pods| pods.len() == 2))
    })
    .await
    .unwrap();
    // From now on it is.
    written_down(&leaving.node.daemon, 0).await;
    leaving.docker().kill9();
    leaving.node.daemon.restart().await.unwrap();
    assert_eq!(leaving.node.cri().pods().await.unwrap().len(), 2);
    leaving.docker().restart().await.unwrap();
    let old = &leaving.pod;
    eventually("Docker's pods to be removed", PATIENCE, async || {
        Ok(leaving.node.cri().remove_pod(old).await.is_ok())
    })
    .await
    .unwrap();
    leaving.node.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_only_docker_has_is_taken_over_without_the_registry() {
    let mut leaving = Leaving::new("").await;
    assert!(leaving.image_is_there().await);
    let images = leaving.node.daemon.root().join("image/layers");
    let layers = || std::fs::read_dir(&images).unwrap().count();
    assert_eq!(layers(), 0);
    leaving.node.registry.kill();
    let (_, id) = leaving.launch("new").await;
    assert_eq!(layers(), 1);
    let status = leaving.node.cri().container_status(&id).await.unwrap();
    assert_eq!(status.image_ref, leaving.image.by_digest);
    let cri = leaving.node.cri();
    let mut images = cri.images();
    let listed = images.list_images(ListImagesRequest::default()).await;
    let listed = listed.unwrap().into_inner().images;
    let same: Vec<_> = listed
        .iter()
        .filter(|image| image.id == leaving.image.id)
        .collect();
    assert_eq!(same.len(), 1, "it is listed once: {listed:?}");
    leaving.node.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_leave_docker_keeps_its_images_and_gets_what_its_own_pods_want() {
    let leaving = Leaving::new("carry_images_over = false").await;
    assert!(!leaving.image_is_there().await);
    let cri = leaving.node.cri();
    let config = leaving.node.pod("new");
    let pod = cri.run_pod(&config).await.unwrap();
    let container = pod::sleeper("main", &leaving.image.reference);
    let words = [leaving.image.reference.as_str(), "pull it first"];
    refused(
        cri.create(&pod, &config, &container).await,
        Code::NotFound,
        &words,
    );

    // For a pod of Docker's it is Docker that pulls.
    let moved = Image::busybox().layer(slipway_testbed::Layer::new().file("new", 0o644, b"x"));
    let moved = leaving.node.registry.push("moved:1", &moved).await.unwrap();
    let request = |sandbox: &PodSandboxConfig| PullImageRequest {
        image: Some(ImageSpec {
            image: moved.reference.clone(),
            ..Default::default()
        }),
        auth: None,
        sandbox_config: Some(sandbox.clone()),
    };
    let images = leaving.node.daemon.root().join("image/layers");
    let layers = || std::fs::read_dir(&images).unwrap().count();
    Box::pin(cri.images().pull_image(request(&leaving.config)))
        .await
        .unwrap();
    assert_eq!(layers(), 0);
    let docker = leaving.node.docker.as_ref().unwrap();
    assert!(docker.cli(&["images"]).unwrap().contains("moved"));
    Box::pin(cri.images().pull_image(request(&config)))
        .await
        .unwrap();
    assert_eq!(layers(), 2);
    let spec = request(&config).image;
    let request = RemoveImageRequest { image: spec };
    Box::pin(cri.images().remove_image(request)).await.unwrap();
    assert!(!docker.cli(&["images"]).unwrap().contains("moved"));
    assert_eq!(layers(), 0);
    leaving.node.finish().await.unwrap();
}

/// A kubelet asks for an image without saying for which pod, and sends the id that it is told.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_only_the_node_has_is_found_or_pulled_for_a_pod_of_dockers() {
    let leaving = Leaving::new("").await;
    let cri = leaving.node.cri();
    let docker = leaving.node.docker.as_ref().unwrap();
    let registry = &leaving.node.registry;
    let image = |number: &str| {
        let layer = slipway_testbed::Layer::new().file("number", 0o644, number);
        Image::busybox().layer(layer)
    };
    let there = async |name: &str| {
        let request = ImageStatusRequest {
            image: Some(ImageSpec {
                image: name.to_owned(),
                ..Default::default()
            }),
            verbose: false,
        };
        let status = cri.images().image_status(request).await.unwrap();
        status.into_inner().image.unwrap().id
    };
    let wanted = |name: &str, id: &str, asked: &str, number: &str| {
        let script = format!("grep -qx {number} /number");
        let mut container = pod::shell(name, id, &script);
        container.image.as_mut().unwrap().user_specified_image = asked.to_owned();
        container
    };
    let runs = async |container: &ContainerConfig| {
        let id = cri.launch(&leaving.pod, &leaving.config, container).await;
        let ended = cri.wait_for_exit(&id.unwrap()).await.unwrap();
        assert_eq!(ended.exit_code, 0, "{ended:?}");
    };
    let images = || docker.cli(&["images", "-q", "--no-trunc"]).unwrap();

    // Docker does not have it at all.
    let first = registry.push("x:1", &image("1")).await.unwrap();
    cri.pull(&first.reference).await.unwrap();
    let id = there(&first.reference).await;
    assert!(!images().contains(&id));
    runs(&wanted("pulled", &id, &first.reference, "1")).await;
    assert!(images().contains(&first.id));

    // Docker has the tag, of an image before the node's.
    let second = registry.push("x:1", &image("2")).await.unwrap();
    cri.pull(&second.reference).await.unwrap();
    let id = there(&second.reference).await;
    assert_eq!(id, second.id);
    runs(&wanted("found", &id, &second.reference, "1")).await;
    assert!(!images().contains(&second.id));

    // Older kubelets do not tell the name: it is pulled as the node knows it.
    runs(&wanted("nameless", &id, "", "2")).await;
    assert!(images().contains(&second.id));

    // What can only be pulled with a password stays away, and it is said why.
    registry.push("y:1", &image("3")).await.unwrap();
    let closed = registry.behind_password().await.unwrap();
    let private = closed.reference("y:1");
    let request = PullImageRequest {
        image: Some(ImageSpec {
            image: private.clone(),
            ..Default::default()
        }),
        auth: Some(AuthConfig {
            username: USER.to_owned(),
            password: PASSWORD.to_owned(),
            ..Default::default()
        }),
        sandbox_config: None,
    };
    Box::pin(cri.images().pull_image(request)).await.unwrap();
    let id = there(&private).await;
    let container = wanted("private", &id, &private, "3");
    let answer = cri.create(&leaving.pod, &leaving.config, &container).await;
    let words = [&private, "without credentials", "docker pull"];
    refused(answer, Code::PermissionDenied, &words);
    leaving.node.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_of_both_and_limits_are_changed_where_the_container_is() {
    let mut leaving = Leaving::new("").await;
    let (new_pod, new_id) = leaving.launch("new").await;
    let cri = leaving.node.cri().clone();
    let measured = async || -> Vec<(String, String)> {
        let pods = metrics::list(&cri).await.into_iter();
        pods.map(|pod| {
            (
                pod.pod_sandbox_id,
                pod.container_metrics[0].container_id.clone(),
            )
        })
        .collect()
    };
    let (new, old) = (
        (new_pod, new_id.clone()),
        (leaving.pod.clone(), leaving.id.clone()),
    );
    assert_eq!(measured().await, [new.clone(), old]);
    let request = ListMetricDescriptorsRequest {};
    let answer = cri
        .runtime()
        .list_metric_descriptors(request)
        .await
        .unwrap();
    let descriptors = answer.into_inner().descriptors.into_iter();
    let names: Vec<_> = descriptors.map(|descriptor| descriptor.name).collect();
    let once: BTreeSet<_> = names.iter().collect();
    assert_eq!(once.len(), names.len());
    assert!(
        names
            .iter()
            .any(|name| name == "container_cpu_usage_seconds_total")
    );

    for id in [&leaving.id, &new_id] {
        let asked = LinuxContainerResources {
            cpu_shares: 512,
            ..Default::default()
        };
        resource::update(&leaving.node, id, asked).await.unwrap();
        let status = cri.container_status(id).await.unwrap();
        assert_eq!(status.resources.unwrap().linux.unwrap().cpu_shares, 512);
    }

    // What pods in a Docker use that is away cannot be told, and that of the others can.
    leaving.docker().kill9();
    eventually("Docker to be missed", PATIENCE, async || {
        Ok(measured().await == [new.clone()])
    })
    .await
    .unwrap();
    leaving.docker().restart().await.unwrap();
    eventually("Docker to be back", PATIENCE, async || {
        Ok(measured().await.len() <= 2 && leaving.engines().contains("Left in docker:"))
    })
    .await
    .unwrap();
    leaving.node.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_and_containers_are_counted_by_their_engine() {
    let mut leaving = Leaving::new("").await;
    let metrics = leaving.metrics;
    let count = async |expected: &str| {
        let series = [
            ("slipway_pods", "native", "ready"),
            ("slipway_pods", "docker", "ready"),
            ("slipway_pods", "docker", "not_ready"),
            ("slipway_containers", "native", "running"),
            ("slipway_containers", "docker", "running"),
            ("slipway_containers", "docker", "exited"),
        ];
        let mut found = String::new();
        eventually("the counts", PATIENCE, async || {
            let scrape = Scrape::of(metrics);
            let values = series.map(|(name, engine, state)| {
                let labels = [("engine", engine), ("state", state)];
                scrape.value(name, &labels).to_string()
            });
            found = values.join(" ");
            Ok(found == expected)
        })
        .await
        .unwrap_or_else(|error| panic!("{found:?} is not {expected:?}: {error}"));
    };
    count("0 1 0 0 1 0").await;
    leaving.launch("new").await;
    count("1 1 0 1 1 0").await;
    // Of a Docker that is away, what it said last.
    leaving.docker().kill9();
    let old = leaving.id.clone();
    eventually("the loss to be seen", PATIENCE, async || {
        let status = leaving.node.cri().container_status(&old).await?;
        Ok(status.reason == "DockerUnreachable")
    })
    .await
    .unwrap();
    count("1 1 0 1 1 0").await;
    // It comes back without what it ran.
    leaving.docker().restart().await.unwrap();
    count("1 0 1 1 0 1").await;
    leaving.node.cri().remove_pod(&leaving.pod).await.unwrap();
    count("1 0 0 1 0 0").await;
    // Both have had their networks from the same plugins.
    let scrape = Scrape::of(metrics);
    for operation in ["add", "delete"] {
        let labels = [("operation", operation), ("result", "success")];
        let name = "slipway_network_operation_duration_seconds_count";
        assert!(scrape.value(name, &labels) > 0.5, "{operation}");
    }
    leaving.node.finish().await.unwrap();
}
