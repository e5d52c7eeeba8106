//! The server's side of a connection: what arrives goes to its stream, what streams send goes out.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex,
};
use tokio::sync::mpsc;

use super::window::{INITIAL, Window};
use super::{Decoder, Encoder, Error, Frame, Headers, reset};
use crate::stream::{Gone, Incoming, LINGER, PIECE, discard};

/// Streams that may be open on one connection. Each may have [`INITIAL`] bytes waiting.
const MAX_STREAMS: usize = 512;

/// Frames that may wait to be written; a data frame has at most [`PIECE`] bytes.
const QUEUE: usize = 8;

/// Streams that may wait to be accepted.
const BACKLOG: usize = 8;

/// A stream that the client has opened.
pub(crate) struct Stream {
    pub(crate) id: u32,
    pub(crate) headers: Headers,
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: Sender,
}

impl Stream {
    /// Tells the client that its stream is not wanted.
    pub(crate) async fn refuse(mut self) {
        let _ = self.outgoing.reset(reset::REFUSED_STREAM).await;
    }
}

/// Where the client's streams come out. A connection goes on until this and all its streams are
/// dropped.
pub(crate) struct Acceptor {
    opened: mpsc::Receiver<Stream>,
    _frames: mpsc::Sender<Frame>,
}

impl Acceptor {
    /// The next stream; none when the client will open no further one.
    pub(crate) async fn next(&mut self) -> Option<Stream> {
        self.opened.recv().await
    }
}

/// One direction of a stream: to the client.
pub(crate) struct Sender {
    stream: u32,
    frames: mpsc::Sender<Frame>,
    window: Arc<Window>,
    connection: Arc<Window>,
}

impl Sender {
    async fn frame(&self, frame: Frame) -> Result<(), Gone> {
        self.frames.send(frame).await.map_err(|_| Gone)
    }

    /// Tells the client that its stream is accepted; must come before anything is sent.
    pub(crate) async fn accept(&self) -> Result<(), Gone> {
        self.frame(Frame::SynReply {
            stream: self.stream,
            headers: Headers::default(),
            fin: false,
        })
        .await
    }

    /// Sends bytes; waits while the client is slow.
    pub(crate) async fn send(&mut self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let allowed = self.window.take(bytes.len().min(PIECE)).await.ok_or(Gone)?;
            let taken = self.connection.take(allowed).await.ok_or(Gone)?;
            self.window.untake(allowed - taken);
            let frame = Frame::Data {
                stream: self.stream,
                bytes: bytes.split_to(taken),
                fin: false,
            };
            self.frame(frame).await?;
        }
        Ok(())
    }

    /// Tells the client that nothing more comes.
    pub(crate) async fn finish(&mut self) -> Result<(), Gone> {
        if self.window.is_closed() {
            return Ok(());
        }
        self.window.close();
        let frame = Frame::Data {
            stream: self.stream,
            bytes: Bytes::new(),
            fin: true,
        };
        self.frame(frame).await
    }

    /// Ends the stream in both directions.
    pub(crate) async fn reset(&mut self, status: u32) -> Result<(), Gone> {
        self.window.close();
        let stream = self.stream;
        self.frame(Frame::RstStream { stream, status }).await
    }

    /// Ends when the client has reset the stream, or when it is finished.
    pub(crate) fn closed(&self) -> impl Future<Output = ()> + use<> {
        let window = Arc::clone(&self.window);
        async move { window.closed().await }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.window.close();
    }
}

/// Acknowledges what was taken out of a stream, so that the client may send more.
pub(crate) struct Credit {
    stream: u32,
    frames: mpsc::WeakSender<Frame>,
    taken: u32,
}

impl Credit {
    pub(crate) async fn add(&mut self, bytes: usize) {
        self.taken = self
            .taken
            .saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        if self.taken >= INITIAL / 2
            && let Some(frames) = self.frames.upgrade()
        {
            let (stream, delta) = (self.stream, std::mem::take(&mut self.taken));
            // When nobody writes any longer, nobody waits for credit.
            let _ = frames.send(Frame::WindowUpdate { stream, delta }).await;
        }
    }
}

