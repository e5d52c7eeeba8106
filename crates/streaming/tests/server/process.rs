//! Sessions with a process, over both protocols.

use bytes::Bytes;
use serde_json::Value;
use slipway_streaming::Config;
use slipway_streaming::spdy::Frame;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::{IN_OUT, OUT_ERR, Server, TERMINAL, soon, spdy, websocket};

fn object(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| panic!("{text:?} is no object"))
}

fn exit_code(status: &str) -> Option<String> {
    let status = object(status);
    assert_eq!(status["reason"], "NonZeroExitCode");
    let code = status["details"]["causes"][0]["message"].as_str();
    code.map(str::to_owned)
}

#[tokio::test]
async fn websocket_gives_output_errors_and_the_exit_code_each_on_its_channel() {
    soon(async {
        let server = Server::start().await;
        for protocol in [
            "v5.channel.k8s.io",
            "v4.channel.k8s.io",
            "v4.base64.channel.k8s.io",
        ] {
            let url = server.exec(&["say", "out", "err", "42"], OUT_ERR);
            let mut client = websocket::connect(&url, protocol).await;
            let [stdin, stdout, stderr, error] = client.rest().await;
            assert_eq!(
                (stdin.as_str(), stdout.as_str(), stderr.as_str()),
                ("", "out", "err")
            );
            assert_eq!(exit_code(&error).as_deref(), Some("42"), "{protocol}");
        }
        for protocol in ["channel.k8s.io", "base64.channel.k8s.io", ""] {
            let url = server.exec(&["say", "out", "err", "42"], OUT_ERR);
            let [_, stdout, _, error] = websocket::connect(&url, protocol).await.rest().await;
            assert_eq!(stdout, "out", "{protocol}");
            assert_eq!(error, "command terminated with exit code 42");
        }
    })
    .await;
}

#[tokio::test]
async fn websocket_closes_standard_input_by_itself() {
    soon(async {
        let server = Server::start().await;
        let url = server.exec(&["cat"], IN_OUT);
        let mut client = websocket::connect(&url, "v5.channel.k8s.io").await;
        assert_eq!(client.next().await, Some((1, Bytes::new())), "the greeting");
        client.send(0, b"hello ").await;
        assert_eq!(client.next().await, Some((1, "hello ".into())));
        client.send(0, b"world").await;
        client.close(0).await;
        let [_, stdout, _, error] = client.rest().await;
        assert_eq!(stdout, "world");
        assert_eq!(object(&error)["status"], "Success");
    })
    .await;
}

#[tokio::test]
async fn spdy_gives_each_of_the_process_s_streams_its_own() {
    soon(async {
        let server = Server::start().await;
        let url = server.exec(&["say", "out", "err", "3"], OUT_ERR);
        let mut client = spdy::connect(&url, "v4.channel.k8s.io").await;
        let error = client.stream("error").await;
        let (stdout, stderr) = (client.stream("stdout").await, client.stream("stderr").await);
        let [error, stdout, stderr] = client.until_finished([error, stdout, stderr]).await;
        assert_eq!((stdout.as_str(), stderr.as_str()), ("out", "err"));
        assert_eq!(exit_code(&error).as_deref(), Some("3"));
        assert_eq!(client.next().await, None);
        server.quiet().await;
    })
    .await;
}

#[tokio::test]
async fn old_spdy_protocols_write_a_text_when_the_process_failed_and_nothing_when_not() {
    soon(async {
        let server = Server::start().await;
        for protocol in ["v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"] {
            for (code, expected) in [("0", ""), ("5", "command terminated with exit code 5")] {
                let url = server.exec(&["say", "out", "", code], OUT_ERR);
                let mut client = spdy::connect(&url, protocol).await;
                let error = client.stream("error").await;
                let streams = [
                    error,
                    client.stream("stdout").await,
                    client.stream("stderr").await,
                ];
                let [error, stdout, _] = client.until_finished(streams).await;
                assert_eq!(
                    (error.as_str(), stdout.as_str()),
                    (expected, "out"),
                    "{protocol}"
                );
            }
        }
    })
    .await;
}

