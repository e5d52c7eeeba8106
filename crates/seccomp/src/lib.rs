//! Seccomp: which system calls a container's processes may make (seccomp(2)).
//!
//! A [`Profile`] is what a person writes: a JSON file in the format of the OCI runtime
//! specification (`linux.seccomp`) or in the wider one of the container engines, whose rules can
//! depend on capabilities, the kernel's version and the machine. [`Profile::resolve`] turns it into
//! a [`Filter`] for one container, the OCI section itself; [`compile`] turns that into the
//! [`Program`] of classic BPF that the kernel runs. [`Profile::runtime_default`] is the profile
//! that containers get which ask for the runtime's default.
//!
//! Invariants:
//!
//! - A system call that a denying filter cannot have meant, because it is newer than the filter or
//!   than this crate's table, is answered with `ENOSYS`, so that programs fall back to an older one
//!   instead of taking `EPERM` for the last word.
//! - Names that no table knows are skipped: profiles list calls of several machines and kernels.
//! - Nothing here asks the system for anything.
#![forbid(unsafe_code)]

mod architecture;
mod assembler;
mod compiler;
mod error;
mod filter;
mod profile;
mod runtime_default;
mod table;

pub use architecture::Architecture;
pub use assembler::{Instruction, Program};
pub use compiler::compile;
pub use error::{Error, Result};
pub use filter::{Action, Condition, Filter, Flag, Operator, Rule};
pub use profile::{KernelVersion, Profile, Surroundings};
