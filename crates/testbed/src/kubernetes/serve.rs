//! HTTP: who asks, for what, and what becomes of that.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::failure::Failure;
use super::faults::{Asked, Fault, strike};
use super::resources::{Place, RESOURCES, group_version};
use super::verbs::Wanted;
use super::{Shared, State, User};

type Body = UnsyncBoxBody<Bytes, io::Error>;

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        let service = hyper::service::service_fn(move |request| {
            let shared = Arc::clone(&shared);
            async move { answer(shared, request).await }
        });
        tokio::spawn(async move {
            let served = hyper::server::conn::http1::Builder::new();
            // Connections are cut here on purpose.
            let _ = served.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Answers a request. An error cuts the connection without an answer.
async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let bearer = head.headers.get("authorization");
    let bearer = bearer.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let user = bearer.and_then(|token| shared.lock().tokens.get(token).cloned());
    let Some(user) = user else {
        return Ok(refused(&Failure::unauthorized()));
    };
    let Ok(body) = serde_json::from_slice(if body.is_empty() { b"null" } else { &body }) else {
        return Ok(refused(&Failure::bad_request("the body is no JSON")));
    };
    let path = head.uri.path();
    if path == REVIEWS {
        return review(&shared, &user, &body).await;
    }
    if let Some(found) = shared.lock().discovered(path) {
        return Ok(response(200, &found));
    }
    let Some(place) = Place::of(path).filter(|place| shared.lock().serves(place)) else {
        return Ok(refused(&Failure::no_such_path()));
    };
    let query = query(head.uri.query().unwrap_or_default());
    let Some(verb) = verb(&head.method, &place, &query) else {
        return Ok(refused(&Failure::method_not_allowed()));
    };
    let wanted = Wanted {
        verb,
        query: &query,
        body,
    };
    carry_out(&shared, &user, &place, wanted).await
}

async fn carry_out(
    shared: &Arc<Shared>,
    user: &User,
    place: &Place,
    wanted: Wanted<'_>,
) -> io::Result<Response<Body>> {
    let asked = Asked {
        verb: wanted.verb,
        resource: match place.subresource.as_str() {
            "" => place.resource.name.to_owned(),
            subresource => format!("{}/{subresource}", place.resource.name),
        },
        namespace: place.namespace.clone(),
        name: place.name.clone(),
    };
    let fault = struck(shared, &asked).await?;
    if let Some(Fault::Status(_) | Fault::Busy(_)) = fault {
        return Ok(refused(&failure_of(fault)));
    }
    if !shared.lock().allows(user, &asked, place.resource.group) {
        let failure = Failure::forbidden(forbidden(user, &asked, place));
        return Ok(refused(&failure));
    }
    if wanted.verb == "watch" {
        let events = match fault {
            Some(Fault::EndsAfter(events)) => Some(events),
            _ => None,
        };
        return Ok(match wanted.watch(place, events) {
            Ok(watch) => {
                let (lines, body) = mpsc::channel(16);
                tokio::spawn(watch.run(Arc::clone(shared), lines));
                let body = ReceiverStream::new(body).map(|line| Ok(Frame::data(line)));
                built(200, StreamBody::new(body).boxed_unsync())
            }
            Err(failure) => refused(&failure),
        });
    }
    let done = shared.change(|state| wanted.carry_out(state, place));
    if fault == Some(Fault::CutAfter) {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    Ok(match done {
        Ok((code, object)) => response(code, &object),
        Err(failure) => refused(&failure),
    })
}

/// Notes a request, and takes what is to go wrong with it; as far as that is not the answer.
async fn struck(shared: &Shared, asked: &Asked) -> io::Result<Option<Fault>> {
    let fault = {
        let mut state = shared.lock();
        state.asked.push(asked.clone());
        strike(&mut state.planned, asked)
    };
    match fault {
        Some(Fault::CutBefore) => return Err(io::ErrorKind::ConnectionAborted.into()),
        Some(Fault::Late(time)) => tokio::time::sleep(time).await,
        _ => {}
    }
    Ok(fault)
}

fn failure_of(fault: Option<Fault>) -> Failure {
    match fault {
        Some(Fault::Busy(seconds)) => Failure::of_code(
            429,
            "the server has received too many requests and has asked us to try again later",
            Some(seconds),
        ),
        Some(Fault::Status(code)) => Failure::of_code(code, "a fault of the test", None),
        _ => Failure::of_code(500, "no fault", None),
    }
}

/// `SelfSubjectAccessReview`.
async fn review(shared: &Shared, user: &User, body: &Value) -> io::Result<Response<Body>> {
    let own = Asked {
        verb: "create",
        resource: "selfsubjectaccessreviews".to_owned(),
        namespace: String::new(),
        name: String::new(),
    };
    let fault = struck(shared, &own).await?;
    if let Some(Fault::Status(_) | Fault::Busy(_)) = fault {
        return Ok(refused(&failure_of(fault)));
    }
    let attributes = &body["spec"]["resourceAttributes"];
    let text = |field: &str| attributes[field].as_str().unwrap_or_default().to_owned();
    let verbs = [
        "get", "list", "watch", "create", "update", "patch", "delete",
    ];
    let verb = verbs.into_iter().find(|verb| attributes["verb"] == **verb);
    let asked = Asked {
        verb: verb.unwrap_or_default(),
        resource: match text("subresource").as_str() {
            "" => text("resource"),
            subresource => format!("{}/{subresource}", text("resource")),
        },
        namespace: text("namespace"),
        name: text("name"),
    };
    let state = shared.lock();
    if !state.reviews {
        return Ok(refused(&Failure::forbidden(
            "selfsubjectaccessreviews.authorization.k8s.io is forbidden",
        )));
    }
    let allowed = state.allows(user, &asked, &text("group"));
    let mut answer = body.clone();
    answer["status"] = json!({ "allowed": allowed });
    Ok(response(201, &answer))
}

fn forbidden(user: &User, asked: &Asked, place: &Place) -> String {
    let scope = match asked.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let name = match asked.name.as_str() {
        "" => String::new(),
        name => format!(" {name:?}"),
    };
    format!(
        "{}{name} is forbidden: User {:?} cannot {} resource {:?} in API group {:?} {scope}",
        place.resource.qualified(),
        user.to_string(),
        asked.verb,
        asked.resource,
        place.resource.group,
    )
}

fn verb(method: &Method, place: &Place, query: &BTreeMap<String, String>) -> Option<&'static str> {
    let watch = matches!(query.get("watch").map(String::as_str), Some("true" | "1"));
    Some(match (method.as_str(), place.name.is_empty()) {
        ("GET", true) if watch => "watch",
        ("GET", true) => "list",
        ("GET", false) => "get",
        ("POST", _) if place.name.is_empty() != place.subresource.is_empty() => return None,
        ("POST", _) => "create",
        ("PUT", false) => "update",
        ("PATCH", false) => "patch",
        ("DELETE", false) => "delete",
        _ => return None,
    })
}

impl State {
    fn serves(&self, place: &Place) -> bool {
        let version = group_version(place.resource.group, place.version);
        !self.withdrawn.contains(&version)
    }

    /// The version of the API that evictions are asked for in.
    pub(super) fn eviction_version(&self) -> Option<String> {
        let versions = ["policy/v1", "policy/v1beta1"].map(str::to_owned);
        versions
            .into_iter()
            .find(|version| !self.withdrawn.contains(version))
    }

    /// What a path of discovery says: `/version`, `/apis`, and each version of a group.
    fn discovered(&self, path: &str) -> Option<Value> {
        if path == "/version" {
            return Some(json!({ "major": "1", "minor": "23", "gitVersion": "v1.23.17" }));
        }
        let versions = RESOURCES.iter().flat_map(|resource| {
            let version = |version: &&str| group_version(resource.group, version);
            resource.versions.iter().map(version)
        });
        let mut versions: Vec<_> = versions
            .filter(|one| !self.withdrawn.contains(one))
            .collect();
        versions.sort();
        versions.dedup();
        if path == "/apis" {
            let groups = versions.iter().filter_map(|version| {
                let (group, _) = version.split_once('/')?;
                Some(json!({ "name": group, "versions": [{ "groupVersion": version }] }))
            });
            let groups: Vec<_> = groups.collect();
            return Some(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }));
        }
        let (_, version) = path
            .split_once("/api/")
            .or_else(|| path.split_once("/apis/"))?;
        versions.iter().find(|known| **known == version)?;
        let (group, number) = version.rsplit_once('/').unwrap_or(("", version));
        let resources = RESOURCES
            .iter()
            .filter(|resource| resource.group == group && resource.versions.contains(&number));
        let resources = resources.map(|resource| {
            json!({ "name": resource.name, "kind": resource.kind, "namespaced": resource.namespaced })
        });
        let eviction = self.eviction_version().filter(|_| version == "v1");
        let eviction = eviction.map(|eviction| {
            let (group, version) = eviction.split_once('/').unwrap_or_default();
            json!({
                "name": "pods/eviction", "kind": "Eviction", "namespaced": true,
                "group": group, "version": version,
            })
        });
        let resources: Vec<_> = resources.chain(eviction).collect();
        Some(json!({
            "kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": version, "resources": resources,
        }))
    }
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (decoded(key), decoded(value)))
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let hex = more.get(..2).filter(|_| *first == b'%');
        let hex = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        let (byte, more) = match (first, hex) {
            (_, Some(byte)) => (byte, &more[2..]),
            (b'+', None) => (b' ', more),
            (first, None) => (*first, more),
        };
        bytes.push(byte);
        rest = more;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn refused(failure: &Failure) -> Response<Body> {
    let mut response = response(failure.code, &failure.status());
    if let Some(seconds) = failure.retry_after {
        response.headers_mut().insert("retry-after", seconds.into());
    }
    response
}

fn response(code: u16, body: &Value) -> Response<Body> {
    let body = Full::from(body.to_string());
    built(
        code,
        body.map_err(|never: Infallible| match never {})
            .boxed_unsync(),
    )
}

fn built(code: u16, body: Body) -> Response<Body> {
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(body)
        .expect("a status and a header that are well formed")
}
