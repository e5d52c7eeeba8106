//! That docs/leaving-docker.md has every rule, as it is in the code, and that each rule is found
//! somewhere in the tests. `REGENERATE=1 cargo test -p slipway-migrate` writes the list.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use slipway_migrate::rules;

const BEGIN: &str =
    "<!-- Made of the code by `REGENERATE=1 cargo test -p slipway-migrate`; do not edit. -->\n";

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn list() -> String {
    let mut text = String::from("\n| rule | severity | what it finds |\n| --- | --- | --- |\n");
    for rule in rules::ALL {
        let title = rule.title.replace('|', "\\|");
        writeln!(
            text,
            "| `{}` | {} | {title} |",
            rule.id,
            rule.severity.name()
        )
        .unwrap();
    }
    text
}

#[test]
fn the_document_has_the_rules_of_the_code() {
    let path = here("../../docs/leaving-docker.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, after) = text.split_once(BEGIN).unwrap();
    if std::env::var_os("REGENERATE").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{}", list())).unwrap();
    } else {
        assert_eq!(after, list(), "REGENERATE=1 cargo test -p slipway-migrate");
    }
    // The table of subjects names each rule, and none that is not there.
    let known: BTreeSet<_> = rules::ALL.iter().map(|rule| rule.id).collect();
    let (_, table) = before.split_once("## What is looked at\n").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| "));
    let last = rows.filter_map(|row| row.trim_end_matches(" |").rsplit('|').next());
    let named: BTreeSet<_> = last
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter(|name| name.contains('-') && !name.contains(' '))
        .collect();
    assert_eq!(named, known);
}

/// Those that are found where a whole node or an API is needed have unit tests of their own.
const ELSEWHERE: [&str; 6] = [
    "container-outside-kubernetes",
    "container-stopped",
    "docker-swarm",
    "image-only-here",
    "packet-filter-forward",
    "volume-only-here",
];

#[test]
fn every_rule_is_found_in_a_test() {
    let mut found = String::new();
    for directory in ["tests/nodes", "tests/manifests"] {
        for entry in fs::read_dir(here(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "report") {
                found += &fs::read_to_string(path).unwrap();
            }
        }
    }
    let missing: Vec<_> = rules::ALL
        .iter()
        .map(|rule| rule.id)
        .filter(|id| !ELSEWHERE.contains(id) && !found.contains(&format!(" {id}: ")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
