//! Logs of containers on Docker, which Docker writes in its own format and the daemon in CRI's.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use slipway_cri_api::v1::{ContainerConfig, Mount, ReopenContainerLogRequest};
use slipway_testbed::{Docker, Engine, Image, Node, eventually, pod, read_log};
use tonic::Code;

use crate::{ready, refused};

/// How long anything may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_mins(1);

async fn node() -> (Node, String) {
    let node = Node::start_on(Engine::Docker, |daemon| daemon).await;
    let node = node.unwrap();
    let pushed = node.provide("busybox:1", &Image::busybox()).await.unwrap();
    (node, pushed.reference)
}

fn docker(node: &mut Node) -> &mut Docker {
    node.docker.as_mut().unwrap()
}

/// A container that counts until it is told to end: slowly enough for Docker to keep what it writes
/// while there is no daemon.
fn counter(image: &str, go: &Path) -> ContainerConfig {
    let script = "i=0; until [ -e /go/stop ]; do \
                  for _ in 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9; do echo $i; i=$((i+1)); done; \
                  sleep 0.005; done; printf end";
    let mut container = pod::shell("main", image, script);
    container.mounts = vec![Mount {
        container_path: "/go".to_owned(),
        host_path: go.display().to_string(),
        ..Mount::default()
    }];
    container
}

/// How many lines a log has, each the next number, and whether that is all.
fn counted(files: &[&Path]) -> (usize, bool) {
    let lines = files.iter().flat_map(|file| read_log(file));
    let mut count = 0;
    for line in lines {
        if !line.full {
            assert_eq!(line.text, "end");
            return (count, true);
        }
        assert_eq!(line.text, count.to_string());
        count += 1;
    }
    (count, false)
}

async fn grows(files: &[&Path]) {
    let before = counted(files).0;
    eventually("the log to grow", PATIENCE, async || {
        Ok(counted(files).0 > before + 200)
    })
    .await
    .unwrap();
}

/// The daemon is killed again and again while a container writes and Docker rotates.
async fn nothing_is_lost_or_twice(config: &str) {
    let (mut node, image) = node().await;
    docker(&mut node).reconfigure(config).await.unwrap();
    node.daemon.restart().await.unwrap();
    let go = node.scratch.join("go");
    fs::create_dir(&go).unwrap();
    let config = node.pod("counter");
    let pod = node.cri().run_pod(&config).await.unwrap();
    let container = counter(&image, &go);
    let id = node.cri().launch(&pod, &config, &container).await.unwrap();
    let path = docker(&mut node).cli(&["inspect", "-f", "{{.LogPath}}", &id]);
    let path = path.unwrap().trim().to_owned();
    let log = pod::log_path(&config, &container);
    let aside = log.with_extension("log.1");
    for round in 0..4 {
        grows(&[&log]).await;
        node.daemon.kill9();
        let rotated = inode(&path);
        eventually("Docker to rotate", PATIENCE, async || {
            Ok(inode(&path) != rotated)
        })
        .await
        .unwrap();
        // A kubelet may be about to rotate when the daemon is killed, and put the file back.
        if round == 1 {
            fs::rename(&log, &aside).unwrap();
        }
        node.daemon.restart().await.unwrap();
        if round == 1 {
            grows(&[&aside]).await;
            fs::rename(&aside, &log).unwrap();
        }
    }
    fs::rename(&log, &aside).unwrap();
    let request = ReopenContainerLogRequest {
        container_id: id.clone(),
    };
    Box::pin(node.cri().runtime().reopen_container_log(request))
        .await
        .unwrap();
    grows(&[&aside, &log]).await;
    fs::write(go.join("stop"), "").unwrap();
    node.cri().wait_for_exit(&id).await.unwrap();
    // It is whole when its end is told.
    assert!(counted(&[&aside, &log]).1);

    // A daemon that finds it ended writes nothing of it again.
    node.daemon.restart().await.unwrap();
    assert!(counted(&[&aside, &log]).1);
    node.finish().await.unwrap();
}

fn inode(path: &str) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).ok().map(|found| found.ino())
}

#[tokio::test]
async fn a_killed_daemon_and_a_docker_that_rotates_lose_no_line() {
    let config = r#"{"log-opts": {"max-size": "50k", "max-file": "400"}}"#;
    nothing_is_lost_or_twice(config).await;
}

