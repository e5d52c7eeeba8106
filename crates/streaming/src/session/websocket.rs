//! Sessions over WebSocket channels.

use bytes::Bytes;
use futures_util::future::join_all;
use slipway_engine::Engine;

use super::{Failure, Io, carried};
use crate::order::{PortForward, Process};
use crate::process::{self, Client};
use crate::status::Form;
use crate::stream::{Closed, Incoming, Outgoing};
use crate::websocket::channel::Encoding;
use crate::websocket::channel::process::{ERROR, RESIZE, STDERR, STDIN, STDOUT};
use crate::{forward, websocket};

/// Channels 0 to 4.
pub(super) async fn process(
    engine: &dyn Engine,
    process: Process,
    encoding: Encoding,
    form: Form,
    io: impl Io,
) -> Result<(), Failure> {
    let (channels, incoming, connection) = websocket::accept(io, encoding, &[STDIN, RESIZE]);
    let mut incoming = incoming.into_iter();
    let (stdin, resize) = (incoming.next(), incoming.next());
    let streams = process.streams;
    let channel = |number| Outgoing::WebSocket(channels.sender(number));
    let mut client = Client {
        stdin: stdin.filter(|_| streams.stdin),
        stdout: streams.stdout.then(|| channel(STDOUT)),
        stderr: streams.stderr.then(|| channel(STDERR)),
        resize: resize.filter(|_| streams.terminal),
        error: channel(ERROR),
        form,
    };
    drop(channels);
    let session = async {
        process::greet(&mut client).await;
        process::serve(engine, process, client).await;
    };
    carried(session, connection).await.map_err(Into::into)
}

/// Two channels for each port: its bytes, and what went wrong with it.
pub(super) async fn forward(
    engine: &dyn Engine,
    PortForward { pod, ports }: PortForward,
    encoding: Encoding,
    io: impl Io,
) -> Result<(), Failure> {
    let numbers: Vec<u8> = (0..).step_by(2).take(ports.len()).collect();
    let (channels, incoming, connection) = websocket::accept(io, encoding, &numbers);
    let connections = ports.iter().zip(&numbers).zip(incoming);
    let session = join_all(connections.map(|((&port, &number), incoming)| {
        let data = Outgoing::WebSocket(channels.sender(number));
        let error = Outgoing::WebSocket(channels.sender(number + 1));
        connection_to(engine, &pod, port, incoming, data, error)
    }));
    drop(channels);
    let session = async {
        session.await;
    };
    carried(session, connection).await.map_err(Into::into)
}

async fn connection_to(
    engine: &dyn Engine,
    pod: &str,
    port: u16,
    mut incoming: Incoming,
    mut data: Outgoing,
    mut error: Outgoing,
) {
    let name = Bytes::copy_from_slice(&port.to_le_bytes());
    let _ = data.send(name.clone()).await;
    let _ = error.send(name).await;
    match forward::serve(engine, pod, port, &mut incoming, &mut data).await {
        Err(why) => drop(error.send(why.to_string().into()).await),
        // Where one side cannot say that it has finished, the pod's end is the end.
        Ok(Some(upload)) => {
            if data.close().await == Ok(Closed::Told) {
                upload.finish(&mut incoming).await;
            }
        }
        Ok(None) => drop(data.close().await),
    }
}
