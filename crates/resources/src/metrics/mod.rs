//! What monitoring asks for: cAdvisor's metrics of containers, over CRI (`ListPodSandboxMetrics`).
//!
//! CRI's values are whole numbers, so that seconds are whole ones. What this kernel does not count,
//! and what there is no limit of, is left out rather than zero. Containers that do not run and pods
//! that are not ready have none.

mod container;
mod families;
mod file_system;
mod network;
mod processes;
mod series;

use std::fs;

use slipway_cri_api::v1::MetricDescriptor;

pub use container::{Container, container};
pub use file_system::FileSystem;
pub use network::pod;
pub use series::Subject;

/// Every metric that there can be on this node.
pub fn descriptors() -> Vec<MetricDescriptor> {
    let huge_pages = counts_huge_pages();
    families::ALL
        .iter()
        .filter(|family| huge_pages || !family.name.starts_with("container_hugetlb"))
        .map(families::Family::descriptor)
        .collect()
}

/// Whether a cgroup controller for huge pages is in use: attached to a hierarchy of v1
/// (cgroups(7), `/proc/cgroups`), or there for v2.
fn counts_huge_pages() -> bool {
    let attached = |line: &str| {
        let mut fields = line.split_whitespace();
        fields.next() == Some("hugetlb") && fields.next() != Some("0")
    };
    fs::read_to_string("/proc/cgroups").is_ok_and(|text| text.lines().any(attached))
        || fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
            .is_ok_and(|text| text.split_whitespace().any(|name| name == "hugetlb"))
}
