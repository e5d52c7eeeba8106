//! Single HTTP/1.1 requests to a server on this machine.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Sends one request on a connection of its own and reads the whole answer.
///
/// `target` is a path with query, or an absolute URI of the same server; `kind` is the media type of
/// the body and the one that is accepted.
pub(crate) async fn request(
    server: SocketAddr,
    method: Method,
    target: &str,
    kind: &str,
    body: Bytes,
) -> Result<Response<Bytes>> {
    let stream = TcpStream::connect(server)
        .await
        .with_context(|| format!("no connection to {server}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let target = target
        .strip_prefix(&format!("http://{server}"))
        .unwrap_or(target);
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header("host", server.to_string())
        .header("content-type", kind)
        .header("accept", kind)
        .body(Full::new(body))?;
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    drop(sender);
    let _ = connection.await;
    Ok(Response::from_parts(parts, body))
}
