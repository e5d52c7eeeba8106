//! Pods whose RuntimeClass names another OCI runtime.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::MountPropagationFlags;
use slipway_cri_api::v1::security_profile::ProfileType;
use slipway_cri_api::v1::{
    Capability, ContainerState, ExecSyncRequest, ImageSpec, Int64Value, LinuxContainerResources,
    ListPodSandboxRequest, Mount, MountPropagation, PodSandboxConfig, PodSandboxStatusRequest,
    RunPodSandboxRequest, SecurityProfile, StatusRequest,
};
use slipway_testbed::{Cri, Image, Layer, Node, eventually, pod, read_log};
use tonic::{Code, Status};

use crate::mount::Mounted;
use crate::restart::life;
use crate::{node, ready, refused};

const PATIENCE: Duration = Duration::from_secs(30);

/// Debian's, or wherever else it is.
pub(crate) fn runc() -> PathBuf {
    let places = ["/usr/sbin/runc", "/usr/bin/runc", "/usr/local/bin/runc"];
    let found = places.iter().map(Path::new).find(|path| path.exists());
    found.expect("runc is installed").to_owned()
}

/// A node with a handler that is called `runc` but may be anything, and busybox.
pub(crate) async fn node_with(path: &Path, more: &str) -> (Node, String) {
    let config = format!(
        "[runtime.handlers.runc]\npath = {:?}\n{more}\n",
        path.display().to_string()
    );
    let node = Node::start_with(|daemon| daemon.config(config))
        .await
        .unwrap();
    let pushed = node.provide("busybox:1", &Image::busybox()).await.unwrap();
    (node, pushed.reference)
}

pub(crate) async fn run_pod(
    cri: &Cri,
    config: &PodSandboxConfig,
    handler: &str,
) -> Result<String, Status> {
    let request = RunPodSandboxRequest {
        config: Some(config.clone()),
        runtime_handler: handler.to_owned(),
    };
    let answer = Box::pin(cri.runtime().run_pod_sandbox(request)).await?;
    Ok(answer.into_inner().pod_sandbox_id)
}

