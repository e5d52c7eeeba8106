//! `slipway check manifests`: what in files of Kubernetes objects needs Docker.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::document::{self, Format, Node};
use crate::object::{self, Object};
use crate::rules;
use crate::{Evidence, Report, Root};

/// As much as a file may have, in bytes: what kubectl writes of all objects of a large cluster, with
/// several times as much memory while it is looked at.
const MAX_FILE: u64 = 256 << 20;

const IN_PARTS: &str = "write it in parts, one file for each namespace (kubectl get -n NAMESPACE -o yaml), into a directory, and check that; or check cluster";

/// As deep as directories are followed.
const MAX_DEPTH: usize = 32;

/// Looks at a file, or at all `.yaml`, `.yml` and `.json` files of a directory and below it. Links to
/// directories are not followed; these, hidden directories and templates that are no YAML could not be
/// looked at, and neither could a place without any object.
pub fn check(path: &Path) -> Report {
    let mut report = Report::default();
    let mut objects = Vec::new();
    let mut waiting = vec![(path.to_path_buf(), 0)];
    // Paths are as they were given: what is found there is found again.
    let root = Root::new("/");
    while let Some((path, depth)) = waiting.pop() {
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                if depth > 0 && is_history(&path) {
                    continue;
                }
                if depth > 0
                    && let Some(why) = passed_over(&root, &path)
                {
                    report.miss(path.display().to_string(), why, "check it by itself");
                    continue;
                }
                if depth == MAX_DEPTH {
                    report.miss(
                        path.display().to_string(),
                        "it is too deep",
                        "check it by itself",
                    );
                    continue;
                }
                match root.list(&path) {
                    Ok(names) => {
                        let below = names
                            .into_iter()
                            .rev()
                            .map(|name| (path.join(name), depth + 1));
                        waiting.extend(below);
                    }
                    Err(error) => unreadable(&mut report, &root, &path, &error),
                }
            }
            Ok(_) if depth > 0 && format_of(&path).is_none() => {}
            Ok(_) => file(&mut report, &root, &path, &mut objects),
            Err(error) => unreadable(&mut report, &root, &path, &error),
        }
    }
    object::check(&mut report, &objects);
    if objects.is_empty() && report.findings.is_empty() && report.unseen.is_empty() {
        report.miss(
            path.display().to_string(),
            "no Kubernetes object is in it",
            "name a file of objects, or a directory that has some in files that end in .yaml, .yml or .json",
        );
    }
    report.sort();
    report
}

/// What is there and cannot be read, or was named and is not there.
fn unreadable(report: &mut Report, root: &Root, path: &Path, error: &io::Error) {
    let is_link = root.link(path).is_some();
    let todo = match error.kind() {
        ErrorKind::PermissionDenied => {
            "run it as a user who may read it, or change its permissions and those of the directories above it"
        }
        ErrorKind::NotFound if is_link => "the link leads nowhere: mend it, or remove it",
        ErrorKind::NotFound => "name a file or directory that is there",
        ErrorKind::FileTooLarge => IN_PARTS,
        _ if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            "the links lead in a circle: mend them, or remove them"
        }
        _ => "look at it by hand",
    };
    report.miss(path.display().to_string(), error, todo);
}

/// Why a file is no text that YAML or JSON could be in, and what to do about it.
fn no_text(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Some((
            "it is UTF-16, which PowerShell writes",
            "write it as UTF-8 (kubectl get -o yaml | Out-File -Encoding utf8 FILE)",
        ));
    }
    bytes.contains(&0).then_some((
        "it is no text: there are NULs in it",
        "if it is no manifest, take it out of the directory, or give it a name that does not end in .yaml, .yml or .json",
    ))
}

const RENDER: &str = "render it first (helm template) and check what comes out";

/// Whether Helm is to fill something in. Alerts and dashboards have braces of their own.
fn is_template(text: &str) -> bool {
    let mut places = text.split("{{").skip(1);
    places.any(|rest| {
        let rest = rest.trim_start_matches(['-', ' ']);
        [
            ".Values",
            ".Release",
            ".Chart",
            "include ",
            "template ",
            "$.Values",
        ]
        .iter()
        .any(|word| rest.starts_with(word))
    })
}

/// Why a directory is not gone into, where it is none that was asked for.
fn passed_over(root: &Root, path: &Path) -> Option<&'static str> {
    let name = path.file_name().and_then(|name| name.to_str());
    if root.link(path).is_some() {
        return Some("it is a link to a directory, which is not followed");
    }
    let is_hidden = name.is_some_and(|name| name.starts_with('.'));
    is_hidden.then_some("it is a hidden directory")
}

/// Whether it is what a tool for versions keeps of them: nobody applies that.
fn is_history(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| matches!(name, ".git" | ".hg" | ".svn"))
}

/// Whether it is a word, or many: a text of no format is one.
fn is_scalar(document: &Node) -> bool {
    document.entries().is_empty() && document.items().is_empty()
}

fn format_of(path: &Path) -> Option<Format> {
    match path.extension()?.to_ascii_lowercase().to_str()? {
        "yaml" | "yml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    }
}

fn file(report: &mut Report, root: &Root, path: &PathBuf, objects: &mut Vec<Object>) {
    let source = match root.read_at_most(path, MAX_FILE) {
        Ok(Some(source)) => Arc::new(source),
        Ok(None) => return,
        Err(error) => return unreadable(report, root, path, &error),
    };
    if let Some((why, todo)) = no_text(source.bytes()) {
        return report.miss(path.display().to_string(), why, todo);
    }
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if name.starts_with("docker-compose") || name.starts_with("compose.") {
        report.find(
            &rules::COMPOSE_FILE,
            [Evidence::file(path)],
            "a project of docker-compose",
            "Make it a Deployment (kompose converts), or run it where Docker stays",
        );
        return;
    }
    match document::read(&source, format_of(path).unwrap_or(Format::Yaml)) {
        Ok(documents) => {
            // Some templates are YAML before they are rendered, of other objects.
            if is_template(source.text()) {
                report.miss(path.display().to_string(), "it is a template", RENDER);
            }
            let documents = documents.into_iter().filter(|one| !is_scalar(one));
            objects.extend(documents.flat_map(|document| Object::of(document, Some(&source))));
        }
        Err(error) => {
            let todo = if is_template(source.text()) {
                RENDER
            } else if source.text().contains("{{") {
                "repair it; if it is a template, render it first and check what comes out"
            } else {
                "repair it"
            };
            report.miss(path.display().to_string(), error, todo);
        }
    }
}
