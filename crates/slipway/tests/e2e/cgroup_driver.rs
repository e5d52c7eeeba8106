//! The cgroup drivers: systemd's slices and scopes, and what the other driver says to them.

use slipway_cri_api::v1::{CgroupDriver, LinuxContainerResources, RuntimeConfigRequest};
use slipway_testbed::{FakeSystemd, Image, Node, pod};
use tonic::Code;

use crate::resource::{MIB, asked, control, expected, limits, resources, update, v2, verbose};
use crate::{node, refused};

/// A node whose daemon thinks that it has systemd, and its slice for pods that name none.
async fn node_with_systemd() -> (Node, FakeSystemd, String) {
    let mut fake = None;
    let mut slice = String::new();
    let node = Node::start_with(|daemon| {
        let scratch = daemon.scratch();
        let systemd = FakeSystemd::start(scratch).unwrap();
        slice = scratch.slice();
        let daemon = daemon
            .env("DBUS_SYSTEM_BUS_ADDRESS", systemd.address())
            .config(format!(
                "[runtime]\ncgroup_driver = \"systemd\"\ncgroup_parent = \"{slice}\"\n"
            ));
        fake = Some(systemd);
        daemon
    })
    .await
    .unwrap();
    (node, fake.unwrap(), slice)
}

async fn driver(node: &Node) -> CgroupDriver {
    let mut runtime = node.cri().runtime();
    let answer = runtime.runtime_config(RuntimeConfigRequest {}).await;
    let linux = answer.unwrap().into_inner().linux;
    linux.unwrap().cgroup_driver()
}

#[tokio::test]
async fn with_the_systemd_driver_pods_are_slices_and_containers_scopes() {
    let (mut node, systemd, own) = node_with_systemd().await;
    let image = node.provide("busybox:1", &Image::busybox()).await.unwrap();
    assert_eq!(driver(&node).await, CgroupDriver::Systemd);

    let mut config = node.pod("scoped");
    let stem = own.trim_end_matches(".slice");
    let slice = format!("{stem}-burstable-pod1.slice");
    // As a kubelet sends it: the whole way to a slice.
    let parent = format!("/{stem}.slice/{stem}-burstable.slice/{slice}");
    config.linux.as_mut().unwrap().cgroup_parent = parent.clone();
    let pod = node.cri().run_pod(&config).await.unwrap();
    assert_eq!(verbose(&node, &pod).await["cgroup"], parent.as_str());

    let mut container = pod::shell("main", &image.reference, "sleep 1000 & wait");
    *resources(&mut container) = asked();
    let id = node.cri().launch(&pod, &config, &container).await.unwrap();
    let scope = format!("slipway-{id}.scope");
    let cgroup = format!("{parent}/{scope}");
    assert_eq!(limits(&cgroup), expected(512, 50_000, 64 * MIB, 64 * MIB));
    let properties = systemd.properties(&scope).unwrap();
    assert_eq!(properties["Delegate"], "true");
    assert_eq!(properties["Slice"], format!("{slice:?}"));
    assert!(properties["CPUQuotaPerSecUSec"].contains("500000"));
    // The process that the scope began with is gone: init and its child are all there is.
    let processes = || control(&cgroup, "systemd/cgroup.procs", "cgroup.procs");
    slipway_testbed::eventually(
        "two processes",
        std::time::Duration::from_secs(10),
        async || Ok(processes().lines().count() == 2),
    )
    .await
    .unwrap();

    // A change is told to systemd, which would undo it otherwise; also by a daemon started anew.
    node.daemon.kill9();
    node.daemon.restart().await.unwrap();
    let up = LinuxContainerResources {
        memory_limit_in_bytes: 128 * MIB,
        ..Default::default()
    };
    update(&node, &id, up).await.unwrap();
    assert_eq!(limits(&cgroup), expected(512, 50_000, 128 * MIB, 128 * MIB));
    let memory = if v2() { "MemoryMax" } else { "MemoryLimit" };
    let properties = systemd.properties(&scope).unwrap();
    assert!(
        properties[memory].contains(&(128 * MIB).to_string()),
        "{properties:?}"
    );

    node.cri().stop(&id, 0).await.unwrap();
    node.cri().remove(&id).await.unwrap();
    assert_eq!(systemd.properties(&scope), None);

    // A pod without a parent gets a slice of its own.
    config.metadata.as_mut().unwrap().name = "own".to_owned();
    config.metadata.as_mut().unwrap().uid = "own".to_owned();
    let linux = config.linux.as_mut().unwrap();
    linux.cgroup_parent = String::new();
    let other = node.cri().run_pod(&config).await.unwrap();
    let unit = format!("{stem}-{other}.slice");
    assert!(systemd.properties(&unit).is_some());

    // What cannot be made leaves no unit.
    let mut bad = pod::shell("bad", &image.reference, "true");
    resources(&mut bad).unified = [("memory.nonsense".to_owned(), "1".to_owned())].into();
    let answer = node.cri().create(&other, &config, &bad).await;
    refused(answer, Code::InvalidArgument, &["memory.nonsense"]);
    config.metadata.as_mut().unwrap().uid = "third".to_owned();
    for parent in ["/kubepods/pod1", "/system.slice/kubepods-pod1.slice"] {
        config.linux.as_mut().unwrap().cgroup_parent = parent.to_owned();
        let words = ["cgroup_parent", parent, "cgroup_driver"];
        refused(
            node.cri().run_pod(&config).await,
            Code::InvalidArgument,
            &words,
        );
    }
    // The name alone is enough.
    config.linux.as_mut().unwrap().cgroup_parent = slice.clone();
    let named = node.cri().run_pod(&config).await.unwrap();
    assert_eq!(verbose(&node, &named).await["cgroup"], parent.as_str());

    node.cri().remove_all().await.unwrap();
    // What the pod named is not Slipway's to end.
    assert_eq!(systemd.units(), [slice.as_str()]);
    systemd.remove(&slice).unwrap();
    systemd.remove(&format!("{stem}-burstable.slice")).unwrap();
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_slice_is_refused_by_the_cgroupfs_driver() {
    let (node, _) = node().await;
    let mut config = node.pod("slice");
    for parent in ["kubepods-pod1.slice", "/kubepods.slice/kubepods-pod1.slice"] {
        config.linux.as_mut().unwrap().cgroup_parent = parent.to_owned();
        let words = ["cgroup_parent", parent, "systemd"];
        refused(
            node.cri().run_pod(&config).await,
            Code::InvalidArgument,
            &words,
        );
    }
    assert_eq!(driver(&node).await, CgroupDriver::Cgroupfs);
    node.finish().await.unwrap();
}
