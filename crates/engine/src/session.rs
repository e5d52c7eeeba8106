//! A conversation with a process in a container, or with a port in a pod: bytes in both
//! directions, for as long as both sides like.

use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::Result;

/// Bytes that come from a container.
pub type Output = Pin<Box<dyn AsyncRead + Send>>;

/// Bytes that go to a container. Shutting it down closes the container's end.
pub type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// Which of a process's standard streams a client wants, and whether they are a terminal
/// (CRI `ExecRequest` and `AttachRequest`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is asked for by itself, as in CRI's ExecRequest"
)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output; with a terminal, everything that is shown on it.
    pub stdout: bool,
    /// Standard error; never together with a terminal.
    pub stderr: bool,
    /// Whether the process has, or is to get, a terminal.
    pub terminal: bool,
}

/// The size of a terminal, in characters (ioctl_tty(2), `TIOCSWINSZ`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A terminal that can be given another size.
#[tonic::async_trait]
pub trait Terminal: Send + Sync {
    /// Gives it a size; the process in it is told with SIGWINCH.
    async fn resize(&self, size: TerminalSize) -> Result<()>;
}

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// The process has ended with this exit code; 128 plus the signal where there was one.
    Exited(i32),
    /// The session is over, and the process that was attached to goes on or left no code.
    Detached,
}

/// A process's streams in a client's hands. Dropping it lets go of the streams; it does not kill
/// the process.
pub struct Session {
    /// To standard input, where it was asked for.
    pub stdin: Option<Input>,
    /// From standard output, or from the terminal.
    pub stdout: Option<Output>,
    /// From standard error.
    pub stderr: Option<Output>,
    /// The terminal, where there is one.
    pub terminal: Option<Box<dyn Terminal>>,
    /// Ends when the process does. What it has written may still be in the streams then.
    pub end: Pin<Box<dyn Future<Output = Result<SessionEnd>> + Send>>,
}

/// Both directions of a connection to a port in a pod.
pub trait Connection: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Connection for T {}

/// A connection to a port in a pod. Shutting it down closes one direction.
pub type PortConnection = Pin<Box<dyn Connection>>;
