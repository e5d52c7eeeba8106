//! Images: what can be pulled, what is refused, what is left.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use slipway_cri_api::slipway::pulls_client::PullsClient;
use slipway_cri_api::slipway::{LayerState, WatchRequest};
use slipway_cri_api::v1::{
    AuthConfig, ImageFsInfoRequest, ImageSpec, ImageStatusRequest, ListImagesRequest,
    PullImageRequest, RemoveImageRequest,
};
use slipway_testbed::{
    Compression, Cri, Format, Image, Layer, Node, PASSWORD, USER, eventually, pod,
};
use tonic::{Code, Status};

use crate::{node, not_on_docker, on_docker, refused};

fn spec(name: &str) -> ImageSpec {
    ImageSpec {
        image: name.to_owned(),
        ..ImageSpec::default()
    }
}

async fn status(cri: &Cri, name: &str) -> Option<slipway_cri_api::v1::Image> {
    let request = ImageStatusRequest {
        image: Some(spec(name)),
        verbose: false,
    };
    Box::pin(cri.images().image_status(request))
        .await
        .unwrap()
        .into_inner()
        .image
}

async fn list(cri: &Cri) -> Vec<slipway_cri_api::v1::Image> {
    let request = ListImagesRequest::default();
    Box::pin(cri.images().list_images(request))
        .await
        .unwrap()
        .into_inner()
        .images
}

async fn remove(cri: &Cri, name: &str) -> Result<(), Status> {
    let request = RemoveImageRequest {
        image: Some(spec(name)),
    };
    Box::pin(cri.images().remove_image(request)).await.map(drop)
}

#[tokio::test]
async fn every_kind_of_image_runs() {
    let node = Node::start().await.unwrap();
    let cri = node.cri();
    let config = node.pod("kinds");
    let sandbox = cri.run_pod(&config).await.unwrap();
    for (name, format, compression) in [
        ("oci-gzip", Format::Oci, Compression::Gzip),
        ("oci-zstd", Format::Oci, Compression::Zstd),
        ("oci-plain", Format::Oci, Compression::Plain),
        ("docker-gzip", Format::Docker, Compression::Gzip),
    ] {
        // Docker 20.10 cannot unpack zstd.
        if on_docker() && compression == Compression::Zstd {
            continue;
        }
        // A second layer that differs for each image, so that nothing is there already.
        let image = Image::busybox()
            .layer(Layer::new().file("kind", 0o644, name))
            .format(format)
            .compression(compression);
        let pushed = node.provide(name, &image).await.unwrap();
        let container = pod::shell(name, &pushed.reference, &format!("grep -qx {name} /kind"));
        let id = cri.launch(&sandbox, &config, &container).await.unwrap();
        assert_eq!(cri.wait_for_exit(&id).await.unwrap().exit_code, 0, "{name}");
        assert!(status(cri, &pushed.reference).await.is_some(), "{name}");
    }
    node.finish().await.unwrap();
}