#[tokio::test]
async fn a_killed_daemon_and_a_docker_that_compresses_lose_no_line() {
    let config = r#"{"log-opts": {"max-size": "50k", "max-file": "400", "compress": "true"}}"#;
    nothing_is_lost_or_twice(config).await;
}

#[tokio::test]
async fn a_log_on_a_full_disk_is_written_when_there_is_room() {
    let (node, image) = node().await;
    let cri = node.cri();
    let mut config = node.pod("full");
    let full = node.scratch.join("full");
    fs::create_dir(&full).unwrap();
    let size = Some(c"size=64k");
    mount("none", &full, "tmpfs", MountFlags::empty(), size).unwrap();
    fs::write(full.join("filler"), vec![0; 60 * 1024]).unwrap();
    config.log_directory = full.display().to_string();
    let pod = cri.run_pod(&config).await.unwrap();
    let script = "i=0; while [ $i -lt 1000 ]; do echo $i; i=$((i+1)); done; printf end; sleep 1000";
    let container = pod::shell("main", &image, script);
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    let log = pod::log_path(&config, &container);
    eventually("the disk to be full", PATIENCE, async || {
        Ok(node.daemon.log().contains("a log cannot be written"))
    })
    .await
    .unwrap();
    let (count, _) = counted(&[&log]);
    assert!(count < 1000, "there was room for all lines");
    // Nobody waits for it.
    assert_eq!(cri.exec(&id, &["true"]).await.unwrap().exit_code, 0);
    fs::remove_file(full.join("filler")).unwrap();
    eventually("the whole log", PATIENCE, async || {
        Ok(counted(&[&log]) == (1000, false))
    })
    .await
    .unwrap();
    // Docker tells of a line without an end when the container ends.
    cri.stop(&id, 0).await.unwrap();
    assert_eq!(counted(&[&log]), (1000, true));
    cri.remove_pod(&pod).await.unwrap();
    unmount(&full, UnmountFlags::empty()).unwrap();
    assert_eq!(
        node.daemon.log().matches("a log cannot be written").count(),
        1
    );
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_link_of_an_older_version_stays_one_and_goes_with_its_container() {
    let (mut node, image) = node().await;
    let config = node.pod("old");
    let pod = node.cri().run_pod(&config).await.unwrap();
    let container = pod::sleeper("main", &image);
    let id = node.cri().launch(&pod, &config, &container).await.unwrap();
    let target = docker(&mut node).cli(&["inspect", "-f", "{{.LogPath}}", &id]);
    let target = target.unwrap().trim().to_owned();
    let log = pod::log_path(&config, &container);
    // As that version has left it.
    node.daemon.kill9();
    fs::remove_file(node.daemon.root().join("docker/logs").join(&id)).unwrap();
    fs::remove_file(&log).unwrap();
    symlink(&target, &log).unwrap();
    node.daemon.restart().await.unwrap();
    assert_eq!(fs::read_link(&log).unwrap().to_str(), Some(target.as_str()));
    let request = ReopenContainerLogRequest {
        container_id: id.clone(),
    };
    let answer = Box::pin(node.cri().runtime().reopen_container_log(request)).await;
    refused(answer, Code::FailedPrecondition, &["max-size", &id]);
    node.cri().stop(&id, 0).await.unwrap();
    assert!(log.is_symlink());
    node.cri().remove(&id).await.unwrap();
    assert!(fs::symlink_metadata(&log).is_err());
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_container_that_somebody_has_docker_start_again_is_followed_again() {
    let (mut node, image) = node().await;
    let config = node.pod("again");
    let pod = node.cri().run_pod(&config).await.unwrap();
    let container = pod::sleeper("main", &image);
    let id = node.cri().launch(&pod, &config, &container).await.unwrap();
    let log = pod::log_path(&config, &container);
    ready(&log).await;
    node.cri().stop(&id, 0).await.unwrap();
    docker(&mut node).cli(&["start", &id]).unwrap();
    eventually("what it says the second time", PATIENCE, async || {
        let lines = read_log(&log);
        assert!(lines.iter().all(|line| line.text == "ready"));
        Ok(lines.len() == 2)
    })
    .await
    .unwrap();
    node.cri().stop(&id, 0).await.unwrap();
    assert_eq!(read_log(&log).len(), 2);
    node.finish().await.unwrap();
}
