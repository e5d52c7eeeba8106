//! Checkpoints of running containers.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use slipway_cri_api::v1::{
    CheckpointContainerRequest, ContainerState, Mount, RunPodSandboxRequest,
};
use slipway_testbed::{Cri, Image, Node, pod};
use tonic::{Code, Status};

use crate::{ready, refused};

pub(crate) async fn checkpoint(
    cri: &Cri,
    id: &str,
    location: &Path,
    timeout: i64,
) -> Result<(), Status> {
    let request = CheckpointContainerRequest {
        container_id: id.to_owned(),
        location: location.display().to_string(),
        timeout,
    };
    Box::pin(cri.runtime().checkpoint_container(request))
        .await
        .map(drop)
}

async fn node_with(criu: &Path, more: &str) -> (Node, String) {
    let criu = criu.display().to_string();
    let config = format!("[runtime]\ncriu_path = {criu:?}\n{more}");
    let node = Node::start_with(|daemon| daemon.config(config))
        .await
        .unwrap();
    let pushed = node.provide("busybox:1", &Image::busybox()).await.unwrap();
    (node, pushed.reference)
}

/// CRIU: the one that a developer names, or the package's.
pub(crate) fn criu() -> PathBuf {
    let named = std::env::var_os("SLIPWAY_TEST_CRIU").map(PathBuf::from);
    let places = ["/usr/sbin/criu", "/usr/local/sbin/criu", "/usr/bin/criu"];
    let found = places.iter().map(PathBuf::from).find(|path| path.exists());
    named.or(found).expect("criu is installed")
}

/// Whether that CRIU can work on this kernel: Debian 12's is too old for those of after 2025.
pub(crate) fn works(criu: &Path) -> bool {
    let answer = Command::new(criu).arg("check").output();
    answer.is_ok_and(|output| output.status.success())
}

/// A CRIU that only pretends, for what comes before and after it.
fn pretended(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("criu");
    let script = format!(
        r#"#!/bin/sh
[ "$1" = check ] && exit 0
while [ $# -gt 0 ]; do
  case "$1" in
    --images-dir) images=$2;;
    --work-dir) work=$2;;
    --tree) tree=$2;;
  esac
  shift
done
{text}
"#
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The files of an archive; those of the archive's kind by what is in them.
fn unpack(archive: &Path, into: &Path) -> BTreeMap<String, u64> {
    std::fs::create_dir_all(into).unwrap();
    let mut files = tar::Archive::new(std::fs::File::open(archive).unwrap());
    files.unpack(into).unwrap();
    let mut files = tar::Archive::new(std::fs::File::open(archive).unwrap());
    files
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.path().unwrap().display().to_string(), entry.size())
        })
        .collect()
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

const WRITER: &str = "trap 'exit 0' TERM; echo written > /file; rm /bin/true; \
                      echo ready; while :; do sleep 0.1; done";

/// What every good archive of a container that runs [`WRITER`] has, and what CRIU says of its work.
fn assert_archive(node: &Node, archive: &Path, id: &str, image: &str) {
    let files = assert_content(node, archive, id, image);
    for name in ["dump.log", "stats-dump"] {
        assert!(files.contains_key(name), "{name} is not in {files:?}");
    }
}

/// What every good archive of a container that runs [`WRITER`] has. Answers its files.
pub(crate) fn assert_content(
    node: &Node,
    archive: &Path,
    id: &str,
    image: &str,
) -> BTreeMap<String, u64> {
    let mode = archive.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let place = node.scratch.join("unpacked");
    let files = unpack(archive, &place);
    for name in [
        "config.dump",
        "spec.dump",
        "status",
        "checkpoint",
        "rootfs-diff.tar",
        "deleted.files",
        "container.log",
        "io.kubernetes.cri-o.LogPath",
    ] {
        let found = files.keys().any(|file| file.trim_end_matches('/') == name);
        assert!(found, "{name} is not in {files:?}");
    }
    let config = json(&place.join("config.dump"));
    assert_eq!(config["id"], id);
    assert_eq!(config["name"], "main");
    assert_eq!(config["rootfsImageName"], image);
    let spec = json(&place.join("spec.dump"));
    let annotations = &spec["annotations"];
    assert_eq!(annotations["io.kubernetes.cri.container-name"], "main");
    assert_eq!(
        annotations["io.kubernetes.cri.sandbox-namespace"],
        "default"
    );
    assert_eq!(spec["process"]["args"][0], "/bin/sh");
    assert_eq!(
        json(&place.join("deleted.files")),
        serde_json::json!(["/bin/true"])
    );
    let log = std::fs::read_to_string(place.join("io.kubernetes.cri-o.LogPath")).unwrap();
    assert!(log.contains("ready"), "{log}");
    let difference = place.join("difference");
    let written = unpack(&place.join("rootfs-diff.tar"), &difference);
    assert_eq!(
        std::fs::read(difference.join("file")).unwrap(),
        b"written\n"
    );
    assert!(
        !written.keys().any(|file| file.contains("resolv.conf")),
        "{written:?}"
    );
    files
}

