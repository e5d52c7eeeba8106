//! Answering a registry's challenge: Basic, and Bearer with a token from the server that the
//! challenge names (distribution, "Token Authentication" and "OAuth2 Token Authentication").

use std::fmt;

use base64::Engine as _;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

/// What a registry asks to see, in the fields of the CRI `AuthConfig`, of which `auth` is taken apart
/// already. Empty fields count as not given.
#[derive(Clone, Default, Eq, Hash, PartialEq)]
pub struct Credentials {
    /// CRI `AuthConfig.username`.
    pub username: String,
    /// CRI `AuthConfig.password`.
    pub password: String,
    /// CRI `AuthConfig.identity_token`: an OAuth2 refresh token, exchanged for an access token.
    pub identity_token: String,
    /// CRI `AuthConfig.registry_token`: a bearer token, sent as it is.
    pub registry_token: String,
    /// CRI `AuthConfig.server_address`: where given, the credentials go to this registry only.
    pub server_address: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// Credentials in the one form that will be used.
#[derive(Clone, Eq, PartialEq)]
pub(super) enum Secret {
    Anonymous,
    Password { username: String, password: String },
    IdentityToken(String),
    RegistryToken(String),
}

impl Secret {
    /// What may be shown to the registry at `host`.
    pub(super) fn for_host(credentials: Option<&Credentials>, host: &str) -> Self {
        let Some(credentials) = credentials else {
            return Self::Anonymous;
        };
        if !credentials.server_address.is_empty()
            && canonical_host(&credentials.server_address) != canonical_host(host)
        {
            return Self::Anonymous;
        }
        if !credentials.registry_token.is_empty() {
            return Self::RegistryToken(credentials.registry_token.clone());
        }
        if !credentials.identity_token.is_empty() {
            return Self::IdentityToken(credentials.identity_token.clone());
        }
        if credentials.username.is_empty() {
            return Self::Anonymous;
        }
        Self::Password {
            username: credentials.username.clone(),
            password: credentials.password.clone(),
        }
    }
}

/// The host of an address that may come with a scheme and a path, under the one name of Docker Hub.
fn canonical_host(address: &str) -> &str {
    let address = address.split_once("://").map_or(address, |(_, rest)| rest);
    match address.split('/').next().unwrap_or(address) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

/// One way to authenticate that a registry offers.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// The best understood challenge among the headers of a 401 response.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        for challenge in http_auth::ChallengeParser::new(text).map_while(Result::ok) {
            let parameter = |name: &str| {
                let found = challenge
                    .params
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = parameter("realm")
            {
                return Some(Challenge::Bearer {
                    realm,
                    service: parameter("service"),
                    scope: parameter("scope"),
                });
            }
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

/// What a token server answers; some use one name for the token, some the other.
#[derive(Deserialize)]
pub(super) struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Token {
    pub(super) fn header(self) -> Option<HeaderValue> {
        let token = self
            .token
            .into_iter()
            .chain(self.access_token)
            .find(|token| !token.is_empty())?;
        bearer(&token)
    }
}

pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(format!("Bearer {token}"))
}

pub(super) fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    let encoded =
        base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    sensitive(format!("Basic {encoded}"))
}

fn sensitive(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The address of the token server, with what is asked for.
pub(super) fn token_url(realm: &str, service: Option<&str>, scope: &str) -> Result<Url, String> {
    let mut url = Url::parse(realm)
        .map_err(|error| format!("the registry names {realm:?} as its token server: {error}"))?;
    {
        let mut query = url.query_pairs_mut();
        query.append_pair("scope", scope);
        if let Some(service) = service {
            query.append_pair("service", service);
        }
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge_of(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        challenge(&headers)
    }

    #[test]
    fn understands_bearer_and_basic_challenges() {
        let bearer =
            r#"Bearer realm="https://auth.io/token",service="reg, istry",scope="a:b:pull""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.io/token".into(),
            service: Some("reg, istry".into()),
            scope: Some("a:b:pull".into()),
        };
        assert_eq!(challenge_of(&[bearer]), Some(expected));
        assert_eq!(challenge_of(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        assert_eq!(challenge_of(&["basic realm=x"]), Some(Challenge::Basic));
        assert!(matches!(
            challenge_of(&["Basic realm=\"x\"", bearer]),
            Some(Challenge::Bearer { .. })
        ));
        assert_eq!(
            challenge_of(&["Negotiate", "=,=;\"", "Bearer service=x"]),
            None
        );
        assert_eq!(challenge_of(&[]), None);
    }

    #[test]
    fn credentials_stay_with_their_server() {
        let credentials = |server: &str| Credentials {
            username: "u".into(),
            server_address: server.into(),
            ..Credentials::default()
        };
        for (server, host, shown) in [
            ("", "a.io", true),
            ("a.io", "a.io", true),
            ("https://a.io/v2/", "a.io", true),
            ("https://index.docker.io/v1/", "registry-1.docker.io", true),
            ("b.io", "a.io", false),
            ("a.io:5000", "a.io", false),
        ] {
            let secret = Secret::for_host(Some(&credentials(server)), host);
            assert_eq!(secret != Secret::Anonymous, shown, "{server} at {host}");
        }
        assert!(Secret::for_host(None, "a.io") == Secret::Anonymous);
    }

    #[test]
    fn secrets_are_not_printed() {
        let credentials = Credentials {
            username: "user".into(),
            password: "hunter2".into(),
            identity_token: "hunter2".into(),
            registry_token: "hunter2".into(),
            ..Credentials::default()
        };
        let text = format!("{credentials:?} {:?}", basic("user", "hunter2").unwrap());
        assert!(text.contains("user") && !text.contains("hunter2"), "{text}");
    }
}
