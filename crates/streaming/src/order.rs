//! What a URL was issued for.

use slipway_engine::{Engine, Result, Session, Streams};

/// What a client may do with the URL that it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    Process(Process),
    PortForward(PortForward),
}

/// A session with a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) container: String,
    pub(crate) which: Which,
    pub(crate) streams: Streams,
}

/// Whose streams a client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those of a new process with these arguments.
    New(Vec<String>),
    /// Those of the container's own.
    Own,
}

impl Process {
    pub(crate) async fn open(self, engine: &dyn Engine) -> Result<Session> {
        match self.which {
            Which::New(command) => engine.exec(&self.container, command, self.streams).await,
            Which::Own => engine.attach(&self.container, self.streams).await,
        }
    }
}

/// Connections to a pod's ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortForward {
    pub(crate) pod: String,
    /// Those that a WebSocket client gets channels for. With SPDY, streams name their port.
    pub(crate) ports: Vec<u16>,
}
