//! Agents and engines, by their images.

use super::{Object, containers, joined, pod_specs};
use crate::document::Node;
use crate::{Report, agents, rules};

/// Whether an image is a Docker Engine.
fn is_engine(image: &str) -> bool {
    let name = image.split('@').next().unwrap_or_default();
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (name, ""),
    };
    let last = path.rsplit('/').next().unwrap_or_default();
    (last == "docker" && tag.contains("dind")) || last.contains("dind")
}

/// Whether a pod has a Docker Engine of its own.
pub(super) fn has_engine(spec: &Node) -> bool {
    let mut found = false;
    containers("", spec, &mut |_, container| {
        found |= container.text_at(&["image"]).is_some_and(is_engine);
    });
    found
}

pub(super) fn check(report: &mut Report, object: &Object) {
    pod_specs(object, &mut |path, spec| {
        let mut seen: Vec<&str> = Vec::new();
        containers(path, spec, &mut |path, container| {
            let Some(node) = container.get(&["image"]) else {
                return;
            };
            let image = node.text().unwrap_or_default();
            let evidence = || object.evidence(&joined(path, "image"), node);
            if is_engine(image) {
                report.find(
                    &rules::DOCKER_IN_DOCKER,
                    evidence(),
                    format!("{image} is a Docker Engine in the pod"),
                    "Nothing, as long as it does not use the node's socket or /var/lib/docker",
                );
            }
            // Several containers of one agent are one thing to do.
            if let Some(agent) = agents::of_image(image)
                && !seen.contains(&agent.name)
            {
                seen.push(agent.name);
                report.find(
                    agent.rule,
                    evidence(),
                    format!("{} ({image})", agent.name),
                    agent.todo(),
                );
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_known() {
        for image in [
            "docker:dind",
            "docker.io/library/docker:24.0-dind-rootless",
            "x/dind:1",
        ] {
            assert!(is_engine(image), "{image}");
        }
        for image in ["docker:24-cli", "example.com/docker/app:1", "nginx"] {
            assert!(!is_engine(image), "{image}");
        }
    }
}
