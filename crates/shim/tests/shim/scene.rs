//! A pod on the real kernel: a directory, cgroups, a root file system made from busybox, a shim.
//! Everything is taken back when it is dropped, also by a test that fails.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use slipway_shim::protocol::{Create, Event, Exit, Overlay, Phase, Pod, Record};
use slipway_shim::{Launcher, Shim};
use tokio::sync::mpsc::UnboundedReceiver;

/// How long anything may take here before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// The applets that the root file system has.
const APPLETS: [&str; 24] = [
    "sh", "cat", "echo", "sleep", "true", "false", "ls", "id", "env", "dd", "mkdir", "touch", "ps",
    "hostname", "mount", "seq", "stat", "ip", "wc", "grep", "kill", "tty", "stty", "setsid",
];

pub(crate) struct Scene {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) shim: Shim,
    pub(crate) events: UnboundedReceiver<Event>,
    pub(crate) layer: PathBuf,
    pub(crate) cgroups: Vec<PathBuf>,
    pub(crate) name: String,
}

impl Drop for Scene {
    fn drop(&mut self) {
        // The shim first: it is our child, so its number is its own until it is reaped.
        let pid = rustix::process::Pid::from_raw(self.shim.pid()).unwrap();
        if is_shim(self.shim.pid()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        for cgroup in &self.cgroups {
            clear(cgroup);
        }
        for pin in ["net", "ipc", "uts", "pid", "user"] {
            let _ = rustix::mount::unmount(
                self.directory.path().join("ns").join(pin),
                rustix::mount::UnmountFlags::DETACH,
            );
        }
        let _ = rustix::mount::unmount(
            self.directory.path().join("shm"),
            rustix::mount::UnmountFlags::DETACH,
        );
    }
}

fn is_shim(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "slipway-shim\n")
}

