//! What a container can see and reach.

use std::fs;
use std::os::unix::fs::symlink;

use crate::scene::{Scene, unified};
use serde_json::{Value, json};
use slipway_shim::Error;
use slipway_shim::protocol::FailureKind;

fn add_mount(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().unwrap().push(mount);
}

fn refusal(error: Error) -> String {
    match error {
        Error::Failure(failure) if failure.kind == FailureKind::Invalid => failure.message,
        other => panic!("not a refusal: {other}"),
    }
}

#[tokio::test]
async fn a_mount_through_a_link_stays_inside() {
    let mut scene = Scene::new().await;
    let outside = tempfile::tempdir().unwrap();
    fs::write(scene.path("volume"), "from the node").unwrap();
    // Both lead to a directory of the node, if anything but the kernel's own resolution is used.
    let up = "../".repeat(12);
    let target = outside
        .path()
        .strip_prefix("/")
        .unwrap()
        .display()
        .to_string();
    symlink(format!("/{up}{target}"), scene.layer.join("absolute")).unwrap();
    symlink(format!("{up}{target}"), scene.layer.join("relative")).unwrap();
    let inside = outside.path().display();
    let script = format!("cat {inside}/one {inside}/two {inside}/three/two");
    let mut config = scene.config(&["sh", "-c", &script]);
    for destination in ["/absolute/one", "/relative/two", "/relative/three/two"] {
        add_mount(
            &mut config,
            json!({
                "destination": destination, "type": "bind", "source": scene.path("volume"),
                "options": ["rbind", "ro"],
            }),
        );
    }
    let (exit, lines) = scene.run("one", &config).await;
    assert_eq!(
        (exit.code, lines),
        (0, vec![format!("stdout P {}", "from the node".repeat(3))])
    );
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn mounts_have_their_attributes() {
    let mut scene = Scene::new().await;
    let volume = scene.path("volume");
    fs::create_dir(&volume).unwrap();
    let mut config = scene.config(&["grep", " /v", "/proc/self/mountinfo"]);
    for (destination, options) in [
        ("/v/ro", json!(["rbind", "ro", "nosuid", "nodev", "noexec"])),
        ("/v/rw", json!(["rbind", "rw", "noatime"])),
    ] {
        add_mount(
            &mut config,
            json!({
                "destination": destination, "type": "bind", "source": volume, "options": options,
            }),
        );
    }
    add_mount(
        &mut config,
        json!({
            "destination": "/v/tmp", "type": "tmpfs", "source": "tmpfs",
            "options": ["ro", "size=64k", "mode=1700"],
        }),
    );
    let (_, lines) = scene.run("one", &config).await;
    let find = |path: &str| {
        let line = lines.iter().find(|line| line.contains(path));
        line.unwrap_or_else(|| panic!("{path} is not in {lines:#?}"))
    };
    assert!(find(" /v/ro ").contains(" ro,nosuid,nodev,noexec,relatime "));
    assert!(find(" /v/rw ").contains(" rw,noatime "));
    let tmpfs = find(" /v/tmp ");
    assert!(
        tmpfs.contains(" ro,relatime ") && tmpfs.contains("size=64k,mode=1700"),
        "{tmpfs}"
    );
}

#[tokio::test]
async fn what_cannot_be_mounted_is_refused() {
    let scene = Scene::new().await;
    symlink("/etc", scene.layer.join("link")).unwrap();
    let bind = |destination: &str, source: &str| json!({"destination": destination, "type": "bind", "source": source, "options": ["bind"]});
    for (mount, word) in [
        (bind("/proc/self", "/tmp"), "/proc"),
        (bind("/missing", "/nowhere/at/all"), "/nowhere/at/all"),
        (bind("/etc/passwd", "/tmp"), "file"),
        (
            json!({"destination": "/x", "type": "nofs", "source": "x"}),
            "nofs",
        ),
        (
            json!({"destination": "/x", "type": "tmpfs", "options": ["flavour=sweet"]}),
            "flavour",
        ),
        (
            json!({"destination": "/link", "type": "proc", "source": "proc"}),
            "symbolic link",
        ),
    ] {
        let mut config = scene.config(&["true"]);
        add_mount(&mut config, mount);
        let message = refusal(scene.create("one", &config).await.unwrap_err());
        assert!(message.contains(word), "{message}");
    }
}

#[tokio::test]
async fn what_is_not_carried_out_is_refused_by_name() {
    let scene = Scene::new().await;
    let mut config = scene.config(&["true"]);
    config["linux"]["personality"] = json!({"domain": "LINUX32"});
    let message = refusal(scene.create("one", &config).await.unwrap_err());
    assert!(message.contains("linux.personality"), "{message}");
}

#[tokio::test]
async fn what_cannot_be_confined_is_not_started() {
    let scene = Scene::new().await;
    for (object, field, value, word) in [
        (
            "linux",
            "seccomp",
            json!({"defaultAction": "SCMP_ACT_ERRNO"}),
            "seccomp.bpf",
        ),
        (
            "process",
            "apparmorProfile",
            json!("no-such-profile"),
            "no-such-profile",
        ),
    ] {
        let mut config = scene.config(&["true"]);
        config[object][field] = value;
        let message = refusal(scene.create("one", &config).await.unwrap_err());
        assert!(message.contains(word), "{message}");
    }
}

#[tokio::test]
async fn descriptors_and_devices_are_the_containers_own() {
    let mut scene = Scene::new().await;
    let script = "ls /proc/self/fd | wc -l; ls /dev | wc -w; \
                  stat -c '%t:%T %a' /dev/null /dev/tty; echo data >/dev/null; cat /dev/null; \
                  wc -c </proc/meminfo; ls /sys/firmware | wc -w";
    let mut config = scene.config(&["sh", "-c", script]);
    config["linux"]["maskedPaths"] = json!(["/proc/meminfo", "/proc/acpi", "/sys/firmware"]);
    let (_, lines) = scene.run("one", &config).await;
    let expected = [
        // Standard streams, and the directory that ls has open.
        "stdout F 4",
        // Six nodes, six links, pts, mqueue, shm.
        "stdout F 15",
        "stdout F 1:3 666",
        "stdout F 5:0 666",
        "stdout F 0",
        "stdout F 0",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn read_only_is_read_only() {
    let mut scene = Scene::new().await;
    let script = "touch /etc/x; touch /proc/sys/kernel/x; touch /sys/x; touch /dev/x && echo dev";
    let mut config = scene.config(&["sh", "-c", script]);
    config["root"]["readonly"] = json!(true);
    let (_, lines) = scene.run("one", &config).await;
    let denied = lines
        .iter()
        .filter(|line| line.starts_with("stderr F"))
        .count();
    assert_eq!(
        (denied, lines.last().unwrap().as_str()),
        (3, "stdout F dev"),
        "{lines:#?}"
    );
    assert!(!scene.bundle("one").join("upper/etc/x").exists());
}

#[tokio::test]
async fn a_user_has_what_was_asked_for_and_no_more() {
    let mut scene = Scene::new().await;
    let script = "id; echo $HOME; grep -E '^(Cap|NoNewPrivs)' /proc/self/status; umask; pwd; \
                  ulimit -n; cat /proc/self/oom_score_adj; echo again >/dev/stdout";
    let mut config = scene.config(&["sh", "-c", script]);
    config["process"]["user"] =
        json!({"uid": 1000, "gid": 2000, "additionalGids": [7, 8], "umask": 0o27});
    config["process"]["cwd"] = json!("/made/for/it");
    config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]);
    config["process"]["oomScoreAdj"] = json!(500);
    config["process"]["capabilities"]["inheritable"] = json!(["CAP_NET_RAW"]);
    config["process"]["capabilities"]["ambient"] = json!(["CAP_NET_RAW"]);
    let (_, lines) = scene.run("one", &config).await;
    let bounding = (1u64 << 0 | 1 << 5 | 1 << 13) | (u64::from(has_sys_resource()) << 24);
    let expected = [
        "uid=1000(user) gid=2000 groups=7,8".to_owned(),
        "/home/user".to_owned(),
        "CapInh:\t0000000000002000".to_owned(),
        "CapPrm:\t0000000000002000".to_owned(),
        "CapEff:\t0000000000002000".to_owned(),
        format!("CapBnd:\t{bounding:016x}"),
        "CapAmb:\t0000000000002000".to_owned(),
        "NoNewPrivs:\t1".to_owned(),
        "0027".to_owned(),
        "/made/for/it".to_owned(),
        "77".to_owned(),
        "500".to_owned(),
        "again".to_owned(),
    ];
    assert_eq!(lines, expected.map(|line| format!("stdout F {line}")));
}

fn has_sys_resource() -> bool {
    let have = rustix::thread::CapabilitySet::SYS_RESOURCE;
    rustix::thread::capability_is_in_bounding_set(have).unwrap()
}

#[tokio::test]
async fn limits_that_may_not_be_raised_are_clamped() {
    let mut scene = Scene::new().await;
    let mut config = scene.config(&["true"]);
    let everything = u64::MAX - 1;
    config["process"]["rlimits"] =
        json!([{"type": "RLIMIT_MSGQUEUE", "soft": everything, "hard": everything}]);
    config["process"]["oomScoreAdj"] = json!(-998);
    let (exit, lines) = scene.run("one", &config).await;
    assert_eq!((exit.code, lines), (0, vec![]));
}

#[tokio::test]
async fn the_working_directory_must_be_inside() {
    let scene = Scene::new().await;
    for directory in ["/proc/self/fd/3", "/proc/self/cwd", "/proc/1/root"] {
        let mut config = scene.config(&["true"]);
        config["process"]["cwd"] = json!(directory);
        refusal(scene.create("one", &config).await.unwrap_err());
    }
}

#[tokio::test]
async fn the_runtime_cannot_be_executed() {
    let scene = Scene::new().await;
    let script = scene.layer.join("bin/again");
    fs::write(&script, "#!/proc/self/exe\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, mode).unwrap();
    let message = refusal(
        scene
            .create("one", &scene.config(&["again"]))
            .await
            .unwrap_err(),
    );
    assert!(message.contains("/proc/self/exe"), "{message}");

    let mut config = scene.config(&["/shim"]);
    add_mount(
        &mut config,
        json!({
            "destination": "/shim", "type": "bind", "source": crate::scene::executable(), "options": ["bind"],
        }),
    );
    let message = refusal(scene.create("one", &config).await.unwrap_err());
    assert!(message.contains("own executable"), "{message}");

    // Nor written, by whoever gets hold of it.
    let shim = format!("/proc/{}/exe", scene.shim.pid());
    let error = fs::OpenOptions::new().write(true).open(shim).unwrap_err();
    assert!(
        matches!(error.raw_os_error(), Some(libc::EROFS | libc::ETXTBSY)),
        "{error}"
    );
}

#[tokio::test]
async fn the_pods_namespaces_are_there() {
    let mut pod = crate::scene::pod();
    pod.sysctls = vec![
        (
            "net.ipv4.ip_unprivileged_port_start".to_owned(),
            "7".to_owned(),
        ),
        ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
    ];
    let mut scene = Scene::with(pod).await;
    let script = "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start \
                  /proc/sys/kernel/shm_rmid_forced; ip -o link | wc -l; \
                  ip -o link | grep -c LOWER_UP; stat -f -c %b /dev/shm; ls /sys/fs/cgroup";
    let config = scene.config(&["sh", "-c", script]);
    let (_, lines) = scene.run("one", &config).await;
    let expected = ["scene", "7", "1", "1", "1", "256"].map(|line| format!("stdout F {line}"));
    assert_eq!(lines[..6], expected, "{lines:#?}");
    let hierarchy = if unified() { "cgroup.procs" } else { "pids" };
    assert!(lines.contains(&format!("stdout F {hierarchy}")));
}

#[tokio::test]
async fn a_pod_that_cannot_be_made_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut pod = crate::scene::pod();
    pod.directory = directory.path().to_owned();
    pod.sysctls = vec![("kernel.core_pattern".to_owned(), "x".to_owned())];
    let launcher = slipway_shim::Launcher::new(&crate::scene::executable()).unwrap();
    let error = launcher.launch(&pod).await.unwrap_err().to_string();
    assert!(error.contains("kernel.core_pattern"), "{error}");

    // As far as the last step, and back.
    pod.sysctls.clear();
    fs::create_dir(directory.path().join("shim.sock")).unwrap();
    let error = launcher.launch(&pod).await.unwrap_err().to_string();
    assert!(error.contains("shim.sock"), "{error}");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(directory.path().to_str().unwrap()));
}

