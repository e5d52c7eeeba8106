//! Starting the daemon: what it answers first, and what it refuses.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use slipway_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use slipway_cri_api::v1::{
    CgroupDriver, PodSandboxConfig, RunPodSandboxRequest, RuntimeConfigRequest, StatusRequest,
};
use slipway_testbed::{Node, slipway_binary};
use tonic::Code;

use crate::{for_everybody, refused};

fn serve(arguments: &[&str], change: impl FnOnce(&mut Command)) -> Output {
    let mut command = Command::new(slipway_binary().unwrap());
    command.arg("serve").args(arguments);
    change(&mut command);
    command.output().unwrap()
}

#[track_caller]
fn refuses_to_start(output: &Output, words: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

#[tokio::test]
async fn the_daemon_says_what_it_is_and_how_to_configure_a_kubelet() {
    let node = Node::start().await.unwrap();
    let cri = node.cri();
    let version = cri.version().await.unwrap();
    assert_eq!(
        (
            version.runtime_name.as_str(),
            version.runtime_api_version.as_str()
        ),
        ("slipway", "v1")
    );
    let answer = Box::pin(cri.runtime().runtime_config(RuntimeConfigRequest {}))
        .await
        .unwrap();
    assert_eq!(
        answer.into_inner().linux.unwrap().cgroup_driver(),
        CgroupDriver::Cgroupfs
    );
    let answer = Box::pin(cri.runtime().status(StatusRequest { verbose: true }))
        .await
        .unwrap();
    let answer = answer.into_inner();
    assert!(
        answer
            .status
            .unwrap()
            .conditions
            .iter()
            .all(|condition| condition.status)
    );
    assert!(answer.info["config"].contains("cgroups"));
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_second_daemon_on_one_directory_is_refused_and_nobody_else_looks_in() {
    let node = Node::start().await.unwrap();
    let (root, state) = (node.daemon.root(), node.daemon.state());
    let other = node.scratch.join("other");
    let listen = format!("unix://{}", node.scratch.join("other.sock").display());
    for (root, state, shared) in [(&root, &other, &root), (&other, &state, &state)] {
        let arguments = [
            "--root",
            root.to_str().unwrap(),
            "--state",
            state.to_str().unwrap(),
            "--listen",
            &listen,
        ];
        let words = ["another slipway", shared.to_str().unwrap()];
        refuses_to_start(&serve(&arguments, |_| {}), &words);
    }
    // By this the package's scripts know of a daemon that systemd does not.
    let inode = std::fs::metadata(root.join("lock")).unwrap().ino();
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    let held = |line: &str| line.contains("POSIX ") && line.contains(&format!(":{inode} "));
    assert!(locks.lines().any(held), "{locks}");
    // Configurations hold secrets, and layers programs that run as their owner.
    for directory in [root, state] {
        let mode = std::fs::metadata(&directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", directory.display());
    }
    node.finish().await.unwrap();
}

#[test]
fn who_is_not_root_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(for_everybody(directory.path()))
        .args(["serve"])
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    refuses_to_start(&output, &["must run as root"]);
}

#[test]
fn a_configuration_that_is_wrong_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    let path = file.to_str().unwrap();
    refuses_to_start(&serve(&["--config", path], |_| {}), &[path, "not there"]);
    std::fs::write(&file, "rooot = \"/x\"\n").unwrap();
    refuses_to_start(
        &serve(&["--config", path], |_| {}),
        &[path, ":1:1: ", "rooot", "did you mean \"root\"?"],
    );
    for (text, word) in [
        ("[runtime]\ncgroup_parent = \"a/../b\"\n", "cgroup_parent"),
        (
            "[runtime.rlimits]\nnofiles = { soft = 1, hard = 2 }\n",
            "nofiles",
        ),
        (
            "[runtime.rlimits]\nnofile = { soft = 3, hard = 2 }\n",
            "nofile",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let (root, state) = (
            directory.path().join("root"),
            directory.path().join("state"),
        );
        let directories = [
            "--root",
            root.to_str().unwrap(),
            "--state",
            state.to_str().unwrap(),
        ];
        let arguments = [&["--config", path], directories.as_slice()].concat();
        refuses_to_start(&serve(&arguments, |_| {}), &[word]);
    }
    std::fs::write(&file, "").unwrap();
    let output = serve(&["--config", path, "--listen", "tcp://127.0.0.1:1"], |_| {});
    refuses_to_start(&output, &["tcp://127.0.0.1:1", "unix://"]);
}

#[tokio::test]
async fn large_messages_are_accepted_up_to_16_mib() {
    let node = Node::start().await.unwrap();
    let cri = node.cri();
    let mut config: PodSandboxConfig = node.pod("large");
    config
        .annotations
        .insert("notes".to_owned(), "x".repeat(15 << 20));
    let id = cri.run_pod(&config).await.unwrap();
    assert_eq!(
        cri.pod_status(&id).await.unwrap().annotations["notes"].len(),
        15 << 20
    );
    cri.remove_pod(&id).await.unwrap();
    config
        .annotations
        .insert("notes".to_owned(), "x".repeat(17 << 20));
    let request = RunPodSandboxRequest {
        config: Some(config),
        ..Default::default()
    };
    let answer = RuntimeServiceClient::new(cri.channel())
        .run_pod_sandbox(request)
        .await;
    refused(answer, Code::OutOfRange, &["16777216"]);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_client_that_hangs_up_changes_nothing_about_what_the_call_leaves() {
    let node = Node::start().await.unwrap();
    let config = node.pod("abandoned");
    let pods = node.daemon.state().join("pods");
    for millis in [0, 5, 20] {
        let cri = slipway_testbed::Cri::new(node.cri().socket());
        let begun = async {
            slipway_testbed::eventually(
                "the call",
                std::time::Duration::from_secs(20),
                async || {
                    let entries = std::fs::read_dir(&pods);
                    Ok(entries.is_ok_and(|mut entries| entries.next().is_some()))
                },
            )
            .await
            .unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
        };
        tokio::select! {
            _ = cri.run_pod(&config) => {}
            () = begun => {}
        }
        drop(cri);
        // The call that was left is the one that makes the pod, whoever asks meanwhile.
        slipway_testbed::eventually("the pod", std::time::Duration::from_secs(20), async || {
            Ok(node.cri().pods().await?.len() == 1)
        })
        .await
        .unwrap();
        refused(
            node.cri().run_pod(&config).await,
            Code::AlreadyExists,
            &["abandoned"],
        );
        node.cri().remove_all().await.unwrap();
    }
    node.finish().await.unwrap();
}
