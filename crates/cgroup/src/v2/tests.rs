use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::*;
use crate::device::normalise;
use crate::device::tests::{any_rule, rule};
use crate::hierarchy::Layout;
use crate::mountinfo::{self, Kind};
use crate::{DeviceKind, DeviceRule, Hierarchy};

#[test]
fn the_default_weight_stays_the_default() {
    // The values that runc's and crun's own tests expect.
    for (shares, weight) in [
        (2, 1),
        (10, 4),
        (256, 35),
        (512, 59),
        (1024, 100),
        (2000, 170),
        (262_144, 10_000),
    ] {
        assert_eq!(weight_from_shares(shares), weight, "{shares} shares");
    }
    assert_eq!(weight_from_shares(1), 1);
    assert_eq!(weight_from_shares(u64::MAX), 10_000);
}

proptest! {
    #[test]
    fn more_shares_never_weigh_less(shares in 2..262_144_u64) {
        let weight = weight_from_shares(shares);
        prop_assert!((1..=10_000).contains(&weight));
        prop_assert!(weight <= weight_from_shares(shares + 1));
    }
}

/// A directory with empty files for control files, and the cgroup that it is taken for.
struct Paper {
    directory: tempfile::TempDir,
    cgroup: Cgroup,
}

impl Paper {
    fn new(files: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("c")).unwrap();
        let controllers = ["cpu", "cpuset", "memory", "pids", "hugetlb"].map(str::to_owned);
        let layout = Layout::V2(Mounted {
            mount_point: directory.path().to_owned(),
            controllers: controllers.into(),
        });
        let cgroup = Hierarchy::with(layout).open(&CgroupPath::parse("/c").unwrap());
        let paper = Self { directory, cgroup };
        for file in files {
            paper.put(file, "");
        }
        paper
    }

    fn put(&self, file: &str, text: &str) {
        fs::write(self.directory.path().join("c").join(file), text).unwrap();
    }

    fn get(&self, file: &str) -> String {
        fs::read_to_string(self.directory.path().join("c").join(file)).unwrap()
    }

    /// Applies, and returns what came to be in each file, emptying them again.
    fn apply(&self, resources: &Resources, files: &[&str]) -> Vec<String> {
        apply(&self.cgroup, resources, &mut Changes::Final).unwrap();
        let written = files.iter().map(|file| self.get(file)).collect();
        for file in files {
            self.put(file, "");
        }
        written
    }
}

#[test]
fn each_limit_goes_into_its_file() {
    let files = [
        "cpu.weight",
        "cpu.max",
        "cpuset.cpus",
        "cpuset.mems",
        "memory.max",
        "memory.swap.max",
        "pids.max",
        "hugetlb.2MB.max",
        "hugetlb.2MB.rsvd.max",
        "memory.high",
    ];
    let resources = Resources {
        cpu_shares: Some(2000),
        cpu_quota: Some(150_000),
        cpu_period: Some(100_000),
        cpuset_cpus: Some("0-1".into()),
        cpuset_mems: Some("0".into()),
        memory_limit: Some(1 << 20),
        memory_swap_limit: Some(3 << 20),
        pids_limit: Some(100),
        hugepages: vec![("2MB".into(), 4 << 20)],
        unified: [("memory.high".to_owned(), "900000".to_owned())].into(),
    };
    let written = Paper::new(&files).apply(&resources, &files);
    let expected = [
        "170",
        "150000 100000",
        "0-1",
        "0",
        "1048576",
        "2097152",
        "100",
        "4194304",
        "4194304",
        "900000",
    ];
    assert_eq!(written, expected);
    assert!(Paper::new(&[]).apply(&Resources::default(), &[]).is_empty());
}

#[test]
fn swap_is_what_the_two_limits_leave() {
    let files = ["memory.max", "memory.swap.max"];
    let paper = Paper::new(&files);
    let apply = |limit, both| {
        let resources = Resources {
            memory_limit: limit,
            memory_swap_limit: both,
            ..Resources::default()
        };
        paper.apply(&resources, &files)
    };
    assert_eq!(apply(Some(100), Some(100)), ["100", "0"]);
    assert_eq!(apply(Some(100), Some(-1)), ["100", "max"]);
    assert_eq!(apply(Some(-1), Some(-1)), ["max", "max"]);
    assert_eq!(apply(Some(-1), None), ["max", "max"]);
    assert_eq!(apply(Some(100), None), ["100", ""]);
    assert_eq!(apply(Some(0), Some(0)), ["", ""]);
    paper.put("memory.max", "100\n");
    assert_eq!(apply(None, Some(150)), ["100\n", "50"]);
    for (limit, both) in [(100, 99), (-1, 100)] {
        let resources = Resources {
            memory_limit: Some(limit),
            memory_swap_limit: Some(both),
            ..Resources::default()
        };
        assert!(matches!(
            super::apply(&paper.cgroup, &resources, &mut Changes::Final),
            Err(Error::Invalid { .. })
        ));
    }
}

