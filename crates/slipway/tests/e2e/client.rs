//! The client commands against the real daemon.

use std::process::{Command, Output};
use std::time::Duration;

use slipway_testbed::{Image, Node, eventually, leaks, slipway_binary};

use crate::on_docker;

const PATIENCE: Duration = Duration::from_secs(30);

fn slipway(node: &Node, arguments: &[&str]) -> Output {
    let endpoint = format!("unix://{}", node.cri().socket().display());
    Command::new(slipway_binary().unwrap())
        .args(["--endpoint", &endpoint])
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn prints(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {error}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_listed_and_removed() {
    let node = Node::start().await.unwrap();
    let reference = node
        .registry
        .push("app:1", &Image::busybox())
        .await
        .unwrap()
        .reference;
    let id = prints(&slipway(&node, &["pull", "-q", &reference]))
        .trim()
        .to_owned();
    assert!(id.starts_with("sha256:"), "{id}");
    let table = prints(&slipway(&node, &["images"]));
    let (name, tag) = reference.rsplit_once(':').unwrap();
    assert!(table.contains(name) && table.contains(tag), "{table}");
    let json: serde_json::Value =
        serde_json::from_str(&prints(&slipway(&node, &["images", "-o", "json"]))).unwrap();
    assert_eq!(json["images"][0]["repoTags"][0], reference.as_str());
    prints(&slipway(&node, &["rmi", &reference]));
    assert!(!prints(&slipway(&node, &["images", "-q"])).contains(&id));
    let absent = slipway(
        &node,
        &["pull", &format!("{}x", reference.replace("app", "nope"))],
    );
    assert_eq!(absent.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&absent.stderr).contains("nope"));
    node.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn run_shows_output_returns_the_code_and_removes_everything() {
    let node = Node::start().await.unwrap();
    let reference = node
        .registry
        .push("app:1", &Image::busybox())
        .await
        .unwrap()
        .reference;
    let script = "echo to stdout; echo to stderr >&2; printf unfinished; exit 7";
    let output = slipway(&node, &["run", &reference, "--", "sh", "-c", script]);
    assert_eq!(
        output.status.code(),
        Some(7),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "to stdout\nunfinished"
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("to stderr\n"));
    assert!(node.cri().pods().await.unwrap().is_empty());
    leaks::assert_none(&node.scratch);
    let missing = slipway(&node, &["run", &reference, "--", "/no/such/command"]);
    assert_eq!(missing.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/no/such/command"));
    assert!(node.cri().pods().await.unwrap().is_empty());
    node.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_looked_at_from_every_side() {
    let node = Node::start().await.unwrap();
    let reference = node
        .registry
        .push("app:1", &Image::busybox())
        .await
        .unwrap()
        .reference;
    let script = "echo one; echo two; sleep 1000";
    let run = [
        "run",
        "-d",
        "--name",
        "looked-at",
        &reference,
        "--",
        "sh",
        "-c",
        script,
    ];
    let id = prints(&slipway(&node, &run)).trim().to_owned();
    let short = &id[..12];
    assert!(prints(&slipway(&node, &["ps"])).contains("Running"));
    assert!(prints(&slipway(&node, &["pods"])).contains("Ready"));
    let exec = slipway(
        &node,
        &["exec", "-s", short, "--", "sh", "-c", "echo inside; exit 3"],
    );
    assert_eq!(exec.status.code(), Some(3));
    assert_eq!(String::from_utf8_lossy(&exec.stdout), "inside\n");
    eventually("what it has said", PATIENCE, async || {
        let said = prints(&slipway(&node, &["logs", short]));
        Ok(said.starts_with("one\ntwo\n"))
    })
    .await
    .unwrap();
    assert!(prints(&slipway(&node, &["logs", "--tail", "1", short])).starts_with("two\n"));
    assert!(prints(&slipway(&node, &["inspect", short])).contains(&id));
    assert!(prints(&slipway(&node, &["info"])).contains("NetworkReady"));
    assert!(prints(&slipway(&node, &["version"])).contains("slipway"));
    let stats = prints(&slipway(&node, &["stats"]));
    assert!(stats.contains("CPU %") && stats.contains(short), "{stats}");
    prints(&slipway(&node, &["stop", "--timeout", "0", short]));
    assert!(prints(&slipway(&node, &["ps", "-a"])).contains("Exited"));
    prints(&slipway(&node, &["rm", short]));
    let pods = prints(&slipway(&node, &["pods", "-q"]));
    for pod in pods.lines() {
        prints(&slipway(&node, &["rmp", "-f", pod]));
    }
    let gone = slipway(&node, &["inspect", &id]);
    assert_eq!(gone.status.code(), Some(1));
    node.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_that_runs_pods_is_listed_with_them() {
    let node = Node::start().await.unwrap();
    let id = node.cri().run_pod(&node.pod("only")).await.unwrap();
    let json = prints(&slipway(&node, &["engines", "-o", "json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let [engine] = &json["engines"].as_array().unwrap()[..] else {
        panic!("one engine is wanted: {json}");
    };
    let name = if on_docker() { "docker" } else { "native" };
    assert_eq!(engine["name"], name);
    assert_eq!(engine["takesNewPods"], true);
    assert_eq!(engine["trouble"], "");
    assert_eq!(engine["pods"][0]["id"], id.as_str());
    assert_eq!(engine["pods"][0]["name"], "only");
    node.finish().await.unwrap();
}
