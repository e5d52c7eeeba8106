//! Where the control groups are that Docker has made.

use slipway_cgroup::CgroupPath;

/// The cgroup of a process; none where it has ended. Blocking, briefly.
pub(crate) fn cgroup_of(pid: Option<i32>) -> Option<CgroupPath> {
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", pid?)).ok()?;
    cgroup_path(&text)
}

/// The cgroup that `/proc/<pid>/cgroup` names (cgroups(7)): that of the memory controller, or that
/// of version 2.
fn cgroup_path(text: &str) -> Option<CgroupPath> {
    let of = |wanted: &str| {
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let found = controllers.split(',').any(|name| name == wanted);
            found.then_some(path)
        })
    };
    CgroupPath::parse(of("memory").or_else(|| of(""))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_is_found_in_both_versions() {
        let v1 = "12:pids:/a\n8:cpu,cpuacct:/b\n3:memory:/kubepods/pod1/c1\n0::/x\n";
        assert_eq!(cgroup_path(v1).unwrap().as_str(), "/kubepods/pod1/c1");
        let v2 = "0::/kubepods.slice/docker-c1.scope\n";
        assert_eq!(
            cgroup_path(v2).unwrap().as_str(),
            "/kubepods.slice/docker-c1.scope"
        );
        assert!(cgroup_path("").is_none());
    }
}