/// What a runtime of this node keeps.
fn held(node: &Node) -> Vec<String> {
    let directory = node.daemon.state().join("runtimes/runc");
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Removes all, and looks whether the runtime has been told, too.
pub(crate) async fn finish(node: Node) {
    node.cri().remove_all().await.unwrap();
    assert_eq!(held(&node), [""; 0]);
    node.finish().await.unwrap();
}

/// A runtime of the test's own: a shell script.
fn script(node: &Path, name: &str, text: &str) -> PathBuf {
    let path = node.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

async fn shim_pid(cri: &Cri, pod: &str) -> rustix::process::Pid {
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: pod.to_owned(),
        verbose: true,
    };
    let answer = Box::pin(cri.runtime().pod_sandbox_status(request))
        .await
        .unwrap()
        .into_inner();
    let info: serde_json::Value = serde_json::from_str(&answer.info["info"]).unwrap();
    let pid = i32::try_from(info["shimPid"].as_i64().unwrap()).unwrap();
    rustix::process::Pid::from_raw(pid).unwrap()
}

#[tokio::test]
async fn containers_of_runc_live_as_those_of_the_built_in_runtime_do() {
    let (node, image) = node_with(&runc(), "").await;
    let cri = node.cri();
    let config = node.pod("foreign");
    let pod = run_pod(cri, &config, "runc").await.unwrap();
    let status = cri.pod_status(&pod).await.unwrap();
    assert_eq!(status.runtime_handler, "runc");
    let list = ListPodSandboxRequest::default();
    let listed = Box::pin(cri.runtime().list_pod_sandbox(list))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.items[0].runtime_handler, "runc");

    // Exit codes, signals, logs of both streams.
    for (name, script, code, reason) in [
        ("zero", "echo out; echo err >&2", 0, "Completed"),
        ("seven", "exit 7", 7, "Error"),
        ("killed", "sh -c 'kill -9 $$'; exit $?", 137, "Error"),
    ] {
        let container = pod::shell(name, &image, script);
        let id = cri.create(&pod, &config, &container).await.unwrap();
        let created = cri.container_status(&id).await.unwrap();
        assert_eq!(created.state(), ContainerState::ContainerCreated);
        assert_eq!(held(&node), [id.as_str()], "runc has made it");
        cri.start(&id).await.unwrap();
        let ended = cri.wait_for_exit(&id).await.unwrap();
        assert_eq!(
            (ended.exit_code, ended.reason.as_str()),
            (code, reason),
            "{name}"
        );
        assert!(created.created_at < ended.started_at && ended.started_at < ended.finished_at);
        if name == "zero" {
            let mut lines: Vec<_> = read_log(&pod::log_path(&config, &container))
                .into_iter()
                .map(|line| (line.stream, line.text))
                .collect();
            lines.sort();
            let expected = [("stderr", "err"), ("stdout", "out")];
            assert_eq!(lines, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        }
        cri.remove(&id).await.unwrap();
        assert_eq!(held(&node), [""; 0], "runc has deleted it");
    }

    // SIGTERM is heard, what the container writes stays in its layer, the pod's network is its own.
    let sleeper = pod::sleeper("sleeper", &image);
    let id = cri.launch(&pod, &config, &sleeper).await.unwrap();
    ready(&pod::log_path(&config, &sleeper)).await;
    let inside = cri
        .exec(
            &id,
            &["sh", "-c", "hostname; ip -o addr; echo err >&2; exit 5"],
        )
        .await
        .unwrap();
    let text = String::from_utf8(inside.stdout).unwrap();
    let address = status.network.unwrap().ip;
    assert!(
        text.starts_with("foreign\n") && text.contains(&address),
        "{text}"
    );
    assert_eq!((inside.stderr, inside.exit_code), (b"err\n".to_vec(), 5));
    let answer = cri.exec(&id, &["/no/such"]).await;
    refused(answer, Code::InvalidArgument, &["runc exec", "/no/such"]);
    let files = cri.exec(&id, &["sh", "-c", "touch /file; ls /"]).await;
    assert!(
        String::from_utf8(files.unwrap().stdout)
            .unwrap()
            .contains("file")
    );
    cri.stop(&id, 30).await.unwrap();
    assert_eq!(cri.container_status(&id).await.unwrap().exit_code, 0);

    // A command is killed at its timeout with all that it has started.
    let sleeper = pod::shell("again", &image, "sleep 1000");
    let id = cri.launch(&pod, &config, &sleeper).await.unwrap();
    let request = ExecSyncRequest {
        container_id: id.clone(),
        cmd: [
            "sh",
            "-c",
            "(setsid sh -c 'sleep 778 & sleep 778' &); sleep 778",
        ]
        .map(str::to_owned)
        .to_vec(),
        timeout: 1,
    };
    let answer = Box::pin(cri.runtime().exec_sync(request)).await;
    refused(answer, Code::DeadlineExceeded, &["1 s"]);
    // They have been told to die, which takes them a moment.
    eventually("those it has started to be gone", PATIENCE, async || {
        let left = cri.exec(&id, &["sh", "-c", "ps | grep 'sleep 778' | grep -vc grep"]);
        Ok(left.await?.stdout == b"0\n")
    })
    .await
    .unwrap();

    // It dies of what it has eaten.
    let mut eater = pod::shell("eater", &image, "tail /dev/zero");
    let linux = eater.linux.as_mut().unwrap();
    linux
        .resources
        .get_or_insert_default()
        .memory_limit_in_bytes = 32 << 20;
    let id = cri.launch(&pod, &config, &eater).await.unwrap();
    let ended = cri.wait_for_exit(&id).await.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_str()), (137, "OOMKilled"));
    finish(node).await;
}

#[tokio::test]
async fn nothing_is_mounted_on_the_node_for_a_container_of_runc() {
    let (node, image) = node_with(&runc(), "").await;
    let cri = node.cri();
    let config = node.pod("private");
    let pod = run_pod(cri, &config, "runc").await.unwrap();
    let before = slipway_testbed::leaks::snapshot(&node.scratch);
    let mounts = || {
        let text = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let scratch = node.scratch.path().display().to_string();
        text.lines().filter(|line| line.contains(&scratch)).count()
    };
    let mounted = mounts();
    let volume = node.scratch.join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("greeting"), "hello").unwrap();
    let mut container = pod::shell(
        "main",
        &image,
        "cat /data/greeting; echo; grep -c ' /data ' /proc/mounts; echo ready; sleep 1000",
    );
    container.mounts = vec![Mount {
        container_path: "/data".to_owned(),
        host_path: volume.display().to_string(),
        readonly: true,
        ..Default::default()
    }];
    cri.launch(&pod, &config, &container).await.unwrap();
    let log = pod::log_path(&config, &container);
    ready(&log).await;
    let lines: Vec<_> = read_log(&log).into_iter().map(|line| line.text).collect();
    assert_eq!(lines, ["hello", "1", "ready"]);
    assert_eq!(mounts(), mounted);
    let more: Vec<_> = slipway_testbed::leaks::snapshot(&node.scratch)
        .difference(&before)
        .filter(|leak| matches!(leak, slipway_testbed::leaks::Leak::Mount(..)))
        .cloned()
        .collect();
    assert_eq!(more, []);
    finish(node).await;
}

