//! The raw stream of a process in a container, as the streams that it stands for.

use bytes::Bytes;
use slipway_engine::{Error, Input, Kind, Output};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf,
};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::wire::Raw;

/// How much of a stream waits for its reader, in bytes.
const HELD: usize = 64 * 1024;

/// The head of a frame: which stream it is of, three bytes of nothing, and its length.
const HEAD: usize = 8;

/// Keys that Docker would take, typed at a terminal, for the wish to let go of it. It can only be
/// told of others: these nobody types.
pub(crate) const DETACH_KEYS: &str = "ctrl-_,ctrl-@,ctrl-_,ctrl-@,ctrl-_,ctrl-@";

/// Which streams are wanted.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is asked for by itself, as in CRI's ExecRequest"
)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    /// Whether the process has a terminal: then there are no frames.
    pub(crate) terminal: bool,
    /// Whether the end of what is typed is told: Docker then ends everything, where the process's
    /// standard input is not this client's alone.
    pub(crate) tells_end: bool,
}

/// A process's streams in this daemon's hands.
pub(crate) struct Ends {
    pub(crate) stdin: Option<Input>,
    pub(crate) stdout: Option<Output>,
    pub(crate) stderr: Option<Output>,
    /// What moves the bytes.
    pub(crate) pumps: Pumps,
}

/// Moves bytes between a raw stream and its ends. Dropping it lets go of the process, unless that
/// has ended: then what it has written is moved to its end.
pub(crate) struct Pumps {
    output: AbortHandle,
    input: Option<AbortHandle>,
    /// How the output has ended; nothing as long as it goes on.
    close: watch::Receiver<Option<Close>>,
    ended: bool,
}

/// How what a process writes has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Close {
    /// Between two frames, or anywhere where there are none: by the process, as far as can be seen.
    Whole,
    /// In the middle of a frame: Docker has not said all of it.
    Torn,
}

impl Pumps {
    /// Waits until there is no more of what the process writes.
    pub(crate) async fn closed(&mut self) -> Close {
        let close = self.close.wait_for(Option::is_some).await;
        // A crash of what moves it ends it as well.
        close.ok().and_then(|close| *close).unwrap_or(Close::Torn)
    }

    /// The process has ended.
    pub(crate) fn finish(&mut self) {
        self.ended = true;
    }
}

impl Drop for Pumps {
    fn drop(&mut self) {
        if let Some(input) = &self.input {
            input.abort();
        }
        if !self.ended {
            self.output.abort();
        }
    }
}

/// What ends a session whose streams have ended before their process did.
pub(crate) fn torn(whose: &str) -> Error {
    Error::new(
        Kind::Unavailable,
        format!(
            "Docker's connection for the streams of {whose} was cut: what was written is not \
             complete"
        ),
    )
}

/// Takes a raw stream apart. A stream whose reader is gone is read and thrown away, so that the
/// process never waits for it.
pub(crate) fn split(raw: Raw, wanted: Wanted) -> Ends {
    let (reader, writer) = tokio::io::split(raw);
    let (mut input, mut stdin) = (None, None);
    if wanted.stdin {
        let (ours, theirs) = tokio::io::duplex(HELD);
        input = Some(tokio::spawn(feed(theirs, writer, wanted.tells_end)).abort_handle());
        stdin = Some(Box::pin(ours) as Input);
    }
    let pipe = |wanted: bool| {
        let (theirs, ours) = tokio::io::duplex(HELD);
        if wanted {
            (Some(theirs), Some(Box::pin(ours) as Output))
        } else {
            (None, None)
        }
    };
    let (to_stdout, stdout) = pipe(wanted.stdout);
    let (to_stderr, stderr) = pipe(wanted.stderr && !wanted.terminal);
    let (closed, close) = watch::channel(None);
    let output = tokio::spawn(async move {
        let close = if wanted.terminal {
            forward(reader, to_stdout).await
        } else {
            take_apart(reader, [to_stdout, to_stderr]).await
        };
        // Whoever asked may have gone.
        let _ = closed.send(Some(close));
    });
    Ends {
        stdin,
        stdout,
        stderr,
        pumps: Pumps {
            output: output.abort_handle(),
            input,
            close,
            ended: false,
        },
    }
}

/// What is typed, to the process, and its end as well.
async fn feed(mut from: DuplexStream, mut to: WriteHalf<Raw>, tells_end: bool) {
    let _ = tokio::io::copy(&mut from, &mut to).await;
    if tells_end {
        let _ = to.shutdown().await;
    }
}

