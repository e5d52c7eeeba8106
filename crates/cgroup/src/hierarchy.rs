//! Which cgroup hierarchies this node has.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::statfs;

use crate::mountinfo::{self, CgroupMount, Kind};
use crate::{Cgroup, CgroupPath, Error, control_file};

/// `CGROUP_SUPER_MAGIC` and `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const V1_MAGIC: u64 = 0x0027_e0eb;
const V2_MAGIC: u64 = 0x6367_7270;

/// Where distributions mount the hierarchies; a mount elsewhere is usually a container's.
const USUAL_PLACE: &str = "/sys/fs/cgroup";

/// The controllers whose absence is worth a word, and that make a hierarchy worth using.
const LIMITING: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];
/// What is a controller of its own on v1 and part of something else on v2.
const V1_ONLY: [&str; 3] = ["cpuacct", "devices", "freezer"];

/// The two interfaces of the kernel. A hybrid node, with its controllers on v1 and a v2 hierarchy
/// without any beside them, counts as v1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy for each controller, or group of controllers (cgroup-v1 in the kernel's
    /// documentation).
    V1,
    /// One hierarchy for all of them (cgroup-v2.rst).
    V2,
}

/// The cgroup file systems of this node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    layout: Arc<Layout>,
    /// Where a hybrid node has v2 mounted beside v1.
    beside: Option<PathBuf>,
}

/// The hierarchies in use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One for each group of controllers, and `name=systemd`.
    V1(Vec<Mounted>),
    /// The one.
    V2(Mounted),
}

/// One mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mounted {
    pub(crate) mount_point: PathBuf,
    pub(crate) controllers: Vec<String>,
}

impl Mounted {
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|one| one == controller)
    }
}

impl Layout {
    pub(crate) fn mounts(&self) -> &[Mounted] {
        match self {
            Self::V1(mounts) => mounts,
            Self::V2(mount) => std::slice::from_ref(mount),
        }
    }

    fn has(&self, controller: &str) -> bool {
        self.mounts().iter().any(|mount| mount.has(controller))
    }
}

impl Hierarchy {
    /// Looks at `/proc/self/mountinfo`, `/proc/self/cgroup` and, on v2, `cgroup.controllers`. An
    /// error names what is missing or read-only; a single missing controller is not one, see
    /// [`Hierarchy::missing_controllers`].
    pub fn detect() -> Result<Self, Error> {
        let mountinfo = control_file::read(Path::new("/proc/self/mountinfo"))?;
        let memberships = control_file::read(Path::new("/proc/self/cgroup"))?;
        let mut mounts = mountinfo::parse(&mountinfo);
        mounts.retain(is_visible);
        let mut found = Self::select(&mounts, &memberships, |mount_point| {
            let controllers = control_file::read(&mount_point.join("cgroup.controllers"))?;
            Ok(controllers.split_whitespace().map(str::to_owned).collect())
        })?;
        if found.version() == Version::V1 {
            let v2 = preferred(&mounts, |kind| *kind == Kind::V2);
            found.beside = v2.map(|mount| mount.mount_point.clone());
        }
        Ok(found)
    }

    /// The directory of `path` in the v2 hierarchy that a hybrid node has beside v1. Slipway makes
    /// none there; other runtimes do.
    pub fn beside(&self, path: &CgroupPath) -> Option<PathBuf> {
        self.beside.as_ref().map(|mount| path.below(mount))
    }

    /// Chooses among `mounts`; `v2_controllers` reads `cgroup.controllers` of a v2 mount point.
    pub(crate) fn select(
        mounts: &[CgroupMount],
        memberships: &str,
        v2_controllers: impl FnOnce(&Path) -> Result<Vec<String>, Error>,
    ) -> Result<Self, Error> {
        let v1: Vec<_> = v1_hierarchies(memberships)
            .filter_map(|names| {
                let mount = preferred(mounts, |kind| match kind {
                    Kind::V1(options) => names.iter().all(|name| options.contains(name)),
                    Kind::V2 => false,
                })?;
                Some((mount, names))
            })
            .collect();
        let limits = |names: &[String]| LIMITING.iter().any(|c| names.iter().any(|n| n == c));

        if v1.iter().any(|(_, names)| limits(names)) {
            let v1: Result<Vec<_>, _> = v1
                .into_iter()
                .map(|(m, names)| writable(m, names))
                .collect();
            return Ok(Self::with(Layout::V1(v1?)));
        }
        let v2 = preferred(mounts, |kind| *kind == Kind::V2);
        let Some(mount) = v2.or_else(|| v1.first().map(|(mount, _)| *mount)) else {
            return Err(Error::NotMounted);
        };
        let controllers = if v2.is_some() {
            v2_controllers(&mount.mount_point)?
        } else {
            vec![]
        };
        if !limits(&controllers) {
            return Err(Error::NoControllers {
                mount_point: mount.mount_point.clone(),
                wanted: LIMITING.join(", "),
            });
        }
        Ok(Self::with(Layout::V2(writable(mount, controllers)?)))
    }