#[tokio::test]
async fn containers_of_runc_survive_the_daemon_and_do_not_survive_their_shim() {
    let (mut node, image) = node_with(&runc(), "").await;
    let config = node.pod("survivor");
    let pod = run_pod(node.cri(), &config, "runc").await.unwrap();
    let container = pod::sleeper("main", &image);
    let id = node.cri().launch(&pod, &config, &container).await.unwrap();
    let created = node
        .cri()
        .create(&pod, &config, &pod::sleeper("later", &image))
        .await
        .unwrap();
    ready(&pod::log_path(&config, &container)).await;
    node.daemon.kill9();
    node.daemon.restart().await.unwrap();
    let cri = node.cri();
    let status = cri.pod_status(&pod).await.unwrap();
    assert_eq!(status.runtime_handler, "runc");
    assert_eq!(cri.exec(&id, &["true"]).await.unwrap().exit_code, 0);
    cri.start(&created).await.unwrap();
    cri.stop(&id, 30).await.unwrap();
    assert_eq!(cri.container_status(&id).await.unwrap().exit_code, 0);
    cri.remove(&id).await.unwrap();

    // While the daemon looks.
    let shim = shim_pid(cri, &pod).await;
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    let ended = cri.wait_for_exit(&created).await.unwrap();
    assert_eq!(ended.reason, "Unknown");
    assert_eq!(held(&node), [created.as_str()]);
    cri.remove(&created).await.unwrap();
    assert_eq!(held(&node), [""; 0]);

    // And while it does not.
    let second = node.pod("second");
    let second_pod = run_pod(node.cri(), &second, "runc").await.unwrap();
    let other = node
        .cri()
        .launch(&second_pod, &second, &container)
        .await
        .unwrap();
    let shim = shim_pid(node.cri(), &second_pod).await;
    node.daemon.kill9();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    node.daemon.restart().await.unwrap();
    let ended = node.cri().wait_for_exit(&other).await.unwrap();
    assert_eq!(ended.reason, "Unknown");
    finish(node).await;
}

#[tokio::test]
async fn what_a_request_says_reaches_runc() {
    let (node, image) = node_with(&runc(), "").await;
    let cri = node.cri();
    let config = node.pod("told");
    let pod = run_pod(cri, &config, "runc").await.unwrap();
    let data = Image::empty().layer(Layer::new().file("data", 0o644, "from an image\n"));
    let data = node.provide("data:1", &data).await.unwrap().reference;
    let script = "id; grep -E '^(Seccomp|NoNewPrivs|CapBnd):' /proc/self/status; \
                  cat /proc/self/oom_score_adj /volume/data; touch /x /volume/x 2>&1; true";
    let mut container = pod::shell("main", &image, script);
    container.mounts = vec![Mount {
        container_path: "/volume".to_owned(),
        image: Some(ImageSpec {
            image: data,
            ..Default::default()
        }),
        ..Default::default()
    }];
    let linux = container.linux.as_mut().unwrap();
    linux.resources = Some(LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        cpuset_cpus: "0".to_owned(),
        // Lower than it may be, where root has not all capabilities.
        oom_score_adj: -998,
        ..Default::default()
    });
    let security = linux.security_context.as_mut().unwrap();
    security.run_as_user = Some(Int64Value { value: 1000 });
    security.run_as_group = Some(Int64Value { value: 1001 });
    security.supplemental_groups = vec![2000];
    security.readonly_rootfs = true;
    security.no_new_privs = true;
    security.capabilities = Some(Capability {
        drop_capabilities: vec!["ALL".to_owned()],
        add_capabilities: vec!["NET_BIND_SERVICE".to_owned()],
        ..Default::default()
    });
    security.seccomp = Some(SecurityProfile {
        profile_type: ProfileType::RuntimeDefault.into(),
        localhost_ref: String::new(),
    });
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    let ended = cri.wait_for_exit(&id).await.unwrap();
    let lines = read_log(&pod::log_path(&config, &container));
    let text: Vec<_> = lines.into_iter().map(|line| line.text).collect();
    assert_eq!(ended.exit_code, 0, "{text:?}");
    let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let score: i32 = text[4].parse().unwrap();
    assert!(score == -998 || score == own, "{score}");
    let expected = [
        "uid=1000(app) gid=1001 groups=1001,2000(extra)",
        "CapBnd:\t0000000000000400",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        &text[4],
        "from an image",
    ];
    assert_eq!(text[..6], expected);
    assert_eq!(text[6..].len(), 2, "nothing can be written: {text:?}");
    // What the crun of Debian 12 takes; it says "unknown version" to a later one.
    let bundle = format!("pods/{pod}/containers/{id}/config.json");
    let spec = std::fs::read(node.daemon.state().join(bundle)).unwrap();
    let spec: serde_json::Value = serde_json::from_slice(&spec).unwrap();
    assert_eq!(spec["ociVersion"], "1.0.2");
    finish(node).await;
}

