//! Serves clients that send something else than an authority as `:authority`.
//!
//! A gRPC client that dials a Unix socket through its own dialer names the server by the socket's
//! path: `%2Frun%2Fslipway%2Fslipway.sock`, or the path as it is. Many agents and older kubelets
//! do. It is no authority as RFC 3986 (section 3.2) has it, and `h2` resets such a request with
//! `PROTOCOL_ERROR`; nothing on this socket cares what it says.
//!
//! So [`Lenient`] sits between the socket and `h2`, and changes the characters that do not belong
//! there, such as `%` and `/`, into others. Each gets one whose HPACK code is as long, so that no
//! string, header block or frame changes its length: nothing has to be encoded again, and an entry
//! of HPACK's dynamic table has the size that both sides account for it. That is why nothing has to
//! be remembered from one header block to the next, either.
//!
//! All else goes through as it is, malformed input too: to refuse it is up to `h2`. Header blocks
//! are held back until they are complete, those longer than 64 KiB excepted, which go through
//! unseen; bodies are read by `h2` directly. Not helped is an authority that is empty or has a
//! character for which there is no other with a code of its length (`#`, `<`, `>`, `^`, `` ` ``,
//! `{`, `}`, `\` and what is not ASCII; in a percent-encoded path there is none), and one whose
//! name the client refers to by an entry of the dynamic table, although the static table has it.

mod frames;
mod hpack;
#[cfg(test)]
mod tests;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use frames::{Look, PREFACE, look};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// How much of what is missing of a header block is read at once, in bytes.
const READ_AT_ONCE: usize = 4096;

/// A server's end of an HTTP/2 connection whose requests have authorities that `h2` takes.
#[derive(Debug)]
pub(crate) struct Lenient<S> {
    stream: S,
    state: State,
    /// The beginning of a header block (or of a frame's header), from its frame's header on.
    held: Vec<u8>,
    /// Up to where the frames in `held` are complete.
    complete: usize,
}

/// What is expected from the client, or given to `h2`, next.
#[derive(Debug, Clone, Copy)]
enum State {
    /// The connection preface, of which so many bytes have come.
    Preface(usize),
    /// So many bytes that are not looked at, and then a frame.
    Passing(usize),
    /// So many bytes, before what is held can be looked at again.
    Holding(usize),
    /// What is held, from this offset on, goes to `h2`; after it, so many bytes from the client.
    Releasing { from: usize, then: usize },
    /// What is held, from this offset on, goes to `h2`, and then all that comes.
    GivingUp { from: usize },
}

impl<S> Lenient<S> {
    /// Wraps a connection on which nothing has been read yet.
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            state: State::Preface(0),
            held: Vec::new(),
            complete: 0,
        }
    }

    /// Goes through what has come, and returns how many bytes of it may go on. The rest is to be
    /// held.
    fn scan(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &mut bytes[at..];
            match self.state {
                State::Preface(matched) => {
                    let length = rest.len().min(PREFACE.len() - matched);
                    self.state = if rest[..length] != PREFACE[matched..matched + length] {
                        State::GivingUp { from: 0 }
                    } else if matched + length < PREFACE.len() {
                        State::Preface(matched + length)
                    } else {
                        State::Passing(0)
                    };
                    at += length;
                }
                State::Passing(0) => match look(rest, &mut self.complete) {
                    Look::Pass { seen, unseen } => {
                        self.state = State::Passing(unseen);
                        at += seen;
                    }
                    Look::Wait(missing) => {
                        self.state = State::Holding(missing);
                        return at;
                    }
                    Look::GiveUp => self.state = State::GivingUp { from: 0 },
                },
                State::Passing(left) => {
                    let length = rest.len().min(left);
                    self.state = State::Passing(left - length);
                    at += length;
                }
                State::GivingUp { .. } => return bytes.len(),
                State::Holding(_) | State::Releasing { .. } => unreachable!("read elsewhere"),
            }
        }
        at
    }

    /// Looks at what is held, once there is as much as was asked for.
    fn look_again(&mut self) {
        self.state = match look(&mut self.held, &mut self.complete) {
            Look::Pass { unseen, .. } => State::Releasing {
                from: 0,
                then: unseen,
            },
            Look::Wait(missing) => State::Holding(missing),
            Look::GiveUp => State::GivingUp { from: 0 },
        };
    }

    /// Gives to `buf` what is held from an offset on, and returns the offset from which on it is
    /// held still, if there is anything left.
    fn release(&mut self, from: usize, buf: &mut ReadBuf<'_>) -> Option<usize> {
        let length = buf.remaining().min(self.held.len() - from);
        buf.put_slice(&self.held[from..from + length]);
        if from + length < self.held.len() {
            return Some(from + length);
        }
        self.held = Vec::new();
        None
    }
}

impl<S: AsyncRead + Unpin> Lenient<S> {
    /// Reads what is missing of what is held, and not more.
    fn poll_hold(&mut self, cx: &mut Context<'_>, missing: usize) -> Poll<io::Result<()>> {
        let length = self.held.len();
        self.held.resize(length + missing.min(READ_AT_ONCE), 0);
        let mut buf = ReadBuf::new(&mut self.held[length..]);
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut buf);
        let read = buf.filled().len();
        self.held.truncate(length + read);
        ready!(polled)?;
        match missing - read {
            _ if read == 0 => self.state = State::GivingUp { from: 0 },
            0 => self.look_again(),
            missing => self.state = State::Holding(missing),
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match this.state {
                State::Holding(missing) => ready!(this.poll_hold(cx, missing))?,
                State::Releasing { from, then } => {
                    this.state = match this.release(from, buf) {
                        Some(from) => State::Releasing { from, then },
                        None => State::Passing(then),
                    };
                    return Poll::Ready(Ok(()));
                }
                State::GivingUp { from } if !this.held.is_empty() => {
                    let from = this.release(from, buf).unwrap_or(0);
                    this.state = State::GivingUp { from };
                    return Poll::Ready(Ok(()));
                }
                State::Preface(_) | State::Passing(_) | State::GivingUp { .. } => {
                    let before = buf.filled().len();
                    ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
                    let passed = before + this.scan(&mut buf.filled_mut()[before..]);
                    this.held.extend_from_slice(&buf.filled()[passed..]);
                    buf.set_filled(passed);
                    // To return nothing would say that the connection has ended.
                    if passed > before || this.held.is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<S: Connected> Connected for Lenient<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}
