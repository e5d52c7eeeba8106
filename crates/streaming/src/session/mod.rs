//! A session from the moment that both sides speak the same protocol.

mod spdy;
mod websocket;

use std::sync::Arc;

use slipway_engine::Engine;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::order::Order;
use crate::upgrade::Protocol;
use crate::websocket::Tunnel;

/// What a session runs over.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Why a connection was closed before its time.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Carries a session to its end.
pub(crate) async fn run(
    engine: Arc<dyn Engine>,
    order: Order,
    protocol: Protocol,
    io: impl Io,
) -> Result<(), Failure> {
    let engine = &*engine;
    match (order, protocol) {
        (Order::Process(process), Protocol::Spdy(version)) => {
            spdy::process(engine, process, version, io).await
        }
        (Order::Process(process), Protocol::WebSocket(encoding, form)) => {
            websocket::process(engine, process, encoding, form, io).await
        }
        (Order::PortForward(forward), Protocol::Spdy(_)) => {
            spdy::forward(engine, forward, io).await
        }
        (Order::PortForward(forward), Protocol::WebSocket(encoding, _)) => {
            websocket::forward(engine, forward, encoding, io).await
        }
        (Order::PortForward(forward), Protocol::Tunnel) => {
            spdy::forward(engine, forward, Tunnel::accept(io).await).await
        }
        (Order::Process(_), Protocol::Tunnel) => Err("a tunnel is for ports".into()),
    }
}

/// Both to their ends; a client that goes ends the session.
async fn carried<E>(
    session: impl Future<Output = ()>,
    connection: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        () = session => connection.await,
        ended = &mut connection => ended,
    }
}
