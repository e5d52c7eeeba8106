//! The moves. It goes on after the machine was rebooted in the middle of one.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use slipway_testbed::eventually;

use super::cluster::{CRI_SOCKET, Cluster, LONG};
use super::ground;
use super::rollout::roll_out;
use super::snapshot::Snapshot;
use crate::vm::package::{blocking, refused, shell, step};

use Moment::{Begins, Says};

/// What has to be known after the reboot.
const NOTE: &str = "/var/lib/moving-test.json";

const APPLY: &str = "apply --yes --to slipway";

/// The pods that the node has, by the names that the API has for them.
const PODS: [&str; 3] = ["agent-x", "etcd-node", "web"];

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    boot: String,
    image: String,
    objects: Vec<Value>,
}

/// How much is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vm) enum Extent {
    /// Moves that nothing comes in between.
    Undisturbed,
    /// Those, and moves that are killed, or that the machine is rebooted in.
    All,
}

/// Goes on where it was before the machine was rebooted, or begins.
///
/// # Errors
/// What a step found; those before it are named on standard output.
pub(in crate::vm) fn inside(extent: Extent) -> Result<()> {
    blocking(async {
        let outcome = match (fs::read(NOTE), extent) {
            (Err(_), Extent::Undisturbed) => undisturbed().await,
            (Err(_), Extent::All) => before_reboot().await,
            (Ok(note), _) => after_reboot(serde_json::from_slice(&note)?).await,
        };
        if outcome.is_err() {
            let units = "-u kubelet -u slipway";
            println!(
                "{}",
                shell(&format!("journalctl --no-pager -n 60 {units}"))?
            );
        }
        outcome
    })
}

async fn undisturbed() -> Result<()> {
    let (_, cluster, before) = begin().await?;
    step(
        "a move that evicts nothing",
        without_drain(&before, &cluster),
    )
    .await?;
    there_and_back(&cluster).await
}

/// A node with pods on Docker, its cluster, and how it is.
async fn begin() -> Result<(String, Cluster, Snapshot)> {
    let image = step("a node with Docker", ground::make()).await?;
    let cluster = Cluster::start(&image, &[])?;
    cluster.populate(ground::CONFIGURATION);
    step("its kubelet", async {
        ground::start_kubelet(&cluster)?;
        cluster.is_ready_on("docker://").await?;
        cluster.annotate();
        cluster.runs(&PODS).await
    })
    .await?;
    let before = Snapshot::take(&cluster)?;
    step("plans that change nothing", async {
        plans(&before, &cluster)
    })
    .await?;
    Ok((image, cluster, before))
}

async fn before_reboot() -> Result<()> {
    let (image, cluster, before) = begin().await?;
    step(
        "a move that evicts nothing",
        without_drain(&before, &cluster),
    )
    .await?;
    step(
        "a move that is killed again and again",
        killed_on_its_way(&cluster),
    )
    .await?;
    step(
        "a rollback that is killed",
        killed_on_its_way_back(&before, &cluster),
    )
    .await?;
    step(
        "moves that are killed and taken back",
        taken_back_from_the_middle(&before, &cluster),
    )
    .await?;
    step("a move into a reboot", async {
        killed(APPLY, Begins("and start it anew", "kubelet.service"))
    })
    .await?;
    let note = Note {
        boot: boot()?,
        image,
        objects: cluster.objects(),
    };
    fs::write(NOTE, serde_json::to_vec(&note)?)?;
    println!("reboot");
    shell("sync; systemctl reboot")?;
    // The machine's agent is ended by the reboot, and must not see this program end before it.
    std::future::pending().await
}

async fn after_reboot(note: Note) -> Result<()> {
    ensure!(boot()? != note.boot, "the machine was not rebooted");
    let cluster = Cluster::start(&note.image, &note.objects)?;
    step("resumed after a reboot", async {
        println!("{}", migrate("status")?);
        migrate("resume")?;
        is_moved(&cluster, "slipway://").await
    })
    .await?;
    step("taken back after a reboot", async {
        migrate("rollback")?;
        is_back(&cluster).await
    })
    .await?;
    there_and_back(&cluster).await?;
    step("no way back", async {
        migrate(APPLY)?;
        is_moved(&cluster, "slipway://").await?;
        migrate("clean --yes")?;
        ensure!(
            !Path::new("/var/lib/docker").exists(),
            "Docker's data is there"
        );
        refused("slipway migrate rollback", &["slipway migrate apply"])
    })
    .await
}

