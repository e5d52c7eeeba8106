//! Pods that run docker commands, and those that are told where a Docker Engine is.

use super::{Object, containers, joined, pod_specs};
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
    let path = |volume: &Node| volume.text_at(&["hostPath", "path"]).map(str::to_string);
    let mut paths = volumes.iter().filter_map(path);
    paths.any(|path| {
        path.ends_with("docker.sock") || matches!(path.as_str(), "/" | "/run" | "/var/run")
    })
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
        let mut found = calls::call(&whole).map(|call| (call.to_string(), node));
        node.walk(&mut |_, node| {
            let text = node.text().unwrap_or_default();
            if found.is_none()
                && let Some(call) = text.lines().find_map(calls::call)
            {
                found = Some((call.to_string(), node));
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
