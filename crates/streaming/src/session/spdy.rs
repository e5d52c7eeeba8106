//! Sessions over SPDY streams.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use slipway_engine::Engine;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Failure, Io, carried};
use crate::order::{PortForward, Process};
use crate::process::Client;
use crate::spdy::{Acceptor, Headers, Stream, accept, reset};
use crate::stream::Outgoing;
use crate::upgrade::SpdyVersion;
use crate::{forward, process};

/// How long a client may take to open the streams that belong together.
const OPENING: Duration = Duration::from_secs(30);

/// The header with a stream's purpose.
const STREAM_TYPE: &str = "streamtype";

/// A stream for each of the process's, one for its end, and one for its terminal's size.
pub(super) async fn process(
    engine: &dyn Engine,
    process: Process,
    version: SpdyVersion,
    io: impl Io,
) -> Result<(), Failure> {
    let (mut acceptor, connection) = accept(io);
    let session = async move {
        let opened = timeout(OPENING, streams(&process, version, &mut acceptor)).await;
        let Ok(Some(client)) = opened else {
            tracing::debug!("a client has not opened the streams that its session has");
            return;
        };
        tokio::select! {
            () = process::serve(engine, process, client) => {}
            () = refuse_all(&mut acceptor) => unreachable!("refusing goes on"),
        }
    };
    carried(session, connection).await.map_err(Into::into)
}

async fn streams(
    process: &Process,
    version: SpdyVersion,
    acceptor: &mut Acceptor,
) -> Option<Client> {
    let mut wanted = vec!["error"];
    let streams = process.streams;
    for (name, is_wanted) in [
        ("stdin", streams.stdin),
        ("stdout", streams.stdout),
        ("stderr", streams.stderr),
        ("resize", streams.terminal && version.resizes),
    ] {
        wanted.extend(is_wanted.then_some(name));
    }
    let mut opened: HashMap<&str, Stream> = HashMap::new();
    while opened.len() < wanted.len() {
        let stream = acceptor.next().await?;
        let kind = stream.headers.get(STREAM_TYPE);
        let name = wanted
            .iter()
            .find(|name| kind == Some(**name) && !opened.contains_key(**name));
        match name {
            Some(name) => {
                stream.outgoing.accept().await.ok()?;
                opened.insert(name, stream);
            }
            None => stream.refuse().await,
        }
    }
    let mut incoming = |name| opened.remove(name).map(|stream| stream.incoming);
    let (stdin, resize) = (incoming("stdin"), incoming("resize"));
    let mut outgoing = |name| opened.remove(name).map(|s| Outgoing::Spdy(s.outgoing));
    Some(Client {
        stdin,
        resize,
        stdout: outgoing("stdout"),
        stderr: outgoing("stderr"),
        error: outgoing("error")?,
        form: version.form,
    })
}

async fn refuse_all(acceptor: &mut Acceptor) {
    while let Some(stream) = acceptor.next().await {
        stream.refuse().await;
    }
    std::future::pending::<()>().await;
}

/// Two streams for each connection to a port: its bytes, and what went wrong with it.
pub(super) async fn forward(
    engine: &dyn Engine,
    PortForward { pod, .. }: PortForward,
    io: impl Io,
) -> Result<(), Failure> {
    let (mut acceptor, connection) = accept(io);
    let session = async move {
        let mut open = true;
        let mut halves: HashMap<String, Half> = HashMap::new();
        let mut forwarded = FuturesUnordered::new();
        while open || !forwarded.is_empty() {
            let late = halves.values().map(|half| half.until).min();
            tokio::select! {
                stream = acceptor.next(), if open => match stream {
                    None => open = false,
                    Some(stream) => {
                        if let Some(pair) = pair(stream, &mut halves).await {
                            forwarded.push(connection_to(engine, &pod, pair));
                        }
                    }
                },
                Some(()) = forwarded.next() => {}
                () = sleep_until(late.unwrap_or_else(Instant::now)), if late.is_some() => {
                    give_up_late(&mut halves).await;
                }
            }
        }
    };
    carried(session, connection).await.map_err(Into::into)
}

