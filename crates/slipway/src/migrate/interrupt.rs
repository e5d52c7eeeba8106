//! Ctrl-C, and SIGTERM, in the middle of a move.

use std::fmt;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What tells this process to end.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on they come here, and end nothing by themselves.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        }
    }
}

/// A move was cut off by a signal.
#[derive(Debug)]
pub(super) struct Interrupted {
    pub(super) signal: SignalKind,
    /// Where it stands, and how it is gone on with.
    pub(super) standing: String,
}

impl Interrupted {
    /// As a shell reports a command that the signal ended.
    pub(super) fn exit_code(&self) -> u8 {
        u8::try_from(128 + self.signal.as_raw_value()).unwrap_or(1)
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "interrupted {}", self.standing)
    }
}

impl std::error::Error for Interrupted {}
