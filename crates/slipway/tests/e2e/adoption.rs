//! Pods that dockershim or cri-dockerd has made: their containers are labelled as theirs are, and
//! their network was made by plugins of which libcni has kept a record.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use slipway_cri_api::v1::{ContainerState, NamespaceMode, PodSandboxState};
use slipway_network::{Attachment, Network};
use slipway_testbed::leaks::Leak;
use slipway_testbed::{
    Cni, Daemon, Docker, Image, Node, Registry, Scratch, eventually, leaks, pod,
};
use tonic::Code;

use crate::refused;

const PATIENCE: Duration = Duration::from_secs(30);

/// What libcni has recorded of a pod's network.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Record {
    Kept,
    Lost,
}

/// What there is before there is Slipway.
struct Ground {
    scratch: Arc<Scratch>,
    cni: Cni,
    registry: Registry,
    docker: Docker,
}

impl Ground {
    async fn new() -> Self {
        let scratch = Scratch::new().unwrap();
        Self {
            cni: Cni::new(&scratch).unwrap(),
            registry: Registry::start(&scratch).await.unwrap(),
            docker: Docker::start(&scratch).await.unwrap(),
            scratch,
        }
    }

    async fn inherits(&self) -> Inherited {
        inherited(&self.scratch, &self.cni, &self.registry, &self.docker).await
    }

    /// Starts Slipway on these engines.
    async fn node(self, engines: &str) -> Node {
        let config = format!(
            "[engine]\n{engines}\n[engine.docker]\nendpoint = \"unix://{}\"\ncni_cache = \"{}\"\n",
            self.docker.socket().display(),
            self.scratch.join("cni-cache").display()
        );
        let daemon = Daemon::builder(&self.scratch, &self.cni).config(config);
        let daemon = daemon.start().await.unwrap();
        daemon.cri().knows_its_pods().await.unwrap();
        Node {
            daemon,
            docker: Some(self.docker),
            registry: self.registry,
            cni: self.cni,
            scratch: self.scratch,
        }
    }
}

/// What a pod is called by the API server.
fn uid(scratch: &Scratch) -> String {
    format!("u-{}", scratch.number())
}

/// A pod with a container that dockershim has run.
struct Inherited {
    pod: String,
    id: String,
    address: String,
    log: std::path::PathBuf,
    image: String,
}

async fn inherited(
    scratch: &Scratch,
    cni: &Cni,
    registry: &Registry,
    docker: &Docker,
) -> Inherited {
    let image = registry.push("busybox:1", &Image::busybox()).await.unwrap();
    docker.cli(&["pull", "-q", &image.reference]).unwrap();
    let of_image = ["inspect", "-f", "{{.Id}}", &image.reference];
    let image_id = docker.cli(&of_image).unwrap();
    let run = |arguments: &[&str], labels: &[(&str, &str)], script: &str| {
        let labels: Vec<String> = labels
            .iter()
            .map(|(key, value)| format!("--label={key}={value}"))
            .collect();
        let mut words = vec!["run", "-d"];
        words.extend(arguments);
        words.extend(labels.iter().map(String::as_str));
        // A kubelet had an image's id from dockershim, and named that.
        words.extend([image_id.trim(), "sh", "-c", script]);
        docker.cli(&words).unwrap().trim().to_owned()
    };
    let uid = uid(scratch);
    let named = [
        ("io.kubernetes.pod.name", "web"),
        ("io.kubernetes.pod.namespace", "default"),
        ("io.kubernetes.pod.uid", uid.as_str()),
        ("app", "shop"),
    ];
    let own = [
        ("annotation.kubernetes.io/config.source", "api"),
        ("io.kubernetes.container.name", "POD"),
        ("io.kubernetes.docker.type", "podsandbox"),
    ];
    let pod = run(
        &[
            &format!("--name=k8s_POD_web_default_{uid}_3"),
            "--net=none",
            "--ipc=shareable",
        ],
        &[&named[..], &own].concat(),
        "sleep 10000 & wait",
    );
    let pid = docker
        .cli(&["inspect", "-f", "{{.State.Pid}}", &pod])
        .unwrap();
    let address = attach(scratch, cni, &pod, pid.trim()).await;

    let log = scratch.join("main_0.log");
    let own = [
        ("annotation.io.kubernetes.container.hash", "5f"),
        ("io.kubernetes.container.name", "main"),
        ("io.kubernetes.container.logpath", log.to_str().unwrap()),
        ("io.kubernetes.docker.type", "container"),
        ("io.kubernetes.sandbox.id", &pod),
    ];
    let joined = format!("container:{pod}");
    let volume = scratch.join("shared");
    fs::create_dir(&volume).unwrap();
    let id = run(
        &[
            &format!("--name=k8s_main_web_default_{uid}_0"),
            &format!("--net={joined}"),
            &format!("--ipc={joined}"),
            &format!("--volume={}:/data:ro", volume.display()),
        ],
        &[&named[..], &own].concat(),
        "trap 'exit 7' TERM; echo from docker; sleep 10000 & wait",
    );
    let kept = docker.cli(&["inspect", "-f", "{{.LogPath}}", &id]).unwrap();
    eventually("its first words", PATIENCE, async || {
        let log = fs::read_to_string(kept.trim()).unwrap_or_default();
        Ok(log.contains("from docker"))
    })
    .await
    .unwrap();
    if let Err(error) = symlink(kept.trim(), &log) {
        // A Slipway that is there already was faster.
        let linked = fs::read_link(&log).unwrap();
        assert_eq!(linked.to_str(), Some(kept.trim()), "{error}");
    }
    Inherited {
        pod,
        id,
        address,
        log,
        image: image.reference,
    }
}

