//! A node whose init is systemd: its own slices and scopes, and what root may do there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use slipway_cri_api::v1::{
    ContainerConfig, LinuxContainerResources, PodSandboxConfig, UpdateContainerResourcesRequest,
};
use slipway_testbed::{Image, Node, eventually, pod};

use super::own;
use crate::container::{output, security};
use crate::node;

pub(super) const MIB: i64 = 1 << 20;

/// Longer than anything takes in an emulated machine.
pub(super) const LONG: Duration = Duration::from_mins(1);

pub(super) fn systemctl(arguments: &[&str]) -> String {
    let output = Command::new("systemctl").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "systemctl {arguments:?}: {output:?}"
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(super) fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "-p", name, unit])
}

/// Whether systemd knows of such a unit; where one has gone, it knows of none.
pub(super) fn is_loaded(unit: &str) -> bool {
    property(unit, "ActiveState") == "active"
}

/// A control file of a cgroup.
pub(super) fn control(cgroup: &Path, name: &str) -> String {
    let text = fs::read_to_string(cgroup.join(name));
    text.unwrap_or_else(|error| panic!("{}/{name}: {error}", cgroup.display()))
        .trim()
        .to_owned()
}

/// A node with systemd's driver, and the stem of the slices that its pods may name.
async fn node_of_slices() -> (Node, String, String) {
    own();
    let mut slice = String::new();
    let node = Node::start_with(|daemon| {
        slice = daemon.scratch().slice();
        daemon.config(format!(
            "[runtime]\ncgroup_driver = \"systemd\"\ncgroup_parent = \"{slice}\"\n"
        ))
    })
    .await
    .unwrap();
    let image = node.provide("busybox:1", &Image::busybox()).await.unwrap();
    let stem = slice.trim_end_matches(".slice").to_owned();
    (node, image.reference, stem)
}

fn in_slice(node: &Node, name: &str, slice: &str) -> PodSandboxConfig {
    let mut config = node.pod(name);
    slice.clone_into(&mut config.linux.as_mut().unwrap().cgroup_parent);
    config
}

pub(super) fn limited(name: &str, image: &str, script: &str) -> ContainerConfig {
    let mut container = pod::shell(name, image, script);
    container.linux.as_mut().unwrap().resources = Some(LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 * MIB,
        oom_score_adj: -997,
        ..LinuxContainerResources::default()
    });
    container
}

#[tokio::test]
#[ignore = "takes a machine whose init is systemd"]
async fn containers_are_scopes_in_the_kubelets_slices_and_systemd_keeps_their_limits() {
    let (mut node, image, stem) = node_of_slices().await;
    let cri = node.cri().clone();
    // A kubelet makes the slices of a pod before it asks for the pod.
    let slice = format!("{stem}-burstable-pod1.slice");
    systemctl(&["start", &slice]);
    systemctl(&["set-property", "--runtime", &slice, "MemoryMax=512M"]);
    let parent = format!("/{stem}.slice/{stem}-burstable.slice/{slice}");
    let config = in_slice(&node, "burstable", &parent);
    let sandbox = cri.run_pod(&config).await.unwrap();
    let main = limited("main", &image, "sleep 1000 & wait");
    let id = cri.launch(&sandbox, &config, &main).await.unwrap();
    let scope = format!("slipway-{id}.scope");
    assert_eq!(property(&scope, "Slice"), slice);
    assert_eq!(property(&scope, "Delegate"), "yes");
    assert_eq!(property(&scope, "CPUQuotaPerSecUSec"), "500ms");
    let group = property(&scope, "ControlGroup");
    assert_eq!(
        group,
        format!("/{stem}.slice/{stem}-burstable.slice/{slice}/{scope}")
    );
    let cgroup = PathBuf::from(format!("/sys/fs/cgroup{group}"));
    let holds = |memory: i64| {
        assert_eq!(property(&scope, "MemoryMax"), (memory * MIB).to_string());
        assert_eq!(control(&cgroup, "memory.max"), (memory * MIB).to_string());
        assert_eq!(control(&cgroup, "cpu.max"), "50000 100000");
        assert_eq!(control(&cgroup, "cpu.weight"), "59");
    };
    holds(64);
    // systemd writes what it knows again; the pod's limit is the kubelet's.
    systemctl(&["daemon-reload"]);
    holds(64);
    let update = UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(LinuxContainerResources {
            memory_limit_in_bytes: 128 * MIB,
            ..LinuxContainerResources::default()
        }),
        ..UpdateContainerResourcesRequest::default()
    };
    node.daemon.kill9();
    node.daemon.restart().await.unwrap();
    Box::pin(cri.runtime().update_container_resources(update))
        .await
        .unwrap();
    systemctl(&["daemon-reload"]);
    holds(128);
    assert_eq!(property(&slice, "MemoryMax"), (512 * MIB).to_string());

    cri.stop(&id, 0).await.unwrap();
    assert_eq!(cri.container_status(&id).await.unwrap().exit_code, 137);
    cri.remove(&id).await.unwrap();
    eventually("the scope to go", LONG, async || Ok(!is_loaded(&scope)))
        .await
        .unwrap();
    cri.remove_pod(&sandbox).await.unwrap();
    assert!(is_loaded(&slice), "it is the kubelet's");
    systemctl(&["stop", &slice]);
    finish(node, &stem).await;
}

