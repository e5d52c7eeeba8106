//! Reports of `slipway check`, as pages and as what has to be on them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::tree;
use crate::cargo;

/// A report: its page is the file of this name with `.html` behind it.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) name: String,
    content: Value,
}

/// Makes all reports, and writes their pages into a directory: of a cluster, of manifests with
/// findings and without, and of each node that `slipway-migrate` is tested with.
pub(super) fn make(slipway: &Path, pages: &Path) -> Result<Vec<Report>> {
    let check = |name: &str, arguments: &[&OsStr]| Report::make(slipway, pages, name, arguments);
    let tests = cargo::workspace().join("crates/migrate/tests");
    let mut reports = Vec::new();

    let cluster = Cluster::serve()?;
    let kubeconfig = cluster.kubeconfig().as_os_str();
    reports.push(check(
        "cluster",
        &["cluster".as_ref(), "--kubeconfig".as_ref(), kubeconfig],
    )?);

    let manifests = tests.join("manifests");
    for (name, path) in [
        ("manifests", manifests.clone()),
        ("fine", manifests.join("fine.yaml")),
    ] {
        reports.push(check(name, &["manifests".as_ref(), path.as_os_str()])?);
    }

    for path in nodes(&tests.join("nodes"))? {
        let root = tempfile::tempdir()?;
        let version = tree::unpack(&fs::read_to_string(&path)?, root.path());
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let mut arguments = vec!["node".as_ref(), "--root".as_ref(), root.path().as_os_str()];
        if let Some(version) = &version {
            arguments.extend(["--kubelet-version".as_ref(), OsStr::new(version)]);
        }
        reports.push(check(&name, &arguments)?);
    }
    Ok(reports)
}

/// A page on which everything is wrong.
pub(super) fn wrong(pages: &Path) -> Result<Report> {
    fs::write(pages.join("wrong.html"), include_str!("wrong.html"))?;
    let nodes = ["a", "b"].map(|name| json!({ "name": name, "runtime": "docker://1" }));
    Ok(Report {
        name: "wrong".to_owned(),
        content: json!({ "findings": [{ "found": "Hidden" }], "nodes": nodes }),
    })
}

fn nodes(directory: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut paths: Vec<_> = listed
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "node"))
        .collect();
    paths.sort();
    ensure!(!paths.is_empty(), "no nodes in {}", directory.display());
    Ok(paths)
}

impl Report {
    fn make(slipway: &Path, pages: &Path, name: &str, arguments: &[&OsStr]) -> Result<Self> {
        let print = |format: &str| -> Result<Vec<u8>> {
            let output = Command::new(slipway)
                .arg("check")
                .args(arguments)
                .args(["-o", format])
                .output()
                .with_context(|| format!("cannot start {}", slipway.display()))?;
            // A report ends with one of these; so does what prints none.
            ensure!(
                matches!(output.status.code(), Some(0..=3)) && !output.stdout.is_empty(),
                "`slipway check` of {name} ended with {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(output.stdout)
        };
        fs::write(pages.join(format!("{name}.html")), print("html")?)?;
        Ok(Self {
            name: name.to_owned(),
            content: serde_json::from_slice(&print("json")?)?,
        })
    }

    /// All that it says, piece by piece.
    pub(super) fn texts(&self) -> BTreeSet<String> {
        let mut texts = BTreeSet::new();
        for finding in list(&self.content["findings"]) {
            collect(&mut texts, finding, &["rule", "severity", "found", "todo"]);
            for evidence in list(&finding["evidence"]) {
                let parts = ["path", "line", "type", "namespace", "name", "field"];
                collect(&mut texts, evidence, &parts);
                collect(&mut texts, evidence, &["pid", "command", "text"]);
            }
        }
        for unseen in list(&self.content["unseen"]) {
            collect(&mut texts, unseen, &["what", "why", "todo"]);
        }
        for node in list(&self.content["nodes"]) {
            collect(&mut texts, node, &["name", "kubelet"]);
        }
        texts
    }

    /// The names of the nodes by the name of their runtime.
    pub(super) fn nodes(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut groups: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for node in list(&self.content["nodes"]) {
            let runtime = node["runtime"].as_str().unwrap_or_default();
            let engine = runtime.split("://").next().unwrap_or_default();
            let name = node["name"].as_str().unwrap_or_default();
            groups.entry(engine).or_default().insert(name);
        }
        groups
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Control characters are shown as what cannot be shown.
fn collect(texts: &mut BTreeSet<String>, object: &Value, fields: &[&str]) {
    for field in fields {
        let text = match &object[*field] {
            Value::String(text) => text.replace(char::is_control, "\u{fffd}"),
            Value::Number(number) => number.to_string(),
            _ => continue,
        };
        texts.insert(text);
    }
}