#[tokio::test]
async fn spdy_closes_standard_input_by_itself() {
    soon(async {
        let server = Server::start().await;
        let url = server.exec(&["cat"], IN_OUT);
        let mut client = spdy::connect(&url, "v4.channel.k8s.io").await;
        let error = client.stream("error").await;
        let (stdin, stdout) = (client.stream("stdin").await, client.stream("stdout").await);
        client.data(stdin, "hello ", false).await;
        client.data(stdin, "world", true).await;
        let [error, stdout] = client.until_finished([error, stdout]).await;
        assert_eq!(stdout, "hello world");
        assert_eq!(object(&error)["status"], "Success");
    })
    .await;
}

#[tokio::test]
async fn a_terminal_is_given_each_size_that_the_client_has() {
    soon(async {
        let server = Server::start().await;
        let sizes = [
            r#"{"Width":80,"Height":24}"#,
            "{\"Width\":1",
            "32,\"Height\":43}\n",
            r#"{"Width":0,"Height":0}"#,
        ];
        let url = server.exec(&["sizes"], TERMINAL);
        let mut client = websocket::connect(&url, "v5.channel.k8s.io").await;
        client.next().await;
        let mut seen = String::new();
        for size in sizes {
            client.send(4, size.as_bytes()).await;
            // One at a time, for of several at once only the last counts.
            while size.ends_with(['}', '\n']) {
                let (channel, bytes) = client.next().await.unwrap();
                assert_eq!(channel, 1);
                seen.push_str(std::str::from_utf8(&bytes).unwrap());
                if seen.ends_with('\n') {
                    break;
                }
            }
        }
        assert_eq!(seen, "80x24\n132x43\n0x0\n");

        let url = server.exec(&["sizes"], TERMINAL);
        let mut client = spdy::connect(&url, "v4.channel.k8s.io").await;
        let error = client.stream("error").await;
        let (_, stdout) = (client.stream("stdin").await, client.stream("stdout").await);
        let resize = client.stream("resize").await;
        client.data(resize, sizes[3], false).await;
        let [_, stdout] = client.until_finished([error, stdout]).await;
        assert_eq!(stdout, "0x0\n");
    })
    .await;
}

#[tokio::test]
async fn attaching_speaks_with_the_container_s_own_process() {
    soon(async {
        let server = Server::start().await;
        let url = server.attach("cat", IN_OUT);
        let mut client = websocket::connect(&url, "v5.channel.k8s.io").await;
        client.send(0, b"hello").await;
        client.close(0).await;
        let [_, stdout, _, error] = client.rest().await;
        assert_eq!(stdout, "hello");
        assert_eq!(object(&error)["status"], "Success");
        // How the container ends is its own affair.
        let url = server.attach("say out err 9", OUT_ERR);
        let [_, stdout, _, error] = websocket::connect(&url, "v4.channel.k8s.io")
            .await
            .rest()
            .await;
        assert_eq!(stdout, "out");
        assert_eq!(object(&error)["status"], "Success");
    })
    .await;
}

