//! The stand-in for a kubelet does what one does, as far as tests rely on it.

use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use slipway_testbed::{Image, KubernetesServer, Node, eventually};

const LONG: Duration = Duration::from_mins(1);

fn kubelet(version: &str, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stand-in-kubelet"));
    command.env("STAND_IN_KUBELET_VERSION", version).args(words);
    command
}

fn ends(version: &str, words: &[&str]) -> Result<Output> {
    Ok(kubelet(version, words).output()?)
}

#[test]
fn it_says_which_one_it_is_and_refuses_what_that_one_does_not_know() -> Result<()> {
    let output = ends("1.27.3", &["--version"])?;
    ensure!(output.stdout == b"Kubernetes v1.27.3\n", "{output:?}");
    for (version, words, said) in [
        (
            "1.24.0",
            &["--network-plugin=cni"][..],
            "unknown flag: --network-plugin",
        ),
        (
            "1.27.0",
            &["--container-runtime=remote"],
            "unknown flag: --container-runtime",
        ),
        (
            "1.35.0",
            &["--pod-infra-container-image", "a"],
            "unknown flag: --pod-infra-container-image",
        ),
        (
            "1.26.0",
            &["--container-runtime=remote"],
            "endpoint address was not specified",
        ),
        (
            "1.23.0",
            &["--container-runtime=remote"],
            "endpoint address was not specified",
        ),
    ] {
        let output = ends(version, words)?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(1),
            "{version} {words:?}: {output:?}"
        );
        ensure!(told.contains(said), "{version} {words:?}: {told}");
    }
    Ok(())
}

/// A kubelet that goes with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_runs_the_pods_that_are_bound_to_its_node_and_no_others() -> Result<()> {
    let node = Node::start().await?;
    let image = node
        .provide("busybox:1", &Image::busybox())
        .await?
        .reference;
    let server = KubernetesServer::start()?;
    server.claim("n");
    let socket = node.cri().socket().display().to_string();
    let directory = server.directory().join("manifests");
    std::fs::create_dir(&directory)?;
    let config = server.directory().join("config.yaml");
    let text = format!(
        "kind: KubeletConfiguration\ncgroupDriver: cgroupfs\nstaticPodPath: {}\npodLogsDir: {}\n",
        directory.display(),
        node.scratch.join("logs").display()
    );
    std::fs::write(&config, text)?;
    let words = [
        "--hostname-override=n".to_owned(),
        format!("--kubeconfig={}", server.kubeconfig().display()),
        format!("--config={}", config.display()),
        format!("--container-runtime-endpoint=unix://{socket}"),
    ];
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let child = kubelet("1.30.0", &words).stdin(Stdio::null()).spawn()?;
    let running = Running(child);
    let ready = || {
        let node = server.get("nodes", "", "n")?;
        let status = &node["status"];
        let runtime = status["nodeInfo"]["containerRuntimeVersion"]
            .as_str()?
            .to_owned();
        Some(status["conditions"][0]["status"] == "True" && runtime.starts_with("slipway://"))
    };
    eventually("the Node", LONG, async || Ok(ready() == Some(true))).await?;

    let spec = json!({
        "nodeName": "n", "hostNetwork": true, "terminationGracePeriodSeconds": 1,
        "containers": [{ "name": "main", "image": image, "command": ["sleep", "1000"] }],
    });
    let pod = |name: &str, node: &str| {
        let mut spec = spec.clone();
        spec["nodeName"] = node.into();
        json!({ "kind": "Pod", "apiVersion": "v1", "metadata": { "name": name }, "spec": spec })
    };
    server.put(pod("own", "n"));
    server.put(pod("others", "m"));
    std::fs::write(directory.join("a.yaml"), pod("static", "").to_string())?;
    let phase = |name: &str| {
        let pod = server.get("pods", "default", name)?;
        Some(pod["status"]["phase"].as_str()?.to_owned())
    };
    for name in ["own", "static-n"] {
        eventually(name, LONG, async || {
            Ok(phase(name).as_deref() == Some("Running"))
        })
        .await?;
    }
    ensure!(phase("others").as_deref() != Some("Running"));
    ensure!(node.cri().pods().await?.len() == 2);

    // Marked as deleted, it ends and goes; taken away by force, it is a stranger.
    server.change("pods", "default", "own", |pod| {
        pod["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
    });
    eventually("the pod to go", LONG, async || Ok(phase("own").is_none())).await?;
    server.put(pod("forced", "n"));
    eventually("another pod", LONG, async || {
        Ok(phase("forced").as_deref() == Some("Running"))
    })
    .await?;
    server.remove("pods", "default", "forced");
    std::fs::remove_file(directory.join("a.yaml"))?;
    eventually("the runtime to be empty", LONG, async || {
        Ok(node.cri().pods().await?.is_empty())
    })
    .await?;
    ensure!(phase("static-n").is_none(), "the file's pod is still shown");
    drop(running);
    node.finish().await
}
