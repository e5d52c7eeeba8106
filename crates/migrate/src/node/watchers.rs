//! Agents and collectors of logs: by their processes, and by what their configuration says.

use std::path::{Path, PathBuf};

use super::Facts;
use super::look::Look;
use crate::Evidence;
use crate::agents;
use crate::hints;
use crate::rules;

/// As many files of one agent's configuration as are read.
const MAX_FILES: usize = 500;

/// Configuration beside that of agents that are known: queries and dashboards.
const QUERIES: [&str; 4] = [
    "/etc/prometheus",
    "/etc/grafana/provisioning",
    "/var/lib/grafana/dashboards",
    "/etc/rsyslog.d",
];

/// Who has Docker's socket on the command line by right.
const OWN: [&str; 9] = [
    "dockerd",
    "docker",
    "docker-proxy",
    "containerd",
    "containerd-shim",
    "containerd-shim-runc-v2",
    "cri-dockerd",
    "kubelet",
    "slipway",
];

pub(super) fn check(look: &mut Look<'_>, facts: &Facts) {
    if facts.runtimes.docker.is_none() {
        return;
    }
    for process in &facts.processes {
        if let Some(agent) = agents::of_program(process.program()) {
            look.report.find(
                agent.rule,
                [process.evidence()],
                format!("{} runs", agent.name),
                agent.todo(),
            );
        }
        let names_docker = |argument: &String| {
            argument.contains("/docker.sock") || argument.contains("/var/lib/docker")
        };
        if !OWN.contains(&process.program())
            && let Some(argument) = process
                .arguments
                .iter()
                .skip(1)
                .find(|one| names_docker(one))
        {
            look.report.find(
                &rules::PROCESS_USES_SOCKET,
                [process.evidence()],
                format!("{} was started with {argument}", process.program()),
                "Find out what starts it, and what it needs Docker for",
            );
        }
    }
    for agent in agents::ALL {
        for place in agent.files {
            configurations(look, Path::new(place));
        }
    }
    for place in QUERIES {
        configurations(look, Path::new(place));
    }
}

/// The files at a path and below it.
fn configurations(look: &mut Look<'_>, place: &Path) {
    let mut waiting: Vec<(PathBuf, usize)> = vec![(place.to_path_buf(), 0)];
    let mut files = 0;
    while let Some((path, depth)) = waiting.pop() {
        let Some(metadata) = look.metadata(&path) else {
            continue;
        };
        if metadata.is_dir() {
            if depth < 4 && (depth == 0 || look.root.link(&path).is_none()) {
                let below = look.list(&path).into_iter().rev();
                waiting.extend(below.map(|path| (path, depth + 1)));
            }
            continue;
        }
        files += 1;
        if files > MAX_FILES {
            look.report.miss(
                format!("files below {}", place.display()),
                format!("there are more than {MAX_FILES}"),
                "search them by hand (grep -r docker)",
            );
            return;
        }
        if !metadata.is_file() || metadata.len() > 1 << 20 || is_example(&path) {
            continue;
        }
        let Some(source) = look.read(&path) else {
            continue;
        };
        if source.bytes().contains(&0) {
            continue;
        }
        for hint in hints::of(source.text()) {
            look.report.find(
                hint.rule,
                [Evidence::at(&source, hint.offset)],
                hint.found,
                hint.todo,
            );
        }
    }
}

/// What packages put beside a configuration, and nobody reads.
fn is_example(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    [
        ".example",
        ".default",
        ".sample",
        ".disabled",
        ".dpkg-dist",
        ".rpmnew",
        ".md",
    ]
    .iter()
    .any(|end| name.ends_with(end))
}
