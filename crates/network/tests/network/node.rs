//! A node of its own for each test: a network namespace in the host's place, with a scratch
//! directory, and pods' network namespaces. All of it is held by descriptors of the test process,
//! so that nothing is left behind however the test ends.

use std::fs::{self, File};
use std::future::Future;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use serde_json::{Value, json};
use slipway_network::{Attachment, Config, Network};
use tempfile::TempDir;

/// Where Debian's containernetworking-plugins are.
const REAL_PLUGINS: &str = "/usr/lib/cni";

pub(crate) struct Node {
    pub(crate) directory: TempDir,
    runtime: tokio::runtime::Runtime,
}

/// A pod's network namespace.
pub(crate) struct Namespace(File);

impl Namespace {
    pub(crate) fn new() -> Self {
        let made = thread::spawn(|| {
            new_network_namespace();
            File::open("/proc/thread-self/ns/net").expect("the namespace's file")
        });
        Self(made.join().expect("a namespace"))
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// Runs a function on a thread in the namespace.
    pub(crate) fn enter<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("a network namespace to enter");
            function()
        };
        thread::scope(|scope| scope.spawn(inside).join().expect("no panic"))
    }

    /// What a command prints that runs in the namespace.
    pub(crate) fn output(&self, command: &[&str]) -> String {
        self.enter(|| run(command))
    }
}

/// A process that ends with the test, whichever way that goes.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(
            command
                .spawn()
                .unwrap_or_else(|error| panic!("{command:?}: {error}")),
        )
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Moves the calling thread into a network namespace of its own.
fn new_network_namespace() {
    // SAFETY: a new network namespace takes no descriptors from other threads.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
        .expect("a new network namespace; this test needs root");
}

/// Runs a test on a node of its own.
pub(crate) fn on_a_node(test: impl FnOnce(&Node) + Send) {
    let run = || {
        new_network_namespace();
        run(&["ip", "link", "set", "lo", "up"]);
        test(&Node::new());
    };
    thread::scope(|scope| {
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// What a command prints that runs in the calling thread's namespace.
pub(crate) fn run(command: &[&str]) -> String {
    let output = Command::new(command[0])
        .args(&command[1..])
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

impl Node {
    /// A node on the calling thread. Threads of its runtime inherit the network namespace.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("net.d")).expect("created");
        fs::create_dir(directory.path().join("notes")).expect("created");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        Self { directory, runtime }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Writes a configuration list with these plugins and opens the network.
    pub(crate) fn network(&self, plugins: &[Value]) -> Network {
        self.network_of_version("1.0.0", plugins)
    }

    pub(crate) fn network_of_version(&self, version: &str, plugins: &[Value]) -> Network {
        self.configure(version, plugins);
        self.open()
    }

    pub(crate) fn configure(&self, version: &str, plugins: &[Value]) {
        let list = json!({"cniVersion": version, "name": "pods", "plugins": plugins});
        fs::write(self.path("net.d/10-pods.conflist"), list.to_string()).expect("written");
    }

    /// The network as a daemon opens it that starts now.
    pub(crate) fn open(&self) -> Network {
        open(self.directory.path())
    }

    /// A plugin that notes its calls, and does `on_add` and `on_del`.
    pub(crate) fn fake(&self, tag: &str, on_add: &str, on_del: &str) -> Value {
        let notes = self.path("notes");
        json!({"type": "fake", "tag": tag, "notes": notes, "on_add": on_add, "on_del": on_del})
    }

    /// The calls of fake plugins so far.
    pub(crate) fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("notes/calls")).unwrap_or_default();
        calls.lines().map(str::to_string).collect()
    }

    /// What a fake plugin was given.
    pub(crate) fn given(&self, tag: &str, command: &str) -> Value {
        let path = self.path(&format!("notes/{tag}.{command}.json"));
        let content = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_slice(&content).expect("JSON")
    }

    /// The bridge plugin, with addresses of both families from host-local.
    pub(crate) fn bridge(&self) -> Value {
        json!({
            "type": "bridge",
            "bridge": "br0",
            "isGateway": true,
            "ipMasq": true,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": self.path("addresses"),
                "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        })
    }

    /// The addresses that host-local has handed out and not got back.
    pub(crate) fn allocated(&self) -> Vec<String> {
        let Ok(files) = fs::read_dir(self.path("addresses/pods")) else {
            return Vec::new();
        };
        let names = files.map(|file| file.expect("a file").file_name());
        let names = names.map(|name| name.into_string().expect("text"));
        names
            .filter(|name| name.starts_with("10.") || name.starts_with("fd77"))
            .collect()
    }
}

/// The network whose state is under a node's directory.
pub(crate) fn open(directory: &Path) -> Network {
    assert!(
        Path::new(REAL_PLUGINS).join("bridge").exists(),
        "no CNI plugins in {REAL_PLUGINS}: install Debian's containernetworking-plugins"
    );
    let fakes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plugins");
    let config = Config {
        conf_dir: directory.join("net.d"),
        bin_dirs: vec![fakes, REAL_PLUGINS.into()],
        plugin_timeout: 20,
        conf_template: None,
    };
    Network::new(config, directory.join("cache"))
}

/// A pod with this id, in this namespace.
pub(crate) fn pod(id: &str, namespace: &Namespace) -> Attachment {
    Attachment {
        pod_id: id.into(),
        name: "web-0".into(),
        namespace: "shop".into(),
        uid: "5e0f".into(),
        netns: namespace.path(),
        ..Attachment::default()
    }
}
