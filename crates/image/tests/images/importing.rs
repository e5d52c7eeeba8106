//! Images taken from archives.

use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use serde_json::json;
use slipway_image::Kind;
use tokio::io::{AsyncRead, ReadBuf};

use crate::image::{Packing, TestImage, descriptor, digest, noise, tar};
use crate::node::Node;

/// An archive's entries, in order.
type Files = Vec<(String, Vec<u8>)>;

/// As Docker's own image store saves it: layers first, the manifest last, and links in place of
/// layers that are there already.
fn saved(image: &TestImage) -> Files {
    let config = format!("{}.json", &image.id()["sha256:".len()..]);
    let mut files: Files = Vec::new();
    let mut layers = Vec::new();
    for (number, layer) in image.layers.iter().enumerate() {
        let path = format!("layer{number}/layer.tar");
        files.push((path.clone(), image.blobs[layer].clone()));
        layers.push(path);
    }
    files.push((config.clone(), image.blobs[&image.id()].clone()));
    let manifest = json!([{ "Config": config, "RepoTags": ["app:1"], "Layers": layers }]);
    files.push((
        "manifest.json".to_owned(),
        manifest.to_string().into_bytes(),
    ));
    files
}

fn archive(files: &Files) -> Vec<u8> {
    let entries: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, content)| (name.as_str(), content.as_slice()))
        .collect();
    tar(&entries)
}

/// As Docker saves an image that it keeps in containerd: blobs by their digests, and Docker's own
/// list of them.
fn saved_by_containerd(image: &TestImage, index: Option<&[u8]>) -> Files {
    let path = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
    let mut files: Files = Vec::new();
    let manifest = image.manifest_bytes();
    for blob in image
        .blobs
        .values()
        .map(Vec::as_slice)
        .chain([manifest.as_slice()])
        .chain(index)
    {
        files.push((path(&digest(blob)), blob.to_vec()));
    }
    let layers: Vec<_> = image.layers.iter().map(|layer| path(layer)).collect();
    let list = json!([{ "Config": path(&image.id()), "RepoTags": ["app:1"], "Layers": layers }]);
    files.push(("manifest.json".to_owned(), list.to_string().into_bytes()));
    files
}

async fn import(
    node: &Node,
    id: &str,
    names: &[&str],
    archive: Vec<u8>,
) -> Result<(), slipway_image::Error> {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    let reader = Box::pin(Cursor::new(archive));
    node.images.import(id, names, reader).await
}

fn two_layers() -> TestImage {
    TestImage::new(&[
        (
            tar(&[("etc/", b""), ("etc/name", b"lower")]),
            Packing::Plain,
        ),
        (
            tar(&[("etc/name", b"upper"), ("bin/app", &noise(3_000_000, 1))]),
            Packing::Plain,
        ),
    ])
}

#[tokio::test]
async fn an_image_is_what_a_pull_would_have_made_of_it() {
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let layer = |content: &[u8]| (tar(&[("file", content)]), packing);
        let image = TestImage::new(&[layer(b"one"), layer(&noise(2_500_000, 2))]);
        let node = Node::new();
        let pinned = format!("app@{}", digest(b"some manifest"));
        import(
            &node,
            &image.id(),
            &["app:1", &pinned],
            archive(&saved(&image)),
        )
        .await
        .unwrap();
        let found = node.images.find("app:1").unwrap().unwrap();
        assert_eq!(found.id, image.id());
        assert_eq!(found.repo_tags, ["docker.io/library/app:1"]);
        assert_eq!(found.repo_digests, [format!("docker.io/library/{pinned}")]);
        let hold = node.images.hold("app:1").unwrap();
        let content = |layer: usize| fs::read(hold.layers[layer].join("file")).unwrap();
        assert_eq!(content(0), b"one");
        assert_eq!(content(1), noise(2_500_000, 2));
        assert_eq!(node.temporary(), BTreeSet::new());
        // It survives, and goes like any other.
        let node = node.reopen();
        assert!(node.images.find("app:1").unwrap().is_some());
        node.images.remove("app:1").await.unwrap();
        node.assert_empty();
    }
}

#[tokio::test]
async fn an_image_can_be_asked_for_by_its_manifest_or_index() {
    let image = TestImage::new(&[(tar(&[("file", b"one")]), Packing::Gzip)]);
    let manifest = image.manifest_bytes();
    let mut entry = descriptor(&image.media_type(), &manifest);
    let architecture = image.config["architecture"].clone();
    entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
    let mut other = descriptor(&image.media_type(), b"another machine's");
    other["platform"] = json!({ "architecture": "s390x", "os": "linux" });
    let index = json!({ "schemaVersion": 2, "manifests": [other, entry] });
    let index = index.to_string().into_bytes();
    for (id, index) in [
        (image.manifest_digest(), None),
        (digest(&index), Some(&*index)),
    ] {
        let files = saved_by_containerd(&image, index);
        let node = Node::new();
        let pinned = format!("app@{id}");
        import(&node, &id, &["app:1", &pinned], archive(&files))
            .await
            .unwrap();
        // Also by that id, and once.
        for name in ["app:1", &pinned, &id] {
            assert_eq!(node.images.find(name).unwrap().unwrap().id, image.id());
        }
        import(&node, &id, &[], Vec::new()).await.unwrap();

        let mut files = files;
        let named =
            |(path, _): &&mut (String, Vec<u8>)| id.ends_with(&path["blobs/sha256/".len()..]);
        files
            .iter_mut()
            .filter(|(path, _)| path.starts_with("blobs"))
            .find(named)
            .unwrap()
            .1 = b"{}".to_vec();
        let node = Node::new();
        let refused = import(&node, &id, &["app:1"], archive(&files))
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), Kind::Corrupt);
        assert!(
            refused.to_string().contains("has another digest"),
            "{refused}"
        );
        node.assert_empty();
    }
}

