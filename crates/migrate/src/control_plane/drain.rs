//! Taking a Node's pods away as disruption budgets allow.

use std::cell::RefCell;
use std::collections::BTreeMap;

use futures_util::TryStreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::client::{Collection, Objects, Pauses};
use super::live::Live;
use super::node::{Seen, is_ready, spoken};
use super::probe;
use super::refusal::Refusal;
use super::request::{PODS, Permission, Verb};
use super::{DrainOptions, Error};
use crate::host::Progress;

/// As many evictions are asked for at a time.
const AT_A_TIME: usize = 8;

/// As many pods are named in a line.
const NAMED: usize = 5;

/// What the server says where it cannot decide (`pods/eviction`); it will not, however often asked.
const SEVERAL_BUDGETS: &str = "more than one PodDisruptionBudget";

/// A pod that has to go.
#[derive(Debug, Clone)]
struct Pod {
    namespace: String,
    name: String,
    uid: String,
    /// It is being deleted.
    going: bool,
}

impl Pod {
    fn of(pod: &Value) -> Self {
        let metadata = &pod["metadata"];
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_string();
        Self {
            namespace: text("namespace"),
            name: text("name"),
            uid: text("uid"),
            going: !metadata["deletionTimestamp"].is_null(),
        }
    }

    fn spoken(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// What a drain does with a pod.
#[derive(Debug, PartialEq, Eq)]
enum Lot {
    Stays,
    Goes,
    Refused(Why),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    Bare,
    EmptyDir,
}

impl Lot {
    fn of(pod: &Value, options: DrainOptions) -> Self {
        let metadata = &pod["metadata"];
        let owners = metadata["ownerReferences"].as_array().into_iter().flatten();
        let controller = owners.clone().find(|owner| owner["controller"] == true);
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        // The kubelet's own, which the API only shows.
        if !metadata["annotations"]["kubernetes.io/config.mirror"].is_null() {
            return Self::Stays;
        }
        if ["Succeeded", "Failed"].contains(&phase) {
            return Self::Goes;
        }
        if controller.is_some_and(|owner| owner["kind"] == "DaemonSet") {
            return Self::Stays;
        }
        if !metadata["deletionTimestamp"].is_null() || probe::is_probe(pod) {
            return Self::Goes;
        }
        if controller.is_none() && !options.force {
            return Self::Refused(Why::Bare);
        }
        let mut volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        if volumes.any(|volume| !volume["emptyDir"].is_null()) && !options.delete_emptydir_data {
            return Self::Refused(Why::EmptyDir);
        }
        Self::Goes
    }
}

/// The pods that have to go, or those that must not, and what to do about them.
fn sorted(pods: &Objects, options: DrainOptions) -> Result<Vec<Pod>, String> {
    let mut going = Vec::new();
    let mut refused: BTreeMap<Why, Vec<String>> = BTreeMap::new();
    for pod in pods.values() {
        match Lot::of(pod, options) {
            Lot::Stays => {}
            Lot::Goes => going.push(Pod::of(pod)),
            Lot::Refused(why) => refused.entry(why).or_default().push(Pod::of(pod).spoken()),
        }
    }
    let refusals = refused.into_iter().map(|(why, pods)| {
        let pods = pods.join(", ");
        match why {
            Why::Bare => format!(
                "{pods}: no controller makes them again elsewhere; have one make them, or delete them with --force"
            ),
            Why::EmptyDir => format!(
                "{pods}: what they have in emptyDir volumes would be lost; give --delete-emptydir-data if it may be"
            ),
        }
    });
    let refusals: Vec<_> = refusals.collect();
    if refusals.is_empty() {
        Ok(going)
    } else {
        Err(format!(
            "no pod was evicted, because there are some that must not be: {}",
            refusals.join("; ")
        ))
    }
}

/// A drain that is going on.
struct Drain<'a> {
    /// `apiVersion` of evictions.
    version: String,
    permits: Semaphore,
    until: Instant,
    /// Pods that are still there.
    left: RefCell<Vec<Pod>>,
    /// What keeps pods, by their uids, for people.
    reasons: RefCell<BTreeMap<String, String>>,
    progress: Progress<'a>,
}

impl Drain<'_> {
    fn is_there(&self, pod: &Pod) -> bool {
        self.left.borrow().iter().any(|left| left.uid == pod.uid)
    }

    fn is_kept(&self, pod: &Pod, refusal: &Refusal) {
        let reason = refusal.to_string();
        let before = self
            .reasons
            .borrow_mut()
            .insert(pod.uid.clone(), reason.clone());
        if before.as_ref() != Some(&reason) {
            (self.progress)(&format!("{} waits: {reason}", pod.spoken()));
        }
    }
}

