//! HTTP on dockerd's socket for what bollard does not do: a request without a version, and a
//! connection that becomes a raw stream of bytes.
//!
//! bollard guesses from the first byte of each piece whether a stream is a terminal's, which takes
//! what a program prints for the head of a frame. Here the caller says which it is.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustix::process::Pid;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// A raw stream in both directions; shutting it down ends the direction to the container.
pub(crate) type Raw = TokioIo<Upgraded>;

/// What can go wrong with a request.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody is there, or the connection broke.
    Connection(io::Error),
    /// Docker refuses, with its status and its words.
    Refused(StatusCode, String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Connection(error)
    }
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        Self::Connection(io::Error::other(error))
    }
}

/// What dockerd says of itself (`GET /version`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Version {
    pub(crate) version: String,
    pub(crate) api_version: String,
}

/// Asks for the version, in no version of the interface.
pub(crate) async fn version(socket: &Path) -> Result<Version, Failure> {
    get(socket, "/version").await
}

/// Asks for something that bollard reads in one version of the interface only.
pub(crate) async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, Failure> {
    let answer = send(socket, Method::GET, path, None, false).await?;
    let body = whole(answer).await?;
    serde_json::from_slice(&body).map_err(|error| Failure::Connection(io::Error::other(error)))
}

/// Posts a request whose connection is the stream from then on.
pub(crate) async fn upgrade(
    socket: &Path,
    path: &str,
    body: Option<String>,
) -> Result<Raw, Failure> {
    let answer = send(socket, Method::POST, path, body, true).await?;
    Ok(TokioIo::new(hyper::upgrade::on(answer).await?))
}

/// Posts a request without a body, whose answer has none either.
pub(crate) async fn post(socket: &Path, path: &str) -> Result<(), Failure> {
    let answer = send(socket, Method::POST, path, None, false).await?;
    whole(answer).await.map(drop)
}

async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<String>,
    upgrade: bool,
) -> Result<Response<Incoming>, Failure> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the connection.
    tokio::spawn(async move { connection.with_upgrades().await });
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "docker")
        .header(CONTENT_TYPE, "application/json");
    if upgrade {
        request = request.header(CONNECTION, "Upgrade").header(UPGRADE, "tcp");
    }
    let body = Full::new(Bytes::from(body.unwrap_or_default()));
    let request = request
        .body(body)
        .map_err(|error| Failure::Connection(io::Error::other(error)))?;
    let answer = sender.send_request(request).await?;
    match answer.status() {
        status if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS => Ok(answer),
        status => {
            let body = whole(answer).await?;
            Err(Failure::Refused(status, message(&body)))
        }
    }
}

async fn whole(answer: Response<Incoming>) -> Result<Bytes, Failure> {
    Ok(answer.into_body().collect().await?.to_bytes())
}

/// Docker's words in an answer that refuses.
fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    serde_json::from_slice(body).map_or_else(
        |_| String::from_utf8_lossy(body).trim().to_owned(),
        |refusal: Refusal| refusal.message,
    )
}

/// Who listens on the socket (unix(7), `SO_PEERCRED`): dockerd, or who started it with the socket.
pub(crate) async fn listener(socket: &Path) -> io::Result<Pid> {
    let stream = UnixStream::connect(socket).await?;
    let credentials = rustix::net::sockopt::socket_peercred(stream.as_fd())?;
    Ok(credentials.pid)
}