/// Why a connection has ended other than by its client's or its session's will.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("broken SPDY: {0}")]
    Frame(#[from] Error),
    #[error("broken SPDY: {0}")]
    Protocol(&'static str),
}

/// Serves SPDY on a connection. The future carries it, and ends when the client has gone or when
/// the acceptor and all streams have been dropped and what they sent has been written.
pub(crate) fn accept<S: AsyncRead + AsyncWrite>(
    io: S,
) -> (Acceptor, impl Future<Output = Result<(), Failure>>) {
    let (frames, queue) = mpsc::channel(QUEUE);
    let (opened, accepted) = mpsc::channel(BACKLOG);
    let reader = Reader {
        streams: HashMap::new(),
        last_stream: 0,
        frames: frames.downgrade(),
        opened: Some(opened),
        connection: Arc::new(Window::new(INITIAL.into(), false)),
        initial_window: INITIAL.into(),
        client_counts: false,
        credit: Credit {
            stream: 0,
            frames: frames.downgrade(),
            taken: 0,
        },
    };
    let acceptor = Acceptor {
        opened: accepted,
        _frames: frames,
    };
    (acceptor, carry(io, queue, reader))
}

async fn carry<S: AsyncRead + AsyncWrite>(
    io: S,
    queue: mpsc::Receiver<Frame>,
    mut reader: Reader,
) -> Result<(), Failure> {
    let (mut input, mut output) = tokio::io::split(io);
    let ended = {
        let mut writing = std::pin::pin!(write(&mut output, queue));
        tokio::select! {
            read = reader.run(&mut input) => read.map(|()| Ended::Client),
            written = &mut writing => written.map(|()| Ended::Session).map_err(Failure::from),
        }
    };
    let last_stream = reader.last_stream;
    drop(reader);
    match ended {
        Ok(Ended::Client) => Ok(()),
        Ok(Ended::Session) => {
            // Closing with bytes unread would take from the client what it has not read yet.
            let _ = tokio::time::timeout(LINGER, discard(&mut input)).await;
            Ok(())
        }
        Err(Failure::Io(error)) => Err(error.into()),
        Err(failure) => {
            let mut bytes = BytesMut::new();
            let status = 1;
            let farewell = Frame::GoAway {
                last_stream,
                status,
            };
            Encoder::default().encode(&farewell, &mut bytes);
            let _ = tokio::time::timeout(LINGER, async {
                output.write_all(&bytes).await?;
                output.shutdown().await
            })
            .await;
            Err(failure)
        }
    }
}

enum Ended {
    Client,
    Session,
}

/// Writes what is queued until nobody can queue anything, then closes this direction.
async fn write(
    output: &mut (impl AsyncWrite + Unpin),
    mut queue: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    let (mut encoder, mut bytes) = (Encoder::default(), BytesMut::new());
    while let Some(frame) = queue.recv().await {
        encoder.encode(&frame, &mut bytes);
        // What waits already goes out with it.
        while bytes.len() < PIECE
            && let Ok(frame) = queue.try_recv()
        {
            encoder.encode(&frame, &mut bytes);
        }
        output.write_all_buf(&mut bytes).await?;
        output.flush().await?;
    }
    output.shutdown().await
}

struct Reader {
    streams: HashMap<u32, Open>,
    last_stream: u32,
    frames: mpsc::WeakSender<Frame>,
    /// None once the client has said that it opens no further stream.
    opened: Option<mpsc::Sender<Stream>>,
    connection: Arc<Window>,
    initial_window: i64,
    client_counts: bool,
    credit: Credit,
}

/// A stream as the reader has it.
struct Open {
    /// None once the client has finished, or nobody reads.
    pipe: Option<DuplexStream>,
    window: Arc<Window>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Whoever waits for credit waits in vain.
        self.connection.close();
        for stream in self.streams.values() {
            stream.window.close();
        }
    }
}

