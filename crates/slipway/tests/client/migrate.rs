//! `slipway migrate plan`: what it prints, and how it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};
use slipway_testbed::{Fault, KubernetesServer};
use tokio::process::Command;

use super::fake::{slipway, stderr};
use super::root_directory::RootDirectory;

const FLAGS: &str = "/var/lib/kubelet/kubeadm-flags.env";

/// A node of kubeadm on dockershim.
pub(crate) fn node(directory: &Path) {
    for (path, text) in [
        ("proc/1/cmdline", "/sbin/init"),
        ("run/systemd/system/x", ""),
        (
            "etc/docker/daemon.json",
            r#"{"registry-mirrors": ["https://mirror.example"]}"#,
        ),
        (
            &FLAGS[1..],
            "KUBELET_KUBEADM_ARGS=\"--network-plugin=cni --v=2\"\n",
        ),
        ("var/lib/kubelet/config.yaml", "cgroupDriver: cgroupfs\n"),
        (
            "lib/systemd/system/kubelet.service",
            "[Service]\nEnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env\nExecStart=/usr/bin/kubelet --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS\n",
        ),
    ] {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[tokio::test]
async fn a_plan_has_each_file_and_changes_none() {
    let directory = tempfile::tempdir().unwrap();
    node(directory.path());
    let before = fs::read(directory.path().join(&FLAGS[1..])).unwrap();
    let root = directory.path().to_str().unwrap();
    let known = ["--root", root, "--kubelet-version", "1.23"];
    let plan = |more: &[&str]| slipway(&[&["migrate", "plan"], more, &known].concat());

    let output = plan(&["--to", "containerd"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for words in [
        "moves to containerd",
        "change /var/lib/kubelet/kubeadm-flags.env",
        "-KUBELET_KUBEADM_ARGS=\"--network-plugin=cni --v=2\"",
        "+KUBELET_KUBEADM_ARGS=\"--v=2 --container-runtime=remote",
        "/etc/containerd/certs.d/docker.io/hosts.toml",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }

    let output = plan(&["--to", "crio", "-o", "json"])
        .output()
        .await
        .unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["target"], "crio");
    assert_eq!(document["kubelet"], "1.23");
    let steps = document["steps"].as_array().unwrap();
    let files: Vec<_> = steps.iter().filter(|step| step["step"] == "file").collect();
    let flags = files.iter().find(|file| file["path"] == FLAGS).unwrap();
    assert_eq!(flags["before"].as_str().unwrap().as_bytes(), before);
    assert!(
        flags["after"]
            .as_str()
            .unwrap()
            .contains("--v=2 --container-runtime=remote")
    );
    assert!(flags["diff"].as_str().unwrap().contains("@@"));

    let after = fs::read(directory.path().join(&FLAGS[1..])).unwrap();
    assert_eq!(after, before);
    assert!(!directory.path().join("etc/containerd").exists());
}

#[tokio::test]
async fn without_a_plan_it_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_str().unwrap();
    let plan = |more: &[&str]| slipway(&[&["migrate", "plan", "--root", root], more].concat());
    let output = plan(&["--to", "slipway"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no kubelet"), "{output:?}");

    node(directory.path());
    let output = plan(&["--to", "slipway"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--kubelet-version"), "{output:?}");

    let output = plan(&["--to", "rkt"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("cri-dockerd"), "{output:?}");

    let known = ["--to", "crio", "--no-drain", "--kubelet-version", "1.23"];
    let output = plan(&known).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("drained"), "{output:?}");

    fs::write(directory.path().join("etc/docker/daemon.json"), "{,}").unwrap();
    let mut output = plan(&["--to", "crio", "--kubelet-version", "1.23"]);
    let output = output.output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("daemon.json:1"), "{output:?}");
}

#[tokio::test]
async fn a_password_is_shown_by_no_command() {
    let directory = tempfile::tempdir().unwrap();
    node(directory.path());
    let proxy = "http://robot:hunter2@proxy.example:3128";
    // Go puts http:// in front.
    let bare = "robot:hunter2@proxy.example:3128";
    let dockerd = format!("/usr/bin/dockerd\0--https-proxy={proxy}\0--http-proxy\0{bare}\0");
    for (path, text) in [
        ("proc/7/cmdline", dockerd.as_str()),
        (
            "etc/docker/daemon.json",
            &format!(
                "{{\"proxies\": {{\"http-proxy\": \"{proxy}\", \"https-proxy\": \"{bare}\"}}}}"
            ),
        ),
        (
            "etc/systemd/system/docker.service",
            &format!(
                "[Service]\nExecStart=/usr/bin/dockerd --http-proxy {bare}\nEnvironment=all_proxy={bare}\n"
            ),
        ),
        (
            "etc/containerd/config.toml",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"r.example\".auth]\npassword = \"hunter2\"\n",
        ),
        (
            "etc/cron.d/images",
            "0 3 * * * root docker login -u robot -p hunter2 r.example && docker pull r.example/a\n",
        ),
    ] {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let root = directory.path().to_str().unwrap();
    let plan = ["migrate", "plan", "--to", "containerd"];
    let check = ["check", "node"];
    for (command, formats) in [
        (&plan[..], &["text", "json", "yaml"][..]),
        (&check[..], &["table", "json", "yaml", "sarif", "html"][..]),
    ] {
        for format in formats {
            let known = ["--root", root, "--kubelet-version", "1.23", "-o", format];
            let output = slipway(&[command, &known].concat()).output().await.unwrap();
            let shown = String::from_utf8(output.stdout).unwrap();
            assert!(shown.contains('…'), "{command:?} {format}: {shown}");
            assert!(!shown.contains("hunter2"), "{command:?} {format}: {shown}");
            let is_marked = shown.contains("\"hidden\": true") || shown.contains("hidden: true");
            let is_plan = command == plan && *format != "text";
            assert_eq!(is_marked, is_plan, "{command:?} {format}");
        }
    }
}

/// A cluster with the Node `a`, as kubeadm made it.
fn cluster() -> KubernetesServer {
    let server = KubernetesServer::start().unwrap();
    let socket = "kubeadm.alpha.kubernetes.io/cri-socket";
    server.put(json!({
        "kind": "Node",
        "metadata": { "name": "a", "annotations": { socket: "/var/run/docker\u{1b}[31mshim.sock" } },
    }));
    server.put(json!({
        "kind": "ConfigMap",
        "metadata": { "namespace": "kube-system", "name": "kubelet-config-1.23" },
        "data": { "kubelet": "cgroupDriver: cgroupfs\nkind: KubeletConfiguration\n" },
    }));
    server
}

const TO_CONTAINERD: [&str; 6] = [
    "migrate",
    "plan",
    "--to",
    "containerd",
    "--kubelet-version",
    "1.23",
];

async fn printed(mut command: Command) -> String {
    let output = command.output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_plan_has_what_objects_say_and_what_could_not_be_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    node(directory.path());
    let server = cluster();
    let kubeconfig = server.kubeconfig();
    let root = ["--root", directory.path().to_str().unwrap()];
    let named = ["--kubeconfig", kubeconfig.to_str().unwrap(), "--node", "a"];
    let plan = |more: &[&str]| slipway(&[&TO_CONTAINERD[..], &root, more].concat());
    let text = printed(plan(&named)).await;
    for words in [
        "  2. cordon the node, so that no new pods come\n       -unschedulable: false\n       +unschedulable: true\n",
        "       -/var/run/docker\u{fffd}[31mshim.sock\n       +unix:///run/containerd/containerd.sock\n",
        "       --- ConfigMap kube-system/kubelet-config-1.23, data.kubelet\n",
        "       -cgroupDriver: cgroupfs\n",
        "       +cgroupDriver: systemd\n",
        "\nNot looked at, so that only the steps say what would change there:\n  - containerd.service (step ",
        "kubelet.service (steps ",
        "--root has a node's files alone",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    let asked = server.take();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|asked| asked.verb == "get"), "{asked:?}");

    let text = printed(plan(&[&named[..], &["-o", "json"]].concat())).await;
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["node"], "a");
    let step = |name: &str| {
        let mut steps = document["steps"].as_array().unwrap().iter();
        steps.find(|step| step["step"] == name).unwrap()
    };
    assert_eq!(step("cordon")["after"], true);
    assert!(step("config-map")["diff"].as_str().unwrap().contains("@@"));
    assert!(step("stop")["unseen"].as_str().unwrap().contains("--root"));

    // Nobody has to be asked, and nobody is.
    server.take();
    let text = printed(plan(&["--node", "a"])).await;
    assert!(
        text.contains("Node a, spec.unschedulable (steps 2, "),
        "{text}"
    );
    let text = printed(plan(&named[..2])).await;
    assert!(text.contains("give it with --node"), "{text}");
    assert!(server.take().is_empty());
}

#[tokio::test]
async fn a_plan_on_the_node_itself_comes_whoever_answers() {
    let root = RootDirectory::new();
    node(root.path());
    let server = cluster();
    let plan = |more: &[&str]| root.slipway(&[&TO_CONTAINERD[..], more].concat());
    // Neither a cluster nor systemd is there.
    let text = printed(plan(&["--node", "a"])).await;
    for words in [
        "kubelet.service (steps ",
        "look at kubelet.service: systemd cannot be reached over the message bus",
        "Node a, spec.unschedulable (steps ",
        "no way to a cluster",
        "--kubeconfig",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    root.bring(&server.kubeconfig(), "kubeconfig");
    let named = ["--node", "a", "--kubeconfig", "/kubeconfig"];
    server.deny("get", "configmaps");
    let text = printed(plan(&named)).await;
    assert!(
        text.contains("+unix:///run/containerd/containerd.sock"),
        "{text}"
    );
    assert!(text.contains("the verb get on configmaps in the namespace kube-system is missing"));
    server.fault(|_| true, 1000, Fault::Status(503));
    let text = printed(plan(&named)).await;
    assert!(
        text.contains("reading the Node a: a fault of the test (503) (given up after 5 seconds)"),
        "{text}"
    );
}

#[tokio::test]
async fn how_far_a_move_is_changes_nothing_and_is_told_to_root() {
    let root = RootDirectory::new();
    let as_nobody = |root: &RootDirectory| {
        let mut command = Command::new("/usr/sbin/chroot");
        command.arg("--userspec=65534:65534").arg(root.path());
        command.args(["/slipway", "migrate", "status"]).env_clear();
        command
    };
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let output = as_nobody(&root).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    root.write("var/lib/slipway-migrate/journal", "");
    let journals = root.path().join("var/lib/slipway-migrate");
    fs::set_permissions(journals, fs::Permissions::from_mode(0o700)).unwrap();
    let output = as_nobody(&root).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = stderr(&output);
    assert!(
        said.contains("for root alone to read") && !said.contains("changes"),
        "{said}"
    );
}
