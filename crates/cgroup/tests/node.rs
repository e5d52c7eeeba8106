//! Cgroups of the node that the tests run on, v1 or v2. They take root and busybox.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use slipway_cgroup::{
    Access, Cgroup, CgroupPath, DeviceKind, DeviceRule, Error, Hierarchy, Resources, Version,
};

const MIB: i64 = 1 << 20;

/// A place for one test's cgroups, which takes them all away in the end.
struct Place {
    hierarchy: Hierarchy,
    path: CgroupPath,
}

impl Place {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = format!("/slipway-cgroup-test-{}-{number}", std::process::id());
        let hierarchy = Hierarchy::detect().expect("cgroups");
        Self {
            hierarchy,
            path: CgroupPath::parse(&path).unwrap(),
        }
    }

    fn at(&self, name: &str) -> CgroupPath {
        self.path.join(name).unwrap()
    }

    fn create(&self, resources: &Resources) -> Cgroup {
        self.hierarchy
            .create(&self.at("c"), resources, &[])
            .unwrap()
    }

    fn version(&self) -> Version {
        self.hierarchy.version()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let all = self.hierarchy.open(&self.path);
        all.kill().unwrap();
        all.remove().unwrap();
        assert!(!all.exists());
    }
}

/// Starts a shell script in every hierarchy of the cgroup.
fn start(cgroup: &Cgroup, script: &str) -> Child {
    Command::new("/bin/busybox")
        .args([
            "sh",
            "-c",
            &format!("{}{script}", join(&cgroup.directories())),
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("busybox-static")
}

/// The script by which a shell moves into these cgroups.
fn join(directories: &[PathBuf]) -> String {
    let list: Vec<_> = directories
        .iter()
        .map(|directory| directory.to_str().unwrap())
        .collect();
    format!(
        "for d in {}; do echo 0 > $d/cgroup.procs || exit 99; done; ",
        list.join(" ")
    )
}

/// Watches a child until something is so, for as long as the child lives.
fn await_that(child: &mut Child, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "the script ended early"
        );
        assert!(Instant::now() < end, "the script did not come to it");
        std::thread::yield_now();
    }
}

/// The text of a control file, from whichever hierarchy has it.
fn control(cgroup: &Cgroup, v1: &str, v2: &str) -> String {
    let directories = cgroup.directories();
    let file = if directories.len() == 1 { v2 } else { v1 };
    let found = directories
        .iter()
        .find_map(|one| fs::read_to_string(one.join(file)).ok());
    found
        .unwrap_or_else(|| panic!("no {file}"))
        .trim()
        .to_owned()
}

fn oom_kills(cgroup: &Cgroup) -> u64 {
    let events = fs::read_to_string(cgroup.oom_events().unwrap()).unwrap();
    let line = events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .unwrap();
    line.parse().unwrap()
}

#[test]
fn limits_are_set_and_changed() {
    let place = Place::new();
    let cgroup = place.create(&Resources {
        cpu_shares: Some(2000),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        cpuset_cpus: Some("0".into()),
        memory_limit: Some(64 * MIB),
        pids_limit: Some(10),
        ..Resources::default()
    });
    assert_eq!(
        control(&cgroup, "cpu.shares", "cpu.weight"),
        if place.version() == Version::V1 {
            "2000"
        } else {
            "170"
        }
    );
    let quota = control(&cgroup, "cpu.cfs_quota_us", "cpu.max");
    assert!(
        ["50000", "50000 100000"].contains(&quota.as_str()),
        "{quota}"
    );
    assert_eq!(control(&cgroup, "cpuset.cpus", "cpuset.cpus"), "0");
    let limit = || control(&cgroup, "memory.limit_in_bytes", "memory.max");
    assert_eq!(limit(), (64 * MIB).to_string());
    assert_eq!(control(&cgroup, "pids.max", "pids.max"), "10");

    cgroup
        .update(&Resources {
            pids_limit: Some(-1),
            ..Resources::default()
        })
        .unwrap();
    assert_eq!(control(&cgroup, "pids.max", "pids.max"), "max");
    assert_eq!(limit(), (64 * MIB).to_string(), "only what is set changes");

    // Up, down below both old limits, and off again: each in the order that the kernel takes.
    for (memory, swap) in [(256, 512), (32, 32), (64, 512), (600, 700), (16, 20)] {
        let resources = Resources {
            memory_limit: Some(memory * MIB),
            memory_swap_limit: Some(swap * MIB),
            ..Resources::default()
        };
        cgroup.update(&resources).unwrap();
        assert_eq!(limit(), (memory * MIB).to_string());
        let swap_limit = control(&cgroup, "memory.memsw.limit_in_bytes", "memory.swap.max");
        let swap = if place.version() == Version::V1 {
            swap
        } else {
            swap - memory
        };
        assert_eq!(swap_limit, (swap * MIB).to_string());
    }
    let unlimited = Resources {
        memory_limit: Some(-1),
        ..Resources::default()
    };
    cgroup.update(&unlimited).unwrap();
    assert_eq!(cgroup.stats().unwrap().memory.unwrap().limit, None);
}

