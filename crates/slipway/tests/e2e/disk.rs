//! A disk that is full: what needs room is refused and says so, what is there stays, and all goes
//! on when there is room again.

use std::path::Path;
use std::time::Duration;

use slipway_cri_api::v1::{
    ContainerState, ListImagesRequest, PodSandboxConfig, RemoveImageRequest,
};
use slipway_cri_api::v1::{ImageSpec, PodSandboxState};
use slipway_testbed::{Cri, Image, Layer, Node, SmallDisk, eventually, pod, read_log};
use tonic::Code;

use crate::refused;

const MEBI: u64 = 1 << 20;

/// What counts in its log.
const COUNTING: &str = "n=0; while :; do n=$((n + 1)); echo $n; sleep 0.02; done";

/// A node with a disk of its own, on which its pods' logs are, too.
async fn small_node() -> (Node, SmallDisk, String) {
    let mut disk = None;
    let node = Node::start_with(|daemon| {
        disk = Some(SmallDisk::mount(daemon.scratch(), 32).unwrap());
        daemon
    })
    .await
    .unwrap();
    let image = node.provide("busybox:1", &Image::busybox()).await.unwrap();
    (node, disk.unwrap(), image.reference)
}

fn pod_on(disk: &SmallDisk, node: &Node, name: &str) -> PodSandboxConfig {
    let mut config = node.pod(name);
    let logs = disk.path().join("logs").join(name);
    std::fs::create_dir_all(&logs).unwrap();
    config.log_directory = logs.display().to_string();
    config
}

async fn images(cri: &Cri) -> usize {
    let answer = cri.images().list_images(ListImagesRequest::default()).await;
    answer.unwrap().into_inner().images.len()
}

/// The numbers of a log, which has whole lines only.
fn numbers(log: &Path) -> Vec<u64> {
    let lines = read_log(log).into_iter();
    lines.map(|line| line.text.parse().unwrap()).collect()
}

#[tokio::test]
async fn an_image_that_does_not_fit_leaves_nothing_and_one_that_fits_is_pulled() {
    let (node, disk, _) = small_node().await;
    let cri = node.cri();
    let noise = vec![7; 48 << 20];
    let large = Image::busybox().layer(Layer::new().file("large", 0o644, noise));
    let large = node.registry.push("large:1", &large).await.unwrap();
    let (before, free) = (images(cri).await, disk.free().unwrap());
    refused(
        cri.pull(&large.reference).await,
        Code::ResourceExhausted,
        &[
            "large",
            "No space left on device",
            disk.path().to_str().unwrap(),
        ],
    );
    assert_eq!(images(cri).await, before);
    eventually("the space", Duration::from_secs(20), async || {
        Ok(disk.free()? + MEBI > free)
    })
    .await
    .unwrap();
    let small = Image::busybox().layer(Layer::new().file("small", 0o644, [7; 4096]));
    node.provide("small:1", &small).await.unwrap();
    node.finish().await.unwrap();
}

#[tokio::test]
async fn on_a_full_disk_pods_go_on_and_go_away_and_new_ones_wait_for_room() {
    let (mut node, disk, image) = small_node().await;
    let other = Image::busybox().layer(Layer::new().file("other", 0o644, [7; 4096]));
    let other = node.registry.push("other:1", &other).await.unwrap();
    let spare = Image::busybox().layer(Layer::new().file("spare", 0o644, [7; 4096]));
    let spare = node.provide("spare:1", &spare).await.unwrap();
    let cri = node.cri().clone();
    let config = pod_on(&disk, &node, "counts");
    let sandbox = cri.run_pod(&config).await.unwrap();
    let counting = pod::shell("main", &image, COUNTING);
    let counts = cri.launch(&sandbox, &config, &counting).await.unwrap();
    let leaving = pod_on(&disk, &node, "leaves");
    let leaves = cri.run_pod(&leaving).await.unwrap();
    let sleeper = pod::sleeper("main", &image);
    let ends = cri.launch(&leaves, &leaving, &sleeper).await.unwrap();
    let log = pod::log_path(&config, &counting);
    eventually("a log", Duration::from_secs(20), async || {
        Ok(numbers(&log).len() > 5)
    })
    .await
    .unwrap();

    disk.fill().unwrap();
    let full = Code::ResourceExhausted;
    let place = disk.path().to_str().unwrap();
    let pulled = cri.pull(&other.reference).await;
    refused(pulled, full, &["No space left", place]);
    let later = pod::sleeper("later", &image);
    // What failures and records give back is room for a while.
    let mut created = Ok(String::new());
    for _ in 0..10 {
        disk.fill().unwrap();
        created = cri.create(&sandbox, &config, &later).await;
        match &created {
            Ok(id) => cri.remove(id).await.unwrap(),
            Err(_) => break,
        }
    }
    refused(created, full, &["No space left", place]);
    // Whoever is there is not touched, and can be looked at.
    assert_eq!(cri.pods().await.unwrap().len(), 2);
    assert_eq!(cri.containers().await.unwrap().len(), 2);
    assert_eq!(cri.exec(&counts, &["true"]).await.unwrap().exit_code, 0);

    // A full disk is made less full by removing, also by a daemon that finds it so.
    node.daemon.kill9();
    node.daemon.restart().await.unwrap();
    let state = cri.pod_status(&sandbox).await.unwrap().state();
    assert_eq!(state, PodSandboxState::SandboxReady);
    disk.fill().unwrap();
    cri.stop(&ends, 0).await.unwrap();
    assert_eq!(cri.container_status(&ends).await.unwrap().exit_code, 137);
    disk.fill().unwrap();
    cri.stop_pod(&leaves).await.unwrap();
    disk.fill().unwrap();
    cri.remove_pod(&leaves).await.unwrap();
    disk.fill().unwrap();
    let spare = RemoveImageRequest {
        image: Some(ImageSpec {
            image: spare.reference,
            ..ImageSpec::default()
        }),
    };
    Box::pin(cri.images().remove_image(spare)).await.unwrap();

    disk.empty().unwrap();
    let before = numbers(&log);
    eventually("the log to go on", Duration::from_secs(20), async || {
        Ok(numbers(&log).len() > before.len() + 5)
    })
    .await
    .unwrap();
    let after = numbers(&log);
    assert!(after.starts_with(&before));
    assert!(after.is_sorted());
    let status = cri.container_status(&counts).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    cri.pull(&other.reference).await.unwrap();
    cri.launch(&sandbox, &config, &later).await.unwrap();
    let late = pod_on(&disk, &node, "late");
    cri.run_pod(&late).await.unwrap();
    node.finish().await.unwrap();
}
