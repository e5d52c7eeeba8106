//! `slipway check`: how it ends, and what it prints in each format.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use super::fake::{slipway, stderr};

/// A node without a kubelet's troubles: CRI-O runs its pods.
fn node(directory: &Path, flags: &str) {
    let write = |path: &str, text: &str| {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("proc/1/cmdline", "/sbin/init");
    write("etc/hostname", "worker-7\n");
    write("etc/cni/net.d/10-x.conflist", r#"{"plugins": []}"#);
    write("var/lib/kubelet/config.yaml", "cgroupDriver: systemd\n");
    write(
        "lib/systemd/system/kubelet.service",
        &format!("[Service]\nExecStart=/usr/bin/kubelet {flags}\n"),
    );
}

async fn check(arguments: &[&str]) -> Output {
    let all = [&["check"], arguments].concat();
    slipway(&all).output().await.unwrap()
}

const CRIO: &str = "--container-runtime-endpoint=unix:///var/run/crio/crio.sock";

#[tokio::test]
async fn the_exit_code_says_how_bad_it_is() {
    for (flags, version, expected) in [
        (CRIO, "1.30", 0),
        (&format!("{CRIO} --pod-infra-container-image=x"), "1.30", 1),
        (&format!("{CRIO} --network-plugin=cni"), "1.30", 2),
    ] {
        let directory = tempfile::tempdir().unwrap();
        node(directory.path(), flags);
        let root = directory.path().to_str().unwrap();
        let known = ["node", "--root", root, "--kubelet-version", version];
        let output = check(&known).await;
        assert_eq!(output.status.code(), Some(expected), "{flags}: {output:?}");
    }
    // The version is in no file of this node: that is not fine.
    let directory = tempfile::tempdir().unwrap();
    node(directory.path(), CRIO);
    let output = check(&["node", "--root", directory.path().to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("Not looked at:") && text.contains("--kubelet-version"),
        "{text}"
    );
}

#[tokio::test]
async fn what_cannot_be_looked_at_ends_with_3() {
    let output = check(&["node", "--root", "/nonexistent"]).await;
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("no such directory"), "{output:?}");
    let output = check(&["manifests", "/nonexistent"]).await;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let output = check(&["cluster", "--kubeconfig", "/nonexistent"]).await;
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("/nonexistent"), "{output:?}");
    let output = check(&["node", "--kubelet-version", "new"]).await;
    assert_eq!(output.status.code(), Some(2), "clap's own: {output:?}");
}

#[tokio::test]
async fn all_formats_have_the_same_findings() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pod.yaml");
    let pod = "kind: Pod\nmetadata: {name: a}\nspec:\n  containers: [{name: a, image: b}]\n  volumes:\n  - hostPath:\n      path: /run/docker.sock\n";
    fs::write(&file, pod).unwrap();
    let path = directory.path().to_str().unwrap();
    let print = async |format: &str| {
        let output = check(&["manifests", path, "-o", format]).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let json: Value = serde_json::from_str(&print("json").await).unwrap();
    assert_eq!(json["verdict"], "blockers");
    assert_eq!(json["findings"][0]["rule"], "mounts-docker-socket");
    assert_eq!(json["findings"][0]["evidence"][0]["line"], 7);
    let sarif: Value = serde_json::from_str(&print("sarif").await).unwrap();
    assert_eq!(
        sarif["runs"][0]["results"][0]["ruleId"],
        "mounts-docker-socket"
    );
    for format in ["table", "yaml", "html"] {
        let text = print(format).await;
        assert!(text.contains("mounts-docker-socket"), "{format}: {text}");
        assert!(!text.contains('\u{1b}'), "no colours into a pipe");
    }
}

/// What says that a file is as it was: its kind and permissions, owner, size, and when it and what is
/// known of it were changed.
type Trace = (u32, u32, u32, u64, (i64, i64), (i64, i64));

/// Every file of some trees.
fn traces(trees: &[&str]) -> BTreeMap<PathBuf, Trace> {
    let mut traces = BTreeMap::new();
    let mut waiting: Vec<PathBuf> = trees.iter().map(PathBuf::from).collect();
    while let Some(path) = waiting.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten();
            waiting.extend(entries.map(|entry| entry.unwrap().path()));
        }
        let trace = (
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.len(),
            (metadata.mtime(), metadata.mtime_nsec()),
            (metadata.ctime(), metadata.ctime_nsec()),
        );
        traces.insert(path, trace);
    }
    traces
}

/// Whatever this machine is.
#[tokio::test]
async fn this_machine_is_looked_at_and_nothing_of_it_is_changed() {
    let trees = [
        "/etc",
        "/opt",
        "/srv",
        "/usr/local",
        "/var/lib/dpkg",
        "/var/lib/kubelet",
        "/var/spool/cron",
    ];
    let parameters = || {
        let names = ["ipv4/ip_forward", "bridge/bridge-nf-call-iptables"];
        names.map(|name| fs::read_to_string(format!("/proc/sys/net/{name}")).ok())
    };
    let (files, kernel) = (traces(&trees), parameters());
    let output = check(&["node", "-o", "json"]).await;
    let files_after = traces(&trees);
    let paths = files.keys().chain(files_after.keys());
    let changed: BTreeSet<_> = paths
        .filter(|path| files.get(*path) != files_after.get(*path))
        .collect();
    assert!(changed.is_empty(), "{changed:?}");
    assert_eq!(parameters(), kernel);

    let said = stderr(&output);
    assert!(said.is_empty(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = match report["verdict"].as_str() {
        Some("fine") => 0,
        Some("warnings") => 1,
        Some("blockers") => 2,
        Some("could-not-look") => 3,
        other => panic!("{other:?}"),
    };
    assert_eq!(output.status.code(), Some(expected), "{report:#}");
    for finding in report["findings"].as_array().unwrap() {
        assert!(!finding["evidence"].as_array().unwrap().is_empty());
    }
    for unseen in report["unseen"].as_array().unwrap() {
        for part in ["what", "why", "todo"] {
            assert_ne!(unseen[part].as_str(), Some(""), "{unseen}");
        }
    }
}
