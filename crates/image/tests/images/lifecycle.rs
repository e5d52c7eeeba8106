//! Removing, holding, and starting again after an end that was not orderly.

use std::fs;
use std::sync::{Mutex, mpsc};

use slipway_image::{Images, Kind};

use crate::image::{Packing, TestImage, noise, tar};
use crate::misbehaving::{Misbehaving, Reply};
use crate::node::{Node, config};

/// Two images with a layer in common, pulled.
async fn two_images() -> (Misbehaving, Node, [String; 2]) {
    let registry = Misbehaving::start();
    let base = (tar(&[("base", &noise(100_000, 1))]), Packing::Gzip);
    let node = Node::new();
    let mut names = Vec::new();
    for tag in ["one", "two"] {
        let own = (tar(&[(tag, tag.as_bytes())]), Packing::Gzip);
        registry.put("app", tag, &TestImage::new(&[base.clone(), own]));
        let name = format!("{}/app:{tag}", registry.address);
        node.images.pull(&name, None).await.unwrap();
        names.push(name);
    }
    (registry, node, names.try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn removal_leaves_what_others_need() {
    let (_registry, node, [one, two]) = two_images().await;
    assert_eq!(node.layers().len(), 3);
    let all = node.images.usage().await.unwrap();
    let shared_once = 4096 * (2 + 2 + 2 + 100_000_u64.div_ceil(4096) - 1);
    assert!(all.bytes > shared_once);
    assert!(all.inodes == 7, "{all:?}");
    assert!(all.path.join("layers").is_dir());
    node.images.remove(&one).await.unwrap();
    assert!(node.images.find(&one).unwrap().is_none());
    assert_eq!(node.layers().len(), 2);
    let less = node.images.usage().await.unwrap();
    assert_eq!(less.inodes, 5);
    node.images.remove(&one).await.unwrap();
    let hold = node.images.hold(&two).unwrap();
    assert!(hold.layers.iter().all(|layer| layer.is_dir()));
    node.images.release(&hold.chain_ids);
    let id = node.images.find(&two).unwrap().unwrap().id;
    node.images.remove(&id).await.unwrap();
    node.assert_empty();
    assert_eq!(node.images.usage().await.unwrap().inodes, 1);
    assert_eq!(node.images.hold(&two).unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn held_layers_stay_until_they_are_released() {
    let (_registry, node, [one, two]) = two_images().await;
    let hold = node.images.hold(&one).unwrap();
    let again = node.images.hold(&one).unwrap();
    node.images.remove(&one).await.unwrap();
    node.images.remove(&two).await.unwrap();
    assert_eq!(node.layers().len(), 2);
    assert!(hold.layers.iter().all(|layer| layer.is_dir()));
    node.images.release(&hold.chain_ids);
    node.images.collect().await.unwrap();
    assert_eq!(node.layers().len(), 2);
    let node = node.reopen();
    let layers = node.images.hold_layers(&again.chain_ids).unwrap();
    assert_eq!(layers, again.layers);
    node.images.collect().await.unwrap();
    assert_eq!(node.layers().len(), 2);
    let mut unknown = again.chain_ids.clone();
    unknown.push("sha256:unknown".into());
    assert_eq!(
        node.images.hold_layers(&unknown).unwrap_err().kind(),
        Kind::NotFound
    );
    node.images.release(&again.chain_ids);
    node.images.collect().await.unwrap();
    node.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_removed_while_it_is_used_can_be_pulled_again() {
    let (registry, node, [one, two]) = two_images().await;
    node.images.remove(&two).await.unwrap();
    let hold = node.images.hold(&one).unwrap();
    node.images.remove(&one).await.unwrap();
    let before = registry.requests("/blobs/").len();
    node.images.pull(&one, None).await.unwrap();
    assert_eq!(
        registry.requests("/blobs/").len(),
        before + 1,
        "the configuration only"
    );
    node.images.release(&hold.chain_ids);
    node.images.collect().await.unwrap();
    assert_eq!(node.layers().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_survive_a_restart() {
    let (registry, node, [one, two]) = two_images().await;
    let before = node.images.find(&one).unwrap().unwrap();
    let usage = node.images.usage().await.unwrap();
    let node = node.reopen();
    let after = node.images.find(&one).unwrap().unwrap();
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
    assert_eq!(node.images.usage().await.unwrap().inodes, usage.inodes);
    node.images.collect().await.unwrap();
    assert_eq!(node.layers().len(), 3);
    let requests = registry.requests("/blobs/").len();
    node.images.pull(&two, None).await.unwrap();
    assert_eq!(
        registry.requests("/blobs/").len(),
        requests + 1,
        "the configuration only"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_is_cleaned_up() {
    let (_registry, node, [one, two]) = two_images().await;
    let root = node.root();
    let hold = node.images.hold(&one).unwrap();
    node.images.release(&hold.chain_ids);
    fs::create_dir(root.join("temporary/5")).unwrap();
    fs::write(root.join("temporary/5/half"), "x").unwrap();
    fs::create_dir(root.join("layers").join("a".repeat(64))).unwrap();
    let lost = hold.layers.last().unwrap();
    fs::remove_dir_all(lost).unwrap();
    let node = node.reopen();
    assert!(node.temporary().is_empty());
    assert!(!node.layers().contains(&"a".repeat(64)));
    assert!(
        node.images.find(&one).unwrap().is_none(),
        "its layer is gone"
    );
    assert!(node.images.find(&two).unwrap().is_some());
    node.images.pull(&one, None).await.unwrap();
    assert!(lost.is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_process_has_the_store() {
    let node = Node::new();
    let error = Images::open(&node.root(), config(node.directory.path())).unwrap_err();
    assert_eq!(error.kind(), Kind::Store);
    assert!(error.to_string().contains("another process"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_and_removals_at_the_same_time() {
    let (registry, node, names) = two_images().await;
    let tasks: Vec<_> = (0..16)
        .map(|number| {
            let (images, name) = (node.images.clone(), names[number % 2].clone());
            tokio::spawn(async move {
                for _ in 0..10 {
                    if number % 4 < 2 {
                        images.pull(&name, None).await.unwrap();
                        if let Ok(hold) = images.hold(&name) {
                            assert!(hold.layers.iter().all(|layer| layer.is_dir()));
                            images.release(&hold.chain_ids);
                        }
                    } else {
                        images.remove(&name).await.unwrap();
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for name in &names {
        node.images.pull(name, None).await.unwrap();
    }
    node.images.collect().await.unwrap();
    assert_eq!(node.layers().len(), 3);
    for name in &names {
        node.images.remove(name).await.unwrap();
    }
    node.images.collect().await.unwrap();
    node.assert_empty();
    drop(registry);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_pull_does_not_take_layers_from_another() {
    let registry = Misbehaving::start();
    let base = (tar(&[("base", &noise(600_000, 9))]), Packing::Gzip);
    let good = TestImage::new(&[base.clone(), (tar(&[("g", b"g")]), Packing::Gzip)]);
    let bad = TestImage::new(&[base, (tar(&[("b", b"b")]), Packing::Gzip)]);
    registry.put("app", "good", &good);
    registry.put("app", "bad", &bad);
    let (slow, lost) = (good.layers[0].clone(), bad.layers[1].clone());
    // The shared layer is asked for, and then has to wait until the other pull has failed.
    let (asked, was_asked) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let gate = Mutex::new((asked, may_go_on));
    registry.rule(move |request| {
        if request.path.contains(&slow) {
            let gate = gate.lock().unwrap();
            gate.0.send(()).unwrap();
            gate.1.recv().unwrap();
        }
        if request.path.contains(&lost) {
            Reply::Status(404, Vec::new(), Vec::new())
        } else {
            Reply::Content
        }
    });
    let node = Node::new();
    let name = |tag: &str| format!("{}/app:{tag}", registry.address);
    let (images, good_name) = (node.images.clone(), name("good"));
    let pull = tokio::spawn(async move { images.pull(&good_name, None).await });
    tokio::task::spawn_blocking(move || was_asked.recv().unwrap())
        .await
        .unwrap();
    let error = node.images.pull(&name("bad"), None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    go_on.send(()).unwrap();
    assert_eq!(pull.await.unwrap().unwrap(), good.id());
    assert_eq!(node.layers().len(), 2);
    assert_eq!(registry.requests(&good.layers[0]).len(), 1);
}
