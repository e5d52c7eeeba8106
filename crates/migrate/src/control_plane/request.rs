//! What is asked of an API server: a verb on a kind of objects, as RBAC has it.

use std::fmt;

use http::{Method, Request};
use serde_json::{Value, json};

/// A kind of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Empty for the core group.
    group: &'static str,
    version: &'static str,
    /// As RBAC and URLs have it.
    name: &'static str,
}

const fn of(group: &'static str, name: &'static str) -> Kind {
    Kind {
        group,
        version: "v1",
        name,
    }
}

const fn core(name: &'static str) -> Kind {
    of("", name)
}

const RBAC: &str = "rbac.authorization.k8s.io";

impl Kind {
    pub(crate) fn group(self) -> &'static str {
        self.group
    }

    /// As objects have it.
    pub(crate) fn api_version(self) -> String {
        match self.group {
            "" => self.version.to_string(),
            group => format!("{group}/{}", self.version),
        }
    }
}

pub(crate) const NODES: Kind = core("nodes");
pub(crate) const PODS: Kind = core("pods");
pub(crate) const CONFIG_MAPS: Kind = core("configmaps");
pub(crate) const EVENTS: Kind = core("events");
pub(crate) const NAMESPACES: Kind = core("namespaces");
pub(crate) const SECRETS: Kind = core("secrets");
pub(crate) const SERVICE_ACCOUNTS: Kind = core("serviceaccounts");
pub(crate) const JOBS: Kind = of("batch", "jobs");
pub(crate) const LEASES: Kind = of("coordination.k8s.io", "leases");
pub(crate) const CLUSTER_ROLES: Kind = of(RBAC, "clusterroles");
pub(crate) const CLUSTER_ROLE_BINDINGS: Kind = of(RBAC, "clusterrolebindings");
pub(crate) const ROLES: Kind = of(RBAC, "roles");
pub(crate) const ROLE_BINDINGS: Kind = of(RBAC, "rolebindings");

pub(crate) const ACCESS_REVIEWS: Kind = of("authorization.k8s.io", "selfsubjectaccessreviews");

/// As RBAC has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
}

impl fmt::Display for Verb {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
        })
    }
}

/// What somebody has to be allowed to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permission {
    pub(crate) verb: Verb,
    pub(crate) kind: Kind,
    /// Empty for the object itself.
    pub(crate) subresource: &'static str,
    /// Empty for objects of the cluster, and for all namespaces.
    pub(crate) namespace: String,
    /// Empty where none is named.
    pub(crate) name: String,
}

impl Permission {
    pub(crate) fn new(verb: Verb, kind: Kind) -> Self {
        Self {
            verb,
            kind,
            subresource: "",
            namespace: String::new(),
            name: String::new(),
        }
    }

    pub(crate) fn on(self, subresource: &'static str) -> Self {
        Self {
            subresource,
            ..self
        }
    }

    pub(crate) fn within(self, namespace: &str) -> Self {
        Self {
            namespace: namespace.to_string(),
            ..self
        }
    }

    pub(crate) fn named(self, name: &str) -> Self {
        Self {
            name: name.to_string(),
            ..self
        }
    }

    /// The request that asks for it.
    pub(crate) fn ask(self) -> Ask {
        Ask {
            permission: self,
            query: String::new(),
            body: None,
        }
    }

    /// `resourceAttributes` of a `SelfSubjectAccessReview`.
    pub(super) fn attributes(&self) -> Value {
        json!({
            "verb": self.verb.to_string(), "group": self.kind.group, "version": self.kind.version,
            "resource": self.kind.name, "subresource": self.subresource,
            "namespace": self.namespace, "name": self.name,
        })
    }

    /// The rule of a role that gives it.
    pub(crate) fn rule(&self) -> Value {
        let resource = match self.subresource {
            "" => self.kind.name.to_string(),
            subresource => format!("{}/{subresource}", self.kind.name),
        };
        json!({
            "apiGroups": [self.kind.group], "resources": [resource],
            "verbs": [self.verb.to_string()],
        })
    }

    fn path(&self) -> String {
        let name = self.kind.name;
        let root = if self.kind.group.is_empty() {
            "/api"
        } else {
            "/apis"
        };
        let mut path = format!("{root}/{}", self.kind.api_version());
        if !self.namespace.is_empty() {
            path = format!("{path}/namespaces/{}", self.namespace);
        }
        path = format!("{path}/{name}");
        for part in [self.name.as_str(), self.subresource] {
            if !part.is_empty() {
                path = format!("{path}/{part}");
            }
        }
        path
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "verb {} on {}", self.verb, self.kind.name)?;
        if !self.subresource.is_empty() {
            write!(out, "/{}", self.subresource)?;
        }
        if !self.kind.group.is_empty() {
            write!(out, " of the API group {}", self.kind.group)?;
        }
        match self.namespace.as_str() {
            "" if self.kind == NODES => Ok(()),
            "" => out.write_str(" in all namespaces"),
            namespace => write!(out, " in the namespace {namespace}"),
        }
    }
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(super) permission: Permission,
    query: String,
    body: Option<Value>,
}

impl Ask {
    pub(crate) fn query(mut self, key: &str, value: &str) -> Self {
        self.query
            .push(if self.query.is_empty() { '?' } else { '&' });
        self.query.push_str(key);
        self.query.push('=');
        self.query.extend(value.bytes().map(encoded));
        self
    }

    pub(crate) fn body(self, body: Value) -> Self {
        Self {
            body: Some(body),
            ..self
        }
    }

    pub(super) fn request(&self) -> Result<Request<Vec<u8>>, http::Error> {
        let method = match self.permission.verb {
            Verb::Get | Verb::List | Verb::Watch => Method::GET,
            Verb::Create => Method::POST,
            Verb::Update => Method::PUT,
            Verb::Patch => Method::PATCH,
            Verb::Delete => Method::DELETE,
        };
        let content = match self.permission.verb {
            Verb::Patch => "application/merge-patch+json",
            _ => "application/json",
        };
        let uri = format!("{}{}", self.permission.path(), self.query);
        let body = self.body.as_ref().map(Value::to_string);
        Request::builder()
            .method(method)
            .uri(uri)
            .header("Accept", "application/json")
            .header("Content-Type", content)
            .body(body.unwrap_or_default().into_bytes())
    }
}

/// A byte of a query (RFC 3986).
pub(crate) fn encoded(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_has_a_path_and_words() {
        let evict = Permission::new(Verb::Create, PODS).on("eviction");
        assert_eq!(
            evict.to_string(),
            "verb create on pods/eviction in all namespaces"
        );
        let ask = evict.within("shop").named("web-1").ask();
        let request = ask.request().unwrap();
        assert_eq!(
            request.uri().path(),
            "/api/v1/namespaces/shop/pods/web-1/eviction"
        );
        let lease = Permission::new(Verb::Get, LEASES).within("kube-node-lease");
        assert_eq!(
            lease.to_string(),
            "verb get on leases of the API group coordination.k8s.io in the namespace kube-node-lease"
        );
        let nodes = Permission::new(Verb::List, NODES);
        assert_eq!(nodes.to_string(), "verb list on nodes");
        let ask = nodes
            .ask()
            .query("fieldSelector", "a=b")
            .query("limit", "5");
        let request = ask.request().unwrap();
        assert_eq!(request.uri(), "/api/v1/nodes?fieldSelector=a%3Db&limit=5");
    }
}
