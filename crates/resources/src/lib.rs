//! What containers may use and what they do use, in CRI's words, for every engine that has them in
//! cgroups of this kernel: devices are found ([`device_nodes`]), limits are checked field by field and changed as CRI says
//! ([`check_container`], [`changes`], [`Scores`]), and use is told as cAdvisor's metrics
//! ([`metrics`]).
//!
//! Everything here blocks, briefly.
#![forbid(unsafe_code)]

mod change;
mod check;
mod device;
pub mod metrics;
mod refusal;
mod scores;

pub use change::{changes, limits, merged, of_container};
pub use check::{check, check_change, check_container, check_pod};
pub use device::{DeviceNode, Devices, collect_devices, device_nodes};
pub use refusal::{of_cgroup, refused};
pub use scores::Scores;