/// What a terminal shows. What the other end says of its going is of no use to anybody.
async fn forward(mut from: ReadHalf<Raw>, mut to: Option<DuplexStream>) -> Close {
    let mut chunk = vec![0; HELD];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        pass_on(&mut to, &chunk[..count]).await;
    }
    Close::Whole
}

/// Frames, each to the stream that it is of.
async fn take_apart(
    mut from: impl AsyncRead + Unpin,
    mut to: [Option<impl AsyncWrite + Unpin>; 2],
) -> Close {
    let mut chunk = vec![0; HELD];
    let mut head = [0; HEAD];
    while let Ok(1) = from.read(&mut head[..1]).await {
        if from.read_exact(&mut head[1..]).await.is_err() {
            return Close::Torn;
        }
        let [stream, _, _, _, length @ ..] = head;
        let mut left = u32::from_be_bytes(length) as usize;
        let [stdout, stderr] = &mut to;
        let target = match stream {
            0 | 1 => stdout,
            2 => stderr,
            // It is no head.
            _ => return Close::Torn,
        };
        while left > 0 {
            let room = left.min(chunk.len());
            let Ok(count @ 1..) = from.read(&mut chunk[..room]).await else {
                return Close::Torn;
            };
            pass_on(target, &chunk[..count]).await;
            left -= count;
        }
    }
    Close::Whole
}

/// Writes to whoever reads; from then on to nobody, if that one has gone.
async fn pass_on(to: &mut Option<impl AsyncWrite + Unpin>, bytes: &[u8]) {
    if let Some(writer) = to
        && writer.write_all(bytes).await.is_err()
    {
        *to = None;
    }
}

/// Reads a stream to its end and keeps at most so many bytes.
pub(crate) async fn collect(output: Option<Output>, most: usize) -> Bytes {
    let Some(mut output) = output else {
        return Bytes::new();
    };
    let (mut kept, mut chunk) = (Vec::new(), vec![0; HELD]);
    while let Ok(count @ 1..) = output.read(&mut chunk).await {
        let room = most - kept.len();
        kept.extend_from_slice(&chunk[..count.min(room)]);
    }
    kept.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(stream: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        [&[stream, 0, 0, 0], length.as_slice(), bytes].concat()
    }

    async fn taken_apart(bytes: &[u8]) -> (Close, Vec<u8>, Vec<u8>) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let close = take_apart(bytes, [Some(&mut stdout), Some(&mut stderr)]).await;
        (close, stdout, stderr)
    }

    proptest! {
        #[test]
        fn frames_come_apart_as_they_were_put_together(
            frames in proptest::collection::vec(
                (1_u8..=2, proptest::collection::vec(any::<u8>(), 0..40)), 0..8),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let all: Vec<u8> = frames.iter().flat_map(|(stream, bytes)| frame(*stream, bytes)).collect();
            let (close, stdout, stderr) = runtime.block_on(taken_apart(&all));
            prop_assert_eq!(close, Close::Whole);
            let of = |wanted: u8| -> Vec<u8> {
                let frames = frames.iter().filter(|(stream, _)| *stream == wanted);
                frames.flat_map(|(_, bytes)| bytes.clone()).collect()
            };
            prop_assert_eq!(stdout, of(1));
            prop_assert_eq!(stderr, of(2));
        }

        #[test]
        fn nothing_makes_it_crash(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(taken_apart(&bytes));
        }
    }

    #[tokio::test]
    async fn a_stream_that_nobody_reads_does_not_hold_up_the_other() {
        let bytes = [frame(1, b"thrown away"), frame(2, b"kept")].concat();
        let mut kept = Vec::new();
        let close = take_apart(bytes.as_slice(), [None, Some(&mut kept)]).await;
        assert_eq!((close, kept.as_slice()), (Close::Whole, &b"kept"[..]));
    }

    #[tokio::test]
    async fn a_stream_that_ends_within_a_frame_is_torn() {
        let bytes = [frame(1, b"one"), frame(2, b"two")].concat();
        let ends = [0, HEAD + 3, bytes.len()];
        for length in 0..=bytes.len() {
            let (close, ..) = taken_apart(&bytes[..length]).await;
            let whole = ends.contains(&length);
            assert_eq!(close == Close::Whole, whole, "{length}");
        }
    }
}
