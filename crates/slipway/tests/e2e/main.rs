//! The promises to a kubelet and to the people at a terminal, against the real daemon, a real
//! registry, the real CNI plugins and this kernel. Each test has a node of its own and looks for
//! leaks at its end.
//!
//! They need root and the packages that `cargo xtask test` names, and `slipway-shim` built beside
//! `slipway`.

mod adoption;
mod authority;
mod cdi;
mod cgroup_driver;
mod check;
mod checkpoint;
mod client;
mod config;
mod container;
mod dashboards;
mod device;
mod disk;
mod docker;
mod docker_checkpoint;
mod docker_failures;
mod docker_logs;
mod events;
mod exec;
mod handler;
mod image;
mod import;
mod leaving;
mod lists;
mod log;
mod machine;
mod metrics;
mod mount;
mod namespace;
mod notify;
mod pod;
mod pod_cidr;
mod port_forward;
mod prometheus;
mod resource;
mod restart;
mod rollout;
mod seccomp;
mod security;
mod serve;
mod session;
mod stats;
mod streaming_port;
mod traces;
mod troubleshooting;
mod v1alpha2;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use slipway_testbed::{Engine, Image, Node, Pushed, eventually, read_log, slipway_binary};
use tonic::{Code, Status};

/// Whether this run of the suite is for pods on Docker (`SLIPWAY_TEST_ENGINE=docker`). A test, or
/// the rest of one, that cannot hold there says why where it asks.
fn on_docker() -> bool {
    Engine::under_test() == Engine::Docker
}

/// Whether a test ends here because it cannot hold for Docker; says why.
fn not_on_docker(why: &str) -> bool {
    if on_docker() {
        println!("not on Docker: {why}");
    }
    on_docker()
}

/// Whether a test ends here because Docker gives a privileged container all capabilities that there
/// are, and its daemon has not got all of them.
fn docker_lacks_a_capability() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let own = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
    let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
    let all = (1 << (last.trim().parse::<u32>().unwrap() + 1)) - 1;
    own & all != all && not_on_docker("dockerd lacks a capability that privileged containers get")
}

/// How long a container may take to say that it is ready.
const READY: Duration = Duration::from_secs(20);

/// A node that has pulled busybox.
async fn node() -> (Node, String) {
    let node = Node::start().await.unwrap();
    let Pushed { reference, .. } = node.provide("busybox:1", &Image::busybox()).await.unwrap();
    (node, reference)
}

/// Waits until a container's log says `ready`.
async fn ready(log: &Path) {
    eventually("the container to be ready", READY, async || {
        let lines = read_log(log);
        Ok(lines.iter().any(|line| line.text.trim_end() == "ready"))
    })
    .await
    .unwrap();
}

/// A copy of the binary that any user may run: the build's own directory need not be open to
/// everybody.
fn for_everybody(directory: &Path) -> PathBuf {
    let binary = directory.join("slipway");
    // By another process, for a file that this one has written cannot be executed while another
    // thread's child has it open.
    let mut copy = Command::new("cp");
    let copied = copy.arg(slipway_binary().unwrap()).arg(&binary).status();
    assert!(copied.unwrap().success());
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    binary
}

/// The status of a call that must be refused; its message has to have all of the words.
#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, words: &[&str]) -> Status {
    let status = answer.expect_err("the call must be refused");
    assert_eq!(status.code(), code, "{status:?}");
    for word in words {
        assert!(
            status.message().contains(word),
            "{word:?} is not in: {}",
            status.message()
        );
    }
    status
}