#[test]
fn a_refused_update_changes_nothing() {
    let place = Place::new();
    let cgroup = place.create(&Resources {
        cpu_shares: Some(1024),
        memory_limit: Some(64 * MIB),
        memory_swap_limit: Some(64 * MIB),
        pids_limit: Some(10),
        ..Resources::default()
    });
    let state = || {
        [
            control(&cgroup, "cpu.shares", "cpu.weight"),
            control(&cgroup, "cpu.cfs_quota_us", "cpu.max"),
            control(&cgroup, "memory.limit_in_bytes", "memory.max"),
            control(&cgroup, "memory.memsw.limit_in_bytes", "memory.swap.max"),
            control(&cgroup, "pids.max", "pids.max"),
        ]
    };
    let before = state();
    let error = cgroup
        .update(&Resources {
            cpu_shares: Some(2000),
            cpu_quota: Some(50_000),
            memory_limit: Some(256 * MIB),
            memory_swap_limit: Some(512 * MIB),
            pids_limit: Some(7),
            hugepages: vec![("3MB".to_owned(), 1)],
            ..Resources::default()
        })
        .unwrap_err();
    assert_eq!(state(), before, "{error}");
}

#[test]
fn memory_is_not_limited_below_what_is_in_use() {
    let place = Place::new();
    let cgroup = place.create(&Resources {
        memory_limit: Some(128 * MIB),
        memory_swap_limit: Some(128 * MIB),
        ..Resources::default()
    });
    let mut child = start(&cgroup, "exec dd if=/dev/zero of=/dev/null bs=48M");
    await_that(&mut child, || {
        cgroup.stats().unwrap().memory.unwrap().rss > 40 << 20
    });
    let error = cgroup
        .update(&Resources {
            memory_limit: Some(16 * MIB),
            memory_swap_limit: Some(16 * MIB),
            ..Resources::default()
        })
        .unwrap_err()
        .to_string();
    assert!(error.contains("in use"), "{error}");
    let limit = control(&cgroup, "memory.limit_in_bytes", "memory.max");
    assert_eq!(limit, (128 * MIB).to_string());
    assert!(child.try_wait().unwrap().is_none(), "nobody was killed");
    cgroup.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_failed_creation_leaves_nothing() {
    let place = Place::new();
    for bad in [
        Resources {
            cpuset_cpus: Some("4096".into()),
            ..Resources::default()
        },
        Resources {
            memory_limit: Some(2 * MIB),
            memory_swap_limit: Some(MIB),
            ..Resources::default()
        },
        Resources {
            unified: [("no.such".into(), "1".into())].into(),
            ..Resources::default()
        },
    ] {
        place
            .hierarchy
            .create(&place.at("c"), &bad, &[])
            .unwrap_err();
        assert!(
            !place.hierarchy.open(&place.path).exists(),
            "{bad:?} left a directory"
        );
    }
    let error = place
        .hierarchy
        .create(
            &place.at("c"),
            &Resources {
                cpuset_cpus: Some("4096".into()),
                ..Resources::default()
            },
            &[],
        )
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("4096") && error.contains("cpuset.cpus"),
        "{error}"
    );
}

