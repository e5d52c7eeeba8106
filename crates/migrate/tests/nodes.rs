//! Whole nodes, as text: each `nodes/NAME.node` has the files of a node, and `nodes/NAME.report`
//! what is found on it, `nodes/NAME.plan` how it would move. `REGENERATE=1 cargo test -p slipway-migrate` writes both.

mod tree;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use slipway_migrate::node::{self, Options};
use slipway_migrate::plan::{self, Step, Target};
use slipway_migrate::{Report, Root};

/// The node's files in a directory, and what is known of it beside them.
fn unpack(text: &str, directory: &Path) -> Options {
    let version = tree::unpack(text, directory);
    Options {
        kubelet_version: version.map(|version| version.parse().unwrap()),
    }
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

/// What is planned for a node, for each target; or why nothing is.
async fn plans(root: &Root, options: &Options) -> String {
    let mut text = String::new();
    for (target, drain) in MOVES {
        let keep = if drain { "" } else { ", without draining" };
        writeln!(text, "== to {target}{keep}").unwrap();
        match plan::make(root, &wanted(target, drain, options)).await {
            Ok(plan) => {
                for step in &plan.steps {
                    writeln!(text, "* {step}").unwrap();
                    if let Step::File(change) = step {
                        text.push_str(&change.diff());
                    }
                }
                for remark in &plan.remarks {
                    writeln!(text, "! {remark}").unwrap();
                }
            }
            Err(error) => writeln!(text, "refused: {error}").unwrap(),
        }
    }
    text
}

/// All ways in which a node can move.
const MOVES: [(Target, bool); 5] = [
    (Target::Slipway, true),
    (Target::Slipway, false),
    (Target::Containerd, true),
    (Target::Crio, true),
    (Target::CriDockerd, true),
];

fn wanted(target: Target, drain: bool, node: &Options) -> plan::Options {
    plan::Options {
        target,
        drain,
        stop_others: false,
        node: node.clone(),
    }
}

/// The golden file of a node, compared or written; what differs.
fn differs(golden: &Path, found: &str) -> Option<String> {
    if std::env::var_os("REGENERATE").is_some() {
        fs::write(golden, found).unwrap();
    }
    let expected = fs::read_to_string(golden).unwrap_or_default();
    (found != expected).then(|| format!("{}:\n{found}", golden.display()))
}

#[tokio::test]
async fn each_node_gives_its_plans() {
    let mut wrong = Vec::new();
    for path in nodes() {
        let directory = tempfile::tempdir().unwrap();
        let options = unpack(&fs::read_to_string(&path).unwrap(), directory.path());
        let found = plans(&Root::new(directory.path()), &options).await;
        wrong.extend(differs(&path.with_extension("plan"), &found));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A node whose files are as planned, and whose kubelet was started anew.
#[tokio::test]
async fn a_node_that_is_as_planned_has_nothing_left_to_do() {
    let mut moved = 0;
    for path in nodes() {
        for (target, drain) in MOVES {
            let directory = tempfile::tempdir().unwrap();
            let options = unpack(&fs::read_to_string(&path).unwrap(), directory.path());
            let root = Root::new(directory.path());
            let wanted = wanted(target, drain, &options);
            let Ok(plan) = plan::make(&root, &wanted).await else {
                continue;
            };
            for step in &plan.steps {
                if let Step::File(change) = step {
                    let real = root.resolve(&change.path).unwrap();
                    fs::create_dir_all(real.parent().unwrap()).unwrap();
                    let before = fs::read(&real).ok();
                    assert_eq!(before, change.before, "{}", change.path.display());
                    fs::write(real, &change.after).unwrap();
                }
            }
            stop_kubelets(directory.path());
            let again = plan::make(&root, &wanted).await;
            assert!(
                matches!(again, Err(plan::Error::AlreadyThere { .. })),
                "{}, to {target}: {again:?}",
                path.display()
            );
            let report = node::check(&root, &options).await;
            let left: Vec<_> = report
                .findings
                .iter()
                .filter(|finding| LEFT_TO_NOBODY.contains(&finding.rule))
                .collect();
            assert!(left.is_empty(), "{}, to {target}: {left:?}", path.display());
            moved += 1;
        }
    }
    assert!(moved > 20, "{moved}");
}

/// What must not be found on a node that has moved.
const LEFT_TO_NOBODY: [&str; 4] = [
    "kubelet-flag-refused",
    "runtime-dockershim",
    "runtime-endpoint-scheme",
    "cgroup-driver-mismatch",
];

/// Processes go on with what they were started with: a kubelet is started anew.
fn stop_kubelets(directory: &Path) {
    let Ok(processes) = fs::read_dir(directory.join("proc")) else {
        return;
    };
    for process in processes {
        let process = process.unwrap().path();
        let command = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
        if command.contains("kubelet") {
            fs::remove_dir_all(process).unwrap();
        }
    }
}

/// What administrators have is of many shapes.
#[test]
fn there_are_thirty_files_of_each_kind_and_more() {
    for name in ["daemon.json", "kubeadm-flags.env", "config.yaml"] {
        let mut files = BTreeSet::new();
        for path in nodes() {
            let text = fs::read_to_string(path).unwrap();
            let parts = text.split("\n== ").filter_map(|part| part.split_once('\n'));
            let own = parts.filter(|(path, _)| {
                let path = path.trim_end_matches(" \\");
                path.ends_with(&format!("/{name}"))
            });
            let own = own.map(|(_, text)| text.trim().to_string());
            files.extend(own.filter(|text| !text.starts_with("-> ")));
        }
        assert!(files.len() >= 30, "{} of {name}", files.len());
    }
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
    let mut wrong = Vec::new();
    for path in nodes() {
        let found = print(&check(&fs::read_to_string(&path).unwrap()).await);
        wrong.extend(differs(&path.with_extension("report"), &found));
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
            let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
            fs::write(entry.path(), text).unwrap();
        }
    }
}
