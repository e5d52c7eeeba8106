//! Connections to a pod's ports: how one of them goes.

use std::io;

use bytes::BytesMut;
use slipway_engine::{Engine, Error, PortConnection, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};

use crate::stream::{Incoming, Outgoing, PIECE};

/// A connection of which the pod has closed its direction.
pub(crate) struct Upload(WriteHalf<PortConnection>);

impl Upload {
    /// Hands over what the client still sends, and its end.
    pub(crate) async fn finish(mut self, incoming: &mut Incoming) {
        upload(incoming, &mut self.0).await;
    }
}

/// Connects, and carries bytes in both directions until the pod has closed its own; none when the
/// client has closed its direction, too.
pub(crate) async fn serve(
    engine: &dyn Engine,
    pod: &str,
    port: u16,
    incoming: &mut Incoming,
    outgoing: &mut Outgoing,
) -> Result<Option<Upload>> {
    let doing = || format!("error forwarding port {port} to pod {pod}");
    let connected = engine.connect_port(pod, port).await;
    let (mut read, mut write) =
        tokio::io::split(connected.map_err(|error| error.context(doing()))?);
    let mut uploaded = false;
    let given_up = outgoing.given_up();
    let uploading = async {
        upload(incoming, &mut write).await;
        uploaded = true;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        downloaded = download(&mut read, outgoing) => {
            downloaded.map_err(|error| Error::internal(format!("{}: {error}", doing())))?;
        }
        () = given_up => return Ok(None),
        () = uploading => unreachable!("what the client sends ends no connection"),
    }
    Ok((!uploaded).then_some(Upload(write)))
}

async fn upload(from: &mut Incoming, to: &mut WriteHalf<PortConnection>) {
    let mut bytes = BytesMut::new();
    while from.read(&mut bytes).await > 0 {
        if to.write_all_buf(&mut bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn download(from: &mut ReadHalf<PortConnection>, to: &mut Outgoing) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    loop {
        bytes.reserve(PIECE);
        if from.read_buf(&mut bytes).await? == 0 || to.send(bytes.split().freeze()).await.is_err() {
            return Ok(());
        }
    }
}