#[tokio::test]
async fn volumes_of_runc_spread_to_the_node_unless_its_own_mounts_would() {
    let (node, image) = node_with(&runc(), "").await;
    let cri = node.cri();
    let mut config = node.pod("spreads");
    let linux = config.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().privileged = true;
    let pod = run_pod(cri, &config, "runc").await.unwrap();
    let volume = Mounted::tmpfs(node.scratch.join("volume"), MountPropagationFlags::SHARED);
    std::fs::create_dir(volume.0.join("mounted")).unwrap();
    let bidirectional = |path: &Path| Mount {
        container_path: "/volume".to_owned(),
        host_path: path.display().to_string(),
        propagation: MountPropagation::PropagationBidirectional.into(),
        ..Default::default()
    };
    let script = "mount -t tmpfs none /volume/mounted && echo ready; sleep 1000";
    let mut container = pod::shell("main", &image, script);
    container.mounts = vec![bidirectional(&volume.0)];
    let linux = container.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().privileged = true;
    let id = cri.launch(&pod, &config, &container).await.unwrap();
    ready(&pod::log_path(&config, &container)).await;
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounted = volume.0.join("mounted").display().to_string();
    assert!(table.contains(&format!(" {mounted} ")), "{table}");
    assert!(!table.contains(&format!("{id}/rootfs")), "{table}");
    cri.remove(&id).await.unwrap();
    rustix::mount::unmount(mounted, rustix::mount::UnmountFlags::DETACH).unwrap();
    drop(volume);
    finish(node).await;
}

#[tokio::test]
async fn a_daemon_killed_at_any_moment_of_a_foreign_containers_life_leaks_nothing() {
    const LIVES: u32 = 12;
    let (mut node, image) = node_with(&runc(), "").await;
    let began = Instant::now();
    life(&node, "runc", 0, &image).await.unwrap();
    let whole = began.elapsed();
    for number in 1..=LIVES {
        let moment = whole * number / LIVES;
        let life = life(&node, "runc", number as usize, &image);
        let cut_off = tokio::time::timeout(moment, life).await;
        node.daemon.kill9();
        if let Ok(ended) = cut_off {
            ended.expect("a life that came to its end did so well");
        }
        node.daemon.restart().await.unwrap();
        node.cri().remove_all().await.unwrap();
        slipway_testbed::leaks::assert_none(&node.scratch);
        assert_eq!(held(&node), [""; 0]);
    }
    finish(node).await;
}

