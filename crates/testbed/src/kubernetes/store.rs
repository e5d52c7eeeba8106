//! The objects, and everything that became of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::failure::Failure;
use super::resources::Resource;

/// Resource, namespace, name.
pub(super) type Key = (&'static str, String, String);

/// What became of one object.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) resource: &'static str,
    pub(super) before: Option<Arc<Value>>,
    /// None once it is deleted.
    pub(super) after: Option<Arc<Value>>,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    version: u64,
    history: Vec<Change>,
    /// Changes up to this version are not remembered.
    forgotten: u64,
    /// Nodes with a kubelet, which says when a pod is gone.
    pub(super) kubelets: BTreeSet<String>,
}

/// What a client wants of a deletion (`DeleteOptions`).
#[derive(Debug, Default)]
pub(super) struct Deletion {
    pub(super) grace: Option<u64>,
    pub(super) uid: Option<String>,
    pub(super) version: Option<String>,
    pub(super) propagation: Option<String>,
}

impl Deletion {
    pub(super) fn parse(options: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let preconditions = &options["preconditions"];
        Self {
            grace: options["gracePeriodSeconds"].as_u64(),
            uid: text(&preconditions["uid"]),
            version: text(&preconditions["resourceVersion"]),
            propagation: text(&options["propagationPolicy"]),
        }
    }
}

impl Store {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// All of one resource, by namespace and name.
    pub(super) fn all(&self, resource: &'static str) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        let first = (resource, String::new(), String::new());
        let range = self.objects.range(first..);
        range.take_while(move |(key, _)| key.0 == resource)
    }

    /// The changes after a version; none where they are not remembered.
    pub(super) fn since(&self, version: u64) -> Option<&[Change]> {
        if version < self.forgotten {
            return None;
        }
        let first = self
            .history
            .partition_point(|change| change.version <= version);
        Some(&self.history[first..])
    }

    pub(super) fn forget(&mut self) {
        self.forgotten = self.version;
        self.history.clear();
    }

