//! Whoever misbehaves loses his own connection, and nothing else happens.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use slipway_streaming::Config;
use slipway_streaming::spdy::{Frame, Headers};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{IN_OUT, OUT_ERR, Server, http, soon, spdy, websocket};

/// That others are served as if nothing had happened.
async fn serves(server: &Server) {
    let url = server.exec(&["say", "fine", "", "0"], OUT_ERR);
    let [_, stdout] = websocket::connect(&url, "v4.channel.k8s.io")
        .await
        .rest_of()
        .await;
    assert_eq!(stdout, "fine");
    server.quiet().await;
}

/// Reads until the server closes.
async fn closed(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = stream.read_to_end(&mut rest).await;
    rest
}

#[tokio::test]
async fn a_token_is_good_once_and_only_where_it_was_issued_for() {
    soon(async {
        let server = Server::start().await;
        let upgrade = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];
        let url = server.exec(&["cat"], IN_OUT);
        let (_session, head) = http::request(&url, &upgrade).await;
        assert_eq!(http::status(&head), 101);
        let (_, head) = http::request(&url, &upgrade).await;
        assert_eq!(http::status(&head), 404, "it was used");
        let url = server.exec(&["cat"], IN_OUT);
        let (_, head) = http::request(&url.replace("/exec/", "/attach/"), &upgrade).await;
        assert_eq!(http::status(&head), 404, "it was for exec");
        let (_, head) = http::request(&url, &upgrade).await;
        assert_eq!(http::status(&head), 404, "it was tried elsewhere");
        for path in [
            "/",
            "/exec/",
            "/exec",
            "/exec/0123",
            "/metrics",
            "/exec/../exec/x",
        ] {
            let url = format!("{}{path}", server.streaming.base());
            let (_, head) = http::request(&url, &upgrade).await;
            assert_eq!(http::status(&head), 404, "{path}");
        }
        serves(&server).await;
    })
    .await;
}

#[tokio::test]
async fn a_token_expires() {
    soon(async {
        let token_lifetime = Duration::from_millis(50);
        let server = Server::with(Config {
            token_lifetime,
            ..Config::default()
        })
        .await;
        let url = server.exec(&["cat"], IN_OUT);
        tokio::time::sleep(token_lifetime).await;
        assert!(websocket::try_connect(&url, "").await.is_err());
    })
    .await;
}

#[tokio::test]
async fn requests_that_are_none_are_answered_or_closed() {
    soon(async {
        let server = Server::start().await;
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
        let header = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(100_000));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(1000));
        for (request, statuses) in [
            (long.as_str(), [414, 431]),
            (&header, [431, 431]),
            (&many, [431, 431]),
            ("\x16\x03\x01\x02\x00", [400, 0]),
            ("HELLO\r\n\r\n", [400, 400]),
            ("PUT / HTTP/1.1\r\n\r\n", [405, 405]),
        ] {
            let (mut stream, _) = http::connect(&format!("{}/", server.streaming.base())).await;
            // The server may close before it has read everything.
            let _ = stream.write_all(request.as_bytes()).await;
            let _ = stream.shutdown().await;
            let answer = String::from_utf8(closed(&mut stream).await).unwrap();
            let status = if answer.is_empty() {
                0
            } else {
                http::status(&answer)
            };
            let start: String = request.chars().take(20).collect();
            assert!(
                statuses.contains(&status) || status == 0,
                "{start}: {answer}"
            );
        }
        let (_, head) = http::request(&server.exec(&["cat"], IN_OUT), &[]).await;
        assert_eq!(http::status(&head), 400, "nothing to upgrade to");
        serves(&server).await;
    })
    .await;
}

#[tokio::test]
async fn no_more_sessions_than_configured() {
    soon(async {
        let server = Server::with(Config {
            max_sessions: 1,
            ..Config::default()
        })
        .await;
        let first = websocket::connect(&server.exec(&["cat"], IN_OUT), "").await;
        let upgrade = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];
        let (_, head) = http::request(&server.exec(&["cat"], IN_OUT), &upgrade).await;
        assert_eq!(http::status(&head), 503);
        drop(first);
        server.quiet().await;
        serves(&server).await;
    })
    .await;
}

