//! Requests, as they are on the wire.

use std::fmt::Write as _;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A connection to the server of a URL, and the URL's path.
pub(crate) async fn connect(url: &str) -> (TcpStream, String) {
    let rest = url.split_once("://").expect("a URL").1;
    let (address, path) = rest.split_once('/').expect("a path");
    let stream = TcpStream::connect(address).await.unwrap();
    (stream, format!("/{path}"))
}

/// Reads the head of an answer, byte for byte, and nothing behind it.
pub(crate) async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// Sends a request with headers and answers the connection and the answer's head.
pub(crate) async fn request(url: &str, headers: &[(&str, &str)]) -> (TcpStream, String) {
    let (mut stream, path) = connect(url).await;
    let mut request = format!("POST {path} HTTP/1.1\r\nHost: here\r\n");
    for (name, value) in headers {
        write!(request, "{name}: {value}\r\n").unwrap();
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = head(&mut stream).await;
    (stream, head)
}

/// The status of an answer's head.
#[track_caller]
pub(crate) fn status(head: &str) -> u16 {
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("no answer: {head:?}"))
}
