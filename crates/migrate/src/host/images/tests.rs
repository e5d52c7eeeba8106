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
