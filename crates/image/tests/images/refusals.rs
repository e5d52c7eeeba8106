//! Registries that refuse, fail or lie. Whatever they do: the error names registry, repository and
//! cause, nothing is stored, and the next pull works.

use std::time::{Duration, Instant};

use serde_json::json;
use slipway_image::Kind;

use crate::image::{Packing, TestImage, noise, tar};
use crate::misbehaving::{Misbehaving, Reply, Request};
use crate::node::Node;

/// Pulls under a rule and then without it.
async fn refused(
    rule: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    kind: Kind,
    words: &[&str],
) {
    let registry = Misbehaving::start();
    let image = TestImage::new(&[
        (tar(&[("a", &noise(200_000, 1))]), Packing::Gzip),
        (tar(&[("b", &noise(200_000, 2))]), Packing::Gzip),
    ]);
    registry.put("team/app", "latest", &image);
    registry.rule(rule);
    let node = Node::new();
    let name = format!("{}/team/app", registry.address);
    let error = node.images.pull(&name, None).await.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    let place = [registry.address.as_str(), "team/app"];
    for word in place.iter().chain(words) {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(text.len() < 2000, "{} bytes", text.len());
    node.assert_empty();
    registry.behave();
    assert_eq!(node.images.pull(&name, None).await.unwrap(), image.id());
    assert_eq!(node.layers().len(), 2);
}

fn at(
    part: &'static str,
    reply: impl Fn() -> Reply + Send + Sync + 'static,
) -> impl Fn(&Request) -> Reply {
    move |request| {
        if request.path.contains(part) {
            reply()
        } else {
            Reply::Content
        }
    }
}

fn status(status: u16, code: &str) -> Reply {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"because"}}]}}"#);
    Reply::Status(
        status,
        vec![("Retry-After", "17".into())],
        body.into_bytes(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_at_the_manifest() {
    let cases = [
        (401, "UNAUTHORIZED", Kind::Denied),
        (403, "DENIED", Kind::Denied),
        (404, "MANIFEST_UNKNOWN", Kind::NotFound),
        (429, "TOOMANYREQUESTS", Kind::RateLimited),
        (500, "UNKNOWN", Kind::Unavailable),
        (503, "UNAVAILABLE", Kind::Unavailable),
    ];
    for (number, code, kind) in cases {
        let words = [
            &number.to_string(),
            code,
            "because",
            "manifest latest",
            "retry after 17",
        ];
        refused(
            at("/manifests/", move || status(number, code)),
            kind,
            &words,
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_at_a_blob() {
    let cases = [
        (401, "UNAUTHORIZED", Kind::Denied),
        (403, "DENIED", Kind::Denied),
        (404, "BLOB_UNKNOWN", Kind::NotFound),
        (429, "TOOMANYREQUESTS", Kind::RateLimited),
        (500, "UNKNOWN", Kind::Unavailable),
    ];
    for (number, code, kind) in cases {
        let words = [&number.to_string(), code, "because", "blob sha256:"];
        refused(at("/blobs/", move || status(number, code)), kind, &words).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_brackets() {
    let begun = Instant::now();
    for body in [
        "[".repeat(1 << 20),
        "{\"a\":".repeat(1 << 18),
        "[]".repeat(1 << 19),
    ] {
        let reply = move || Reply::Other(body.clone().into_bytes());
        refused(
            at("/manifests/", reply),
            Kind::Corrupt,
            &["manifest is malformed"],
        )
        .await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    let endless = || Reply::Other(vec![b' '; 5 << 20]);
    refused(at("/manifests/", endless), Kind::Corrupt, &["longer than"]).await;
    let page = || Reply::Other(b"<html>welcome to the hotel</html>".to_vec());
    refused(at("/manifests/", page), Kind::Corrupt, &["malformed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_are_not_what_was_announced() {
    refused(
        at("/blobs/", || Reply::Other(b"short".to_vec())),
        Kind::Corrupt,
        &["5 bytes"],
    )
    .await;
    refused(
        at("/blobs/", || Reply::Other(vec![0; 500_000])),
        Kind::Corrupt,
        &["500000"],
    )
    .await;
    let flipped = |request: &Request| {
        // The config is small; the layers are noise of a known length.
        if request.path.contains("/blobs/") {
            Reply::Cut(0)
        } else {
            Reply::Content
        }
    };
    refused(
        flipped,
        Kind::Unavailable,
        &["5 attempts that brought nothing"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_with_a_wrong_digest() {
    let registry = Misbehaving::start();
    let image = TestImage::new(&[(tar(&[("a", &noise(200_000, 1))]), Packing::Gzip)]);
    registry.put("app", "latest", &image);
    let node = Node::new();
    let name = format!("{}/app", registry.address);
    for (part, length) in [(image.layers[0].clone(), None), (image.id(), Some(()))] {
        let mut wrong = image.blobs[&part].clone();
        let middle = wrong.len() / 2;
        wrong[middle] ^= 1;
        registry.rule(move |request| {
            if request.path.contains(&part) {
                Reply::Other(wrong.clone())
            } else {
                Reply::Content
            }
        });
        let error = node.images.pull(&name, None).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error} {length:?}");
        node.assert_empty();
    }
    // By digest, another manifest is not accepted either.
    let other = TestImage::small("b", "b");
    let bytes = other.manifest_bytes();
    registry.rule(move |request| {
        if request.path.contains("/manifests/") {
            Reply::Other(bytes.clone())
        } else {
            Reply::Content
        }
    });
    let pinned = format!("{name}@{}", image.manifest_digest());
    let error = node.images.pull(&pinned, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(
        error.to_string().contains(&other.manifest_digest()),
        "{error}"
    );
    node.assert_empty();
    registry.behave();
    node.images.pull(&pinned, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_contradict_each_other() {
    let registry = Misbehaving::start();
    let node = Node::new();
    let image = TestImage::new(&[(tar(&[("a", b"a")]), Packing::Gzip)]);
    let mut changed: Vec<(&str, Kind, TestImage)> = Vec::new();
    let mut with_config = |tag: &'static str, kind, change: &dyn Fn(&mut serde_json::Value)| {
        let mut image = image.clone();
        change(&mut image.config);
        let bytes = image.config.to_string().into_bytes();
        let media_type = image.manifest["config"]["mediaType"]
            .as_str()
            .unwrap()
            .to_owned();
        image.manifest["config"] = crate::image::descriptor(&media_type, &bytes);
        image.blobs.insert(crate::image::digest(&bytes), bytes);
        changed.push((tag, kind, image));
    };
    let zeros = format!("sha256:{}", "0".repeat(64));
    with_config("diff", Kind::Corrupt, &|config| {
        config["rootfs"]["diff_ids"][0] = json!(zeros);
    });
    with_config("count", Kind::Corrupt, &|config| {
        config["rootfs"]["diff_ids"] = json!([]);
    });
    with_config("windows", Kind::Unsupported, &|config| {
        config["os"] = json!("windows");
    });
    with_config("number", Kind::Corrupt, &|config| config["os"] = json!(7));
    let mut with_manifest = |tag: &'static str, kind, change: &dyn Fn(&mut serde_json::Value)| {
        let mut image = image.clone();
        change(&mut image.manifest);
        changed.push((tag, kind, image));
    };
    with_manifest("size", Kind::Corrupt, &|manifest| {
        manifest["layers"][0]["size"] = json!(9);
    });
    with_manifest("huge", Kind::Corrupt, &|manifest| {
        manifest["config"]["size"] = json!(1_u64 << 40);
    });
    with_manifest("lie", Kind::Corrupt, &|manifest| {
        manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
    });
    with_manifest("zstd", Kind::Corrupt, &|manifest| {
        manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+zstd");
    });
    with_manifest("chart", Kind::Unsupported, &|manifest| {
        manifest["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    });
    with_manifest("traversal", Kind::Corrupt, &|manifest| {
        manifest["layers"][0]["digest"] = json!("sha256:../../../etc/passwd");
    });
    for (tag, kind, image) in &changed {
        registry.put("app", tag, image);
        let name = format!("{}/app:{tag}", registry.address);
        let error = node.images.pull(&name, None).await.unwrap_err();
        assert_eq!(error.kind(), *kind, "{tag}: {error}");
        assert!(error.to_string().contains(&registry.address), "{error}");
        node.assert_empty();
    }
    registry.put("app", "good", &image);
    node.images
        .pull(&format!("{}/app:good", registry.address), None)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_leave_the_root() {
    let registry = Misbehaving::start();
    let node = Node::new();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..9].copy_from_slice(b"../escape");
    header.set_size(0);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append(&header, &b""[..]).unwrap();
    let escaping = builder.into_inner().unwrap();
    let image = TestImage::new(&[
        (tar(&[("a", &noise(200_000, 1))]), Packing::Gzip),
        (escaping, Packing::Gzip),
        (tar(&[("c", &noise(200_000, 2))]), Packing::Gzip),
    ]);
    registry.put("app", "latest", &image);
    let name = format!("{}/app", registry.address);
    let error = node.images.pull(&name, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("../escape"), "{error}");
    node.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_at_the_address() {
    let node = Node::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let error = node
        .images
        .pull(&format!("{address}/app"), None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("refused"), "{error}");
    let error = node
        .images
        .pull("name.invalid/app", None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    let error = node.images.pull("not a name", None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidReference);
    node.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_wait_get_the_error() {
    let registry = Misbehaving::start();
    let base = (tar(&[("base", &noise(100_000, 7))]), Packing::Gzip);
    let one = TestImage::new(&[base.clone(), (tar(&[("one", b"1")]), Packing::Gzip)]);
    let two = TestImage::new(&[base, (tar(&[("two", b"2")]), Packing::Gzip)]);
    registry.put("app", "one", &one);
    registry.put("app", "two", &two);
    let lost = one.layers[0].clone();
    registry.rule(move |request| {
        if request.path.contains(&lost) {
            Reply::Status(404, Vec::new(), Vec::new())
        } else {
            Reply::Content
        }
    });
    let node = Node::new();
    let pulls: Vec<_> = (0..10)
        .map(|number| {
            let tag = if number % 2 == 0 { "one" } else { "two" };
            let name = format!("{}/app:{tag}", registry.address);
            let images = node.images.clone();
            tokio::spawn(async move { images.pull(&name, None).await })
        })
        .collect();
    for pull in pulls {
        assert_eq!(pull.await.unwrap().unwrap_err().kind(), Kind::NotFound);
    }
    node.assert_empty();
    registry.behave();
    node.images
        .pull(&format!("{}/app:one", registry.address), None)
        .await
        .unwrap();
    node.images
        .pull(&format!("{}/app:two", registry.address), None)
        .await
        .unwrap();
}
