//! Where the control groups are that Docker has made.

use slipway_cgroup::CgroupPath;

/// The cgroup of a container, found by its first process; none where that has ended, and its number
/// may be another one's by now. Blocking, briefly.
pub(crate) fn cgroup_of(id: &str, pid: Option<i32>) -> Option<CgroupPath> {
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", pid?)).ok()?;
    named(&text, id)
}

/// The cgroup with a container's id in its name, `<id>` or `docker-<id>.scope`, that
/// `/proc/<pid>/cgroup` names (cgroups(7)) for the memory controller or in version 2: a process may
/// have moved to one of its own below that.
fn named(text: &str, id: &str) -> Option<CgroupPath> {
    let of = |wanted: &str| {
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let found = controllers.split(',').any(|name| name == wanted);
            found.then_some(path)
        })
    };
    let path = of("memory").or_else(|| of(""))?;
    let after = path.find(id)? + id.len();
    let end = path[after..].find('/').map_or(path.len(), |at| after + at);
    CgroupPath::parse(&path[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_is_found_in_both_versions() {
        let found = |text: &str| named(text, "c1").map(|path| path.as_str().to_owned());
        let v1 = "12:pids:/a\n8:cpu,cpuacct:/b\n3:memory:/kubepods/pod1/c1\n0::/x\n";
        assert_eq!(found(v1).as_deref(), Some("/kubepods/pod1/c1"));
        let scope = "/kubepods.slice/docker-c1.scope";
        for below in ["", "/init.scope", "/system.slice/ssh.service"] {
            let v2 = format!("0::{scope}{below}\n");
            assert_eq!(found(&v2).as_deref(), Some(scope));
        }
        for other in ["", "0::/\n", "0::/system.slice/ssh.service\n"] {
            assert_eq!(found(other), None, "{other:?}");
        }
    }
}
