//! The connection to a streaming server.

use anyhow::{Context, anyhow, bail};
use hyper::Uri;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::framing::Encoding;

/// The longest message that is accepted, in bytes.
const LONGEST_MESSAGE: usize = 16 << 20;

/// How much is gathered before it is written, in bytes.
const PIECE: usize = 32 * 1024;

/// A WebSocket connection that carries channels.
pub(in crate::client) struct Connection {
    pub(in crate::client) socket: WebSocketStream<TcpStream>,
    /// How its messages are written.
    pub(in crate::client) encoding: Encoding,
}

/// Connects to the URL that the runtime has given out, which works once. Offers `protocols`, the
/// best first.
pub(in crate::client) async fn connect(
    url: &str,
    protocols: &[&str],
) -> anyhow::Result<Connection> {
    let uri: Uri = url
        .parse()
        .with_context(|| format!("the runtime's answer is no URL: {url:?}"))?;
    let doing = || format!("connect to the runtime's streaming server at {uri}");
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => bail!(
            "{uri}: the runtime's streaming server uses TLS, with a certificate that this client \
             has no means to check; go through the kubelet (kubectl), or have the runtime stream \
             on the loopback address without TLS"
        ),
        _ => bail!("the runtime's answer is no http URL: {url:?}"),
    }
    let host = uri.host().ok_or_else(|| anyhow!("{uri} names no host"))?;
    // A literal IPv6 address is in brackets.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80)))
        .await
        .with_context(doing)?;
    stream.set_nodelay(true).with_context(doing)?;
    let mut request = format!("ws{}", url.strip_prefix("http").unwrap_or(url))
        .into_client_request()
        .with_context(doing)?;
    request.headers_mut().insert(
        SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_str(&protocols.join(", "))?,
    );
    let configuration = WebSocketConfig::default()
        .write_buffer_size(PIECE)
        .max_message_size(Some(LONGEST_MESSAGE))
        .max_frame_size(Some(LONGEST_MESSAGE));
    let connected =
        tokio_tungstenite::client_async_with_config(request, stream, Some(configuration)).await;
    let (socket, response) = match connected {
        Ok(connected) => connected,
        Err(tungstenite::Error::Http(response)) => {
            let words = response.body().as_deref().unwrap_or_default();
            let words = String::from_utf8_lossy(words);
            bail!("{}: {} {}", doing(), response.status(), words.trim());
        }
        Err(error) => return Err(anyhow!(error).context(doing())),
    };
    let agreed = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
    let encoding = match agreed.map(HeaderValue::as_bytes) {
        Some(b"v5.channel.k8s.io") => Encoding::WithClose,
        _ => Encoding::Plain,
    };
    Ok(Connection { socket, encoding })
}
