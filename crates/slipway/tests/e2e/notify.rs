//! What the daemon tells the service manager that started it: sd_notify(3).

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use slipway_testbed::{Cri, Image, Node, Scratch, pod};

/// Longer than anything that is waited for takes.
const LONG: Duration = Duration::from_secs(30);

/// How often the service manager of these tests wants to hear of the daemon.
const WATCHDOG: Duration = Duration::from_millis(1500);

/// A service manager's end.
struct Manager(UnixDatagram);

impl Manager {
    fn path(scratch: &Scratch) -> PathBuf {
        scratch.join("notify")
    }

    fn new(scratch: &Scratch) -> Self {
        Self(UnixDatagram::bind(Self::path(scratch)).unwrap())
    }

    /// The next message; none if there is none for so long.
    fn next(&self, limit: Duration) -> Option<String> {
        let mut buffer = [0; 4096];
        self.0.set_read_timeout(Some(limit)).unwrap();
        match self.0.recv(&mut buffer) {
            Ok(size) => Some(String::from_utf8_lossy(&buffer[..size]).into_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits for a message that begins so; returns it with those before it.
    fn until(&self, beginning: &str) -> Vec<String> {
        let mut messages = Vec::new();
        let deadline = Instant::now() + LONG;
        while !messages
            .last()
            .is_some_and(|last: &String| last.starts_with(beginning))
        {
            let left = deadline.saturating_duration_since(Instant::now());
            let next = self.next(left.max(Duration::from_millis(1)));
            messages.push(next.unwrap_or_else(|| panic!("no {beginning} after {messages:?}")));
        }
        messages
    }
}

/// A node whose daemon has such a service manager, and that one.
async fn managed(watchdog: Option<Duration>) -> (Node, Manager) {
    let mut manager = None;
    let node = Node::start_with(|daemon| {
        let scratch = daemon.scratch().clone();
        manager = Some(Manager::new(&scratch));
        let daemon = daemon.env("NOTIFY_SOCKET", Manager::path(&scratch));
        match watchdog {
            None => daemon,
            Some(period) => daemon.env("WATCHDOG_USEC", period.as_micros().to_string()),
        }
    })
    .await
    .unwrap();
    (node, manager.unwrap())
}

#[tokio::test]
async fn ready_is_said_once_the_socket_answers_and_stopping_at_the_end() {
    let (mut node, manager) = managed(None).await;
    let said = manager.until("READY=1");
    assert!(said[0].starts_with("STATUS="), "{said:?}");
    node.daemon.stop().unwrap();
    let said = manager.until("STOPPING=1");
    assert_eq!(said.len(), 1, "{said:?}");
    node.daemon.restart().await.unwrap();
    manager.until("READY=1");
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_reload_is_said_with_its_end_whether_or_not_it_succeeds() {
    let (node, manager) = managed(None).await;
    manager.until("READY=1");
    let daemon = Pid::from_raw(node.daemon.pid()).unwrap();
    for text in ["log_level = \"debug\"\n", "log_level = \"loud\"\n"] {
        std::fs::write(node.scratch.join("config.toml"), text).unwrap();
        kill_process(daemon, Signal::HUP).unwrap();
        let said = manager.until("READY=1");
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[0].starts_with("RELOADING=1\nMONOTONIC_USEC="),
            "{said:?}"
        );
    }
    node.finish().await.unwrap();
}

#[tokio::test]
async fn nothing_is_ready_while_pods_are_still_looked_for() {
    let (mut node, manager) = managed(None).await;
    manager.until("READY=1");
    node.cri().run_pod(&node.pod("silent")).await.unwrap();
    let shim = shim_of(&node);
    node.daemon.kill9();
    // Its answer is what the start of the daemon waits for.
    kill_process(shim, Signal::STOP).unwrap();
    let socket = node.scratch.join("slipway.sock");
    let waiting = tokio::task::spawn_blocking(move || {
        manager.until("STATUS=Looking");
        let early = manager.next(Duration::from_secs(1));
        kill_process(shim, Signal::CONT).unwrap();
        assert_eq!(early, None);
        manager.until("READY=1");
    });
    let answered = async {
        waiting.await.unwrap();
        // At once, and not after a while.
        Cri::new(&socket).version().await.unwrap();
    };
    let (restarted, ()) = tokio::join!(node.daemon.restart(), answered);
    restarted.unwrap();
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_does_not_start_is_never_ready() {
    let (mut node, manager) = managed(None).await;
    manager.until("READY=1");
    let (root, state) = (node.daemon.root(), node.daemon.state());
    let output = std::process::Command::new(slipway_testbed::slipway_binary().unwrap())
        .args(["serve", "--listen", "unix:///nonexistent/other.sock"])
        .arg("--root")
        .arg(root)
        .arg("--state")
        .arg(state)
        .env("NOTIFY_SOCKET", Manager::path(&node.scratch))
        .output()
        .unwrap();
    assert!(!output.status.success());
    node.daemon.stop().unwrap();
    let said = manager.until("STOPPING=1").join("\n");
    assert!(!said.contains("READY"), "{said}");
    node.daemon.restart().await.unwrap();
    node.finish().await.unwrap();
}

#[tokio::test]
async fn the_watchdog_hears_of_a_daemon_only_while_its_socket_answers() {
    let (node, manager) = managed(Some(WATCHDOG)).await;
    manager.until("READY=1");
    let begin = Instant::now();
    for _ in 0..3 {
        manager.until("WATCHDOG=1");
    }
    assert!(begin.elapsed() < WATCHDOG * 2, "{:?}", begin.elapsed());

    let socket = node.cri().socket().to_owned();
    let aside = socket.with_extension("aside");
    std::fs::rename(&socket, &aside).unwrap();
    // One that was on its way.
    while manager.next(WATCHDOG / 10).is_some() {}
    let silent = manager.next(WATCHDOG);
    std::fs::rename(&aside, &socket).unwrap();
    assert_eq!(silent, None);
    manager.until("WATCHDOG=1");
    node.finish().await.unwrap();
}

#[tokio::test]
async fn nobody_that_the_daemon_starts_can_speak_in_its_name() {
    let mut seen = None;
    let node = Node::start_with(|daemon| {
        let scratch = daemon.scratch().clone();
        let plugins = scratch.join("plugins");
        std::fs::create_dir(&plugins).unwrap();
        let told = scratch.join("environment");
        let script = format!(
            "#!/bin/sh\nenv >>{}\n[ $CNI_COMMAND != ADD ] || echo '{{\"cniVersion\":\"1.0.0\"}}'\n",
            told.display()
        );
        let plugin = plugins.join("tells");
        std::fs::write(&plugin, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&plugin, mode).unwrap();
        let notify = Manager::path(&scratch);
        seen = Some((Manager::new(&scratch), told));
        daemon
            .argument("--cni-bin-dir")
            .argument(plugins)
            .env("NOTIFY_SOCKET", notify)
            .env("WATCHDOG_USEC", "60000000")
    })
    .await
    .unwrap();
    let (_manager, told) = seen.unwrap();
    let conflist = node.cni.conflist().unwrap();
    let chain = conflist.replacen(
        "\"plugins\": [",
        "\"plugins\": [{ \"type\": \"tells\" },",
        1,
    );
    assert_ne!(chain, conflist);
    node.cni.write_conflist(&chain).unwrap();
    let image = node.provide("busybox:1", &Image::busybox()).await.unwrap();
    let config = node.pod("curious");
    let sandbox = node.cri().run_pod(&config).await.unwrap();
    let sleeper = pod::sleeper("main", &image.reference);
    let id = node
        .cri()
        .launch(&sandbox, &config, &sleeper)
        .await
        .unwrap();
    let inside = node.cri().exec(&id, &["env"]).await.unwrap();
    let shim = shim_of(&node).as_raw_nonzero();
    let environments = [
        std::fs::read_to_string(told).unwrap(),
        std::fs::read_to_string(format!("/proc/{shim}/environ")).unwrap(),
        String::from_utf8(inside.stdout).unwrap(),
    ];
    assert!(environments[0].contains("CNI_COMMAND"));
    for environment in environments {
        assert!(!environment.contains("NOTIFY_SOCKET"), "{environment}");
        assert!(!environment.contains("WATCHDOG"), "{environment}");
    }
    node.finish().await.unwrap();
}

/// The only shim of a node.
fn shim_of(node: &Node) -> Pid {
    let processes = node.daemon.pod_processes();
    let mut shims = processes.iter().filter(|(_, group)| group.is_none());
    let (Some((pid, _)), None) = (shims.next(), shims.next()) else {
        panic!("not one shim: {processes:?}");
    };
    Pid::from_raw(*pid).unwrap()
}