#[tokio::test]
async fn an_archive_has_what_its_readers_look_for() {
    let directory = tempfile::tempdir().unwrap();
    let script = r#"
[ -e "/proc/$tree/root/file" ] || exit 9
echo pages > "$images/pages-1.img"
echo stats > "$work/stats-dump"
echo log > "$work/dump.log""#;
    let criu = pretended(directory.path(), script);
    let (node, image) = node_with(&criu, "").await;
    let cri = node.cri();
    let config = node.pod("archived");
    let pod = cri.run_pod(&config).await.unwrap();
    let container = pod::shell("main", &image, WRITER);
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    ready(&pod::log_path(&config, &container)).await;
    let archive = node.scratch.join("archive.tar");
    checkpoint(cri, &id, &archive, 30).await.unwrap();
    assert_archive(&node, &archive, &id, &image);
    let place = node.scratch.join("unpacked/checkpoint");
    let pages = std::fs::read(place.join("pages-1.img")).unwrap();
    assert_eq!(pages, b"pages\n");
    let streams = json(&place.join("descriptors.json"));
    assert!(
        streams[1].as_str().unwrap().starts_with("pipe:"),
        "{streams}"
    );
    let left = std::fs::read_dir(node.daemon.root().join("checkpoints"));
    assert_eq!(left.unwrap().count(), 0);
    node.finish().await.unwrap();
}