/// One of two streams that belong together.
struct Half {
    stream: Stream,
    role: Role,
    until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Data,
    Error,
}

struct Pair {
    port: u16,
    data: Stream,
    error: Stream,
}

/// What a stream is for: the connection that it belongs to, and which part of it.
fn purpose(id: u32, headers: &Headers) -> Option<(String, Role, u16)> {
    let port = headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
    let (role, first) = match headers.get(STREAM_TYPE)? {
        "error" => (Role::Error, id),
        "data" => (Role::Data, id.wrapping_sub(2)),
        _ => return None,
    };
    // Clients that name no request open the stream for errors right before that for data.
    let request = headers
        .get("requestid")
        .filter(|request| !request.is_empty())
        .map_or_else(|| first.to_string(), str::to_owned);
    Some((request, role, port))
}

/// Accepts a stream; answers both when it is the second of two.
async fn pair(stream: Stream, halves: &mut HashMap<String, Half>) -> Option<Pair> {
    let Some((request, role, port)) = purpose(stream.id, &stream.headers) else {
        stream.refuse().await;
        return None;
    };
    if halves.get(&request).is_some_and(|half| half.role == role) {
        stream.refuse().await;
        return None;
    }
    stream.outgoing.accept().await.ok()?;
    let Some(other) = halves.remove(&request) else {
        let until = Instant::now() + OPENING;
        let half = Half {
            stream,
            role,
            until,
        };
        halves.insert(request, half);
        return None;
    };
    let (data, error, port) = match role {
        Role::Data => (stream, other.stream, port),
        Role::Error => {
            let (_, _, port) = purpose(other.stream.id, &other.stream.headers)?;
            (other.stream, stream, port)
        }
    };
    Some(Pair { port, data, error })
}

async fn give_up_late(halves: &mut HashMap<String, Half>) {
    let now = Instant::now();
    for (_, half) in halves.extract_if(|_, half| half.until <= now) {
        let mut outgoing = half.stream.outgoing;
        if half.role == Role::Error {
            let message = "the stream for data was not opened in time";
            let _ = outgoing.send(message.into()).await;
            let _ = outgoing.finish().await;
        } else {
            let _ = outgoing.reset(reset::CANCEL).await;
        }
    }
}

async fn connection_to(engine: &dyn Engine, pod: &str, pair: Pair) {
    let Pair { port, data, error } = pair;
    let mut incoming = data.incoming;
    let (mut outgoing, mut errors) = (Outgoing::Spdy(data.outgoing), error.outgoing);
    match forward::serve(engine, pod, port, &mut incoming, &mut outgoing).await {
        Ok(upload) => {
            let _ = outgoing.finish().await;
            // Clients wait for this before they close their own direction.
            let _ = errors.finish().await;
            if let Some(upload) = upload {
                upload.finish(&mut incoming).await;
            }
        }
        Err(why) => {
            tracing::debug!(%why, "a connection to a port has failed");
            let _ = errors.send(why.to_string().into()).await;
            let _ = errors.finish().await;
            if let Outgoing::Spdy(data) = &mut outgoing {
                let _ = data.reset(reset::CANCEL).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_forward_stream_says_what_it_is_for() {
        let read = |id, headers: Headers| purpose(id, &headers);
        let headers = |kind| Headers::from([("streamtype", kind), ("port", "80")]);
        assert_eq!(
            read(5, headers("error")),
            Some(("5".into(), Role::Error, 80))
        );
        assert_eq!(read(7, headers("data")), Some(("5".into(), Role::Data, 80)));
        assert_eq!(read(7, headers("stdin")), None);
        let named = [
            ("streamtype", "data"),
            ("port", "65535"),
            ("requestid", "x"),
        ];
        assert_eq!(
            read(9, named.into()),
            Some(("x".into(), Role::Data, u16::MAX))
        );
        for port in ["0", "65536", "-1", "http", ""] {
            let headers = Headers::from([("streamtype", "data"), ("port", port)]);
            assert_eq!(read(1, headers), None, "{port}");
        }
        assert_eq!(read(1, Headers::from([("streamtype", "data")])), None);
    }
}
