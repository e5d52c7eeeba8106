//! Runtimes that are there already, and what keeps them from taking over.

use super::Facts;
use super::look::Look;
use crate::Evidence;
use crate::rules;

pub(super) fn check(look: &mut Look<'_>, facts: &Facts) {
    let Some(containerd) = &facts.runtimes.containerd else {
        return;
    };
    if let Some(said) = containerd.cri_disabled() {
        look.report.find(
            &rules::CONTAINERD_CRI_DISABLED,
            [said.origin.evidence()],
            format!("disabled_plugins has {}", said.value),
            "Take it out for containerd to speak CRI (or write the file anew with containerd config default), and restart containerd; Docker does not mind",
        );
    }
    // dockerd names the socket of a containerd that is not its own child.
    let docker = facts.runtimes.docker.as_ref();
    let shared = docker.and_then(|docker| {
        docker
            .flags
            .iter()
            .find(|flag| flag.name == "containerd")
            .map(|flag| flag.origin.evidence())
    });
    if let Some(evidence) = shared {
        let process = containerd.process.as_ref().map(super::Process::evidence);
        let config = containerd.configs.first();
        let config = config.map(|config| Evidence::file(config.source.path()));
        look.report.find(
            &rules::CONTAINERD_SHARED,
            [evidence].into_iter().chain(process.or(config)),
            "Docker's containers are in this containerd, in the namespace moby",
            "Removing Docker must not remove containerd: mark the package as wanted (apt-mark manual containerd.io) before docker-ce goes",
        );
    }
}
