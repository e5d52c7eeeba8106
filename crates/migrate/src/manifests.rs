//! `slipway check manifests`: what in files of Kubernetes objects needs Docker.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::{self, Format};
use crate::object::{self, Object};
use crate::rules;
use crate::{Evidence, Report, Root};

/// As deep as directories are followed.
const MAX_DEPTH: usize = 32;

/// Looks at a file, or at all `.yaml`, `.yml` and `.json` files of a directory and below it. Links to
/// directories are not followed; templates that are no YAML could not be looked at.
pub fn check(path: &Path) -> Report {
    let mut report = Report::default();
    let mut objects = Vec::new();
    let mut waiting = vec![(path.to_path_buf(), 0)];
    // Paths are as they were given: what is found there is found again.
    let root = Root::new("/");
    while let Some((path, depth)) = waiting.pop() {
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                if depth > 0 && (root.link(&path).is_some() || is_hidden(&path)) {
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
                    Err(error) => {
                        report.miss(path.display().to_string(), error, "make it readable");
                    }
                }
            }
            Ok(_) if depth > 0 && format_of(&path).is_none() => {}
            Ok(_) => file(&mut report, &root, &path, &mut objects),
            Err(error) => report.miss(
                path.display().to_string(),
                error,
                "name a file or directory that is there",
            ),
        }
    }
    object::check(&mut report, &objects);
    report.sort();
    report
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

fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with('.'))
}

fn format_of(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()? {
        "yaml" | "yml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    }
}

fn file(report: &mut Report, root: &Root, path: &PathBuf, objects: &mut Vec<Object>) {
    let source = match root.read(path) {
        Ok(Some(source)) => Arc::new(source),
        Ok(None) => return,
        Err(error) => return report.miss(path.display().to_string(), error, "make it readable"),
    };
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
            for document in documents {
                objects.extend(Object::of(document, Some(&source)));
            }
        }
        Err(error) => {
            let todo = if source.text().contains("{{") {
                RENDER
            } else {
                "repair it"
            };
            report.miss(path.display().to_string(), error, todo);
        }
    }
}
