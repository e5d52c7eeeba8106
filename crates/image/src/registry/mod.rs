//! The pull side of the registry protocol (OCI distribution-spec, "Pull").
//!
//! Written here on top of reqwest, because a node must survive a hostile registry: every answer is
//! read within a limit, a status and its reason reach the user, and credentials are kept per pull
//! and never cross from HTTPS to HTTP.

mod auth;
mod blob;
mod http;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use oci_spec::image::Digest;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RANGE};
use reqwest::{Response, StatusCode};

pub use auth::Credentials;
pub(crate) use blob::{Download, Outcome, Sink};
pub(crate) use http::{Clients, Refusal};

use crate::digest::{self, Hasher};
use crate::error::Kind;
use crate::manifest;
use crate::registries::{Endpoint, Transport};
use auth::{Challenge, Secret, Token};
use http::{Route, Scheme, read_body, refusal, within};

/// As much as distribution takes when a manifest is pushed.
const MANIFEST_LENGTH_MAX: u64 = 4 * 1024 * 1024;
const TOKEN_LENGTH_MAX: u64 = 1024 * 1024;

/// One repository at one place, for the time of one pull.
pub(crate) struct Session {
    endpoint: Endpoint,
    clients: Arc<Clients>,
    secret: Secret,
    /// Longest time without a byte.
    patience: Duration,
    /// Found with the first answer.
    scheme: Mutex<Option<Scheme>>,
    authorization: Mutex<Option<HeaderValue>>,
    /// Keeps parallel requests from each fetching a token.
    authenticating: tokio::sync::Mutex<()>,
}

/// A document of the manifest endpoint.
pub(crate) struct ManifestAnswer {
    pub(crate) bytes: Bytes,
    pub(crate) content_type: Option<String>,
    /// Digest of the bytes, compared with the one asked for.
    pub(crate) digest: String,
}