fn control(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80, 3, 0, kind, 0];
    frame.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
    frame.extend(body);
    frame
}

fn syn_stream(id: u32, block: &[u8]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend([0; 6]);
    body.extend(block);
    control(1, &body)
}

#[tokio::test]
async fn broken_spdy_closes_its_connection() {
    soon(async {
        let server = Server::start().await;
        let mut bomb = ZlibEncoder::new(Vec::new(), Compression::best());
        bomb.write_all(&1_u32.to_be_bytes()).unwrap();
        bomb.write_all(&vec![0; 10 << 20]).unwrap();
        let bomb = bomb.finish().unwrap();
        assert!(bomb.len() < 16 * 1024);
        let no_names = [0x78, 1, 0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0];
        let broken: [(&str, Vec<u8>); 9] = [
            (
                "another version",
                vec![0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1],
            ),
            (
                "an oversized frame",
                vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff],
            ),
            ("a frame that is too short", control(1, &[0; 4])),
            ("headers that are no zlib", syn_stream(1, b"not compressed")),
            ("a zlib bomb", syn_stream(1, &bomb)),
            ("a server's stream", syn_stream(2, &no_names)),
            ("stream 0", syn_stream(0, &no_names)),
            (
                "settings without end",
                control(4, &[0x7f, 0xff, 0xff, 0xff]),
            ),
            (
                "too much credit",
                control(9, &[0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]),
            ),
        ];
        for (what, bytes) in broken {
            let url = server.exec(&["cat"], IN_OUT);
            let mut client = spdy::connect(&url, "v4.channel.k8s.io").await;
            client.io.write_all(&bytes).await.unwrap();
            let goaway = [0x80, 3, 0, 7, 0, 0, 0, 8];
            let last = closed(&mut client.io).await;
            assert_eq!(last.get(..8), Some(&goaway[..]), "{what}");
            assert_eq!(last.last(), Some(&1), "{what}: an error of the protocol");
            serves(&server).await;
        }
    })
    .await;
}

#[tokio::test]
async fn streams_that_nobody_asked_for_are_refused() {
    soon(async {
        let server = Server::start().await;
        let url = server.exec(&["cat"], IN_OUT);
        let mut client = spdy::connect(&url, "v4.channel.k8s.io").await;
        let error = client.stream("error").await;
        for (kind, wanted) in [
            ("stderr", false),
            ("resize", false),
            ("chat", false),
            ("error", false),
            ("stdin", true),
            ("stdout", true),
            ("stdin", false),
        ] {
            let id = client.stream(kind).await;
            let answer = loop {
                match client.next().await.unwrap() {
                    Frame::SynReply { stream, .. } if stream == error => {}
                    frame => break frame,
                }
            };
            let replied = matches!(answer, Frame::SynReply { stream, .. } if stream == id);
            assert_eq!(replied, wanted, "{kind}: {answer:?}");
        }
        client.data(99, "to nobody", false).await;
        let (stream, status) = (99, 2);
        assert_eq!(
            client.next().await,
            Some(Frame::RstStream { stream, status })
        );
    })
    .await;
}

#[tokio::test]
async fn one_connection_has_so_many_streams_and_no_more() {
    soon(async {
        let server = Server::start().await;
        let url = server.port_forward(&[]);
        let mut client = spdy::connect(&url, "portforward.k8s.io").await;
        let mut refused = 0;
        for request in 0..300 {
            for kind in ["error", "data"] {
                let request = request.to_string();
                let headers =
                    Headers::from([("streamtype", kind), ("port", "9"), ("requestid", &request)]);
                client.open(headers).await;
                match client.next().await.unwrap() {
                    Frame::SynReply { .. } => assert_eq!(refused, 0),
                    Frame::RstStream { status: 3, .. } => refused += 1,
                    frame => panic!("{frame:?}"),
                }
            }
        }
        assert_eq!(refused, 600 - 512);
        drop(client);
        serves(&server).await;
    })
    .await;
}