    /// Puts an object where it belongs, with a new version; what is missing in its metadata is
    /// filled in.
    pub(super) fn put(&mut self, resource: &'static Resource, mut object: Value) -> Arc<Value> {
        let key = key_of(resource, &object);
        self.version += 1;
        let version = self.version;
        let before = self.objects.get(&key).cloned();
        object["kind"] = resource.kind.into();
        if object["apiVersion"].is_null() {
            object["apiVersion"] = resource.api_version(resource.versions[0]).into();
        }
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = version.to_string().into();
        if metadata["uid"].is_null() {
            metadata["uid"] = before.as_ref().map_or_else(
                || format!("00000000-0000-4000-8000-{version:012x}").into(),
                |before| before["metadata"]["uid"].clone(),
            );
        }
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = now().into();
        }
        let object = Arc::new(object);
        self.objects.insert(key, Arc::clone(&object));
        self.history.push(Change {
            version,
            resource: resource.name,
            before,
            after: Some(Arc::clone(&object)),
        });
        object
    }

    /// Takes an object away, and what it owned.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let object = self.objects.remove(key)?;
        self.version += 1;
        self.history.push(Change {
            version: self.version,
            resource: key.0,
            before: Some(Arc::clone(&object)),
            after: None,
        });
        if key.0 == "namespaces" {
            self.remove_all(|(_, namespace, _), _| *namespace == key.2);
        }
        let uid = &object["metadata"]["uid"];
        self.remove_all(|_, other| owners(other).any(|owner| owner["uid"] == *uid));
        Some(object)
    }

    fn remove_all(&mut self, chosen: impl Fn(&Key, &Value) -> bool) {
        let chosen = self
            .objects
            .iter()
            .filter(|(key, object)| chosen(key, object));
        let keys: Vec<_> = chosen.map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.remove(key);
        }
    }

    /// As the API deletes: a pod that a kubelet has is marked, and gone once that says so.
    pub(super) fn delete(
        &mut self,
        resource: &'static Resource,
        key: &Key,
        wanted: &Deletion,
    ) -> Result<Arc<Value>, Failure> {
        let found = self.get(key).cloned();
        let object = found.ok_or_else(|| Failure::not_found(resource, &key.2))?;
        let metadata = &object["metadata"];
        for (precondition, field) in [(&wanted.uid, "uid"), (&wanted.version, "resourceVersion")] {
            if precondition
                .as_deref()
                .is_some_and(|wanted| metadata[field] != wanted)
            {
                let why = format!("Precondition failed: {field} in precondition is another one");
                return Err(Failure::conflict(resource, &key.2, &why));
            }
        }
        let orphans = match wanted.propagation.as_deref() {
            // What `batch/v1` does where nobody says otherwise.
            None => resource.name == "jobs",
            Some(policy) => policy == "Orphan",
        };
        if orphans {
            self.orphan(&metadata["uid"]);
        }
        let claimed = resource.name == "pods" && self.is_claimed(&object);
        let kept = metadata["finalizers"]
            .as_array()
            .is_some_and(|all| !all.is_empty());
        if !kept && (!claimed || wanted.grace == Some(0)) {
            self.remove(key);
            return Ok(object);
        }
        if !metadata["deletionTimestamp"].is_null() {
            return Ok(object);
        }
        let grace = wanted
            .grace
            .or_else(|| object["spec"]["terminationGracePeriodSeconds"].as_u64());
        let mut marked = Value::clone(&object);
        marked["metadata"]["deletionTimestamp"] = now().into();
        marked["metadata"]["deletionGracePeriodSeconds"] = grace.unwrap_or(30).into();
        Ok(self.put(resource, marked))
    }

    /// Whether a kubelet has to say that a pod is gone.
    fn is_claimed(&self, pod: &Value) -> bool {
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        self.kubelets.contains(node) && !has_ended(pod)
    }

    fn orphan(&mut self, owner: &Value) {
        let owned = |object: &&Arc<Value>| owners(object).any(|one| one["uid"] == *owner);
        let all: Vec<_> = self.objects.values().filter(owned).cloned().collect();
        for object in all {
            let kind = object["kind"].as_str().unwrap_or_default();
            let Some(resource) = Resource::of_kind(kind) else {
                continue;
            };
            let mut freed = Value::clone(&object);
            let references = owners(&object).filter(|one| one["uid"] != *owner).cloned();
            freed["metadata"]["ownerReferences"] = references.collect();
            self.put(resource, freed);
        }
    }
}

fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    let references = object["metadata"]["ownerReferences"].as_array();
    references.into_iter().flatten()
}

/// Whether a pod has run to its end.
pub(super) fn has_ended(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str();
    phase.is_some_and(|phase| ["Succeeded", "Failed"].contains(&phase))
}

pub(super) fn key_of(resource: &'static Resource, object: &Value) -> Key {
    let text = |field: &str| {
        let text = object["metadata"][field].as_str();
        text.unwrap_or_default().to_owned()
    };
    let namespace = match (resource.namespaced, text("namespace")) {
        (false, _) => String::new(),
        (true, namespace) if namespace.is_empty() => "default".to_owned(),
        (true, namespace) => namespace,
    };
    (resource.name, namespace, text("name"))
}

/// JSON Merge Patch (RFC 7386).
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            if let Some(target) = target.as_object_mut() {
                target.remove(key);
            }
        } else {
            merge(&mut target[key], value);
        }
    }
}

pub(super) fn now() -> String {
    after(Duration::ZERO)
}

/// When some time has passed, in seconds as the API's times are.
pub(super) fn after(time: Duration) -> String {
    let then = jiff::Timestamp::now() + time;
    then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_patch_sets_and_takes_away() {
        let mut object = json!({ "a": { "b": 1, "c": [1, 2] }, "d": "e" });
        merge(
            &mut object,
            &json!({ "a": { "b": null, "c": [3], "x": { "y": 1, "z": null } }, "d": { "f": 1 } }),
        );
        assert_eq!(
            object,
            json!({ "a": { "c": [3], "x": { "y": 1 } }, "d": { "f": 1 } })
        );
    }
}
