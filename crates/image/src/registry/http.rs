//! HTTP clients and the limits within which their answers are read.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;

use crate::error::{Kind, http_cause};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longer error texts say no more.
const ERROR_BODY_MAX: u64 = 64 * 1024;
const ERROR_TEXT_MAX: usize = 512;

/// Why a request brought nothing that can be used.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) kind: Kind,
    pub(crate) cause: String,
}

impl Refusal {
    pub(super) fn new(kind: Kind, cause: impl Into<String>) -> Self {
        Self {
            kind,
            cause: cause.into(),
        }
    }

    pub(super) fn transport(asked: &str, error: reqwest::Error) -> Self {
        Self::new(Kind::Unavailable, format!("{asked}: {}", http_cause(error)))
    }
}

/// How a connection is made.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Scheme {
    Http,
    Https,
    HttpsUnverified,
}

impl Scheme {
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https | Self::HttpsUnverified => "https",
        }
    }
}

/// The clients of the pulls that are under way, made when first needed: the certificates of the
/// system alone take more memory than the rest of a daemon at rest.
#[derive(Debug, Default)]
pub(crate) struct Clients(Mutex<HashMap<(Scheme, Route), Client>>);

/// Whether the proxies of the environment (`HTTPS_PROXY` and so on) are used.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Route {
    /// They cannot reach what is on this node.
    Direct,
    ByProxy,
}

impl Clients {
    pub(super) fn get(&self, scheme: Scheme, route: Route) -> Result<Client, Refusal> {
        let key = (scheme, route);
        let clients = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let present = clients().get(&key).cloned();
        if let Some(client) = present {
            return Ok(client);
        }
        let builder = match scheme {
            // No certificate is ever looked at, so none is loaded.
            Scheme::Http => Client::builder().tls_certs_only([]),
            Scheme::Https => Client::builder(),
            Scheme::HttpsUnverified => Client::builder().tls_danger_accept_invalid_certs(true),
        };
        let builder = match route {
            Route::Direct => builder.no_proxy(),
            Route::ByProxy => builder,
        };
        let client = builder
            .user_agent(concat!("slipway/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .http1_only()
            .referer(false)
            .build()
            .map_err(|error| Refusal::transport("cannot set up the HTTP client", error))?;
        Ok(clients().entry(key).or_insert(client).clone())
    }
}

/// Reads a whole body of at most `limit` bytes; `patience` is how long it may pause.
pub(super) async fn read_body(
    response: Response,
    limit: u64,
    patience: Duration,
) -> Result<Bytes, Refusal> {
    let too_long = || {
        Refusal::new(
            Kind::Corrupt,
            format!("the answer is longer than the {limit} bytes allowed"),
        )
    };
    if response
        .content_length()
        .is_some_and(|length| length > limit)
    {
        return Err(too_long());
    }
    let mut body = BytesMut::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = within(patience, stream.next()).await? {
        let chunk = chunk.map_err(|error| Refusal::transport("the answer broke off", error))?;
        if (body.len() + chunk.len()) as u64 > limit {
            return Err(too_long());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Waits for the registry, but not for ever.
pub(super) async fn within<T>(
    patience: Duration,
    wait: impl Future<Output = T>,
) -> Result<T, Refusal> {
    tokio::time::timeout(patience, wait).await.map_err(|_| {
        Refusal::new(
            Kind::Unavailable,
            format!("no byte arrived for {} seconds", patience.as_secs_f32()),
        )
    })
}

/// The body that the distribution specification gives to errors.
#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What an answer other than the wanted one says.
pub(super) async fn refusal(asked: &str, response: Response, patience: Duration) -> Refusal {
    let status = response.status();
    let kind = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Denied,
        StatusCode::NOT_FOUND => Kind::NotFound,
        StatusCode::TOO_MANY_REQUESTS => Kind::RateLimited,
        _ => Kind::Unavailable,
    };
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .map(|value| format!(" (retry after {value})"))
        .unwrap_or_default();
    let detail = match read_body(response, ERROR_BODY_MAX, patience).await {
        Ok(body) => describe(&body),
        Err(_) => String::new(),
    };
    Refusal::new(kind, format!("{asked}: {status}{retry_after}{detail}"))
}

fn describe(body: &[u8]) -> String {
    if let Ok(body) = serde_json::from_slice::<ErrorBody>(body) {
        let entries: Vec<String> = body
            .errors
            .iter()
            .map(
                |entry| match (entry.code.as_str(), entry.message.as_str()) {
                    (code, "") => code.to_owned(),
                    ("", message) => message.to_owned(),
                    (code, message) => format!("{code}: {message}"),
                },
            )
            .collect();
        return if entries.is_empty() {
            String::new()
        } else {
            format!(": {}", clip(&entries.join("; ")))
        };
    }
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    // An HTML page is for a browser.
    if text.is_empty() || text.starts_with('<') {
        return String::new();
    }
    format!(": {}", clip(text))
}

/// One line of bounded length.
fn clip(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .take(ERROR_TEXT_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_become_one_line() {
        let body =
            br#"{"errors":[{"code":"DENIED","message":"no\nway"},{"code":"X"},{"message":"m"}]}"#;
        assert_eq!(describe(body), ": DENIED: no way; X; m");
        assert_eq!(describe(br#"{"errors":[]}"#), "");
        assert_eq!(describe(b"<html><body>502</body></html>"), "");
        assert_eq!(describe(b" plain text\n"), ": plain text");
        assert_eq!(
            describe("x".repeat(10_000).as_bytes()).len(),
            ERROR_TEXT_MAX + 2
        );
    }
}