impl Live {
    pub(super) async fn evict_all(
        &self,
        until: Instant,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        let began = Instant::now();
        let failed = |why: String| Error::new(format!("draining the Node {}", self.node), why);
        let pods = self.pods();
        let (found, _) = self
            .api
            .list(&pods, until)
            .await
            .map_err(|refusal| failed(refusal.to_string()))?;
        let pods_to_go = sorted(&found, self.drain).map_err(failed)?;
        if pods_to_go.is_empty() {
            progress("no pod has to go");
            return Ok(());
        }
        let version = self.eviction_version(until).await;
        let hears = self.hears_of_ends(until).await;
        let hears = hears.map_err(|refusal| failed(refusal.to_string()))?;
        progress(&format!(
            "evicting {}: {}",
            counted(pods_to_go.len()),
            named(pods_to_go.iter().map(Pod::spoken))
        ));
        let drain = Drain {
            version,
            permits: Semaphore::new(AT_A_TIME),
            until,
            left: RefCell::new(pods_to_go.clone()),
            reasons: RefCell::default(),
            progress,
        };
        let evictions = pods_to_go.iter().filter(|pod| !pod.going);
        let evictions: FuturesUnordered<_> = evictions.map(|pod| self.evict(pod, &drain)).collect();
        let evicted = async {
            evictions.try_collect::<()>().await?;
            if hears {
                // Evictions that are done say nothing of pods that take their time to end.
                std::future::pending::<()>().await;
            }
            progress(
                "the Node is not Ready, and no kubelet says when pods have ended: they are not waited for",
            );
            Ok(drain.reasons.borrow().is_empty().then_some(()))
        };
        let seen = Seen::default();
        let gone = self.api.follow(&pods, until, |there| {
            drain.left.borrow_mut().retain(|pod| {
                let key = (pod.namespace.clone(), pod.name.clone());
                // One of the same name and another uid is another pod.
                let same = there
                    .get(&key)
                    .filter(|found| found["metadata"]["uid"] == *pod.uid);
                same.is_some()
            });
            let left = drain.left.borrow();
            if left.is_empty() {
                return Some(());
            }
            if left.len() < pods_to_go.len() {
                let names = named(left.iter().map(Pod::spoken));
                let words = format!("{} of {} left: {names}", left.len(), pods_to_go.len());
                seen.now(words, progress);
            }
            None
        });
        let done = tokio::select! {
            done = gone => done,
            done = evicted => done,
        };
        let refusal = match done {
            Ok(Some(())) => return Ok(()),
            Ok(None) => None,
            Err(refusal) => Some(refusal),
        };
        let left = drain.left.into_inner();
        let reasons = drain.reasons.into_inner();
        let mut why = format!(
            "{} of {} are still there after {}: {}",
            left.len(),
            counted(pods_to_go.len()),
            spoken(began.elapsed()),
            left.iter()
                .map(|pod| kept(pod, &reasons))
                .collect::<Vec<_>>()
                .join("; ")
        );
        if let Some(refusal) = refusal {
            why = format!("{refusal}; {why}");
        }
        Err(failed(why))
    }

    /// Whether there is a kubelet that takes pods out of the API once they have ended.
    async fn hears_of_ends(&self, until: Instant) -> Result<bool, Refusal> {
        Ok(is_ready(&self.get_node(until).await?))
    }

    fn pods(&self) -> Collection {
        Collection {
            fields: format!("spec.nodeName={}", self.node),
            ..Collection::of(PODS)
        }
    }

    /// `policy/v1` from 1.22 on, as the server says; what it does not say was so before.
    async fn eviction_version(&self, until: Instant) -> String {
        let found = self.api.read("/api/v1", until).await.unwrap_or_default();
        let mut resources = found["resources"].as_array().into_iter().flatten();
        let eviction = resources.find(|resource| resource["name"] == "pods/eviction");
        let version = eviction.and_then(|eviction| eviction["version"].as_str());
        format!("policy/{}", version.unwrap_or("v1beta1"))
    }