#[tokio::test]
async fn mounts_spread_as_they_are_told() {
    let mut scene = Scene::new().await;
    let volume = scene.path("volume");
    fs::create_dir(&volume).unwrap();
    let _volume = Mounted::shared_tmpfs(&volume);
    for name in ["private", "slave", "shared"] {
        fs::create_dir(volume.join(name)).unwrap();
    }
    fs::create_dir(volume.join("later")).unwrap();
    let script = "mkdir /v/private/in /v/slave/in /v/shared/in
        for name in private slave shared; do mount -t tmpfs tmpfs /v/$name/$name/in; done
        echo ready; until [ -e /v/shared/go ]; do sleep 0.01; done
        for name in private slave shared; do ls /v/$name/later; done";
    let script = script.replace(
        "/v/private/in /v/slave/in /v/shared/in",
        "/v/shared/private/in /v/shared/slave/in /v/shared/shared/in",
    );
    let mut config = scene.config(&["sh", "-c", &script]);
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
    }
    for name in ["private", "slave", "shared"] {
        add_mount(
            &mut config,
            json!({
                "destination": format!("/v/{name}"), "type": "bind", "source": volume,
                "options": ["rbind", format!("r{name}")],
            }),
        );
    }
    scene.start_with("one", &config).await;
    scene.wait_for_line("one", "ready").await;
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let seen = |name: &str| table.contains(volume.join(name).join("in").to_str().unwrap());
    assert_eq!(
        [seen("private"), seen("slave"), seen("shared")],
        [false, false, true]
    );

    let _later = Mounted::shared_tmpfs(&volume.join("later"));
    fs::write(volume.join("later/found"), "").unwrap();
    fs::write(volume.join("go"), "").unwrap();
    scene.exit("one").await;
    let found = scene
        .lines("one")
        .iter()
        .filter(|line| line.ends_with("found"))
        .count();
    assert_eq!(found, 2, "{:#?}", scene.lines("one"));
    let _ = rustix::mount::unmount(
        volume.join("shared/in"),
        rustix::mount::UnmountFlags::DETACH,
    );
}

/// A tmpfs of the node that shares what is mounted in it.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn shared_tmpfs(path: &std::path::Path) -> Self {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", path, "tmpfs", flags, None).unwrap();
        let mounted = Self(path.to_owned());
        rustix::mount::mount_change(path, rustix::mount::MountPropagationFlags::SHARED).unwrap();
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn many_layers_fit_and_the_last_is_on_top() {
    let mut scene = Scene::new().await;
    let mut create = scene.bundle_of("one", &scene.config(&["cat", "/which"]));
    for number in 0..128 {
        let layer = scene.path(&format!("{number:0>200}"));
        fs::create_dir(&layer).unwrap();
        fs::write(layer.join("which"), format!("{number}\n")).unwrap();
        create.rootfs.lower.push(layer);
    }
    scene.shim.create(create).await.unwrap();
    scene.shim.start("one").await.unwrap();
    scene.exit("one").await;
    assert_eq!(scene.lines("one"), ["stdout F 127"]);
}
