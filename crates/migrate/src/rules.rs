//! The rules, by their ids.

use crate::finding::Severity;
use crate::finding::Severity::{Blocker, Note, Warning};

/// What is looked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Stays what it is from version to version.
    pub id: &'static str,
    /// That of all its findings.
    pub severity: Severity,
    /// What it finds, for the list of rules.
    pub title: &'static str,
}

macro_rules! rules {
    ($($name:ident $id:literal $severity:ident $title:literal)*) => {
        $(
            #[doc = $title]
            pub const $name: Rule = Rule { id: $id, severity: $severity, title: $title };
        )*

        /// All of them, in the order of the documentation.
        pub static ALL: &[&Rule] = &[$(&$name),*];
    };
}

rules! {
    // What runs the pods.
    RUNTIME_DOCKERSHIM "runtime-dockershim" Warning
        "The kubelet runs its pods on Docker through dockershim, which Kubernetes 1.24 no longer has"
    RUNTIME_CRI_DOCKERD "runtime-cri-dockerd" Note
        "The kubelet runs its pods on Docker through cri-dockerd"
    RUNTIME_CRI "runtime-cri" Note
        "The kubelet runs its pods on a CRI runtime already"
    RUNTIME_ENDPOINT_IGNORED "runtime-endpoint-ignored" Warning
        "An endpoint is set, but a kubelet before 1.24 passes over it without --container-runtime=remote"
    RUNTIME_ENDPOINT_DEFAULT "runtime-endpoint-default" Warning
        "No endpoint is set, and this kubelet takes containerd's"
    RUNTIME_ENDPOINT_SCHEME "runtime-endpoint-scheme" Warning
        "The endpoint is a path without unix://, which newer kubelets and kubeadm refuse"
    RUNTIME_SOCKET_MISSING "runtime-socket-missing" Blocker
        "The endpoint that the kubelet is to use next is a socket that is not there"

    // The kubelet.
    KUBELET_FLAG_REFUSED "kubelet-flag-refused" Blocker
        "A flag that this kubelet refuses: it does not start again"
    KUBELET_FLAG_REMOVED_LATER "kubelet-flag-removed-later" Warning
        "A flag that a later kubelet refuses"
    KUBELET_CONTRADICTION "kubelet-contradiction" Warning
        "Flags, files and the running kubelet say different things of one setting"
    KUBELET_NOT_SYSTEMD "kubelet-not-systemd" Warning
        "The kubelet runs, but no systemd unit starts it"
    KUBELET_REQUIRES_DOCKER "kubelet-requires-docker" Blocker
        "The kubelet's unit needs Docker's: stopping Docker stops the kubelet"
    KUBELET_SECOND "kubelet-second" Warning
        "More than one kubelet runs on the node"
    KUBELET_LOG_ROTATION "kubelet-log-rotation" Note
        "Logs of containers are rotated by the kubelet once Docker is gone, with its defaults where nothing is set"
    KUBELET_REQUEST_TIMEOUT "kubelet-request-timeout" Note
        "runtimeRequestTimeout is shorter than large images take"
    KUBELET_DOCKER_SETTING "kubelet-docker-setting" Note
        "A setting of the kubelet that only dockershim heeded"

    // cgroups.
    CGROUP_DRIVER_MISMATCH "cgroup-driver-mismatch" Blocker
        "The kubelet and its runtime do not use the same cgroup driver"
    CGROUP_DRIVER_TARGET "cgroup-driver-target" Warning
        "Another runtime of the node is set to another cgroup driver than the kubelet"
    CGROUP_DRIVER_CGROUPFS "cgroup-driver-cgroupfs" Warning
        "The node is systemd's, and the kubelet writes its cgroups beside it (cgroupfs)"

    // Any file.
    FILE_MALFORMED "file-malformed" Blocker
        "A file that is read by the kubelet or a runtime is not what its format allows"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_plain_and_there_once() {
        let ids: BTreeSet<_> = ALL.iter().map(|rule| rule.id).collect();
        assert_eq!(ids.len(), ALL.len());
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
        assert!(ids.iter().all(|id| id.bytes().all(plain)));
    }
}
