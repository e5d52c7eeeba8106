//! WebSocket (RFC 6455), as Kubernetes' clients use it: channels for a process's streams and for
//! ports, or a tunnel for SPDY.

pub mod channel;
mod connection;
mod tunnel;

pub use connection::{MAX_MESSAGE, configuration};
pub(crate) use connection::{Sender, accept};
pub(crate) use tunnel::Tunnel;
