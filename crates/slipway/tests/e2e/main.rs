//! The promises to a kubelet and to the people at a terminal, against the real daemon, a real
//! registry, the real CNI plugins and this kernel. Each test has a node of its own and looks for
//! leaks at its end.
//!
//! They need root and the packages that `cargo xtask test` names, and `slipway-shim` built beside
//! `slipway`.

mod authority;
mod cdi;
mod cgroup_driver;
mod checkpoint;
mod client;
mod config;
mod container;
mod device;
mod disk;
mod events;
mod exec;
mod handler;
mod image;
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
mod resource;
mod restart;
mod seccomp;
mod security;
mod serve;
mod session;
mod stats;
mod streaming_port;

use slipway_testbed::{Image, Node, Pushed};
use tonic::{Code, Status};

/// A node that has pulled busybox.
async fn node() -> (Node, String) {
    let node = Node::start().await.unwrap();
    let Pushed { reference, .. } = node.provide("busybox:1", &Image::busybox()).await.unwrap();
    (node, reference)
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
