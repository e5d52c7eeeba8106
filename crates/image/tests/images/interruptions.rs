//! Connections that break while a layer is on its way.

use std::time::{Duration, Instant};

use slipway_image::Kind;

use crate::image::{Packing, TestImage, noise, tar};
use crate::misbehaving::{Misbehaving, Reply, Request};
use crate::node::Node;

struct Setting {
    registry: Misbehaving,
    image: TestImage,
    node: Node,
    name: String,
}

/// Two layers of noise, so that their compressed size is known to be large.
fn setting(rule: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Setting {
    let registry = Misbehaving::start();
    let image = TestImage::new(&[
        (tar(&[("a", &noise(1_000_000, 1))]), Packing::Gzip),
        (tar(&[("b", &noise(1_000_000, 2))]), Packing::Zstd),
    ]);
    registry.put("app", "latest", &image);
    registry.rule(rule);
    let name = format!("{}/app", registry.address);
    Setting {
        registry,
        image,
        node: Node::new(),
        name,
    }
}

fn content(setting: &Setting) {
    let hold = setting.node.images.hold(&setting.name).unwrap();
    let read = |layer: usize, name: &str| std::fs::read(hold.layers[layer].join(name)).unwrap();
    assert_eq!(read(0, "a"), noise(1_000_000, 1));
    assert_eq!(read(1, "b"), noise(1_000_000, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_is_taken_up_where_it_happened() {
    let setting = setting(|request| {
        if request.path.contains("/blobs/") {
            Reply::Cut(130_000)
        } else {
            Reply::Content
        }
    });
    setting.node.images.pull(&setting.name, None).await.unwrap();
    content(&setting);
    for layer in &setting.image.layers {
        let requests = setting.registry.requests(layer);
        let size = setting.image.blobs[layer].len();
        assert_eq!(requests.len(), size.div_ceil(130_000));
        let offsets: Vec<_> = requests.iter().map(|request| request.offset).collect();
        assert_eq!(offsets[..3], [None, Some(130_000), Some(260_000)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_starts_again() {
    let cuts = std::sync::atomic::AtomicUsize::new(1);
    let setting = setting(move |request| {
        if request.path.contains("/blobs/") {
            Reply::CutWithoutRanges(
                cuts.fetch_add(1, std::sync::atomic::Ordering::SeqCst) * 200_000,
            )
        } else {
            Reply::Content
        }
    });
    setting.node.images.pull(&setting.name, None).await.unwrap();
    content(&setting);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_that_never_heals_is_an_error() {
    let setting = setting(|request| {
        if request.path.contains("/blobs/") {
            Reply::CutWithoutRanges(300_000)
        } else {
            Reply::Content
        }
    });
    let error = setting
        .node
        .images
        .pull(&setting.name, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("after 300000 of"), "{error}");
    setting.node.assert_empty();
    setting.registry.behave();
    setting.node.images.pull(&setting.name, None).await.unwrap();
    content(&setting);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_given_up_in_time() {
    let setting = setting(|request| match request.path.contains("/blobs/") {
        true if request.offset == Some(100_000) => Reply::Stall(0),
        true => Reply::Stall(100_000),
        false => Reply::Content,
    });
    let begun = Instant::now();
    let error = setting
        .node
        .images
        .pull(&setting.name, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("no byte arrives"), "{error}");
    let elapsed = begun.elapsed();
    assert!(
        elapsed >= Duration::from_secs(2) && elapsed < Duration::from_secs(8),
        "{elapsed:?}"
    );
    setting.node.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_connection_is_replaced() {
    let setting = setting(|request| {
        if request.path.contains("/blobs/") && request.offset.is_none() {
            Reply::Stall(100_000)
        } else {
            Reply::Content
        }
    });
    setting.node.images.pull(&setting.name, None).await.unwrap();
    content(&setting);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_manifest_is_an_error() {
    let setting = setting(|_| Reply::Cut(20));
    let error = setting
        .node
        .images
        .pull(&setting.name, None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    setting.node.assert_empty();
}
