//! A pod that runs on the Node, to show that pods do.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Error;
use super::client::{Collection, Objects};
use super::live::Live;
use super::node::{Seen, spoken};
use super::preflight::SYSTEM;
use super::refusal::Refusal;
use super::request::{EVENTS, PODS, Permission, Verb};
use crate::host::Progress;

/// Where the Node has no pause image.
const IMAGE: &str = "registry.k8s.io/pause:3.10";

/// What marks the pod.
const LABEL: &str = "app.kubernetes.io/name";
const NAME: &str = "slipway-probe";

/// Names of pods are no longer.
const LONGEST_NAME: usize = 253;

/// For a pod of which it is known how its probe ended to be gone.
const GOING: Duration = Duration::from_secs(30);

/// What a container waits for that does not come by itself (`state.waiting.reason`).
const HOPELESS: [&str; 7] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
];

/// Whether a pod is one that a probe has left.
pub(super) fn is_probe(pod: &Value) -> bool {
    pod["metadata"]["namespace"] == SYSTEM && pod["metadata"]["labels"][LABEL] == NAME
}

impl Live {
    pub(super) async fn run_probe(
        &self,
        until: Instant,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        let began = Instant::now();
        let left = self.delete_and_wait(until).await;
        if !left.map_err(|refusal| self.probe_failed(refusal))? {
            return Err(self.probe_failed("one of an earlier probe is still being deleted"));
        }
        let node = self.get_node(until).await;
        let node = node.map_err(self.failed("reading"))?;
        let image = match &self.image {
            Some(image) => image.clone(),
            None => pause_image(&node).unwrap_or(IMAGE).to_string(),
        };
        let create = Permission::new(Verb::Create, PODS).within(SYSTEM);
        let create = create.ask().body(self.probe_pod(&image));
        let ran = match self.api.ask(&create, until).await {
            // It was made by a request whose answer was lost.
            Ok(_) | Err(Refusal::AlreadyExists(_)) => {
                progress(&format!("{SYSTEM}/{} runs {image}", self.probe_name()));
                self.await_running(began, until, progress).await
            }
            Err(refusal) => Err(refusal.to_string()),
        };
        let ran = match ran {
            Ok(()) => Ok(()),
            Err(why) => Err(self.with_event(why).await),
        };
        let gone = self.delete_and_wait(Instant::now() + GOING).await;
        ran.map_err(|why| self.probe_failed(why))?;
        match gone {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.probe_failed(format!(
                "it ran, but it was not gone {} after its deletion",
                spoken(GOING)
            ))),
            Err(refusal) => Err(self.probe_failed(refusal)),
        }
    }

    pub(super) async fn delete_probe(&self, until: Instant) -> Result<(), Error> {
        let until = until.min(Instant::now() + GOING);
        let gone = self.delete_and_wait(until).await;
        gone.map(|_| ())
            .map_err(|refusal| self.probe_failed(refusal))
    }

    /// Deletes the pod, and waits until it is gone; whether it is.
    async fn delete_and_wait(&self, until: Instant) -> Result<bool, Refusal> {
        let delete = Permission::new(Verb::Delete, PODS).within(SYSTEM);
        let delete = delete.named(&self.probe_name()).ask();
        match self.api.ask(&delete, until).await {
            Ok(_) => {}
            Err(Refusal::NotFound(_)) => return Ok(true),
            Err(refusal) => return Err(refusal),
        }
        let gone = |pods: &Objects| pods.is_empty().then_some(());
        let gone = self.api.follow(&self.probes(), until, gone).await?;
        Ok(gone.is_some())
    }

    /// Waits until the pod runs; otherwise it says why it does not.
    async fn await_running(
        &self,
        began: Instant,
        until: Instant,
        progress: Progress<'_>,
    ) -> Result<(), String> {
        let seen = Seen::default();
        let probes = self.probes();
        let ran = self.api.follow(&probes, until, |pods| match state(pods) {
            State::Runs => Some(Ok(())),
            State::Fails(why) => Some(Err(why)),
            State::Waits(why) => {
                seen.now(why, progress);
                None
            }
        });
        match ran.await {
            Ok(Some(ran)) => ran,
            Ok(None) => Err(format!(
                "it did not run within {}: {}",
                spoken(began.elapsed()),
                seen.last.into_inner()
            )),
            Err(refusal) => Err(refusal.to_string()),
        }
    }

    /// What was last said about the pod, where that can be seen: why there is no sandbox is told nowhere
    /// else.
    async fn with_event(&self, why: String) -> String {
        let until = Instant::now() + Duration::from_secs(5);
        let events = Collection {
            kind: EVENTS,
            fields: format!("involvedObject.name={},type=Warning", self.probe_name()),
            ..self.probes()
        };
        let Ok((pods, _)) = self.api.list(&self.probes(), until).await else {
            return why;
        };
        let Ok((events, _)) = self.api.list(&events, until).await else {
            return why;
        };
        // Earlier probes had the same name, and their events are there for an hour.
        let uid = pods.values().next().map(|pod| &pod["metadata"]["uid"]);
        let own = |event: &&Value| Some(&event["involvedObject"]["uid"]) == uid;
        let time = |event: &&Value| {
            event["lastTimestamp"]
                .as_str()
                .unwrap_or_default()
                .to_string()
        };
        let last = events.values().filter(own).max_by_key(time);
        match last.and_then(|event| event["message"].as_str()) {
            Some(message) if !why.contains(message) => format!("{why}; its last event: {message}"),
            _ => why,
        }
    }

    fn probe_failed(&self, why: impl std::fmt::Display) -> Error {
        let what = format!(
            "the probe pod {SYSTEM}/{} on the Node {}",
            self.probe_name(),
            self.node
        );
        Error::new(what, why)
    }

    fn probe_name(&self) -> String {
        let mut name = format!("{NAME}-{}", self.node);
        name.truncate(LONGEST_NAME);
        name
    }

    fn probes(&self) -> Collection {
        Collection {
            namespace: SYSTEM.to_string(),
            fields: format!("metadata.name={}", self.probe_name()),
            ..Collection::of(PODS)
        }
    }

    fn probe_pod(&self, image: &str) -> Value {
        let resources = json!({ "cpu": "10m", "memory": "16Mi" });
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "namespace": SYSTEM, "name": self.probe_name(), "labels": { LABEL: NAME } },
            "spec": {
                // Past the scheduler, onto a Node that takes no pods.
                "nodeName": self.node,
                "tolerations": [{ "operator": "Exists" }],
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "containers": [{
                    "name": "probe", "image": image, "imagePullPolicy": "IfNotPresent",
                    "resources": { "requests": resources, "limits": resources },
                }],
            },
        })
    }
}

