//! Images that Docker has built and no registry has, given to Slipway (`slipway.v1.Images`).

use std::fs;
use std::process::Command;

use slipway_cri_api::slipway::ImportRequest;
use slipway_cri_api::slipway::images_client::ImagesClient;
use slipway_cri_api::v1::ListImagesRequest;
use slipway_testbed::{Cri, Docker, Node, Scratch, pod};
use tonic::{Code, Status};

use crate::{not_on_docker, refused};

/// What `docker save` writes of an image that was never pushed, and Docker's id of it.
async fn built() -> (String, Vec<u8>) {
    let scratch = Scratch::new().unwrap();
    let docker = Docker::start(&scratch).await.unwrap();
    let tree = scratch.join("tree");
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", tree.join("bin/sh")).unwrap();
    let layer = scratch.join("layer.tar");
    let packed = Command::new("tar")
        .arg("-cf")
        .arg(&layer)
        .arg("-C")
        .arg(&tree)
        .arg(".")
        .status();
    assert!(packed.unwrap().success());
    docker
        .cli(&["import", layer.to_str().unwrap(), "built/here:1"])
        .unwrap();
    let id = docker
        .cli(&["inspect", "-f", "{{.Id}}", "built/here:1"])
        .unwrap();
    let archive = scratch.join("archive.tar");
    docker
        .cli(&["save", "-o", archive.to_str().unwrap(), "built/here:1"])
        .unwrap();
    (id.trim().to_owned(), fs::read(archive).unwrap())
}

/// The messages of an import, a piece of the archive in each.
fn messages(id: &str, names: &[&str], archive: &[u8]) -> Vec<ImportRequest> {
    let first = ImportRequest {
        id: id.to_owned(),
        names: names.iter().map(ToString::to_string).collect(),
        archive: Vec::new(),
    };
    let pieces = archive.chunks(100_000).map(|piece| ImportRequest {
        archive: piece.to_owned(),
        ..ImportRequest::default()
    });
    [first].into_iter().chain(pieces).collect()
}

async fn import(cri: &Cri, messages: Vec<ImportRequest>) -> Result<(), Status> {
    let mut client = ImagesClient::new(cri.channel());
    client.import(tokio_stream::iter(messages)).await.map(drop)
}

async fn tags(cri: &Cri) -> Vec<String> {
    let listed = cri.images().list_images(ListImagesRequest::default()).await;
    let images = listed.unwrap().into_inner().images;
    images
        .into_iter()
        .flat_map(|image| image.repo_tags)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_docker_has_built_is_taken_verified_and_runs() {
    if not_on_docker("its images are Docker's") {
        return;
    }
    let (id, archive) = built().await;
    let node = Node::start().await.unwrap();
    let cri = node.cri();
    let names = ["built/here:1"];
    refused(
        import(cri, messages("", &names, &archive)).await,
        Code::InvalidArgument,
        &["ImportRequest.id is empty"],
    );
    let other = format!("sha256:{}", "0".repeat(64));
    for (id, archive) in [
        (&other, &archive[..]),
        (&id, &archive[..archive.len() / 2]),
        (&id, b"no archive"),
    ] {
        let status = import(cri, messages(id, &names, archive))
            .await
            .unwrap_err();
        assert!(!status.message().is_empty(), "{status:?}");
        assert!(tags(cri).await.is_empty(), "{status:?}");
    }
    for _ in 0..2 {
        import(cri, messages(&id, &names, &archive)).await.unwrap();
        assert_eq!(tags(cri).await, ["docker.io/built/here:1"]);
    }
    let config = node.pod("imported");
    let sandbox = cri.run_pod(&config).await.unwrap();
    let container = pod::shell("main", "built/here:1", "exit 9");
    let container = cri.launch(&sandbox, &config, &container).await.unwrap();
    let ended = cri.wait_for_exit(&container).await.unwrap();
    assert_eq!(ended.exit_code, 9);
    node.finish().await.unwrap();
}
