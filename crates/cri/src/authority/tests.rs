//! The filter as a whole: byte streams in any chunks, and a server behind it.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use loona_hpack::{Decoder, Encoder};
use proptest::prelude::*;
use slipway_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use slipway_cri_api::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use slipway_cri_api::v1::{VersionRequest, VersionResponse};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

use super::Lenient;
use super::frames::{HEADER, LONGEST_BLOCK, PREFACE};

const PATH: &str = "%2Frun%2Fslipway%2Fslipway.sock";
const MENDED_PATH: &str = "-2Frun-2Fslipway-2Fslipway.sock";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x01;
const END_HEADERS: u8 = 0x04;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// How a client puts a header block into frames.
#[derive(Debug, Clone, Copy)]
struct Framing {
    padding: Option<u8>,
    priority: bool,
    /// The most that goes into one frame.
    fragment: usize,
}

impl Framing {
    const PLAIN: Self = Self {
        padding: None,
        priority: false,
        fragment: usize::MAX,
    };

    fn frames(self, stream: u32, block: &[u8]) -> Vec<u8> {
        let (first, mut rest) = block.split_at(block.len().min(self.fragment));
        let last = |rest: &[u8]| if rest.is_empty() { END_HEADERS } else { 0 };
        let mut flags = last(rest);
        let mut payload = Vec::new();
        if let Some(padding) = self.padding {
            flags |= PADDED;
            payload.push(padding);
        }
        if self.priority {
            flags |= PRIORITY;
            payload.extend([0x80, 0, 0, 0, 15]);
        }
        payload.extend(first);
        payload.extend(vec![0; usize::from(self.padding.unwrap_or(0))]);
        let mut frames = frame(HEADERS, flags, stream, &payload);
        while !rest.is_empty() {
            let (part, left) = rest.split_at(rest.len().min(self.fragment));
            rest = left;
            frames.extend(frame(CONTINUATION, last(rest), stream, part));
        }
        frames
    }
}

fn framing() -> impl Strategy<Value = Framing> {
    let fragment = prop_oneof![1..40_usize, Just(usize::MAX)];
    (prop::option::of(any::<u8>()), any::<bool>(), fragment).prop_map(
        |(padding, priority, fragment)| Framing {
            padding,
            priority,
            fragment,
        },
    )
}

/// A connection on which bytes come in chunks, each of them after a pause.
struct Chunks {
    chunks: VecDeque<Vec<u8>>,
    paused: bool,
}

impl AsyncRead for Chunks {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.paused = !self.paused;
        if self.paused {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(mut chunk) = self.chunks.pop_front() {
            let rest = chunk.split_off(chunk.len().min(buf.remaining()));
            buf.put_slice(&chunk);
            if !rest.is_empty() {
                self.chunks.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// What comes out of the filter, when bytes come in chunks of these sizes (again and again) and are
/// asked for in pieces of `piece`.
fn filtered(bytes: &[u8], sizes: &[usize], piece: usize) -> Vec<u8> {
    let mut chunks = VecDeque::new();
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, left) = rest.split_at(rest.len().min(*size));
        chunks.push_back(chunk.to_vec());
        rest = left;
    }
    let mut filter = Lenient::new(Chunks {
        chunks,
        paused: false,
    });
    let mut out = Vec::new();
    let mut buffer = vec![0; piece];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        loop {
            match filter.read(&mut buffer).await.expect("no error") {
                0 => break,
                length => out.extend_from_slice(&buffer[..length]),
            }
        }
    });
    out
}

/// One header block of a request; with HPACK's dynamic table.
fn request(encoder: &mut Encoder<'_>, authority: &str, extra: &[(String, String)]) -> Vec<u8> {
    let mut fields = vec![
        (":method", "POST"),
        (":path", "/runtime.v1/X"),
        (":authority", authority),
    ];
    fields.extend(
        extra
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    );
    encoder.encode(
        fields
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes())),
    )
}

fn extra() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec(("x-[a-z]{1,3}", "[ -~]{0,30}"), 0..5)
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1..4_usize, 1..200_usize, Just(100_000)], 1..6)
}

