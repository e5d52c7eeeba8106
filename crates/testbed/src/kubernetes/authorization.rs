//! What a service account may do: by the roles that it is bound to.

use serde_json::Value;

use super::faults::Asked;
use super::store::Store;

/// Whether an account, by namespace and name, may do something.
pub(super) fn allows(store: &Store, account: (&str, &str), asked: &Asked, group: &str) -> bool {
    let everywhere = store.all("clusterrolebindings");
    let there = store
        .all("rolebindings")
        .filter(|(key, _)| key.1 == asked.namespace);
    let mut bindings = everywhere.chain(there);
    bindings.any(|(key, binding)| {
        let mut subjects = binding["subjects"].as_array().into_iter().flatten();
        let bound = subjects.any(|subject| {
            subject["kind"] == "ServiceAccount"
                && subject["namespace"] == account.0
                && subject["name"] == account.1
        });
        let role = binding["roleRef"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let role = match binding["roleRef"]["kind"].as_str() {
            Some("ClusterRole") => ("clusterroles", String::new(), role),
            _ => ("roles", key.1.clone(), role),
        };
        let rules = store.get(&role).and_then(|role| role["rules"].as_array());
        bound
            && rules
                .into_iter()
                .flatten()
                .any(|rule| covers(rule, asked, group))
    })
}

fn covers(rule: &Value, asked: &Asked, group: &str) -> bool {
    let has = |field: &str, wanted: &str| {
        let mut values = rule[field].as_array().into_iter().flatten();
        values.any(|value| value == "*" || value == wanted)
    };
    let names = rule["resourceNames"].is_null() || has("resourceNames", &asked.name);
    names
        && has("apiGroups", group)
        && has("resources", &asked.resource)
        && has("verbs", asked.verb)
}
