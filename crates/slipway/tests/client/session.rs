//! Sessions with a streaming server that is a part of the test.

use std::process::Stdio;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::fake::{Fake, stderr};
use crate::populated;

const SUCCESS: &str = r#"{"metadata":{},"status":"Success"}"#;
const FAILURE: &str = r#"{"status":"Failure","reason":"NonZeroExitCode","message":"exit code 42",
    "details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#;

/// Serves one session that speaks `protocol`: hears until a message is `last`, then says these.
/// Gives what it heard.
async fn serve(
    fake: &Fake,
    protocol: &'static str,
    last: &'static [u8],
    said: Vec<Vec<u8>>,
) -> JoinHandle<Vec<Bytes>> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    fake.state.lock().unwrap().url = format!("http://{address}/exec/token");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        #[expect(clippy::result_large_err, reason = "the type is the library's")]
        let agree = |request: &Request, mut response: Response| {
            assert_eq!(request.uri().path(), "/exec/token");
            let offered = request.headers()["sec-websocket-protocol"]
                .to_str()
                .unwrap();
            assert_eq!(offered, "v5.channel.k8s.io, v4.channel.k8s.io");
            let protocol = HeaderValue::from_static(protocol);
            let headers = response.headers_mut();
            headers.insert("sec-websocket-protocol", protocol);
            Ok(response)
        };
        let mut socket = tokio_tungstenite::accept_hdr_async(stream, agree)
            .await
            .unwrap();
        let mut heard = Vec::new();
        while !last.is_empty() && heard.last().is_none_or(|heard: &Bytes| heard != last) {
            heard.push(socket.next().await.unwrap().unwrap().into_data());
        }
        for message in said {
            socket.send(Message::binary(message)).await.unwrap();
        }
        socket.close(None).await.unwrap();
        heard
    })
}

fn channel(number: u8, bytes: &str) -> Vec<u8> {
    [&[number], bytes.as_bytes()].concat()
}

#[tokio::test]
async fn exec_sends_its_input_and_the_end_of_it() {
    let fake = populated();
    let said = vec![
        channel(1, ""),
        channel(1, "out"),
        channel(2, "err"),
        channel(3, FAILURE),
    ];
    let server = serve(&fake, "v5.channel.k8s.io", b"\xff\x00", said).await;
    let mut command = fake.command(&["exec", "-i", "server", "--", "sort", "-r"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"b\na\n")
        .await
        .unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(42), "{}", stderr(&output));
    assert_eq!(
        (&output.stdout[..], &output.stderr[..]),
        (&b"out"[..], &b"err"[..])
    );
    let heard = server.await.unwrap().concat();
    assert_eq!(heard, b"\x00b\na\n\xff\x00");
    let calls = fake.state.lock().unwrap().calls.clone();
    assert_eq!(
        calls,
        ["Exec abcd1111111111111111 sort|-r stdin stdout stderr"]
    );
}

#[tokio::test]
async fn a_runtime_without_the_close_signal_is_not_sent_one() {
    let fake = populated();
    let said = vec![channel(1, "seen"), channel(3, SUCCESS)];
    let server = serve(&fake, "v4.channel.k8s.io", b"\x00all", said).await;
    let mut command = fake.command(&["exec", "-i", "server", "cat"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"all").await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(
        (output.status.code(), &output.stdout[..]),
        (Some(0), &b"seen"[..])
    );
    assert_eq!(server.await.unwrap(), [&b"\x00all"[..]]);
}

#[tokio::test]
async fn attach_ends_with_the_containers_code() {
    let fake = populated();
    let said = vec![channel(1, "shown\n"), channel(3, SUCCESS)];
    let server = serve(&fake, "v5.channel.k8s.io", b"", said).await;
    // The container that the fake has is still running.
    assert_eq!(fake.stdout(&["attach", "server"]).await, "shown\n");
    server.await.unwrap();
    let calls = fake.state.lock().unwrap().calls.clone();
    assert_eq!(calls, ["Attach abcd1111111111111111 stdout stderr"]);
}

#[tokio::test]
async fn what_goes_wrong_with_a_session_is_said() {
    let fake = populated();
    let refused = channel(3, r#"{"status":"Failure","message":"no such command"}"#);
    let server = serve(&fake, "v5.channel.k8s.io", b"", vec![refused]).await;
    assert_eq!(
        fake.failure(1, &["exec", "server", "nope"]).await,
        "slipway: exec in server: no such command\n"
    );
    server.await.unwrap();
    let server = serve(&fake, "v5.channel.k8s.io", b"", vec![]).await;
    let cut = fake.failure(1, &["exec", "server", "true"]).await;
    assert!(cut.contains("cut off"), "{cut}");
    server.await.unwrap();
    let gone = fake.failure(1, &["attach", "server"]).await;
    assert!(
        gone.contains("streaming server") && gone.contains("refused"),
        "{gone}"
    );
    for (url, word) in [("https://localhost/exec/x", "TLS"), ("exec/x", "URL")] {
        fake.state.lock().unwrap().url = url.to_owned();
        let failure = fake.failure(1, &["exec", "server", "true"]).await;
        assert!(failure.contains(word), "{failure}");
    }
    for arguments in [
        &["exec", "-it", "server", "sh"][..],
        &["attach", "-it", "server"],
    ] {
        let failure = fake.failure(1, arguments).await;
        assert!(failure.contains("needs a terminal"), "{failure}");
    }
    let failure = fake
        .failure(1, &["exec", "-i", "--timeout", "1s", "server", "sh"])
        .await;
    assert!(failure.contains("--timeout"), "{failure}");
    let failure = fake.failure(1, &["port-forward", "nobody", "80"]).await;
    assert!(failure.contains("nobody"), "{failure}");
    assert!(
        fake.failure(2, &["port-forward", "web", "http"])
            .await
            .contains("http")
    );
}