#[tokio::test]
async fn what_the_engine_refuses_is_told() {
    soon(async {
        let server = Server::start().await;
        let url = server
            .streaming
            .exec("gone".into(), vec!["x".into()], OUT_ERR)
            .unwrap();
        let [_, _, _, error] = websocket::connect(&url, "v4.channel.k8s.io")
            .await
            .rest()
            .await;
        let error = object(&error);
        assert_eq!(
            (&error["code"], &error["reason"]),
            (&500.into(), &"InternalError".into())
        );
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("no container gone"), "{message}");
    })
    .await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_makes_the_process_wait() {
    soon(async {
        let server = Server::start().await;
        let written = || server.tasks.written.load(Ordering::SeqCst);
        let settled = async || {
            let mut last = usize::MAX;
            while last != written() {
                last = written();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let url = server.exec(&["yes"], OUT_ERR);
        let deaf = websocket::connect(&url, "v4.channel.k8s.io").await;
        settled().await;
        let url = server.exec(&["yes"], OUT_ERR);
        let mut client = spdy::connect(&url, "v4.channel.k8s.io").await;
        for kind in ["error", "stdout", "stderr"] {
            client.stream(kind).await;
        }
        settled().await;
        // What both sides' sockets and queues hold, twice.
        assert!(written() < 40 << 20, "{} bytes", written());
        // A client that goes ends the session, and the process meets a closed pipe.
        drop((deaf, client));
        server.quiet().await;
    })
    .await;
}

#[tokio::test]
async fn a_client_that_counts_is_sent_what_it_allows() {
    soon(async {
        let server = Server::start().await;
        let url = server.exec(&["much", "300000"], OUT_ERR);
        let mut client = spdy::connect(&url, "v4.channel.k8s.io").await;
        let initial_window = Some(1000);
        client.send(Frame::Settings { initial_window }).await;
        for kind in ["error", "stdout", "stderr"] {
            client.stream(kind).await;
        }
        let stdout = 3;
        let mut allowed = 1000;
        let mut came = 0;
        while came < 300_000 {
            let Some(Frame::Data { stream, bytes, .. }) = client.next().await else {
                continue;
            };
            assert!(stream == stdout || bytes.is_empty() || came == 300_000);
            came += bytes.len();
            assert!(came <= allowed, "{came} bytes where {allowed} were allowed");
            if came == allowed {
                allowed += 7000;
                let delta = 7000;
                client.send(Frame::WindowUpdate { stream, delta }).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_client_sends_is_acknowledged_when_the_process_has_taken_it() {
    soon(async {
        let server = Server::start().await;
        let url = server.exec(&["cat"], IN_OUT);
        let mut client = spdy::connect(&url, "v4.channel.k8s.io").await;
        let _ = client.stream("error").await;
        let (stdin, _) = (client.stream("stdin").await, client.stream("stdout").await);
        client.data(stdin, vec![b'x'; 40_000], false).await;
        let mut acknowledged = [0, 0];
        while acknowledged.contains(&0) {
            if let Some(Frame::WindowUpdate { stream, delta }) = client.next().await {
                acknowledged[usize::from(stream == stdin)] += delta;
            }
        }
        assert!(acknowledged.iter().all(|bytes| *bytes <= 40_000));
    })
    .await;
}

#[tokio::test]
async fn what_a_process_leaves_behind_does_not_keep_the_session() {
    soon(async {
        let server = Server::start().await;
        let url = server.exec(&["daemon"], OUT_ERR);
        let [_, stdout, _, error] = websocket::connect(&url, "v4.channel.k8s.io")
            .await
            .rest()
            .await;
        assert_eq!(stdout, "started");
        assert_eq!(object(&error)["status"], "Success");
    })
    .await;
}

#[tokio::test]
async fn a_silent_session_is_closed_after_its_time() {
    soon(async {
        let idle_timeout = Duration::from_millis(300);
        let server = Server::with(Config {
            idle_timeout,
            ..Config::default()
        })
        .await;
        let mut client = websocket::connect(&server.exec(&["cat"], IN_OUT), "").await;
        while client.next().await.is_some() {}
        server.quiet().await;
    })
    .await;
}

#[tokio::test]
async fn a_hundred_idle_sessions_take_no_time() {
    soon(async {
        let server = Server::start().await;
        let mut clients = Vec::new();
        for _ in 0..50 {
            let url = server.exec(&["cat"], IN_OUT);
            clients.push(websocket::connect(&url, "v5.channel.k8s.io").await);
        }
        let mut spdy_clients = Vec::new();
        for _ in 0..50 {
            let url = server.exec(&["cat"], IN_OUT);
            let mut client = spdy::connect(&url, "v4.channel.k8s.io").await;
            for kind in ["error", "stdin", "stdout"] {
                client.stream(kind).await;
            }
            spdy_clients.push(client);
        }
        while server.tasks.running.load(Ordering::SeqCst) < 100 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let polls = tokio::runtime::Handle::current().metrics();
        let alive = polls.num_alive_tasks();
        assert!(alive <= 100 * 2 + 10, "{alive} tasks");
        let mut last = clients.pop().unwrap();
        last.next().await;
        last.send(0, b"still here").await;
        assert_eq!(last.next().await, Some((1, "still here".into())));
    })
    .await;
}
