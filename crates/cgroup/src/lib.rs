//! Control groups of containers: cgroup v1, v1 with an empty-handed v2 beside it (hybrid), and v2.
//!
//! [`Hierarchy::detect`] finds out once what this node has. From it comes a [`Cgroup`] for each
//! [`CgroupPath`]: made with its limits by [`Hierarchy::create`], or named without any input or
//! output by [`Hierarchy::open`], for instance after a restart. A `Cgroup` holds no descriptor and
//! does nothing when dropped; the one who made it removes it with [`Cgroup::remove`].
//!
//! # What a path means
//!
//! A [`CgroupPath`] counts from the mount point of each hierarchy as this process sees it in
//! `/proc/self/mountinfo`. On a node's own file system `/` is therefore the machine's root cgroup.
//! In a container that runs a node (kind, for example), where the cgroup file system is mounted
//! from inside a cgroup namespace, or bound from below the container's own cgroup, `/` is that
//! container's cgroup and nothing outside can be named. This is the meaning a kubelet with the
//! `cgroupfs` driver gives to its paths, and runc to an absolute `linux.cgroupsPath`.
//!
//! # Blocking
//!
//! Every call is a plain blocking one: there is no asynchronous runtime here. All of them are short
//! (tens of microseconds a control file), but [`Cgroup::remove`] waits for dying processes and
//! [`Cgroup::kill`] for a storm of forks to end; call them where a thread may block.
//!
//! # Limitations
//!
//! This crate does not talk to systemd; for the one who does, [`systemd`] has the names of units and
//! their properties, and [`Hierarchy::adopt`] completes a cgroup that systemd has made. On a hybrid node a
//! container is put into the v1 hierarchies only. Block I/O weights and limits are not set, except
//! on v2 through [`Resources::unified`].

#![deny(unsafe_code)]

mod bpf;
mod cgroup;
mod changes;
mod control_file;
mod create;
mod details;
mod device;
mod device_program;
mod error;
mod hierarchy;
mod hugepages;
mod mountinfo;
mod path;
mod pressure;
mod resources;
mod sample;
mod stats;
mod swap;
pub mod systemd;
mod terminate;
mod usage;
mod v1;
mod v2;

pub use cgroup::{Cgroup, Updated};
pub use control_file::read_kernel_file;
pub use details::{CpuModes, Details, DeviceIo, HugepageStats, Throttling};
pub use device::{Access, DeviceKind, DeviceRule};
pub use error::Error;
pub use hierarchy::{Hierarchy, Version};
pub use hugepages::huge_page_sizes;
pub use path::{CgroupPath, PathError};
pub use pressure::{Pressure, ResourcePressure, Stalls};
pub use resources::Resources;
pub use stats::{CpuStats, MemoryStats, PidsStats, Stats, SwapStats};
pub use usage::Usage;