    /// Evicts a pod, as soon as its budget allows; or until it is not there any more.
    async fn evict(&self, pod: &Pod, drain: &Drain<'_>) -> Result<(), Refusal> {
        let eviction = json!({
            "apiVersion": drain.version, "kind": "Eviction",
            "metadata": { "namespace": pod.namespace, "name": pod.name },
            "deleteOptions": { "preconditions": { "uid": pod.uid } },
        });
        let ask = Permission::new(Verb::Create, PODS).on("eviction");
        let ask = ask
            .within(&pod.namespace)
            .named(&pod.name)
            .ask()
            .body(eviction);
        let mut pauses = Pauses::default();
        while drain.is_there(pod) {
            let done = match drain.permits.acquire().await {
                Ok(_permit) => self.api.once(&ask, drain.until).await,
                Err(_) => return Ok(()),
            };
            let refusal = match done {
                Ok(_) => {
                    drain.reasons.borrow_mut().remove(&pod.uid);
                    return Ok(());
                }
                // It is about to go with its namespace.
                Err(Refusal::NotFound(_) | Refusal::Forbidden { ending: true, .. }) => {
                    return Ok(());
                }
                Err(refusal) => refusal,
            };
            match &refusal {
                Refusal::Failed { said, .. } if said.contains(SEVERAL_BUDGETS) => {
                    return Err(refusal);
                }
                // Of a conflict it is seen elsewhere whether another pod is in its place.
                Refusal::Budget(_) | Refusal::Conflict(_) => drain.is_kept(pod, &refusal),
                refusal if refusal.passes(Verb::Create) => drain.is_kept(pod, refusal),
                _ => return Err(refusal),
            }
            if !pauses.pause(refusal.after(), drain.until).await {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn kept(pod: &Pod, reasons: &BTreeMap<String, String>) -> String {
    match reasons.get(&pod.uid) {
        Some(reason) => format!("{} ({reason})", pod.spoken()),
        None => format!(
            "{} (evicted, and it has not ended: look at its finalizers, its terminationGracePeriodSeconds and its kubelet)",
            pod.spoken()
        ),
    }
}

fn counted(pods: usize) -> String {
    match pods {
        1 => "1 pod".to_string(),
        pods => format!("{pods} pods"),
    }
}

fn named(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let names: Vec<_> = names.take(NAMED).collect();
    let names = names.join(", ");
    match more {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(owner: &str, rest: &Value) -> Value {
        let mut pod = json!({
            "metadata": { "namespace": "n", "name": "p", "annotations": {}, "ownerReferences": [] },
            "spec": { "volumes": [{ "name": "c", "configMap": {} }] },
            "status": { "phase": "Running" },
        });
        if !owner.is_empty() {
            pod["metadata"]["ownerReferences"] = json!([
                { "kind": "Other", "name": "x" },
                { "kind": owner, "name": "y", "controller": true },
            ]);
        }
        for (path, value) in rest.as_object().unwrap() {
            let mut place = &mut pod;
            for key in path.split('.') {
                place = &mut place[key];
            }
            *place = value.clone();
        }
        pod
    }

    #[test]
    fn pods_stay_or_go_as_with_kubectl() {
        let empty = json!({ "spec.volumes": [{ "name": "e", "emptyDir": {} }] });
        let ended = json!({ "status.phase": "Succeeded", "spec.volumes": [{ "emptyDir": {} }] });
        let mirror = json!({ "metadata.annotations": { "kubernetes.io/config.mirror": "x" } });
        let going = json!({ "metadata.deletionTimestamp": "2026-01-01T00:00:00Z" });
        let nothing = json!({});
        let (bare, data) = (Lot::Refused(Why::Bare), Lot::Refused(Why::EmptyDir));
        for (owner, rest, careful, careless) in [
            ("ReplicaSet", &nothing, &Lot::Goes, Lot::Goes),
            ("DaemonSet", &nothing, &Lot::Stays, Lot::Stays),
            ("DaemonSet", &empty, &Lot::Stays, Lot::Stays),
            ("DaemonSet", &ended, &Lot::Goes, Lot::Goes),
            ("DaemonSet", &going, &Lot::Stays, Lot::Stays),
            ("", &nothing, &bare, Lot::Goes),
            ("", &ended, &Lot::Goes, Lot::Goes),
            ("", &going, &Lot::Goes, Lot::Goes),
            ("Node", &mirror, &Lot::Stays, Lot::Stays),
            ("StatefulSet", &empty, &data, Lot::Goes),
        ] {
            let pod = pod(owner, rest);
            let all = DrainOptions {
                force: true,
                delete_emptydir_data: true,
            };
            assert_eq!(Lot::of(&pod, DrainOptions::default()), *careful, "{pod}");
            assert_eq!(Lot::of(&pod, all), careless, "{pod}");
        }
    }

    #[test]
    fn long_lists_of_names_are_cut() {
        let names = |count: usize| named((0..count).map(|number| format!("p{number}")));
        assert_eq!(names(1), "p0");
        assert_eq!(names(5), "p0, p1, p2, p3, p4");
        assert_eq!(names(12), "p0, p1, p2, p3, p4 and 7 more");
    }
}
