//! Requests to the Kubernetes API: asked again where that can help, never for longer than a deadline.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use http::{HeaderMap, StatusCode};
use kube::client::Body;
use kube::core::WatchEvent;
use kube::{Client, Config};
use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::refusal::Refusal;
use super::request::{Ask, Kind, Permission, Verb};
use crate::cluster::causes;

/// No answer takes longer to come.
const LONGEST: Duration = Duration::from_secs(30);

/// The server ends a watch after so many seconds; one of which nothing is heard is looked after.
const WATCH_SECONDS: &str = "50";
pub(super) const SILENCE: Duration = Duration::from_mins(1);

/// As many objects as come in one piece.
const PIECE: &str = "500";

/// An API server.
#[derive(Clone)]
pub(crate) struct Api {
    client: Client,
    server: String,
}

/// Objects by namespace and name.
pub(crate) type Objects = BTreeMap<(String, String), Value>;

/// Some objects of a kind.
#[derive(Debug, Clone)]
pub(crate) struct Collection {
    pub(crate) kind: Kind,
    /// Empty for all.
    pub(crate) namespace: String,
    /// A selector of fields.
    pub(crate) fields: String,
    /// Whether to go on while the server forbids it: one that has just started knows no roles yet.
    pub(crate) patient: bool,
}

impl Collection {
    /// All of them.
    pub(crate) fn of(kind: Kind) -> Self {
        Self {
            kind,
            namespace: String::new(),
            fields: String::new(),
            patient: false,
        }
    }

    fn permission(&self, verb: Verb) -> Permission {
        Permission::new(verb, self.kind).within(&self.namespace)
    }

    fn ask(&self, verb: Verb) -> Ask {
        let ask = self.permission(verb).ask();
        match self.fields.as_str() {
            "" => ask,
            fields => ask.query("fieldSelector", fields),
        }
    }

    fn waits_out(&self, refusal: &Refusal) -> bool {
        let denied = matches!(
            refusal,
            Refusal::Forbidden { .. } | Refusal::Unauthorized(_)
        );
        refusal.passes(Verb::List) || (self.patient && denied)
    }
}

/// Longer and longer pauses.
#[derive(Debug)]
pub(super) struct Pauses {
    next: Duration,
    longest: Duration,
}

impl Pauses {
    pub(super) fn up_to(longest: Duration) -> Self {
        Self {
            next: Duration::from_millis(100),
            longest,
        }
    }

    /// Waits; at least as long as is wanted. False when there is no time left after that, at once
    /// where what is wanted takes longer.
    pub(super) async fn pause(&mut self, least: Option<Duration>, until: Instant) -> bool {
        let least = least.unwrap_or_default();
        if Instant::now() + least >= until {
            return false;
        }
        let end = Instant::now() + self.next.max(least);
        self.next = (self.next * 2).min(self.longest);
        sleep_until(end.min(until)).await;
        end < until
    }
}

impl Default for Pauses {
    fn default() -> Self {
        Self::up_to(Duration::from_secs(5))
    }
}

impl Api {
    pub(crate) fn new(mut config: Config) -> Result<Self, kube::Error> {
        // A budget's refusal looks like a busy server's to kube, which would ask again for hours.
        config.default_retry = false;
        config.read_timeout = Some(SILENCE);
        config.reset_reader_on_write = true;
        let server = config.cluster_url.to_string();
        let server = server.trim_end_matches('/').to_string();
        Ok(Self {
            client: Client::try_from(config)?,
            server,
        })
    }

    /// Asks once.
    pub(super) async fn once(&self, ask: &Ask, until: Instant) -> Result<Value, Refusal> {
        let end = until.min(Instant::now() + LONGEST);
        let unreachable = |error: kube::Error| Refusal::unreachable(&self.server, causes(&error));
        let answered = timeout_at(end, async {
            let request = ask
                .request()
                .map_err(|error| Refusal::unreachable(&self.server, error))?;
            let answer = self.client.send(request.map(Body::from)).await;
            let (head, body) = answer.map_err(unreachable)?.into_parts();
            let body = body.collect_bytes().await.map_err(unreachable)?;
            if !head.status.is_success() {
                let permission = &ask.permission;
                return Err(Refusal::of(permission, head.status, &head.headers, &body));
            }
            serde_json::from_slice(&body).map_err(|error| Refusal::unreachable(&self.server, error))
        });
        answered
            .await
            .unwrap_or_else(|_| Err(Refusal::unreachable(&self.server, "no answer in time")))
    }

    /// Asks until there is an answer that counts; the last refusal where there is none in time.
    pub(crate) async fn ask(&self, ask: &Ask, until: Instant) -> Result<Value, Refusal> {
        let mut pauses = Pauses::default();
        loop {
            let refusal = match self.once(ask, until).await {
                Err(refusal) if refusal.passes(ask.permission.verb) => refusal,
                other => return other,
            };
            if !pauses.pause(refusal.after(), until).await {
                return Err(refusal);
            }
        }
    }

    /// For what was asked by [`read`](Self::read), and not answered.
    pub(super) fn unreachable(&self, why: String) -> Refusal {
        Refusal::unreachable(&self.server, why)
    }

