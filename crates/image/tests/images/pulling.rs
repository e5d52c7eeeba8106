//! Pulls that work.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use slipway_image::{Credentials, Kind, LayerState};
use tokio::sync::Barrier;

use crate::image::{Packing, TestImage, digest, noise, tar};
use crate::misbehaving::{Misbehaving, Reply};
use crate::mounted::Mounted;
use crate::node::Node;
use crate::real_registry::RealRegistry;

#[tokio::test(flavor = "multi_thread")]
async fn by_tag_and_by_digest() {
    let registry = RealRegistry::start();
    let image = TestImage::new(&[
        (
            tar(&[
                ("etc/", b""),
                ("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"),
            ]),
            Packing::Gzip,
        ),
        (tar(&[("bin/app", &noise(300_000, 1))]), Packing::Gzip),
    ]);
    registry.push("team/app", "v1", &image).await;
    let node = Node::new();
    let name = format!("{}/team/app", registry.address);
    let id = node.images.pull(&format!("{name}:v1"), None).await.unwrap();
    assert_eq!(id, image.id());
    let pinned = format!("{name}@{}", image.manifest_digest());
    assert_eq!(node.images.pull(&pinned, None).await.unwrap(), id);
    let hex = id.strip_prefix("sha256:").unwrap();
    let both = format!("{name}:other@{}", image.manifest_digest());
    for asked in [
        &format!("{name}:v1"),
        &pinned,
        &both,
        &id,
        hex,
        &hex[..4],
        &id[..20],
    ] {
        let found = node.images.find(asked).unwrap().expect(asked);
        assert_eq!(found.id, id);
        assert_eq!(found.repo_tags, [format!("{name}:v1")]);
        assert_eq!(found.repo_digests, std::slice::from_ref(&pinned));
        let command = found.config.config().as_ref().unwrap().cmd().clone();
        assert_eq!(command.unwrap(), ["/bin/true"]);
        // Blocks of 4 KiB: two roots, etc, passwd, bin, app.
        assert_eq!(found.size, 4096 * (5 + 300_000_u64.div_ceil(4096)));
    }
    assert_eq!(node.images.list().unwrap().len(), 1);
    assert!(node.images.find("busybox").unwrap().is_none());
    assert!(node.images.find(&hex[..3]).unwrap().is_none());
    assert_eq!(
        node.images.find("UPPER").unwrap_err().kind(),
        Kind::InvalidReference
    );
    let hold = node.images.hold(&id).unwrap();
    assert_eq!(hold.layers.len(), 2);
    assert_eq!(
        fs::read(hold.layers[1].join("bin/app")).unwrap(),
        noise(300_000, 1)
    );
    assert!(
        fs::read_to_string(hold.layers[0].join("etc/passwd"))
            .unwrap()
            .starts_with("root")
    );
    let hex_of_first = digest(&tar(&[
        ("etc/", b""),
        ("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"),
    ]));
    assert_eq!(hold.chain_ids[0], hex_of_first);
    assert!(hold.layers[0].ends_with(hex_of_first.strip_prefix("sha256:").unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_compression_and_both_families_of_media_types() {
    let registry = RealRegistry::start();
    let node = Node::new();
    for packing in [
        Packing::Gzip,
        Packing::GzipMembers,
        Packing::Zstd,
        Packing::Plain,
        Packing::DockerGzip,
    ] {
        let text = format!("{packing:?}");
        let image = TestImage::new(&[(tar(&[("file", text.as_bytes())]), packing)]);
        let tag = text.to_lowercase();
        registry.push("app", &tag, &image).await;
        let id = node
            .images
            .pull(&format!("{}/app:{tag}", registry.address), None)
            .await
            .unwrap();
        let hold = node.images.hold(&id).unwrap();
        assert_eq!(
            fs::read_to_string(hold.layers[0].join("file")).unwrap(),
            text
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_leads_to_the_manifest_for_this_machine() {
    let registry = RealRegistry::start();
    let node = Node::new();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    for (repository, own_type, packing) in [
        (
            "oci",
            "application/vnd.oci.image.index.v1+json",
            Packing::Gzip,
        ),
        (
            "docker",
            "application/vnd.docker.distribution.manifest.list.v2+json",
            Packing::DockerGzip,
        ),
    ] {
        let mut manifests = Vec::new();
        let mut wanted = String::new();
        for platform in ["mips", architecture, "s390x"] {
            let content = format!("{repository} {platform}");
            let image = TestImage::new(&[(tar(&[("arch", content.as_bytes())]), packing)]);
            registry.push(repository, platform, &image).await;
            if platform == architecture {
                wanted = image.id();
            }
            manifests.push(json!({
                "mediaType": image.media_type(), "digest": image.manifest_digest(),
                "size": image.manifest_bytes().len(),
                "platform": { "os": "linux", "architecture": platform },
            }));
        }
        let index = json!({ "schemaVersion": 2, "mediaType": own_type, "manifests": manifests });
        let bytes = index.to_string().into_bytes();
        registry
            .push_manifest(repository, "all", own_type, bytes.clone())
            .await;
        let name = format!("{}/{repository}", registry.address);
        let id = node
            .images
            .pull(&format!("{name}:all"), None)
            .await
            .unwrap();
        assert_eq!(id, wanted);
        let image = node.images.find(&id).unwrap().unwrap();
        assert_eq!(image.repo_digests, [format!("{name}@{}", digest(&bytes))]);
    }
}

/// Stacks directories, lowest first, and hands the merged tree to `look`.
fn with_overlay(layers: &[std::path::PathBuf], look: impl FnOnce(&Path)) {
    let target = tempfile::tempdir().unwrap();
    let lower: Vec<_> = layers
        .iter()
        .rev()
        .map(|layer| layer.to_str().unwrap())
        .collect();
    // Overlayfs wants two layers when there is no upper one.
    let empty = tempfile::tempdir().unwrap();
    let options = format!("lowerdir={}:{}", lower.join(":"), empty.path().display());
    let _mounted = Mounted::new("overlay", target.path(), &options);
    look(target.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_stack_as_their_archives_say() {
    let registry = RealRegistry::start();
    let node = Node::new();
    let image = TestImage::new(&[
        (
            tar(&[
                ("tmp/", b""),
                ("dir/old", b"1"),
                ("gone", b"1"),
                ("opaque/old", b"1"),
                ("file", b"1"),
            ]),
            Packing::Gzip,
        ),
        (
            tar(&[
                ("tmp/made-later", b"2"),
                ("dir/new", b"2"),
                (".wh.gone", b""),
                ("opaque/.wh..wh..opq", b""),
                ("opaque/new", b"2"),
                ("file", b"2"),
            ]),
            Packing::Zstd,
        ),
    ]);
    registry.push("app", "stack", &image).await;
    let id = node
        .images
        .pull(&format!("{}/app:stack", registry.address), None)
        .await
        .unwrap();
    let hold = node.images.hold(&id).unwrap();
    let gone = fs::symlink_metadata(hold.layers[1].join("gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    with_overlay(&hold.layers, |root| {
        assert_eq!(
            fs::metadata(root.join("tmp")).unwrap().mode() & 0o7777,
            0o1777
        );
        assert!(root.join("tmp/made-later").exists());
        assert!(root.join("dir/old").exists() && root.join("dir/new").exists());
        assert!(!root.join("gone").exists());
        assert!(!root.join("opaque/old").exists() && root.join("opaque/new").exists());
        assert_eq!(fs::read(root.join("file")).unwrap(), b"2");
    });
    let image = TestImage::new(&[
        (tar(&[("old", b"1")]), Packing::Gzip),
        (tar(&[(".wh..wh..opq", b""), ("new", b"2")]), Packing::Gzip),
    ]);
    registry.push("app", "opaque-root", &image).await;
    let name = format!("{}/app:opaque-root", registry.address);
    let id = node.images.pull(&name, None).await.unwrap();
    let hold = node.images.hold(&id).unwrap();
    assert_eq!((hold.layers.len(), hold.chain_ids.len()), (1, 2));
    assert!(hold.layers[0].join("new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_download_however_many_ask() {
    let registry = Misbehaving::start();
    let base = (tar(&[("base", &noise(400_000, 7))]), Packing::Gzip);
    let one = TestImage::new(&[base.clone(), (tar(&[("one", b"1")]), Packing::Gzip)]);
    let two = TestImage::new(&[base, (tar(&[("two", b"2")]), Packing::Gzip)]);
    registry.put("app", "one", &one);
    registry.put("app", "two", &two);
    let node = Node::new();
    let barrier = Arc::new(Barrier::new(20));
    let pulls: Vec<_> = (0..20)
        .map(|number| {
            let tag = if number % 2 == 0 { "one" } else { "two" };
            let name = format!("{}/app:{tag}", registry.address);
            let (images, barrier) = (node.images.clone(), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                images.pull(&name, None).await
            })
        })
        .collect();
    for (number, pull) in pulls.into_iter().enumerate() {
        let expected = if number % 2 == 0 { one.id() } else { two.id() };
        assert_eq!(pull.await.unwrap().unwrap(), expected);
    }
    assert_eq!(
        registry.requests(&one.layers[0]).len(),
        1,
        "the shared layer"
    );
    assert_eq!(registry.requests(&one.layers[1]).len(), 1);
    assert_eq!(registry.requests(&two.layers[1]).len(), 1);
    assert_eq!(node.layers().len(), 3);
    assert!(node.temporary().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_changes_nothing() {
    let registry = Misbehaving::start();
    let image = TestImage::new(&[(tar(&[("a", &noise(200_000, 3))]), Packing::Gzip)]);
    registry.put("app", "latest", &image);
    let (started, begun) = std::sync::mpsc::channel();
    let started = std::sync::Mutex::new(started);
    registry.rule(move |request| {
        if request.path.contains("/blobs/") {
            let _ = started.lock().unwrap().send(());
        }
        Reply::Content
    });
    let node = Node::new();
    let name = format!("{}/app", registry.address);
    let mut progress = node.images.watch(&name);
    let (images, asked) = (node.images.clone(), name.clone());
    let pull = tokio::spawn(async move { images.pull(&asked, None).await });
    tokio::task::spawn_blocking(move || begun.recv().unwrap())
        .await
        .unwrap();
    pull.abort();
    while progress.changed().await.is_ok() {}
    assert_eq!(node.images.find(&name).unwrap().unwrap().id, image.id());
    assert!(node.temporary().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_shown_by_layer_and_ends() {
    let registry = Misbehaving::start();
    let image = TestImage::new(&[
        (tar(&[("a", &noise(500_000, 3))]), Packing::Gzip),
        (tar(&[("b", b"b")]), Packing::Gzip),
    ]);
    registry.put("app", "latest", &image);
    let node = Node::new();
    let name = format!("{}/app", registry.address);
    for final_state in [LayerState::Done, LayerState::Present] {
        let mut watch = node.images.watch(&name);
        let seen = tokio::spawn(async move {
            let mut seen = Vec::new();
            while watch.changed().await.is_ok() {
                seen.push(watch.borrow_and_update().clone());
            }
            seen.push(watch.borrow().clone());
            seen
        });
        node.images.pull(&name, None).await.unwrap();
        let seen = seen.await.unwrap();
        let last = seen.last().unwrap();
        for (layer, digest) in last.layers.iter().zip(&image.layers) {
            assert_eq!(layer.digest, *digest);
            assert_eq!(layer.total, image.blobs[digest].len() as u64);
            assert_eq!(layer.done, layer.total);
            assert_eq!(layer.state, final_state);
        }
        assert_eq!(last.layers.len(), 2);
    }
    assert!(node.images.watch("NOT/A/NAME").changed().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_leaves_the_old_image_without_it() {
    let registry = RealRegistry::start();
    let node = Node::new();
    let name = format!("{}/app", registry.address);
    let (old, new) = (TestImage::small("a", "old"), TestImage::small("a", "new"));
    registry.push("app", "latest", &old).await;
    node.images.pull(&name, None).await.unwrap();
    registry.push("app", "latest", &new).await;
    assert_eq!(node.images.pull(&name, None).await.unwrap(), new.id());
    assert_eq!(node.images.find(&name).unwrap().unwrap().id, new.id());
    let old = node.images.find(&old.id()).unwrap().unwrap();
    assert!(old.repo_tags.is_empty());
    assert_eq!(old.repo_digests.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn https_on_loopback_needs_no_configuration() {
    let registry = RealRegistry::start_tls();
    let node = Node::new();
    let name = format!("{}/missing", registry.address);
    let error = node.images.pull(&name, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_credentials_are_shown_when_asked_for() {
    let registry = Misbehaving::start();
    let image = TestImage::small("a", "a");
    registry.put("private", "latest", &image);
    registry.rule(|request| match request.authorization.as_deref() {
        Some("Basic dXNlcjpzZWNyZXQ=") => Reply::Content,
        _ => Reply::Status(
            401,
            vec![("WWW-Authenticate", "Basic realm=\"private\"".into())],
            br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#.to_vec(),
        ),
    });
    let node = Node::new();
    let name = format!("{}/private", registry.address);
    let credentials = |password: &str| Credentials {
        username: "user".into(),
        password: password.into(),
        ..Credentials::default()
    };
    for wrong in [None, Some(credentials("wrong"))] {
        let error = node.images.pull(&name, wrong).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(
            error.to_string().contains("authentication required"),
            "{error}"
        );
    }
    node.assert_empty();
    node.images
        .pull(&name, Some(credentials("secret")))
        .await
        .unwrap();
    let elsewhere = Credentials {
        server_address: "other.io".into(),
        ..credentials("secret")
    };
    let error = node.images.pull(&name, Some(elsewhere)).await.unwrap_err();
    assert_eq!(
        error.kind(),
        Kind::Denied,
        "credentials of another registry"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bearer_tokens_are_fetched_once_and_renewed() {
    let registry = Misbehaving::start();
    let image = TestImage::new(&[
        (tar(&[("a", b"a")]), Packing::Gzip),
        (tar(&[("b", b"b")]), Packing::Gzip),
    ]);
    registry.put("private", "latest", &image);
    let realm = format!("http://{}/token", registry.address);
    let layer = image.layers[1].clone();
    let issued = AtomicUsize::new(0);
    registry.rule(move |request| {
        let challenge = || {
            let value = format!("Bearer realm=\"{realm}\",service=\"tests\"");
            Reply::Status(401, vec![("WWW-Authenticate", value)], Vec::new())
        };
        if request.path.starts_with("/token") {
            let allowed = match request.method.as_str() {
                "POST" => {
                    request.body.contains("refresh_token=identity")
                        && request.body.contains("scope=repository%3Aprivate%3Apull")
                }
                _ => {
                    request.authorization.as_deref() == Some("Basic dXNlcjpzZWNyZXQ=")
                        && request.path.contains("scope=repository%3Aprivate%3Apull")
                        && request.path.contains("service=tests")
                }
            };
            if !allowed {
                return Reply::Status(403, Vec::new(), b"who are you".to_vec());
            }
            let number = issued.fetch_add(1, Ordering::SeqCst) % 2;
            return Reply::Other(format!(r#"{{"access_token":"token{number}"}}"#).into_bytes());
        }
        match request.authorization.as_deref() {
            // The first token is not good enough for this layer, as if it had expired.
            Some("Bearer token0") if request.path.contains(&layer) => challenge(),
            Some("Bearer token0" | "Bearer token1" | "Bearer given") => Reply::Content,
            _ => challenge(),
        }
    });
    let name = format!("{}/private", registry.address);
    let password = Credentials {
        username: "user".into(),
        password: "secret".into(),
        ..Credentials::default()
    };
    let identity = Credentials {
        identity_token: "identity".into(),
        ..Credentials::default()
    };
    let token = Credentials {
        registry_token: "given".into(),
        ..Credentials::default()
    };
    for (credentials, tokens) in [(password, 2), (identity, 4), (token, 4)] {
        let node = Node::new();
        node.images.pull(&name, Some(credentials)).await.unwrap();
        assert_eq!(registry.requests("/token").len(), tokens);
    }
    let node = Node::new();
    let error = node.images.pull(&name, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert!(
        error.to_string().contains("403 Forbidden: who are you"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_come_first_and_never_see_credentials() {
    let (primary, mirror) = (Misbehaving::start(), Misbehaving::start());
    let image = TestImage::new(&[
        (tar(&[("a", &noise(100_000, 1))]), Packing::Gzip),
        (tar(&[("b", b"b")]), Packing::Gzip),
    ]);
    primary.put("team/app", "latest", &image);
    mirror.put("cache/team/app", "latest", &image);
    let node = Node::new();
    node.registries_conf(&format!(
        "[[registry]]\nprefix = \"example.test\"\nlocation = \"{}\"\n\
         [[registry.mirror]]\nlocation = \"{}/cache\"\n\
         [[registry]]\nprefix = \"evil.test\"\nblocked = true\n",
        primary.address, mirror.address
    ));
    let credentials = Credentials {
        username: "user".into(),
        password: "secret".into(),
        ..Credentials::default()
    };
    let name = "example.test/team/app";
    node.images.pull(name, Some(credentials)).await.unwrap();
    assert!(primary.requests("").is_empty());
    assert!(
        mirror
            .requests("")
            .iter()
            .all(|request| request.authorization.is_none())
    );
    let image_here = node.images.find(name).unwrap().unwrap();
    assert_eq!(image_here.repo_tags, ["example.test/team/app:latest"]);
    node.images.remove(name).await.unwrap();
    // The mirror has the manifest, but lost a layer.
    let lost = image.layers[0].clone();
    mirror.rule(move |request| {
        if request.path.contains(&lost) {
            Reply::Status(404, Vec::new(), Vec::new())
        } else {
            Reply::Content
        }
    });
    node.images.pull(name, None).await.unwrap();
    assert_eq!(primary.requests("").len(), 1);
    node.images.remove(name).await.unwrap();
    mirror.rule(|_| Reply::Status(500, Vec::new(), Vec::new()));
    node.images.pull(name, None).await.unwrap();
    node.images.remove(name).await.unwrap();
    primary.rule(|_| Reply::Status(404, Vec::new(), Vec::new()));
    let error = node.images.pull(name, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let text = error.to_string();
    assert!(
        text.contains(&primary.address) && text.contains(&mirror.address),
        "{text}"
    );
    node.assert_empty();
    let error = node.images.pull("evil.test/x", None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Blocked);
    assert!(error.to_string().contains("registries.conf"), "{error}");
}

#[tokio::test]
async fn a_reload_names_another_registries_file() {
    let node = Node::new();
    let blocked = |host: &str| format!("[[registry]]\nprefix = \"{host}\"\nblocked = true\n");
    node.registries_conf(&blocked("one.test"));
    let other = node.directory.path().join("other.conf");
    std::fs::write(&other, blocked("two.test")).unwrap();
    let pull = async |host: &str| {
        let pulled = node.images.pull(&format!("{host}/app:1"), None).await;
        pulled.unwrap_err().to_string()
    };
    let error = pull("one.test").await;
    assert!(error.contains("registries.conf"), "{error}");
    node.images.reload(slipway_image::Config {
        registries_conf: other.clone(),
        ..crate::node::config(node.directory.path())
    });
    let error = pull("two.test").await;
    assert!(error.contains(other.to_str().unwrap()), "{error}");
}