/// Attaches a pod as dockershim did, and records it as libcni does.
async fn attach(scratch: &Scratch, cni: &Cni, pod: &str, pid: &str) -> String {
    let config = slipway_network::Config {
        conf_dir: cni.conf_dir().to_owned(),
        bin_dirs: vec![cni.bin_dir().to_owned()],
        ..Default::default()
    };
    let own = scratch.join("dockershim");
    let network = Network::new(config, own.clone());
    let attachment = Attachment {
        pod_id: pod.to_owned(),
        name: "web".to_owned(),
        namespace: "default".to_owned(),
        uid: uid(scratch),
        netns: format!("/proc/{pid}/ns/net").into(),
        ..Attachment::default()
    };
    let attached = network.add(&attachment).await.unwrap();
    fs::remove_dir_all(own).unwrap();
    let record = json!({
        "kind": "cniCacheV1",
        "containerId": pod,
        "config": STANDARD.encode(cni.conflist().unwrap()),
        "ifName": "eth0",
        "networkName": attached.config_name,
        "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAME", "web"]],
        "capabilityArgs": { "portMappings": [] },
        "result": attached.result,
    });
    let results = scratch.join("cni-cache/results");
    fs::create_dir_all(&results).unwrap();
    let name = format!("{}-{pod}-eth0", attached.config_name);
    fs::write(results.join(name), record.to_string()).unwrap();
    attached.ips[0].to_string()
}

fn lose_records(scratch: &Scratch) {
    let results = scratch.join("cni-cache/results");
    fs::remove_dir_all(&results).unwrap();
    fs::create_dir(&results).unwrap();
}

