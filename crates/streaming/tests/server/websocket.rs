//! A client that speaks WebSocket.

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use slipway_streaming::websocket::channel::{Encoding, Said};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, split};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::http;

/// A client's connection.
pub(crate) struct Client {
    pub(crate) socket: WebSocketStream<TcpStream>,
    encoding: Encoding,
}

pub(crate) async fn try_connect(url: &str, protocol: &str) -> Result<Client, Error> {
    let (stream, _) = http::connect(url).await;
    let mut request = url.replace("http://", "ws://").into_client_request()?;
    let headers = request.headers_mut();
    if !protocol.is_empty() {
        headers.insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    let (socket, _) = client_async(request, stream).await?;
    let encoding = match protocol {
        "v5.channel.k8s.io" => Encoding::BinaryWithClose,
        protocol if protocol.contains("base64") => Encoding::Base64,
        _ => Encoding::Binary,
    };
    Ok(Client { socket, encoding })
}

pub(crate) async fn connect(url: &str, protocol: &str) -> Client {
    try_connect(url, protocol).await.unwrap()
}

impl Client {
    pub(crate) async fn send(&mut self, channel: u8, bytes: &[u8]) {
        let message = self.encoding.encode(channel, bytes);
        self.socket.send(message).await.unwrap();
    }

    pub(crate) async fn close(&mut self, channel: u8) {
        let message = self.encoding.close(channel).expect("a word for it");
        self.socket.send(message).await.unwrap();
    }

    /// The next message with a channel; none at the end.
    pub(crate) async fn next(&mut self) -> Option<(u8, Bytes)> {
        loop {
            let message = self.socket.next().await?.ok()?;
            if let Message::Close(_) | Message::Ping(_) | Message::Pong(_) = message {
                continue;
            }
            if let Said::Bytes(channel, bytes) = self.encoding.decode(message.into_data()).unwrap()
            {
                return Some((channel, bytes));
            }
        }
    }

    /// Reads to the end; answers what came on each of the first channels.
    pub(crate) async fn rest<const N: usize>(&mut self) -> [String; N] {
        let mut texts = [const { Vec::new() }; N];
        while let Some((channel, bytes)) = self.next().await {
            texts[usize::from(channel)].extend_from_slice(&bytes);
        }
        texts.map(|text| String::from_utf8(text).unwrap())
    }
}

impl Client {
    /// The bytes inside of a tunnel. Closing them closes the connection.
    pub(crate) fn tunnel(self) -> DuplexStream {
        let (near, far) = duplex(64 * 1024);
        let (mut from_near, mut to_near) = split(far);
        let (mut sink, mut messages) = self.socket.split();
        tokio::spawn(async move {
            let mut bytes = BytesMut::new();
            while from_near
                .read_buf(&mut bytes)
                .await
                .is_ok_and(|read| read > 0)
            {
                let message = Message::Binary(bytes.split().freeze());
                sink.send(message).await.unwrap();
            }
            let _ = sink.close().await;
        });
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                if message.is_binary() && to_near.write_all(&message.into_data()).await.is_err() {
                    break;
                }
            }
        });
        near
    }
}

impl Client {
    /// What comes on the first two channels; the others are passed over.
    pub(crate) async fn rest_of(&mut self) -> [String; 2] {
        let [stdin, stdout, _, _]: [String; 4] = self.rest().await;
        [stdin, stdout]
    }
}
