//! Ctrl-C in the middle of a move: where it stands is said, the journal is whole, and it is gone on
//! with or taken back. The command runs in a root directory of its own, which is a node.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use slipway_testbed::{Fault, KubernetesServer, eventually};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use super::fake::stderr;
use super::root_directory::RootDirectory;

const PATIENCE: Duration = Duration::from_mins(1);
const JOURNAL: &str = "var/lib/slipway-migrate/journal";

/// A node whose drain waits for a disruption budget that does not open.
struct Node {
    root: RootDirectory,
    server: KubernetesServer,
}

impl Node {
    fn new() -> Self {
        let root = RootDirectory::new();
        super::migrate::node(root.path());
        let server = KubernetesServer::start().unwrap();
        server.put(json!({
            "kind": "Node", "metadata": { "name": "a" },
            "status": {
                "conditions": [{ "type": "Ready", "status": "True" }],
                "nodeInfo": { "containerRuntimeVersion": "docker://20.10.8" },
            },
        }));
        let owner = json!({ "kind": "ReplicaSet", "name": "o", "uid": "o", "controller": true });
        server.put(json!({
            "kind": "Pod",
            "metadata": {
                "namespace": "shop", "name": "web", "labels": { "app": "web" },
                "ownerReferences": [owner],
            },
            "spec": { "nodeName": "a", "containers": [] },
            "status": { "phase": "Running" },
        }));
        server.put(json!({
            "kind": "PodDisruptionBudget", "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "selector": { "matchLabels": { "app": "web" } } },
            "status": { "disruptionsAllowed": 0, "desiredHealthy": 1, "currentHealthy": 1 },
        }));
        let node = Self { root, server };
        node.root.bring(&node.server.kubeconfig(), "kubeconfig");
        // The target is there, so that nothing is installed.
        node.root
            .bring(Path::new("/bin/true"), "usr/bin/containerd");
        node
    }

