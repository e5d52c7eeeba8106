//! Leaving dockershim: what of a node, of manifests and of a cluster depends on Docker.
//!
//! [`node::check`] looks at a node, below a root directory, [`manifests::check`] at files of
//! Kubernetes objects, [`cluster::check`] at those of a cluster. None changes anything. What they find is
//! a [`Report`]: each [`Finding`] has the [`Rule`] that found it, where it was seen and what to do
//! about it; what could not be looked at is in the report as well and is never taken for fine.
//!
//! Files are read with positions ([`document`]): what was seen can be named to the line, and what
//! is edited later stays as it was to the byte everywhere else.
#![forbid(unsafe_code)]

mod agents;
pub mod apply;
mod calls;
pub mod clean;
pub mod cluster;
pub mod control_plane;
pub mod document;
mod failure;
mod finding;
mod hints;
pub mod host;
pub mod manifests;
pub mod node;
mod object;
pub mod plan;
pub mod preview;
pub mod rollout;
mod root;
pub mod rules;
mod secrets;

pub use finding::{Evidence, Finding, NodeRuntime, Report, Severity, Unseen, Verdict};
pub use root::Root;
pub use rules::Rule;