    pub(crate) fn with(layout: Layout) -> Self {
        Self {
            layout: Arc::new(layout),
            beside: None,
        }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Which interface containers are limited through.
    pub fn version(&self) -> Version {
        match *self.layout {
            Layout::V1(_) => Version::V1,
            Layout::V2(_) => Version::V2,
        }
    }

    /// The controllers that a node is expected to have and that are not mounted, compiled in or
    /// delegated to here. A limit that needs one of them is [`Error::MissingController`]; report
    /// them once at start.
    pub fn missing_controllers(&self) -> Vec<&'static str> {
        let v1_only: &[&str] = match self.version() {
            Version::V1 => &V1_ONLY,
            Version::V2 => &[],
        };
        LIMITING
            .iter()
            .chain(v1_only)
            .copied()
            .filter(|c| !self.layout.has(c))
            .collect()
    }

    /// Whether `controller` (`hugetlb`, for example) is there to be used.
    pub fn has_controller(&self, controller: &str) -> bool {
        self.layout.has(controller)
    }

    /// The cgroup at `path`, which need not exist. No input or output.
    pub fn open(&self, path: &CgroupPath) -> Cgroup {
        Cgroup::new(Arc::clone(&self.layout), path.clone())
    }
}

/// The v1 hierarchies of `/proc/self/cgroup`, each with its controllers. Named hierarchies of
/// other service managers than systemd are theirs alone.
fn v1_hierarchies(memberships: &str) -> impl Iterator<Item = Vec<String>> {
    memberships.lines().filter_map(|line| {
        let names = line.split(':').nth(1)?;
        let foreign = names.is_empty() || names.starts_with("name=") && names != "name=systemd";
        (!foreign).then(|| names.split(',').map(str::to_owned).collect())
    })
}

/// The mount of a hierarchy to work on, of the several that there may be.
fn preferred(mounts: &[CgroupMount], is_it: impl Fn(&Kind) -> bool) -> Option<&CgroupMount> {
    mounts
        .iter()
        .filter(|mount| is_it(&mount.kind))
        .min_by_key(|mount| {
            (
                !mount.mount_point.starts_with(USUAL_PLACE),
                mount.root != "/",
            )
        })
}

fn writable(mount: &CgroupMount, controllers: Vec<String>) -> Result<Mounted, Error> {
    if mount.read_only {
        return Err(Error::ReadOnly(mount.mount_point.clone()));
    }
    Ok(Mounted {
        mount_point: mount.mount_point.clone(),
        controllers,
    })
}

