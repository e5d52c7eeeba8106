//! Containers from creation to removal.

use crate::scene::{Scene, unified};
use serde_json::json;
use slipway_shim::Error;
use slipway_shim::protocol::{Event, Exec, ExecCgroup, ExecProcess, FailureKind, Phase};

fn kind(error: Error) -> (FailureKind, String) {
    match error {
        Error::Failure(failure) => (failure.kind, failure.message),
        other => panic!("not an answer: {other}"),
    }
}

#[tokio::test]
async fn a_container_runs_and_is_recorded() {
    let mut scene = Scene::new().await;
    let config = scene.config(&[
        "sh",
        "-c",
        "echo hello; echo trouble >&2; printf end; exit 3",
    ]);
    let pid = scene.create("one", &config).await.unwrap();
    assert_eq!(scene.shim.list().await.unwrap()[0].phase, Phase::Created);
    assert_eq!(scene.state("one").unwrap().pid, pid);

    let started_at = scene.shim.start("one").await.unwrap();
    let exit = scene.exit("one").await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (3, None, false));
    let record = scene.shim.list().await.unwrap().remove(0);
    let Phase::Exited {
        started_at: Some(recorded),
        finished_at,
        ..
    } = record.phase
    else {
        panic!("{record:?}")
    };
    assert_eq!(recorded, started_at);
    assert!(finished_at > started_at);

    let mut lines = scene.lines("one");
    lines.sort();
    assert_eq!(
        lines,
        ["stderr F trouble", "stdout F hello", "stdout P end"]
    );

    scene.shim.delete("one").await.unwrap();
    scene.shim.delete("one").await.unwrap();
    assert!(scene.shim.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn nothing_is_mounted_on_the_node() {
    let scene = Scene::new().await;
    let before = scene.mounts();
    assert_eq!(before.len(), 4, "net, ipc, uts and shm: {before:#?}");
    scene.start("one", &["sleep", "1000"]).await;
    assert_eq!(scene.mounts(), before);
    scene.shim.delete("one").await.unwrap();
    assert_eq!(scene.mounts(), before);
    assert_eq!(scene.processes(), "");
}

#[tokio::test]
async fn a_killed_container_says_so() {
    let mut scene = Scene::new().await;
    scene.start("one", &["sleep", "1000"]).await;
    scene.shim.kill("one", libc::SIGKILL, false).await.unwrap();
    let exit = scene.exit("one").await;
    assert_eq!((exit.code, exit.signal), (137, Some(libc::SIGKILL)));
    scene.shim.kill("one", libc::SIGKILL, true).await.unwrap();
}

#[tokio::test]
async fn a_signal_reaches_a_handler() {
    let mut scene = Scene::new().await;
    let script = "trap 'echo stopping; exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    scene.start("one", &["sh", "-c", script]).await;
    scene.wait_for_line("one", "ready").await;
    scene.shim.kill("one", libc::SIGTERM, false).await.unwrap();
    assert_eq!(scene.exit("one").await.code, 7);
    assert!(scene.lines("one").contains(&"stdout F stopping".to_owned()));
}

#[tokio::test]
async fn exec_has_its_own_streams_and_exit() {
    use std::io::Read;
    let mut scene = Scene::new().await;
    scene.start("one", &["sleep", "1000"]).await;
    let process = json!({
        "user": {"uid": 1000, "gid": 1000, "additionalGids": [7]},
        "args": ["sh", "-c", "id; hostname; echo $HOME; cat /proc/1/comm; exit 5"],
        "env": ["PATH=/bin"], "cwd": "/tmp",
    });
    let (mut reader, writer) = std::io::pipe().unwrap();
    let null = || std::os::fd::OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let exec = Exec {
        container: "one".to_owned(),
        process: ExecProcess::Given(process.to_string()),
        terminal: false,
        cgroup: ExecCgroup::Container,
    };
    let (number, _) = scene
        .shim
        .exec(exec, [null(), writer.into(), null()])
        .await
        .unwrap();
    let Event::ExecExited { exec, exit } = scene.event().await else {
        panic!("another event")
    };
    assert_eq!((exec, exit.code), (number, 5));
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[0], "uid=1000(user) gid=1000 groups=7");
    assert_eq!(lines[1], "scene");
    assert_eq!(lines[2], "/home/user");
    assert_eq!(
        lines[3], "sleep",
        "the process sees the container's processes"
    );
}