/// Kills everything in a cgroup and removes it.
fn clear(cgroup: &Path) {
    for _ in 0..2000 {
        if fs::remove_dir(cgroup).is_ok() || !cgroup.exists() {
            return;
        }
        let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines().filter_map(|line| line.parse().ok()) {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    eprintln!("{} could not be removed", cgroup.display());
}

/// The pod of most tests.
pub(crate) fn pod() -> Pod {
    Pod {
        id: "test".to_owned(),
        directory: PathBuf::new(),
        network: true,
        ipc: true,
        hostname: Some("scene".to_owned()),
        shared_pid: false,
        shm_size: Some(1 << 20),
        sysctls: Vec::new(),
        user: None,
    }
}

/// The executable under test: the one built with these tests, or another one.
pub(crate) fn executable() -> PathBuf {
    std::env::var_os("SLIPWAY_SHIM")
        .map_or_else(|| env!("CARGO_BIN_EXE_slipway-shim").into(), PathBuf::from)
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with(pod()).await
    }

    pub(crate) async fn with(mut pod: Pod) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests create containers: run as root"
        );
        let directory = tempfile::Builder::new()
            .prefix("slipway-shim-")
            .tempdir()
            .unwrap();
        pod.directory = directory.path().to_owned();
        let launcher = Launcher::new(&executable()).unwrap();
        let shim = launcher.launch(&pod).await.unwrap();
        let (_, events) = shim.subscribe().await.unwrap();
        let name = directory
            .path()
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let cgroups = make_cgroups(&name);
        let layer = directory.path().join("layer");
        make_layer(&layer);
        Self {
            directory,
            shim,
            events,
            layer,
            cgroups,
            name,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn bundle(&self, container: &str) -> PathBuf {
        self.path("containers").join(container)
    }

    pub(crate) fn cgroup(&self, hierarchy: &str) -> PathBuf {
        let found = self
            .cgroups
            .iter()
            .find(|path| unified() || path.starts_with(format!("/sys/fs/cgroup/{hierarchy}")));
        found
            .unwrap_or_else(|| panic!("no {hierarchy} hierarchy on this machine"))
            .clone()
    }

    pub(crate) fn log(&self, container: &str) -> String {
        fs::read_to_string(self.bundle(container).join("0.log")).unwrap_or_default()
    }

    /// The text of a log, without its times.
    pub(crate) fn lines(&self, container: &str) -> Vec<String> {
        let log = self.log(container);
        log.lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    /// A configuration that runs `args`.
    pub(crate) fn config(&self, args: &[&str]) -> Value {
        let capabilities = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SYS_RESOURCE"];
        json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": args,
                "env": ["PATH=/bin"],
                "cwd": "/",
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
                "noNewPrivileges": true,
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc",
                 "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                 "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs",
                 "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                 "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
                {"destination": "/dev/shm", "type": "bind", "source": self.path("shm"),
                 "options": ["rbind", "rprivate", "rw"]},
            ],
            "linux": {
                "namespaces": [
                    {"type": "pid"}, {"type": "mount"}, {"type": "cgroup"},
                    {"type": "network", "path": self.path("ns/net")},
                    {"type": "ipc", "path": self.path("ns/ipc")},
                    {"type": "uts", "path": self.path("ns/uts")},
                ],
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware"],
                "readonlyPaths": ["/proc/bus", "/proc/sys", "/proc/sysrq-trigger"],
            },
        })
    }

    /// What to ask the shim for; the bundle is on disk afterwards.
    pub(crate) fn bundle_of(&self, container: &str, config: &Value) -> Create {
        let bundle = self.bundle(container);
        for name in ["upper", "work"] {
            fs::create_dir_all(bundle.join(name)).unwrap();
        }
        fs::write(
            bundle.join("config.json"),
            serde_json::to_vec(config).unwrap(),
        )
        .unwrap();
        Create {
            container: container.to_owned(),
            rootfs: Overlay {
                lower: vec![self.layer.clone()],
                upper: bundle.join("upper"),
                work: bundle.join("work"),
                label: None,
            },
            cgroups: self.cgroups.clone(),
            oom_events: Some(self.cgroup("memory").join(if unified() {
                "memory.events"
            } else {
                "memory.oom_control"
            })),
            log: Some(bundle.join("0.log")),
            terminal: false,
            stdin: false,
            runtime: None,
            target: None,
            bundle,
        }
    }

    pub(crate) async fn create(
        &self,
        container: &str,
        config: &Value,
    ) -> Result<i32, slipway_shim::Error> {
        self.shim.create(self.bundle_of(container, config)).await
    }

    /// Creates and starts a container that runs `args`.
    pub(crate) async fn start(&self, container: &str, args: &[&str]) -> i32 {
        self.start_with(container, &self.config(args)).await
    }

    pub(crate) async fn start_with(&self, container: &str, config: &Value) -> i32 {
        let pid = self.create(container, config).await.unwrap();
        self.shim.start(container).await.unwrap();
        pid
    }

    /// Runs a container to its end; gives its exit and its log.
    pub(crate) async fn run(&mut self, container: &str, config: &Value) -> (Exit, Vec<String>) {
        self.start_with(container, config).await;
        let exit = self.exit(container).await;
        (exit, self.lines(container))
    }

    /// The next event but those of starts, which the tests know of already.
    pub(crate) async fn event(&mut self) -> Event {
        loop {
            let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
            let event = event.expect("no event came").expect("the shim is gone");
            if !matches!(event, Event::Started(_)) {
                return event;
            }
        }
    }

    /// Waits for a container's end.
    pub(crate) async fn exit(&mut self, container: &str) -> Exit {
        loop {
            if let Event::Exited(record) = self.event().await
                && record.container == container
            {
                let Phase::Exited { exit, .. } = record.phase else {
                    panic!("exited, but {record:?}")
                };
                assert_eq!(self.state(container), Some(record), "state.json is behind");
                return exit;
            }
        }
    }

    /// The record on disk.
    pub(crate) fn state(&self, container: &str) -> Option<Record> {
        let text = fs::read(self.bundle(container).join("state.json")).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    /// Waits until a log has a line that ends like this.
    pub(crate) async fn wait_for_line(&self, container: &str, end: &str) {
        let seen = async {
            while !self.lines(container).iter().any(|line| line.ends_with(end)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let seen = tokio::time::timeout(PATIENCE, seen).await;
        assert!(
            seen.is_ok(),
            "the log has no {end:?}: {:?}",
            self.lines(container)
        );
    }

    /// What the node's mount table has of this scene.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table
            .lines()
            .filter(|line| line.contains(&self.name))
            .map(str::to_owned)
            .collect()
    }

    /// Every process that is in the container's cgroup.
    pub(crate) fn processes(&self) -> String {
        fs::read_to_string(self.cgroup("pids").join("cgroup.procs")).unwrap()
    }
}

/// Whether this machine has cgroup v2 alone.
pub(crate) fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn make_cgroups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = [
        "cpu", "cpuacct", "memory", "devices", "freezer", "blkio", "pids", "systemd",
    ];
    let cgroups: Vec<PathBuf> = if unified() {
        vec![root.join(name)]
    } else {
        let hierarchies = hierarchies.iter().map(|hierarchy| root.join(hierarchy));
        let present = hierarchies.filter(|path| path.exists());
        present.map(|path| path.join(name)).collect()
    };
    for cgroup in &cgroups {
        fs::create_dir(cgroup).unwrap();
    }
    cgroups
}

fn make_layer(layer: &Path) {
    for directory in ["bin", "etc", "tmp"] {
        fs::create_dir_all(layer.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", layer.join("bin/busybox"))
        .expect("these tests need /bin/busybox (Debian's busybox-static)");
    for applet in APPLETS {
        symlink("busybox", layer.join("bin").join(applet)).unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n";
    fs::write(layer.join("etc/passwd"), passwd).unwrap();
}
