//! Containers: what they are made of, how they end, what they may do.

use std::path::Path;
use std::time::{Duration, Instant};

use slipway_cri_api::v1::{
    Capability, ContainerConfig, ContainerState, ImageSpec, Int64Value, KeyValue,
    LinuxContainerResources, LinuxContainerSecurityContext, Mount, Signal,
};
use slipway_testbed::{Cri, Image, Layer, Node, eventually, pod, read_log};
use tonic::Code;

use crate::{node, not_on_docker, on_docker, ready, refused};

pub(crate) fn security(container: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    container
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
}

fn resources(container: &mut ContainerConfig) -> &mut LinuxContainerResources {
    container
        .linux
        .as_mut()
        .unwrap()
        .resources
        .get_or_insert_default()
}

/// Runs a script in a pod of its own and answers what it wrote, once it has ended well.
pub(crate) async fn output(node: &Node, name: &str, mut container: ContainerConfig) -> String {
    let cri = node.cri();
    "0.log".clone_into(&mut container.log_path);
    let mut config = node.pod(name);
    let linux = config.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().privileged = security(&mut container).privileged;
    let pod = cri.run_pod(&config).await.unwrap();
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    let status = cri.wait_for_exit(&id).await.unwrap();
    let lines = read_log(&pod::log_path(&config, &container));
    let text: Vec<_> = lines.into_iter().map(|line| line.text).collect();
    assert_eq!(status.exit_code, 0, "{text:?}");
    cri.remove_pod(&pod).await.unwrap();
    text.join("\n")
}

#[tokio::test]
async fn exit_codes_signals_times_and_reasons_are_reported() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("ends");
    let pod = cri.run_pod(&config).await.unwrap();
    for (name, script, code, reason) in [
        ("zero", "exit 0", 0, "Completed"),
        ("seven", "exit 7", 7, "Error"),
        ("killed", "sh -c 'kill -9 $$'; exit $?", 137, "Error"),
        ("terminated", "sh -c 'kill -15 $$'; exit $?", 143, "Error"),
    ] {
        let id = cri
            .create(&pod, &config, &pod::shell(name, &image, script))
            .await
            .unwrap();
        let created = cri.container_status(&id).await.unwrap();
        assert_eq!(created.state(), ContainerState::ContainerCreated);
        assert_eq!((created.started_at, created.finished_at), (0, 0));
        cri.start(&id).await.unwrap();
        let ended = cri.wait_for_exit(&id).await.unwrap();
        assert_eq!(
            (ended.exit_code, ended.reason.as_str()),
            (code, reason),
            "{name}"
        );
        assert!(created.created_at < ended.started_at && ended.started_at <= ended.finished_at);
        refused(cri.start(&id).await, Code::FailedPrecondition, &["exited"]);
    }
    node.finish().await.unwrap();
}