#[tokio::test]
async fn a_killed_exec_says_so() {
    let mut scene = Scene::new().await;
    scene.start("one", &["sleep", "1000"]).await;
    let null = || std::os::fd::OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let process = json!({"user": {"uid": 0, "gid": 0}, "args": ["/bin/sleep", "1000"], "cwd": "/"});
    let exec = Exec {
        container: "one".to_owned(),
        process: ExecProcess::Given(process.to_string()),
        terminal: false,
        cgroup: ExecCgroup::Container,
    };
    let streams = [null(), null(), null()];
    let (number, _) = scene.shim.exec(exec.clone(), streams).await.unwrap();
    scene.shim.kill_exec(number).await.unwrap();
    let Event::ExecExited { exit, .. } = scene.event().await else {
        panic!("another event")
    };
    assert_eq!(exit.signal, Some(libc::SIGKILL));
    let (found, _) = kind(scene.shim.kill_exec(number).await.unwrap_err());
    assert_eq!(found, FailureKind::NotFound);

    let missing = json!({"user": {}, "args": ["nowhere"], "cwd": "/"}).to_string();
    let missing = Exec {
        process: ExecProcess::Given(missing),
        ..exec.clone()
    };
    let error = scene
        .shim
        .exec(missing, [null(), null(), null()])
        .await
        .unwrap_err();
    assert_eq!(kind(error).0, FailureKind::Invalid);

    scene.shim.kill("one", libc::SIGKILL, true).await.unwrap();
    scene.exit("one").await;
    let error = scene
        .shim
        .exec(exec, [null(), null(), null()])
        .await
        .unwrap_err();
    assert_eq!(kind(error).0, FailureKind::WrongState);
}

#[tokio::test]
async fn a_missing_command_is_named_at_creation() {
    let scene = Scene::new().await;
    let error = scene
        .create("one", &scene.config(&["nowhere"]))
        .await
        .unwrap_err();
    let (found, message) = kind(error);
    assert_eq!(found, FailureKind::Invalid);
    assert!(message.contains("/bin/nowhere"), "{message}");

    for (command, word) in [
        ("/etc/passwd", "not executable"),
        ("/etc", "directory"),
        ("/proc/self/exe", "/proc"),
    ] {
        let error = scene
            .create("one", &scene.config(&[command]))
            .await
            .unwrap_err();
        let (found, message) = kind(error);
        assert_eq!(found, FailureKind::Invalid);
        assert!(message.contains(word), "{command}: {message}");
    }
    // The failed ones are forgotten: the name is free.
    scene.start("one", &["true"]).await;
}