#[test]
fn a_period_alone_keeps_the_quota() {
    let paper = Paper::new(&["cpu.max"]);
    paper.put("cpu.max", "max 100000\n");
    let period = Resources {
        cpu_period: Some(50_000),
        ..Resources::default()
    };
    apply(&paper.cgroup, &period, &mut Changes::Final).unwrap();
    assert!(paper.get("cpu.max").starts_with("max 50000"));
    paper.put("cpu.max", "");
    let quota = Resources {
        cpu_quota: Some(-1),
        ..Resources::default()
    };
    assert_eq!(paper.apply(&quota, &["cpu.max"]), ["max"]);
}

#[test]
fn a_unified_key_must_be_a_control_file() {
    let paper = Paper::new(&["memory.high"]);
    for key in [
        "../c/memory.high",
        "memory.nonsense",
        "memory./high",
        "cgroup.kill",
        "memory.",
        ".high",
        "",
        "..",
    ] {
        let unified = [(key.to_owned(), "1".to_owned())].into();
        let error = apply(
            &paper.cgroup,
            &Resources {
                unified,
                ..Resources::default()
            },
            &mut Changes::Final,
        );
        let error = error.unwrap_err().to_string();
        assert!(error.contains(&format!("{key:?}")), "{error}");
    }
}

#[test]
fn a_refused_update_takes_back_what_came_before_it() {
    let files = ["cpu.weight", "cpu.max", "cpuset.cpus", "memory.max"];
    let paper = Paper::new(&files);
    paper.put("cpu.weight", "100\n");
    paper.put("cpu.max", "max 100000\n");
    paper.put("memory.current", "4096\n");
    let stat = "anon 4096\nfile 0\nfile_mapped 0\ninactive_file 0\nactive_file 0\npgfault 1\npgmajfault 0\n";
    paper.put("memory.stat", stat);
    paper.put("memory.max", "max\n");
    paper.put("pids.current", "1\n");
    paper.put("pids.max", "max\n");
    paper.put("cpu.stat", "usage_usec 1\n");
    let unified = [("memory.nonsense".to_owned(), "1".to_owned())].into();
    let asked = Resources {
        cpu_shares: Some(2000),
        cpu_quota: Some(5000),
        cpuset_cpus: Some("0-3".into()),
        memory_limit: Some(8192),
        unified,
        ..Resources::default()
    };
    let error = paper.cgroup.update(&asked).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    // A file is not truncated by a write as a control file is, so only beginnings are compared.
    assert!(paper.get("cpu.weight").starts_with("100\n"));
    assert!(paper.get("cpu.max").starts_with("max 100000\n"));
    assert!(paper.get("cpuset.cpus").starts_with('\n'));
    assert!(paper.get("memory.max").starts_with("max\n"));

    let below = Resources {
        memory_limit: Some(4095),
        ..Resources::default()
    };
    let error = paper.cgroup.update(&below).unwrap_err();
    assert!(
        matches!(error, Error::MemoryInUse { in_use: 4096, .. }),
        "{error}"
    );
}

/// A cgroup on this node's real v2 hierarchy, whether or not that one has controllers.
struct Live {
    cgroup: Cgroup,
    mount_point: PathBuf,
}

impl Live {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut mounts = mountinfo::parse(&mountinfo).into_iter();
        let mount = mounts
            .find(|mount| mount.kind == Kind::V2)
            .expect("a cgroup2 mount");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = format!("/slipway-cgroup-test-v2-{}-{number}", std::process::id());
        let path = CgroupPath::parse(&path).unwrap();
        let mounted = Mounted {
            mount_point: mount.mount_point.clone(),
            controllers: vec![],
        };
        let hierarchy = Hierarchy::with(Layout::V2(mounted));
        let cgroup = hierarchy.create(&path, &Resources::default(), &[]).unwrap();
        Self {
            cgroup,
            mount_point: mount.mount_point,
        }
    }

    fn directory(&self) -> PathBuf {
        self.cgroup.directories().remove(0)
    }

    /// Runs a shell script in the cgroup.
    fn run(&self, script: &str) -> Output {
        let script = format!(
            "echo 0 > {}/cgroup.procs; {script}",
            self.directory().display()
        );
        Command::new("/bin/busybox")
            .args(["sh", "-c", &script])
            .output()
            .unwrap()
    }

    fn programs(&self) -> Vec<u32> {
        bpf::attached_ids(File::open(self.directory()).unwrap().as_fd()).unwrap()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.cgroup.kill().unwrap();
        self.cgroup.remove().unwrap();
        assert!(!self.cgroup.exists());
    }
}

fn denied_but(allowed: &[(i64, i64, &str)]) -> Vec<DeviceRule> {
    let mut rules = vec![rule(false, DeviceKind::All, -1, -1, "rwm")];
    rules.extend(
        allowed
            .iter()
            .map(|(major, minor, access)| rule(true, DeviceKind::Char, *major, *minor, access)),
    );
    rules
}

