//! What the verbs do to objects; the same for all kinds of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::eviction::evict;
use super::failure::Failure;
use super::resources::Place;
use super::selector::Selector;
use super::store::{Deletion, Key, Store, after, merge};
use super::watch::Watch;
use super::{State, User};

/// What is asked beside the place: a verb as RBAC has it, a decoded query and a body.
pub(super) struct Wanted<'a> {
    pub(super) verb: &'static str,
    pub(super) query: &'a BTreeMap<String, String>,
    pub(super) body: Value,
}

type Answer = Result<(u16, Value), Failure>;

impl Wanted<'_> {
    fn query(&self, key: &str) -> &str {
        self.query.get(key).map_or("", String::as_str)
    }

    fn selector(&self) -> Result<Selector, Failure> {
        Selector::parse(self.query("labelSelector"), self.query("fieldSelector"))
    }

    pub(super) fn carry_out(self, state: &mut State, place: &Place) -> Answer {
        match (self.verb, place.subresource.as_str()) {
            ("get", "" | "status") => get(&state.store, place),
            ("list", "") => self.list(&state.store, place),
            ("create", "") => create(&mut state.store, place, self.body),
            ("create", "eviction") if place.resource.name == "pods" => self.evict(state, place),
            ("create", "token") if place.resource.name == "serviceaccounts" => {
                get(&state.store, place)?;
                Ok((201, token(state, place)))
            }
            ("update", "" | "status") => update(&mut state.store, place, self.body),
            ("patch", "" | "status") => {
                let (_, mut object) = get(&state.store, place)?;
                if let Some(metadata) = object["metadata"].as_object_mut() {
                    // Only what the patch itself says is compared.
                    metadata.remove("resourceVersion");
                }
                merge(&mut object, &self.body);
                update(&mut state.store, place, object)
            }
            ("delete", "") => {
                let mut wanted = Deletion::parse(&self.body);
                wanted.grace = wanted
                    .grace
                    .or(self.query("gracePeriodSeconds").parse().ok());
                let policy = Some(self.query("propagationPolicy")).filter(|text| !text.is_empty());
                wanted.propagation = wanted.propagation.or(policy.map(str::to_owned));
                let gone = state.store.delete(place.resource, &key(place), &wanted)?;
                Ok((200, shown(place, &gone)))
            }
            _ => Err(Failure::method_not_allowed()),
        }
    }

    /// In pieces of `limit`; a piece that follows on what is forgotten has expired.
    fn list(&self, store: &Store, place: &Place) -> Answer {
        let selector = self.selector()?;
        let after = match self.query("continue") {
            "" => None,
            text => Some(position(place, text, store)?),
        };
        let limit = self.query("limit").parse().ok().filter(|limit| *limit > 0);
        let mut chosen = store
            .all(place.resource.name)
            .filter(|(key, _)| place.namespace.is_empty() || key.1 == place.namespace)
            .filter(|(_, object)| selector.matches(object))
            .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after))
            .peekable();
        let mut metadata = json!({ "resourceVersion": store.version().to_string() });
        let mut items = Vec::new();
        while let Some((key, object)) = chosen.next() {
            let mut item = shown(place, object);
            if let Some(fields) = item.as_object_mut() {
                fields.remove("kind");
                fields.remove("apiVersion");
            }
            items.push(item);
            if Some(items.len()) == limit && chosen.peek().is_some() {
                let token = format!("{}/{}/{}", store.version(), key.1, key.2);
                metadata["continue"] = token.into();
                break;
            }
        }
        let list = json!({
            "kind": format!("{}List", place.resource.kind),
            "apiVersion": place.resource.api_version(place.version),
            "metadata": metadata,
            "items": items,
        });
        Ok((200, list))
    }

    /// The watch that is asked for, if it can begin.
    pub(super) fn watch(&self, place: &Place, events: Option<usize>) -> Result<Watch, Failure> {
        let since = match self.query("resourceVersion") {
            "" | "0" => None,
            text => Some(text.parse().map_err(|_| {
                Failure::bad_request(format!("the resourceVersion {text:?} is no version"))
            })?),
        };
        let seconds = self.query("timeoutSeconds").parse().ok();
        Ok(Watch {
            resource: place.resource.name,
            api_version: place.resource.api_version(place.version),
            namespace: place.namespace.clone(),
            selector: self.selector()?,
            since,
            bookmarks: self.query("allowWatchBookmarks") == "true",
            timeout: seconds.map(Duration::from_secs),
            events: events.unwrap_or(usize::MAX),
        })
    }

    /// Answered in the version of the API that this cluster has, and in no other.
    fn evict(&self, state: &mut State, place: &Place) -> Answer {
        let asked = self.body["apiVersion"].as_str().unwrap_or_default();
        if state.eviction_version().as_deref() != Some(asked) {
            return Err(Failure::bad_request(format!(
                "no kind \"Eviction\" is registered for version {asked:?}"
            )));
        }
        let wanted = Deletion::parse(&self.body["deleteOptions"]);
        evict(&mut state.store, place.resource, &key(place), &wanted)?;
        Ok((
            201,
            json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" }),
        ))
    }
}

