//! A Kubernetes node without a kubelet, in a scratch directory: a real registry, a real CNI
//! configuration, a container runtime (Slipway's daemon, or containerd to compare it with) and the
//! means to see that nothing was left behind.
//!
//! Everything that a test needs hangs on a [`Scratch`], which owns a number that no other living
//! test has; its directory, bridge, subnet, host ports and cgroup derive from that number. Parts
//! are given back in the reverse order when they are dropped, also while a test panics. What a
//! test process that was killed could not give back, the next one does: see [`Scratch::new`].
//!
//! ```no_run
//! # async fn test() -> anyhow::Result<()> {
//! use slipway_testbed::{Image, Node, pod, read_log};
//!
//! let node = Node::start().await?;
//! let image = node.provide("busybox:1", &Image::busybox()).await?;
//! let cri = node.cri();
//! let config = node.pod("hello");
//! let pod_id = cri.run_pod(&config).await?;
//! let container = pod::shell("main", &image.reference, "echo hello; exit 3");
//! let id = cri.launch(&pod_id, &config, &container).await?;
//! assert_eq!(cri.wait_for_exit(&id).await?.exit_code, 3);
//! assert_eq!(read_log(&pod::log_path(&config, &container))[0].text, "hello");
//! node.finish().await
//! # }
//! ```
//!
//! All of this needs root, and the Debian packages that `cargo xtask test` names.
#![forbid(unsafe_code)]

mod cgroup;
mod cni;
mod containerd;
mod cri;
mod daemon;
mod disk;
mod docker;
mod docker_proxy;
mod http;
mod image;
mod kubernetes;
mod layer;
pub mod leaks;
mod log;
mod mount;
mod node;
pub mod pod;
pub mod process;
mod registry;
mod runtime;
mod scratch;
mod slow_plugin;
mod systemd;
mod wait;

pub use cni::Cni;
pub use containerd::Containerd;
pub use cri::Cri;
pub use daemon::{Daemon, DaemonBuilder, slipway_binary};
pub use disk::SmallDisk;
pub use docker::{CgroupDriver, Docker};
pub use docker_proxy::{Asked, DockerProxy, Fate, When};
pub use image::{Compression, Format, Image};
pub use kubernetes::{Asked as KubernetesRequest, Fault, KubernetesServer};
pub use layer::Layer;
pub use log::{LogLine, read_log};
pub use node::{Engine, Node};
pub use registry::{PASSWORD, Pushed, Registry, USER};
pub use runtime::Runtime;
pub use scratch::Scratch;
pub use slow_plugin::SlowPlugin;
pub use systemd::{FakeSystemd, Properties};
pub use wait::{eventually, within};
