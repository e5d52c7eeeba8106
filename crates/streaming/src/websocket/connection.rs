//! The server's side of a WebSocket connection that carries channels.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use super::channel::{self, Encoding, Said};
use crate::stream::{Closed, Gone, Incoming, LINGER, PIECE};

/// The longest message that is accepted, in bytes. Clients write what they are given in one.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Bytes of a channel that wait to be read.
const WAITING: usize = 64 * 1024;

/// Messages that wait to be written.
const QUEUE: usize = 8;

/// What a server accepts; the rest is as RFC 6455 has it: clients' frames are masked, for example.
pub fn configuration() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(8 * 1024)
        .write_buffer_size(PIECE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// The writing side of all channels. A connection goes on until this and all senders are dropped.
pub(crate) struct Channels {
    encoding: Encoding,
    messages: mpsc::Sender<Message>,
}

impl Channels {
    /// The writing side of one.
    pub(crate) fn sender(&self, channel: u8) -> Sender {
        Sender {
            channel,
            encoding: self.encoding,
            messages: self.messages.clone(),
        }
    }
}

/// One direction of a channel: to the client.
pub(crate) struct Sender {
    channel: u8,
    encoding: Encoding,
    messages: mpsc::Sender<Message>,
}

impl Sender {
    /// Sends bytes; waits while the client is slow.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let message = self.encoding.encode(self.channel, bytes);
        self.messages.send(message).await.map_err(|_| Gone)
    }

    /// Says that nothing more comes, where there is a word for it.
    pub(crate) async fn close(&mut self) -> Result<Closed, Gone> {
        let Some(message) = self.encoding.close(self.channel) else {
            return Ok(Closed::Untold);
        };
        self.messages.send(message).await.map_err(|_| Gone)?;
        Ok(Closed::Told)
    }
}

/// Why a connection has ended other than by its client's or its session's will.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("broken WebSocket: {0}")]
    WebSocket(#[from] tungstenite::Error),
    #[error("broken WebSocket channels: {0}")]
    Channel(#[from] channel::Error),
}

/// Serves channels on a connection, of which the client may write to those that are listed. The
/// future carries it, and ends when the client has gone or when all senders have been dropped and
/// what they sent has been written.
pub(crate) fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    io: S,
    encoding: Encoding,
    readable: &[u8],
) -> (
    Channels,
    Vec<Incoming>,
    impl Future<Output = Result<(), Failure>>,
) {
    let (messages, queue) = mpsc::channel(QUEUE);
    let mut pipes: Vec<Option<DuplexStream>> = Vec::new();
    let incoming = readable
        .iter()
        .map(|&channel| {
            let (theirs, ours) = duplex(WAITING);
            pipes.resize_with(pipes.len().max(usize::from(channel) + 1), || None);
            pipes[usize::from(channel)] = Some(ours);
            Incoming::new(theirs)
        })
        .collect();
    let channels = Channels { encoding, messages };
    (channels, incoming, carry(io, encoding, queue, pipes))
}

async fn carry<S: AsyncRead + AsyncWrite + Unpin>(
    io: S,
    encoding: Encoding,
    mut queue: mpsc::Receiver<Message>,
    mut pipes: Vec<Option<DuplexStream>>,
) -> Result<(), Failure> {
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(configuration())).await;
    let (mut sink, mut messages) = socket.split();
    let ended = {
        let writing = async {
            while let Some(message) = queue.recv().await {
                sink.send(message).await?;
            }
            Ok::<(), tungstenite::Error>(())
        };
        let reading = async {
            while let Some(message) = messages.next().await {
                let message = message?;
                if message.is_binary() || message.is_text() {
                    deliver(encoding.decode(message.into_data())?, &mut pipes).await;
                }
            }
            Ok::<(), Failure>(())
        };
        tokio::select! {
            read = reading => read.map(|()| Ended::Client),
            written = writing => written.map(|()| Ended::Session).map_err(Failure::from),
        }
    };
    drop(pipes);
    let code = match &ended {
        Ok(Ended::Client) => return Ok(()),
        Ok(Ended::Session) => CloseCode::Normal,
        Err(Failure::WebSocket(tungstenite::Error::Capacity(_))) => CloseCode::Size,
        Err(Failure::WebSocket(tungstenite::Error::Io(_))) => return ended.map(drop),
        Err(_) => CloseCode::Protocol,
    };
    // Closing with bytes unread would take from the client what it has not read yet.
    let _ = tokio::time::timeout(LINGER, async {
        let reason = "".into();
        sink.send(Message::Close(Some(CloseFrame { code, reason })))
            .await?;
        while messages.next().await.transpose()?.is_some() {}
        Ok::<(), tungstenite::Error>(())
    })
    .await;
    ended.map(drop)
}

enum Ended {
    Client,
    Session,
}

/// Hands a message to whoever reads its channel; what nobody reads is thrown away.
async fn deliver(said: Said, pipes: &mut [Option<DuplexStream>]) {
    let (channel, bytes) = match said {
        Said::Bytes(channel, bytes) => (channel, bytes),
        Said::Close(channel) => {
            if let Some(pipe) = pipes.get_mut(usize::from(channel)) {
                *pipe = None;
            }
            return;
        }
        Said::Nothing => return,
    };
    if let Some(Some(pipe)) = pipes.get_mut(usize::from(channel))
        && pipe.write_all(&bytes).await.is_err()
    {
        pipes[usize::from(channel)] = None;
    }
}
