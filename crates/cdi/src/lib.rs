//! The Container Device Interface (CDI): what a vendor's devices need in a container.
//!
//! Vendors put specification files into directories of the node. A file says for each of its
//! devices, which are named `vendor.com/class=device`, how the OCI configuration of a container has
//! to be edited that uses it. A [`Registry`] is what the files say; [`Edits`] are gathered from it,
//! device by device, and applied to a configuration.
//!
//! Invariants:
//!
//! - A file is taken whole or not at all, so that half of what a device needs is never done.
//! - Whatever can be missing on the node is looked for when edits are gathered; applying them
//!   changes nothing but the configuration, and cannot fail.
#![forbid(unsafe_code)]

mod apply;
mod edits;
mod error;
mod model;
mod name;
mod registry;

pub use edits::Edits;
pub use error::{Error, Result};
pub use name::QualifiedName;
pub use registry::{Damaged, Registry};