/// Of a container that runs.
pub(crate) async fn assert_wrong_requests_are_refused(node: &Node, id: &str) {
    let cri = node.cri();
    for location in ["", "x.tar", "/", "/no/such/x.tar"] {
        let answer = checkpoint(cri, id, Path::new(location), 0).await;
        refused(answer, Code::InvalidArgument, &["location"]);
    }
    let precious = node.scratch.join("precious.tar");
    std::fs::write(&precious, "precious").unwrap();
    let answer = checkpoint(cri, id, &precious, 0).await;
    refused(answer, Code::InvalidArgument, &["location", "exists"]);
    assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
    let other = node.scratch.join("other.tar");
    let answer = checkpoint(cri, id, &other, -1).await;
    refused(answer, Code::InvalidArgument, &["timeout"]);
    let answer = checkpoint(cri, "0123", &other, 0).await;
    refused(answer, Code::NotFound, &["0123"]);
    assert!(!other.exists());
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_written_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let criu = pretended(directory.path(), "exit 0");
    let (node, image) = node_with(&criu, "").await;
    let cri = node.cri();
    let config = node.pod("refused");
    let pod = cri.run_pod(&config).await.unwrap();
    let sleeper = pod::sleeper("main", &image);
    let id = cri.create(&pod, &config, &sleeper).await.unwrap();
    let place = node.scratch.join("x.tar");
    let answer = checkpoint(cri, &id, &place, 0).await;
    refused(answer, Code::FailedPrecondition, &["not running"]);
    cri.start(&id).await.unwrap();
    assert_wrong_requests_are_refused(&node, &id).await;
    let other = node.scratch.join("other.tar");

    // CRIU fails, and says why.
    let text = r#"echo "(00.1) Error (criu/x.c:1): out of luck" > "$work/dump.log"; exit 1"#;
    pretended(directory.path(), text);
    let answer = checkpoint(cri, &id, &other, 0).await;
    refused(answer, Code::Internal, &["out of luck", &id]);
    // It takes longer than it may.
    pretended(directory.path(), "sleep 1000 & sleep 1000");
    let began = Instant::now();
    let answer = checkpoint(cri, &id, &other, 1).await;
    refused(answer, Code::DeadlineExceeded, &["1 s", "timeout"]);
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(!other.exists());
    let status = cri.container_status(&id).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn without_criu_the_answer_says_what_to_install() {
    let directory = tempfile::tempdir().unwrap();
    let criu = pretended(directory.path(), "exit 0");
    let (node, image) = node_with(&criu, "").await;
    let cri = node.cri();
    let config = node.pod("bare");
    let pod = cri.run_pod(&config).await.unwrap();
    let container = pod::sleeper("main", &image);
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    std::fs::remove_file(&criu).unwrap();
    let answer = checkpoint(cri, &id, &node.scratch.join("x.tar"), 0).await;
    let words = ["CRIU", "does not exist", "install", "criu_path"];
    refused(answer, Code::FailedPrecondition, &words);
    node.finish().await.unwrap();
}

/// A container that runs [`WRITER`] beside a volume, and has written.
pub(crate) async fn launch_writer(node: &Node, image: &str) -> String {
    let config = node.pod("dumped");
    let pod = node.cri().run_pod(&config).await.unwrap();
    let mut container = pod::shell("main", image, WRITER);
    let volume = node.scratch.join("volume");
    std::fs::create_dir(&volume).unwrap();
    container.mounts = vec![Mount {
        container_path: "/data".to_owned(),
        host_path: volume.display().to_string(),
        ..Default::default()
    }];
    let launched = node.cri().launch(&pod, &config, &container).await;
    ready(&pod::log_path(&config, &container)).await;
    launched.unwrap()
}

/// What CRIU writes of every process, in the archive that was looked at.
pub(crate) fn assert_images(node: &Node) {
    let images = node.scratch.join("unpacked/checkpoint");
    for name in ["inventory.img", "pstree.img", "pages-1.img"] {
        assert!(images.join(name).exists(), "{name}");
    }
}

/// The container has not noticed, and ends as it would have.
pub(crate) async fn assert_unharmed(cri: &Cri, id: &str) {
    assert_eq!(cri.exec(id, &["cat", "/file"]).await.unwrap().exit_code, 0);
    cri.stop(id, 30).await.unwrap();
    assert_eq!(cri.container_status(id).await.unwrap().exit_code, 0);
}

/// CRIU itself, as far as it works on this kernel: where it does not, its own words are told.
#[tokio::test]
async fn criu_writes_down_a_container_that_goes_on() {
    let criu = criu();
    let (node, image) = node_with(&criu, "").await;
    let (cri, id) = (node.cri(), launch_writer(&node, &image).await);
    let archive = node.scratch.join("real.tar");
    let answer = checkpoint(cri, &id, &archive, 60).await;
    if works(&criu) {
        answer.unwrap();
        assert_archive(&node, &archive, &id, &image);
        assert_images(&node);
    } else {
        let words = ["CRIU does not work on this node", "Error (criu/"];
        refused(answer, Code::FailedPrecondition, &words);
        assert!(!archive.exists());
    }
    assert_unharmed(cri, &id).await;
    node.finish().await.unwrap();
}

#[tokio::test]
async fn criu_writes_down_a_terminal_and_a_shared_pid_namespace() {
    let criu = criu();
    let (node, image) = node_with(&criu, "").await;
    let cri = node.cri();
    let mut config = node.pod("shared");
    let pid = slipway_cri_api::v1::NamespaceMode::Pod.into();
    let linux = config.linux.as_mut().unwrap();
    let security = linux.security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().pid = pid;
    let pod = cri.run_pod(&config).await.unwrap();
    let mut container = pod::shell("main", &image, WRITER);
    container.tty = true;
    let linux = container.linux.as_mut().unwrap();
    let security = linux.security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().pid = pid;
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    ready(&pod::log_path(&config, &container)).await;
    let archive = node.scratch.join("real.tar");
    let answer = checkpoint(cri, &id, &archive, 60).await;
    if works(&criu) {
        answer.unwrap();
        assert!(archive.exists());
    } else {
        let words = ["CRIU does not work on this node"];
        refused(answer, Code::FailedPrecondition, &words);
    }
    assert_eq!(cri.exec(&id, &["ls"]).await.unwrap().exit_code, 0);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn runc_writes_its_own_containers_down() {
    let runc = ["/usr/sbin/runc", "/usr/bin/runc"].map(Path::new);
    let runc = runc.into_iter().find(|path| path.exists()).unwrap();
    let criu = criu();
    let handler = format!(
        "[runtime.handlers.runc]\npath = {:?}\n",
        runc.display().to_string()
    );
    let (node, image) = node_with(&criu, &handler).await;
    let cri = node.cri();
    let config = node.pod("foreign");
    let request = RunPodSandboxRequest {
        config: Some(config.clone()),
        runtime_handler: "runc".to_owned(),
    };
    let pod = Box::pin(cri.runtime().run_pod_sandbox(request))
        .await
        .unwrap()
        .into_inner()
        .pod_sandbox_id;
    let container = pod::shell("main", &image, WRITER);
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    ready(&pod::log_path(&config, &container)).await;
    let archive = node.scratch.join("real.tar");
    let answer = checkpoint(cri, &id, &archive, 60).await;
    if works(&criu) {
        answer.unwrap();
        assert_archive(&node, &archive, &id, &image);
    } else {
        let words = ["CRIU does not work on this node"];
        refused(answer, Code::FailedPrecondition, &words);
    }
    assert_eq!(cri.exec(&id, &["ls"]).await.unwrap().exit_code, 0);
    node.finish().await.unwrap();
}
