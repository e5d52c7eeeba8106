//! Paths of the node that objects use: hostPath of pods and of volumes, local volumes.

use super::{Object, joined};
use crate::Report;
use crate::document::Node;
use crate::rules::{self, Rule};

const SOCKET: &str = "Find out what it does with Docker. Builds: kaniko, BuildKit or buildah in the pod. Agents: their option for CRI. Control of containers: the Kubernetes API. crictl works with the new socket, and is root's alone";
const DATA: &str = "Nothing is below /var/lib/docker once Docker is gone: logs are in /var/log/pods, data of pods belongs into volumes of Kubernetes";

/// What a path of the node leads to.
fn judge(path: &str) -> Option<(&'static Rule, &'static str)> {
    let path = normal(path);
    let below = |parent: &str| {
        let rest = path.strip_prefix(parent);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if path.starts_with("/run/docker")
        && path
            .rsplit('/')
            .next()
            .is_some_and(|name| name.starts_with("docker") && name != "docker")
        || path.ends_with("/docker.sock")
    {
        return Some((&rules::MOUNTS_DOCKER_SOCKET, SOCKET));
    }
    if below("/var/lib/docker/containers") {
        return Some((
            &rules::LOG_PATH,
            "Leave it out: links in /var/log/containers lead to /var/log/pods, which is all that is needed",
        ));
    }
    if below("/var/lib/docker") || below("/run/docker") || below("/var/lib/dockershim") {
        return Some((&rules::MOUNTS_DOCKER_DATA, DATA));
    }
    if below("/etc/docker") || below("/root/.docker") || is_program(&path) {
        return Some((
            &rules::MOUNTS_DOCKER_FILES,
            "Find out what it needs of Docker; certificates of registries are in /etc/containerd/certs.d or /etc/containers/certs.d afterwards",
        ));
    }
    if matches!(path.as_str(), "/" | "/run" | "/var" | "/var/lib") {
        return Some((
            &rules::MOUNTS_SOCKET_PARENT,
            "Look whether it uses docker.sock or /var/lib/docker below it; mount what it needs, and nothing above",
        ));
    }
    None
}

/// Whether Docker's socket is there, or below.
pub(super) fn leads_to_socket(path: &str) -> bool {
    judge(path).is_some_and(|(rule, _)| match rule.id {
        id if id == rules::MOUNTS_DOCKER_SOCKET.id => true,
        id if id == rules::MOUNTS_SOCKET_PARENT.id => normal(path) != "/var/lib",
        _ => false,
    })
}

fn is_program(path: &str) -> bool {
    ["/usr/bin/docker", "/usr/local/bin/docker", "/bin/docker"].contains(&path)
}

/// Without `.`, `..`, doubled and last slashes; `/var/run` is `/run` on every node.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.first() == Some(&"var") && parts.get(1) == Some(&"run") {
        parts.remove(0);
    }
    format!("/{}", parts.join("/"))
}

pub(super) fn check(report: &mut Report, object: &Object) {
    object.node.walk(&mut |path, node| {
        for key in ["hostPath", "local"] {
            let Some(place) = node.get(&[key]) else {
                continue;
            };
            let Some(written) = place.get(&["path"]) else {
                continue;
            };
            let Some((rule, todo)) = written.text().and_then(judge) else {
                continue;
            };
            let volume = node.text_at(&["name"]).unwrap_or_default();
            report.find(
                rule,
                object.evidence(&joined(path, &format!("{key}.path")), written),
                found(object, volume, written),
                todo,
            );
        }
    });
}

fn found(object: &Object, volume: &str, path: &Node) -> String {
    let path = path.text().unwrap_or_default();
    if volume.is_empty() {
        format!("{} uses {path} of the node", object.kind)
    } else {
        format!("volume {volume} is {path} of the node")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_spelling_is_seen() {
        for path in [
            "/var/run/docker.sock",
            "/run/docker.sock",
            "/var/run//docker.sock/",
            "/var/../run/./docker.sock",
            "/var/lib/../run/docker.sock",
            "/host/run/docker.sock",
        ] {
            let rule = judge(path).map(|(rule, _)| rule.id);
            assert_eq!(rule, Some("mounts-docker-socket"), "{path}");
        }
        for (path, id) in [
            ("/var/lib/docker/", "mounts-docker-data"),
            ("/var/lib/docker/volumes/x", "mounts-docker-data"),
            ("/var/lib/docker/containers", "log-path"),
            ("/var/run", "mounts-socket-parent"),
            ("/", "mounts-socket-parent"),
            ("//var/lib/.", "mounts-socket-parent"),
            ("/etc/docker/certs.d", "mounts-docker-files"),
            ("/usr/bin/docker", "mounts-docker-files"),
        ] {
            assert_eq!(judge(path).map(|(rule, _)| rule.id), Some(id), "{path}");
        }
        for path in [
            "/var/log",
            "/var/lib/dockerish",
            "/run/containerd",
            "",
            "/etc",
        ] {
            let judged = judge(path).map(|(rule, _)| rule.id);
            assert!(judged.is_none() || path.is_empty(), "{path}: {judged:?}");
        }
    }
}