#[test]
fn parents_that_were_made_are_told() {
    let place = Place::new();
    let (pods, pod) = (place.at("pods"), place.at("pods").join("pod1").unwrap());
    assert_eq!(
        place.hierarchy.create_parent(&pod).unwrap(),
        [place.path.clone(), pods.clone(), pod.clone()]
    );
    assert!(place.hierarchy.create_parent(&pod).unwrap().is_empty());
    let other = place.at("pods").join("pod2").unwrap();
    assert_eq!(place.hierarchy.create_parent(&other).unwrap(), [other]);
    assert!(
        place
            .hierarchy
            .create_parent(&CgroupPath::root())
            .unwrap()
            .is_empty()
    );
    let container = pod.join("c").unwrap();
    place
        .hierarchy
        .create(&container, &Resources::default(), &[])
        .unwrap();
    assert!(place.hierarchy.open(&container).exists());
}

#[test]
fn an_empty_leftover_is_made_afresh() {
    let place = Place::new();
    let cgroup = place.create(&Resources {
        pids_limit: Some(7),
        ..Resources::default()
    });
    assert_eq!(control(&cgroup, "pids.max", "pids.max"), "7");
    let again = place.create(&Resources::default());
    assert_eq!(control(&again, "pids.max", "pids.max"), "max");
}

#[test]
fn a_process_beyond_its_memory_is_killed_and_counted() {
    let place = Place::new();
    let cgroup = place.create(&Resources {
        memory_limit: Some(24 * MIB),
        memory_swap_limit: Some(24 * MIB),
        ..Resources::default()
    });
    assert_eq!(oom_kills(&cgroup), 0);
    let greedy = start(&cgroup, "exec dd if=/dev/zero of=/dev/null bs=96M count=1");
    let end = greedy.wait_with_output().unwrap();
    assert_eq!(end.status.signal(), Some(9), "{end:?}");
    assert_eq!(oom_kills(&cgroup), 1);
}

#[test]
fn there_are_no_more_processes_than_allowed() {
    let place = Place::new();
    let cgroup = place.create(&Resources {
        pids_limit: Some(4),
        ..Resources::default()
    });
    let mut child = start(&cgroup, "for i in 1 2 3 4 5 6; do sleep 100 & done; wait");
    // The shell gives up at the first fork that is refused.
    assert!(!child.wait().unwrap().success());
    assert_eq!(cgroup.processes().unwrap().len(), 3);
    assert_eq!(cgroup.pids().unwrap().unwrap().current, 3);
    cgroup.kill().unwrap();
    cgroup.remove().unwrap();
}

/// The cgroup's directory that has this file.
fn directory_with(cgroup: &Cgroup, file: &str) -> PathBuf {
    cgroup
        .directories()
        .into_iter()
        .find(|one| one.join(file).exists())
        .expect(file)
}