enum State {
    Runs,
    Fails(String),
    Waits(String),
}

fn state(pods: &Objects) -> State {
    let Some(pod) = pods.values().next() else {
        return State::Fails("somebody deleted it".to_string());
    };
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return State::Fails("somebody deletes it".to_string());
    }
    match pod["status"]["phase"].as_str() {
        Some("Running" | "Succeeded") => return State::Runs,
        Some("Failed") => return State::Fails(pod_words(pod)),
        _ => {}
    }
    let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    let reason = waiting["reason"].as_str().unwrap_or_default();
    if HOPELESS.contains(&reason) {
        return State::Fails(format!("its container does not start: {}", pod_words(pod)));
    }
    State::Waits(pod_words(pod))
}

/// What is known of a pod of one container, for people.
pub(crate) fn pod_words(pod: &Value) -> String {
    let words = |object: &Value| {
        // crun's end with a line's end.
        let text = |field: &str| object[field].as_str().unwrap_or_default().trim();
        let words = [text("reason"), text("message")].join(": ");
        words.trim_matches([':', ' ']).to_string()
    };
    let status = &pod["status"];
    let container = &status["containerStatuses"][0]["state"];
    let parts = [status, &container["waiting"], &container["terminated"]].map(words);
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    match (status["phase"].as_str(), parts.join("; ")) {
        (Some("Failed"), words) => format!("it failed: {words}"),
        (_, words) if words.is_empty() => "the kubelet has not begun it".to_string(),
        (_, words) => words,
    }
}

/// A pause image that the Node has, by a tag where there is one.
fn pause_image(node: &Value) -> Option<&str> {
    let images = node["status"]["images"].as_array().into_iter().flatten();
    let names = images.flat_map(|image| image["names"].as_array().into_iter().flatten());
    let names = names.filter_map(Value::as_str);
    let pauses = names.filter(|name| {
        let (repository, _) = name.split_once('@').unwrap_or((name, ""));
        let last = repository.rsplit('/').next().unwrap_or_default();
        last.split(':').next().unwrap_or_default().contains("pause")
    });
    pauses.min_by_key(|name| name.contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runtime_said_is_one_line() {
        let waiting = json!({
            "reason": "CreateContainerError",
            "message": "container create failed: unknown version specified\n",
        });
        let pod = json!({ "status": {
            "phase": "Pending",
            "containerStatuses": [{ "state": { "waiting": waiting } }],
        }});
        assert_eq!(
            pod_words(&pod),
            "CreateContainerError: container create failed: unknown version specified"
        );
    }

    #[test]
    fn a_pause_image_of_the_node_is_preferred() {
        let node = |names: &[&str]| {
            let images: Vec<_> = names
                .iter()
                .map(|name| json!({ "names": [name] }))
                .collect();
            json!({ "status": { "images": images } })
        };
        for (names, expected) in [
            (
                &[
                    "example.com/web:1",
                    "k8s.gcr.io/pause@sha256:aa",
                    "k8s.gcr.io/pause:3.2",
                ][..],
                Some("k8s.gcr.io/pause:3.2"),
            ),
            (
                &["example.com:5000/mirrored-pause:3.6"],
                Some("example.com:5000/mirrored-pause:3.6"),
            ),
            (&["pause.example.com/web:pause"], None),
            (&["a/pause@sha256:aa"], Some("a/pause@sha256:aa")),
            (&[], None),
        ] {
            assert_eq!(pause_image(&node(names)), expected, "{names:?}");
        }
    }
}