async fn there_and_back(cluster: &Cluster) -> Result<()> {
    let before = Snapshot::take(cluster)?;
    step("a rollout to containerd", async {
        roll_out(cluster, "containerd").await?;
        is_moved(cluster, "containerd://").await
    })
    .await?;
    step("back from containerd", async {
        // The rollout's credentials have gone with it.
        migrate("rollback --kubeconfig /etc/kubernetes/admin.conf")?;
        is_back(cluster).await?;
        before.is_same(cluster)
    })
    .await
}

fn boot() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?)
}

/// Runs `slipway migrate` to its end, and gives what it said.
fn migrate(words: &str) -> Result<String> {
    shell(&format!("slipway migrate {words} 2>&1"))
}

/// When a move is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// A step with these words begins.
    Begins(&'static str, &'static str),
    /// This is said in the middle of a step.
    Says(&'static str),
}

impl Moment {
    fn is_told_by(self, line: &str) -> bool {
        match self {
            Self::Begins(doing, what) => {
                line.starts_with('[') && line.contains(doing) && line.contains(what)
            }
            Self::Says(words) => line.starts_with(' ') && line.contains(words),
        }
    }
}

/// Runs `slipway migrate`, and kills it at a moment.
fn killed(command: &str, moment: Moment) -> Result<()> {
    let mut child = Command::new("slipway")
        .arg("migrate")
        .args(command.split(' '))
        .stderr(Stdio::piped())
        .spawn()?;
    let lines = child.stderr.take().context("there is no pipe")?;
    let mut said = Vec::new();
    for line in BufReader::new(lines).lines() {
        let line = line?;
        let is_now = moment.is_told_by(&line);
        said.push(line);
        if is_now {
            child.kill()?;
            child.wait()?;
            return Ok(());
        }
    }
    let status = child.wait()?;
    anyhow::bail!(
        "it ended with {status} before {moment:?}:\n{}",
        said.join("\n")
    )
}

fn plans(before: &Snapshot, cluster: &Cluster) -> Result<()> {
    for (target, words) in [
        ("slipway", "/run/slipway/slipway.sock"),
        ("slipway --no-drain", "also = \"docker\""),
        ("containerd", "/run/containerd/containerd.sock"),
        ("crio", "/etc/crio/crio.conf.d"),
        ("cri-dockerd", "cri-docker.service"),
    ] {
        let plan = migrate(&format!("plan --to {target}"))?;
        // Of the kubelet's unit at least, as systemd has it.
        let is_whole = plan.contains("-enabled, active") && !plan.contains("Not looked at");
        ensure!(
            plan.contains(words) && is_whole,
            "the plan for {target} is:\n{plan}"
        );
    }
    before.is_same(cluster)
}

/// Every process of a container in Docker.
fn in_docker() -> Result<String> {
    // One that goes before it is looked at is none.
    let inspect = "docker inspect -f '{{.Id}} {{.State.Pid}}'";
    shell(&format!(
        "docker ps -q --no-trunc | sort | xargs -r {inspect} || true"
    ))
}

async fn without_drain(before: &Snapshot, cluster: &Cluster) -> Result<()> {
    let processes = in_docker()?;
    ensure!(!processes.is_empty(), "there are no containers in Docker");
    migrate("apply --yes --to slipway --no-drain")?;
    cluster.is_ready_on("slipway://").await?;
    cluster.runs(&PODS).await?;
    ensure!(in_docker()? == processes, "Docker's containers are others");
    let engines = shell("slipway engines")?;
    ensure!(engines.contains("web"), "slipway engines says:\n{engines}");
    // A new pod is native, and goes with Slipway.
    cluster.put("default", "another", None, false);
    cluster
        .runs(&["agent-x", "another", "etcd-node", "web"])
        .await?;
    ensure!(in_docker()? == processes, "the new pod is in Docker");
    refused("slipway migrate apply --yes --to slipway", &["slipway"])?;
    migrate("rollback")?;
    cluster.is_ready_on("docker://").await?;
    cluster.remove("default", "another");
    cluster.runs(&PODS).await?;
    eventually("the new pod to go", LONG, async || {
        Ok(in_docker()? == processes)
    })
    .await?;
    before.is_same(cluster)
}

