//! `slipway migrate plan`: what it prints, and how it ends.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::fake::{slipway, stderr};

const FLAGS: &str = "/var/lib/kubelet/kubeadm-flags.env";

/// A node of kubeadm on dockershim.
pub(crate) fn node(directory: &Path) {
    for (path, text) in [
        ("proc/1/cmdline", "/sbin/init"),
        ("run/systemd/system/x", ""),
        (
            "etc/docker/daemon.json",
            r#"{"registry-mirrors": ["https://mirror.example"]}"#,
        ),
        (
            &FLAGS[1..],
            "KUBELET_KUBEADM_ARGS=\"--network-plugin=cni --v=2\"\n",
        ),
        ("var/lib/kubelet/config.yaml", "cgroupDriver: cgroupfs\n"),
        (
            "lib/systemd/system/kubelet.service",
            "[Service]\nEnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env\nExecStart=/usr/bin/kubelet --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS\n",
        ),
    ] {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[tokio::test]
async fn a_plan_has_each_file_and_changes_none() {
    let directory = tempfile::tempdir().unwrap();
    node(directory.path());
    let before = fs::read(directory.path().join(&FLAGS[1..])).unwrap();
    let root = directory.path().to_str().unwrap();
    let known = ["--root", root, "--kubelet-version", "1.23"];
    let plan = |more: &[&str]| slipway(&[&["migrate", "plan"], more, &known].concat());

    let output = plan(&["--to", "containerd"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for words in [
        "moves to containerd",
        "change /var/lib/kubelet/kubeadm-flags.env",
        "-KUBELET_KUBEADM_ARGS=\"--network-plugin=cni --v=2\"",
        "+KUBELET_KUBEADM_ARGS=\"--v=2 --container-runtime=remote",
        "/etc/containerd/certs.d/docker.io/hosts.toml",
    ] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }

    let output = plan(&["--to", "crio", "-o", "json"])
        .output()
        .await
        .unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["target"], "crio");
    assert_eq!(document["kubelet"], "1.23");
    let steps = document["steps"].as_array().unwrap();
    let files: Vec<_> = steps.iter().filter(|step| step["step"] == "file").collect();
    let flags = files.iter().find(|file| file["path"] == FLAGS).unwrap();
    assert_eq!(flags["before"].as_str().unwrap().as_bytes(), before);
    assert!(
        flags["after"]
            .as_str()
            .unwrap()
            .contains("--v=2 --container-runtime=remote")
    );
    assert!(flags["diff"].as_str().unwrap().contains("@@"));

    let after = fs::read(directory.path().join(&FLAGS[1..])).unwrap();
    assert_eq!(after, before);
    assert!(!directory.path().join("etc/containerd").exists());
}

#[tokio::test]
async fn without_a_plan_it_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_str().unwrap();
    let plan = |more: &[&str]| slipway(&[&["migrate", "plan", "--root", root], more].concat());
    let output = plan(&["--to", "slipway"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no kubelet"), "{output:?}");

    node(directory.path());
    let output = plan(&["--to", "slipway"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--kubelet-version"), "{output:?}");

    let output = plan(&["--to", "rkt"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("cri-dockerd"), "{output:?}");

    let known = ["--to", "crio", "--no-drain", "--kubelet-version", "1.23"];
    let output = plan(&known).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("drained"), "{output:?}");

    fs::write(directory.path().join("etc/docker/daemon.json"), "{,}").unwrap();
    let mut output = plan(&["--to", "crio", "--kubelet-version", "1.23"]);
    let output = output.output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("daemon.json:1"), "{output:?}");
}
