//! Watches: what becomes of the objects that a selector means, from a version on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::selector::Selector;
use super::store::{Change, Store};
use super::{Shared, failure::Failure};

/// Where none is asked for, as an API server ends a watch after some minutes.
const LONGEST: Duration = Duration::from_mins(5);

/// What is watched.
pub(super) struct Watch {
    pub(super) resource: &'static str,
    pub(super) api_version: String,
    /// Empty for all.
    pub(super) namespace: String,
    pub(super) selector: Selector,
    /// Changes after it are told; without one all objects that there are come first.
    pub(super) since: Option<u64>,
    pub(super) bookmarks: bool,
    pub(super) timeout: Option<Duration>,
    /// It ends after so many events.
    pub(super) events: usize,
}

impl Watch {
    /// Sends lines until it is over or nobody reads them.
    pub(super) async fn run(mut self, shared: Arc<Shared>, lines: mpsc::Sender<Bytes>) {
        let end = Instant::now() + self.timeout.unwrap_or(LONGEST);
        let mut changes = shared.changed.subscribe();
        loop {
            let (events, go_on) = self.due(&shared.lock().store);
            for event in events {
                if self.events == 0 || lines.send(line(&event)).await.is_err() {
                    return;
                }
                self.events -= 1;
            }
            if !go_on || self.events == 0 {
                return;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = lines.closed() => return,
                () = tokio::time::sleep_until(end) => return,
            }
        }
    }

    /// What has to be told, and whether anything can follow.
    fn due(&mut self, store: &Store) -> (Vec<Value>, bool) {
        let Some(since) = self.since.replace(store.version()) else {
            let objects = store.all(self.resource).map(|(_, object)| object);
            let objects = objects.filter(|object| self.means(object));
            let mut events: Vec<_> = objects.map(|object| self.event("ADDED", object)).collect();
            events.extend(self.bookmarks.then(|| self.bookmark(store)));
            return (events, true);
        };
        let Some(changes) = store.since(since) else {
            let status = Failure::expired().status();
            return (vec![json!({ "type": "ERROR", "object": status })], false);
        };
        let changes = changes.iter().filter(|one| one.resource == self.resource);
        (
            changes.filter_map(|change| self.told(change)).collect(),
            true,
        )
    }

    fn told(&self, change: &Change) -> Option<Value> {
        let meant =
            |object: &Option<Arc<Value>>| object.clone().filter(|object| self.means(object));
        match (meant(&change.before), meant(&change.after)) {
            (None, None) => None,
            (None, Some(after)) => Some(self.event("ADDED", &after)),
            (Some(_), Some(after)) => Some(self.event("MODIFIED", &after)),
            (Some(before), None) => {
                let mut event = self.event("DELETED", &before);
                let version = change.version.to_string();
                event["object"]["metadata"]["resourceVersion"] = version.into();
                Some(event)
            }
        }
    }

    fn means(&self, object: &Value) -> bool {
        let there = self.namespace.is_empty() || object["metadata"]["namespace"] == *self.namespace;
        there && self.selector.matches(object)
    }

    fn event(&self, kind: &str, object: &Value) -> Value {
        let mut object = object.clone();
        object["apiVersion"] = self.api_version.as_str().into();
        json!({ "type": kind, "object": object })
    }

    fn bookmark(&self, store: &Store) -> Value {
        let metadata = json!({ "resourceVersion": store.version().to_string() });
        json!({
            "type": "BOOKMARK",
            "object": { "kind": "Bookmark", "apiVersion": self.api_version, "metadata": metadata },
        })
    }
}

fn line(event: &Value) -> Bytes {
    let mut line = event.to_string();
    line.push('\n');
    line.into()
}