fn key(place: &Place) -> Key {
    (
        place.resource.name,
        place.namespace.clone(),
        place.name.clone(),
    )
}

fn position(place: &Place, text: &str, store: &Store) -> Result<Key, Failure> {
    let mut parts = text.splitn(3, '/');
    let (Some(version), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(Failure::bad_request("continue key is not valid"));
    };
    let version = version.parse().unwrap_or_default();
    store.since(version).ok_or_else(Failure::expired)?;
    Ok((place.resource.name, namespace.to_owned(), name.to_owned()))
}

/// An object in the version of the API that it is asked for in.
fn shown(place: &Place, object: &Value) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = place.resource.api_version(place.version).into();
    object
}

fn get(store: &Store, place: &Place) -> Answer {
    let object = store.get(&key(place));
    let object = object.ok_or_else(|| Failure::not_found(place.resource, &place.name))?;
    Ok((200, shown(place, object)))
}

fn create(store: &mut Store, place: &Place, mut object: Value) -> Answer {
    let resource = place.resource;
    if object["kind"] != resource.kind {
        let kind = &object["kind"];
        return Err(Failure::bad_request(format!(
            "{kind} is not {}",
            resource.kind
        )));
    }
    if resource.namespaced {
        let namespaces = Place::of("/api/v1/namespaces")
            .ok_or_else(Failure::no_such_path)?
            .resource;
        let namespace = ("namespaces", String::new(), place.namespace.clone());
        if store.get(&namespace).is_none() {
            return Err(Failure::not_found(namespaces, &place.namespace));
        }
        object["metadata"]["namespace"] = place.namespace.as_str().into();
    }
    if object["metadata"]["name"].is_null() {
        let Some(start) = object["metadata"]["generateName"].as_str() else {
            return Err(Failure::invalid(
                "metadata.name: Required value: name or generateName is required",
            ));
        };
        object["metadata"]["name"] = format!("{start}{:05}", store.version() + 1).into();
    }
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if store
        .get(&(resource.name, place.namespace.clone(), name.clone()))
        .is_some()
    {
        return Err(Failure::already_exists(resource, &name));
    }
    if resource.name == "pods" && object["status"]["phase"].is_null() {
        object["status"]["phase"] = "Pending".into();
    }
    for field in [
        "uid",
        "creationTimestamp",
        "resourceVersion",
        "deletionTimestamp",
    ] {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove(field);
        }
    }
    Ok((201, shown(place, &store.put(resource, object))))
}

/// Replaces an object but for its status, or its status alone.
fn update(store: &mut Store, place: &Place, mut object: Value) -> Answer {
    let (resource, key) = (place.resource, key(place));
    let found = store.get(&key).cloned();
    let old = found.ok_or_else(|| Failure::not_found(resource, &place.name))?;
    let conflict = |why| Err(Failure::conflict(resource, &place.name, why));
    let given = |field: &str| {
        let given = object["metadata"][field].as_str();
        given.filter(|given| old["metadata"][field] != **given)
    };
    if given("resourceVersion").is_some() {
        return conflict(
            "the object has been modified; please apply your changes to the latest version and try again",
        );
    }
    if given("uid").is_some() {
        return conflict("the uid in the precondition is another one");
    }
    if given("name").is_some() || given("namespace").is_some() {
        return Err(Failure::bad_request(
            "the name of the object is not that of the URL",
        ));
    }
    if place.subresource == "status" {
        let status = object["status"].take();
        object = Value::clone(&old);
        object["status"] = status;
    } else {
        if !object.is_object() {
            return Err(Failure::bad_request("the body is no object"));
        }
        if let Some(status) = old.get("status") {
            object["status"] = status.clone();
        }
        for field in [
            "namespace",
            "name",
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
        ] {
            if let Some(value) = old["metadata"].get(field) {
                object["metadata"][field] = value.clone();
            }
        }
    }
    let going = !object["metadata"]["deletionTimestamp"].is_null();
    let kept = object["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|all| !all.is_empty());
    if going && !kept && resource.name != "pods" {
        store.remove(&key);
        return Ok((200, shown(place, &object)));
    }
    if unchanged(&old, &object) {
        return Ok((200, shown(place, &old)));
    }
    Ok((200, shown(place, &store.put(resource, object))))
}

/// Whether an update would change nothing; such a one makes no version.
fn unchanged(old: &Arc<Value>, new: &Value) -> bool {
    let mut new = new.clone();
    new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
    new["apiVersion"] = old["apiVersion"].clone();
    new == **old
}

/// A token of a service account (`TokenRequest`).
fn token(state: &mut State, place: &Place) -> Value {
    let user = User::ServiceAccount {
        namespace: place.namespace.clone(),
        name: place.name.clone(),
    };
    let token = format!(
        "token-{}-of-{}-{}",
        state.tokens.len(),
        place.namespace,
        place.name
    );
    state.tokens.insert(token.clone(), user);
    json!({
        "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
        "status": { "token": token, "expirationTimestamp": after(state.granted) },
    })
}
