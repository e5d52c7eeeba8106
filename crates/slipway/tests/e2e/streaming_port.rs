//! The streaming port, as clients without WebSocket and clients without manners use it: SPDY from
//! the socket to the process in the container, and hostile bytes that harm their sender alone.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use slipway_cri_api::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use slipway_streaming::spdy::{Decoder, Encoder, Frame, Headers};
use slipway_testbed::{Node, pod};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::{node, refused};

/// How long anything may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_mins(1);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(PATIENCE, what).await;
    ended.expect("it hangs")
}

async fn container(node: &Node, image: &str, script: &str) -> (String, String) {
    let config = node.pod("streamed");
    let pod = node.cri().run_pod(&config).await.unwrap();
    let container = pod::shell("main", image, script);
    let id = node.cri().launch(&pod, &config, &container).await.unwrap();
    (pod, id)
}

fn exec_request(id: &str, script: &str) -> ExecRequest {
    ExecRequest {
        container_id: id.to_owned(),
        cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    }
}

async fn exec_url(node: &Node, request: ExecRequest) -> String {
    let answer = node.cri().runtime().exec(request).await;
    answer.unwrap().into_inner().url
}

/// Asks for SPDY and answers the connection and the status.
async fn upgrade(url: &str, protocol: &str) -> (TcpStream, u16) {
    let rest = url.strip_prefix("http://").unwrap();
    let (address, path) = rest.split_once('/').unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {protocol}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (stream, status)
}

/// A client that speaks SPDY.
struct Client {
    stream: TcpStream,
    encoder: Encoder,
    decoder: Decoder,
    received: BytesMut,
    next: u32,
}

impl Client {
    async fn connect(url: &str, protocol: &str) -> Self {
        let (stream, status) = upgrade(url, protocol).await;
        assert_eq!(status, 101);
        Self {
            stream,
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            received: BytesMut::new(),
            next: 1,
        }
    }

    async fn send(&mut self, frame: &Frame) {
        let mut bytes = BytesMut::new();
        self.encoder.encode(frame, &mut bytes);
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn open<const N: usize>(&mut self, headers: [(&str, &str); N]) -> u32 {
        let (stream, fin) = (self.next, false);
        self.next += 2;
        let headers = Headers::from(headers);
        self.send(&Frame::SynStream {
            stream,
            headers,
            fin,
        })
        .await;
        stream
    }

    async fn data(&mut self, stream: u32, bytes: &[u8], fin: bool) {
        let bytes = Bytes::copy_from_slice(bytes);
        self.send(&Frame::Data { stream, bytes, fin }).await;
    }

    /// Bytes from the server: of which stream, and whether they are its last.
    async fn bytes(&mut self) -> (u32, Bytes, bool) {
        loop {
            match self.decoder.decode(&mut self.received).unwrap() {
                Some(Frame::Data { stream, bytes, fin }) => return (stream, bytes, fin),
                Some(_) => {}
                None => {
                    let read = self.stream.read_buf(&mut self.received).await.unwrap();
                    assert!(read > 0, "the server has closed");
                }
            }
        }
    }

    /// What comes on these streams until the server has finished them all.
    async fn finished<const N: usize>(&mut self, streams: [u32; N]) -> [Vec<u8>; N] {
        let (mut texts, mut open) = ([const { Vec::new() }; N], N);
        while open > 0 {
            let (stream, bytes, fin) = self.bytes().await;
            let at = streams.iter().position(|this| *this == stream).unwrap();
            texts[at].extend_from_slice(&bytes);
            open -= usize::from(fin);
        }
        texts
    }
}

/// The streams of an exec: error, stdin, stdout, stderr.
async fn exec_streams(client: &mut Client) -> [u32; 4] {
    let mut streams = [0; 4];
    for (stream, kind) in streams
        .iter_mut()
        .zip(["error", "stdin", "stdout", "stderr"])
    {
        *stream = client.open([("streamtype", kind)]).await;
    }
    streams
}

const SPDY_EXEC: &str = "v4.channel.k8s.io";

#[tokio::test]
async fn spdy_carries_an_exec_with_its_streams_apart_and_its_exit_code() {
    let (node, image) = node().await;
    let (_, id) = container(&node, &image, "sleep 1000").await;
    soon(async {
        let url = exec_url(&node, exec_request(&id, "cat; echo no >&2; exit 42")).await;
        let mut client = Client::connect(&url, SPDY_EXEC).await;
        let [error, stdin, stdout, stderr] = exec_streams(&mut client).await;
        // More than all buffers on the way hold, so that both directions have to wait.
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
        let mut echo = Vec::new();
        for piece in bytes.chunks(60_000) {
            client.data(stdin, piece, false).await;
            while echo.len() < 60_000 {
                let (stream, bytes, _) = client.bytes().await;
                assert_eq!(stream, stdout);
                echo.extend_from_slice(&bytes);
            }
            assert!(echo.drain(..60_000).eq(piece.iter().copied()));
        }
        client.data(stdin, b"the end", true).await;
        let [error, rest, errors] = client.finished([error, stdout, stderr]).await;
        assert_eq!((&rest[..], &errors[..]), (&b"the end"[..], &b"no\n"[..]));
        let status: serde_json::Value = serde_json::from_slice(&error).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "42");
    })
    .await;
    node.finish().await.unwrap();
}

