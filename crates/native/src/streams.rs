//! A process's standard streams in this daemon's hands.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::Winsize;
use slipway_engine::{Error, Result, TerminalSize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

/// The most that a pipe or a terminal holds, in bytes (`/proc/sys/fs/pipe-max-size`).
const HELD: usize = 1 << 20;

fn failed(error: &io::Error) -> Error {
    Error::internal(format!("no pipe to a process in a container: {error}"))
}

/// Drops its sender when the process has ended.
pub(crate) type Ended = oneshot::Receiver<()>;

/// What a process writes.
///
/// It ends where nobody can write any more, and at the latest when the process has ended and what
/// it had written has been read: a child of it that lives on with its streams is not waited for.
pub(crate) struct Output {
    source: pipe::Receiver,
    process: Process,
}

/// The process that writes.
enum Process {
    /// Only the streams tell of its end.
    Unknown,
    Running(Ended),
    /// So many bytes at most are still from before its end.
    Over(usize),
}

impl Output {
    /// A pipe: this end, and the one for the process.
    pub(crate) fn pipe() -> Result<(Self, OwnedFd)> {
        let make = || -> io::Result<_> {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&reader, true)?;
            Ok((pipe::Receiver::from_owned_fd(reader)?, writer))
        };
        let (source, writer) = make().map_err(|error| failed(&error))?;
        Ok((Self::of(source), writer))
    }

    /// What a terminal shows.
    pub(crate) fn terminal(master: &OwnedFd) -> Result<Self> {
        let open = || pipe::Receiver::from_owned_fd_unchecked(unblocked(master)?);
        open().map(Self::of).map_err(|error| failed(&error))
    }

    fn of(source: pipe::Receiver) -> Self {
        Self {
            source,
            process: Process::Unknown,
        }
    }

    /// Ends with a process, too.
    pub(crate) fn until(self, ended: Ended) -> Self {
        Self {
            process: Process::Running(ended),
            ..self
        }
    }

    /// Reads what is there now, whatever readiness has been heard of; nothing is the end.
    fn read_rest(&self, left: usize, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
        let room = buffer.initialize_unfilled();
        let room = room.len().min(left);
        let room = &mut buffer.initialize_unfilled()[..room];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.source, &mut *room)) {
            Ok(count) => {
                buffer.advance(count);
                Ok(count)
            }
            Err(Errno::AGAIN | Errno::IO) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsyncRead for Output {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Process::Running(ended) = &mut self.process
            && Pin::new(ended).poll(context).is_ready()
        {
            self.process = Process::Over(HELD);
        }
        if let Process::Over(left) = self.process {
            let count = self.read_rest(left, buffer)?;
            self.process = Process::Over(left - count);
            return Poll::Ready(Ok(()));
        }
        match ready!(Pin::new(&mut self.source).poll_read(context, buffer)) {
            // A terminal that nobody has open any more.
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                Poll::Ready(Ok(()))
            }
            other => Poll::Ready(other),
        }
    }
}

/// What a process reads. Shutting it down closes it; a terminal stays open all the same.
pub(crate) struct Input(Option<pipe::Sender>);

impl Input {
    /// A pipe: the end for the process, and this one.
    pub(crate) fn pipe() -> Result<(OwnedFd, Self)> {
        let make = || -> io::Result<_> {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            Ok((reader, writer))
        };
        let (reader, writer) = make().map_err(|error| failed(&error))?;
        Ok((reader, Self::to(&writer)?))
    }

    /// The end of a pipe, or a terminal; `target` itself can be closed.
    pub(crate) fn to(target: &OwnedFd) -> Result<Self> {
        let open = || pipe::Sender::from_owned_fd_unchecked(unblocked(target)?);
        open()
            .map(|sender| Self(Some(sender)))
            .map_err(|error| failed(&error))
    }
}

/// A copy of a descriptor, which does not block.
fn unblocked(descriptor: &OwnedFd) -> io::Result<OwnedFd> {
    let copy = descriptor.try_clone()?;
    rustix::io::ioctl_fionbio(&copy, true)?;
    Ok(copy)
}

impl AsyncWrite for Input {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(pipe) => Pin::new(pipe).poll_write(context, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

/// `/dev/null`.
pub(crate) fn null() -> Result<OwnedFd> {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map(OwnedFd::from)
        .map_err(|error| Error::internal(format!("/dev/null cannot be opened: {error}")))
}

/// A terminal, by the end that shows and types.
pub(crate) struct Terminal(pub(crate) OwnedFd);

#[tonic::async_trait]
impl slipway_engine::Terminal for Terminal {
    async fn resize(&self, size: TerminalSize) -> Result<()> {
        let size = Winsize {
            ws_row: size.height,
            ws_col: size.width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&self.0, size)
            .map_err(|error| Error::internal(format!("the terminal cannot be resized: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn read(output: &mut Output) -> Vec<u8> {
        let mut bytes = Vec::new();
        let reading = output.read_to_end(&mut bytes);
        let limit = std::time::Duration::from_secs(10);
        tokio::time::timeout(limit, reading)
            .await
            .expect("it has no end")
            .unwrap();
        bytes
    }

    #[tokio::test]
    async fn an_output_ends_with_its_process_whoever_else_holds_it() {
        let (output, writer) = Output::pipe().unwrap();
        let (told, ended) = oneshot::channel();
        let mut output = output.until(ended);
        let mut writer = File::from(writer);
        writer.write_all(b"before").unwrap();
        drop(told);
        assert_eq!(read(&mut output).await, b"before");
        // One that never stops is not waited for either.
        let (output, writer) = Output::pipe().unwrap();
        let (told, ended) = oneshot::channel::<()>();
        drop(told);
        let flood = std::thread::spawn(move || {
            while File::from(writer.try_clone().unwrap())
                .write(&[0; 4096])
                .is_ok()
            {}
        });
        let mut output = output.until(ended);
        assert!(read(&mut output).await.len() <= HELD);
        drop(output);
        flood.join().unwrap();
    }

    #[tokio::test]
    async fn an_output_ends_where_nobody_can_write() {
        let (mut output, writer) = Output::pipe().unwrap();
        drop(writer);
        assert_eq!(read(&mut output).await, b"");
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        let mut output = Output::terminal(&master).unwrap();
        File::from(slave).write_all(b"shown").unwrap();
        assert_eq!(read(&mut output).await, b"shown");
    }

    #[tokio::test]
    async fn an_input_that_is_shut_down_is_closed() {
        let (reader, mut input) = Input::pipe().unwrap();
        input.write_all(b"all").await.unwrap();
        input.shutdown().await.unwrap();
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "all");
        assert!(input.write_all(b"more").await.is_err());
    }
}
