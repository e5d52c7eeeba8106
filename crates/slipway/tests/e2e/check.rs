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

    // A move would stop it with Docker, and does not unless it is told to.
    write(
        "lib/systemd/system/kubelet.service",
        "[Service]\nExecStart=/usr/bin/kubelet --network-plugin=cni $KUBELET_EXTRA_ARGS\nEnvironmentFile=-/etc/default/kubelet\n",
    );
    write(
        "lib/systemd/system/docker.service",
        "[Service]\nExecStart=/usr/bin/dockerd\n",
    );
    let plan = async |more: &[&str]| {
        let mut command = Command::new(slipway_binary().unwrap());
        command.args(["migrate", "plan", "--to", "containerd", "--root"]);
        command
            .arg(&tree)
            .args(["--kubelet-version", "1.23"])
            .args(more);
        command.output().await.unwrap()
    };
    let refused = plan(&[]).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains("no kubelet owns") && said.contains(": db;"),
        "{said}"
    );
    let allowed = plan(&["--stop-other-containers"]).await;
    assert!(allowed.status.success(), "{allowed:?}");

    own(&["rm", "-f", "db", "old"]);
    own(&["volume", "rm", "pgdata"]);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_move_that_cannot_begin_says_why_and_leaves_nothing() {
    let slipway = slipway_binary().unwrap();
    let run = async |user: u32, arguments: &[&str]| {
        let mut command = Command::new(&slipway);
        command.arg("migrate").args(arguments).uid(user);
        let output = command.output().await.unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let nobody = 65534;
    for arguments in [
        &["apply", "--to", "slipway"][..],
        &["resume"],
        &["rollback"],
        &["clean"],
    ] {
        let (code, said) = run(nobody, arguments).await;
        assert_eq!(code, Some(1), "{arguments:?}: {said}");
        assert!(said.contains("run it as root"), "{arguments:?}: {said}");
    }
    for (arguments, why) in [
        (&["apply", "--to", "slipway"][..], "no kubelet runs here"),
        (&["resume"], "has not begun to move"),
        (&["rollback"], "has not begun to move"),
        (&["clean", "--yes"], "has not moved"),
    ] {
        let (code, said) = run(0, arguments).await;
        assert_eq!(code, Some(1), "{arguments:?}: {said}");
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
    let (code, said) = run(0, &["apply", "--to", "podman"]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("slipway, containerd, crio, cri-dockerd"),
        "{said}"
    );
    assert!(!std::path::Path::new("/var/lib/slipway-migrate").exists());
}
