//! A session with a process: its streams on one side, the client's on the other.

use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use serde::Deserialize;
use slipway_engine::{Engine, Error, Input, Output, Session, SessionEnd, Terminal, TerminalSize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

use crate::order::{Process, Which};
use crate::status::Form;
use crate::stream::{Incoming, Outgoing, PIECE};

/// How long what a process has started and left behind may keep its output open after its end. What
/// is on its way by then is not lost: only time that passes without a byte counts.
const AFTERMATH: Duration = Duration::from_secs(2);

/// The longest text of terminal sizes that is kept.
const MAX_SIZES: usize = 1024;

/// The client's side.
pub(crate) struct Client {
    pub(crate) stdin: Option<Incoming>,
    pub(crate) stdout: Option<Outgoing>,
    pub(crate) stderr: Option<Outgoing>,
    pub(crate) resize: Option<Incoming>,
    pub(crate) error: Outgoing,
    pub(crate) form: Form,
}

/// Carries on until the process has ended, or the session with it.
pub(crate) async fn serve(engine: &dyn Engine, process: Process, client: Client) {
    let Client {
        stdin,
        stdout,
        stderr,
        resize,
        mut error,
        form,
    } = client;
    let attached = process.which == Which::Own;
    let end =
        match process.open(engine).await {
            Ok(session) => converse(session, stdin, stdout, stderr, resize)
                .await
                .map(|end| match end {
                    // Whoever only watched a process has not failed when it does.
                    SessionEnd::Exited(_) if attached => SessionEnd::Detached,
                    end => end,
                }),
            Err(error) => Err(error),
        };
    let end = end.map_err(|error| {
        let doing = if attached {
            "error attaching to container"
        } else {
            "error executing command in container"
        };
        error.context(doing)
    });
    if let Err(error) = &end {
        tracing::debug!(%error, "a session with a process has failed");
    }
    // A client that has gone is not told.
    let _ = error.send(form.write(&end).into()).await;
    let _ = error.finish().await;
}

async fn converse(
    session: Session,
    stdin: Option<Incoming>,
    stdout: Option<Outgoing>,
    stderr: Option<Outgoing>,
    resize: Option<Incoming>,
) -> Result<SessionEnd, Error> {
    let Session {
        stdin: to_stdin,
        stdout: from_stdout,
        stderr: from_stderr,
        terminal,
        end,
    } = session;
    let (ended, has_ended) = watch::channel(false);
    let end = async {
        let end = end.await;
        ended.send_replace(true);
        end
    };
    let output = async {
        tokio::join!(
            show(from_stdout, stdout, has_ended.clone()),
            show(from_stderr, stderr, has_ended.clone()),
        );
    };
    let input = async {
        tokio::join!(feed(stdin, to_stdin), set_sizes(resize, terminal));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        (end, ()) = async { tokio::join!(end, output) } => end,
        () = input => unreachable!("what the client sends ends no session"),
    }
}

/// Hands the client's bytes to the process, and the end of them.
async fn feed(from: Option<Incoming>, to: Option<Input>) {
    let (Some(mut from), Some(mut to)) = (from, to) else {
        return;
    };
    let mut bytes = BytesMut::new();
    while from.read(&mut bytes).await > 0 {
        // A process that reads no longer is its own business.
        if to.write_all_buf(&mut bytes).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Hands the process's bytes to the client, and the end of them.
async fn show(from: Option<Output>, to: Option<Outgoing>, mut ended: watch::Receiver<bool>) {
    let (Some(mut from), Some(mut to)) = (from, to) else {
        return;
    };
    let (mut bytes, mut patience) = (BytesMut::new(), AFTERMATH);
    loop {
        bytes.reserve(PIECE);
        let read = from.read_buf(&mut bytes);
        let read = if *ended.borrow() {
            let began = Instant::now();
            let read = tokio::time::timeout(patience, read).await;
            patience = patience.saturating_sub(began.elapsed());
            read.ok()
        } else {
            tokio::select! {
                biased;
                read = read => Some(read),
                _ = ended.changed() => continue,
            }
        };
        let Some(Ok(1..)) = read else { break };
        if to.send(bytes.split().freeze()).await.is_err() {
            // A process must not wait for ever for a client that listens no more: it is told by
            // SIGPIPE when `from` goes.
            return;
        }
    }
    let _ = to.finish().await;
}

/// A size as clients write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

async fn set_sizes(from: Option<Incoming>, terminal: Option<Box<dyn Terminal>>) {
    let (Some(mut from), Some(terminal)) = (from, terminal) else {
        return;
    };
    let mut text = BytesMut::new();
    while from.read(&mut text).await > 0 {
        let Ok(sizes) = take_sizes(&mut text) else {
            tracing::debug!("what a client sends as its terminal's size is none");
            return;
        };
        // Of several that came at once only the last matters.
        let Some(size) = sizes else { continue };
        let size = TerminalSize {
            width: size.width,
            height: size.height,
        };
        if let Err(error) = terminal.resize(size).await {
            tracing::debug!(%error, "a terminal cannot be given its size");
        }
    }
}

struct NoSize;

/// Takes what is complete from the front of a text of JSON objects; answers the last.
fn take_sizes(text: &mut BytesMut) -> Result<Option<Size>, NoSize> {
    let mut sizes = serde_json::Deserializer::from_slice(text).into_iter::<Size>();
    let mut last = None;
    loop {
        match sizes.next() {
            Some(Ok(size)) => last = Some(size),
            Some(Err(error)) if !error.is_eof() => return Err(NoSize),
            Some(Err(_)) | None => break,
        }
    }
    let taken = sizes.byte_offset();
    // What goes before an object that is still to come counts as well: it must not grow for ever.
    if text.len() - taken > MAX_SIZES || last.is_none() && text.len() > MAX_SIZES {
        return Err(NoSize);
    }
    text.advance(taken);
    Ok(last)
}

/// Says on the lowest writable channel that the session has begun, which clients without a reply
/// to their streams wait for.
pub(crate) async fn greet(client: &mut Client) {
    let first = client.stdout.as_mut().or(client.stderr.as_mut());
    let _ = first.unwrap_or(&mut client.error).send(Bytes::new()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(text: &str) -> (Option<(u16, u16)>, String) {
        let mut bytes = BytesMut::from(text);
        let size = take_sizes(&mut bytes).unwrap_or_else(|_| panic!("{text} is refused"));
        let rest = String::from_utf8(bytes.to_vec()).unwrap();
        (size.map(|size| (size.width, size.height)), rest)
    }

    #[test]
    fn sizes_are_taken_as_they_are_complete() {
        let one = r#"{"Width":80,"Height":24}"#;
        assert_eq!(sizes(one), (Some((80, 24)), String::new()));
        assert_eq!(sizes(&format!("{one}\n")), (Some((80, 24)), String::new()));
        let other = r#"{"Height":1,"Width":2}"#;
        assert_eq!(sizes(&format!("{one}{other}{{\"Wi")).0, Some((2, 1)));
        let (none, rest) = sizes(r#"{"Width":80,"#);
        assert_eq!((none, rest.as_str()), (None, r#"{"Width":80,"#));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "x",
            r#"{"Width":80}"#,
            r#"{"Width":-1,"Height":24}"#,
            r#"{"Width":65536,"Height":24}"#,
            &" ".repeat(MAX_SIZES + 1),
        ] {
            assert!(take_sizes(&mut BytesMut::from(text)).is_err(), "{text}");
        }
    }
}
