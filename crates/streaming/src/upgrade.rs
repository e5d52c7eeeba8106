//! Which protocol a client and this server speak: read from a request's headers.

use hyper::body::Bytes;
use hyper::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{HeaderMap, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::status::Form;
use crate::websocket::channel::Encoding;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");

/// SPDY's name for itself in `Upgrade`.
const SPDY: &str = "SPDY/3.1";

/// What streams over SPDY mean for a process's session, the newest first.
const SPDY_PROCESS: &[&str] = &[
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];

/// And for a port-forward.
const SPDY_PORT_FORWARD: &[&str] = &["portforward.k8s.io"];

/// SPDY inside of WebSocket, for a port-forward.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Process,
    PortForward,
}

/// What both sides speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Streams over SPDY.
    Spdy(SpdyVersion),
    /// Channels over WebSocket.
    WebSocket(Encoding, Form),
    /// Streams over SPDY over WebSocket.
    Tunnel,
}

/// How a process's streams differ from one version of the protocol to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpdyVersion {
    pub(crate) form: Form,
    /// Whether there is a stream for a terminal's size.
    pub(crate) resizes: bool,
}

/// What is agreed on, and the headers that say so.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Agreed {
    pub(crate) protocol: Protocol,
    pub(crate) headers: HeaderMap,
}

/// Why nothing is, for the client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// What goes beside the message.
    pub(crate) header: Option<(HeaderName, HeaderValue)>,
    pub(crate) message: Bytes,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            header: None,
            message: Bytes::from(message.into()),
        }
    }
}

/// Finds what a client asks for among what is offered.
pub(crate) fn agree(asked: &HeaderMap, purpose: Purpose) -> Result<Agreed, Refusal> {
    let upgrades = words(asked, &CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"));
    let upgrade_to =
        |name: &str| upgrades && words(asked, &UPGRADE).any(|word| word.eq_ignore_ascii_case(name));
    if upgrade_to("websocket") {
        websocket(asked, purpose)
    } else if upgrade_to(SPDY) {
        spdy(asked, purpose)
    } else {
        Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "this is for connections that are upgraded to SPDY/3.1 or websocket: \
             `Connection: Upgrade` and `Upgrade` are missing from the request\n",
        ))
    }
}

/// A header's words, however they are spread over lines and commas.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

/// The first name that a client gives that is offered; none when it gives none.
fn choose<'a>(
    asked: &HeaderMap,
    header: &HeaderName,
    offered: &[&'a str],
) -> Result<Option<&'a str>, Refusal> {
    let chosen = words(asked, header).find_map(|word| {
        let same = |name: &&&str| **name == word;
        offered.iter().find(same).copied()
    });
    match chosen {
        None if words(asked, header).next().is_some() => {
            let asked: Vec<&str> = words(asked, header).collect();
            let (asked, offered) = (asked.join(", "), offered.join(", "));
            let mut refusal = Refusal::new(
                StatusCode::FORBIDDEN,
                format!("the client speaks {asked}; offered are {offered}\n"),
            );
            if let Ok(offered) = HeaderValue::from_str(&offered) {
                refusal.header = Some((ACCEPTED_PROTOCOLS, offered));
            }
            Err(refusal)
        }
        chosen => Ok(chosen),
    }
}

fn spdy(asked: &HeaderMap, purpose: Purpose) -> Result<Agreed, Refusal> {
    let offered = match purpose {
        Purpose::Process => SPDY_PROCESS,
        Purpose::PortForward => SPDY_PORT_FORWARD,
    };
    let chosen = choose(asked, &STREAM_PROTOCOL, offered)?;
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(SPDY));
    if let Some(chosen) = chosen.and_then(|name| HeaderValue::from_str(name).ok()) {
        headers.insert(STREAM_PROTOCOL, chosen);
    }
    let version = SpdyVersion {
        form: match chosen {
            Some("v4.channel.k8s.io") => Form::Json,
            _ => Form::Text,
        },
        resizes: matches!(chosen, Some("v4.channel.k8s.io" | "v3.channel.k8s.io")),
    };
    Ok(Agreed {
        protocol: Protocol::Spdy(version),
        headers,
    })
}

