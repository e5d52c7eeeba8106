//! Namespaces: processes, network, IPC and host names shared with pod, node or another container,
//! and pods whose users are not the node's.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use slipway_cri_api::v1::{
    Capability, ContainerConfig, ContainerState, ContainerStatusRequest, IdMapping, Int64Value,
    LinuxContainerSecurityContext, Mount, MountPropagation, NamespaceMode, NamespaceOption,
    PodSandboxConfig, UserNamespace,
};
use slipway_testbed::{Cri, Image, Layer, Node, eventually, pod, read_log};
use tonic::Code;

use crate::{node, not_on_docker, on_docker, refused};

/// Root of the pods with a user namespace, as the node numbers it.
const UID: u32 = 1_000_000;
const GID: u32 = 2_000_000;

fn range(container_id: u32, host_id: u32, length: u32) -> IdMapping {
    IdMapping {
        host_id,
        container_id,
        length,
    }
}

fn users() -> UserNamespace {
    UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: vec![range(0, UID, 65536)],
        gids: vec![range(0, GID, 65536)],
    }
}

fn of_pod(config: &mut PodSandboxConfig) -> &mut NamespaceOption {
    let linux = config.linux.as_mut().unwrap();
    let security = linux.security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap()
}

fn security(container: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    let linux = container.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap()
}

fn of_container(container: &mut ContainerConfig) -> &mut NamespaceOption {
    security(container).namespace_options.as_mut().unwrap()
}

/// A pod with users of its own.
fn user_pod(node: &Node, name: &str) -> PodSandboxConfig {
    let mut config = node.pod(name);
    of_pod(&mut config).userns_options = Some(users());
    config
}

/// A volume; mapped as the pod's users are.
fn mapped(source: &Path, target: &str) -> Mount {
    Mount {
        uid_mappings: users().uids,
        gid_mappings: users().gids,
        ..plain(source, target)
    }
}

fn plain(source: &Path, target: &str) -> Mount {
    Mount {
        host_path: source.display().to_string(),
        container_path: target.to_owned(),
        ..Default::default()
    }
}

async fn output(cri: &Cri, container: &str, script: &str) -> String {
    let answer = cri.exec(container, &["sh", "-c", script]).await.unwrap();
    let stderr = String::from_utf8_lossy(&answer.stderr);
    assert_eq!(answer.exit_code, 0, "{script}: {stderr}");
    String::from_utf8(answer.stdout).unwrap()
}

async fn info(cri: &Cri, container: &str) -> serde_json::Value {
    let request = ContainerStatusRequest {
        container_id: container.to_owned(),
        verbose: true,
    };
    let answer = Box::pin(cri.runtime().container_status(request))
        .await
        .unwrap();
    serde_json::from_str(&answer.into_inner().info["info"]).unwrap()
}

/// A line of `/proc/PID/status` on the node.
fn status(pid: &serde_json::Value, field: &str) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let words = line.unwrap().trim_start_matches(':').split_whitespace();
    words.map(str::to_owned).collect()
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let metadata = path.as_ref().symlink_metadata().unwrap();
    (metadata.uid(), metadata.gid())
}

