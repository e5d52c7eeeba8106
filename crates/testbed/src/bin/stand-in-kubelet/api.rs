//! The API server of a kubeconfig.

use std::fs;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::http::request::Builder;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::command_line::Kubelet;

/// Where it is, without TLS, and who asks.
pub(crate) struct Api {
    address: String,
    token: String,
}

impl Api {
    /// Looks for a server and a token in the kubeconfig.
    pub(crate) fn new(kubelet: &Kubelet) -> Result<Self> {
        let path = kubelet.kubeconfig.display();
        let text = fs::read_to_string(&kubelet.kubeconfig)
            .with_context(|| format!("unable to load kubeconfig {path}"))?;
        let find = |key: &str| {
            let (_, after) = text.split_once(key)?;
            let word = after.trim_start().trim_start_matches(['"', '\'']);
            let word = word.split(['"', '\'', ',', '}', ' ', '\n']).next()?;
            Some(word.to_owned())
        };
        let server = find("server:").with_context(|| format!("{path} names no server"))?;
        let address = server
            .strip_prefix("http://")
            .with_context(|| format!("{server}: a stand-in speaks http alone"))?;
        Ok(Self {
            address: address.trim_end_matches('/').to_owned(),
            token: find("token:").unwrap_or_default(),
        })
    }

    /// An object or a list; nothing where it is not there.
    pub(crate) async fn get(&self, path: &str) -> Result<Option<Value>> {
        self.ask(Method::GET, path, None).await
    }

    /// Makes an object, unless it is there.
    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<()> {
        self.ask(Method::POST, path, Some(object)).await.map(drop)
    }

    /// Changes an object; whether it is there.
    pub(crate) async fn patch(&self, path: &str, patch: &Value) -> Result<bool> {
        Ok(self.ask(Method::PATCH, path, Some(patch)).await?.is_some())
    }

    /// Takes an object away at once.
    pub(crate) async fn delete(&self, path: &str, uid: &str) -> Result<()> {
        let options = serde_json::json!({
            "kind": "DeleteOptions", "apiVersion": "v1",
            "gracePeriodSeconds": 0, "preconditions": { "uid": uid },
        });
        self.ask(Method::DELETE, path, Some(&options))
            .await
            .map(drop)
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Option<Value>> {
        let kind = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let stream = TcpStream::connect(&self.address)
            .await
            .with_context(|| format!("no connection to {}", self.address))?;
        let request = Request::builder()
            .method(&method)
            .uri(path)
            .header("host", &self.address)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", kind);
        let body = body.map(Value::to_string).unwrap_or_default();
        let answer = send(stream, request, &body).await;
        answer.with_context(|| format!("{method} {path}"))
    }
}

/// Sends a request; nothing comes back where what it is about is not there, or is there already.
pub(crate) async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Builder,
    body: &str,
) -> Result<Option<Value>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = request.body(Full::new(Bytes::from(body.to_owned())))?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    match head.status.as_u16() {
        200..=299 => Ok(Some(serde_json::from_slice(&body)?)),
        404 | 409 => Ok(None),
        code => bail!("{code} {}", String::from_utf8_lossy(&body)),
    }
}