#[tokio::test]
async fn a_layer_that_is_there_twice_may_be_a_link() {
    let layer = (tar(&[("same", b"content")]), Packing::Plain);
    let image = TestImage::new(&[layer.clone(), layer]);
    let config = image.blobs[&image.id()].clone();
    let manifest = json!([
        { "Config": "other.json", "Layers": [] },
        { "Config": "config.json", "Layers": ["one/layer.tar", "two/layer.tar"] },
    ]);
    let mut builder = tar::Builder::new(Vec::new());
    let mut file = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content).unwrap();
    };
    file("manifest.json", manifest.to_string().as_bytes());
    file("other.json", b"{}");
    file("config.json", &config);
    file("one/layer.tar", &image.blobs[&image.layers[0]]);
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Symlink);
    builder
        .append_link(&mut header, "two/layer.tar", "../one/layer.tar")
        .unwrap();
    let node = Node::new();
    import(&node, &image.id(), &[], builder.into_inner().unwrap())
        .await
        .unwrap();
    assert_eq!(node.images.hold(&image.id()).unwrap().layers.len(), 2);
}

#[tokio::test]
async fn a_name_that_is_taken_keeps_its_meaning() {
    let node = Node::new();
    let (first, second) = (TestImage::small("a", "1"), TestImage::small("b", "2"));
    import(&node, &first.id(), &["app:1"], archive(&saved(&first)))
        .await
        .unwrap();
    let names = ["app:1", "app:2", "NO NAME"];
    import(&node, &second.id(), &names, archive(&saved(&second)))
        .await
        .unwrap();
    let id = |name: &str| node.images.find(name).unwrap().unwrap().id;
    assert_eq!([id("app:1"), id("app:2")], [first.id(), second.id()]);
}

/// Counts who begins to read.
struct Counted(Cursor<Vec<u8>>, Option<Arc<AtomicUsize>>);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if let Some(begun) = self.1.take() {
            begun.fetch_add(1, Ordering::SeqCst);
        }
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_taken_once_however_many_ask() {
    let image = two_layers();
    let bytes = archive(&saved(&image));
    let node = Node::new();
    let begun = Arc::new(AtomicUsize::new(0));
    let import = || {
        let reader = Counted(Cursor::new(bytes.clone()), Some(Arc::clone(&begun)));
        let (images, id) = (node.images.clone(), image.id());
        tokio::spawn(async move { images.import(&id, Vec::new(), Box::pin(reader)).await })
    };
    let all: Vec<_> = (0..8).map(|_| import()).collect();
    for one in all {
        one.await.unwrap().unwrap();
    }
    import().await.unwrap().unwrap();
    assert_eq!(begun.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_is_not_what_it_says_is_refused_and_leaves_nothing() {
    let image = two_layers();
    let whole = saved(&image);
    let with = |name: &str, content: &[u8]| {
        let mut files = whole.clone();
        let file = files.iter_mut().find(|(path, _)| path == name).unwrap();
        file.1 = content.to_vec();
        archive(&files)
    };
    let without = |name: &str| {
        let mut files = whole.clone();
        files.retain(|(path, _)| path != name);
        archive(&files)
    };
    let manifest = |text: &str| with("manifest.json", text.as_bytes());
    let config = &whole[2].0;
    let mut cut = archive(&whole);
    cut.truncate(1_000_000);
    let wrong = tar(&[("etc/name", b"another")]);
    for (bytes, words) in [
        (with("layer0/layer.tar", &wrong), "diff id"),
        (with("layer1/layer.tar", b""), "layer sha256:"),
        (with(config, b"{}"), "no configuration in it has the digest"),
        (without("layer1/layer.tar"), "it has no layer1/layer.tar"),
        (without(config), "it has no"),
        (without("manifest.json"), "it has no manifest.json"),
        (manifest("{"), "manifest.json is malformed"),
        (manifest("[]"), "no configuration"),
        (
            manifest(&json!([{ "Config": config, "Layers": ["layer0/layer.tar"] }]).to_string()),
            "2 diff ids",
        ),
        (
            manifest(&json!([{ "Config": "../../etc/passwd", "Layers": [] }]).to_string()),
            "it has no ../../etc/passwd",
        ),
        (cut, "it has no manifest.json"),
        (vec![b'x'; 4096], "it cannot be read"),
        (Vec::new(), "it has no manifest.json"),
    ] {
        let node = Node::new();
        let error = import(&node, &image.id(), &["app:1"], bytes)
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains(words), "{words:?} is not in: {text}");
        assert!(text.contains(&image.id()), "{text}");
        assert_eq!(error.kind(), Kind::Corrupt, "{text}");
        node.assert_empty();
    }
}
