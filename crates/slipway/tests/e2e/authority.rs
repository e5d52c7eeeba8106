//! Clients that send the socket's path as `:authority`, as Go's do that dial by themselves.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use slipway_testbed::Node;

/// An HTTP/2 frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header field, literal without indexing and with a literal name (RFC 7541, section 6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        field.push(u8::try_from(text.len()).unwrap());
        field.extend(text.as_bytes());
    }
    field
}

#[tokio::test]
async fn the_sockets_path_as_authority_is_served() {
    let node = Node::start().await.unwrap();
    let mut stream = UnixStream::connect(node.cri().socket()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let headers = [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":path", "/runtime.v1.RuntimeService/Version"),
        field(":authority", "%2Frun%2Fslipway%2Fslipway.sock"),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
    ]
    .concat();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 4, 1, &headers));
    // An empty VersionRequest, uncompressed, and the end of the stream.
    bytes.extend(frame(0, 1, 1, &[0, 0, 0, 0, 0]));
    stream.write_all(&bytes).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.windows(7).any(|part| part == b"slipway") {
        let count = stream.read(&mut buffer).expect("an answer in time");
        assert_ne!(count, 0, "the daemon closed the connection: {answer:?}");
        answer.extend_from_slice(&buffer[..count]);
    }
    node.finish().await.unwrap();
}
