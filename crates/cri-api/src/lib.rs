//! The messages, clients and servers of CRI v1 and of Slipway's own additions to it, generated
//! from `proto/`.
//!
//! There is no logic here but how messages are written: what the fields mean is said by the
//! interface's definition in Kubernetes (`k8s.io/cri-api`), and what Slipway does with them by the
//! `engine` and `cri` crates.
#![forbid(unsafe_code)]

mod json;
mod metric;

pub use metric::{LabelValues, SharedLabels};

/// Version 1 of the interface, as of Kubernetes 1.36. The messages serialize as crictl's `-o json`
/// has them.
#[expect(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
    pub use crate::metric::Metric;
}

/// What Slipway offers beside CRI on the same socket.
#[expect(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod slipway {
    tonic::include_proto!("slipway.v1");
}
