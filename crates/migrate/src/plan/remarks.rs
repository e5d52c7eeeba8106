//! What a plan cannot do, and people have to see to.

use super::{Options, Settings, Target};
use crate::node::Facts;

/// runc, by the names that Docker's packages have for it.
const RUNCS: [&str; 4] = ["runc", "io.containerd.runc.v2", "docker-runc", "oci"];

/// What there is to know of a move beside its steps.
pub(super) fn of(settings: &Settings, options: &Options, facts: &Facts) -> Vec<String> {
    let mut remarks = Vec::new();
    let target = options.target;
    if target != Target::CriDockerd && !settings.insecure_ranges.is_empty() {
        remarks.push(format!(
            "insecure-registries has ranges of addresses ({}), which {target} does not know: name each registry in them that is used",
            settings.insecure_ranges.join(", ")
        ));
    }
    if target == Target::Slipway && !settings.certificates.is_empty() {
        let hosts: Vec<_> = settings.certificates.keys().map(String::as_str).collect();
        remarks.push(format!(
            "Docker has certificates for registries ({}), and {target} goes by the node's own alone: add theirs (update-ca-certificates, or update-ca-trust)",
            hosts.join(", ")
        ));
    }
    let docker = facts.runtimes.docker.as_ref();
    if let Some(docker) = docker.filter(|_| target != Target::CriDockerd) {
        let root = docker.data_root();
        if let Some(root) = root.filter(|root| root.trim_end_matches('/') != "/var/lib/docker") {
            remarks.push(format!(
                "Docker has its data in {root} (data-root), and {target} gets copies of its images in a directory of its own: look that there is room, or put that on the same disk first"
            ));
        }
        let runtime = docker.says("default-runtime");
        if let Some(runtime) = runtime.filter(|runtime| !RUNCS.contains(&runtime.as_str())) {
            remarks.push(format!(
                "pods get {runtime} without asking for it (default-runtime): make it {target}'s default too, or give those that need it a RuntimeClass"
            ));
        }
    }
    if target != Target::CriDockerd {
        remarks.push(
            "slipway check node says which of Docker's other settings do not carry over, and who on this node still calls docker".to_string(),
        );
    }
    remarks
}

/// Of a Docker that today's cri-dockerd does not start with.
pub(super) fn too_old(docker: &str) -> String {
    format!(
        "this is {docker}, and cri-dockerd from 0.3.12 on wants Docker 23 (API 1.42): install cri-dockerd 0.3.11 by hand, or bring Docker up to date first"
    )
}
