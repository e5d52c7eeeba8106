//! A move that a rollout begins: `slipway migrate cluster` makes a Job, and its pod has the node's
//! systemd do the rest. What runs the pod is a stand-in for the Job's controller and the kubelet.

use std::fs;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use slipway_testbed::eventually;

use super::cluster::{Cluster, LONG, NODE};
use crate::vm::package::shell;

/// Where everything of a rollout is, and its name.
const NAME: &str = "slipway-migrate";

/// The Secret's key, as the file that its volume has.
const KUBECONFIG: &str = "kubeconfig";

/// What a static program in an image would not need: the machine's is linked to its libraries.
const LIBRARIES: &str =
    "-v /usr/bin/slipway:/usr/bin/slipway:ro -v /lib:/lib:ro -v /lib64:/lib64:ro";

/// Moves the only node there is, and waits until the rollout has ended.
pub(super) async fn roll_out(cluster: &Cluster, target: &str) -> Result<()> {
    let mut rollout = Command::new("slipway")
        .args(["migrate", "cluster", "--to", target])
        .args(["--image", cluster.image(), "--nodes", NODE])
        .args(["--kubeconfig", "/etc/kubernetes/admin.conf"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let started = start_job(cluster).await;
    if started.is_err() {
        // It would wait for a node that nobody moves.
        rollout.kill()?;
    }
    let ended = ended(rollout);
    started.with_context(|| format!("the rollout: {ended:?}"))?;
    let said = ended?;
    for words in ["asked to move", "all steps are done", "has moved"] {
        ensure!(said.contains(words), "it did not say {words:?}:\n{said}");
    }
    for resource in ["jobs", "secrets", "serviceaccounts", "clusterroles"] {
        let left = cluster.list(resource);
        ensure!(left.is_empty(), "the rollout has left {left:?}");
    }
    Ok(())
}

fn ended(rollout: Child) -> Result<String> {
    let output = rollout.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(
        output.status.success(),
        "the rollout ended with {}:\n{said}",
        output.status
    );
    Ok(said)
}

/// Runs the Job's pod in Docker, as its specification wants it.
async fn start_job(cluster: &Cluster) -> Result<()> {
    let mut job = None;
    eventually("a Job", LONG, async || {
        job = cluster.list("jobs").pop();
        Ok(job.is_some())
    })
    .await?;
    let job = job.context("there is no Job")?;
    let spec = &job["spec"]["template"]["spec"];
    let container = &spec["containers"][0];
    ensure!(spec["nodeName"] == NODE, "it is for another node: {spec}");
    let mut words = Vec::new();
    if spec["hostPID"] == true {
        words.push("--pid=host".to_owned());
    }
    if container["securityContext"]["privileged"] == true {
        words.push("--privileged".to_owned());
    }
    let secret = text(&spec["volumes"][0]["secret"]["secretName"])?;
    let mounted = text(&container["volumeMounts"][0]["mountPath"])?;
    let secret = cluster.get("secrets", NAME, secret)?;
    let credentials = text(&secret["data"][KUBECONFIG])?;
    let directory = "/run/secret-of-job";
    fs::create_dir_all(directory)?;
    fs::write(
        format!("{directory}/{KUBECONFIG}"),
        STANDARD.decode(credentials)?,
    )?;
    words.push(format!("-v {directory}:{mounted}:ro {LIBRARIES}"));
    words.push(text(&container["image"])?.to_owned());
    let command = container["command"].as_array().into_iter().flatten();
    for word in command {
        words.push(text(word)?.to_owned());
    }
    // As the kubelet's own, which a move may stop.
    let run = "docker run --rm --network=none --label=io.kubernetes.docker.type=container";
    let said = shell(&format!("{run} {} 2>&1", words.join(" ")))?;
    fs::remove_dir_all(directory)?;
    ensure!(said.contains("has begun to move"), "the Job said:\n{said}");
    Ok(())
}

fn text(value: &Value) -> Result<&str> {
    value
        .as_str()
        .with_context(|| format!("{value} is no text"))
}