#[tokio::test]
#[ignore = "takes a machine whose init is systemd"]
async fn a_pod_without_a_parent_has_a_slice_that_goes_with_it() {
    let (node, image, stem) = node_of_slices().await;
    let cri = node.cri();
    let config = in_slice(&node, "own", "");
    let sandbox = cri.run_pod(&config).await.unwrap();
    let slice = format!("{stem}-{sandbox}.slice");
    assert!(is_loaded(&slice));
    let main = limited("main", &image, "exec tail /dev/zero");
    let id = cri.launch(&sandbox, &config, &main).await.unwrap();
    let ended = cri.wait_for_exit(&id).await.unwrap();
    // A scope goes with its last process, and its counters with it.
    assert_eq!((ended.exit_code, ended.reason.as_str()), (137, "OOMKilled"));
    cri.remove_pod(&sandbox).await.unwrap();
    eventually("the slice to go", LONG, async || Ok(!is_loaded(&slice)))
        .await
        .unwrap();
    assert_eq!(systemctl(&["--failed", "--plain", "--no-legend"]), "");
    finish(node, &stem).await;
}

/// The slices that pods were in are systemd's, who keeps them as long as nobody stops them.
async fn finish(node: Node, stem: &str) {
    node.cri().remove_all().await.unwrap();
    systemctl(&["stop", &format!("{stem}.slice")]);
    node.finish().await.unwrap();
}

/// What a kubelet asks for its own pods: to be killed last, with all that root has.
#[tokio::test]
#[ignore = "takes root with all capabilities, CAP_SYS_RESOURCE too"]
async fn scores_below_the_daemons_and_all_capabilities_are_given_where_there_are_all() {
    own();
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
    let all = (1_u64 << (last.trim().parse::<u32>().unwrap() + 1)) - 1;
    let (node, image) = node().await;
    let script =
        "grep -E '^Cap(Eff|Bnd):' /proc/self/status | tr -d '\\t'; cat /proc/self/oom_score_adj";
    let mut critical = limited("main", &image, script);
    security(&mut critical).privileged = true;
    assert_eq!(
        output(&node, "critical", critical.clone()).await,
        format!("CapEff:{all:016x}\nCapBnd:{all:016x}\n-997")
    );

    let config = node.pod("lives");
    let cri = node.cri();
    let sandbox = cri.run_pod(&config).await.unwrap();
    let lives = limited("main", &image, "sleep 1000 & wait");
    let id = cri.launch(&sandbox, &config, &lives).await.unwrap();
    // A command in it is no more precious and no less.
    let score = async |pid: &str| {
        let path = format!("/proc/{pid}/oom_score_adj");
        let said = cri.exec(&id, &["cat", &path]).await.unwrap();
        String::from_utf8(said.stdout).unwrap().trim().to_owned()
    };
    for (changed, expected) in [(None, "-997"), (Some(-998), "-998"), (Some(1000), "1000")] {
        if let Some(oom_score_adj) = changed {
            let update = UpdateContainerResourcesRequest {
                container_id: id.clone(),
                linux: Some(LinuxContainerResources {
                    oom_score_adj,
                    ..LinuxContainerResources::default()
                }),
                ..UpdateContainerResourcesRequest::default()
            };
            Box::pin(cri.runtime().update_container_resources(update))
                .await
                .unwrap();
        }
        for pid in ["1", "self"] {
            assert_eq!(score(pid).await, expected, "{pid}");
        }
    }
    assert!(
        !node.daemon.log().contains("oom_score_adj"),
        "nothing is clamped"
    );
    node.finish().await.unwrap();
}
