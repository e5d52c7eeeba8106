//! Who calls Docker on a node, in files that are large, or that nobody can look at.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use slipway_migrate::node::{self, Options};
use slipway_migrate::{Report, Root};

/// A node on which Docker is, with `files` of so many bytes of text before their last line.
async fn check(
    files: &[(&str, usize, &str)],
    more: impl FnOnce(&dyn Fn(&str) -> PathBuf),
) -> Report {
    let tree = tempfile::tempdir().unwrap();
    let at = |path: &str| {
        let path = tree.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    fs::write(at("/etc/docker/daemon.json"), "{}").unwrap();
    for (path, filler, line) in files {
        let text = format!("#!/bin/sh\n{}{line}\n", "# some text\n".repeat(filler / 12));
        let path = at(path);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    more(&at);
    node::check(&Root::new(tree.path()), &Options::default()).await
}

/// What was found in a file, by its rule; and what was not looked at, by its path.
fn of(report: &Report, path: &str) -> Vec<&'static str> {
    let named = |finding: &&slipway_migrate::Finding| {
        let mut evidence = finding.evidence.iter();
        evidence.any(|one| one.to_string().starts_with(path))
    };
    let findings = report.findings.iter().filter(named);
    let mut found: Vec<_> = findings.map(|finding| finding.rule).collect();
    if report
        .unseen
        .iter()
        .any(|unseen| unseen.what.contains(path))
    {
        found.push("unseen");
    }
    found
}

#[tokio::test]
async fn large_files_are_looked_at_or_told() {
    let metric = "expr: container_fs_usage_bytes > 1";
    let report = check(
        &[
            ("/opt/large.sh", 2 << 20, "docker ps"),
            ("/opt/large", 2 << 20, "docker ps"),
            ("/opt/huge.sh", 9 << 20, "docker ps"),
            ("/opt/bin/huge", 9 << 20, "docker ps"),
            ("/home/anna/.local/bin/large", 2 << 20, "docker ps"),
            ("/var/lib/grafana/dashboards/large.json", 2 << 20, metric),
            ("/var/lib/grafana/dashboards/huge.json", 9 << 20, metric),
        ],
        |at| {
            // A log with all permissions, an installer with its archive, and a program.
            let data = vec![1; 9 << 20];
            for (path, start) in [
                ("/opt/all.log", b"docker ps\n".as_slice()),
                ("/opt/setup.run", b"#!/bin/sh\ndocker load\n\0"),
                ("/opt/program", b"\x7fELF\x02\x01\x01\0\ndocker ps\n"),
            ] {
                fs::write(at(path), [start, &data].concat()).unwrap();
                fs::set_permissions(at(path), fs::Permissions::from_mode(0o777)).unwrap();
            }
        },
    )
    .await;
    for (path, expected) in [
        ("/opt/large.sh", Some("script-calls-docker")),
        ("/opt/large:", Some("script-calls-docker")),
        ("/opt/huge.sh", Some("unseen")),
        ("/opt/bin/huge", Some("unseen")),
        ("/home/anna/.local/bin/large", Some("script-calls-docker")),
        (
            "/var/lib/grafana/dashboards/large.json",
            Some("metric-gone"),
        ),
        ("/var/lib/grafana/dashboards/huge.json", Some("unseen")),
        ("/opt/all.log", None),
        ("/opt/setup.run", Some("script-calls-docker")),
        ("/opt/program", None),
    ] {
        assert_eq!(of(&report, path), Vec::from_iter(expected), "{path}");
    }
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_told() {
    let report = check(&[("/srv/x/run.sh", 0, "docker ps")], |at| {
        symlink("loop", at("/srv/loop")).unwrap();
        symlink("/srv/nowhere", at("/srv/dangling")).unwrap();
        symlink("/srv", at("/srv/x/back")).unwrap();
        fs::create_dir_all(at("/etc/passwd")).unwrap();
        let services = at("/home/ben/.config/systemd/user");
        fs::create_dir_all(services.parent().unwrap()).unwrap();
        symlink("user", services).unwrap();
    })
    .await;
    assert_eq!(of(&report, "/srv/loop"), ["unseen"]);
    assert_eq!(of(&report, "/etc/passwd"), ["unseen"]);
    assert_eq!(of(&report, "/home/ben/.config/systemd/user"), ["unseen"]);
    assert!(of(&report, "/srv/dangling").is_empty());
    // Once, by its own name, whatever leads there.
    let calls = report.findings.iter();
    let calls = calls.filter(|finding| finding.rule == "script-calls-docker");
    let places: Vec<_> = calls.map(|call| call.evidence[0].to_string()).collect();
    assert_eq!(places, ["/srv/x/run.sh:2"]);
}