/// An authority, how the header block is framed, further fields and a body.
type Call = (String, Framing, Vec<(String, String)>, Vec<u8>);

/// Several requests with their bodies, by one client.
fn connection(requests: &[Call]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    for (index, (authority, framing, extra, body)) in requests.iter().enumerate() {
        let stream = 2 * u32::try_from(index).expect("few") + 1;
        let block = request(&mut encoder, authority, extra);
        bytes.extend(framing.frames(stream, &block));
        bytes.extend(frame(DATA, END_STREAM, stream, body));
    }
    bytes
}

fn requests(authority: &'static str) -> impl Strategy<Value = Vec<Call>> {
    let body = prop::collection::vec(any::<u8>(), 0..300);
    let request = (authority.prop_map(|a: String| a), framing(), extra(), body);
    prop::collection::vec(request, 1..6)
}

proptest! {
    #[test]
    fn an_ordinary_client_is_not_interfered_with(
        requests in requests("[a-z0-9.]{1,20}(:[0-9]{1,4})?"), sizes in sizes(), piece in 1..300_usize,
    ) {
        let bytes = connection(&requests);
        prop_assert_eq!(filtered(&bytes, &sizes, piece), bytes);
    }

    #[test]
    fn only_the_authority_changes_whatever_the_chunks(
        requests in requests("(%2[Ff][a-z.]{1,8}){1,4}|(/[a-z.]{1,8}){1,4}"),
        sizes in sizes(),
        piece in 1..300_usize,
    ) {
        let bytes = connection(&requests);
        let mended: Vec<_> = requests
            .iter()
            .map(|(authority, framing, extra, body)| {
                (authority.replace(['%', '/'], "-"), *framing, extra.clone(), body.clone())
            })
            .collect();
        prop_assert_eq!(filtered(&bytes, &sizes, piece), connection(&mended));
    }

    #[test]
    fn a_decoder_stays_in_step(
        blocks in prop::collection::vec(("(%2F[a-z.]{1,8}){1,4}", extra()), 1..20),
        size in 60..400_usize,
    ) {
        let mut encoder = Encoder::new();
        let (mut before, mut after) = (Decoder::new(), Decoder::new());
        for decoder in [&mut before, &mut after] {
            decoder.set_max_table_size(size);
        }
        encoder.set_max_table_size(size);
        for (authority, extra) in blocks {
            let mut block = request(&mut encoder, &authority, &extra);
            let mut expected = before.decode(&block).expect("well-formed");
            super::hpack::mend_authority(&mut block);
            for (name, value) in &mut expected {
                if name == b":authority" {
                    value.iter_mut().filter(|b| **b == b'%').for_each(|b| *b = b'-');
                }
            }
            prop_assert_eq!(after.decode(&block).expect("well-formed"), expected);
        }
    }

    #[test]
    fn garbage_goes_through_as_it_is(
        preface in any::<bool>(),
        noise in prop::collection::vec(any::<u8>(), 0..400),
        sizes in sizes(),
    ) {
        let bytes = [if preface { PREFACE } else { b"GET / " }, &noise].concat();
        let out = filtered(&bytes, &sizes, 100);
        prop_assert_eq!(out.len(), bytes.len());
        if !preface {
            prop_assert_eq!(out, bytes);
        }
    }
}

#[test]
fn malformed_frames_go_through_as_they_are() {
    let block = request(&mut Encoder::new(), PATH, &[]);
    let start = frame(HEADERS, 0, 1, &block);
    let cases = [
        // A header block that another frame interrupts.
        [
            start.clone(),
            frame(DATA, 0, 1, b"x"),
            frame(CONTINUATION, END_HEADERS, 1, &[]),
        ]
        .concat(),
        // One that another stream continues.
        [start.clone(), frame(CONTINUATION, END_HEADERS, 3, &[])].concat(),
        // One that nothing continues.
        start,
        // More padding than there is payload.
        frame(
            HEADERS,
            END_HEADERS | PADDED,
            1,
            &[&[255], &block[..]].concat(),
        ),
        // A frame that is cut off.
        frame(HEADERS, END_HEADERS, 1, &block)[..20].to_vec(),
        frame(HEADERS, END_HEADERS, 1, &block)[..4].to_vec(),
    ];
    for case in cases {
        let bytes = [PREFACE, &case].concat();
        for size in [1, 7, 1000] {
            assert_eq!(filtered(&bytes, &[size], 64), bytes);
        }
    }
}

