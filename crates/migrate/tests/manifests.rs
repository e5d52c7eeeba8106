//! Files of objects, and what is found in each: `manifests/NAME.report` beside `manifests/NAME`.
//! `REGENERATE=1 cargo test -p slipway-migrate` writes the reports.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use slipway_migrate::{Report, manifests};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests")
}

fn print(report: &Report) -> String {
    let own = format!("{}/", directory().display());
    let mut text = String::new();
    for finding in &report.findings {
        let (severity, rule) = (finding.severity.name(), finding.rule);
        writeln!(text, "{severity} {rule}: {}", finding.found).unwrap();
        for evidence in &finding.evidence {
            writeln!(text, "    {evidence}").unwrap();
        }
    }
    for unseen in &report.unseen {
        writeln!(
            text,
            "unseen {}: {}, {}",
            unseen.what, unseen.why, unseen.todo
        )
        .unwrap();
    }
    writeln!(text, "exit {}", report.verdict().exit_code()).unwrap();
    text.replace(&own, "")
}

#[test]
fn each_file_gives_its_report() {
    let regenerate = std::env::var_os("REGENERATE").is_some();
    let mut wrong = Vec::new();
    let entries = fs::read_dir(directory()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    for path in paths.filter(|path| path.extension().is_some_and(|end| end != "report")) {
        let found = print(&manifests::check(&path));
        let golden = path.with_extension("report");
        if regenerate {
            fs::write(&golden, &found).unwrap();
        }
        if found != fs::read_to_string(&golden).unwrap_or_default() {
            wrong.push(format!("{}:\n{found}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A directory is all of its files, those of no format left out.
#[test]
fn a_directory_is_looked_at_as_a_whole() {
    let report = manifests::check(&directory());
    let seen = |name: &str| {
        let findings = serde_json::to_string(&report.findings).unwrap();
        findings.contains(name)
    };
    assert!(seen("workloads.yaml") && seen("pod.json") && !seen(".report"));
    assert_eq!(report.verdict().exit_code(), 2);
    let none = manifests::check(Path::new("/nonexistent"));
    assert_eq!(none.verdict().exit_code(), 3);
}

/// The line that evidence names has what was found.
#[test]
fn evidence_names_the_line() {
    let text = fs::read_to_string(directory().join("agents.yaml")).unwrap();
    let report = manifests::check(&directory().join("agents.yaml"));
    let mut seen = 0;
    for finding in report
        .findings
        .iter()
        .filter(|one| one.rule == "log-format")
    {
        let shown = finding.evidence[0].to_string();
        let line: usize = shown.rsplit(':').next().unwrap().parse().unwrap();
        let line = text.lines().nth(line - 1).unwrap();
        if !line.contains("\\n") {
            assert_eq!(line.trim(), finding.found, "{shown}");
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
}
