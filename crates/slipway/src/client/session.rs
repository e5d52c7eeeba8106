//! A conversation with a process in a container, over the runtime's streaming server: what is typed
//! goes there, what it shows comes here.

mod channels;
mod framing;
mod keys;
mod status;
mod terminal;

use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{self, Message};

pub(super) use channels::{Connection, connect};
use framing::{ERROR, RESIZE, STDERR, STDIN, STDOUT};
pub(super) use framing::{Encoding, Said};
use keys::DetachKeys;
use status::Status;
use terminal::RawMode;

use super::output::{write_stderr, write_stdout};

/// The protocols for a process's streams; only the first can tell that standard input has ended.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// How much of standard input is read at once, in bytes.
const PIECE: usize = 32 * 1024;

/// Pieces of standard input that wait to be sent.
const WAITING: usize = 4;

/// Signals that end a session, for which the terminal is to be left as it was found.
const FATAL: [SignalKind; 4] = [
    SignalKind::hangup(),
    SignalKind::interrupt(),
    SignalKind::quit(),
    SignalKind::terminate(),
];

/// Which streams a session has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// What is typed is sent.
    pub(super) stdin: bool,
    /// The process has a terminal.
    pub(super) tty: bool,
    /// ctrl-p ctrl-q ends the session and leaves the process alone.
    pub(super) detach_keys: bool,
}

impl Wanted {
    /// Refuses what cannot work, before the runtime is asked for anything.
    pub(super) fn check(self) -> anyhow::Result<()> {
        if self.stdin && self.tty && !terminal::is_input() {
            bail!(
                "-i with -t needs a terminal on standard input, and there is none; leave -t out to \
                 send a file or a pipe"
            );
        }
        Ok(())
    }
}

/// How a session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The process has, with this code.
    Exited(i32),
    /// The user has left it.
    Left,
    /// This process was sent a signal.
    Signal(i32),
}

impl Ended {
    /// As the end of this process.
    pub(super) fn code(self) -> ExitCode {
        match self {
            Self::Exited(code) => super::exec::exit_code(code),
            Self::Left => ExitCode::SUCCESS,
            Self::Signal(number) => super::exec::exit_code(128 + number),
        }
    }
}

/// Carries a session with a process to its end. The terminal is left as it was found.
pub(super) async fn converse(url: &str, wanted: Wanted) -> anyhow::Result<Ended> {
    let Connection { socket, encoding } = connect(url, &PROTOCOLS).await?;
    let (sink, messages) = socket.split();
    let _raw = (wanted.stdin && wanted.tty)
        .then(RawMode::enter)
        .transpose()?;
    tokio::select! {
        ended = show(messages, encoding) => ended,
        ended = feed(sink, encoding, wanted) => ended,
        number = fatal_signal() => Ok(Ended::Signal(number?)),
    }
}

/// Shows what comes until the process's end does.
async fn show(
    mut messages: impl Stream<Item = tungstenite::Result<Message>> + Unpin,
    encoding: Encoding,
) -> anyhow::Result<Ended> {
    let mut status = None;
    while let Some(message) = messages.next().await {
        let payload = match message {
            Ok(message @ (Message::Binary(_) | Message::Text(_))) => message.into_data(),
            Ok(_) => continue,
            // Whoever has said how it ended may hang up without a farewell.
            Err(_) if status.is_some() => break,
            Err(error) => return Err(anyhow!(error).context("the session was cut off")),
        };
        match encoding.decode(payload)? {
            Said::Bytes(STDOUT, bytes) => write_stdout(&bytes)?,
            Said::Bytes(STDERR, bytes) => write_stderr(&bytes)?,
            Said::Bytes(ERROR, bytes) if !bytes.is_empty() => status = Some(Status::read(&bytes)?),
            Said::Bytes(..) | Said::Close(_) | Said::Nothing => {}
        }
    }
    status
        .ok_or_else(|| anyhow!("the session was cut off: the runtime has closed the connection"))?
        .ended()
}

/// Sends what is typed, and the terminal's size whenever it changes; ends only when the user leaves.
async fn feed(
    mut sink: impl Sink<Message, Error = tungstenite::Error> + Unpin,
    encoding: Encoding,
    wanted: Wanted,
) -> anyhow::Result<Ended> {
    let mut input = wanted.stdin.then(read_input);
    let mut keys = (wanted.detach_keys && wanted.tty).then(DetachKeys::default);
    let mut resized = signal(SignalKind::window_change())?;
    if wanted.tty {
        send_size(&mut sink).await;
    }
    loop {
        let bytes = tokio::select! {
            bytes = next(&mut input) => bytes,
            _ = resized.recv(), if wanted.tty => {
                send_size(&mut sink).await;
                continue;
            }
        };
        let sent = if let Some(bytes) = bytes {
            let typed = match &mut keys {
                Some(keys) => keys.take(&bytes),
                None => keys::Typed::all(bytes),
            };
            let sent = sink.send(Encoding::encode(STDIN, &typed.bytes)).await;
            if typed.leaves {
                let _ = sink.close().await;
                return Ok(Ended::Left);
            }
            sent
        } else {
            input = None;
            match encoding.close(STDIN) {
                Some(message) => sink.send(message).await,
                None => Ok(()),
            }
        };
        if sent.is_err() {
            // Why that is, the other direction hears.
            return std::future::pending().await;
        }
    }
}

/// The next piece of input; waits for ever where there is none to come.
async fn next(input: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

async fn send_size(sink: &mut (impl Sink<Message, Error = tungstenite::Error> + Unpin)) {
    if let Some((width, height)) = terminal::size() {
        let size = serde_json::json!({"Width": width, "Height": height}).to_string();
        // Where the connection has ended, the other direction hears why.
        let _ = sink.send(Encoding::encode(RESIZE, size.as_bytes())).await;
    }
}

/// Reads standard input on a thread, which nobody waits for in the end: a read cannot be taken back.
fn read_input() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(WAITING);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; PIECE];
        while let Ok(length @ 1..) = stdin.read(&mut buffer) {
            if sender
                .blocking_send(Bytes::copy_from_slice(&buffer[..length]))
                .is_err()
            {
                return;
            }
        }
    });
    receiver
}

/// Waits for a signal that ends this process; gives its number.
pub(super) async fn fatal_signal() -> anyhow::Result<i32> {
    let mut signals = Vec::new();
    for kind in FATAL {
        signals.push((kind, signal(kind).context("watch for signals")?));
    }
    let waits = signals.iter_mut().map(|(kind, signal)| {
        Box::pin(async { signal.recv().await.map(|()| kind.as_raw_value()) })
    });
    let (number, ..) = futures_util::future::select_all(waits).await;
    number.ok_or_else(|| anyhow!("signals can no longer be heard of"))
}
