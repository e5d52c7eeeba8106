//! `pods/eviction`: a deletion that disruption budgets have to allow.

use std::sync::Arc;

use serde_json::Value;

use super::failure::Failure;
use super::resources::Resource;
use super::selector::Selector;
use super::store::{Deletion, Key, Store, has_ended};

/// Evicts a pod, and takes it off the budget that allows it.
pub(super) fn evict(
    store: &mut Store,
    pods: &'static Resource,
    key: &Key,
    wanted: &Deletion,
) -> Result<(), Failure> {
    let found = store.get(key).cloned();
    let pod = found.ok_or_else(|| Failure::not_found(pods, &key.2))?;
    let going = !pod["metadata"]["deletionTimestamp"].is_null();
    if !going && !has_ended(&pod) {
        spend(store, &pod)?;
    }
    store.delete(pods, key, wanted).map(|_| ())
}

fn spend(store: &mut Store, pod: &Value) -> Result<(), Failure> {
    let budgets = store.all("poddisruptionbudgets").map(|(_, budget)| budget);
    let concerns = |budget: &&Arc<Value>| {
        budget["metadata"]["namespace"] == pod["metadata"]["namespace"]
            && Selector::of_object(&budget["spec"]["selector"]).matches(pod)
    };
    let all: Vec<_> = budgets.filter(concerns).cloned().collect();
    let budget = match all.as_slice() {
        [] => return Ok(()),
        [budget] => budget,
        _ => return Err(Failure::several_budgets()),
    };
    let status = |field: &str| budget["status"][field].as_u64().unwrap_or(0);
    let Some(left) = status("disruptionsAllowed").checked_sub(1) else {
        let name = budget["metadata"]["name"].as_str().unwrap_or_default();
        return Err(Failure::budget(
            name,
            status("desiredHealthy"),
            status("currentHealthy"),
        ));
    };
    let mut spent = Value::clone(budget);
    spent["status"]["disruptionsAllowed"] = left.into();
    if let Some(resource) = Resource::named("poddisruptionbudgets") {
        store.put(resource, spent);
    }
    Ok(())
}