#[tokio::test]
async fn a_container_out_of_memory_says_so() {
    let mut scene = Scene::new().await;
    let limit = if unified() {
        "memory.max"
    } else {
        "memory.limit_in_bytes"
    };
    std::fs::write(scene.cgroup("memory").join(limit), "16M").unwrap();
    let config = scene.config(&["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]);
    let (exit, _) = scene.run("one", &config).await;
    assert_eq!(exit.signal, Some(libc::SIGKILL));
    assert!(exit.oom_killed);
}

#[tokio::test]
async fn what_the_init_leaves_behind_is_killed() {
    let mut pod = crate::scene::pod();
    pod.shared_pid = true;
    let mut scene = Scene::with(pod).await;
    let mut config = scene.config(&["sh", "-c", "sleep 1000 & sleep 1000 & echo $$"]);
    config["linux"]["namespaces"][0] = json!({"type": "pid", "path": scene.path("ns/pid")});
    let (exit, lines) = scene.run("one", &config).await;
    assert_eq!(exit.code, 0);
    assert_ne!(
        lines,
        ["stdout F 1"],
        "the shared namespace has an init of its own"
    );
    assert_eq!(scene.processes(), "");
}

#[tokio::test]
async fn a_start_that_fails_is_an_exit() {
    let mut scene = Scene::new().await;
    let script = scene.layer.join("bin/script");
    std::fs::write(&script, "no interpreter").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    scene
        .create("one", &scene.config(&["script"]))
        .await
        .unwrap();
    let (found, message) = kind(scene.shim.start("one").await.unwrap_err());
    assert_eq!(found, FailureKind::Invalid);
    assert!(message.contains("/bin/script"), "{message}");
    assert_eq!(scene.exit("one").await.code, 128);
    let Phase::Exited { started_at, .. } = scene.state("one").unwrap().phase else {
        panic!()
    };
    assert_eq!(started_at, None);
}

#[tokio::test]
async fn requests_out_of_turn_are_refused() {
    let scene = Scene::new().await;
    let (found, _) = kind(scene.shim.start("one").await.unwrap_err());
    assert_eq!(found, FailureKind::NotFound);
    scene.start("one", &["sleep", "1000"]).await;
    let (found, _) = kind(scene.shim.start("one").await.unwrap_err());
    assert_eq!(found, FailureKind::WrongState);
    let error = scene
        .create("one", &scene.config(&["true"]))
        .await
        .unwrap_err();
    assert_eq!(kind(error).0, FailureKind::WrongState);
    let (found, _) = kind(scene.shim.kill("one", 1000, false).await.unwrap_err());
    assert_eq!(found, FailureKind::Invalid);
}

#[tokio::test]
async fn the_end_of_a_killed_shim_is_seen() {
    let mut scene = Scene::new().await;
    scene
        .create("one", &scene.config(&["sleep", "1000"]))
        .await
        .unwrap();
    let pid = rustix::process::Pid::from_raw(scene.shim.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(scene.events.recv().await, None);
    assert!(matches!(scene.shim.list().await, Err(Error::Gone { .. })));
    // A container that waits for its start goes with the shim.
    let gone = async {
        while !scene.processes().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), gone)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_shim_that_shuts_down_kills_and_records() {
    let mut scene = Scene::new().await;
    scene.start("one", &["sleep", "1000"]).await;
    scene.create("two", &scene.config(&["true"])).await.unwrap();
    scene.shim.shutdown().await.unwrap();
    for _ in ["one", "two"] {
        assert!(matches!(scene.event().await, Event::Exited(_)));
    }
    assert_eq!(scene.events.recv().await, None);
    assert!(!scene.path("shim.sock").exists());
    assert_eq!(scene.processes(), "");
    let Phase::Exited { exit, .. } = scene.state("one").unwrap().phase else {
        panic!()
    };
    assert_eq!(exit.signal, Some(libc::SIGKILL));
}

#[tokio::test]
async fn a_shim_that_is_dismissed_ends_with_its_last_container() {
    let mut scene = Scene::new().await;
    scene.start("one", &["sleep", "1000"]).await;
    let pid = rustix::process::Pid::from_raw(scene.shim.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    // Whoever asks after the signal is still answered: the container runs.
    assert_eq!(scene.shim.list().await.unwrap().len(), 1);
    scene.shim.kill("one", libc::SIGKILL, false).await.unwrap();
    assert!(matches!(scene.event().await, Event::Exited(_)));
    assert_eq!(scene.events.recv().await, None);
    assert!(!scene.path("shim.sock").exists());
    let phase = scene.state("one").unwrap().phase;
    assert!(matches!(phase, Phase::Exited { .. }), "{phase:?}");

    let mut idle = Scene::new().await;
    let pid = rustix::process::Pid::from_raw(idle.shim.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(idle.events.recv().await, None);
}

#[tokio::test]
async fn a_daemon_that_comes_back_finds_everything() {
    let mut scene = Scene::new().await;
    scene.start("one", &["sleep", "1000"]).await;
    let again = slipway_shim::Shim::connect(scene.directory.path())
        .await
        .unwrap();
    assert_eq!(again.pid(), scene.shim.pid());
    let (records, mut events) = again.subscribe().await.unwrap();
    assert!(matches!(records[0].phase, Phase::Running { .. }));
    again.kill("one", libc::SIGKILL, false).await.unwrap();
    assert!(matches!(events.recv().await, Some(Event::Exited(_))));
    scene.exit("one").await;
}

#[tokio::test]
async fn a_broken_packet_ends_its_connection_only() {
    use rustix::net;
    let scene = Scene::new().await;
    let directory = std::fs::File::open(scene.directory.path()).unwrap();
    let path = format!(
        "/proc/self/fd/{}/shim.sock",
        std::os::fd::AsRawFd::as_raw_fd(&directory)
    );
    let address = net::SocketAddrUnix::new(path).unwrap();
    let long = vec![1; 100_000];
    for packet in [&b"\xff\xff\xff\xff\xff\xff"[..], b"", &long] {
        let socket =
            net::socket(net::AddressFamily::UNIX, net::SocketType::SEQPACKET, None).unwrap();
        net::connect(&socket, &address).unwrap();
        net::send(&socket, packet, net::SendFlags::empty()).unwrap();
        let (_, received) = net::recv(&socket, &mut [0; 16], net::RecvFlags::empty()).unwrap();
        assert_eq!(received, 0, "the connection is closed");
    }
    scene.shim.list().await.unwrap();
}

/// On cgroup v2, which is there beside v1 on some machines, without controllers.
#[tokio::test]
async fn a_container_is_born_in_its_unified_cgroup() {
    let root = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .map(std::path::PathBuf::from)
        .into_iter()
        .find(|path| path.join("cgroup.procs").exists() && path.join("cgroup.controllers").exists())
        .expect("cgroup v2 is mounted nowhere");
    let mut pod = crate::scene::pod();
    pod.shared_pid = true;
    let mut scene = Scene::with(pod).await;
    let cgroup = root.join(&scene.name);
    if !unified() {
        std::fs::create_dir(&cgroup).unwrap();
        scene.cgroups.push(cgroup.clone());
    }
    let script = "sleep 1000 & cat /proc/self/cgroup; ls /sys/fs/cgroup";
    let mut config = scene.config(&["sh", "-c", script]);
    config["linux"]["namespaces"][0] = json!({"type": "pid", "path": scene.path("ns/pid")});
    let mut create = scene.bundle_of("one", &config);
    create.cgroups = vec![cgroup.clone()];
    create.oom_events = None;
    scene.shim.create(create).await.unwrap();
    scene.shim.start("one").await.unwrap();
    scene.exit("one").await;
    let lines = scene.lines("one");
    // Its root, in a namespace of its own.
    assert!(lines.contains(&"stdout F 0::/".to_owned()), "{lines:#?}");
    assert!(
        lines.contains(&"stdout F cgroup.procs".to_owned()),
        "{lines:#?}"
    );
    assert_eq!(
        std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap(),
        ""
    );
}

#[tokio::test]
async fn a_pod_of_the_node_has_nothing_of_its_own() {
    let mut pod = crate::scene::pod();
    (pod.network, pod.ipc, pod.hostname, pod.shm_size) = (false, false, None, None);
    let mut scene = Scene::with(pod).await;
    assert_eq!(scene.mounts(), Vec::<String>::new());
    let mut config = scene.config(&[
        "sh",
        "-c",
        "stat -L -c %i /proc/self/ns/net /proc/self/ns/pid",
    ]);
    config["linux"]["namespaces"] = json!([{"type": "mount"}]);
    config["mounts"].as_array_mut().unwrap().pop();
    let (_, lines) = scene.run("one", &config).await;
    let own = |name: &str| {
        let metadata = std::fs::metadata(format!("/proc/self/ns/{name}")).unwrap();
        format!(
            "stdout F {}",
            std::os::unix::fs::MetadataExt::ino(&metadata)
        )
    };
    assert_eq!(lines, [own("net"), own("pid")]);
}
