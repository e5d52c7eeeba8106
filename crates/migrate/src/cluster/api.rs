//! Lists of objects over the Kubernetes API: in pieces, as fast as the server wants it.

use std::time::Duration;

use http::{Request, StatusCode};
use kube::Client;

use crate::control_plane::encoded;
use crate::document::{self, Format, Source};
use crate::object::Object;

/// No piece of a list takes longer to come.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// As many objects as come in one piece.
const PIECE: usize = 500;

/// How often a list is begun while its pieces expire (410).
const ATTEMPTS: u32 = 5;

/// A kind of objects.
pub(super) struct Resource {
    kind: &'static str,
    /// As RBAC and URLs have it.
    pub(super) name: &'static str,
    /// Groups with versions, the newest first; empty for the core group.
    groups: &'static [&'static str],
    /// Whether a cluster may do without it.
    optional: bool,
}

impl Resource {
    pub(super) const fn core(kind: &'static str, name: &'static str) -> Self {
        Self::of(kind, name, &[])
    }

    pub(super) const fn of(
        kind: &'static str,
        name: &'static str,
        groups: &'static [&'static str],
    ) -> Self {
        Self {
            kind,
            name,
            groups,
            optional: false,
        }
    }

    pub(super) const fn optional(
        kind: &'static str,
        name: &'static str,
        groups: &'static [&'static str],
    ) -> Self {
        Self {
            optional: true,
            ..Self::of(kind, name, groups)
        }
    }

    /// Where it may be, in the order in which it is looked for.
    fn paths(&self) -> Vec<String> {
        if self.groups.is_empty() {
            return vec![format!("/api/v1/{}", self.name)];
        }
        let path = |group: &&str| format!("/apis/{group}/{}", self.name);
        self.groups.iter().map(path).collect()
    }
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// RBAC, or no credentials that count.
    #[error("forbidden: {0}")]
    Forbidden(String),
    /// Nobody answers, or nobody who can be talked to.
    #[error("{0}")]
    Unreachable(String),
    /// An error of the server.
    #[error("{0}")]
    Failed(String),
}

impl Refusal {
    /// What is to be done about it.
    pub(super) fn todo(&self, resource: &Resource) -> String {
        let group = resource
            .groups
            .first()
            .and_then(|group| group.rsplit_once('/'));
        match self {
            Self::Forbidden(_) => format!(
                "allow the verb list on the resource {} of the API group {:?} for all namespaces, with a ClusterRole and a ClusterRoleBinding",
                resource.name,
                group.map_or("", |(group, _)| group)
            ),
            Self::Failed(_) | Self::Unreachable(_) => {
                "try again, or look at the API server".to_string()
            }
        }
    }
}

/// What one request came to.
enum Answer {
    Piece(Piece),
    /// There is no such resource.
    Missing,
    /// The pieces that follow are of an older state that the server has no more.
    Expired,
}

struct Piece {
    items: Vec<Object>,
    next: Option<String>,
}

pub(super) struct Api {
    client: Client,
}

impl Api {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// All objects of a kind, in all namespaces.
    pub(super) async fn list(&self, resource: &Resource) -> Result<Vec<Object>, Refusal> {
        for path in resource.paths() {
            if let Some(objects) = self.list_at(resource, &path).await? {
                return Ok(objects);
            }
        }
        if resource.optional {
            return Ok(Vec::new());
        }
        Err(Refusal::Failed("the server does not have it".to_string()))
    }

    async fn list_at(
        &self,
        resource: &Resource,
        path: &str,
    ) -> Result<Option<Vec<Object>>, Refusal> {
        'list: for _ in 0..ATTEMPTS {
            let mut objects = Vec::new();
            let mut next = None;
            loop {
                match self.piece(resource, path, next.as_deref()).await? {
                    Answer::Missing => return Ok(None),
                    Answer::Expired => continue 'list,
                    Answer::Piece(piece) => {
                        objects.extend(piece.items);
                        next = piece.next;
                    }
                }
                if next.is_none() {
                    return Ok(Some(objects));
                }
            }
        }
        Err(Refusal::Failed(format!(
            "the list expired {ATTEMPTS} times before it was whole"
        )))
    }

    async fn piece(
        &self,
        resource: &Resource,
        path: &str,
        next: Option<&str>,
    ) -> Result<Answer, Refusal> {
        let mut uri = format!("{path}?limit={PIECE}");
        if let Some(next) = next {
            uri.push_str("&continue=");
            uri.extend(next.bytes().map(encoded));
        }
        let request = Request::get(&uri)
            .header("Accept", "application/json")
            .body(Vec::new())
            .map_err(|error| Refusal::Failed(error.to_string()))?;
        // A server that is busy (429) is asked again by the client, when it says.
        let error = match self.client.request_text(request).await {
            Ok(text) => return read(resource, text).map(Answer::Piece),
            Err(kube::Error::Api(status)) => status,
            Err(error) => return Err(Refusal::Unreachable(causes(&error))),
        };
        match StatusCode::from_u16(error.code) {
            Ok(StatusCode::NOT_FOUND) => Ok(Answer::Missing),
            Ok(StatusCode::GONE) => Ok(Answer::Expired),
            Ok(StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) => {
                Err(Refusal::Forbidden(error.message.clone()))
            }
            _ => Err(Refusal::Failed(format!(
                "{} ({})",
                error.message, error.code
            ))),
        }
    }
}

fn read(resource: &Resource, text: String) -> Result<Piece, Refusal> {
    let source = Source::new(resource.name, text);
    let documents = document::read(&source, Format::Json)
        .map_err(|error| Refusal::Failed(format!("the answer is no JSON: {error}")))?;
    let Some(list) = documents.first() else {
        return Err(Refusal::Failed("the answer is empty".to_string()));
    };
    let next = list.text_at(&["metadata", "continue"]);
    let items = list.get(&["items"]).map_or(&[][..], document::Node::items);
    let items = items
        .iter()
        .flat_map(|item| Object::of(item.clone(), None))
        // The items of a list do not say what they are.
        .map(|object| Object {
            kind: resource.kind.to_string(),
            ..object
        });
    Ok(Piece {
        items: items.collect(),
        next: next.filter(|next| !next.is_empty()).map(str::to_string),
    })
}

/// An error with what is behind it: `ServiceError` alone says nothing.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(one) = cause {
        let more = one.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = one.source();
    }
    text
}
