//! What containers and pods may use: limits, changing them in place, refusals by field, and the end
//! of those who use too much.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use slipway_cri_api::v1::{
    ContainerConfig, ContainerState, HugepageLimit, LinuxContainerResources,
    PodSandboxStatusRequest, UpdateContainerResourcesRequest, UpdatePodSandboxResourcesRequest,
    WindowsContainerResources,
};
use slipway_testbed::{Node, eventually, pod};
use tonic::{Code, Status};

use crate::container::out_of_memory;
use crate::{node, not_on_docker, on_docker, refused};

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const MIB: i64 = 1 << 20;

pub(crate) fn v2() -> bool {
    fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap()
}

pub(crate) fn resources(container: &mut ContainerConfig) -> &mut LinuxContainerResources {
    let linux = container.linux.as_mut().unwrap();
    linux.resources.get_or_insert_default()
}

/// The text of a control file of a cgroup; v1's name has its hierarchy in front.
pub(crate) fn control(cgroup: &str, v1: &str, v2_name: &str) -> String {
    let root = PathBuf::from("/sys/fs/cgroup");
    let file = if v2() {
        root.join(cgroup.trim_start_matches('/')).join(v2_name)
    } else {
        let (hierarchy, name) = v1.split_once('/').unwrap();
        root.join(hierarchy)
            .join(cgroup.trim_start_matches('/'))
            .join(name)
    };
    let text = fs::read_to_string(&file);
    text.unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        .trim()
        .to_owned()
}

/// What limits a container, as the kernel says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    weight: String,
    quota: String,
    period: String,
    cpus: String,
    memory: String,
    /// Memory and swap on v1, swap on v2.
    swap: String,
}

pub(crate) fn limits(cgroup: &str) -> Limits {
    let quota = control(cgroup, "cpu/cpu.cfs_quota_us", "cpu.max");
    let (quota, period) = match quota.split_once(' ') {
        Some((quota, period)) => (quota.to_owned(), period.to_owned()),
        None => (quota, control(cgroup, "cpu/cpu.cfs_period_us", "cpu.max")),
    };
    let mut weight = control(cgroup, "cpu/cpu.shares", "cpu.weight");
    if v2() && on_docker() {
        // Before version 1.3.2 runc made less of the same shares.
        weight = match weight.as_str() {
            "20" => "59".to_owned(),
            "77" => "170".to_owned(),
            _ => weight,
        };
    }
    Limits {
        weight,
        quota,
        period,
        cpus: control(cgroup, "cpuset/cpuset.cpus", "cpuset.cpus"),
        memory: control(cgroup, "memory/memory.limit_in_bytes", "memory.max"),
        swap: control(
            cgroup,
            "memory/memory.memsw.limit_in_bytes",
            "memory.swap.max",
        ),
    }
}

pub(crate) fn expected(shares: i64, quota: i64, memory: i64, both: i64) -> Limits {
    let weight = match (v2(), shares) {
        (false, shares) => shares,
        (true, 512) => 59,
        (true, 2000) => 170,
        (true, other) => panic!("{other} shares"),
    };
    Limits {
        weight: weight.to_string(),
        quota: quota.to_string(),
        period: "100000".to_owned(),
        cpus: "0".to_owned(),
        memory: memory.to_string(),
        swap: if v2() { both - memory } else { both }.to_string(),
    }
}

/// Removes a cgroup that has nothing in it, in all hierarchies.
pub(crate) fn remove_cgroup(cgroup: &str) {
    let root = PathBuf::from("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(&root).unwrap().flatten();
    let hierarchies = hierarchies.map(|entry| entry.path()).chain([root.clone()]);
    let hierarchies = hierarchies.filter(|path| path.is_dir());
    for hierarchy in hierarchies {
        let directory = hierarchy.join(cgroup.trim_start_matches('/'));
        match fs::remove_dir(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                panic!("{}: {error}", directory.display())
            }
            _ => {}
        }
    }
}

pub(crate) fn container_cgroup(node: &Node, id: &str) -> String {
    format!("{}/{id}", node.scratch.cgroup_parent())
}