fn websocket(asked: &HeaderMap, purpose: Purpose) -> Result<Agreed, Refusal> {
    let Some(key) = asked.get(SEC_WEBSOCKET_KEY) else {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "Sec-WebSocket-Key is missing from the request\n",
        ));
    };
    if !words(asked, &SEC_WEBSOCKET_VERSION).any(|version| version == "13") {
        let mut refusal = Refusal::new(
            StatusCode::UPGRADE_REQUIRED,
            "the request's Sec-WebSocket-Version is not 13\n",
        );
        let version = HeaderValue::from_static("13");
        refusal.header = Some((SEC_WEBSOCKET_VERSION, version));
        return Err(refusal);
    }
    let offered: &[(&str, Protocol)] = match purpose {
        Purpose::Process => &[
            (
                "v5.channel.k8s.io",
                Protocol::WebSocket(Encoding::BinaryWithClose, Form::Json),
            ),
            (
                "v4.channel.k8s.io",
                Protocol::WebSocket(Encoding::Binary, Form::Json),
            ),
            (
                "v4.base64.channel.k8s.io",
                Protocol::WebSocket(Encoding::Base64, Form::Json),
            ),
            (
                "channel.k8s.io",
                Protocol::WebSocket(Encoding::Binary, Form::Text),
            ),
            (
                "base64.channel.k8s.io",
                Protocol::WebSocket(Encoding::Base64, Form::Text),
            ),
        ],
        Purpose::PortForward => &[
            (TUNNEL, Protocol::Tunnel),
            (
                "v5.channel.k8s.io",
                Protocol::WebSocket(Encoding::BinaryWithClose, Form::Text),
            ),
            (
                "v4.channel.k8s.io",
                Protocol::WebSocket(Encoding::Binary, Form::Text),
            ),
            (
                "v4.base64.channel.k8s.io",
                Protocol::WebSocket(Encoding::Base64, Form::Text),
            ),
        ],
    };
    let names: Vec<&str> = offered.iter().map(|(name, _)| *name).collect();
    let chosen = choose(asked, &SEC_WEBSOCKET_PROTOCOL, &names)?;
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(chosen) = chosen.and_then(|name| HeaderValue::from_str(name).ok()) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, chosen);
    }
    let protocol = offered
        .iter()
        .find(|(name, _)| Some(*name) == chosen)
        .map_or(
            Protocol::WebSocket(Encoding::Binary, Form::Text),
            |(_, protocol)| *protocol,
        );
    Ok(Agreed { protocol, headers })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn spdy_headers(protocols: &[&'static str]) -> HeaderMap {
        let mut asked = headers(&[("connection", "Upgrade"), ("upgrade", "spdy/3.1")]);
        for protocol in protocols {
            asked.append(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
        }
        asked
    }

    fn websocket_headers(protocols: &[&'static str]) -> HeaderMap {
        let mut asked = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]);
        for protocol in protocols {
            asked.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        asked
    }

    #[track_caller]
    fn refused(asked: &HeaderMap, purpose: Purpose, status: StatusCode) -> Refusal {
        let refusal = agree(asked, purpose).unwrap_err();
        assert_eq!(refusal.status, status, "{refusal:?}");
        refusal
    }

    #[test]
    fn a_client_gets_the_first_of_its_protocols_that_is_offered() {
        for (asked, name, form, resizes) in [
            (
                &["v5.channel.k8s.io", "v4.channel.k8s.io, v3.channel.k8s.io"][..],
                "v4.channel.k8s.io",
                Form::Json,
                true,
            ),
            (
                &["v3.channel.k8s.io"],
                "v3.channel.k8s.io",
                Form::Text,
                true,
            ),
            (
                &["v2.channel.k8s.io"],
                "v2.channel.k8s.io",
                Form::Text,
                false,
            ),
            (&["channel.k8s.io"], "channel.k8s.io", Form::Text, false),
        ] {
            let agreed = agree(&spdy_headers(asked), Purpose::Process).unwrap();
            let version = SpdyVersion { form, resizes };
            assert_eq!(agreed.protocol, Protocol::Spdy(version));
            assert_eq!(agreed.headers[STREAM_PROTOCOL], name);
            assert_eq!(agreed.headers[UPGRADE], SPDY);
        }
        let agreed = agree(&spdy_headers(&[]), Purpose::Process).unwrap();
        assert!(!agreed.headers.contains_key(STREAM_PROTOCOL));
        agree(&spdy_headers(&["portforward.k8s.io"]), Purpose::PortForward).unwrap();
    }

    #[test]
    fn websocket_clients_are_answered_with_their_key_and_their_protocol() {
        let agreed = agree(
            &websocket_headers(&["v5.channel.k8s.io, v4.channel.k8s.io"]),
            Purpose::Process,
        )
        .unwrap();
        assert_eq!(
            agreed.headers[SEC_WEBSOCKET_ACCEPT],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(agreed.headers[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
        let binary = Protocol::WebSocket(Encoding::BinaryWithClose, Form::Json);
        assert_eq!(agreed.protocol, binary);
        let agreed = agree(&websocket_headers(&[]), Purpose::Process).unwrap();
        assert_eq!(
            agreed.protocol,
            Protocol::WebSocket(Encoding::Binary, Form::Text)
        );
        assert!(!agreed.headers.contains_key(SEC_WEBSOCKET_PROTOCOL));
        let agreed = agree(
            &websocket_headers(&[TUNNEL, "v4.channel.k8s.io"]),
            Purpose::PortForward,
        );
        assert_eq!(agreed.unwrap().protocol, Protocol::Tunnel);
    }

    #[test]
    fn what_is_not_offered_is_refused_with_what_is() {
        let refusal = refused(
            &spdy_headers(&["v9.channel.k8s.io"]),
            Purpose::Process,
            StatusCode::FORBIDDEN,
        );
        assert!(
            refusal
                .header
                .unwrap()
                .1
                .to_str()
                .unwrap()
                .contains("v4.channel.k8s.io")
        );
        refused(
            &spdy_headers(&["v4.channel.k8s.io"]),
            Purpose::PortForward,
            StatusCode::FORBIDDEN,
        );
        refused(
            &websocket_headers(&["chat"]),
            Purpose::Process,
            StatusCode::FORBIDDEN,
        );
        for asked in [
            headers(&[]),
            headers(&[("upgrade", "SPDY/3.1")]),
            headers(&[("connection", "upgrade"), ("upgrade", "SPDY/2")]),
            headers(&[
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-version", "13"),
            ]),
        ] {
            refused(&asked, Purpose::Process, StatusCode::BAD_REQUEST);
        }
        let mut asked = websocket_headers(&[]);
        asked.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        refused(&asked, Purpose::Process, StatusCode::UPGRADE_REQUIRED);
    }
}