impl Reader {
    async fn run(&mut self, input: &mut (impl AsyncRead + Unpin)) -> Result<(), Failure> {
        let (mut decoder, mut received) = (Decoder::default(), BytesMut::new());
        loop {
            while let Some(frame) = decoder.decode(&mut received)? {
                self.take(frame).await?;
            }
            received.reserve(PIECE / 2);
            if input.read_buf(&mut received).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn take(&mut self, frame: Frame) -> Result<(), Failure> {
        match frame {
            Frame::SynStream {
                stream,
                headers,
                fin,
            } => self.open(stream, headers, fin).await,
            Frame::Data { stream, bytes, fin } => self.data(stream, &bytes, fin).await,
            Frame::Headers { stream, fin, .. } => self.data(stream, &[], fin).await,
            Frame::RstStream { stream, .. } => {
                if let Some(open) = self.streams.remove(&stream) {
                    open.window.close();
                }
                Ok(())
            }
            Frame::Settings {
                initial_window: Some(window),
            } => self.set_initial_window(window),
            Frame::WindowUpdate { stream, delta } => self.adjust(stream, delta).await,
            // The client's own pings are odd; of ours there are none.
            Frame::Ping(id) if id % 2 == 1 => {
                self.send(Frame::Ping(id)).await;
                Ok(())
            }
            Frame::GoAway { .. } => {
                self.opened = None;
                Ok(())
            }
            Frame::Ping(_) | Frame::SynReply { .. } | Frame::Settings { .. } => Ok(()),
        }
    }

    /// Queues a frame; when the session is over already, nobody needs it.
    async fn send(&self, frame: Frame) {
        if let Some(frames) = self.frames.upgrade() {
            let _ = frames.send(frame).await;
        }
    }

    async fn refuse(&self, stream: u32, status: u32) {
        self.send(Frame::RstStream { stream, status }).await;
    }

    async fn open(&mut self, id: u32, headers: Headers, fin: bool) -> Result<(), Failure> {
        if id.is_multiple_of(2) || id <= self.last_stream {
            return Err(Failure::Protocol(
                "a client's streams are odd and count upwards",
            ));
        }
        self.last_stream = id;
        self.streams
            .retain(|_, open| open.pipe.is_some() || !open.window.is_closed());
        let (Some(opened), Some(frames)) = (&self.opened, self.frames.upgrade()) else {
            self.refuse(id, reset::REFUSED_STREAM).await;
            return Ok(());
        };
        if self.streams.len() >= MAX_STREAMS {
            self.refuse(id, reset::REFUSED_STREAM).await;
            return Ok(());
        }
        let (theirs, ours) = duplex(INITIAL as usize);
        let window = Arc::new(Window::new(self.initial_window, self.client_counts));
        let stream = Stream {
            id,
            headers,
            incoming: Incoming::with_credit(
                theirs,
                Credit {
                    stream: id,
                    frames: self.frames.clone(),
                    taken: 0,
                },
            ),
            outgoing: Sender {
                stream: id,
                frames,
                window: Arc::clone(&window),
                connection: Arc::clone(&self.connection),
            },
        };
        let pipe = (!fin).then_some(ours);
        self.streams.insert(id, Open { pipe, window });
        // The session may be over already.
        let _ = opened.send(stream).await;
        Ok(())
    }

    async fn data(&mut self, id: u32, bytes: &[u8], fin: bool) -> Result<(), Failure> {
        self.credit.add(bytes.len()).await;
        let Some(open) = self.streams.get_mut(&id) else {
            if id > self.last_stream {
                self.refuse(id, reset::INVALID_STREAM).await;
            }
            // It was open once, and what was under way when it ended is nobody's fault.
            return Ok(());
        };
        if let Some(pipe) = &mut open.pipe {
            let unread = !bytes.is_empty() && pipe.write_all(bytes).await.is_err();
            if unread || fin {
                open.pipe = None;
            }
        }
        Ok(())
    }

    fn set_initial_window(&mut self, window: u32) -> Result<(), Failure> {
        let window = i64::from(window);
        let delta = window - self.initial_window;
        self.initial_window = window;
        self.client_counts = true;
        for open in self.streams.values() {
            open.window
                .adjust(delta)
                .map_err(|_| Failure::Protocol("a window above 2 GiB"))?;
        }
        if window > i64::from(i32::MAX) {
            return Err(Failure::Protocol("a window above 2 GiB"));
        }
        Ok(())
    }

    async fn adjust(&mut self, stream: u32, delta: u32) -> Result<(), Failure> {
        if stream == 0 {
            return self
                .connection
                .adjust(delta.into())
                .map_err(|_| Failure::Protocol("a window above 2 GiB"));
        }
        let overflown = self
            .streams
            .get(&stream)
            .is_some_and(|open| open.window.adjust(delta.into()).is_err());
        self.client_counts = true;
        if overflown {
            if let Some(open) = self.streams.remove(&stream) {
                open.window.close();
            }
            self.refuse(stream, reset::FLOW_CONTROL_ERROR).await;
        }
        Ok(())
    }
}
