//! Pod networks through the Container Network Interface (CNI).
//!
//! A [`Network`] attaches a pod's network namespace to the network that the node's administrator
//! or network add-on has configured, and detaches it again, by running the chain of plugins that a
//! configuration list names. It follows the CNI specification, versions 0.1.0 to 1.1.0, and chooses
//! among several configurations as libcni does: in lexical order, the first that is valid.
//!
//! What holds whatever happens:
//!
//! - An [`add`](Network::add) either gives a pod its addresses or leaves nothing behind. Before the
//!   first plugin runs, the configuration and the pod's parameters are on disk; a daemon that is
//!   killed in the middle finds them with [`cached`](Network::cached) and takes the half-made
//!   attachment back with [`delete`](Network::delete).
//! - `delete` uses what `add` used, although the configuration may have changed since, or the
//!   network namespace may be gone.
//! - Operations on one pod exclude one another, also across a restart of the daemon: a plugin that
//!   a killed daemon has left running is waited for.
//! - A caller that goes away changes nothing: the operation runs to its end on its own thread.
//!
//! The sandbox's `lo` is not touched here: it belongs to whoever made the network namespace.
//!
//! Limitations: `CHECK`, `STATUS` and `GC` are not called, and plugins are read only from the list
//! itself, not from a directory beside it (`loadOnlyInlinedPlugins` of version 1.1.0).
#![forbid(unsafe_code)]

mod adoption;
mod attachment;
mod cache;
mod catalog;
mod chain;
mod config;
mod conflist;
mod error;
mod executed;
mod interfaces;
mod metrics;
mod network;
mod plugin;
mod pod_cidr;
mod port;
mod result;
mod template;

pub use attachment::{Attachment, Dns, PortMapping, Protocol};
pub use config::Config;
pub use error::{Error, PluginFailure, Problem};
pub use interfaces::{Interface, Traffic, interfaces, usage};
pub use metrics::Metrics;
pub use network::{Attached, Network};
pub use plugin::Command;
pub use port::{PortError, connect_to_loopback};
