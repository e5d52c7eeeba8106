//! `slipway migrate cluster` against a server that speaks the Kubernetes API, with nodes that say
//! what real ones would.

use std::process::Output;

use serde_json::{Value, json};
use slipway_testbed::{KubernetesServer, slipway_binary};
use tokio::process::Command;

const STATE: &str = "migrate.slipway/state";

fn cluster(nodes: &[&str]) -> KubernetesServer {
    let server = KubernetesServer::start().unwrap();
    for name in nodes {
        server.put(json!({
            "kind": "Node", "metadata": { "name": name },
            "status": {
                "conditions": [{ "type": "Ready", "status": "True" }],
                "nodeInfo": { "containerRuntimeVersion": "docker://20.10.8" },
            },
        }));
    }
    server
}

/// Runs the command, and has `begin` do what each Job would, by the Node's name and what its pod is to
/// run.
async fn run(
    server: &KubernetesServer,
    more: &[&str],
    mut begin: impl FnMut(&str, Vec<String>),
) -> Output {
    let mut command = Command::new(slipway_binary().unwrap());
    command
        .args(["migrate", "cluster", "--to", "containerd"])
        .args(["--image", "example.com/slipway:1", "--kubeconfig"])
        .arg(server.kubeconfig())
        .args(more)
        .kill_on_drop(true);
    let nodes = async {
        let mut changes = server.changes();
        let mut seen = Vec::new();
        loop {
            changes.borrow_and_update();
            for job in server.list("jobs") {
                if !seen.contains(&job["metadata"]["uid"]) {
                    seen.push(job["metadata"]["uid"].clone());
                    let spec = &job["spec"]["template"]["spec"];
                    let command = spec["containers"][0]["command"].as_array().unwrap();
                    let words = command.iter().map(|word| word.as_str().unwrap().to_owned());
                    begin(spec["nodeName"].as_str().unwrap(), words.collect());
                }
            }
            changes.changed().await.unwrap();
        }
    };
    tokio::select! {
        output = command.output() => output.unwrap(),
        () = nodes => unreachable!("it goes on for ever"),
    }
}

fn says(server: &KubernetesServer, node: &str, runtime: &str, state: &Value) {
    server.change("nodes", "", node, |node| {
        node["metadata"]["annotations"][STATE] = state.to_string().into();
        node["status"]["nodeInfo"]["containerRuntimeVersion"] = runtime.into();
    });
}

#[tokio::test]
async fn a_cluster_moves_and_it_is_told_how_far_it_is() {
    let server = cluster(&["a", "b"]);
    let mut commands = Vec::new();
    let more = [
        "--force",
        "--drain-timeout",
        "90s",
        "--probe-image",
        "x/y:1",
    ];
    let output = run(&server, &more, |node, command| {
        commands.push(command);
        let applied = json!({ "target": "containerd", "phase": "applied" });
        says(&server, node, "containerd://1.7.2", &applied);
    })
    .await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(output.stdout, b"All nodes are on containerd.\n");
    for line in [
        "a: asked to move",
        "a: has moved",
        "b: asked to move",
        "b: has moved",
    ] {
        assert!(said.lines().any(|one| one == line), "{line}: {said}");
    }
    // What Jobs are to run is understood: all of it is read before --help is followed.
    assert_eq!(commands.len(), 2);
    for command in commands {
        assert_eq!(command[..3], ["slipway", "migrate", "node-job"]);
        for wanted in ["--force", "--drain-timeout=90", "--probe-image=x/y:1"] {
            assert!(command.iter().any(|word| word == wanted), "{command:?}");
        }
        let mut help = Command::new(slipway_binary().unwrap());
        let help = help
            .args(&command[1..])
            .arg("--help")
            .output()
            .await
            .unwrap();
        assert!(help.status.success(), "{help:?}");
    }
}

#[tokio::test]
async fn a_node_that_goes_back_ends_it() {
    let server = cluster(&["a", "b"]);
    let output = run(&server, &[], |node, _| {
        let back = json!({
            "target": "containerd", "phase": "taken-back", "reason": "no CNI plugin",
        });
        says(&server, node, "docker://20.10.8", &back);
    })
    .await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for wanted in [
        "the Node a: no CNI plugin",
        "not begun: b",
        "with the same command",
    ] {
        assert!(said.contains(wanted), "{said}");
    }
    assert!(server.get("namespaces", "", "slipway-migrate").is_none());
}

#[tokio::test]
async fn a_cluster_that_cannot_be_moved_is_left_as_it_is() {
    let server = cluster(&["a"]);
    server.deny("create", "clusterroles");
    for (more, wanted) in [
        (&["--max-unavailable", "0"][..], "--max-unavailable"),
        (
            &[],
            "verb create on clusterroles of the API group rbac.authorization.k8s.io",
        ),
    ] {
        let output = run(&server, more, |node, _| panic!("{node} begins")).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{said}");
        assert!(said.contains(wanted), "{said}");
    }
    assert!(server.get("namespaces", "", "slipway-migrate").is_none());
}
