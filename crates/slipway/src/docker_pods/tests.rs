//! With a real Docker Engine and CNI plugins, and pods as dockershim makes them.

use std::cell::RefCell;
use std::fs;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use slipway_network::{Attachment, Network};
use slipway_testbed::{Cni, Docker, Scratch};

use super::*;

/// Ends by itself in its own time, and says so by its status.
const OBEDIENT: &str = "trap 'sleep 3; exit 7' TERM; echo ready; while :; do sleep 0.1; done";

struct Node {
    docker: Docker,
    cni: Cni,
    scratch: Arc<Scratch>,
}

impl Node {
    async fn new() -> Self {
        let scratch = Scratch::new().unwrap();
        let cni = Cni::new(&scratch).unwrap();
        let docker = Docker::start(&scratch).await.unwrap();
        let tree = scratch.join("tree");
        fs::create_dir_all(tree.join("bin")).unwrap();
        fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
        for name in ["sh", "sleep"] {
            std::os::unix::fs::symlink("busybox", tree.join("bin").join(name)).unwrap();
        }
        let layer = scratch.join("layer.tar");
        let mut tar = std::process::Command::new("tar");
        tar.arg("-cf").arg(&layer).arg("-C").arg(tree).arg(".");
        assert!(tar.status().unwrap().success());
        docker
            .cli(&["import", layer.to_str().unwrap(), "busybox:1"])
            .unwrap();
        Self {
            docker,
            cni,
            scratch,
        }
    }

    fn node(&self) -> DockerNode {
        DockerNode {
            socket: self.docker.socket(),
            bridge: None,
            cni_cache: self.scratch.join("cni-cache"),
            plugins: vec![self.cni.bin_dir().to_owned()],
            data_root: None,
            networks: Vec::new(),
        }
    }

    /// A container with dockershim's labels.
    fn run(&self, pod: &str, kind: &str, more: &[&str], script: &str) -> String {
        let labels = [
            format!("--label=io.kubernetes.pod.name={pod}"),
            "--label=io.kubernetes.pod.namespace=default".to_owned(),
            format!("--label=io.kubernetes.pod.uid={pod}-uid"),
            format!("--label=io.kubernetes.docker.type={kind}"),
        ];
        let mut words = vec!["run", "-d"];
        words.extend(labels.iter().map(String::as_str));
        words.extend(more);
        words.extend(["busybox:1", "sh", "-c", script]);
        self.docker.cli(&words).unwrap().trim().to_owned()
    }

    fn sandbox(&self, name: &str, network: &str) -> String {
        let named = format!("--name=k8s_POD_{name}_default_{name}-uid_0");
        let network = format!("--net={network}");
        let label = "--label=io.kubernetes.container.name=POD";
        let more = [named.as_str(), network.as_str(), "--ipc=shareable", label];
        self.run(name, "podsandbox", &more, "sleep 10000 & wait")
    }

    fn container(&self, pod: &str, sandbox: &str, grace: Option<u32>, script: &str) -> String {
        let named = format!("--name=k8s_main_{pod}_default_{pod}-uid_0");
        let network = format!("--net=container:{sandbox}");
        let of = format!("--label=io.kubernetes.sandbox.id={sandbox}");
        let grace = grace.map(|grace| format!("--label=annotation.{}={grace}", host::GRACE));
        let label = "--label=io.kubernetes.container.name=main";
        let mut more = vec![named.as_str(), network.as_str(), of.as_str(), label];
        more.extend(grace.as_deref());
        self.run(pod, "container", &more, script)
    }