/// What was there before is managed from the first second, and nothing of it is restarted.
async fn is_managed(engines: &str, record: Record) {
    let ground = Ground::new().await;
    let Inherited {
        pod,
        id,
        address,
        log,
        image,
    } = ground.inherits().await;
    let inspect = [
        "inspect",
        "-f",
        "{{.State.StartedAt}} {{.State.Pid}}",
        &pod,
        &id,
    ];
    let before = ground.docker.cli(&inspect).unwrap();
    if record == Record::Lost {
        lose_records(&ground.scratch);
    }
    let node = ground.node(engines).await;
    let results = node.scratch.join("cni-cache/results");
    let cri = node.cri();
    let pods = cri.pods().await.unwrap();
    let [found] = &pods[..] else {
        panic!("one pod is wanted: {pods:?}");
    };
    assert_eq!(
        (&found.id, found.state()),
        (&pod, PodSandboxState::SandboxReady)
    );
    let metadata = found.metadata.clone().unwrap();
    assert_eq!((metadata.name.as_str(), metadata.attempt), ("web", 3));
    assert_eq!(
        (metadata.namespace.as_str(), metadata.uid.as_str()),
        ("default", uid(&node.scratch).as_str())
    );
    let mut labels: Vec<_> = found.labels.keys().map(String::as_str).collect();
    labels.sort_unstable();
    let named = [
        "app",
        "io.kubernetes.pod.name",
        "io.kubernetes.pod.namespace",
        "io.kubernetes.pod.uid",
    ];
    assert_eq!(labels, named);
    assert_eq!(found.annotations["kubernetes.io/config.source"], "api");
    has_address(&node, &pod, &address).await;
    let status = cri.container_status(&id).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    assert_eq!(status.metadata.unwrap().name, "main");
    assert_eq!(status.image.unwrap().image, image);
    assert_eq!(status.log_path, log.to_str().unwrap());
    assert_eq!(status.annotations["io.kubernetes.container.hash"], "5f");
    // The kubelet finds the file with a container's last words by them.
    let [mount] = &status.mounts[..] else {
        panic!("one mount is wanted: {:?}", status.mounts);
    };
    assert_eq!(
        (mount.container_path.as_str(), mount.host_path.as_str()),
        ("/data", node.scratch.join("shared").to_str().unwrap())
    );
    assert!(mount.readonly);
    let output = cri.exec(&id, &["echo", "here"]).await.unwrap();
    assert_eq!(output.stdout, b"here\n");
    assert!(fs::read_to_string(&log).unwrap().contains("from docker"));
    assert_eq!(node.docker.as_ref().unwrap().cli(&inspect).unwrap(), before);

    // A container that is made anew, in a pod that shares its processes.
    let mut side = pod::sleeper("side", &image);
    let linux = side.linux.get_or_insert_default();
    let security = linux.security_context.get_or_insert_default();
    let options = security.namespace_options.get_or_insert_default();
    options.pid = NamespaceMode::Pod.into();
    let side = cri.launch(&pod, &node.pod("web"), &side).await.unwrap();
    let processes = cri.exec(&side, &["ps", "-o", "args"]).await.unwrap();
    let processes = String::from_utf8_lossy(&processes.stdout).into_owned();
    assert!(processes.contains("sleep 10000"), "{processes}");
    cri.stop(&side, 0).await.unwrap();
    cri.remove(&side).await.unwrap();

    cri.stop(&id, i64::from(i32::MAX) + 1).await.unwrap();
    let status = cri.container_status(&id).await.unwrap();
    assert_eq!(
        (status.state(), status.exit_code),
        (ContainerState::ContainerExited, 7)
    );
    cri.remove(&id).await.unwrap();
    assert!(
        fs::symlink_metadata(&log).is_err(),
        "the link to Docker's log is still there"
    );
    cri.stop_pod(&pod).await.unwrap();
    assert_eq!(
        fs::read_dir(results).unwrap().count(),
        0,
        "its network was given back"
    );
    cri.remove_pod(&pod).await.unwrap();
    node.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_dockershims_is_managed_on_docker() {
    is_managed("name = \"docker\"", Record::Kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_dockershims_is_managed_on_a_node_that_leaves_docker() {
    is_managed("name = \"native\"\nalso = \"docker\"", Record::Kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_dockershims_is_managed_although_the_record_of_its_network_is_lost() {
    is_managed("name = \"docker\"", Record::Lost).await;
}

/// Whose network nobody knows yet is not said to be stopped, as if nothing were left of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_network_is_not_known_yet_is_stopped_once_it_is() {
    let ground = Ground::new().await;
    let pod = ground.inherits().await.pod;
    lose_records(&ground.scratch);
    let conflist = ground.cni.conflist().unwrap();
    let file = ground.cni.conf_dir().join("10-slipway.conflist");
    fs::remove_file(file).unwrap();
    let node = ground.node("name = \"docker\"").await;
    let cri = node.cri();
    let conf_dir = node.cni.conf_dir().to_str().unwrap();
    refused(cri.stop_pod(&pod).await, Code::Internal, &[&pod, conf_dir]);

    node.cni.write_conflist(&conflist).unwrap();
    cri.stop_pod(&pod).await.unwrap();
    let mut left = leaks::snapshot(&node.scratch);
    left.retain(|leak| matches!(leak, Leak::Address(_) | Leak::FilterRule(_)));
    assert!(left.is_empty(), "{left:?}");
    node.finish().await.unwrap();
}

/// Failures are tried again, without a kubelet's call and without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_could_not_be_adopted_is_adopted_later() {
    let ground = Ground::new().await;
    let Inherited { pod, address, .. } = ground.inherits().await;
    lose_records(&ground.scratch);
    let conflist = ground.cni.conflist().unwrap();
    let file = ground.cni.conf_dir().join("10-slipway.conflist");
    fs::remove_file(file).unwrap();
    let node = ground.node("name = \"docker\"").await;
    node.cni.write_conflist(&conflist).unwrap();
    has_address(&node, &pod, &address).await;
    node.finish().await.unwrap();
}

/// A kubelet that still uses cri-dockerd makes pods beside Slipway.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_another_runtime_makes_meanwhile_is_adopted() {
    let node = Ground::new().await.node("name = \"docker\"").await;
    let docker = node.docker.as_ref().unwrap();
    let made = inherited(&node.scratch, &node.cni, &node.registry, docker).await;
    has_address(&node, &made.pod, &made.address).await;
    node.cri().stop_pod(&made.pod).await.unwrap();
    let results = node.scratch.join("cni-cache/results");
    assert_eq!(fs::read_dir(results).unwrap().count(), 0);
    node.finish().await.unwrap();
}

async fn has_address(node: &Node, pod: &str, address: &str) {
    eventually("the address", PATIENCE, async || {
        let network = node.cri().pod_status(pod).await?.network;
        Ok(network.unwrap_or_default().ip == address)
    })
    .await
    .unwrap();
}