    fn migrate(&self, arguments: &[&str]) -> Command {
        let mut command = self.root.slipway(&[&["migrate"], arguments].concat());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn apply(&self, more: &[&str]) -> Child {
        let known = ["--to", "containerd", "--yes", "--node", "a"];
        let known = [&["apply"], &known[..]].concat();
        let access = ["--kubeconfig", "/kubeconfig", "--kubelet-version", "1.23"];
        self.migrate(&[&known, &access[..], more].concat())
            .spawn()
            .unwrap()
    }

    fn journal(&self) -> String {
        fs::read_to_string(self.root.path().join(JOURNAL)).unwrap_or_default()
    }

    /// Waits until the server was asked to evict the pod.
    async fn draining(&self, moving: &mut Child) {
        self.asked(moving, "create pods/eviction shop/web").await;
    }

    async fn asked(&self, moving: &mut Child, wanted: &str) {
        let asked = async || {
            let asked = self.server.take();
            Ok(asked.iter().any(|asked| asked.to_string() == wanted))
        };
        tokio::select! {
            asked = eventually(wanted, PATIENCE, asked) => asked.unwrap(),
            status = moving.wait() => {
                let mut said = String::new();
                let mut stderr = moving.stderr.take().unwrap();
                stderr.read_to_string(&mut said).await.unwrap();
                panic!("{}: {said}", status.unwrap());
            }
        }
    }

    async fn status(&self) -> Value {
        let mut command = self.migrate(&["status", "-o", "json"]);
        let output = command.output().await.unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn send(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[track_caller]
fn assert_cut(output: &Output, code: i32, words: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    let last = said.lines().last().unwrap();
    for words in words {
        assert!(last.contains(words), "{words:?} is not in {last:?}");
    }
}

#[tokio::test]
async fn ctrl_c_says_where_it_stands_and_the_move_is_gone_on_with_or_taken_back() {
    let node = Node::new();
    let whole = ["resume", "rollback"];
    let mut moving = node.apply(&[]);
    node.draining(&mut moving).await;
    send(&moving, Signal::INT);
    let output = moving.wait_with_output().await.unwrap();
    let words = ["slipway: interrupted in step 2 of ", "(drain"];
    assert_cut(&output, 130, &[&words[..], &whole].concat());
    let journal = node.journal();
    assert!(journal.ends_with('\n'));
    for line in journal.lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
    let status = node.status().await;
    assert_eq!(status["phase"], "applying");
    assert_eq!(status["steps"][1]["progress"], "begun");

    // Nobody holds it any more. By SIGTERM it is the same.
    let mut moving = node.migrate(&["resume"]).spawn().unwrap();
    node.draining(&mut moving).await;
    send(&moving, Signal::TERM);
    let output = moving.wait_with_output().await.unwrap();
    assert_cut(&output, 143, &words);
    assert_eq!(node.journal(), journal, "nothing was done again");

    let mut back = node.migrate(&["rollback"]);
    let output = back.output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(output.stdout, b"All is as it was.\n");
    let node_object = node.server.get("nodes", "", "a").unwrap();
    assert_ne!(node_object["spec"]["unschedulable"], true);
    assert_eq!(node.status().await["phase"], "rolled-back");
}

#[tokio::test]
async fn a_rollback_asks_first_whether_the_cluster_allows_it() {
    let node = Node::new();
    let mut moving = node.apply(&["--announce"]);
    node.draining(&mut moving).await;
    send(&moving, Signal::INT);
    moving.wait_with_output().await.unwrap();
    let journal = node.journal();
    node.server.deny("patch", "nodes");
    let refused = node.migrate(&["rollback"]).output().await.unwrap();
    let words = [
        "RBAC does not allow what it needs: verb patch on nodes",
        "nothing was taken back",
        "slipway migrate rollback --skip-preflight",
    ];
    assert_cut(&refused, 1, &words);
    assert_eq!(node.journal(), journal);
    assert_eq!(node.status().await["phase"], "applying");

    // Who says so has taken back what can be.
    let mut back = node.migrate(&["rollback", "--skip-preflight"]);
    let output = back.output().await.unwrap();
    assert_cut(&output, 1, &["not all could be taken back", "verb patch"]);
    assert_eq!(node.status().await["phase"], "rolling-back");
}

#[tokio::test]
async fn ctrl_c_on_the_way_back_says_that_it_is_the_way_back() {
    let node = Node::new();
    let mut moving = node.apply(&[]);
    node.draining(&mut moving).await;
    send(&moving, Signal::INT);
    moving.wait_with_output().await.unwrap();
    let late = Fault::Late(Duration::from_mins(10));
    node.server
        .fault(|asked| asked.to_string() == "patch nodes a", 1, late);
    let mut back = node.migrate(&["rollback"]).spawn().unwrap();
    node.asked(&mut back, "patch nodes a").await;
    send(&back, Signal::INT);
    let output = back.wait_with_output().await.unwrap();
    let words = [
        "interrupted while step 1 of",
        "taken back",
        "rollback goes on",
    ];
    assert_cut(&output, 130, &words);
    let mut back = node.migrate(&["resume"]);
    let output = back.output().await.unwrap();
    assert_eq!(output.stdout, b"All is as it was.\n", "{}", stderr(&output));
}

#[tokio::test]
async fn a_second_ctrl_c_waits_for_nobody() {
    let node = Node::new();
    let mut moving = node.apply(&["--announce"]);
    node.draining(&mut moving).await;
    node.server.take();
    // What is to be said to those who follow the node does not come through.
    let late = Fault::Late(Duration::from_mins(10));
    node.server
        .fault(|asked| asked.to_string() == "patch nodes a", 10, late);
    send(&moving, Signal::INT);
    node.asked(&mut moving, "patch nodes a").await;
    send(&moving, Signal::INT);
    let ended = tokio::time::timeout(PATIENCE, moving.wait_with_output());
    let output = ended.await.unwrap().unwrap();
    assert!(output.status.signal().is_none());
    assert_cut(&output, 130, &["interrupted in step 2 of ", "resume"]);
}

#[tokio::test]
async fn who_is_refused_because_of_a_move_says_so_to_those_who_follow_the_node() {
    let node = Node::new();
    let mut moving = node.apply(&[]);
    node.draining(&mut moving).await;
    // Another one is at work.
    let refused = node
        .apply(&["--announce"])
        .wait_with_output()
        .await
        .unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    let said = || {
        let object = node.server.get("nodes", "", "a").unwrap();
        let state = &object["metadata"]["annotations"]["migrate.slipway/state"];
        serde_json::from_str::<Value>(state.as_str().unwrap()).unwrap()
    };
    assert_eq!(said()["phase"], "stopped", "{}", said());
    send(&moving, Signal::INT);
    moving.wait_with_output().await.unwrap();
    node.server.change("nodes", "", "a", |node| {
        node["metadata"]["annotations"] = json!({});
    });
    // Nobody is, and it is not over.
    let refused = node
        .apply(&["--announce"])
        .wait_with_output()
        .await
        .unwrap();
    assert!(
        stderr(&refused).contains("is not over"),
        "{}",
        stderr(&refused)
    );
    assert_eq!(said()["phase"], "stopped", "{}", said());
    assert!(said()["reason"].as_str().unwrap().contains("is not over"));
}
