//! A Docker Engine whose cgroups systemd makes, as kubeadm sets it up, and cgroup v2.

use std::fs;
use std::path::{Path, PathBuf};

use slipway_cri_api::v1::{
    CgroupDriver as Driver, ContainerStatsRequest, LinuxContainerResources, PodSandboxConfig,
    PodSandboxStatsRequest, RuntimeConfigRequest, UpdateContainerResourcesRequest,
};
use slipway_testbed::{
    CgroupDriver, Cni, Daemon, Docker, Image, Node, Registry, Scratch, eventually,
};
use tonic::Code;

use super::own;
use super::systemd::{LONG, MIB, control, is_loaded, limited, property, systemctl};
use crate::container::out_of_memory;
use crate::refused;

async fn node_of_slices() -> (Node, String, String) {
    own();
    let scratch = Scratch::new().unwrap();
    let stem = scratch.slice().trim_end_matches(".slice").to_owned();
    let cni = Cni::new(&scratch).unwrap();
    let registry = Registry::start(&scratch).await.unwrap();
    let docker = Docker::start_with(&scratch, CgroupDriver::Systemd);
    let docker = docker.await.unwrap();
    let daemon = Daemon::builder(&scratch, &cni).docker(&docker);
    let node = Node {
        daemon: daemon.start().await.unwrap(),
        docker: Some(docker),
        registry,
        cni,
        scratch,
    };
    let image = node.provide("busybox:1", &Image::busybox()).await.unwrap();
    (node, image.reference, stem)
}

fn below(node: &Node, name: &str, parent: &str) -> PodSandboxConfig {
    let mut config = node.pod(name);
    parent.clone_into(&mut config.linux.as_mut().unwrap().cgroup_parent);
    config
}

/// Where a process is in cgroup v2.
fn cgroup_of(pid: &str) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.trim().strip_prefix("0::").unwrap();
    Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'))
}

#[tokio::test]
#[ignore = "takes a machine whose init is systemd"]
async fn containers_on_docker_are_scopes_in_the_kubelets_slices() {
    let (mut node, image, stem) = node_of_slices().await;
    let cri = node.cri().clone();
    let answer = cri.runtime().runtime_config(RuntimeConfigRequest {}).await;
    let told = answer.unwrap().into_inner().linux.unwrap();
    assert_eq!(told.cgroup_driver(), Driver::Systemd);
    let path = below(&node, "path", "/kubepods/pod1");
    refused(
        cri.run_pod(&path).await,
        Code::InvalidArgument,
        &["cgroup_parent", "systemd", "cgroupDriver"],
    );

    // As a kubelet sends it: the whole way to a slice that it has made.
    let slice = format!("{stem}-burstable-pod1.slice");
    systemctl(&["start", &slice]);
    let parent = format!("/{stem}.slice/{stem}-burstable.slice/{slice}");
    let config = below(&node, "burstable", &parent);
    let sandbox = cri.run_pod(&config).await.unwrap();
    let main = limited("main", &image, "sleep 1000 & wait");
    let id = cri.launch(&sandbox, &config, &main).await.unwrap();
    for id in [&sandbox, &id] {
        assert_eq!(property(&format!("docker-{id}.scope"), "Slice"), slice);
    }
    let docker = node.docker.as_ref().unwrap();
    let pid = ["inspect", "-f", "{{.State.Pid}}", &id];
    let cgroup = cgroup_of(docker.cli(&pid).unwrap().trim());
    assert!(cgroup.starts_with(format!("/sys/fs/cgroup{parent}")));
    assert_eq!(control(&cgroup, "memory.max"), (64 * MIB).to_string());
    assert_eq!(control(&cgroup, "cpu.max"), "50000 100000");
    let pid = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    let first = pid.lines().next().unwrap();
    let score = fs::read_to_string(format!("/proc/{first}/oom_score_adj"));
    assert_eq!(score.unwrap().trim(), "-997");

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
    let answer = Box::pin(cri.runtime().update_container_resources(update)).await;
    answer.unwrap();
    systemctl(&["daemon-reload"]);
    assert_eq!(control(&cgroup, "memory.max"), (128 * MIB).to_string());

    // Of the container and of all that is in the pod's slice.
    let request = ContainerStatsRequest {
        container_id: id.clone(),
    };
    let answer = Box::pin(cri.runtime().container_stats(request)).await;
    let stats = answer.unwrap().into_inner().stats.unwrap();
    let own = stats.memory.unwrap().usage_bytes.unwrap().value;
    let request = PodSandboxStatsRequest {
        pod_sandbox_id: sandbox.clone(),
    };
    let answer = Box::pin(cri.runtime().pod_sandbox_stats(request)).await;
    let stats = answer.unwrap().into_inner().stats.unwrap().linux.unwrap();
    let whole = stats.memory.unwrap().usage_bytes.unwrap().value;
    assert!(0 < own && own < whole, "{own} of {whole}");

    // A command that starts others is killed with them all.
    let mut request = slipway_cri_api::v1::ExecSyncRequest {
        container_id: id.clone(),
        ..Default::default()
    };
    request.cmd = ["sh", "-c", "setsid sleep 12345 & sleep 12345"]
        .map(str::to_owned)
        .to_vec();
    request.timeout = 2;
    let answer = Box::pin(cri.runtime().exec_sync(request)).await;
    refused(answer, Code::DeadlineExceeded, &["2 s"]);
    eventually("what it has started to be gone", LONG, async || {
        let shown = cri.exec(&id, &["ps"]).await?;
        Ok(!String::from_utf8_lossy(&shown.stdout).contains("12345"))
    })
    .await
    .unwrap();

    let greedy = limited("greedy", &image, "exec tail /dev/zero");
    let greedy = cri.launch(&sandbox, &config, &greedy).await.unwrap();
    let ended = cri.wait_for_exit(&greedy).await.unwrap();
    assert_eq!(ended.exit_code, 137);
    out_of_memory(&cri, &greedy).await;

    cri.remove_pod(&sandbox).await.unwrap();
    let scope = format!("docker-{id}.scope");
    eventually("the scope to go", LONG, async || Ok(!is_loaded(&scope)))
        .await
        .unwrap();
    assert!(is_loaded(&slice), "it is the kubelet's");
    systemctl(&["stop", &slice, &format!("{stem}.slice")]);
    node.finish().await.unwrap();
}