#[tokio::test]
async fn spdy_gives_a_terminal_its_sizes() {
    let (node, image) = node().await;
    let (_, id) = container(&node, &image, "sleep 1000").await;
    soon(async {
        let request = ExecRequest {
            tty: true,
            stderr: false,
            ..exec_request(
                &id,
                "until stty size | grep '^43 132$'; do sleep 0.1; done; exit 3",
            )
        };
        let mut client = Client::connect(&exec_url(&node, request).await, SPDY_EXEC).await;
        let error = client.open([("streamtype", "error")]).await;
        let _stdin = client.open([("streamtype", "stdin")]).await;
        let stdout = client.open([("streamtype", "stdout")]).await;
        let resize = client.open([("streamtype", "resize")]).await;
        client
            .data(resize, b"{\"Width\":132,\"Height\":43}\n", false)
            .await;
        let [error, stdout] = client.finished([error, stdout]).await;
        let shown = String::from_utf8(stdout).unwrap();
        assert!(shown.contains("43 132\r\n"), "{shown}");
        let error = String::from_utf8(error).unwrap();
        assert!(error.contains("\"message\":\"3\""), "{error}");
    })
    .await;
    node.finish().await.unwrap();
}

#[tokio::test]
async fn spdy_carries_several_ports_in_one_connection() {
    let (node, image) = node().await;
    let script = "nc -ll -p 7001 -e cat & nc -ll -p 7002 -e wc -c & wait";
    let (pod, _) = container(&node, &image, script).await;
    soon(async {
        let request = PortForwardRequest {
            pod_sandbox_id: pod,
            port: Vec::new(),
        };
        let answer = node.cri().runtime().port_forward(request).await;
        let url = answer.unwrap().into_inner().url;
        let mut client = Client::connect(&url, "portforward.k8s.io").await;
        let mut request = 0;
        // Until each listens: a port that nobody listens on fails alone.
        let mut forward = async |port: &str, says: &[u8]| {
            loop {
                request += 1;
                let id = request.to_string();
                let headers = |kind| {
                    [
                        ("streamtype", kind),
                        ("port", port),
                        ("requestid", id.as_str()),
                    ]
                };
                let error = client.open(headers("error")).await;
                let data = client.open(headers("data")).await;
                client.data(data, says, true).await;
                let (mut said, mut failed) = (Vec::new(), Vec::new());
                let mut open = 2;
                while open > 0 {
                    let (stream, bytes, fin) = client.bytes().await;
                    if stream == error {
                        failed.extend_from_slice(&bytes);
                    } else if stream == data {
                        said.extend_from_slice(&bytes);
                    }
                    // A stream that is reset has no end of its own.
                    open = if failed.is_empty() || !fin {
                        open - i32::from(fin)
                    } else {
                        0
                    };
                }
                if failed.is_empty() {
                    return String::from_utf8(said).unwrap();
                }
                assert!(String::from_utf8(failed).unwrap().contains(port));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        assert_eq!(forward("7001", b"hello").await, "hello");
        assert_eq!(forward("7002", b"12345").await.trim(), "5");
        assert_eq!(forward("7001", b"again").await, "again");
    })
    .await;
    node.finish().await.unwrap();
}

#[tokio::test]
async fn hostile_bytes_end_their_connection_and_nothing_else() {
    let (node, image) = node().await;
    let (pod, id) = container(&node, &image, "sleep 1000").await;
    soon(async {
        // Somebody else's session, which must not notice anything.
        let url = exec_url(&node, exec_request(&id, "cat")).await;
        let mut bystander = Client::connect(&url, SPDY_EXEC).await;
        let [_, stdin, stdout, _] = exec_streams(&mut bystander).await;
        let address = url.strip_prefix("http://").unwrap();
        let address = address.split('/').next().unwrap().to_owned();

        assert_eq!(upgrade(&url, SPDY_EXEC).await.1, 404, "a token is used up");
        let guessed = format!("http://{address}/exec/{}", "0".repeat(32));
        assert_eq!(upgrade(&guessed, SPDY_EXEC).await.1, 404);

        let unmasked = "GET /exec/TOKEN HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x02\x05\0hello";
        let spdy = "POST /exec/TOKEN HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
             Upgrade: SPDY/3.1\r\n\r\n";
        let with = |frame: &[u8]| [spdy.as_bytes(), frame].concat();
        let hostile: [(&str, Vec<u8>); 6] = [
            (
                "an oversized header",
                format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(1 << 20)).into(),
            ),
            (
                "no HTTP",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
            ),
            ("an unmasked WebSocket frame", unmasked.into()),
            (
                "an oversized SPDY frame",
                with(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]),
            ),
            (
                "SPDY without zlib",
                with(&[[0x80, 3, 0, 1, 0, 0, 0, 14, 0, 0, 0, 1], [0xff; 12]].concat()),
            ),
            (
                "another SPDY",
                with(&[0x80, 2, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0]),
            ),
        ];
        for (what, bytes) in hostile {
            let url = exec_url(&node, exec_request(&id, "cat")).await;
            let token = url.rsplit('/').next().unwrap();
            let mut stream = TcpStream::connect(&address).await.unwrap();
            let at = bytes.windows(5).position(|window| window == b"TOKEN");
            let bytes = match at {
                Some(at) => [&bytes[..at], token.as_bytes(), &bytes[at + 5..]].concat(),
                None => bytes,
            };
            // The server may have closed before all is sent.
            let _ = stream.write_all(&bytes).await;
            let mut rest = Vec::new();
            // A reset is an end, too.
            let _ = stream.read_to_end(&mut rest).await;
            bystander.data(stdin, what.as_bytes(), false).await;
            let mut echo = Vec::new();
            while echo.len() < what.len() {
                let (stream, bytes, _) = bystander.bytes().await;
                assert_eq!(stream, stdout);
                echo.extend_from_slice(&bytes);
            }
            assert_eq!(String::from_utf8_lossy(&echo), what);
            let pods = node.cri().pods().await.unwrap();
            assert_eq!(pods.iter().filter(|this| this.id == pod).count(), 1);
        }
        // Whoever says nothing keeps nobody out.
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(TcpStream::connect(&address).await.unwrap());
        }
        let url = exec_url(&node, exec_request(&id, "echo fine")).await;
        let mut client = Client::connect(&url, SPDY_EXEC).await;
        let [error, _, stdout, stderr] = exec_streams(&mut client).await;
        let [_, said, _] = client.finished([error, stdout, stderr]).await;
        assert_eq!(said, b"fine\n");
    })
    .await;
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_session_that_cannot_be_is_refused_before_there_is_a_url() {
    let (node, image) = node().await;
    let (pod, id) = container(&node, &image, "sleep 1000").await;
    let exec = async |change: fn(&mut ExecRequest)| {
        let mut request = exec_request(&id, "true");
        change(&mut request);
        node.cri().runtime().exec(request).await
    };
    let invalid = Code::InvalidArgument;
    refused(
        exec(|request| request.tty = true).await,
        invalid,
        &["ExecRequest.tty", "stderr"],
    );
    refused(
        exec(|request| request.cmd.clear()).await,
        invalid,
        &["ExecRequest.cmd"],
    );
    let no_streams = exec(|request| {
        (request.stdin, request.stdout, request.stderr) = (false, false, false);
    });
    refused(no_streams.await, invalid, &["ExecRequest.stdout"]);
    let nowhere = exec(|request| "none".clone_into(&mut request.container_id));
    refused(nowhere.await, Code::NotFound, &["none"]);
    let attach = AttachRequest {
        container_id: id.clone(),
        ..AttachRequest::default()
    };
    let attached = node.cri().runtime().attach(attach).await;
    refused(attached, invalid, &["AttachRequest.stdin"]);
    for port in [0, -1, 65536] {
        let request = PortForwardRequest {
            pod_sandbox_id: pod.clone(),
            port: vec![80, port],
        };
        let forwarded = node.cri().runtime().port_forward(request).await;
        refused(
            forwarded,
            invalid,
            &["PortForwardRequest.port", &port.to_string()],
        );
    }
    node.finish().await.unwrap();
}
