//! The Node itself: whether it takes pods, its annotations, whether it is Ready.

use std::cell::RefCell;
use std::future::pending;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::Error;
use super::client::Collection;
use super::live::Live;
use super::refusal::Refusal;
use super::request::{LEASES, NODES, Permission, Verb};
use crate::host::Progress;

/// Where kubelets renew the leases of their Nodes, every ten seconds unless told otherwise.
pub(super) const NODE_LEASES: &str = "kube-node-lease";
const LEASE_LOOK: Duration = Duration::from_secs(3);

/// A kubelet looks at its status as often as it renews its lease, but writes it only where it has
/// changed, or after five minutes: once the lease has been renewed twice, what is written holds.
const RENEWALS: u32 = 2;

impl Live {
    pub(super) async fn cordon(&self, cordoned: bool) -> Result<(), Error> {
        let wanted = if cordoned { json!(true) } else { Value::Null };
        let what = if cordoned { "cordoning" } else { "uncordoning" };
        self.patch(what, json!({ "spec": { "unschedulable": wanted } }))
            .await
    }

    pub(super) async fn annotate(&self, key: &str, value: Option<&str>) -> Result<(), Error> {
        let patch = json!({ "metadata": { "annotations": { key: value } } });
        self.patch("annotating", patch).await
    }

    async fn patch(&self, what: &str, patch: Value) -> Result<(), Error> {
        let ask = self.on_node(Verb::Patch).ask().body(patch);
        let done = self.api.ask(&ask, self.end()).await;
        done.map(|_| ()).map_err(self.failed(what))
    }

    pub(super) async fn await_ready(
        &self,
        runtime: &str,
        deadline: Duration,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        let until = Instant::now() + deadline;
        let seen = Seen::default();
        let ready = tokio::select! {
            ready = self.heartbeat(runtime, until, &seen, progress) => ready,
            ready = self.renewals(runtime, until) => ready,
        };
        let why = match ready {
            Ok(true) => return Ok(()),
            Ok(false) => seen.last.into_inner(),
            Err(refusal) => match seen.last.into_inner().as_str() {
                "" => refusal.to_string(),
                last => format!("{last}; then {refusal}"),
            },
        };
        Err(Error::new(
            format!(
                "waiting for the Node {} to be Ready on {runtime}",
                self.node
            ),
            format!(
                "not within {}: {why}; see journalctl -u kubelet on the node",
                spoken(deadline)
            ),
        ))
    }

    /// Waits for a condition Ready that was written after the first look.
    async fn heartbeat(
        &self,
        runtime: &str,
        until: Instant,
        seen: &Seen,
        progress: Progress<'_>,
    ) -> Result<bool, Refusal> {
        let nodes = Collection {
            fields: format!("metadata.name={}", self.node),
            // This Node may be the one whose pods are the API server.
            patient: true,
            ..Collection::of(NODES)
        };
        let mut first: Option<Value> = None;
        let ready = self.api.follow(&nodes, until, |nodes| {
            let Some(node) = nodes.values().next() else {
                seen.now("the cluster has no Node of that name".to_string(), progress);
                return None;
            };
            let beat = &ready_condition(node)["lastHeartbeatTime"];
            // Times are compared with each other alone: the node's clock may differ from others.
            let fresh = *first.get_or_insert_with(|| beat.clone()) != *beat;
            let mut words = described(node);
            if is_ready(node) && runs_on(node, runtime) && !fresh {
                words.push_str(", and its kubelet has not written that anew yet");
            }
            seen.now(words, progress);
            (fresh && is_ready(node) && runs_on(node, runtime)).then_some(())
        });
        ready.await.map(|ready| ready.is_some())
    }

    /// Waits for renewals of the Node's lease after the first look, and looks at the Node then. Without
    /// a lease to be seen this waits for ever.
    async fn renewals(&self, runtime: &str, until: Instant) -> Result<bool, Refusal> {
        let get = Permission::new(Verb::Get, LEASES).within(NODE_LEASES);
        let get = get.named(&self.node).ask();
        let mut last = None;
        let mut renewals = 0;
        loop {
            match self.api.once(&get, until).await {
                Ok(lease) => {
                    let renewed = lease["spec"]["renewTime"].clone();
                    let before = last.replace(renewed.clone());
                    renewals += u32::from(before.is_some_and(|before| before != renewed));
                }
                Err(Refusal::Forbidden { .. }) => return pending().await,
                Err(_) => {}
            }
            if renewals >= RENEWALS
                && let Ok(node) = self.get_node(until).await
                && is_ready(&node)
                && runs_on(&node, runtime)
            {
                return Ok(true);
            }
            sleep(LEASE_LOOK).await;
        }
    }
}

/// What was last seen of something that is waited for; each change is told once.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) last: RefCell<String>,
}

impl Seen {
    pub(super) fn now(&self, words: String, progress: Progress<'_>) {
        if *self.last.borrow() != words {
            progress(&words);
            self.last.replace(words);
        }
    }
}

pub(crate) fn is_ready(node: &Value) -> bool {
    ready_condition(node)["status"] == "True"
}

fn ready_condition(node: &Value) -> &Value {
    let mut conditions = node["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    let ready = conditions.find(|condition| condition["type"] == "Ready");
    ready.unwrap_or(&Value::Null)
}

fn runs_on(node: &Value, runtime: &str) -> bool {
    runtime_of(node).is_some_and(|found| found.starts_with(runtime))
}

fn runtime_of(node: &Value) -> Option<&str> {
    node["status"]["nodeInfo"]["containerRuntimeVersion"].as_str()
}

/// Its conditions as far as they are not as they should be, and its runtime.
fn described(node: &Value) -> String {
    let conditions = node["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    let mut words: Vec<_> = conditions.filter_map(condition).collect();
    if ready_condition(node).is_null() {
        words.insert(0, "it has no condition Ready".to_string());
    }
    let runtime = runtime_of(node).unwrap_or("no runtime yet");
    format!("{}, its runtime is {runtime}", words.join(", "))
}

fn condition(condition: &Value) -> Option<String> {
    let text = |field: &str| condition[field].as_str().unwrap_or_default();
    let (kind, status) = (text("type"), text("status"));
    if kind != "Ready" && status == "False" {
        return None;
    }
    let mut words = format!("{kind}={status}");
    if status != "True" || kind != "Ready" {
        let said = [text("reason"), text("message")].join(": ");
        let said = said.trim_matches([':', ' ']);
        if !said.is_empty() {
            words = format!("{words} ({said})");
        }
    }
    Some(words)
}

/// A length of time as people say it.
pub(crate) fn spoken(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        seconds if seconds >= 120 && seconds % 60 == 0 => format!("{} minutes", seconds / 60),
        1 => "1 second".to_string(),
        seconds => format!("{seconds} seconds"),
    }
}
