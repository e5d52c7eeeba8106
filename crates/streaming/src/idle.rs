//! Noticing that nothing has gone over a connection for a while.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// A connection whose bytes are noticed, in both directions.
pub(crate) struct Watched<S> {
    io: S,
    last: Arc<Last>,
}

/// When the last byte went.
pub(crate) struct Last {
    began: Instant,
    /// Milliseconds after the beginning.
    at: AtomicU64,
}

impl<S> Watched<S> {
    pub(crate) fn new(io: S) -> (Self, Arc<Last>) {
        let last = Arc::new(Last {
            began: Instant::now(),
            at: AtomicU64::new(0),
        });
        let watched = Self {
            io,
            last: Arc::clone(&last),
        };
        (watched, last)
    }
}

impl Last {
    fn note(&self) {
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.at.store(elapsed, Ordering::Relaxed);
    }

    /// Ends when no byte has gone for so long.
    pub(crate) async fn silent_for(&self, long: Duration) {
        loop {
            let last = self.began + Duration::from_millis(self.at.load(Ordering::Relaxed));
            let until = last + long;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buffer));
        self.last.note();
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes));
        self.last.note();
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_byte_begins_the_time_anew() {
        let (near, mut far) = tokio::io::duplex(10);
        let (mut watched, last) = Watched::new(near);
        let began = Instant::now();
        let minute = Duration::from_mins(1);
        let talk = async {
            tokio::time::sleep(minute / 2).await;
            watched.write_all(b"x").await.unwrap();
            tokio::time::sleep(minute / 2).await;
            far.write_all(b"y").await.unwrap();
            watched.read_u8().await.unwrap();
        };
        tokio::join!(talk, last.silent_for(minute));
        assert_eq!(began.elapsed(), minute * 2);
    }
}