pub(crate) async fn update(
    node: &Node,
    id: &str,
    resources: LinuxContainerResources,
) -> Result<(), Status> {
    let request = UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(resources),
        annotations: [("why".to_owned(), "resize".to_owned())].into(),
        ..Default::default()
    };
    let mut runtime = node.cri().runtime();
    Box::pin(runtime.update_container_resources(request))
        .await
        .map(drop)
}

async fn reported(node: &Node, id: &str) -> LinuxContainerResources {
    let status = node.cri().container_status(id).await.unwrap();
    status.resources.unwrap().linux.unwrap()
}

/// The kernel's own number of a container's init.
async fn score_of_init(node: &Node, id: &str, pid: &str) -> String {
    let path = format!("/proc/{pid}/oom_score_adj");
    let said = node.cri().exec(id, &["cat", &path]).await.unwrap();
    String::from_utf8(said.stdout).unwrap().trim().to_owned()
}

pub(crate) fn asked() -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        cpuset_cpus: "0".to_owned(),
        memory_limit_in_bytes: 64 * MIB,
        memory_swap_limit_in_bytes: 64 * MIB,
        oom_score_adj: 500,
        ..Default::default()
    }
}

#[tokio::test]
async fn limits_are_changed_in_place_and_reported_also_after_a_restart() {
    let (mut node, image) = node().await;
    let config = node.pod("resized");
    let sandbox = node.cri().run_pod(&config).await.unwrap();
    let mut container = pod::shell("main", &image, "sleep 1000 & wait");
    *resources(&mut container) = asked();
    let running = node
        .cri()
        .launch(&sandbox, &config, &container)
        .await
        .unwrap();
    let mut child = String::new();
    eventually("the shell's child", PATIENCE, async || {
        let found = node.cri().exec(&running, &["pidof", "sleep"]).await?;
        child = String::from_utf8(found.stdout)?;
        Ok(found.exit_code == 0)
    })
    .await
    .unwrap();
    let cgroup = container_cgroup(&node, &running);
    assert_eq!(limits(&cgroup), expected(512, 50_000, 64 * MIB, 64 * MIB));
    assert_eq!(reported(&node, &running).await, asked());

    // Up, and zero keeps: the quota, the set of CPUs, and that there is no swap.
    let up = LinuxContainerResources {
        cpu_shares: 2000,
        memory_limit_in_bytes: 128 * MIB,
        oom_score_adj: 700,
        ..Default::default()
    };
    update(&node, &running, up).await.unwrap();
    let after = expected(2000, 50_000, 128 * MIB, 128 * MIB);
    assert_eq!(limits(&cgroup), after);
    let merged = LinuxContainerResources {
        cpu_shares: 2000,
        memory_limit_in_bytes: 128 * MIB,
        memory_swap_limit_in_bytes: 128 * MIB,
        oom_score_adj: 700,
        ..asked()
    };
    assert_eq!(reported(&node, &running).await, merged);
    // What is started from now on, and as it was made by Docker.
    let later = if on_docker() { "1" } else { "self" };
    for pid in ["1", child.trim(), later] {
        assert_eq!(score_of_init(&node, &running, pid).await, "700", "{pid}");
    }

    // Down, with more swap than before, before and after the daemon was killed.
    node.daemon.kill9();
    node.daemon.restart().await.unwrap();
    assert_eq!(reported(&node, &running).await, merged);
    assert_eq!(limits(&cgroup), after);
    let down = LinuxContainerResources {
        cpu_quota: 20_000,
        memory_limit_in_bytes: 32 * MIB,
        memory_swap_limit_in_bytes: 48 * MIB,
        ..Default::default()
    };
    update(&node, &running, down).await.unwrap();
    assert_eq!(limits(&cgroup), expected(2000, 20_000, 32 * MIB, 48 * MIB));

    // A container that was not started yet runs with what it was changed to.
    let mut container = pod::shell("later", &image, "cat /proc/self/oom_score_adj; sleep 1000");
    *resources(&mut container) = asked();
    let created = node
        .cri()
        .create(&sandbox, &config, &container)
        .await
        .unwrap();
    update(
        &node,
        &created,
        LinuxContainerResources {
            cpu_quota: -1,
            oom_score_adj: 900,
            ..Default::default()
        },
    )
    .await
    .unwrap();
    node.cri().start(&created).await.unwrap();
    let quota = limits(&container_cgroup(&node, &created)).quota;
    assert_eq!(quota, if v2() { "max" } else { "-1" });
    assert_eq!(score_of_init(&node, &created, "1").await, "900");
    let status = node.cri().container_status(&created).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    node.finish().await.unwrap();
}