/// Whether the mount point leads to this mount, and not to another on top of it.
fn is_visible(mount: &CgroupMount) -> bool {
    let magic = match mount.kind {
        Kind::V1(_) => V1_MAGIC,
        Kind::V2 => V2_MAGIC,
    };
    fs::symlink_metadata(&mount.mount_point).is_ok_and(|found| found.is_dir())
        && statfs(&mount.mount_point).is_ok_and(|found| u64::try_from(found.f_type) == Ok(magic))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEMD_V2: &str = "\
24 30 0:22 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
34 24 0:29 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
35 24 0:30 / /sys/fs/pstore rw,nosuid,nodev,noexec,relatime shared:10 - pstore pstore rw
";
    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const HYBRID_MEMBERSHIPS: &str = "\
9:name=systemd:/\n8:pids:/\n4:memory:/agent/1\n2:cpuacct:/\n1:cpu:/\n0::/\n";
    const CO_MOUNTED: &str = "\
25 20 0:21 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:4 - tmpfs tmpfs ro,seclabel,mode=755
26 25 0:22 / /sys/fs/cgroup/systemd rw,nosuid shared:5 - cgroup cgroup rw,seclabel,xattr,release_agent=/usr/lib/systemd/systemd-cgroups-agent,name=systemd
28 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:6 - cgroup cgroup rw,seclabel,cpuacct,cpu
29 25 0:25 / /sys/fs/cgroup/net_cls,net_prio rw,nosuid shared:7 - cgroup cgroup rw,seclabel,net_prio,net_cls
30 25 0:26 / /sys/fs/cgroup/devices rw,nosuid shared:8 - cgroup cgroup rw,seclabel,devices
31 25 0:27 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,seclabel,memory
32 25 0:28 / /sys/fs/cgroup/cpuset rw,nosuid shared:10 - cgroup cgroup rw,seclabel,cpuset
33 25 0:29 / /sys/fs/cgroup/pids rw,nosuid shared:11 - cgroup cgroup rw,seclabel,pids
34 25 0:30 / /sys/fs/cgroup/freezer rw,nosuid shared:12 - cgroup cgroup rw,seclabel,freezer
900 25 0:27 /kubepods/pod1/c1 /run/pods/c1/rootfs/sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,seclabel,memory
";
    const CO_MOUNTED_MEMBERSHIPS: &str = "\
9:freezer:/\n8:pids:/user.slice\n7:cpuset:/\n6:memory:/\n5:devices:/user.slice\n4:net_prio,net_cls:/
3:cpuacct,cpu:/\n2:name=openrc:/\n1:name=systemd:/user.slice/user-0.slice/session-1.scope\n";
    const KIND_V2: &str = "\
1390 1389 0:160 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro
1391 1390 0:28 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate,memory_recursiveprot
";
    const DOCKER_V1_BOUND: &str = "\
701 700 0:27 /docker/4f1 /sys/fs/cgroup/memory ro,nosuid,nodev master:9 - cgroup cgroup rw,memory
";

    fn select(mountinfo: &str, memberships: &str, v2: &str) -> Result<Hierarchy, Error> {
        Hierarchy::select(&mountinfo::parse(mountinfo), memberships, |_| {
            Ok(v2.split_whitespace().map(str::to_owned).collect())
        })
    }

    fn mount_points(hierarchy: &Hierarchy) -> Vec<&str> {
        hierarchy
            .layout
            .mounts()
            .iter()
            .map(|m| m.mount_point.to_str().unwrap())
            .collect()
    }

    #[test]
    fn pure_v2() {
        let all = "cpuset cpu io memory hugetlb pids rdma misc";
        let hierarchy = select(SYSTEMD_V2, "0::/user.slice/session-1.scope\n", all).unwrap();
        assert_eq!(hierarchy.version(), Version::V2);
        assert_eq!(mount_points(&hierarchy), ["/sys/fs/cgroup"]);
        assert!(hierarchy.missing_controllers().is_empty());
        let cgroup = hierarchy.open(&CgroupPath::parse("/kubepods/a").unwrap());
        assert_eq!(
            cgroup.directories(),
            [Path::new("/sys/fs/cgroup/kubepods/a")]
        );
        assert_eq!(
            cgroup.oom_events().unwrap(),
            Path::new("/sys/fs/cgroup/kubepods/a/memory.events")
        );
    }

    #[test]
    fn a_v1_leftover_beside_v2_is_passed_over() {
        let mounts =
            format!("{SYSTEMD_V2}50 24 0:50 / /mnt/net_cls rw - cgroup cgroup rw,net_cls\n");
        let hierarchy = select(&mounts, "2:net_cls:/\n0::/\n", "cpu memory").unwrap();
        assert_eq!(hierarchy.version(), Version::V2);
        assert_eq!(hierarchy.missing_controllers(), ["cpuset", "pids"]);
    }

    #[test]
    fn hybrid_counts_as_v1() {
        let hierarchy = select(HYBRID, HYBRID_MEMBERSHIPS, "").unwrap();
        assert_eq!(hierarchy.version(), Version::V1);
        assert_eq!(
            mount_points(&hierarchy),
            ["systemd", "pids", "memory", "cpuacct", "cpu"].map(|c| format!("/sys/fs/cgroup/{c}"))
        );
        assert_eq!(
            hierarchy.missing_controllers(),
            ["cpuset", "devices", "freezer"]
        );
    }

    #[test]
    fn co_mounted_controllers_are_one_hierarchy() {
        let hierarchy = select(CO_MOUNTED, CO_MOUNTED_MEMBERSHIPS, "").unwrap();
        let points = mount_points(&hierarchy);
        assert_eq!(points.len(), 8, "{points:?}");
        assert_eq!(
            points.iter().filter(|p| p.contains("cpu,cpuacct")).count(),
            1
        );
        assert!(
            points.contains(&"/sys/fs/cgroup/memory"),
            "not the container's own mount"
        );
        assert!(hierarchy.missing_controllers().is_empty());
        let cgroup = hierarchy.open(&CgroupPath::parse("/a").unwrap());
        assert_eq!(
            cgroup.oom_events().unwrap(),
            Path::new("/sys/fs/cgroup/memory/a/memory.oom_control")
        );
    }

    #[test]
    fn inside_kind_the_root_is_the_containers() {
        let hierarchy = select(KIND_V2, "0::/\n", "cpuset cpu io memory pids").unwrap();
        assert_eq!(mount_points(&hierarchy), ["/sys/fs/cgroup"]);
        assert!(hierarchy.missing_controllers().is_empty());
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(matches!(select("", "0::/\n", ""), Err(Error::NotMounted)));
        let error = select(SYSTEMD_V2, "0::/\n", "rdma")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/sys/fs/cgroup") && error.contains("memory"),
            "{error}"
        );
        let error = select(DOCKER_V1_BOUND, "4:memory:/docker/4f1\n", "").unwrap_err();
        assert!(matches!(error, Error::ReadOnly(at) if at.ends_with("memory")));
        let only_names = "26 25 0:22 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let error = select(only_names, "1:name=systemd:/\n", "").unwrap_err();
        assert!(matches!(error, Error::NoControllers { .. }));
    }

    #[test]
    fn this_machine_has_one() {
        let hierarchy = Hierarchy::detect().unwrap();
        for mount in hierarchy.layout.mounts() {
            assert!(mount.mount_point.join("cgroup.procs").exists(), "{mount:?}");
        }
    }
}
