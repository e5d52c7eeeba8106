//! `slipway check node` on a node with a real Docker Engine: what no kubelet owns, and nothing else.

use std::fs;

use serde_json::Value;
use slipway_testbed::{Engine, Image, Node, pod, slipway_binary};
use tokio::process::Command;

#[tokio::test]
async fn what_only_docker_has_is_found() {
    let node = Node::start_on(Engine::Docker, |daemon| daemon)
        .await
        .unwrap();
    let docker = node.docker.as_ref().unwrap();
    let pushed = node.provide("busybox:1", &Image::busybox()).await.unwrap();
    let cri = node.cri();
    let config = node.pod("kubernetes-own");
    let pod = cri.run_pod(&config).await.unwrap();
    let container = pod::sleeper("main", &pushed.reference);
    cri.launch(&pod, &config, &container).await.unwrap();
    let own = |arguments: &[&str]| docker.cli(arguments).unwrap();
    own(&["volume", "create", "pgdata"]);
    own(&[
        "run",
        "-d",
        "--name",
        "db",
        "--network=none",
        "-v",
        "pgdata:/data",
        &pushed.reference,
        "sleep",
        "1000",
    ]);
    own(&[
        "create",
        "--name",
        "old",
        "--network=none",
        &pushed.reference,
        "true",
    ]);
    own(&["commit", "db", "built-here:1"]);

    // The tree of a node whose Docker is the test's.
    let tree = node.scratch.join("tree");
    let write = |path: &str, text: &str| {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("proc/1/cmdline", "/sbin/init");
    write("proc/7/cmdline", "/usr/bin/dockerd");
    write("etc/cni/net.d/10-x.conflist", r#"{"plugins": []}"#);
    write("proc/8/cmdline", "/usr/bin/kubelet\0--network-plugin=cni");
    fs::create_dir_all(tree.join("run")).unwrap();
    fs::hard_link(docker.socket(), tree.join("run/docker.sock")).unwrap();
    let output = Command::new(slipway_binary().unwrap())
        .args([
            "check",
            "node",
            "--kubelet-version",
            "1.23",
            "-o",
            "json",
            "--root",
        ])
        .arg(&tree)
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = |rule: &str| -> Vec<&Value> {
        let findings = report["findings"].as_array().unwrap();
        let own = findings.iter().filter(|one| one["rule"] == rule);
        own.map(|one| &one["evidence"][0]["name"]).collect()
    };
    assert_eq!(report["unseen"], Value::Array(Vec::new()), "{report:#}");
    assert_eq!(found("container-outside-kubernetes"), ["db"]);
    assert_eq!(found("container-stopped"), ["old"]);
    assert_eq!(found("volume-only-here"), ["pgdata"]);
    // Neither what came from a registry nor the engine's own pause image.
    assert_eq!(found("image-only-here"), ["built-here:1"]);

    own(&["rm", "-f", "db", "old"]);
    own(&["volume", "rm", "pgdata"]);
    node.finish().await.unwrap();
}