#[tokio::test]
async fn a_handler_that_is_not_there_is_refused() {
    let (node, _) = node().await;
    let answer = run_pod(node.cri(), &node.pod("x"), "kata").await;
    refused(
        answer,
        Code::InvalidArgument,
        &["runtime_handler", "\"kata\"", "\"slipway\""],
    );
    for handler in ["", "slipway"] {
        let config = node.pod("built-in");
        let pod = run_pod(node.cri(), &config, handler).await.unwrap();
        let status = node.cri().pod_status(&pod).await.unwrap();
        assert_eq!(status.runtime_handler, handler);
        node.cri().remove_pod(&pod).await.unwrap();
    }
    let said = slipway_testbed::Daemon::builder(&node.scratch, &node.cni)
        .config("[runtime.handlers.kata]\npath = \"/no/such/kata\"\n")
        .refused()
        .await
        .unwrap();
    assert!(
        said.contains("runtime.handlers.kata.path: /no/such/kata does not exist"),
        "{said}"
    );
    node.finish().await.unwrap();
}

#[tokio::test]
async fn status_tells_what_each_handler_can_do() {
    let (node, _) = node_with(&runc(), "").await;
    let request = StatusRequest::default();
    let status = Box::pin(node.cri().runtime().status(request))
        .await
        .unwrap()
        .into_inner();
    let handlers: Vec<_> = status
        .runtime_handlers
        .iter()
        .map(|handler| {
            let features = handler.features.as_ref().unwrap();
            (handler.name.as_str(), features.recursive_read_only_mounts)
        })
        .collect();
    assert_eq!(handlers, [("", true), ("slipway", true), ("runc", true)]);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn what_a_broken_runtime_says_is_in_the_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = script(
        directory.path(),
        "broken",
        "echo no dice >&2; echo out of cheese; exit 3",
    );
    let (node, image) = node_with(&path, "").await;
    let cri = node.cri();
    let config = node.pod("broken");
    let pod = run_pod(cri, &config, "runc").await.unwrap();
    let mut container = pod::sleeper("main", &image);
    for terminal in [false, true] {
        container.tty = terminal;
        let answer = cri.create(&pod, &config, &container).await;
        refused(answer, Code::Internal, &["broken create", "no dice"]);
        assert_eq!(cri.containers().await.unwrap().len(), 0);
    }
    let log = r#"while [ $# -gt 0 ]; do [ "$1" = --log ] && echo '{"level":"error","msg":"the moon is full"}' > "$2"; shift; done; exit 1"#;
    script(directory.path(), "broken", log);
    let answer = cri.create(&pod, &config, &container).await;
    refused(
        answer,
        Code::Internal,
        &["broken create", "the moon is full"],
    );
    // It says that it has made one, but has not.
    script(directory.path(), "broken", "exit 0");
    let answer = cri.create(&pod, &config, &container).await;
    refused(answer, Code::Internal, &["init.pid"]);
    std::fs::remove_file(&path).unwrap();
    let answer = cri.create(&pod, &config, &container).await;
    refused(answer, Code::Internal, &["broken", "No such file"]);
    finish(node).await;
}

#[tokio::test]
async fn a_runtime_that_hangs_is_killed_and_holds_nobody_else_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = script(directory.path(), "hangs", "sleep 1000 & sleep 1000");
    let (node, image) = node_with(&path, "timeout_seconds = 3").await;
    let cri = node.cri();
    let config = node.pod("hangs");
    let pod = run_pod(cri, &config, "runc").await.unwrap();
    let other = node.pod("other");
    let other_pod = run_pod(cri, &other, "").await.unwrap();
    let container = pod::sleeper("main", &image);
    let began = Instant::now();
    let hanging = async {
        let answer = cri.create(&pod, &config, &container).await;
        (answer, began.elapsed())
    };
    let meanwhile = async {
        let id = cri.launch(&other_pod, &other, &container).await.unwrap();
        cri.exec(&id, &["true"]).await.unwrap();
        cri.pod_status(&pod).await.unwrap();
        cri.pods().await.unwrap();
        cri.remove(&id).await.unwrap();
        began.elapsed()
    };
    let ((answer, until), elsewhere) = tokio::join!(hanging, meanwhile);
    refused(answer, Code::Internal, &["hangs create", "3 s", "killed"]);
    assert!(until >= Duration::from_secs(3), "{until:?}");
    assert!(elsewhere < until, "{elsewhere:?} of {until:?}");
    // A pod can be stopped while its runtime hangs.
    let creating = cri.create(&pod, &config, &container);
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        cri.stop_pod(&pod).await
    };
    let (created, stopped) = tokio::join!(creating, stopping);
    created.expect_err("it was never made");
    stopped.unwrap();
    finish(node).await;
}
