//! Logs of containers whose files do not behave.

use std::fs;

use crate::scene::Scene;
use serde_json::json;

#[tokio::test]
async fn long_lines_come_in_parts() {
    let mut scene = Scene::new().await;
    let script = "dd if=/dev/zero bs=20000 count=1 2>/dev/null; echo; echo short";
    let config = scene.config(&["sh", "-c", script]);
    let (_, lines) = scene.run("one", &config).await;
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0].len(), "stdout P ".len() + 16384);
    assert_eq!(lines[1].len(), "stdout F ".len() + 20000 - 16384);
    assert_eq!(lines[2], "stdout F short");
}

#[tokio::test]
async fn rotation_loses_nothing() {
    let scene = Scene::new().await;
    let config = scene.config(&["sh", "-c", "seq 1 30000; echo end; sleep 1000"]);
    scene.start_with("one", &config).await;
    let log = scene.bundle("one").join("0.log");
    let rotated = |number: usize| log.with_extension(format!("log.{number}"));
    for number in 0..5 {
        fs::rename(&log, rotated(number)).unwrap();
        scene.shim.reopen_log("one").await.unwrap();
    }
    let read = || {
        let paths = (0..5).map(rotated).chain([log.clone()]);
        paths
            .map(|path| fs::read_to_string(path).unwrap())
            .collect::<String>()
    };
    let complete = async {
        while !read().ends_with(" end\n") {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), complete)
        .await
        .unwrap();
    let text = read();
    let mut lines: Vec<&str> = text
        .lines()
        .map(|line| line.rsplit(' ').next().unwrap())
        .collect();
    lines.pop();
    let expected: Vec<String> = (1..=30000).map(|number| number.to_string()).collect();
    assert!(lines == expected, "{} lines", lines.len());
}

#[tokio::test]
async fn a_full_disk_stops_nobody() {
    let mut scene = Scene::new().await;
    let disk = scene.path("disk");
    fs::create_dir(&disk).unwrap();
    let _mounted = Mounted::tmpfs(&disk, c"size=64k");
    let script = "seq 1 100000; until [ -e /signal/stop ]; do echo after; sleep 0.001; done";
    let signal = scene.path("signal");
    fs::create_dir(&signal).unwrap();
    let mut config = scene.config(&["sh", "-c", script]);
    config["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/signal", "type": "bind", "source": signal, "options": ["bind"],
    }));
    let mut create = scene.bundle_of("one", &config);
    create.log = Some(disk.join("0.log"));
    scene.shim.create(create).await.unwrap();
    scene.shim.start("one").await.unwrap();
    // As much as there is room for, and in the end no half line.
    let full = async {
        let text = || fs::read_to_string(disk.join("0.log")).unwrap();
        while text().len() < 60_000 || !text().ends_with('\n') {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), full)
        .await
        .unwrap();
    // The container goes on, and when space has come back, so does its log.
    let log = disk.join("0.log");
    let resumed = async {
        while !fs::read_to_string(&log)
            .unwrap()
            .ends_with("stdout F after\n")
        {
            fs::remove_file(&log).unwrap();
            scene.shim.reopen_log("one").await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), resumed)
        .await
        .unwrap();
    fs::write(signal.join("stop"), "").unwrap();
    assert_eq!(scene.exit("one").await.code, 0);
}

#[tokio::test]
async fn a_missing_directory_stops_nobody() {
    let mut scene = Scene::new().await;
    let mut create = scene.bundle_of("one", &scene.config(&["seq", "1", "100000"]));
    create.log = Some(scene.path("nowhere/0.log"));
    scene.shim.create(create).await.unwrap();
    scene.shim.reopen_log("one").await.unwrap_err();
    scene.shim.start("one").await.unwrap();
    assert_eq!(scene.exit("one").await.code, 0);
}

#[tokio::test]
async fn a_link_in_place_of_the_log_is_not_followed() {
    let mut scene = Scene::new().await;
    let create = scene.bundle_of("one", &scene.config(&["echo", "hello"]));
    let victim = scene.path("victim");
    fs::write(&victim, "").unwrap();
    std::os::unix::fs::symlink(&victim, scene.bundle("one").join("0.log")).unwrap();
    scene.shim.create(create).await.unwrap();
    scene.shim.start("one").await.unwrap();
    scene.exit("one").await;
    assert_eq!(fs::read_to_string(victim).unwrap(), "");
}

#[tokio::test]
async fn a_terminal_is_one() {
    let mut scene = Scene::new().await;
    let mut config = scene.config(&["sh", "-c", "tty; stat -c %F /dev/console"]);
    config["process"]["terminal"] = json!(true);
    let mut create = scene.bundle_of("one", &config);
    create.terminal = true;
    scene.shim.create(create).await.unwrap();
    scene.shim.start("one").await.unwrap();
    assert_eq!(scene.exit("one").await.code, 0);
    let expected = ["stdout F /dev/pts/0\r", "stdout F character special file\r"];
    // str::lines takes the carriage return for a part of the line's end.
    assert_eq!(
        scene.lines("one"),
        expected.map(|line| line.trim_end().to_owned())
    );
}

struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(path: &std::path::Path, data: &std::ffi::CStr) -> Self {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", path, "tmpfs", flags, data).unwrap();
        Self(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}
