//! Doors for fuzzing: a client's bytes through a whole connection, with a session behind it that
//! takes every stream and reads it to its end.

use std::io::{self, Cursor};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::stream::Incoming;
use crate::websocket::channel::Encoding;
use crate::{spdy, websocket};

/// A client that says something and takes every answer.
struct Client<'a>(Cursor<&'a [u8]>);

impl AsyncRead for Client<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Client<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// How long a connection may take: its client is in memory and never slow.
const LIMIT: Duration = Duration::from_secs(5);

/// Runs a session and its connection until one of them has ended, as the client's end makes them.
fn run(session: impl Future<Output = ()>, connection: impl Future) {
    let runtime = Builder::new_current_thread().enable_time().build();
    let both = async {
        tokio::select! {
            () = session => {}
            _ = connection => {}
        }
    };
    runtime
        .expect("a runtime without I/O")
        .block_on(async { timeout(LIMIT, both).await })
        .expect("the connection ends with its client");
}

/// Reads to the end, and answers the number of bytes.
async fn consume(incoming: &mut Incoming) -> usize {
    let (mut bytes, mut all) = (BytesMut::new(), 0);
    while incoming.read(&mut bytes).await > 0 {
        all += bytes.len();
        bytes.clear();
    }
    all
}

/// A SPDY connection on which a client says this.
///
/// # Panics
/// When more bytes arrive than were sent, or when the connection does not end.
pub fn spdy(says: &[u8]) {
    let (mut acceptor, connection) = spdy::accept(Client(Cursor::new(says)));
    let session = async {
        let (mut streams, mut read) = (FuturesUnordered::new(), 0);
        loop {
            tokio::select! {
                Some(stream) = acceptor.next() => streams.push(answer(stream)),
                Some(bytes) = streams.next() => read += bytes,
                else => break,
            }
            assert!(read <= says.len(), "{read} bytes of {}", says.len());
        }
    };
    run(session, connection);
}

async fn answer(stream: spdy::Stream) -> usize {
    let (mut incoming, mut outgoing) = (stream.incoming, stream.outgoing);
    if outgoing.accept().await.is_err() {
        return 0;
    }
    let read = consume(&mut incoming).await;
    let _ = outgoing.send(Bytes::from_static(b"read")).await;
    let _ = outgoing.finish().await;
    read
}

/// A WebSocket connection on which a client says this.
///
/// # Panics
/// When more bytes arrive than were sent, or when the connection does not end.
pub fn websocket(says: &[u8], encoding: Encoding) {
    let client = Client(Cursor::new(says));
    let (channels, mut incoming, connection) = websocket::accept(client, encoding, &[0, 4]);
    let session = async {
        let read = join_all(incoming.iter_mut().map(consume)).await;
        assert!(read.into_iter().sum::<usize>() <= says.len());
        drop(channels);
    };
    run(session, connection);
}
