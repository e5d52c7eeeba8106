//! `slipway check`: how it ends, and what it prints in each format.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tokio::process::Command;

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

/// Runs a command with overlays over what of the machine is looked at, and prints what it has changed
/// there: what others do to the machine meanwhile is not its doing.
const OVERLAID: &str = r#"
set -e
scratch=$1; shift
mount -t tmpfs tmpfs "$scratch"
number=0
for tree in /etc /home /opt /root /srv /usr /var/lib/dpkg /var/lib/kubelet /var/spool; do
    [ -d "$tree" ] || continue
    number=$((number + 1))
    upper=$scratch/upper/$number work=$scratch/work/$number
    mkdir -p "$upper" "$work"
    mount -t overlay overlay -o "lowerdir=$tree,upperdir=$upper,workdir=$work" "$tree"
done
code=0
"$@" || code=$?
find "$scratch/upper" -mindepth 2 >&2
exit "$code"
"#;

/// Whatever this machine is.
#[tokio::test]
async fn this_machine_is_looked_at_and_nothing_of_it_is_changed() {
    let scratch = tempfile::tempdir().unwrap();
    let overlaid = async |command: &[&str]| {
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "sh", "-c", OVERLAID, "sh"]);
        shell
            .arg(scratch.path())
            .args(command)
            .output()
            .await
            .unwrap()
    };
    let changed = overlaid(&["sh", "-c", "echo >/etc/slipway-was-here"]).await;
    assert!(stderr(&changed).contains("slipway-was-here"), "{changed:?}");
    assert!(!Path::new("/etc/slipway-was-here").exists());

    let slipway = env!("CARGO_BIN_EXE_slipway");
    let output = overlaid(&[slipway, "check", "node", "-o", "json"]).await;
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
