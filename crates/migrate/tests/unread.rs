//! What a plan makes of files that are there and cannot be read: nothing is taken for absent.

mod tree;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use slipway_migrate::Root;
use slipway_migrate::node;
use slipway_migrate::plan::{self, Plan, Target};

const NODE: &str = include_str!("nodes/kubeadm-1.22-debian-11.node");

/// Plans the move of a node of which something is made otherwise.
async fn plan(
    target: Target,
    otherwise: impl FnOnce(&dyn Fn(&str) -> std::path::PathBuf),
) -> Result<Plan, plan::Error> {
    let directory = tempfile::tempdir().unwrap();
    let version = tree::unpack(NODE, directory.path());
    let at = |path: &str| {
        let path = directory.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    otherwise(&at);
    let options = plan::Options {
        target,
        drain: true,
        stop_others: false,
        node: node::Options {
            kubelet_version: version.map(|version| version.parse().unwrap()),
        },
    };
    plan::make(&Root::new(directory.path()), &options).await
}

fn replace_by_directory(path: &Path) {
    let _ = fs::remove_file(path);
    fs::create_dir(path).unwrap();
}

#[tokio::test]
async fn a_file_of_the_kubelet_docker_or_the_target_that_cannot_be_read_is_no_absent_one() {
    for (path, why) in [
        ("/etc/docker/daemon.json", "it is not a regular file"),
        (
            "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf",
            "it is not a regular file",
        ),
        (
            "/var/lib/kubelet/kubeadm-flags.env",
            "it is not a regular file",
        ),
        ("/var/lib/kubelet/config.yaml", "it is not a regular file"),
        ("/etc/containerd/config.toml", "it is not a regular file"),
    ] {
        let planned = plan(Target::Containerd, |at| replace_by_directory(&at(path))).await;
        let error = planned.map(|plan| plan.steps).unwrap_err();
        assert!(matches!(error, plan::Error::Unread(_)), "{path}: {error}");
        let error = error.to_string();
        let expected = format!("{path} ({why}; look at it by hand)");
        assert!(error.contains(&expected), "{error}");
    }
}

#[tokio::test]
async fn all_of_them_are_named_at_once_whatever_keeps_them_from_being_read() {
    let planned = plan(Target::Crio, |at| {
        let daemon = at("/etc/docker/daemon.json");
        let _ = fs::remove_file(&daemon);
        let file = fs::File::create(daemon).unwrap();
        file.set_len((8 << 20) + 1).unwrap();
        symlink(
            "docker.service.d",
            at("/etc/systemd/system/docker.service.d"),
        )
        .unwrap();
        replace_by_directory(&at("/var/lib/kubelet/config.yaml"));
    })
    .await;
    let error = planned.map(|plan| plan.steps).unwrap_err().to_string();
    for part in [
        "/etc/docker/daemon.json (it has more than 8 MiB",
        "/etc/systemd/system/docker.service.d (",
        "/var/lib/kubelet/config.yaml (",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[tokio::test]
async fn what_a_plan_can_do_without_is_a_remark() {
    let before = plan(Target::Crio, |_| {}).await.unwrap();
    let planned = plan(Target::Crio, |at| {
        replace_by_directory(&at("/etc/slipway/config.toml"));
    })
    .await;
    let planned = planned.unwrap();
    assert_eq!(planned.steps, before.steps);
    let remarks = planned.remarks.join("\n");
    let remark = "/etc/slipway/config.toml could not be read (it is not a regular file)";
    assert!(remarks.contains(remark), "{remarks}");
}

#[tokio::test]
async fn settings_of_docker_of_another_kind_are_not_empty() {
    for (text, problem) in [
        ("[1, 2]", "line 1, column 1: dockerd takes an object here"),
        (
            "{\n  \"registry-mirrors\": \"https://x\"}",
            "line 2, column 23: dockerd takes a list of texts for registry-mirrors",
        ),
        (
            r#"{"insecure-registries": [5000]}"#,
            "dockerd takes a list of texts for insecure-registries",
        ),
        (
            r#"{"log-opts": []}"#,
            "dockerd takes an object for log-opts",
        ),
        (
            r#"{"data-root": ["/x"]}"#,
            "dockerd takes a text for data-root",
        ),
    ] {
        let planned = plan(Target::Containerd, |at| {
            fs::write(at("/etc/docker/daemon.json"), text).unwrap();
        })
        .await;
        let error = planned.map(|plan| plan.steps).unwrap_err();
        assert!(matches!(error, plan::Error::Broken(_)), "{text}: {error}");
        assert!(error.to_string().contains(problem), "{error}");
    }
    for text in ["{}", "", "null", r#"{"registry-mirrors": null}"#] {
        let planned = plan(Target::Containerd, |at| {
            fs::write(at("/etc/docker/daemon.json"), text).unwrap();
        })
        .await;
        assert!(planned.is_ok(), "{text}: {planned:?}");
    }
}
