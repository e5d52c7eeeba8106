//! Checkpoints of running containers on Docker, which has runc and CRIU write them.

use slipway_cri_api::v1::ContainerState;
use slipway_testbed::{Docker, Engine, Image, Node, pod};
use tonic::Code;

use crate::checkpoint::{
    assert_content, assert_images, assert_unharmed, assert_wrong_requests_are_refused, checkpoint,
    criu, launch_writer, works,
};
use crate::refused;

async fn node(daemon_json: &str) -> (Node, String) {
    let mut node = Node::start_on(Engine::Docker, |daemon| daemon)
        .await
        .unwrap();
    let pushed = node.provide("busybox:1", &Image::busybox()).await.unwrap();
    docker(&mut node).reconfigure(daemon_json).await.unwrap();
    node.daemon.restart().await.unwrap();
    (node, pushed.reference)
}

fn docker(node: &mut Node) -> &mut Docker {
    node.docker.as_mut().unwrap()
}

/// As far as CRIU works on this kernel: where it does not, Docker's words are told.
#[tokio::test(flavor = "multi_thread")]
async fn docker_writes_down_a_container_that_goes_on() {
    let (node, image) = node(r#"{"experimental": true}"#).await;
    let (cri, id) = (node.cri(), launch_writer(&node, &image).await);
    let archive = node.scratch.join("real.tar");
    let answer = checkpoint(cri, &id, &archive, 60).await;
    if works(&criu()) {
        answer.unwrap();
        assert_content(&node, &archive, &id, &image);
        assert_images(&node);
    } else {
        let words = ["write its state", "criu", "`criu check`", &id];
        refused(answer, Code::Internal, &words);
        assert!(!archive.exists());
    }
    let left = std::fs::read_dir(node.daemon.root().join("docker/checkpoints"));
    assert_eq!(left.unwrap().count(), 0);
    assert_unharmed(cri, &id).await;
    let answer = checkpoint(cri, &id, &node.scratch.join("late.tar"), 0).await;
    refused(answer, Code::FailedPrecondition, &["not running", &id]);
    node.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_docker_cannot_write_is_refused_by_name() {
    let (node, image) = node("{}").await;
    let cri = node.cri();
    let config = node.pod("refused");
    let pod = cri.run_pod(&config).await.unwrap();
    let sleeper = pod::sleeper("main", &image);
    let id = cri.create(&pod, &config, &sleeper).await.unwrap();
    let place = node.scratch.join("x.tar");
    let answer = checkpoint(cri, &id, &place, 0).await;
    refused(answer, Code::FailedPrecondition, &["not running"]);
    cri.start(&id).await.unwrap();
    let answer = checkpoint(cri, &id, &place, 0).await;
    let words = ["experimental", "daemon.json", &id];
    refused(answer, Code::FailedPrecondition, &words);
    assert_wrong_requests_are_refused(&node, &id).await;
    assert!(!place.exists());
    let status = cri.container_status(&id).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    node.finish().await.unwrap();
}
