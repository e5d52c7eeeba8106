//! Pods that run docker commands, and those that are told where a Docker Engine is.

use super::{Object, containers, joined, mounts, pod_specs};
use crate::document::Node;
use crate::{Report, calls, rules};

pub(super) fn check(report: &mut Report, object: &Object) {
    pod_specs(object, &mut |path, spec| {
        let on_host = ["hostPID", "hostNetwork"]
            .iter()
            .any(|key| spec.get(&[key]).and_then(Node::truth) == Some(true));
        let has_socket = mounts_socket(spec);
        containers(path, spec, &mut |path, container| {
            let privileged = container.get(&["securityContext", "privileged"]);
            let privileged = privileged.and_then(Node::truth) == Some(true);
            // A Docker Engine in the pod itself is called by right.
            if (privileged || on_host || has_socket) && !super::images::has_engine(spec) {
                commands(report, object, path, container);
            }
            variables(
                report,
                object,
                path,
                container,
                super::images::has_engine(spec),
            );
        });
    });
}

fn mounts_socket(spec: &Node) -> bool {
    let volumes = spec.get(&["volumes"]).map_or(&[][..], Node::items);
    let mut paths = volumes
        .iter()
        .filter_map(|volume| volume.text_at(&["hostPath", "path"]));
    paths.any(mounts::leads_to_socket)
}

fn commands(report: &mut Report, object: &Object, path: &str, container: &Node) {
    for field in [
        "command",
        "args",
        "lifecycle",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
    ] {
        let Some(node) = container.get(&[field]) else {
            continue;
        };
        // `["docker", "ps"]` is a call, and so is a line of a script.
        let words: Vec<_> = node.items().iter().filter_map(Node::text).collect();
        let whole = words.join(" ");
        let mut found = calls::call(&whole).map(|call| (call, node));
        node.walk(&mut |_, node| {
            let text = node.text().unwrap_or_default();
            if found.is_none()
                && let Some(call) = text.lines().find_map(calls::call)
            {
                found = Some((call, node));
            }
        });
        if let Some((call, node)) = found {
            report.find(
                &rules::RUNS_DOCKER,
                object.evidence(&joined(path, field), node),
                call,
                "Use crictl with the new socket for what concerns the node, and the Kubernetes API for the rest; build images with kaniko, BuildKit or buildah",
            );
        }
    }
}

fn variables(report: &mut Report, object: &Object, path: &str, container: &Node, engine: bool) {
    let variables = container.get(&["env"]).map_or(&[][..], Node::items);
    for (at, variable) in variables.iter().enumerate() {
        if variable.text_at(&["name"]) != Some("DOCKER_HOST") {
            continue;
        }
        let value = variable.text_at(&["value"]).unwrap_or("set elsewhere");
        let own = engine
            && (value.contains("localhost")
                || value.contains("127.0.0.1")
                || value.contains("unix://"));
        if !own {
            report.find(
                &rules::DOCKER_HOST_VARIABLE,
                object.evidence(&joined(path, &format!("env[{at}]")), variable),
                format!("DOCKER_HOST is {value}"),
                "Give it a Docker Engine that stays: one in the pod (docker:dind) or outside of the cluster",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::document::{self, Format, Source};

    fn runs_docker(path: &str) -> bool {
        let text = format!(
            "{{kind: Pod, apiVersion: v1, metadata: {{name: a}}, spec: {{containers: [{{name: c, image: x, command: [docker, ps]}}], volumes: [{{name: v, hostPath: {{path: \"{path}\"}}}}]}}}}"
        );
        let source = Arc::new(Source::new("/pod.yaml", text));
        let documents = document::read(&source, Format::Yaml).unwrap();
        let mut report = Report::default();
        for document in documents {
            for object in Object::of(document, Some(&source)) {
                check(&mut report, &object);
            }
        }
        let mut findings = report.findings.iter();
        findings.any(|finding| finding.rule == rules::RUNS_DOCKER.id)
    }

    #[test]
    fn commands_reach_docker_by_any_spelling_of_its_socket_and_what_is_above() {
        for path in [
            "/var/run/",
            "/var",
            "//run",
            "/var/run",
            "/",
            "/run/docker.sock/",
            "/host/../var/run/docker.sock",
        ] {
            assert!(runs_docker(path), "{path}");
        }
        for path in ["/var/lib", "/var/log", "/data/run", "/etc/docker"] {
            assert!(!runs_docker(path), "{path}");
        }
    }
}