/// The node is on another runtime, with all that belongs there.
async fn is_moved(cluster: &Cluster, runtime: &str) -> Result<()> {
    cluster.is_ready_on(runtime).await?;
    cluster.takes_pods()?;
    cluster.put("default", "web", Some("ReplicaSet"), false);
    cluster.runs(&PODS).await?;
    let name = runtime.trim_end_matches("://");
    let annotation = &cluster.node()?["metadata"]["annotations"][CRI_SOCKET];
    ensure!(
        annotation.to_string().contains(name),
        "the annotation is {annotation}"
    );
    has_proxy(name)?;
    let docker = shell("systemctl is-active docker.service || true")?;
    ensure!(docker == "inactive", "Docker is {docker}");
    let left = shell("iptables-save | grep -c -i docker || true")?;
    ensure!(left == "0", "{left} rules of Docker's are left");
    Ok(())
}

/// A unit has the proxy that Docker had, and nobody but root learns its password.
fn has_proxy(unit: &str) -> Result<()> {
    let process = shell(&format!("systemctl show -p MainPID --value {unit}"))?;
    let variables = fs::read(format!("/proc/{process}/environ"))?;
    let variables = String::from_utf8_lossy(&variables);
    ensure!(
        variables.split('\0').any(|one| one == ground::PROXY),
        "{unit} runs with {variables:?}"
    );
    let told = shell(&format!("systemctl show {unit}"))?;
    ensure!(!told.contains("sesame"), "systemd tells the password");
    let files = format!("grep -rl sesame /etc/systemd/system/{unit}.service.d | xargs stat -c %a");
    let modes = shell(&files)?;
    ensure!(modes == "600", "the files with the password are {modes}");
    Ok(())
}

/// The node is on Docker again, and its pods come back.
async fn is_back(cluster: &Cluster) -> Result<()> {
    cluster.is_ready_on("docker://").await?;
    cluster.takes_pods()?;
    cluster.put("default", "web", Some("ReplicaSet"), false);
    cluster.runs(&PODS).await
}

async fn killed_on_its_way(cluster: &Cluster) -> Result<()> {
    killed(APPLY, Begins("drain the node", ""))?;
    refused(&format!("slipway migrate {APPLY}"), &["resume", "rollback"])?;
    for (doing, what) in [
        ("enable", "slipway.service"),
        ("carry", "images"),
        ("stop", "kubelet.service"),
        ("change", "/var/lib/kubelet/kubeadm-flags.env"),
        ("stop pods", ""),
        ("enable", "kubelet.service"),
        ("wait until", "Ready"),
        ("run a pod", ""),
        ("disable", "docker.service"),
        ("remove Docker's chains", ""),
    ] {
        killed("resume", Begins(doing, what))?;
    }
    migrate("resume")?;
    is_moved(cluster, "slipway://").await
}

async fn killed_on_its_way_back(before: &Snapshot, cluster: &Cluster) -> Result<()> {
    for (doing, what) in [
        ("take back", "docker.service"),
        ("take back", "kubelet.service"),
        ("take back", "/var/lib/kubelet/kubeadm-flags.env"),
        ("take back", "slipway.service"),
        ("take back", "cordon"),
    ] {
        killed("rollback", Begins(doing, what))?;
    }
    migrate("rollback")?;
    is_back(cluster).await?;
    before.is_same(cluster)
}

/// Each time a whole way back, from a node that is neither here nor there.
async fn taken_back_from_the_middle(before: &Snapshot, cluster: &Cluster) -> Result<()> {
    for moment in [
        Says("evicting"),
        Says("image 1 of"),
        Says("is stopped"),
        Says(" runs "),
        Begins("change", "/var/lib/kubelet/kubeadm-flags.env"),
        Begins("disable", "docker.service"),
    ] {
        println!("killed at {moment:?}");
        killed(APPLY, moment)?;
        migrate("rollback")?;
        is_back(cluster).await?;
        before.is_same(cluster)?;
    }
    Ok(())
}