#[tokio::test]
async fn users_of_a_pod_are_others_on_the_node_and_files_keep_their_owners() {
    if not_on_docker("Docker has no user namespaces of a pod's own") {
        return;
    }
    let (node, image) = node().await;
    let cri = node.cri();
    let config = user_pod(&node, "users");
    let sandbox = cri.run_pod(&config).await.unwrap();
    let options = cri.pod_status(&sandbox).await.unwrap().linux.unwrap();
    let options = options.namespaces.unwrap().options.unwrap();
    assert_eq!(options.userns_options, Some(users()));

    let volume = node.scratch.join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("roots"), "of root\n").unwrap();
    std::fs::set_permissions(volume.join("roots"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(volume.join("users"), "").unwrap();
    std::os::unix::fs::chown(volume.join("users"), Some(1000), Some(2000)).unwrap();
    let other = node.scratch.join("other");
    std::fs::create_dir(&other).unwrap();
    let mut container = pod::sleeper("main", &image);
    container.mounts = vec![mapped(&volume, "/mapped"), plain(&other, "/plain")];
    let id = cri.launch(&sandbox, &config, &container).await.unwrap();

    let pid = info(cri, &id).await["pid"].clone();
    let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    assert_eq!(
        map.split_whitespace().collect::<Vec<_>>(),
        ["0", "1000000", "65536"]
    );
    assert_eq!(status(&pid, "Uid"), ["1000000"; 4]);
    assert_eq!(status(&pid, "Gid"), ["2000000"; 4]);
    assert_eq!(output(cri, &id, "id -u; id -g").await, "0\n0\n");

    let stat = "stat -c '%u:%g' /bin/busybox /mapped/roots /mapped/users /plain";
    assert_eq!(
        output(cri, &id, stat).await,
        "0:0\n0:0\n1000:2000\n65534:65534\n"
    );
    let write = "cat /mapped/roots; echo new > /mapped/new; chown 7:8 /mapped/users; \
                 touch /plain/x 2>/dev/null || echo refused; echo made > /made; chown 9:9 /made";
    assert_eq!(output(cri, &id, write).await, "of root\nrefused\n");
    assert_eq!(owner(volume.join("new")), (0, 0));
    assert_eq!(owner(volume.join("users")), (7, 8));
    let layer = info(cri, &id).await["writableLayer"].clone();
    let layer = PathBuf::from(layer.as_str().unwrap());
    assert_eq!(owner(layer.join("made")), (UID + 9, GID + 9));
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_pod_with_users_of_its_own_has_all_that_other_pods_have() {
    if not_on_docker("Docker has no user namespaces of a pod's own") {
        return;
    }
    let (node, image) = node().await;
    let cri = node.cri();
    let mut config = user_pod(&node, "whole");
    config.linux.as_mut().unwrap().sysctls = [
        ("net.ipv4.ip_unprivileged_port_start", "80"),
        ("net.ipv4.ping_group_range", "0 5"),
        ("kernel.shmmax", "12345"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let sandbox = cri.run_pod(&config).await.unwrap();
    let script = "echo out > /dev/stdout; echo err > /dev/stderr; exec sleep 2147483647";
    let mut container = pod::shell("main", &image, script);
    security(&mut container).capabilities = Some(Capability {
        add_capabilities: vec!["NET_ADMIN".to_owned()],
        ..Default::default()
    });
    let id = cri.launch(&sandbox, &config, &container).await.unwrap();

    assert_eq!(
        output(cri, &id, "hostname; cat /etc/hostname").await,
        "whole\nwhole\n"
    );
    let files = "stat -c '%u:%g %a' /etc/hostname /etc/resolv.conf /dev/shm /dev /dev/pts";
    let owned = output(cri, &id, files).await;
    assert_eq!(
        owned.lines().collect::<Vec<_>>(),
        ["0:0 644", "0:0 644", "0:0 1777", "0:0 755", "0:0 755"]
    );
    output(cri, &id, "echo nameserver 10.0.0.1 > /etc/resolv.conf").await;
    let types = "awk '{print $3}' /proc/mounts | sort -u | tr '\\n' ' '";
    let types = output(cri, &id, types).await;
    for kind in [
        "devpts", "mqueue", "overlay", "proc", "sysfs", "tmpfs", "cgroup",
    ] {
        assert!(
            types.split(' ').any(|it| it.starts_with(kind)),
            "{kind}: {types}"
        );
    }
    let devices = "echo x > /dev/null; head -c 3 /dev/zero | wc -c; echo x > /dev/full || echo full; \
                   mknod /tmp/x c 1 3 || echo no nodes";
    assert_eq!(
        output(cri, &id, &format!("mkdir -p /tmp; ({devices}) 2>/dev/null")).await,
        "3\nfull\nno nodes\n"
    );
    let sysctls = "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start \
                   net/ipv4/ping_group_range kernel/shmmax";
    assert_eq!(output(cri, &id, sysctls).await, "80\n0\t5\n12345\n");

    // Rights over the pod's own network, and over nothing of the node.
    let link = "ip addr add 10.99.0.1/24 dev lo && ip link set eth0 mtu 1234 && \
                cat /sys/class/net/eth0/mtu && ls /sys/class/net | tr '\\n' ' '";
    assert_eq!(output(cri, &id, link).await, "1234\neth0 lo ");
    let gateway = "ip route | grep -c ^default";
    assert_eq!(output(cri, &id, gateway).await, "1\n");

    let log = pod::log_path(&config, &container);
    eventually("the log", Duration::from_secs(20), async || {
        let lines = read_log(&log);
        Ok(["out", "err"]
            .iter()
            .all(|text| lines.iter().any(|line| line.text == *text)))
    })
    .await
    .unwrap();
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_user_of_the_image_is_mapped_too_and_one_beyond_the_map_is_refused() {
    if not_on_docker("Docker has no user namespaces of a pod's own") {
        return;
    }
    let node = Node::start().await.unwrap();
    let cri = node.cri();
    let layer = Layer::new()
        .owned_by(1000, 1000)
        .file("home/user/file", 0o600, "mine\n");
    let image = Image::busybox().layer(layer).user("1000:1000");
    let image = node.provide("user:1", &image).await.unwrap().reference;
    let config = user_pod(&node, "owner");
    let sandbox = cri.run_pod(&config).await.unwrap();
    let volume = node.scratch.join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::set_permissions(&volume, PermissionsExt::from_mode(0o777)).unwrap();
    let mut container = pod::sleeper("main", &image);
    container.mounts = vec![mapped(&volume, "/volume")];
    security(&mut container).supplemental_groups = vec![3000];
    let id = cri.launch(&sandbox, &config, &container).await.unwrap();
    let pid = info(cri, &id).await["pid"].clone();
    assert_eq!(status(&pid, "Uid"), ["1001000"; 4]);
    assert_eq!(status(&pid, "Groups"), ["2001000", "2002000", "2003000"]);
    let script = "cat /home/user/file; echo x > /volume/x; id -u";
    assert_eq!(output(cri, &id, script).await, "mine\n1000\n");
    assert_eq!(owner(volume.join("x")), (1000, 1000));

    let mut beyond = pod::sleeper("beyond", &image);
    security(&mut beyond).run_as_user = Some(Int64Value { value: 70_000 });
    let answer = cri.create(&sandbox, &config, &beyond).await;
    refused(answer, Code::InvalidArgument, &["70000", "run_as_user"]);
    let mut beyond = pod::sleeper("beyond", &image);
    security(&mut beyond).supplemental_groups = vec![70_000];
    let answer = cri.create(&sandbox, &config, &beyond).await;
    refused(
        answer,
        Code::InvalidArgument,
        &["70000", "supplemental_groups"],
    );
    node.finish().await.unwrap();
}

#[tokio::test]
async fn volumes_of_any_file_system_are_mapped_or_refused_by_name() {
    if not_on_docker("Docker has no user namespaces of a pod's own") {
        return;
    }
    let (node, image) = node().await;
    let cri = node.cri();
    let config = user_pod(&node, "volumes");
    let sandbox = cri.run_pod(&config).await.unwrap();
    let memory = Path::new("/dev/shm").join(format!("slipway-volume-{}", node.scratch.number()));
    let _ = std::fs::remove_dir_all(&memory);
    std::fs::create_dir(&memory).unwrap();
    std::fs::write(memory.join("secret"), "token\n").unwrap();
    std::fs::set_permissions(memory.join("secret"), PermissionsExt::from_mode(0o400)).unwrap();
    let file = node.scratch.join("hosts");
    std::fs::write(&file, "127.0.0.1 localhost\n").unwrap();
    let mut container = pod::sleeper("main", &image);
    container.mounts = vec![mapped(&memory, "/secret"), mapped(&file, "/etc/hosts")];
    let id = cri.launch(&sandbox, &config, &container).await.unwrap();
    let script = "cat /secret/secret; stat -c %u /secret/secret /etc/hosts; \
                  echo '::1 localhost' >> /etc/hosts";
    assert_eq!(output(cri, &id, script).await, "token\n0\n0\n");
    assert_eq!(owner(&file), (0, 0));
    std::fs::remove_dir_all(&memory).unwrap();

    let mut container = pod::sleeper("kernels", &image);
    container.mounts = vec![mapped(Path::new("/sys/kernel"), "/volume")];
    let answer = cri.create(&sandbox, &config, &container).await;
    let words = ["/volume", "/sys/kernel", "id-mapped"];
    refused(answer, Code::FailedPrecondition, &words);
    node.finish().await.unwrap();
}

type Change = fn(&mut NamespaceOption);
type Spoil = fn(&mut ContainerConfig);

#[tokio::test]
async fn user_namespaces_that_cannot_be_had_are_refused_by_name_and_leave_nothing() {
    let (node, image) = node().await;
    let cri = node.cri();
    if not_on_docker("none can be had") {
        for mode in [NamespaceMode::Pod as i32, 3, 7] {
            let mut config = user_pod(&node, "none");
            of_pod(&mut config).userns_options.as_mut().unwrap().mode = mode;
            let answer = cri.run_pod(&config).await;
            refused(answer, Code::FailedPrecondition, &["userns_options"]);
        }
        return node.finish().await.unwrap();
    }
    let pods: [(Change, &str); 8] = [
        (
            |it| it.network = NamespaceMode::Node.into(),
            "network is NODE",
        ),
        (|it| it.pid = NamespaceMode::Node.into(), "pid is NODE"),
        (|it| it.ipc = NamespaceMode::Node.into(), "ipc is NODE"),
        (
            |it| it.userns_options.as_mut().unwrap().mode = 3,
            "userns_options.mode",
        ),
        (
            |it| it.userns_options.as_mut().unwrap().mode = 7,
            "unknown mode 7",
        ),
        (
            |it| it.userns_options.as_mut().unwrap().uids.clear(),
            "uids",
        ),
        (
            |it| it.userns_options.as_mut().unwrap().gids[0].length = 0,
            "gids",
        ),
        (|it| it.pid = NamespaceMode::Target.into(), "TARGET"),
    ];
    for (change, word) in pods {
        let mut config = user_pod(&node, "bad");
        change(of_pod(&mut config));
        let answer = cri.run_pod(&config).await;
        refused(answer, Code::InvalidArgument, &["namespace_options", word]);
    }
    let mut config = user_pod(&node, "bad");
    let linux = config.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().privileged = true;
    refused(
        cri.run_pod(&config).await,
        Code::InvalidArgument,
        &["privileged", "userns_options"],
    );
    assert!(cri.pods().await.unwrap().is_empty());

    let config = user_pod(&node, "good");
    let sandbox = cri.run_pod(&config).await.unwrap();
    let volume = node.scratch.join("volume");
    let containers: [(Spoil, &str); 6] = [
        (|it| security(it).privileged = true, "privileged"),
        (
            |it| of_container(it).pid = NamespaceMode::Node.into(),
            "pid is NODE",
        ),
        (
            |it| of_container(it).network = NamespaceMode::Node.into(),
            "network is NODE",
        ),
        (|it| it.mounts[0].gid_mappings.clear(), "/volume"),
        (|it| it.mounts[0].uid_mappings[0].host_id += 1, "/volume"),
        (
            |it| it.mounts[0].propagation = MountPropagation::PropagationBidirectional.into(),
            "bidirectional",
        ),
    ];
    for (spoil, word) in containers {
        let mut container = pod::sleeper("bad", &image);
        container.mounts = vec![mapped(&volume, "/volume")];
        spoil(&mut container);
        let answer = cri.create(&sandbox, &config, &container).await;
        refused(answer, Code::InvalidArgument, &[word]);
    }
    let mut container = pod::sleeper("bad", &image);
    of_container(&mut container).userns_options = Some(UserNamespace {
        uids: vec![range(0, 5, 65536)],
        ..users()
    });
    let answer = cri.create(&sandbox, &config, &container).await;
    refused(answer, Code::InvalidArgument, &["userns_options"]);
    let ordinary = node.pod("ordinary");
    let other = cri.run_pod(&ordinary).await.unwrap();
    let mut container = pod::sleeper("bad", &image);
    container.mounts = vec![mapped(&volume, "/volume")];
    let answer = cri.create(&other, &ordinary, &container).await;
    refused(answer, Code::InvalidArgument, &["uidMappings", "/volume"]);
    assert!(cri.containers().await.unwrap().is_empty());
    assert!(
        !volume.exists(),
        "what is refused is refused before anything is made"
    );
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_pod_with_users_of_its_own_survives_the_daemon_and_shares_processes() {
    if not_on_docker("Docker has no user namespaces of a pod's own") {
        return;
    }
    let (mut node, image) = node().await;
    let mut config = user_pod(&node, "shared");
    of_pod(&mut config).pid = NamespaceMode::Pod.into();
    let sandbox = node.cri().run_pod(&config).await.unwrap();
    let shared = |name: &str| {
        let mut container = pod::sleeper(name, &image);
        of_container(&mut container).pid = NamespaceMode::Pod.into();
        container
    };
    let one = node
        .cri()
        .launch(&sandbox, &config, &shared("one"))
        .await
        .unwrap();
    node.daemon.kill9();
    node.daemon.restart().await.unwrap();
    let cri = node.cri();
    let mut two = shared("two");
    two.command = ["sleep", "2147483646"].map(str::to_owned).to_vec();
    let two = cri.launch(&sandbox, &config, &two).await.unwrap();
    for id in [&one, &two] {
        // Each once: a shell's child still is called as the shell until it has executed its command.
        let seen = "ps -o args | sort -u | grep -c -e '[t]rap' -e '^sleep 2147483646$'; id -u";
        assert_eq!(output(cri, id, seen).await, "2\n0\n");
        assert_eq!(output(cri, id, "cat /proc/1/comm").await, "slipway-init\n");
    }
    // The namespace's root may signal what belongs to it.
    output(
        cri,
        &two,
        "kill -TERM $(ps -o pid,args | grep -m1 '[t]rap' | { read -r pid rest; echo $pid; })",
    )
    .await;
    let ended = cri.wait_for_exit(&one).await.unwrap();
    assert_eq!(ended.exit_code, 0);
    node.daemon.kill9();
    node.daemon.restart().await.unwrap();
    node.finish().await.unwrap();
}

/// Whether pods with users of their own are tried as well.
fn kinds_of_pods() -> &'static [bool] {
    if not_on_docker("Docker has no user namespaces of a pod's own") {
        &[false]
    } else {
        &[false, true]
    }
}

/// A container that looks at the processes of another one.
fn debugger(image: &str, target: &str) -> ContainerConfig {
    let mut container = pod::container("debugger", image, ["sleep", "2147483645"]);
    let options = of_container(&mut container);
    options.pid = NamespaceMode::Target.into();
    target.clone_into(&mut options.target_id);
    container
}

#[tokio::test]
async fn a_debug_container_sees_its_targets_processes_and_ends_with_them() {
    for with_users in kinds_of_pods() {
        let (node, image) = node().await;
        let cri = node.cri();
        let mut config = node.pod("debugged");
        if *with_users {
            of_pod(&mut config).userns_options = Some(users());
        }
        let sandbox = cri.run_pod(&config).await.unwrap();
        let target = pod::container("target", &image, ["sleep", "2147483646"]);
        let target = cri.launch(&sandbox, &config, &target).await.unwrap();
        let beside = pod::sleeper("beside", &image);
        let beside = cri.launch(&sandbox, &config, &beside).await.unwrap();
        let debug = debugger(&image, &target);
        let debug = cri.launch(&sandbox, &config, &debug).await.unwrap();

        let seen = output(cri, &debug, "tr '\\0' ' ' < /proc/1/cmdline; ps -o args").await;
        assert!(seen.starts_with("sleep 2147483646 "), "{seen}");
        // Itself, but not the other container.
        assert!(seen.contains("sleep 2147483645\n"), "{seen}");
        assert!(!seen.contains("sleep 2147483647"), "{seen}");
        let same = |id: String| async move { output(cri, &id, "readlink /proc/self/ns/pid").await };
        assert_eq!(same(debug.clone()).await, same(target.clone()).await);
        assert_ne!(same(debug.clone()).await, same(beside.clone()).await);

        cri.stop(&debug, 1).await.unwrap();
        let status = cri.container_status(&target).await.unwrap();
        assert_eq!(status.state(), ContainerState::ContainerRunning);
        let mut second = debugger(&image, &target);
        second.metadata.as_mut().unwrap().attempt = 1;
        let second = cri.launch(&sandbox, &config, &second).await.unwrap();
        cri.stop(&target, 0).await.unwrap();
        let ended = cri.wait_for_exit(&second).await.unwrap();
        assert_eq!(
            ended.exit_code, 137,
            "its init ended, and the kernel all with it"
        );
        let status = cri.container_status(&beside).await.unwrap();
        assert_eq!(status.state(), ContainerState::ContainerRunning);
        node.finish().await.unwrap();
    }
}

#[tokio::test]
async fn a_target_in_the_pods_pid_namespace_leaves_its_debugger_running() {
    let (node, image) = node().await;
    let cri = node.cri();
    let mut config = node.pod("debugged");
    of_pod(&mut config).pid = NamespaceMode::Pod.into();
    let sandbox = cri.run_pod(&config).await.unwrap();
    let mut target = pod::sleeper("target", &image);
    of_container(&mut target).pid = NamespaceMode::Pod.into();
    let target = cri.launch(&sandbox, &config, &target).await.unwrap();
    let debug = debugger(&image, &target);
    let debug = cri.launch(&sandbox, &config, &debug).await.unwrap();
    let seen = output(cri, &debug, "cat /proc/1/comm; ps -o args").await;
    let init = if on_docker() {
        "pause\n"
    } else {
        "slipway-init\n"
    };
    assert!(seen.starts_with(init), "{seen}");
    for command in ["sleep 2147483647 & wait\n", "sleep 2147483645\n"] {
        assert!(seen.contains(command), "{seen}");
    }
    cri.stop(&target, 5).await.unwrap();
    output(cri, &debug, "true").await;
    let status = cri.container_status(&debug).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_target_must_be_a_running_container_of_the_pod() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("one");
    let sandbox = cri.run_pod(&config).await.unwrap();
    let other_config = node.pod("other");
    let other_sandbox = cri.run_pod(&other_config).await.unwrap();
    let other = pod::sleeper("other", &image);
    let other = cri
        .launch(&other_sandbox, &other_config, &other)
        .await
        .unwrap();
    let idle = pod::sleeper("idle", &image);
    let idle = cri.create(&sandbox, &config, &idle).await.unwrap();
    let absent = "0".repeat(64);
    for (target, code, word) in [
        ("", Code::InvalidArgument, "empty"),
        (absent.as_str(), Code::NotFound, absent.as_str()),
        (&other, Code::InvalidArgument, &other_sandbox),
        (&idle, Code::FailedPrecondition, "not running"),
    ] {
        let answer = cri
            .create(&sandbox, &config, &debugger(&image, target))
            .await;
        refused(answer, code, &["namespace_options.target_id", word]);
    }
    assert_eq!(cri.containers().await.unwrap().len(), 2);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_pod_can_share_the_nodes_ipc_and_keeps_its_own_otherwise() {
    let (node, image) = node().await;
    let cri = node.cri();
    let link = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
    let read = |name: &str| format!("readlink /proc/self/ns/{name}");
    let file = format!("slipway-ipc-{}", node.scratch.number());
    std::fs::write(Path::new("/dev/shm").join(&file), "of the node\n").unwrap();

    let mut config = node.pod("ipc");
    of_pod(&mut config).ipc = NamespaceMode::Node.into();
    let sandbox = cri.run_pod(&config).await.unwrap();
    let mut container = pod::sleeper("main", &image);
    of_container(&mut container).ipc = NamespaceMode::Node.into();
    let id = cri.launch(&sandbox, &config, &container).await.unwrap();
    let inside = output(cri, &id, &read("ipc")).await;
    assert_eq!(Path::new(inside.trim()), link("ipc"));
    assert_eq!(
        output(cri, &id, &format!("cat /dev/shm/{file}")).await,
        "of the node\n"
    );
    assert_eq!(output(cri, &id, "hostname").await, "ipc\n");

    let config = node.pod("own");
    let sandbox = cri.run_pod(&config).await.unwrap();
    let id = cri
        .launch(&sandbox, &config, &pod::sleeper("main", &image))
        .await
        .unwrap();
    for name in ["ipc", "net", "uts", "pid", "mnt"] {
        let inside = output(cri, &id, &read(name)).await;
        assert_ne!(Path::new(inside.trim()), link(name), "{name}");
    }
    let inside = output(cri, &id, &read("user")).await;
    assert_eq!(Path::new(inside.trim()), link("user"));
    output(cri, &id, &format!("! [ -e /dev/shm/{file} ]")).await;
    std::fs::remove_file(Path::new("/dev/shm").join(&file)).unwrap();

    // A container has what its pod has.
    let mut container = pod::sleeper("bad", &image);
    of_container(&mut container).ipc = NamespaceMode::Node.into();
    let answer = cri.create(&sandbox, &config, &container).await;
    refused(
        answer,
        Code::InvalidArgument,
        &["namespace_options.ipc", "NODE", "POD"],
    );
    let mut container = pod::sleeper("bad", &image);
    of_container(&mut container).pid = NamespaceMode::Pod.into();
    let answer = cri.create(&sandbox, &config, &container).await;
    refused(answer, Code::InvalidArgument, &["namespace_options.pid"]);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn the_init_of_a_shared_pid_namespace_is_no_way_to_the_node() {
    for with_users in kinds_of_pods() {
        let (node, image) = node().await;
        let cri = node.cri();
        let mut config = node.pod("init");
        of_pod(&mut config).pid = NamespaceMode::Pod.into();
        if *with_users {
            of_pod(&mut config).userns_options = Some(users());
        }
        let sandbox = cri.run_pod(&config).await.unwrap();
        let mut container = pod::sleeper("curious", &image);
        of_container(&mut container).pid = NamespaceMode::Pod.into();
        security(&mut container).capabilities = Some(Capability {
            add_capabilities: vec!["SYS_PTRACE".to_owned()],
            ..Default::default()
        });
        let id = cri.launch(&sandbox, &config, &container).await.unwrap();
        let rights = "grep -h -E '^Cap(Prm|Eff|Bnd)' /proc/1/status | cut -f2 | sort -u";
        assert_eq!(output(cri, &id, rights).await, "0000000000000000\n");
        // Where it may be looked into at all, there is nothing.
        let seen =
            "ls -A /proc/1/root/ 2>/dev/null | wc -l; ls /proc/1/root/etc 2>/dev/null | wc -l";
        let seen = output(cri, &id, seen).await;
        if !not_on_docker("it has the pause image for its root, and what Docker puts into that") {
            assert_eq!(seen, "0\n0\n");
        }
        node.finish().await.unwrap();
    }
}