    /// Attaches a pod as dockershim did, and records it as libcni does.
    async fn attach(&self, pod: &str, name: &str) -> PathBuf {
        let pid = self.inspect("{{.State.Pid}}", pod);
        let config = slipway_network::Config {
            conf_dir: self.cni.conf_dir().to_owned(),
            bin_dirs: vec![self.cni.bin_dir().to_owned()],
            ..Default::default()
        };
        let own = self.scratch.join("dockershim");
        let attachment = Attachment {
            pod_id: pod.to_owned(),
            name: name.to_owned(),
            namespace: "default".to_owned(),
            uid: format!("{name}-uid"),
            netns: format!("/proc/{pid}/ns/net").into(),
            ..Attachment::default()
        };
        let attached = Network::new(config, own.clone())
            .add(&attachment)
            .await
            .unwrap();
        fs::remove_dir_all(own).unwrap();
        let record = json!({
            "kind": "cniCacheV1",
            "containerId": pod,
            "config": STANDARD.encode(self.cni.conflist().unwrap()),
            "ifName": "eth0",
            "networkName": attached.config_name,
            "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAME", name]],
            "capabilityArgs": { "portMappings": [] },
            "result": attached.result,
        });
        let results = self.scratch.join("cni-cache/results");
        fs::create_dir_all(&results).unwrap();
        let file = results.join(format!("{}-{pod}-eth0", attached.config_name));
        fs::write(&file, record.to_string()).unwrap();
        file
    }

    fn inspect(&self, format: &str, id: &str) -> String {
        let said = self.docker.cli(&["inspect", "-f", format, id]).unwrap();
        said.trim().to_owned()
    }

    async fn stop(&self) -> Result<Vec<String>, Error> {
        let said = RefCell::new(Vec::new());
        let progress = |line: &str| said.borrow_mut().push(line.to_owned());
        let [root, state] = ["pods-root", "pods-state"].map(|name| self.scratch.join(name));
        stop_in(&self.node(), root, state, &progress).await?;
        let mut said = said.into_inner();
        said.sort_unstable();
        Ok(said)
    }
}

#[tokio::test]
async fn pods_end_in_their_own_time_and_give_their_networks_back() {
    let mut node = Node::new().await;
    let web = node.sandbox("web", "none");
    let record = node.attach(&web, "web").await;
    let patient = node.container("web", &web, Some(60), OBEDIENT);
    let static_pod = node.sandbox("etcd", "host");
    let hurried = node.container("etcd", &static_pod, Some(0), OBEDIENT);
    let stranger = node
        .docker
        .cli(&["run", "-d", "--net=none", "busybox:1", "sleep", "10000"]);
    let stranger = stranger.unwrap().trim().to_owned();
    for id in [&patient, &hurried] {
        let logged = || node.docker.cli(&["logs", id]).unwrap();
        let ready = async || Ok(logged().contains("ready"));
        let patience = std::time::Duration::from_mins(1);
        slipway_testbed::eventually("the trap", patience, ready)
            .await
            .unwrap();
    }

    // Docker runs, and nobody is sent to look whether it does.
    fs::write(node.scratch.join("pods-root"), "").unwrap();
    let refused = node.stop().await.unwrap_err().to_string();
    assert!(refused.contains("pods-root"), "{refused}");
    assert!(!refused.contains("Docker runs"), "{refused}");
    fs::remove_file(node.scratch.join("pods-root")).unwrap();

    // An engine that was killed half-way is followed by another one.
    node.docker.freeze();
    let cut = tokio::time::timeout(std::time::Duration::from_millis(300), node.stop()).await;
    assert!(cut.is_err());
    node.docker.resume();
    let said = node.stop().await.unwrap();
    assert_eq!(
        said,
        ["pod default/etcd is stopped", "pod default/web is stopped"]
    );
    let state = "{{.State.Running}} {{.State.ExitCode}}";
    assert_eq!(node.inspect(state, &patient), "false 7");
    assert_eq!(node.inspect(state, &hurried), "false 137");
    for id in [&web, &static_pod] {
        assert!(node.inspect(state, id).starts_with("false"), "{id}");
    }
    assert_eq!(node.inspect(state, &stranger), "true 0");
    assert!(!record.exists(), "its network was not given back");
    assert!(node.stop().await.unwrap().is_empty());
    for name in ["pods-root", "pods-state"] {
        assert!(!node.scratch.join(name).exists(), "{name}");
    }
    node.docker.stop().unwrap();
    let refused = node.stop().await.unwrap_err().to_string();
    let socket = node.docker.socket();
    let unanswered = format!("cannot be reached at unix://{}", socket.display());
    for words in [unanswered.as_str(), "systemctl status docker"] {
        assert!(refused.contains(words), "{words:?} is not in {refused:?}");
    }
}

#[test]
fn namespaces_that_were_left_pinned_are_given_back() {
    let scratch = tempfile::tempdir().unwrap();
    let (root, state) = (scratch.path().join("root"), scratch.path().join("state"));
    let pin = state.join("docker/netns/pod");
    fs::create_dir_all(&root).unwrap();
    fs::create_dir_all(pin.parent().unwrap()).unwrap();
    fs::write(&pin, "").unwrap();
    rustix::mount::mount_bind("/proc/self/ns/net", &pin).unwrap();
    for _ in 0..2 {
        forget_in(&root, &state).unwrap();
        assert!(!root.exists() && !state.exists());
    }
}
