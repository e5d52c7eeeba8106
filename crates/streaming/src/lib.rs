//! Exec, attach and port-forward: a server that gives out URLs, each good once, and speaks SPDY/3.1
//! and WebSocket with whoever comes with one.
//!
//! What comes over a connection can end that connection and nothing else. A connection has a bounded
//! share of memory, and a side that reads slowly makes the other wait. Nothing here has a thread of
//! its own.
#![forbid(unsafe_code)]

mod config;
mod forward;
#[doc(hidden)]
pub mod fuzzing;
mod idle;
mod order;
mod process;
mod server;
mod session;
pub mod spdy;
mod status;
mod stream;
mod tls;
mod token;
mod upgrade;
pub mod websocket;

pub use config::Config;
pub use server::{Reloader, StartError, Streaming};
pub use tls::TlsError;