/// Of a container that has ended for want of memory, Docker may tell the reason after the end.
pub(crate) async fn out_of_memory(cri: &Cri, id: &str) {
    let patience = Duration::from_secs(if on_docker() { 10 } else { 0 });
    eventually("the reason OOMKilled", patience, async || {
        Ok(cri.container_status(id).await?.reason == "OOMKilled")
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_container_over_its_memory_limit_is_reported_as_oom_killed() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("oom");
    let pod = cri.run_pod(&config).await.unwrap();
    let mut container = pod::shell("eater", &image, "tail /dev/zero");
    resources(&mut container).memory_limit_in_bytes = 16 * 1024 * 1024;
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    let ended = cri.wait_for_exit(&id).await.unwrap();
    assert_eq!(ended.exit_code, 137);
    out_of_memory(cri, &id).await;
    node.finish().await.unwrap();
}

#[tokio::test]
async fn stop_uses_the_images_signal_and_kills_after_the_timeout() {
    let node = Node::start().await.unwrap();
    let cri = node.cri();
    let image = Image::busybox().stop_signal("SIGUSR1");
    let image = node.provide("signal:1", &image).await.unwrap().reference;
    let config = node.pod("stops");
    let pod = cri.run_pod(&config).await.unwrap();
    let script =
        "trap 'echo told; exit 3' USR1; trap '' TERM; echo ready; while :; do sleep 0.1; done";
    let polite = pod::shell("polite", &image, script);
    let id = cri.launch(&pod, &config, &polite).await.unwrap();
    ready(&pod::log_path(&config, &polite)).await;
    cri.stop(&id, 30).await.unwrap();
    assert_eq!(cri.container_status(&id).await.unwrap().exit_code, 3);
    cri.stop(&id, 30).await.expect("stopping again is fine");

    let deaf = pod::shell(
        "deaf",
        &image,
        "trap '' USR1 TERM; echo ready; while :; do sleep 0.1; done",
    );
    let id = cri.launch(&pod, &config, &deaf).await.unwrap();
    ready(&pod::log_path(&config, &deaf)).await;
    let began = Instant::now();
    cri.stop(&id, 1).await.unwrap();
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(cri.container_status(&id).await.unwrap().exit_code, 137);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn image_and_request_decide_together_what_runs() {
    let node = Node::start().await.unwrap();
    let image = Image::busybox()
        .layer(
            Layer::new()
                .file(
                    "etc/passwd",
                    0o644,
                    "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n",
                )
                .file("etc/group", 0o644, "root:x:0:\nweb:x:34:\nlogs:x:44:web\n")
                .directory("srv", 0o755),
        )
        .entrypoint([
            "/bin/sh",
            "-c",
            "echo \"$0 $*; $(pwd); $(id -u) $(id -g) $(id -G); $A $B\"",
        ])
        .command(["zero", "one"])
        .env("A", "image")
        .env("B", "image")
        .user("web")
        .working_dir("/srv");
    let image = node.provide("config:1", &image).await.unwrap().reference;
    let plain = pod::container("main", &image, []);
    assert_eq!(
        output(&node, "plain", plain.clone()).await,
        "zero one; /srv; 33 34 34 44; image image"
    );

    let mut asked = plain.clone();
    asked.args = vec!["arg".to_owned()];
    asked.working_dir = "/tmp".to_owned();
    asked.envs = vec![KeyValue {
        key: "B".to_owned(),
        value: "request".to_owned(),
    }];
    security(&mut asked).run_as_user = Some(Int64Value { value: 1000 });
    security(&mut asked).run_as_group = Some(Int64Value { value: 1001 });
    security(&mut asked).supplemental_groups = vec![2000];
    assert_eq!(
        output(&node, "asked", asked).await,
        "arg ; /tmp; 1000 1001 1001 2000; image request"
    );

    if not_on_docker("it looks users up when it starts a container, and not before") {
        return node.finish().await.unwrap();
    }

    let mut unknown = plain;
    security(&mut unknown).run_as_username = "nobody".to_owned();
    let config = node.pod("unknown");
    let pod = node.cri().run_pod(&config).await.unwrap();
    let answer = node.cri().create(&pod, &config, &unknown).await;
    refused(answer, Code::InvalidArgument, &["nobody", "/etc/passwd"]);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn privileges_are_what_was_granted() {
    let (node, image) = node().await;
    let status =
        "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status | tr -d '\\t' | tr '\\n' ' '";
    let default = pod::shell("main", &image, status);
    assert_eq!(
        output(&node, "default", default.clone()).await.trim(),
        "CapEff:00000000a80425fb CapBnd:00000000a80425fb NoNewPrivs:0"
    );
    let mut none = default.clone();
    security(&mut none).capabilities = Some(Capability {
        drop_capabilities: vec!["ALL".to_owned()],
        add_capabilities: vec!["NET_BIND_SERVICE".to_owned()],
        ..Default::default()
    });
    security(&mut none).no_new_privs = true;
    assert_eq!(
        output(&node, "none", none).await.trim(),
        "CapEff:0000000000000400 CapBnd:0000000000000400 NoNewPrivs:1"
    );
    // A user without privileges has none in effect, only a bound.
    let mut user = default;
    security(&mut user).run_as_user = Some(Int64Value { value: 1000 });
    assert_eq!(
        output(&node, "user", user).await.trim(),
        "CapEff:0000000000000000 CapBnd:00000000a80425fb NoNewPrivs:0"
    );

    if not_on_docker(
        "it masks what its own version does, and gives a privileged container all capabilities there \
         are, which it cannot where the node itself lacks one",
    ) {
        return node.finish().await.unwrap();
    }

    let script = "cat /proc/interrupts | wc -c; (echo 1 > /proc/sys/kernel/panic) 2>&1 | wc -l; \
                  (mount -t tmpfs none /mnt) 2>&1 | wc -l; ls /dev/vda /dev/loop0 2>/dev/null | wc -l";
    let confined = pod::shell("main", &image, script);
    assert_eq!(
        output(&node, "confined", confined.clone()).await,
        "0\n1\n1\n0"
    );
    let mut privileged = pod::shell(
        "main",
        &image,
        "mkdir /m && mount -t tmpfs none /m && ls /dev | wc -l",
    );
    security(&mut privileged).privileged = true;
    let devices: usize = output(&node, "privileged", privileged)
        .await
        .parse()
        .unwrap();
    let confined = pod::shell("main", &image, "ls /dev | wc -l");
    let few: usize = output(&node, "few", confined).await.parse().unwrap();
    assert!(
        devices > few,
        "{devices} devices of the node, {few} of a container"
    );
    node.finish().await.unwrap();
}

#[tokio::test]
async fn limits_reach_the_kernel() {
    let node = Node::start_with(|daemon| {
        daemon.config(
            "[runtime]\npids_limit = 50\n[runtime.rlimits]\nnofile = { soft = 512, hard = 1024 }\n",
        )
    })
    .await
    .unwrap();
    let image = node
        .provide("busybox:1", &Image::busybox())
        .await
        .unwrap()
        .reference;
    let mut container = pod::shell(
        "main",
        &image,
        "cat /proc/self/oom_score_adj; ulimit -Sn; ulimit -Hn; cd /sys/fs/cgroup; \
         if [ -e cgroup.controllers ]; then cat cpu.weight cpu.max memory.max pids.max; \
         else cat cpu/cpu.shares cpu/cpu.cfs_quota_us memory/memory.limit_in_bytes pids/pids.max; fi",
    );
    *resources(&mut container) = LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: 500,
        ..Default::default()
    };
    let cpu = match Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        // As runc before 1.3 makes a weight of shares.
        true if on_docker() => "20\n50000 100000",
        true => "59\n50000 100000",
        false => "512\n50000",
    };
    let shown = output(&node, "limits", container).await;
    if on_docker() {
        // The limits of files and processes are dockerd's own configuration.
        let shown: Vec<_> = shown.lines().collect();
        assert_eq!(shown[0], "500");
        assert_eq!(
            shown[3..shown.len() - 1].join("\n"),
            format!("{cpu}\n67108864")
        );
    } else {
        assert_eq!(shown, format!("500\n512\n1024\n{cpu}\n67108864\n50"));
    }
    node.finish().await.unwrap();
}

#[tokio::test]
async fn volumes_are_mounted_as_asked_and_the_root_can_be_read_only() {
    let (node, image) = node().await;
    let source = node.scratch.join("volume");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "from the node\n").unwrap();
    let mount = |path: &str, readonly: bool| Mount {
        container_path: path.to_owned(),
        host_path: source.display().to_string(),
        readonly,
        ..Default::default()
    };
    let script = "cat /ro/file; touch /ro/x 2>/dev/null || echo ro refuses; echo back > /rw/back; \
                  touch /y 2>/dev/null || echo root refuses; touch /dev/shm/z && echo shm takes";
    let mut container = pod::shell("main", &image, script);
    container.mounts = vec![mount("/ro", true), mount("/rw", false)];
    security(&mut container).readonly_rootfs = true;
    assert_eq!(
        output(&node, "volumes", container.clone()).await,
        "from the node\nro refuses\nroot refuses\nshm takes"
    );
    assert_eq!(
        std::fs::read_to_string(source.join("back")).unwrap(),
        "back\n"
    );

    // A host path that is not there becomes a directory; a mount target that would leave the root
    // file system through a link stays in it.
    let absent = node.scratch.join("absent/below");
    let mut container = pod::shell(
        "main",
        &image,
        "ls -d /new && ls -d /etc/inside && touch /etc/inside/x",
    );
    container.mounts = vec![
        Mount {
            host_path: absent.display().to_string(),
            ..mount("/new", false)
        },
        mount("/proc/../etc/inside", false),
    ];
    let config = node.pod("dots");
    let pod = node.cri().run_pod(&config).await.unwrap();
    let answer = node.cri().create(&pod, &config, &container).await;
    refused(answer, Code::InvalidArgument, &["container_path"]);
    container.mounts[1].container_path = "/etc/inside".to_owned();
    output(&node, "absent", container).await;
    assert!(absent.is_dir());
    node.finish().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_a_container_is_refused_and_leaves_nothing() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("bad");
    let pod = cri.run_pod(&config).await.unwrap();
    let before = slipway_testbed::leaks::snapshot(&node.scratch);

    for program in ["/no/such/file", "nothing-of-that-name", "/etc/passwd"] {
        let container = pod::container("c", &image, [program]);
        let answer = cri.create(&pod, &config, &container).await;
        // Docker looks for programs when it starts a container, and not before.
        if on_docker() {
            let id = answer.unwrap();
            refused(cri.start(&id).await, Code::InvalidArgument, &[program]);
            let status = cri.container_status(&id).await.unwrap();
            assert_eq!(status.state(), ContainerState::ContainerExited);
            assert_eq!(status.reason, "StartError");
            cri.remove(&id).await.unwrap();
        } else {
            refused(answer, Code::InvalidArgument, &[program]);
        }
    }
    let absent = pod::sleeper("c", "localhost:1/not/pulled:1");
    refused(
        cri.create(&pod, &config, &absent).await,
        Code::NotFound,
        &["not/pulled"],
    );
    let mut escaping = pod::sleeper("c", &image);
    escaping.log_path = "../../escape.log".to_owned();
    refused(
        cri.create(&pod, &config, &escaping).await,
        Code::InvalidArgument,
        &["log_path"],
    );
    let mut nameless = pod::sleeper("c", &image);
    nameless.metadata = None;
    refused(
        cri.create(&pod, &config, &nameless).await,
        Code::InvalidArgument,
        &["metadata"],
    );
    let mut imageless = pod::sleeper("c", &image);
    imageless.image = Some(ImageSpec::default());
    refused(
        cri.create(&pod, &config, &imageless).await,
        Code::InvalidArgument,
        &["image"],
    );
    let none = cri
        .create("0123456789", &config, &pod::sleeper("c", &image))
        .await;
    refused(none, Code::NotFound, &["0123456789"]);
    refused(
        cri.start("0123456789").await,
        Code::NotFound,
        &["0123456789"],
    );
    refused(
        cri.container_status("0123456789").await,
        Code::NotFound,
        &["0123456789"],
    );
    cri.stop("0123456789", 1)
        .await
        .expect("stopping what is not there is fine");
    cri.remove("0123456789")
        .await
        .expect("removing what is not there is fine");

    slipway_testbed::leaks::assert_no_more(&node.scratch, &before);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn every_process_of_a_container_ends_with_it() {
    let (node, image) = node().await;
    let cri = node.cri();
    let config = node.pod("family");
    let pod = cri.run_pod(&config).await.unwrap();
    let script = "for i in 1 2 3; do setsid sleep 1000 & done; echo ready; sleep 0.2";
    let container = pod::shell("main", &image, script);
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    cri.wait_for_exit(&id).await.unwrap();
    let left: Vec<_> = node
        .daemon
        .pod_processes()
        .into_iter()
        .filter(|(_, group)| group.as_ref().is_some_and(|group| group.ends_with(&id)))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    cri.remove(&id).await.unwrap();
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_containers_own_stop_signal_is_reported_and_sent() {
    let (node, image) = node().await;
    let mut container = pod::shell(
        "main",
        &image,
        "trap 'exit 44' QUIT; trap 'exit 15' TERM; echo ready; while :; do sleep 0.05; done",
    );
    container.stop_signal = Signal::Sigquit.into();
    let config = node.pod("stopped");
    let pod = node.cri().run_pod(&config).await.unwrap();
    let id = node.cri().launch(&pod, &config, &container).await.unwrap();
    let log = pod::log_path(&config, &container);
    eventually("the container", Duration::from_secs(30), async || {
        Ok(!read_log(&log).is_empty())
    })
    .await
    .unwrap();
    let status = node.cri().container_status(&id).await.unwrap();
    assert_eq!(status.stop_signal(), Signal::Sigquit);
    node.cri().stop(&id, 20).await.unwrap();
    let status = node.cri().container_status(&id).await.unwrap();
    assert_eq!(
        (status.exit_code, status.stop_signal()),
        (44, Signal::Sigquit)
    );
    // It wins over the image's own, and one that is none is refused.
    let mut unknown = pod::sleeper("unknown", &image);
    unknown.stop_signal = 4711;
    let answer = node.cri().create(&pod, &config, &unknown).await;
    refused(answer, Code::InvalidArgument, &["stop_signal", "4711"]);
    node.finish().await.unwrap();
}
