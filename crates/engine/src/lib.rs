//! The domain of a node's container runtime: what a pod and a container are called, which states
//! they can be in, how they are found, and what an engine that runs them must be able to do.
//!
//! The messages of CRI are the payload: a pod keeps its `PodSandboxConfig`, a container its
//! `ContainerConfig`. This crate adds identity, life cycle and lookup, and nothing that does I/O.
#![forbid(unsafe_code)]

pub mod blocking;
mod census;
mod condition;
mod container;
mod credentials;
mod engine;
mod error;
mod events;
mod filter;
mod id;
mod index;
mod overview;
mod pod;
mod profile;
mod rate;
pub mod refuse;
mod resolver;
mod router;
mod session;
pub mod signal;

pub use census::{Census, Counted, HasState, OneOf, Population};
pub use condition::{condition, network_condition};
pub use container::{ContainerExit, ContainerName, ContainerState};
pub use credentials::credentials;
pub use engine::{ContainerEventStream, Engine, PullProgressStream, Verbosity};
pub use error::{Error, Kind, Result, with_causes};
pub use events::Events;
pub use filter::{
    ContainerView, PodView, matches_container, matches_container_stats, matches_pod,
    matches_pod_stats,
};
pub use id::new_id;
pub use index::{Index, Reservation};
pub use overview::overview;
pub use pod::PodName;
pub use profile::Profile;
pub use rate::CpuRate;
pub use resolver::resolver_configuration;
pub use router::{CarryOver, Leaving, Router};
pub use session::{
    Connection, Input, Output, PortConnection, Session, SessionEnd, Streams, Terminal, TerminalSize,
};