#[test]
fn a_header_block_that_is_too_long_goes_through_unseen() {
    let filler: Vec<(String, String)> = (0..30)
        .map(|n| (format!("x-{n}"), "y".repeat(LONGEST_BLOCK / 20)))
        .collect();
    let mut encoder = Encoder::new();
    let long = request(&mut encoder, PATH, &filler);
    let short = request(&mut Encoder::new(), PATH, &[]);
    for fragment in [usize::MAX, 16_000] {
        let framing = Framing {
            fragment,
            ..Framing::PLAIN
        };
        let long = [PREFACE, &framing.frames(1, &long)].concat();
        // What follows is looked at again.
        let bytes = [&long[..], &Framing::PLAIN.frames(3, &short)].concat();
        let out = filtered(&bytes, &[5000], 8192);
        assert_eq!(out[..long.len()], long);
        assert_eq!(out.len(), bytes.len());
        let text = String::from_utf8_lossy(&out[long.len()..]);
        assert!(text.contains(MENDED_PATH), "{text}");
    }
}

/// Answers Version with what it was told about the client.
struct Stub;

#[tonic::async_trait]
impl RuntimeService for Stub {
    async fn version(
        &self,
        request: Request<VersionRequest>,
    ) -> Result<Response<VersionResponse>, Status> {
        let agent = request
            .metadata()
            .get("user-agent")
            .and_then(|agent| agent.to_str().ok());
        Ok(Response::new(VersionResponse {
            version: request.get_ref().version.clone(),
            runtime_name: agent.unwrap_or("nobody").to_string(),
            ..VersionResponse::default()
        }))
    }
}

/// Serves one connection.
fn serve(stream: UnixStream) -> tokio::task::JoinHandle<()> {
    let incoming = tokio_stream::once(Ok::<_, io::Error>(Lenient::new(stream)));
    let server = Server::builder().add_service(RuntimeServiceServer::new(Stub));
    tokio::spawn(async move {
        server
            .serve_with_incoming(incoming.chain(tokio_stream::pending()))
            .await
            .expect("served");
    })
}

/// Reads until a stream has ended; its header fields, those of the trailers included, and its body.
async fn response(
    client: &mut UnixStream,
    decoder: &mut Decoder<'_>,
    stream: u32,
) -> (Vec<(String, String)>, Vec<u8>) {
    let (mut fields, mut body) = (Vec::new(), Vec::new());
    loop {
        let mut header = [0; HEADER];
        client
            .read_exact(&mut header)
            .await
            .expect("the server answers");
        let [l0, l1, l2, kind, flags, id @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
        client
            .read_exact(&mut payload)
            .await
            .expect("a whole frame");
        match kind {
            HEADERS => {
                let block = decoder.decode(&payload).expect("well-formed");
                let text = |bytes| String::from_utf8(bytes).expect("text");
                fields.extend(
                    block
                        .into_iter()
                        .map(|(name, value)| (text(name), text(value))),
                );
            }
            DATA => body.extend(payload),
            3 | 7 => panic!("the server refuses the request: {kind} {payload:?}"),
            _ => continue,
        }
        if u32::from_be_bytes(id) == stream && flags & END_STREAM != 0 {
            return (fields, body);
        }
    }
}

/// What Go's HPACK encoder makes of a gRPC call: Huffman code, and the authority in the dynamic
/// table from its first use on.
fn go_request(first: bool) -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // :method POST, :scheme http
    let mut literal = |prefix: &[u8], text: &str| {
        block.extend(prefix);
        let encoded = super::hpack::tests::huffman(text.as_bytes());
        block.push(0x80 | u8::try_from(encoded.len()).expect("short"));
        block.extend(encoded);
    };
    if first {
        literal(&[0x44], "/runtime.v1.RuntimeService/Version");
        literal(&[0x41], PATH);
        literal(&[0x5f], "application/grpc");
        literal(&[0x7a], "grpc-go/1.27.1");
        literal(&[0x40, 2, b't', b'e'], "trailers");
    } else {
        block.extend([66, 65, 64, 63, 62].map(|index| 0x80 | index));
    }
    block
}