/// The sizes of huge pages that the node has, with the limit that a kubelet gives to who asks for
/// none.
fn no_huge_pages() -> Vec<HugepageLimit> {
    let directories = fs::read_dir("/sys/kernel/mm/hugepages").unwrap().flatten();
    let mut limits: Vec<_> = directories
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
            let megabytes = size.parse::<u64>().ok()? >> 10;
            let page_size = match megabytes >> 10 {
                0 if megabytes == 0 => return None,
                0 => format!("{megabytes}MB"),
                gigabytes => format!("{gigabytes}GB"),
            };
            Some(HugepageLimit {
                page_size,
                limit: 0,
            })
        })
        .collect();
    limits.sort_by(|one, other| one.page_size.cmp(&other.page_size));
    limits
}

#[tokio::test]
async fn what_a_kubelet_says_of_every_container_is_taken_set_and_kept() {
    let (mut node, image) = node().await;
    let config = node.pod("usual");
    let sandbox = node.cri().run_pod(&config).await.unwrap();
    let mut container = pod::sleeper("main", &image);
    let usual = resources(&mut container);
    usual.hugepage_limits = no_huge_pages();
    if v2() {
        usual.unified = [("memory.oom.group".to_owned(), "1".to_owned())].into();
    }
    let usual = usual.clone();
    let id = node
        .cri()
        .launch(&sandbox, &config, &container)
        .await
        .unwrap();
    let cgroup = container_cgroup(&node, &id);
    let in_force = |group: &str, huge: &str| {
        if v2() {
            assert_eq!(control(&cgroup, "", "memory.oom.group"), group);
            for limit in &usual.hugepage_limits {
                let file = format!("hugetlb.{}.max", limit.page_size);
                assert_eq!(control(&cgroup, "", &file), huge);
            }
        }
    };
    let kept = |said: LinuxContainerResources| (said.hugepage_limits, said.unified);
    in_force("1", "0");
    assert_eq!(kept(reported(&node, &id).await), kept(usual.clone()));

    // A limit where there was none.
    let limit = LinuxContainerResources {
        memory_limit_in_bytes: 64 * MIB,
        ..Default::default()
    };
    update(&node, &id, limit).await.unwrap();
    assert_eq!(limits(&cgroup).memory, (64 * MIB).to_string());
    let said = reported(&node, &id).await;
    assert_eq!(said.memory_limit_in_bytes, 64 * MIB);
    if on_docker() {
        // Docker takes none away again.
        let none = LinuxContainerResources {
            memory_limit_in_bytes: -1,
            ..Default::default()
        };
        let words = ["memory_limit_in_bytes", "take it away"];
        refused(
            update(&node, &id, none).await,
            Code::FailedPrecondition,
            &words,
        );
    }

    // Changed, and found again by the next daemon. A size has two megabytes or more.
    let mut changed = usual.clone();
    if v2() {
        for limit in &mut changed.hugepage_limits {
            limit.limit = 4 << 30;
        }
        changed
            .unified
            .insert("memory.oom.group".to_owned(), "0".to_owned());
        update(&node, &id, changed.clone()).await.unwrap();
        in_force("0", &(4u64 << 30).to_string());
    } else {
        update(&node, &id, changed.clone()).await.unwrap();
    }
    for _ in 0..2 {
        assert_eq!(kept(reported(&node, &id).await), kept(changed.clone()));
        node.daemon.kill9();
        node.daemon.restart().await.unwrap();
    }
    node.finish().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_changed_is_refused_and_leaves_all_as_it_was() {
    let (node, image) = node().await;
    let config = node.pod("kept");
    let sandbox = node.cri().run_pod(&config).await.unwrap();
    let eater = "head -c 40000000 /dev/zero > /dev/shm/x; echo ready; sleep 1000 & wait";
    let mut container = pod::shell("main", &image, eater);
    *resources(&mut container) = LinuxContainerResources {
        memory_limit_in_bytes: 256 * MIB,
        memory_swap_limit_in_bytes: 256 * MIB,
        ..asked()
    };
    let id = node
        .cri()
        .launch(&sandbox, &config, &container)
        .await
        .unwrap();
    let log = pod::log_path(&config, &container);
    slipway_testbed::eventually("memory", std::time::Duration::from_secs(20), async || {
        Ok(fs::read_to_string(&log).is_ok_and(|log| log.contains("ready")))
    })
    .await
    .unwrap();
    let cgroup = container_cgroup(&node, &id);
    let (before, said) = (limits(&cgroup), reported(&node, &id).await);

    let none = LinuxContainerResources::default;
    let precondition = Code::FailedPrecondition;
    for (asked, code, field) in [
        (
            // Refused by the kernel or for it, after others were set.
            LinuxContainerResources {
                cpu_shares: 2000,
                cpu_quota: 70_000,
                oom_score_adj: 800,
                memory_limit_in_bytes: 8 * MIB,
                ..none()
            },
            precondition,
            "memory_limit_in_bytes",
        ),
        (
            LinuxContainerResources {
                cpu_shares: 2000,
                cpuset_cpus: "4000".to_owned(),
                ..none()
            },
            precondition,
            "cpuset_cpus",
        ),
        (
            LinuxContainerResources {
                cpu_shares: 2000,
                memory_swap_limit_in_bytes: MIB,
                ..none()
            },
            Code::InvalidArgument,
            "memory_swap_limit_in_bytes",
        ),
        (
            LinuxContainerResources {
                oom_score_adj: -1001,
                ..none()
            },
            Code::InvalidArgument,
            "oom_score_adj",
        ),
    ] {
        let field = format!("UpdateContainerResourcesRequest.linux.{field}");
        refused(update(&node, &id, asked).await, code, &[&field]);
        assert_eq!(limits(&cgroup), before, "{field}");
        assert_eq!(reported(&node, &id).await, said, "{field}");
        assert_eq!(score_of_init(&node, &id, "1").await, "500", "{field}");
    }
    let windows = UpdateContainerResourcesRequest {
        container_id: id.clone(),
        windows: Some(WindowsContainerResources::default()),
        ..Default::default()
    };
    let answer = node
        .cri()
        .runtime()
        .update_container_resources(windows)
        .await;
    refused(answer, Code::InvalidArgument, &["windows"]);

    node.cri().stop(&id, 0).await.unwrap();
    refused(update(&node, &id, asked()).await, precondition, &["exited"]);
    refused(
        update(&node, "nobody", asked()).await,
        Code::NotFound,
        &["nobody"],
    );
    node.finish().await.unwrap();
}

#[tokio::test]
async fn resources_that_cannot_be_had_are_refused_by_field() {
    let (node, image) = node().await;
    let config = node.pod("refused");
    let sandbox = node.cri().run_pod(&config).await.unwrap();
    let none = LinuxContainerResources::default;
    let page = |size: &str| HugepageLimit {
        page_size: size.to_owned(),
        limit: 2 << 20,
    };
    let unified = |key: &str| LinuxContainerResources {
        unified: [(key.to_owned(), "1".to_owned())].into(),
        ..none()
    };
    let invalid = Code::InvalidArgument;
    for (asked, code, words) in [
        (
            LinuxContainerResources {
                cpu_shares: 1,
                ..none()
            },
            invalid,
            ["cpu_shares", "262144"],
        ),
        (
            LinuxContainerResources {
                cpu_shares: -5,
                ..none()
            },
            invalid,
            ["cpu_shares", "-5"],
        ),
        (
            LinuxContainerResources {
                cpu_period: 10,
                ..none()
            },
            invalid,
            ["cpu_period", "1000"],
        ),
        (
            LinuxContainerResources {
                cpu_quota: 10,
                ..none()
            },
            invalid,
            ["cpu_quota", "1000"],
        ),
        (
            LinuxContainerResources {
                cpuset_cpus: "1-0".to_owned(),
                ..none()
            },
            invalid,
            ["cpuset_cpus", "1-0"],
        ),
        (
            LinuxContainerResources {
                cpuset_mems: "4000".to_owned(),
                ..none()
            },
            Code::FailedPrecondition,
            ["cpuset_mems", "4000"],
        ),
        (
            LinuxContainerResources {
                memory_limit_in_bytes: 2 * MIB,
                memory_swap_limit_in_bytes: MIB,
                ..none()
            },
            invalid,
            ["memory_swap_limit_in_bytes", "memory_limit_in_bytes"],
        ),
        (
            LinuxContainerResources {
                oom_score_adj: 1001,
                ..none()
            },
            invalid,
            ["oom_score_adj", "1001"],
        ),
        (
            LinuxContainerResources {
                hugepage_limits: vec![page("3MB")],
                ..none()
            },
            invalid,
            ["hugepage_limits", "3MB"],
        ),
        (
            LinuxContainerResources {
                hugepage_limits: vec![page("2MB"), page("2MB")],
                ..none()
            },
            // Where there is no controller, the first is refused for that.
            if v2() {
                invalid
            } else {
                Code::FailedPrecondition
            },
            ["hugepage_limits", "2MB"],
        ),
        (
            unified("../memory.max"),
            invalid,
            ["unified", "../memory.max"],
        ),
        (unified("cgroup.kill"), invalid, ["unified", "cgroup.kill"]),
        (
            unified("memory.nonsense"),
            invalid,
            ["unified", "memory.nonsense"],
        ),
    ] {
        let mut container = pod::shell("main", &image, "true");
        *resources(&mut container) = asked.clone();
        let answer = node.cri().create(&sandbox, &config, &container).await;
        refused(answer, code, &words);

        let mut other = node.pod("other");
        other.linux.as_mut().unwrap().overhead = Some(asked);
        // A control file is looked for where one is written.
        if words != ["unified", "memory.nonsense"] {
            refused(node.cri().run_pod(&other).await, code, &words);
        }
    }
    assert_eq!(node.cri().containers().await.unwrap(), []);
    assert_eq!(node.cri().pods().await.unwrap().len(), 1);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_pods_resources_and_overhead_are_recorded_and_limit_no_container() {
    let (mut node, _) = node().await;
    let mut config = node.pod("own");
    let linux = config.linux.as_mut().unwrap();
    // No parent: the cgroup is Slipway's own.
    linux.cgroup_parent = String::new();
    linux.overhead = Some(LinuxContainerResources {
        memory_limit_in_bytes: 8 * MIB,
        ..Default::default()
    });
    linux.resources = Some(LinuxContainerResources {
        cpu_shares: 512,
        memory_limit_in_bytes: 64 * MIB,
        ..Default::default()
    });
    let own = node.cri().run_pod(&config).await.unwrap();
    let memory = |cgroup: &str| control(cgroup, "memory/memory.limit_in_bytes", "memory.max");
    // The sum of those containers that have limits, and so no limit of the others.
    let unlimited = async |node: &Node| {
        if not_on_docker("a pod without a parent has no cgroup of its own") {
            return;
        }
        let info = verbose(node, &own).await;
        let unlimited = if v2() { "max" } else { "9223372036854771712" };
        assert_eq!(memory(info["cgroup"].as_str().unwrap()), unlimited);
    };
    unlimited(&node).await;

    let request = |id: &str, memory: i64| UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.to_owned(),
        overhead: None,
        resources: Some(LinuxContainerResources {
            cpu_shares: 2000,
            memory_limit_in_bytes: memory,
            ..Default::default()
        }),
    };
    let mut runtime = node.cri().runtime();
    Box::pin(runtime.update_pod_sandbox_resources(request(&own, 128 * MIB)))
        .await
        .unwrap();
    unlimited(&node).await;

    // A parent that was named is the kubelet's to limit; what it says is recorded.
    let named = node.cri().run_pod(&node.pod("named")).await.unwrap();
    let parent = node.scratch.cgroup_parent();
    let before = memory(&parent);
    Box::pin(runtime.update_pod_sandbox_resources(request(&named, 32 * MIB)))
        .await
        .unwrap();
    assert_eq!(memory(&parent), before);

    node.daemon.kill9();
    node.daemon.restart().await.unwrap();
    for (id, limit) in [(&own, 128 * MIB), (&named, 32 * MIB)] {
        let info = verbose(&node, id).await;
        assert_eq!(info["resources"]["memoryLimitInBytes"], limit.to_string());
    }
    let info = verbose(&node, &own).await;
    assert_eq!(
        info["overhead"]["memoryLimitInBytes"],
        (8 * MIB).to_string()
    );

    let mut runtime = node.cri().runtime();
    let mut bad = request(&own, MIB);
    bad.resources.as_mut().unwrap().cpu_period = 1;
    let answer = runtime.update_pod_sandbox_resources(bad).await;
    refused(answer, Code::InvalidArgument, &["resources.cpu_period"]);
    node.cri().stop_pod(&own).await.unwrap();
    let answer = runtime
        .update_pod_sandbox_resources(request(&own, MIB))
        .await;
    refused(answer, Code::FailedPrecondition, &["not ready"]);
    node.finish().await.unwrap();
}

pub(crate) async fn verbose(node: &Node, pod: &str) -> serde_json::Value {
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: pod.to_owned(),
        verbose: true,
    };
    let mut runtime = node.cri().runtime();
    let answer = Box::pin(runtime.pod_sandbox_status(request)).await.unwrap();
    serde_json::from_str(&answer.into_inner().info["info"]).unwrap()
}

