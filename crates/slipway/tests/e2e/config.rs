//! The configuration file: `slipway config`, and what SIGHUP changes while pods run.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use slipway_cri_api::v1::{ContainerState, PodSandboxConfig};
use slipway_testbed::{Cri, Image, Node, eventually, pod, slipway_binary};
use tonic::Code;

use crate::handler::{run_pod, runc};
use crate::{node, refused};

fn config(arguments: &[&str]) -> Output {
    let mut command = Command::new(slipway_binary().unwrap());
    command.arg("config").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A directory with a configuration and one drop-in.
fn files(main: &str, drop_in: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    let other = directory.path().join("conf.d/50-site.toml");
    std::fs::create_dir(other.parent().unwrap()).unwrap();
    std::fs::write(&file, main).unwrap();
    std::fs::write(&other, drop_in).unwrap();
    (directory, file, other)
}

#[test]
fn check_names_every_mistake_with_its_file_and_line_and_fails() {
    let (_directory, file, other) = files(
        "rooot = \"/x\"\n[runtime]\npids_limit = \"many\"\n",
        "[network]\nbin_dir = [\"/x\"]\n",
    );
    let (path, drop_in) = (file.to_str().unwrap(), other.to_str().unwrap());
    let output = config(&["check", path]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    for words in [
        format!("{path}:1:1: there is no key \"rooot\"; did you mean \"root\"?"),
        format!("{path}:3:14: runtime.pids_limit is a whole number"),
        format!("{drop_in}:2:1: there is no key \"network.bin_dir\"; did you mean \"bin_dirs\"?"),
    ] {
        assert!(said.contains(&words), "{words} is not in {said}");
    }
    // A drop-in by itself, a file that is not there, and one that is good.
    let output = config(&["check", drop_in, "/no/such"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("bin_dir") && said.contains("/no/such"),
        "{said}"
    );
    std::fs::write(&file, "root = \"/x\"\n").unwrap();
    std::fs::write(&other, "").unwrap();
    let output = config(&["check", path]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        text(&output.stdout),
        format!("{path}: can be used\n{drop_in}: can be used\n")
    );
    // What the daemon says when it is started is the same.
    std::fs::write(&other, "metrics = 1\n").unwrap();
    let checked = config(&["check", path]);
    let mut serve = Command::new(slipway_binary().unwrap());
    let served = serve.args(["serve", "--config", path]).output().unwrap();
    assert_eq!(text(&checked.stderr), text(&served.stderr));
    assert_eq!(served.status.code(), Some(1));
}

#[test]
fn show_has_files_drop_ins_and_flags_and_can_be_used_again() {
    let (directory, file, other) = files(
        "state = \"/s\"\nroot = \"/r\"\n[runtime]\npids_limit = 5\n",
        "root = \"/q\"\n[runtime.handlers.\"x\"]\npath = \"/bin/true\"\n",
    );
    let path = file.to_str().unwrap();
    let arguments = ["show", "--config", path, "--state", "/t"];
    let output = config(&arguments);
    assert!(output.status.success(), "{output:?}");
    let shown = text(&output.stdout);
    for line in [
        format!("root = \"/q\"  # {}:1:1\n", other.display()),
        "state = \"/t\"  # --state\n".to_owned(),
        format!("pids_limit = 5  # {path}:4:1\n"),
        "timeout_seconds = 30\n".to_owned(),
    ] {
        assert!(shown.contains(&line), "{line} is not in {shown}");
    }
    let again = directory.path().join("again/config.toml");
    std::fs::create_dir(again.parent().unwrap()).unwrap();
    std::fs::write(&again, &shown).unwrap();
    let json = |arguments: &[&str]| -> serde_json::Value {
        let output = config(&[arguments, &["-o", "json"]].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let value = json(&arguments);
    assert_eq!(value["root"], "/q");
    assert_eq!(value["state"], "/t");
    assert_eq!(value["runtime"]["pids_limit"], 5);
    assert_eq!(value["runtime"]["handlers"]["x"]["path"], "/bin/true");
    assert_eq!(value["metrics_listen"], serde_json::Value::Null);
    assert_eq!(json(&["show", "--config", again.to_str().unwrap()]), value);
}

#[test]
fn the_default_file_can_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    let output = config(&["default"]);
    assert!(output.status.success());
    std::fs::write(&file, &output.stdout).unwrap();
    let output = config(&["check", file.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
}

/// A node whose containers may have 50 processes, and one that runs.
struct Running {
    node: Node,
    image: String,
    settings: PodSandboxConfig,
    pod: String,
    sleeper: String,
}

impl Running {
    async fn new() -> Self {
        let limited = "[runtime]\npids_limit = 50\n";
        let node = Node::start_with(|daemon| daemon.config(limited)).await;
        let node = node.unwrap();
        let image = node.provide("busybox:1", &Image::busybox()).await.unwrap();
        let image = image.reference;
        let settings = node.pod("running");
        let pod = node.cri().run_pod(&settings).await.unwrap();
        let sleeper = pod::sleeper("sleeper", &image);
        let sleeper = node.cri().launch(&pod, &settings, &sleeper).await.unwrap();
        Self {
            node,
            image,
            settings,
            pod,
            sleeper,
        }
    }
}

/// Writes the node's configuration anew, and waits until the daemon has said `word` about it.
async fn reload(node: &Node, config: &str, word: &str) -> String {
    std::fs::write(node.scratch.join("config.toml"), config).unwrap();
    let before = node.daemon.log().len();
    let daemon = Pid::from_raw(node.daemon.pid()).unwrap();
    kill_process(daemon, Signal::HUP).unwrap();
    let mut said = String::new();
    eventually(word, Duration::from_secs(20), async || {
        said = node.daemon.log().split_off(before);
        Ok(said.contains(word))
    })
    .await
    .unwrap();
    said
}

/// The most processes that a container of a pod may have now.
async fn pids_limit(cri: &Cri, pod: &str, config: &PodSandboxConfig, image: &str) -> String {
    let name = format!("limit-{}", cri.containers().await.unwrap().len());
    let script = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2> /dev/null; true";
    let container = pod::shell(&name, image, script);
    let id = cri.launch(pod, config, &container).await.unwrap();
    assert_eq!(cri.wait_for_exit(&id).await.unwrap().exit_code, 0);
    let lines = slipway_testbed::read_log(&pod::log_path(config, &container));
    lines[0].text.clone()
}

const RELOADED: &str = "configuration reloaded";
const KEPT: &str = "the configuration is not reloaded";

#[tokio::test]
async fn a_hangup_puts_a_good_configuration_into_force_under_running_pods() {
    let Running {
        node,
        image,
        settings,
        pod,
        sleeper,
    } = Running::new().await;
    let cri = node.cri();
    assert_eq!(pids_limit(cri, &pod, &settings, &image).await, "50");
    let foreign = node.pod("foreign");
    let answer = run_pod(cri, &foreign, "runc").await;
    refused(answer, Code::InvalidArgument, &["runtime_handler \"runc\""]);

    // New values, a new handler, another level of the log, and a key that takes a restart.
    let handler = format!("[runtime.handlers.runc]\npath = {:?}\n", runc());
    let new = format!(
        "log_format = \"json\"\nlog_level = \"debug\"\n[runtime]\npids_limit = 60\n{handler}"
    );
    let said = reload(&node, &new, "log_format").await;
    assert!(said.contains(RELOADED), "{said}");
    assert!(said.contains("restart"), "{said}");
    for key in ["log_level", "runtime.pids_limit", "runtime.handlers"] {
        assert!(said.contains(key), "{key} is not in {said}");
    }
    assert_eq!(pids_limit(cri, &pod, &settings, &image).await, "60");
    let foreign_pod = run_pod(cri, &foreign, "runc").await.unwrap();
    let of_runc = pod::sleeper("foreign", &image);
    let of_runc = cri.launch(&foreign_pod, &foreign, &of_runc).await.unwrap();

    // A handler that is taken out is no new pod's, and still looks after those it has.
    let said = reload(&node, "log_level = \"info\"\n[runtime]\n", RELOADED).await;
    assert!(!said.contains("restart"), "{said}");
    let unlimited = pids_limit(cri, &pod, &settings, &image).await;
    assert_ne!(unlimited, "60");
    let answer = run_pod(cri, &node.pod("another"), "runc").await;
    refused(answer, Code::InvalidArgument, &["runtime_handler \"runc\""]);
    let more = pod::sleeper("more", &image);
    cri.launch(&foreign_pod, &foreign, &more).await.unwrap();
    for id in [&sleeper, &of_runc] {
        let status = cri.container_status(id).await.unwrap();
        assert_eq!(status.state(), ContainerState::ContainerRunning);
    }
    cri.remove_pod(&foreign_pod).await.unwrap();
    let held = std::fs::read_dir(node.daemon.state().join("runtimes/runc")).unwrap();
    assert_eq!(held.count(), 0, "runc has forgotten its containers");
    assert!(!node.daemon.log().contains("its runtime did not delete it"));
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_hangup_with_a_bad_configuration_changes_nothing_and_says_why() {
    let Running {
        node,
        image,
        settings,
        pod,
        sleeper,
    } = Running::new().await;
    let cri = node.cri();
    let file = node.scratch.join("config.toml");
    for (wrong, place, words) in [
        (
            "[runtime]\npids_limit = 60\npids_limits = 1\n",
            ":3:1: ",
            "did you mean",
        ),
        (
            "[runtime]\npids_limit = \"60\"\n",
            ":2:14: ",
            "whole number",
        ),
        (
            "[runtime]\npids_limit = 60\n[streaming]\ntls_key = \"/x\"\n",
            ":4:1: ",
            "tls_cert",
        ),
        (
            "[runtime]\npids_limit = 60\n[runtime.handlers.x]\npath = \"/no/such\"\n",
            ":4:1: ",
            "/no/such",
        ),
    ] {
        let said = reload(&node, wrong, KEPT).await;
        let place = format!("{}{place}", file.display());
        assert!(said.contains(&place) && said.contains(words), "{said}");
        assert_eq!(
            pids_limit(cri, &pod, &settings, &image).await,
            "50",
            "{wrong}"
        );
    }
    let status = cri.container_status(&sleeper).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    // It is not deaf from then on.
    reload(&node, "[runtime]\npids_limit = 70\n", RELOADED).await;
    assert_eq!(pids_limit(cri, &pod, &settings, &image).await, "70");
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_hangup_gives_the_node_a_template_for_its_network() {
    let (node, _) = node().await;
    let cri = node.cri();
    let pod = cri.run_pod(&node.pod("before")).await.unwrap();
    let conflist = node.cni.conf_dir().join("10-slipway.conflist");
    let template = node.scratch.join("network.template");
    std::fs::rename(&conflist, &template).unwrap();
    let made = node.cni.conf_dir().join("10-slipway-net.conflist");
    crate::pod_cidr::update(cri, &node.cni.subnet())
        .await
        .unwrap();
    assert!(!made.exists(), "there is no template yet");

    let config = format!("[network]\nplugin_timeout = 40\nconf_template = {template:?}\n");
    let said = reload(&node, &config, RELOADED).await;
    for key in ["network.plugin_timeout", "network.conf_template"] {
        assert!(said.contains(key), "{said}");
    }
    crate::pod_cidr::update(cri, &node.cni.subnet())
        .await
        .unwrap();
    assert!(made.exists());
    let after = cri.run_pod(&node.pod("after")).await.unwrap();
    for pod in [pod, after] {
        cri.remove_pod(&pod).await.unwrap();
    }
    node.finish().await.unwrap();
}