#[tokio::test]
async fn a_client_that_sends_the_sockets_path_is_served() {
    let splits = [usize::MAX, 60, 31];
    for (padding, priority) in [(None, false), (Some(17), true)] {
        for fragment in splits {
            let (mut client, server) = UnixStream::pair().expect("a pair");
            let server = serve(server);
            let mut decoder = Decoder::new();
            client.write_all(PREFACE).await.expect("written");
            client
                .write_all(&frame(SETTINGS, 0, 0, &[]))
                .await
                .expect("written");
            for stream in [1, 3, 5] {
                let framing = Framing {
                    padding,
                    priority,
                    fragment,
                };
                let headers = framing.frames(stream, &go_request(stream == 1));
                client.write_all(&headers).await.expect("written");
                let message = [0, 0, 0, 0, 4, 0x0a, 2, b'v', b'1'];
                client
                    .write_all(&frame(DATA, END_STREAM, stream, &message))
                    .await
                    .expect("written");
                let (fields, body) = response(&mut client, &mut decoder, stream).await;
                assert!(
                    fields.contains(&("grpc-status".into(), "0".into())),
                    "{fields:?}"
                );
                let body = String::from_utf8_lossy(&body);
                assert!(
                    body.contains("v1") && body.contains("grpc-go/1.27.1"),
                    "{body:?}"
                );
            }
            server.abort();
        }
    }
}

/// Why the filter is there: should this fail one day, it is not needed any more.
#[tokio::test]
async fn without_the_filter_such_a_client_is_refused() {
    let (mut client, server) = UnixStream::pair().expect("a pair");
    let incoming = tokio_stream::once(Ok::<_, io::Error>(server)).chain(tokio_stream::pending());
    let router = Server::builder().add_service(RuntimeServiceServer::new(Stub));
    let server = tokio::spawn(router.serve_with_incoming(incoming));
    let headers = Framing::PLAIN.frames(1, &go_request(true));
    let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &headers].concat();
    client.write_all(&bytes).await.expect("written");
    loop {
        let mut header = [0; HEADER];
        client
            .read_exact(&mut header)
            .await
            .expect("the server answers");
        let mut payload = vec![0; usize::from(header[2])];
        client
            .read_exact(&mut payload)
            .await
            .expect("a whole frame");
        if header[3] == 3 {
            assert_eq!(payload, [0, 0, 0, 1], "RST_STREAM with PROTOCOL_ERROR");
            break;
        }
    }
    server.abort();
}

#[tokio::test]
async fn an_ordinary_client_is_served() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("slipway.sock");
    let listener = UnixListener::bind(&socket).expect("bound");
    let incoming = UnixListenerStream::new(listener).map(|stream| stream.map(Lenient::new));
    let router = Server::builder()
        .add_service(RuntimeServiceServer::new(Stub).max_decoding_message_size(1 << 24));
    let server = tokio::spawn(router.serve_with_incoming(incoming));
    let channel = Endpoint::from_shared(format!("unix://{}", socket.display()))
        .expect("a valid address")
        .connect()
        .await
        .expect("connected");
    let mut client = RuntimeServiceClient::new(channel).max_decoding_message_size(1 << 24);
    for length in [0, 5, 100_000, 10_000_000] {
        let version = "v".repeat(length);
        let answer = client
            .version(VersionRequest {
                version: version.clone(),
            })
            .await;
        assert!(
            answer.expect("answered").into_inner().version == version,
            "{length} bytes"
        );
    }
    let error = client
        .status(slipway_cri_api::v1::StatusRequest::default())
        .await;
    assert_eq!(
        error.expect_err("not in the stub").code(),
        tonic::Code::Unimplemented
    );
    server.abort();
}