#[tokio::test]
async fn pings_are_answered_and_a_flood_of_them_makes_only_its_sender_wait() {
    soon(async {
        let server = Server::start().await;
        let url = server.exec(&["cat"], IN_OUT);
        let mut client = spdy::connect(&url, "v4.channel.k8s.io").await;
        client.send(Frame::Ping(7)).await;
        assert_eq!(client.next().await, Some(Frame::Ping(7)));
        let pings = control(6, &[0, 0, 0, 1]).repeat(10_000);
        // Until no more is taken, since nobody reads the answers.
        while tokio::time::timeout(Duration::from_millis(300), client.io.write_all(&pings))
            .await
            .is_ok()
        {}
        serves_beside(&server).await;
    })
    .await;
}

/// As [`serves`], while something else goes on.
async fn serves_beside(server: &Server) {
    let url = server.exec(&["say", "fine", "", "0"], OUT_ERR);
    let [_, stdout] = websocket::connect(&url, "v4.channel.k8s.io")
        .await
        .rest_of()
        .await;
    assert_eq!(stdout, "fine");
}

#[tokio::test]
async fn a_process_that_reads_nothing_makes_its_client_wait() {
    soon(async {
        let server = Server::start().await;
        let url = server.exec(&["deaf"], IN_OUT);
        let mut client = spdy::connect(&url, "v4.channel.k8s.io").await;
        let _ = client.stream("error").await;
        let (stdin, _) = (client.stream("stdin").await, client.stream("stdout").await);
        let mut sent = 0_usize;
        while tokio::time::timeout(
            Duration::from_millis(300),
            client.data(stdin, vec![0; 100_000], false),
        )
        .await
        .is_ok()
        {
            sent += 100_000;
        }
        // The sockets' buffers, and what the server keeps.
        assert!(sent < 20_000_000, "{sent} bytes");
        serves_beside(&server).await;
    })
    .await;
}

/// A WebSocket connection without a client's library.
async fn raw_websocket(server: &Server, command: &[&str]) -> TcpStream {
    let (stream, head) = http::request(
        &server.exec(command, IN_OUT),
        &[
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Protocol", "v5.channel.k8s.io"),
        ],
    )
    .await;
    assert_eq!(http::status(&head.replace("GET", "")), 101, "{head}");
    stream
}

#[tokio::test]
async fn broken_websocket_closes_its_connection() {
    soon(async {
        let server = Server::start().await;
        let mask = [0x80, 0, 0, 0, 0];
        let broken: [(&str, Vec<u8>); 7] = [
            ("an unmasked frame", vec![0x82, 2, 0, b'x']),
            ("a reserved bit", [&[0xc2][..], &mask].concat()),
            ("a reserved opcode", [&[0x83][..], &mask].concat()),
            ("a fragmented ping", [&[0x09][..], &mask].concat()),
            ("a continuation of nothing", [&[0x80][..], &mask].concat()),
            (
                "a frame of 2^40 bytes",
                vec![0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ),
            (
                "a close signal of no channel",
                vec![0x82, 0x81, 0, 0, 0, 0, 0xff],
            ),
        ];
        for (what, bytes) in broken {
            let mut stream = raw_websocket(&server, &["cat"]).await;
            stream.write_all(&bytes).await.unwrap();
            let last = closed(&mut stream).await;
            // Behind the greeting comes the farewell, with 1002 or 1009.
            assert_eq!(last.get(..3), Some(&[0x82, 1, 1][..]), "{what}");
            assert_eq!(last.get(3..6), Some(&[0x88, 2, 3][..]), "{what}: {last:?}");
            serves(&server).await;
        }
    })
    .await;
}

#[tokio::test]
async fn channels_that_nobody_reads_are_thrown_away() {
    soon(async {
        let server = Server::start().await;
        let url = server.exec(&["cat"], IN_OUT);
        let mut client = websocket::connect(&url, "v5.channel.k8s.io").await;
        client.next().await;
        for channel in [1, 2, 3, 4, 5, 254] {
            client.send(channel, &vec![b'x'; 100_000]).await;
        }
        client.close(200).await;
        client.send(0, b"hello").await;
        assert_eq!(client.next().await, Some((1, "hello".into())));
    })
    .await;
}

#[tokio::test]
async fn whoever_says_nothing_keeps_nobody_out() {
    soon(async {
        let server = Server::start().await;
        let base = format!("{}/", server.streaming.base());
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(http::connect(&base).await.0);
        }
        serves(&server).await;
    })
    .await;
}
