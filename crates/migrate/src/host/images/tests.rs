use std::cell::RefCell;
use std::fs;
use std::process::Command;

use slipway_testbed::{Cni, Containerd, Registry, Scratch};

use super::*;

fn summary(tags: &[&str], digests: &[&str]) -> ImageSummary {
    let strings = |all: &[&str]| all.iter().map(ToString::to_string).collect();
    ImageSummary {
        id: "sha256:abc".to_string(),
        repo_tags: strings(tags),
        repo_digests: strings(digests),
        size: 1_500_001,
        ..ImageSummary::default()
    }
}

#[test]
fn names_are_written_out_as_docker_means_them() {
    for (name, expected) in [
        ("busybox:1", "docker.io/library/busybox:1"),
        ("grafana/loki:3", "docker.io/grafana/loki:3"),
        ("localhost/app:1", "localhost/app:1"),
        ("registry:5000/app:1", "registry:5000/app:1"),
        ("quay.io/a/b@sha256:1", "quay.io/a/b@sha256:1"),
    ] {
        assert_eq!(full(name), expected);
    }
}

#[test]
fn an_image_is_wanted_by_the_names_that_the_target_lacks() {
    let there = ["docker.io/library/app:1".to_string()];
    let image = summary(&["app:1", "app:2", "<none>:<none>"], &[]);
    assert_eq!(
        Wanted::of(&image, &there).unwrap(),
        Wanted {
            id: "sha256:abc".to_string(),
            tags: vec!["app:2".to_string()],
            names: vec!["app:1".to_string(), "app:2".to_string()],
            bytes: 1_500_001,
            only_here: true,
        }
    );
    let pulled = summary(&["app:2"], &["app@sha256:1"]);
    assert!(!Wanted::of(&pulled, &there).unwrap().only_here);
    let built = summary(&["app:2"], &["<none>@<none>"]);
    assert!(Wanted::of(&built, &there).unwrap().only_here);
    for (tags, digests) in [
        (&["app:1"][..], &[][..]),
        (&["slipway/pause:1"], &[]),
        // Its digest is that of a manifest which Docker does not keep.
        (&["<none>:<none>"], &["app@sha256:1"]),
        (&[], &["app@sha256:1"]),
    ] {
        assert_eq!(Wanted::of(&summary(tags, digests), &there), None);
    }
}

/// Carries, and returns what was said meanwhile.
async fn carried(socket: &Path, target: Target, endpoint: &str) -> Result<Vec<String>, Error> {
    let said = RefCell::new(Vec::new());
    let progress = |line: &str| said.borrow_mut().push(line.to_string());
    carry(socket, target, endpoint, &progress).await?;
    Ok(said.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_gets_what_it_lacks_by_its_full_names() {
    let scratch = Scratch::new().unwrap();
    let mut docker = slipway_testbed::Docker::start(&scratch).await.unwrap();
    let tree = scratch.join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "content").unwrap();
    let layer = scratch.join("layer.tar");
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(&layer).arg("-C").arg(tree).arg(".");
    assert!(tar.status().unwrap().success());
    let layer = layer.to_str().unwrap();
    docker.cli(&["import", layer, "built:1"]).unwrap();
    docker
        .cli(&["tag", "built:1", "localhost:5000/team/built:2"])
        .unwrap();
    let of_containerd = Scratch::new().unwrap();
    let cni = Cni::new(&of_containerd).unwrap();
    let registry = Registry::start(&of_containerd).await.unwrap();
    let containerd = Containerd::start(&of_containerd, &cni, &registry)
        .await
        .unwrap();
    let endpoint = format!("unix://{}", of_containerd.join("containerd.sock").display());

    let socket = docker.socket();
    let refused = carried(&socket, Target::Slipway, &endpoint)
        .await
        .unwrap_err();
    let refused = refused.to_string();
    for words in [
        "takes no images",
        "built:1, localhost:5000/team/built:2",
        "docker rmi",
    ] {
        assert!(refused.contains(words), "{refused}");
    }
    let said = carried(&socket, Target::Containerd, &endpoint)
        .await
        .unwrap();
    assert_eq!(
        said,
        ["image 1 of 1: built:1, localhost:5000/team/built:2, 1 MB"]
    );
    let there = names(&endpoint).await.unwrap();
    for name in ["docker.io/library/built:1", "localhost:5000/team/built:2"] {
        assert!(there.iter().any(|known| known == name), "{there:?}");
    }
    docker.cli(&["tag", "built:1", "built:3"]).unwrap();
    let said = carried(&socket, Target::Containerd, &endpoint)
        .await
        .unwrap();
    assert_eq!(said, ["image 1 of 1: built:3, 1 MB"]);
    assert!(
        carried(&socket, Target::Containerd, &endpoint)
            .await
            .unwrap()
            .is_empty()
    );

    drop(containerd);
    let refused = carried(&socket, Target::Containerd, &endpoint)
        .await
        .unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("see to it that containerd runs"),
        "{refused}"
    );
    docker.stop().unwrap();
    let refused = carried(&socket, Target::Containerd, &endpoint)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("start Docker"), "{refused}");
}