#[tokio::test]
async fn an_index_gives_this_machines_image_by_tag_and_by_digest() {
    let node = Node::start().await.unwrap();
    let cri = node.cri();
    let other = Image::busybox()
        .platform("linux", "s390x", None)
        .label("which", "other");
    let own = Image::busybox().label("which", "own");
    let pushed = node
        .registry
        .push_index("multi:1", &[other.clone(), own])
        .await
        .unwrap();
    let id = cri.pull(&pushed.reference).await.unwrap();
    let image = status(cri, &pushed.reference).await.unwrap();
    assert_eq!(image.id, id);
    assert_eq!(image.repo_tags, std::slice::from_ref(&pushed.reference));
    let repository = pushed.reference.rsplit_once(':').unwrap().0;
    let by_digest = format!("{repository}@{}", pushed.digest);
    assert_eq!(image.repo_digests, std::slice::from_ref(&by_digest));
    assert_eq!(cri.pull(&by_digest).await.unwrap(), id);
    for name in [id.as_str(), id.strip_prefix("sha256:").unwrap(), &by_digest] {
        assert_eq!(status(cri, name).await.unwrap().id, id, "{name}");
    }
    let none = node
        .registry
        .push_index("foreign:1", &[other])
        .await
        .unwrap();
    let answer = cri.pull(&none.reference).await;
    // Docker tells which platform it wants, and not which there are.
    let platform = if on_docker() { "linux/" } else { "s390x" };
    refused(answer, Code::FailedPrecondition, &["foreign", platform]);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_pulled_says_why_and_stores_nothing() {
    let (mut node, image) = node().await;
    let registry = node.registry.address();
    let before = list(node.cri()).await.len();
    let absent = format!("{registry}/no/such:1");
    refused(
        node.cri().pull(&absent).await,
        Code::NotFound,
        &["no/such", &registry.to_string()],
    );
    refused(
        node.cri().pull("lower/UPPER").await,
        Code::InvalidArgument,
        &["lower/UPPER"],
    );
    refused(
        node.cri().pull("").await,
        Code::InvalidArgument,
        &["ImageSpec.image"],
    );
    let request = PullImageRequest::default();
    let answer = Box::pin(node.cri().images().pull_image(request)).await;
    refused(answer, Code::InvalidArgument, &["PullImageRequest.image"]);

    if not_on_docker("it unpacks such a layer, inside of the image's directory") {
        return node.finish().await.unwrap();
    }
    let layer = Layer::new().file("../escape", 0o644, "out");
    let escaping = node
        .registry
        .push("escape:1", &Image::busybox().layer(layer))
        .await
        .unwrap();
    let answer = node.cri().pull(&escaping.reference).await;
    refused(answer, Code::DataLoss, &["escape"]);

    node.registry.kill();
    let answer = node.cri().pull(&absent).await;
    refused(
        answer,
        Code::Unavailable,
        &["no/such", &registry.to_string()],
    );
    assert_eq!(list(node.cri()).await.len(), before);
    assert!(
        status(node.cri(), &image).await.is_some(),
        "what was there is there"
    );
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_registry_behind_a_password_is_shown_what_the_request_has() {
    let node = Node::start().await.unwrap();
    let cri = node.cri();
    let image = Image::busybox();
    let id = node.registry.push("private:1", &image).await.unwrap().id;
    let closed = node.registry.behind_password().await.unwrap();
    let reference = closed.reference("private:1");
    let address = closed.address().to_string();
    let pull = async |auth: Option<AuthConfig>| {
        let request = PullImageRequest {
            image: Some(spec(&reference)),
            auth,
            sandbox_config: None,
        };
        let answer = Box::pin(cri.images().pull_image(request)).await;
        answer.map(|answer| answer.into_inner().image_ref)
    };
    let password = |password: &str| AuthConfig {
        username: USER.to_owned(),
        password: password.to_owned(),
        ..AuthConfig::default()
    };
    // As `crictl pull --auth` sends them.
    let auth = |auth: &str| AuthConfig {
        auth: auth.to_owned(),
        ..AuthConfig::default()
    };
    let at = |server: &str, given: AuthConfig| AuthConfig {
        server_address: server.to_owned(),
        ..given
    };
    let encoded = |word: &str| STANDARD.encode(format!("{USER}:{word}"));
    for wrong in [
        None,
        Some(password("wrong")),
        Some(auth(&encoded("wrong"))),
        Some(at("registry.invalid", password(PASSWORD))),
    ] {
        let answer = pull(wrong).await;
        refused(answer, Code::PermissionDenied, &[&address, "private"]);
    }
    for malformed in ["!", &STANDARD.encode("nobody")] {
        let answer = pull(Some(auth(malformed))).await;
        refused(
            answer,
            Code::InvalidArgument,
            &["AuthConfig.auth", "Base64"],
        );
    }
    assert!(status(cri, &reference).await.is_none());
    for right in [
        password(PASSWORD),
        auth(&encoded(PASSWORD)),
        at(&address, auth(&encoded(PASSWORD))),
    ] {
        assert_eq!(pull(Some(right)).await.unwrap(), id);
        remove(cri, &reference).await.unwrap();
    }
    node.finish().await.unwrap();
}

#[tokio::test]
async fn removing_an_image_gives_its_space_back_but_not_under_a_container() {
    let (node, image) = node().await;
    if not_on_docker("it keeps an image while a container is made of it, and counts no inodes") {
        return node.finish().await.unwrap();
    }
    let cri = node.cri();
    let used = || async {
        let answer = Box::pin(cri.images().image_fs_info(ImageFsInfoRequest {}))
            .await
            .unwrap();
        let usage = &answer.into_inner().image_filesystems[0];
        (
            usage.used_bytes.unwrap().value,
            usage.inodes_used.unwrap().value,
        )
    };
    let (bytes, inodes) = used().await;
    assert!(
        bytes > 1_000_000 && inodes > 100,
        "{bytes} bytes, {inodes} inodes"
    );

    let config = node.pod("holds");
    let sandbox = cri.run_pod(&config).await.unwrap();
    let id = cri
        .launch(&sandbox, &config, &pod::sleeper("main", &image))
        .await
        .unwrap();
    remove(cri, &image).await.unwrap();
    assert!(status(cri, &image).await.is_none());
    assert_eq!(
        cri.exec(&id, &["/bin/busybox", "true"])
            .await
            .unwrap()
            .exit_code,
        0
    );
    remove(cri, &image)
        .await
        .expect("removing what is not there is fine");
    cri.remove_pod(&sandbox).await.unwrap();
    // The layers of an image that was removed go with its last container.
    eventually("the space", Duration::from_secs(20), async || {
        let (bytes, inodes) = used().await;
        Ok(bytes < 1_000_000 && inodes < 100)
    })
    .await
    .unwrap();
    node.finish().await.unwrap();
}

#[tokio::test]
async fn the_progress_of_a_pull_can_be_watched() {
    let node = Node::start().await.unwrap();
    let cri = node.cri();
    let layer = Layer::new().file("large", 0o644, vec![7; 4 << 20]);
    let image = Image::busybox()
        .layer(layer)
        .compression(Compression::Plain);
    let reference = node
        .registry
        .push("watched:1", &image)
        .await
        .unwrap()
        .reference;
    let request = WatchRequest {
        image: reference.clone(),
    };
    let mut states = PullsClient::new(cri.channel())
        .watch(request)
        .await
        .unwrap()
        .into_inner();
    cri.pull(&reference).await.unwrap();
    let mut last = None;
    while let Some(state) = states.message().await.unwrap() {
        last = Some(state);
    }
    let layers = last.expect("a pull has states").layers;
    assert_eq!(layers.len(), 2);
    for layer in layers {
        assert_eq!(layer.state(), LayerState::LayerDone, "{layer:?}");
        assert_eq!(layer.done, layer.total, "{layer:?}");
    }
    node.finish().await.unwrap();
}

#[tokio::test]
async fn registries_conf_says_where_an_image_comes_from() {
    let node = Node::start().await.unwrap();
    if not_on_docker("where it looks for images is its own configuration") {
        return node.finish().await.unwrap();
    }
    let address = node.registry.address();
    let registries = format!(
        "[[registry]]\nprefix = \"docker.io\"\nlocation = \"registry.invalid\"\n\
         [[registry.mirror]]\nlocation = \"{address}\"\ninsecure = true\n\
         [[registry]]\nprefix = \"blocked.example\"\nblocked = true\n"
    );
    node.registry
        .push("library/busybox:1", &Image::busybox())
        .await
        .unwrap();
    std::fs::write(node.scratch.join("registries.conf"), registries).unwrap();
    let cri = node.cri();
    cri.pull("busybox:1").await.unwrap();
    let image = status(cri, "docker.io/library/busybox:1").await.unwrap();
    assert_eq!(image.repo_tags, ["docker.io/library/busybox:1"]);
    let answer = cri.pull("blocked.example/a:1").await;
    refused(answer, Code::PermissionDenied, &["blocked.example"]);
    std::fs::write(
        node.scratch.join("registries.conf"),
        "[[registry]]\nprefix = 7\n",
    )
    .unwrap();
    let answer = cri.pull("busybox:2").await;
    refused(answer, Code::Internal, &["registries.conf"]);
    node.finish().await.unwrap();
}
