//! What the programs are made of, in the words of CycloneDX 1.5 (<https://cyclonedx.org>): every
//! crate that is linked into them or runs while they are compiled, with its licence and the digest
//! that Cargo.lock has of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{cargo, program};

/// The packages of the two programs.
const PROGRAMS: [&str; 2] = ["slipway", "slipway-shim"];

/// What is used of `cargo metadata`.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    /// None for the workspace's own.
    source: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Debug, Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

impl Dependency {
    fn is_for_tests_alone(&self) -> bool {
        let mut kinds = self.dep_kinds.iter();
        kinds.all(|dependency| dependency.kind.as_deref() == Some("dev"))
    }
}

/// What is used of Cargo.lock.
#[derive(Debug, Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Debug, Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// The document.
pub(super) fn text() -> Result<String> {
    let mut command = cargo::command(&["metadata", "--format-version=1", "--locked"]);
    command.args(["--filter-platform", &cargo::host()?]);
    let metadata = serde_json::from_slice(&program::run(&mut command)?)
        .context("`cargo metadata` printed something else than expected")?;
    let lock = toml::from_str(&fs::read_to_string(cargo::workspace().join("Cargo.lock"))?)?;
    let document = document(&metadata, &lock)?;
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn document(metadata: &Metadata, lock: &Lock) -> Result<Value> {
    let packages: BTreeMap<&str, &Package> = metadata
        .packages
        .iter()
        .map(|package| (package.id.as_str(), package))
        .collect();
    let dependencies: BTreeMap<&str, Vec<&str>> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), needed(node)))
        .collect();
    let digests: BTreeMap<(&str, &str), &str> = lock
        .package
        .iter()
        .filter_map(|locked| {
            let digest = locked.checksum.as_deref()?;
            Some(((locked.name.as_str(), locked.version.as_str()), digest))
        })
        .collect();
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> = packages
        .values()
        .filter(|package| package.source.is_none() && PROGRAMS.contains(&package.name.as_str()))
        .map(|package| package.id.as_str())
        .collect();
    while let Some(id) = next.pop() {
        if reached.insert(id) {
            next.extend(dependencies.get(id).context("a package is not resolved")?);
        }
    }
    // By name and version, not by id: ids of the workspace's own have the path of this directory.
    let found: BTreeMap<String, &Package> = reached
        .iter()
        .map(|id| (reference(packages[id]), packages[id]))
        .collect();
    let components: Vec<Value> = found
        .iter()
        .map(|(reference, package)| {
            let digest = digests.get(&(package.name.as_str(), package.version.as_str()));
            component(reference, package, digest.copied())
        })
        .collect();
    let graph: Vec<Value> = found
        .iter()
        .map(|(reference_of_it, package)| {
            let on: BTreeSet<String> = dependencies[package.id.as_str()]
                .iter()
                .map(|id| reference(packages[id]))
                .collect();
            json!({ "ref": reference_of_it, "dependsOn": on })
        })
        .collect();
    Ok(json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "slipway",
                "name": "slipway",
                "version": super::VERSION,
                "licenses": [{ "expression": "Apache-2.0" }],
            },
        },
        "components": components,
        "dependencies": graph,
    }))
}

fn needed(node: &Node) -> Vec<&str> {
    let dependencies = node.deps.iter();
    dependencies
        .filter(|dependency| !dependency.is_for_tests_alone())
        .map(|dependency| dependency.pkg.as_str())
        .collect()
}

/// A package URL (<https://github.com/package-url/purl-spec>).
fn reference(package: &Package) -> String {
    let version = package.version.replace('+', "%2B");
    format!("pkg:cargo/{}@{version}", package.name)
}

fn component(reference: &str, package: &Package, digest: Option<&str>) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": reference,
        "name": package.name,
        "version": package.version,
        "purl": reference,
    });
    if let Some(license) = &package.license {
        // As crates were allowed to write it before expressions of SPDX.
        let expression = license.replace('/', " OR ");
        component["licenses"] = json!([{ "expression": expression }]);
    }
    if let Some(digest) = digest {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": digest }]);
    }
    if let Some(repository) = &package.repository {
        component["externalReferences"] = json!([{ "type": "vcs", "url": repository }]);
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_linked_is_named_with_its_digest_and_what_it_depends_on() {
        let text = text().unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        let components = document["components"].as_array().unwrap();
        let references: BTreeSet<&str> = components
            .iter()
            .map(|component| component["bom-ref"].as_str().unwrap())
            .collect();
        assert_eq!(references.len(), components.len());
        let named = |name: &str| {
            let mut found = components.iter();
            found.find(|component| component["name"] == name)
        };
        let tokio = named("tokio").expect("the daemon is linked with tokio");
        assert_eq!(tokio["hashes"][0]["content"].as_str().unwrap().len(), 64);
        assert_eq!(tokio["licenses"][0]["expression"], "MIT");
        assert!(named("slipway-native").is_some());
        // Used by tests alone.
        assert!(named("slipway-testbed").is_none());
        assert!(named("proptest").is_none());
        for entry in document["dependencies"].as_array().unwrap() {
            for on in entry["dependsOn"].as_array().unwrap() {
                assert!(references.contains(on.as_str().unwrap()), "{entry}");
            }
        }
        assert!(!text.contains(cargo::workspace().to_str().unwrap()));
    }
}