#[test]
fn devices_are_guarded_by_the_kernel() {
    let live = Live::new();
    let scratch = tempfile::tempdir().unwrap();
    let probe = format!(
        "(: < /dev/null) && echo null; (: > /dev/null) && echo null-w; (: < /dev/zero) && echo zero; \
         mknod {0}/null c 1 3 && echo mknod-null; mknod {0}/any c 240 1 && echo mknod-any; \
         rm -f {0}/*; true",
        scratch.path().display()
    );
    let allowed = || String::from_utf8(live.run(&probe).stdout).unwrap();
    let all = "null\nnull-w\nzero\nmknod-null\nmknod-any\n";
    assert_eq!(allowed(), all);

    live.cgroup
        .set_devices(&denied_but(&[(1, 3, "r"), (-1, -1, "m")]))
        .unwrap();
    assert_eq!(allowed(), "null\nmknod-null\nmknod-any\n");
    let first = live.programs();
    assert_eq!(first.len(), 1);

    live.cgroup
        .set_devices(&denied_but(&[(1, 5, "rwm"), (1, 3, "m")]))
        .unwrap();
    assert_eq!(allowed(), "zero\nmknod-null\n");
    let second = live.programs();
    assert!(
        second.len() == 1 && second != first,
        "{first:?} was not replaced: {second:?}"
    );

    live.cgroup
        .set_devices(&[rule(true, DeviceKind::All, -1, -1, "rwm")])
        .unwrap();
    assert_eq!(allowed(), all);
    assert_eq!(live.programs().len(), 1);
}

#[test]
fn the_program_of_somebody_else_stays() {
    let live = Live::new();
    let directory = File::open(live.directory()).unwrap();
    live.cgroup.set_devices(&denied_but(&[])).unwrap();
    let ours = bpf::attached(directory.as_fd()).unwrap().unwrap();
    // Attached twice, so that the second stands for another's: only one of them is replaced.
    let other = bpf::load(&device_program::compile(
        &normalise(&denied_but(&[])).unwrap(),
    ))
    .unwrap();
    bpf::attach(directory.as_fd(), other.as_fd(), None).unwrap();
    drop((ours, other));
    assert_eq!(live.programs().len(), 2);
    live.cgroup
        .set_devices(&denied_but(&[(1, 3, "rw")]))
        .unwrap();
    assert_eq!(live.programs().len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn the_verifier_accepts_every_program(rules in prop::collection::vec(any_rule(), 1..40)) {
        bpf::load(&device_program::compile(&normalise(&rules).unwrap())).unwrap();
    }
}

#[test]
fn what_is_killed_and_below_is_removed() {
    let live = Live::new();
    let below = live.directory().join("made/by/the/container");
    fs::create_dir_all(&below).unwrap();
    let script = format!(
        "echo 0 > {}/cgroup.procs; sleep 100 & sleep 100 & wait",
        below.display()
    );
    let script = format!("({script}) & wait");
    let mut child = Command::new("/bin/busybox")
        .args([
            "sh",
            "-c",
            &format!(
                "echo 0 > {}/cgroup.procs; {script}",
                live.directory().display()
            ),
        ])
        .spawn()
        .unwrap();
    while live.cgroup.processes().unwrap().len() < 4 {
        assert!(child.try_wait().unwrap().is_none(), "the script ended");
        std::thread::yield_now();
    }
    live.cgroup.kill().unwrap();
    live.cgroup.remove().unwrap();
    assert!(!live.cgroup.exists());
    assert!(!child.wait().unwrap().success());
    live.cgroup.kill().unwrap();
}

/// Gives a real controller down the tree, where the node's v2 hierarchy has one at all.
#[test]
fn controllers_are_enabled_on_the_way_down() {
    let live = Live::new();
    let top = live.mount_point.clone();
    let subtree_control = top.join("cgroup.subtree_control");
    let controllers = fs::read_to_string(top.join("cgroup.controllers")).unwrap();
    let controllers: Vec<_> = controllers.split_whitespace().map(str::to_owned).collect();
    let before = fs::read_to_string(&subtree_control).unwrap();
    let mounted = Mounted {
        mount_point: top,
        controllers: controllers.clone(),
    };
    let path = live.cgroup.path().join("a").unwrap().join("b").unwrap();
    let cgroup = Hierarchy::with(Layout::V2(mounted))
        .create(&path, &Resources::default(), &[])
        .unwrap();
    let own = fs::read_to_string(cgroup.directories()[0].join("cgroup.controllers")).unwrap();
    live.cgroup.remove().unwrap();
    for controller in controllers
        .iter()
        .filter(|one| !before.contains(one.as_str()))
    {
        fs::write(&subtree_control, format!("-{controller}")).unwrap();
    }
    assert_eq!(own.split_whitespace().collect::<Vec<_>>(), controllers);
}
