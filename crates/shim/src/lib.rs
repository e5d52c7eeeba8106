//! The process that stands behind a pod, and the daemon's way to talk to it.
//!
//! A pod has one `slipway-shim`. It makes and pins the pod's namespaces, creates the containers
//! itself, owns their standard streams, writes their logs, and records every exit on disk before
//! it tells anyone; the daemon can come and go. The shim is a single thread around epoll
//! ([`serve`]); what a container needs parsed or mounted happens in a short-lived child, so that
//! the resident process stays small.
//!
//! The daemon's side ([`Launcher`], [`Shim`]) is behind the feature `client`.

#![deny(unsafe_code)]

pub mod protocol;
pub mod sysctl;

#[cfg(feature = "client")]
mod client;
#[cfg(feature = "client")]
mod launch;

mod attach;
mod cgroup;
mod config;
mod container;
mod create;
mod exec;
mod failure;
mod hooks;
mod init;
mod log;
mod packet;
mod pod;
mod poller;
mod probe;
mod record;
mod runtime;
mod server;
mod streams;
mod supervisor;
#[allow(unsafe_code)]
mod syscall;
mod user;

#[cfg(feature = "client")]
pub use client::{Error, Shim};
#[doc(hidden)]
pub use create::check_config;
#[cfg(feature = "client")]
pub use launch::{Launcher, Placeholder, try_recursive_read_only};
pub use server::serve;
