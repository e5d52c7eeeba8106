//! A client that speaks SPDY, and sessions with it.

use bytes::{Bytes, BytesMut};
use slipway_streaming::spdy::{Decoder, Encoder, Frame, Headers};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::http;

/// A client's connection.
pub(crate) struct Client<S = TcpStream> {
    pub(crate) io: S,
    encoder: Encoder,
    decoder: Decoder,
    received: BytesMut,
    next: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) fn over(io: S) -> Self {
        Self {
            io,
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            received: BytesMut::new(),
            next: 1,
        }
    }

    pub(crate) async fn send(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        self.encoder.encode(&frame, &mut bytes);
        self.io.write_all(&bytes).await.unwrap();
    }

    /// The next frame; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.received).unwrap() {
                return Some(frame);
            }
            if self.io.read_buf(&mut self.received).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Opens a stream without waiting for its reply.
    pub(crate) async fn open(&mut self, headers: Headers) -> u32 {
        let stream = self.next;
        self.next += 2;
        let fin = false;
        self.send(Frame::SynStream {
            stream,
            headers,
            fin,
        })
        .await;
        stream
    }

    /// Opens a stream of a process's session.
    pub(crate) async fn stream(&mut self, kind: &str) -> u32 {
        self.open(Headers::from([("streamtype", kind)])).await
    }

    /// Opens the two streams of a connection to a port; answers those for data and errors.
    pub(crate) async fn connection(&mut self, port: u16, request: &str) -> (u32, u32) {
        let port = port.to_string();
        let headers = |kind| {
            Headers::from([
                ("streamtype", kind),
                ("port", port.as_str()),
                ("requestid", request),
            ])
        };
        let error = self.open(headers("error")).await;
        (self.open(headers("data")).await, error)
    }

    pub(crate) async fn data(&mut self, stream: u32, bytes: impl Into<Bytes>, fin: bool) {
        let bytes = bytes.into();
        self.send(Frame::Data { stream, bytes, fin }).await;
    }

    /// Reads until the server has finished all of the streams; answers what came on each.
    pub(crate) async fn until_finished<const N: usize>(
        &mut self,
        streams: [u32; N],
    ) -> [String; N] {
        let mut texts = [const { Vec::new() }; N];
        let mut open = N;
        while open > 0 {
            let frame = self.next().await.expect("streams are still open");
            let Frame::Data { stream, bytes, fin } = frame else {
                continue;
            };
            let Some(at) = streams.iter().position(|this| *this == stream) else {
                panic!("bytes on stream {stream}");
            };
            texts[at].extend_from_slice(&bytes);
            open -= usize::from(fin);
        }
        texts.map(|text| String::from_utf8(text).unwrap())
    }
}

/// Upgrades, as a client does that knows these protocols.
pub(crate) async fn connect(url: &str, protocol: &str) -> Client {
    let (stream, head) = http::request(
        url,
        &[
            ("Connection", "Upgrade"),
            ("Upgrade", "SPDY/3.1"),
            ("X-Stream-Protocol-Version", protocol),
        ],
    )
    .await;
    assert_eq!(http::status(&head), 101, "{head}");
    assert!(
        head.contains(&format!("x-stream-protocol-version: {protocol}\r\n")),
        "{head}"
    );
    Client::over(stream)
}
