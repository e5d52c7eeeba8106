//! Whole nodes, as text: each `nodes/NAME.node` has the files of a node, and `nodes/NAME.report`
//! what is found on it. `REGENERATE=1 cargo test -p slipway-migrate` writes the reports.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use slipway_migrate::node::{self, Options};
use slipway_migrate::{Report, Root};

/// Writes the files that `text` has, each below a line `== PATH`, into a directory. A line `->`
/// is a symbolic link; in command lines of processes, spaces are NULs; the first line may name the
/// kubelet's version.
fn unpack(text: &str, directory: &Path) -> Options {
    let mut options = Options::default();
    let mut parts = text.split("\n== ");
    let head = parts.next().unwrap_or_default();
    for line in head.lines() {
        if let Some(version) = line.strip_prefix("kubelet ") {
            options.kubelet_version = Some(version.parse().unwrap());
        }
    }
    for part in parts {
        let (path, content) = part.split_once('\n').unwrap_or((part, ""));
        let target = directory.join(path.trim_start_matches('/'));
        if let Some(directory) = path.strip_suffix('/') {
            let directory = target
                .parent()
                .unwrap()
                .join(directory.rsplit('/').next().unwrap());
            fs::create_dir_all(directory).unwrap();
            continue;
        }
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        if let Some(link) = content.trim().strip_prefix("-> ") {
            std::os::unix::fs::symlink(link, target).unwrap();
        } else if path.ends_with("/cmdline") {
            fs::write(target, content.trim().replace(' ', "\0")).unwrap();
        } else {
            fs::write(target, format!("{content}\n")).unwrap();
        }
    }
    options
}

fn print(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let (severity, rule) = (finding.severity.name(), finding.rule);
        writeln!(text, "{severity} {rule}: {}", finding.found).unwrap();
        for evidence in &finding.evidence {
            writeln!(text, "    {evidence}").unwrap();
        }
    }
    for unseen in &report.unseen {
        writeln!(text, "unseen {}: {}", unseen.what, unseen.why).unwrap();
    }
    writeln!(text, "exit {}", report.verdict().exit_code()).unwrap();
    text
}

async fn check(node: &str) -> Report {
    let directory = tempfile::tempdir().unwrap();
    let options = unpack(node, directory.path());
    node::check(&Root::new(directory.path()), &options).await
}

fn nodes() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nodes");
    let entries = fs::read_dir(directory).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "node"));
    paths.sort();
    paths
}

#[tokio::test]
async fn each_node_gives_its_report() {
    let regenerate = std::env::var_os("REGENERATE").is_some();
    let mut wrong = Vec::new();
    for path in nodes() {
        let found = print(&check(&fs::read_to_string(&path).unwrap()).await);
        let golden = path.with_extension("report");
        if regenerate {
            fs::write(&golden, &found).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if found != expected {
            wrong.push(format!("{}:\n{found}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The same files as Windows' editors leave them.
#[tokio::test]
async fn line_ends_of_windows_change_nothing() {
    for path in nodes() {
        let text = fs::read_to_string(&path).unwrap();
        let expected = print(&check(&text).await);
        let found = {
            let directory = tempfile::tempdir().unwrap();
            let options = unpack(&text, directory.path());
            with_carriage_returns(directory.path());
            print(&node::check(&Root::new(directory.path()), &options).await)
        };
        assert_eq!(found, expected, "{}", path.display());
    }
}

fn with_carriage_returns(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && entry.file_name() != "proc" {
            with_carriage_returns(&entry.path());
        } else if kind.is_file() && entry.file_name() != "status" {
            let text = fs::read_to_string(entry.path()).unwrap();
            fs::write(entry.path(), text.replace('\n', "\r\n")).unwrap();
        }
    }
}