impl Session {
    pub(crate) fn new(
        endpoint: Endpoint,
        clients: Arc<Clients>,
        credentials: Option<&Credentials>,
        patience: Duration,
    ) -> Result<Self, Refusal> {
        let credentials = credentials.filter(|_| !endpoint.is_mirror);
        let secret = Secret::for_host(credentials, &endpoint.host);
        let authorization = match &secret {
            Secret::RegistryToken(token) => Some(
                auth::bearer(token)
                    .ok_or_else(|| Refusal::new(Kind::Denied, "the registry token is malformed"))?,
            ),
            _ => None,
        };
        Ok(Self {
            endpoint,
            clients,
            secret,
            patience,
            scheme: Mutex::new(None),
            authorization: Mutex::new(authorization),
            authenticating: tokio::sync::Mutex::new(()),
        })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Fetches a manifest or index by tag or digest and checks its digest.
    pub(crate) async fn manifest(
        &self,
        tag: Option<&str>,
        digest: Option<&Digest>,
    ) -> Result<ManifestAnswer, Refusal> {
        let name = digest.map_or_else(|| tag.unwrap_or("latest"), AsRef::as_ref);
        let asked = format!("manifest {name}");
        let response = self
            .get(
                &asked,
                &format!("manifests/{name}"),
                Some(manifest::ACCEPT),
                None,
            )
            .await?;
        if response.status() != StatusCode::OK {
            return Err(refusal(&asked, response, self.patience).await);
        }
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        let content_type = header(CONTENT_TYPE.as_str());
        let claimed = header("docker-content-digest");
        let bytes = read_body(response, MANIFEST_LENGTH_MAX, self.patience)
            .await
            .map_err(|refusal| Refusal::new(refusal.kind, format!("{asked}: {}", refusal.cause)))?;
        let expected = match digest {
            Some(digest) => Some(digest.clone()),
            None => claimed.and_then(|claimed| claimed.parse().ok()),
        };
        let found = match expected.as_ref().and_then(Hasher::like) {
            Some(mut hasher) => {
                hasher.update(&bytes);
                hasher.finish()
            }
            None => digest::sha256(&bytes),
        };
        if let Some(expected) = expected
            && Hasher::like(&expected).is_some()
            && expected.as_ref() != found
        {
            return Err(Refusal::new(
                Kind::Corrupt,
                format!("{asked}: its digest is {found}, not {expected}"),
            ));
        }
        Ok(ManifestAnswer {
            bytes,
            content_type,
            digest: found,
        })
    }

    /// Sends a GET for `path` below the repository, authenticating as far as the registry asks.
    async fn get(
        &self,
        asked: &str,
        path: &str,
        accept: Option<&str>,
        offset: Option<u64>,
    ) -> Result<Response, Refusal> {
        let used = self.authorization();
        let response = self
            .send(asked, path, accept, offset, used.as_ref())
            .await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let Some(challenge) = auth::challenge(response.headers()) else {
            return Ok(response);
        };
        let refused = refusal(asked, response, self.patience).await;
        let renewed = self
            .authenticate(challenge, used.as_ref(), &refused)
            .await?;
        self.send(asked, path, accept, offset, Some(&renewed)).await
    }

    async fn send(
        &self,
        asked: &str,
        path: &str,
        accept: Option<&str>,
        offset: Option<u64>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, Refusal> {
        let known = *self.scheme.lock().unwrap_or_else(PoisonError::into_inner);
        let schemes = match (known, self.endpoint.transport) {
            (Some(Scheme::Http), _) => &[Scheme::Http][..],
            (Some(Scheme::Https), _) | (None, Transport::Verified) => &[Scheme::Https],
            (Some(Scheme::HttpsUnverified), _) => &[Scheme::HttpsUnverified],
            (None, Transport::Insecure) => &[Scheme::HttpsUnverified, Scheme::Http],
            // HTTP first, as a TLS server answers or closes at once, while an HTTP server may wait
            // for more of what it takes for a request.
            (None, Transport::Loopback) => &[Scheme::Http, Scheme::HttpsUnverified],
        };
        let mut refusals: Vec<Refusal> = Vec::new();
        for (index, &scheme) in schemes.iter().enumerate() {
            let is_last = index + 1 == schemes.len();
            let url = format!(
                "{}://{}/v2/{}/{path}",
                scheme.prefix(),
                self.endpoint.host,
                self.endpoint.repository
            );
            let mut request = self.clients.get(scheme, self.route())?.get(&url);
            if let Some(accept) = accept {
                request = request.header(ACCEPT, accept);
            }
            if let Some(offset) = offset {
                request = request.header(RANGE, format!("bytes={offset}-"));
            }
            if let Some(authorization) = authorization {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            match within(self.patience, request.send()).await? {
                // What a TLS server tells a client that speaks plain HTTP.
                Ok(response) if !is_last && response.status() == StatusCode::BAD_REQUEST => {
                    refusals.push(refusal(asked, response, self.patience).await);
                }
                Ok(response) => {
                    *self.scheme.lock().unwrap_or_else(PoisonError::into_inner) = Some(scheme);
                    return Ok(response);
                }
                Err(error) => refusals.push(Refusal::transport(
                    &format!("{asked} over {}", scheme.prefix()),
                    error,
                )),
            }
        }
        let causes: Vec<&str> = refusals
            .iter()
            .map(|refusal| refusal.cause.as_str())
            .collect();
        Err(Refusal::new(Kind::Unavailable, causes.join("; ")))
    }

    /// Answers a challenge, unless another request has done so since `used` was sent.
    async fn authenticate(
        &self,
        challenge: Challenge,
        used: Option<&HeaderValue>,
        refused: &Refusal,
    ) -> Result<HeaderValue, Refusal> {
        let _turn = self.authenticating.lock().await;
        if let Some(present) = self.authorization()
            && used != Some(&present)
        {
            return Ok(present);
        }
        let malformed = || Refusal::new(Kind::Denied, "the credentials cannot be sent in a header");
        let value = match (challenge, &self.secret) {
            (Challenge::Basic, Secret::Password { username, password }) if used.is_none() => {
                auth::basic(username, password).ok_or_else(malformed)?
            }
            // Shown and refused, or nothing to show.
            (Challenge::Basic, _) | (_, Secret::RegistryToken(_)) => return Err(refused.clone()),
            (
                Challenge::Bearer {
                    realm,
                    service,
                    scope,
                },
                _,
            ) => self.fetch_token(&realm, service.as_deref(), scope).await?,
        };
        *self
            .authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(value.clone());
        Ok(value)
    }

    async fn fetch_token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<String>,
    ) -> Result<HeaderValue, Refusal> {
        let scope =
            scope.unwrap_or_else(|| format!("repository:{}:pull", self.endpoint.repository));
        let denied = |cause: String| Refusal::new(Kind::Denied, cause);
        let url = auth::token_url(realm, service, &scope).map_err(denied)?;
        let asked = format!("token from {}", url.host_str().unwrap_or(realm));
        let known = *self.scheme.lock().unwrap_or_else(PoisonError::into_inner);
        let scheme = match (url.scheme(), known) {
            ("https", Some(Scheme::HttpsUnverified)) => Scheme::HttpsUnverified,
            ("https", _) => Scheme::Https,
            ("http", Some(Scheme::Http)) => Scheme::Http,
            ("http", _) if self.secret == Secret::Anonymous => Scheme::Http,
            ("http", _) => {
                return Err(denied(format!(
                    "{asked}: the registry uses HTTPS and its token server does not; the \
                     credentials are not sent in the clear"
                )));
            }
            (other, _) => return Err(denied(format!("{asked}: unknown scheme {other:?}"))),
        };
        let client = self.clients.get(scheme, self.route())?;
        let request = match &self.secret {
            Secret::Password { username, password } => {
                client.get(url).basic_auth(username, Some(password))
            }
            Secret::IdentityToken(token) => {
                let mut form = reqwest::Url::parse("form:").map_err(|e| denied(e.to_string()))?;
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("refresh_token", token)
                    .append_pair("service", service.unwrap_or_default())
                    .append_pair("scope", &scope)
                    .append_pair("client_id", "slipway");
                let mut target = url;
                target.set_query(None);
                client
                    .post(target)
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form.query().unwrap_or_default().to_owned())
            }
            Secret::Anonymous | Secret::RegistryToken(_) => client.get(url),
        };
        let response = within(self.patience, request.send())
            .await?
            .map_err(|error| Refusal::transport(&asked, error))?;
        if response.status() != StatusCode::OK {
            return Err(refusal(&asked, response, self.patience).await);
        }
        let body = read_body(response, TOKEN_LENGTH_MAX, self.patience).await?;
        serde_json::from_slice::<Token>(&body)
            .ok()
            .and_then(Token::header)
            .ok_or_else(|| denied(format!("{asked}: the answer has no usable token in it")))
    }

    fn route(&self) -> Route {
        match self.endpoint.transport {
            Transport::Loopback => Route::Direct,
            Transport::Verified | Transport::Insecure => Route::ByProxy,
        }
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
