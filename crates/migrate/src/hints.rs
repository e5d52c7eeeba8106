//! What lines of a configuration give away: Docker's socket and its directory, parsers of its log
//! format, and names that only its containers have. The same for files of a node and for the
//! ConfigMaps of a cluster.

use crate::rules::{self, Rule};
use crate::secrets;

/// Something in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hint {
    pub(crate) rule: &'static Rule,
    /// The byte of the text at which the line begins.
    pub(crate) offset: usize,
    pub(crate) found: String,
    pub(crate) todo: &'static str,
}

const SOCKET: &str =
    "Name the CRI socket instead, where the program can speak CRI; otherwise replace it";
const PATH: &str =
    "Read /var/log/containers/*.log or /var/log/pods: the kubelet keeps them under every runtime";
const FORMAT: &str = "Parse CRI's format (a parser called `cri` in most collectors), or one that takes both while nodes change";
const NAMES: &str =
    "Go by the labels namespace, pod and container; names of containers are ids afterwards";
const GONE: &str =
    "Use kubelet_volume_stats_* and node_filesystem_*, or run cAdvisor as a DaemonSet of its own";

/// Metrics that the kubelet's cAdvisor has for Docker's containers only.
const METRICS: [&str; 10] = [
    "container_fs_inodes_free",
    "container_fs_inodes_total",
    "container_fs_io_current",
    "container_fs_io_time_seconds_total",
    "container_fs_io_time_weighted_seconds_total",
    "container_fs_limit_bytes",
    "container_fs_read_seconds_total",
    "container_fs_sector_reads_total",
    "container_fs_usage_bytes",
    "container_fs_write_seconds_total",
];

/// Parts of a line, without white space and in lower case, that mean Docker's interface.
const INTERFACES: [&str; 8] = [
    "docker_sd_configs",
    "discovery.docker",
    "loki.source.docker",
    "[[inputs.docker",
    "type=\"docker_logs\"",
    "type:docker_logs",
    "add_docker_metadata",
    "probe.docker=true",
];

/// The same for Docker's log format.
const FORMATS: [&str; 7] = [
    "parserdocker",
    "-docker:{}",
    "stage.docker",
    "type:docker",
    "-type:docker",
    "docker_modeon",
    "json-file",
];

/// What the lines of a text give away, in their order. Comments (`#`, `//`, `;`) give nothing away.
pub(crate) fn of(text: &str) -> Vec<Hint> {
    let mut hints = Vec::new();
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        if let Some((rule, todo)) = of_line(line) {
            hints.push(Hint {
                rule,
                offset,
                found: shown(line),
                todo,
            });
        }
        offset += line.len();
    }
    hints
}

fn of_line(line: &str) -> Option<(&'static Rule, &'static str)> {
    let line = line.trim();
    if line.starts_with(['#', ';']) || line.starts_with("//") {
        return None;
    }
    if line.contains("/docker.sock") {
        return Some((&rules::AGENT_CONFIGURATION, SOCKET));
    }
    if line.contains("/var/lib/docker/containers") || line.contains("/docker/containers/") {
        return Some((&rules::LOG_PATH, PATH));
    }
    if METRICS.iter().any(|metric| line.contains(metric)) {
        return Some((&rules::METRIC_GONE, GONE));
    }
    if line.contains("k8s_") && (line.contains("k8s_.*") || names_containers(line)) {
        return Some((&rules::METRIC_NAMES, NAMES));
    }
    let bare: String = line
        .chars()
        .filter(|letter| !letter.is_whitespace() && *letter != '\'')
        .flat_map(char::to_lowercase)
        .collect();
    if INTERFACES.iter().any(|part| bare.contains(part)) {
        return Some((&rules::AGENT_CONFIGURATION, SOCKET));
    }
    let format = |part: &&str| match bare.find(*part) {
        Some(at) => {
            let after = bare[at + part.len()..].chars().next();
            after.is_none_or(|next| !next.is_alphanumeric() && next != '_')
        }
        None => false,
    };
    let is_comma_list = bare.contains("docker,cri") || bare.contains("cri,docker");
    if !is_comma_list && FORMATS.iter().any(format) {
        return Some((&rules::LOG_FORMAT, FORMAT));
    }
    None
}

/// Whether `k8s_` is compared with the name of a container.
fn names_containers(line: &str) -> bool {
    [
        "name=",
        "name =",
        "name:",
        "container_name",
        "name!",
        "\"name\"",
    ]
    .iter()
    .any(|part| line.contains(part))
        && line.match_indices("k8s_").any(|(at, _)| {
            let before = line[..at].chars().next_back();
            before.is_none_or(|letter| matches!(letter, '"' | '\'' | '^' | '/' | '(' | '~' | '|'))
        })
}

/// A line as a finding has it.
fn shown(line: &str) -> String {
    // What is cut off in the middle would not be known for a secret any more.
    let line = secrets::hidden(line.trim());
    match line.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(line: &str) -> Option<&'static str> {
        of(line).first().map(|hint| hint.rule.id)
    }

    #[test]
    fn lines_of_real_configurations() {
        for (line, expected) in [
            ("    Parser            docker", "log-format"),
            ("    Docker_Mode       On", "log-format"),
            ("      - docker: {}", "log-format"),
            ("- type: docker", "log-format"),
            ("  path /var/lib/docker/containers/*/*-json.log", "log-path"),
            (
                "    - '/var/lib/docker/containers/${data.container.id}/*.log'",
                "log-path",
            ),
            (
                "  endpoint = \"unix:///var/run/docker.sock\"",
                "agent-configuration",
            ),
            ("[[inputs.docker]]", "agent-configuration"),
            ("type = \"docker_logs\"", "agent-configuration"),
            ("  - docker_sd_configs:", "agent-configuration"),
            (
                "expr: sum(rate(container_cpu_usage_seconds_total{name=~\"k8s_.*\"}[5m])) by (name)",
                "metric-names",
            ),
            (
                "expr: absent(container_last_seen{container_name=\"k8s_web_\"})",
                "metric-names",
            ),
            (
                "expr: container_fs_usage_bytes / container_fs_limit_bytes > 0.9",
                "metric-gone",
            ),
        ] {
            assert_eq!(rule(line), Some(expected), "{line}");
        }
        for line in [
            "# Parser docker",
            "    multiline.parser  docker, cri",
            "    Parser            docker_no_time_x",
            "expr: kube_pod_info{k8s_cluster=\"a\"}",
            "image: docker.io/library/nginx",
            "container_cpu_usage_seconds_total",
            "name: k8s-app",
        ] {
            assert_eq!(rule(line), None, "{line}");
        }
    }

    #[test]
    fn offsets_are_those_of_lines() {
        let hints = of("a\r\n  Parser docker\r\nb\n- docker: {}");
        let offsets: Vec<_> = hints.iter().map(|hint| hint.offset).collect();
        assert_eq!(offsets, [3, 22]);
    }
}
