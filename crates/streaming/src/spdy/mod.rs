//! SPDY/3.1, as far as `kubectl` up to 1.30 and `crictl` speak it: streams that a client opens,
//! each with a name for its purpose, over one connection.

mod connection;
mod dictionary;
mod frame;
mod headers;
mod window;

pub(crate) use connection::{Acceptor, Credit, Sender, Stream, accept};
pub use frame::{Decoder, Encoder, Error, Frame, MAX_CONTROL, reset};
pub use headers::{Headers, MAX_BLOCK, MAX_NAMES};