    /// What there is of a path that is not of objects, such as discovery.
    pub(super) async fn read(&self, path: &str, until: Instant) -> Result<Value, kube::Error> {
        let request = http::Request::get(path).body(Vec::new());
        let request = request.map_err(kube::Error::HttpError)?;
        let text = timeout_at(until, self.client.request_text(request)).await;
        let text = text.map_err(|elapsed| kube::Error::Service(elapsed.into()))??;
        serde_json::from_str(&text).map_err(kube::Error::SerdeError)
    }

    /// All objects of a collection, with the version that a watch goes on from.
    pub(crate) async fn list(
        &self,
        collection: &Collection,
        until: Instant,
    ) -> Result<(Objects, String), Refusal> {
        let mut pauses = Pauses::default();
        'list: loop {
            let mut objects = Objects::new();
            let mut ask = collection.ask(Verb::List).query("limit", PIECE);
            loop {
                let piece = match self.ask(&ask, until).await {
                    Err(refusal @ Refusal::Expired(_)) => {
                        if pauses.pause(None, until).await {
                            continue 'list;
                        }
                        return Err(refusal);
                    }
                    other => other?,
                };
                let items = piece["items"].as_array().into_iter().flatten();
                objects.extend(items.map(|item| (key(item), item.clone())));
                match piece["metadata"]["continue"].as_str() {
                    Some(next) if !next.is_empty() => {
                        let first = collection.ask(Verb::List).query("limit", PIECE);
                        ask = first.query("continue", next);
                    }
                    _ => {
                        let version = piece["metadata"]["resourceVersion"].as_str();
                        return Ok((objects, version.unwrap_or_default().to_string()));
                    }
                }
            }
        }
    }

    /// Looks at a collection whenever something changes in it, until what is looked for is seen;
    /// nothing where that does not happen in time.
    pub(crate) async fn follow<T>(
        &self,
        collection: &Collection,
        until: Instant,
        mut look: impl FnMut(&Objects) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let mut pauses = Pauses::default();
        loop {
            let (mut objects, version) = match self.list(collection, until).await {
                Ok(listed) => listed,
                Err(refusal) if collection.waits_out(&refusal) => {
                    if pauses.pause(refusal.after(), until).await {
                        continue;
                    }
                    return Err(refusal);
                }
                Err(refusal) => return Err(refusal),
            };
            if let Some(seen) = look(&objects) {
                return Ok(Some(seen));
            }
            let ask = collection.ask(Verb::Watch).query("watch", "true");
            let ask = ask.query("resourceVersion", &version);
            match self.watch(&ask, until, &mut objects, &mut look).await {
                Ok(Watched::Seen(seen)) => return Ok(Some(seen)),
                Ok(Watched::Over { told: true }) => pauses = Pauses::default(),
                Ok(Watched::Over { told: false }) | Err(Refusal::Expired(_)) => {}
                Err(refusal) if collection.waits_out(&refusal) => {}
                Err(refusal) => return Err(refusal),
            }
            if !pauses.pause(None, until).await {
                return Ok(None);
            }
        }
    }

    async fn watch<T>(
        &self,
        ask: &Ask,
        until: Instant,
        objects: &mut Objects,
        look: &mut impl FnMut(&Objects) -> Option<T>,
    ) -> Result<Watched<T>, Refusal> {
        let ask = ask.clone().query("timeoutSeconds", WATCH_SECONDS);
        let request = ask
            .request()
            .map_err(|error| Refusal::unreachable(&self.server, error))?;
        let refused = |error: kube::Error| match error {
            kube::Error::Api(status) => {
                let code = StatusCode::from_u16(status.code).unwrap_or_default();
                let body = serde_json::to_vec(&status).unwrap_or_default();
                Refusal::of(&ask.permission, code, &HeaderMap::new(), &body)
            }
            error => Refusal::unreachable(&self.server, causes(&error)),
        };
        let mut told = false;
        let begun = timeout_at(until, self.client.request_events::<Value>(request)).await;
        let Ok(begun) = begun else {
            return Ok(Watched::Over { told });
        };
        let mut events = pin!(begun.map_err(refused)?);
        loop {
            let Ok(Ok(Some(event))) = timeout_at(until, events.try_next()).await else {
                return Ok(Watched::Over { told });
            };
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    objects.insert(key(&object), object);
                }
                WatchEvent::Deleted(object) => {
                    objects.remove(&key(&object));
                }
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(status) => return Err(refused(kube::Error::Api(status))),
            }
            told = true;
            if let Some(seen) = look(objects) {
                return Ok(Watched::Seen(seen));
            }
        }
    }
}

/// How a watch ended.
enum Watched<T> {
    Seen(T),
    /// The server's time, a cut, or the deadline.
    Over {
        /// Whether it told anything before.
        told: bool,
    },
}

fn key(object: &Value) -> (String, String) {
    let text = |field: &str| {
        let text = object["metadata"][field].as_str();
        text.unwrap_or_default().to_string()
    };
    (text("namespace"), text("name"))
}
