//! Agents and collectors of logs: by their processes, and by what their configuration says.

use std::path::Path;

use super::left_over::LeftOver;
use super::look::Look;
use super::walk::Walk;
use super::{Facts, Process};
use crate::Evidence;
use crate::agents;
use crate::hints;
use crate::rules;

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
    let left_over = LeftOver::of(look, facts);
    for process in &facts.processes {
        running(look, left_over, process);
    }
    let mut walk = Walk::default();
    let of_agents = agents::ALL.iter().flat_map(|agent| agent.files);
    for place in of_agents.chain(&QUERIES) {
        for (path, _) in walk.files(look, Path::new(place), |_| false) {
            if !is_no_configuration(&path) {
                configuration(look, left_over, &path);
            }
        }
    }
}

fn running(look: &mut Look<'_>, left_over: LeftOver, process: &Process) {
    // Agents find the runtime that there is, unless they are told otherwise.
    if let Some(agent) = agents::of_program(process.program())
        && !left_over.is_so()
    {
        look.report.find(
            agent.rule,
            [process.evidence()],
            format!("{} runs", agent.name),
            agent.todo(),
        );
    }
    // Without Docker, the socket of a pod's process is that of an engine in the pod.
    if OWN.contains(&process.program()) || left_over.is_so() && !process.of_host {
        return;
    }
    let mut arguments = process.arguments.iter().skip(1);
    let named =
        arguments.find(|one| one.contains("/docker.sock") || one.contains("/var/lib/docker"));
    if let Some(argument) = named {
        left_over.find(
            look,
            &rules::PROCESS_USES_SOCKET,
            vec![process.evidence()],
            &format!("{} was started with {argument}", process.program()),
            "Find out what starts it, and what it needs Docker for",
        );
    }
}

fn configuration(look: &mut Look<'_>, left_over: LeftOver, path: &Path) {
    let Some(source) = look.text(path) else {
        return;
    };
    for hint in hints::of(source.text()) {
        let evidence = vec![Evidence::at(&source, hint.offset)];
        left_over.find(look, hint.rule, evidence, &hint.found, hint.todo);
    }
}

/// What is beside a configuration, and is none: what packages put there, and logs.
fn is_no_configuration(path: &Path) -> bool {
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
        ".log",
    ]
    .iter()
    .any(|end| name.ends_with(end))
}