#[test]
fn no_fork_escapes_a_kill() {
    let place = Place::new();
    let cgroup = place.create(&Resources {
        pids_limit: Some(64),
        ..Resources::default()
    });
    // The shells give up when a fork is refused, the process that is waited for does not.
    let mut storm = start(
        &cgroup,
        "{ f() { f | f & }; while true; do f; done 2>/dev/null; } & exec sleep 1000",
    );
    await_that(&mut storm, || {
        let refused = control(&cgroup, "pids.events", "pids.events") != "max 0";
        refused || cgroup.pids().unwrap().unwrap().current > 40
    });
    cgroup.kill().unwrap();
    cgroup.remove().unwrap();
    assert!(!cgroup.exists());
    assert_eq!(storm.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn what_the_container_made_below_goes_too() {
    let place = Place::new();
    let cgroup = place.create(&Resources::default());
    let below: Vec<_> = cgroup
        .directories()
        .iter()
        .map(|one| one.join("own/child"))
        .collect();
    for directory in &below {
        fs::create_dir_all(directory).unwrap();
    }
    if place.version() == Version::V1 {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = directory_with(&cgroup, file);
            let value = fs::read(own.join(file)).unwrap();
            fs::write(own.join("own").join(file), &value).unwrap();
            fs::write(own.join("own/child").join(file), &value).unwrap();
        }
    }
    let mut child = start(
        &cgroup,
        &format!("({} exec sleep 100) & wait", join(&below)),
    );
    let moved = below[0].join("cgroup.procs");
    await_that(&mut child, || !fs::read(&moved).unwrap().is_empty());
    let processes = cgroup.processes().unwrap();
    assert_eq!(processes.len(), 2);
    let mut sampled = cgroup.sample_processes().unwrap();
    sampled.sort_unstable();
    assert_eq!(sampled, processes);
    cgroup.kill().unwrap();
    cgroup.remove().unwrap();
    assert!(!cgroup.exists());
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn removal_waits_for_the_dying() {
    let place = Place::new();
    for _ in 0..5 {
        let cgroup = place.create(&Resources::default());
        let mut child = start(&cgroup, "exec dd if=/dev/zero of=/dev/null bs=64M");
        await_that(&mut child, || {
            cgroup.stats().unwrap().memory.unwrap().rss > 48 << 20
        });
        child.kill().unwrap();
        cgroup.remove().unwrap();
        assert!(!cgroup.exists());
        child.wait().unwrap();
    }
}

#[test]
fn what_is_absent_is_removed_already() {
    let place = Place::new();
    let absent = place.hierarchy.open(&place.at("absent"));
    assert!(!absent.exists());
    assert!(absent.processes().unwrap().is_empty());
    assert!(absent.sample_processes().unwrap().is_empty());
    absent.kill().unwrap();
    absent.remove().unwrap();
    assert!(matches!(absent.stats(), Err(Error::Read { .. })));
}

#[test]
fn use_is_counted() {
    let place = Place::new();
    let limit = 256 * MIB;
    let cgroup = place.create(&Resources {
        memory_limit: Some(limit),
        ..Resources::default()
    });
    let mut child = start(&cgroup, "exec dd if=/dev/zero of=/dev/null bs=32M");
    await_that(&mut child, || {
        cgroup.stats().unwrap().memory.unwrap().rss > 24 << 20
    });
    let (stats, details) = (cgroup.stats().unwrap(), cgroup.details().unwrap());
    let pids = cgroup.pids().unwrap().unwrap();
    cgroup.kill().unwrap();
    child.wait().unwrap();
    let memory = stats.memory.unwrap();
    assert!(stats.cpu.unwrap().usage_nanoseconds > 0);
    assert_eq!(pids.current, 1);
    assert_eq!(memory.limit, Some(limit.unsigned_abs()));
    assert!(memory.usage >= memory.working_set && memory.working_set >= 24 << 20);
    assert_eq!(
        memory.available.unwrap() + memory.working_set,
        limit.unsigned_abs()
    );
    assert!(memory.page_faults > 0);
    assert!(memory.mapped_file <= memory.cache && memory.inactive_file <= memory.usage);
    let modes = details.cpu_modes.unwrap();
    assert!(modes.user + modes.system > 0);
    assert!(details.memory_peak.unwrap_or(u64::MAX) >= memory.rss);
    assert_eq!(details.oom_kills, Some(0));
    assert_eq!(
        cgroup.pressure().unwrap().cpu.is_some(),
        cgroup.has_pressure()
    );
}

#[test]
fn only_the_devices_of_the_rules_can_be_used() {
    let place = Place::new();
    let rule = |allow, kind, major, minor, access: &str| DeviceRule {
        allow,
        kind,
        major,
        minor,
        access: access.parse().unwrap(),
    };
    let everything = DeviceRule {
        allow: false,
        kind: DeviceKind::All,
        major: None,
        minor: None,
        access: Access::ALL,
    };
    let rules = [
        everything,
        rule(true, DeviceKind::Char, None, None, "m"),
        rule(true, DeviceKind::Char, Some(1), Some(3), "rwm"),
    ];
    let cgroup = place
        .hierarchy
        .create(&place.at("c"), &Resources::default(), &rules)
        .unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let script = format!(
        "(: > /dev/null) && echo null; (: < /dev/zero) && echo zero; \
         mknod {0}/c c 1 5 && echo mknod-c; mknod {0}/b b 7 0 && echo mknod-b; true",
        scratch.path().display()
    );
    let seen = start(&cgroup, &script).wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&seen.stdout),
        "null\nmknod-c\n",
        "{seen:?}"
    );
}
