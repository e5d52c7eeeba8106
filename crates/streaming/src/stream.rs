//! One direction of what a connection carries beside others, whatever protocol carries it.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, DuplexStream};

use crate::{spdy, websocket};

/// The most bytes that are handed on in one piece.
pub(crate) const PIECE: usize = 32 * 1024;

/// How long a connection on which all was said is still read, so that its client can take the last
/// bytes and close it.
pub(crate) const LINGER: Duration = Duration::from_secs(10);

/// The client has gone, or has given up this stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// Bytes from the client. Dropping it throws away what still comes.
pub(crate) struct Incoming {
    pipe: DuplexStream,
    credit: Option<spdy::Credit>,
}

impl Incoming {
    pub(crate) fn new(pipe: DuplexStream) -> Self {
        Self { pipe, credit: None }
    }

    pub(crate) fn with_credit(pipe: DuplexStream, credit: spdy::Credit) -> Self {
        Self {
            pipe,
            credit: Some(credit),
        }
    }

    /// Appends what has come; 0 means that the client has finished.
    pub(crate) async fn read(&mut self, to: &mut BytesMut) -> usize {
        to.reserve(PIECE);
        // Reading from memory fails with nothing but the end.
        let read = self.pipe.read_buf(to).await.unwrap_or(0);
        if let Some(credit) = &mut self.credit {
            credit.add(read).await;
        }
        read
    }
}

/// Bytes to the client.
pub(crate) enum Outgoing {
    Spdy(spdy::Sender),
    WebSocket(websocket::Sender),
}

impl Outgoing {
    /// Sends bytes; waits while the client is slow.
    pub(crate) async fn send(&mut self, bytes: Bytes) -> Result<(), Gone> {
        match self {
            Self::Spdy(stream) => stream.send(bytes).await,
            Self::WebSocket(channel) => channel.send(&bytes).await,
        }
    }

    /// Ends when the client wants nothing of this any longer, where the protocol has a word for that.
    pub(crate) fn given_up(&self) -> impl Future<Output = ()> + use<> {
        let closed = match self {
            Self::Spdy(stream) => Some(stream.closed()),
            Self::WebSocket(_) => None,
        };
        async {
            match closed {
                Some(closed) => closed.await,
                None => std::future::pending().await,
            }
        }
    }

    /// Tells the client that nothing more comes, also by the close signal of `v5.channel.k8s.io`,
    /// which is for ports: of a process's session its clients know only the other direction.
    pub(crate) async fn close(&mut self) -> Result<Closed, Gone> {
        match self {
            Self::Spdy(stream) => stream.finish().await.map(|()| Closed::Told),
            Self::WebSocket(channel) => channel.close().await,
        }
    }

    /// Tells the client that nothing more comes, where the protocol has a word for that.
    pub(crate) async fn finish(&mut self) -> Result<(), Gone> {
        match self {
            Self::Spdy(stream) => stream.finish().await,
            Self::WebSocket(_) => Ok(()),
        }
    }
}

/// Whether a client could be told that nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    Told,
    /// Its protocol has no word for that.
    Untold,
}

/// Reads to the end and keeps nothing.
pub(crate) async fn discard(input: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    tokio::io::copy(input, &mut tokio::io::sink())
        .await
        .map(drop)
}
