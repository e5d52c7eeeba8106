//! Whether a cluster allows what is about to be done, asked before anything is.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::client::{Api, Collection};
use super::live::Live;
use super::node::NODE_LEASES;
use super::refusal::Refusal;
use super::request::{ACCESS_REVIEWS, CONFIG_MAPS, EVENTS, LEASES, NODES, PODS, Permission, Verb};
use super::{Error, Needs, PreflightError};

/// Somebody waits for the answer: nothing has begun yet.
const LONGEST: Duration = Duration::from_secs(15);

/// Where kubeadm's ConfigMaps are, and the probe runs.
pub(crate) const SYSTEM: &str = "kube-system";

impl Live {
    pub(super) async fn check_access(&self, needs: Needs) -> Result<(), PreflightError> {
        let until = self.end().min(Instant::now() + LONGEST);
        match self.get_node(until).await {
            // What else is missing is said with it.
            Ok(_) | Err(Refusal::Forbidden { .. }) => {}
            Err(Refusal::NotFound(_)) => {
                return Err(PreflightError::Denied(self.no_such_node(until).await));
            }
            Err(refusal) => return Err(self.kept_from("reading", refusal)),
        }
        let missing = missing(&self.api, &needed(needs, &self.node), until).await;
        let missing =
            missing.map_err(|refusal| self.kept_from("asking what is allowed for", refusal))?;
        if missing.is_empty() {
            if needs.config_map {
                self.check_version(until).await?;
            }
            return Ok(());
        }
        let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
        Err(PreflightError::Denied(Error::new(
            format!("moving the Node {}", self.node),
            format!(
                "RBAC does not allow what it needs: {}; give it to this user with a ClusterRole and a ClusterRoleBinding, or take a kubeconfig that has it (--kubeconfig)",
                missing.join(", ")
            ),
        )))
    }

    fn kept_from(&self, what: &str, refusal: Refusal) -> PreflightError {
        let unanswered = refusal.passes(Verb::Get);
        let error = self.failed(what)(refusal);
        if unanswered {
            PreflightError::Unanswered(error)
        } else {
            PreflightError::Denied(error)
        }
    }

    async fn no_such_node(&self, until: Instant) -> Error {
        let why = match self.api.list(&Collection::of(NODES), until).await {
            Ok((nodes, _)) => {
                let names = nodes.into_keys().map(|(_, name)| name);
                let similar = similar(&self.node, names.collect());
                format!("the cluster has no Node of that name, but {similar}; give it with --node")
            }
            Err(refusal) => format!(
                "the cluster has no Node of that name, and its Nodes cannot be listed: {refusal}; give it with --node"
            ),
        };
        Error::new(format!("reading the Node {}", self.node), why)
    }
}

/// What steps ask for; of one Node, or, where it has no name, of any.
pub(crate) fn needed(needs: Needs, node: &str) -> Vec<Permission> {
    let verbs = [Verb::Get, Verb::List, Verb::Watch, Verb::Patch];
    let on_node = verbs.map(|verb| Permission::new(verb, NODES).named(node));
    let mut needed = Vec::from(on_node);
    if needs.drain {
        needed.push(Permission::new(Verb::List, PODS));
        needed.push(Permission::new(Verb::Watch, PODS));
        needed.push(Permission::new(Verb::Create, PODS).on("eviction"));
    }
    if needs.config_map {
        let verbs = [Verb::Get, Verb::Update];
        needed.extend(verbs.map(|verb| Permission::new(verb, CONFIG_MAPS).within(SYSTEM)));
    }
    if needs.probe {
        let verbs = [Verb::List, Verb::Watch, Verb::Create, Verb::Delete];
        needed.extend(verbs.map(|verb| Permission::new(verb, PODS).within(SYSTEM)));
    }
    needed
}

/// What steps look at where they may, to know or say more.
pub(crate) fn helpful() -> [Permission; 2] {
    [
        Permission::new(Verb::Get, LEASES).within(NODE_LEASES),
        Permission::new(Verb::List, EVENTS).within(SYSTEM),
    ]
}

/// Those of the permissions that are not there. Nothing where the server does not say.
pub(crate) async fn missing(
    api: &Api,
    needed: &[Permission],
    until: Instant,
) -> Result<Vec<Permission>, Refusal> {
    let mut missing = Vec::new();
    for permission in needed {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": permission.attributes() },
        });
        let ask = Permission::new(Verb::Create, ACCESS_REVIEWS)
            .ask()
            .body(review);
        match api.ask(&ask, until).await {
            Ok(answer) if answer["status"]["allowed"] == Value::Bool(true) => {}
            Ok(_) => missing.push(permission.clone()),
            Err(Refusal::Forbidden { .. } | Refusal::NotFound(_)) => return Ok(Vec::new()),
            Err(refusal) => return Err(refusal),
        }
    }
    Ok(missing)
}

/// A few of the names, the nearest first.
pub(crate) fn similar(wanted: &str, mut names: Vec<String>) -> String {
    const SHOWN: usize = 5;
    // A Node may have its host's whole name or the first part of it.
    let first = |name: &str| name.split('.').next().unwrap_or_default().to_lowercase();
    let wanted = first(wanted);
    let unlike = |name: &str| strsim::damerau_levenshtein(&wanted, &first(name));
    if names.is_empty() {
        return "none at all".to_string();
    }
    names.sort_by_cached_key(|name| (unlike(name), name.clone()));
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let names = names.join(", ");
    match more {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_come_first() {
        let names = [
            "db-1",
            "worker-10.example.com",
            "worker-2",
            "Worker-1.example.com",
            "x",
            "y",
        ];
        let names = names.map(str::to_string).to_vec();
        assert_eq!(
            similar("worker-1", names),
            "Worker-1.example.com, worker-10.example.com, worker-2, db-1, x and 1 more"
        );
        assert_eq!(similar("a", Vec::new()), "none at all");
    }
}