#[tokio::test]
async fn whoever_is_killed_for_want_of_memory_is_told_from_whoever_is_killed() {
    let (node, image) = node().await;
    let config = node.pod("oom");
    let sandbox = node.cri().run_pod(&config).await.unwrap();
    let ends = async |pod: &str, config, container: &ContainerConfig| {
        let id = node.cri().launch(pod, config, container).await.unwrap();
        let status = node.cri().wait_for_exit(&id).await.unwrap();
        out_of_memory(node.cri(), &id).await;
        status.exit_code
    };
    let limited = |name: &str, script: &str| {
        let mut container = pod::shell(name, &image, script);
        resources(&mut container).memory_limit_in_bytes = 16 * MIB;
        container
    };
    // A child is killed; the init lives on to say what it thinks of that.
    let child = limited("child", "sh -c 'tail /dev/zero'; exit 3");
    assert_eq!(ends(&sandbox, &config, &child).await, 3);

    let killed = limited("killed", "sleep 1000 & wait");
    let id = node.cri().launch(&sandbox, &config, &killed).await.unwrap();
    node.cri().stop(&id, 0).await.unwrap();
    let status = node.cri().container_status(&id).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));

    // The pod's limit, not the container's own.
    let mut config = node.pod("small");
    let parent = format!("{}/small", node.scratch.cgroup_parent());
    config
        .linux
        .as_mut()
        .unwrap()
        .cgroup_parent
        .clone_from(&parent);
    let small = node.cri().run_pod(&config).await.unwrap();
    let file = if v2() {
        format!("/sys/fs/cgroup{parent}/memory.max")
    } else {
        format!("/sys/fs/cgroup/memory{parent}/memory.limit_in_bytes")
    };
    fs::write(file, (16 * MIB).to_string()).unwrap();
    let unlimited = pod::shell("main", &image, "exec tail /dev/zero");
    assert_eq!(ends(&small, &config, &unlimited).await, 137);

    // With v2 a kubelet asks for the whole container to go.
    let mut whole = limited("whole", "sh -c 'tail /dev/zero'; exit 3");
    resources(&mut whole).unified = [("memory.oom.group".to_owned(), "1".to_owned())].into();
    if v2() {
        let config = node.pod("whole");
        let pod = node.cri().run_pod(&config).await.unwrap();
        assert_eq!(ends(&pod, &config, &whole).await, 137);
    } else {
        let answer = node.cri().create(&small, &config, &whole).await;
        refused(
            answer,
            Code::InvalidArgument,
            &["unified", "memory.oom.group", "v2"],
        );
    }
    if on_docker() {
        // Docker leaves a parent that it has made: a kubelet's own are its own to remove.
        node.cri().remove_pod(&small).await.unwrap();
        remove_cgroup(&parent);
    }
    node.finish().await.unwrap();
}
