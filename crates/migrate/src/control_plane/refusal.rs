//! What an API server says where it does not do what it was asked for.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::request::{Permission, Verb};

/// Why a request came to nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Refusal {
    /// RBAC, or an admission plugin.
    #[error("forbidden: {why}")]
    Forbidden {
        why: String,
        /// The namespace is being deleted, and nothing can be made in it.
        ending: bool,
    },
    #[error(
        "the credentials do not count ({0}): take a kubeconfig whose token or certificate is valid"
    )]
    Unauthorized(String),
    #[error("{0}")]
    NotFound(String),
    /// Changed since it was read.
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    AlreadyExists(String),
    /// What is asked for goes on from something that the server has forgotten.
    #[error("{0}")]
    Expired(String),
    #[error("the server is busy: {said}")]
    Busy {
        said: String,
        after: Option<Duration>,
    },
    /// A disruption budget leaves no pod to be evicted.
    #[error("{0}")]
    Budget(String),
    #[error("{said} ({code})")]
    Failed { code: u16, said: String },
    /// Nobody answers, or nobody who can be talked to.
    #[error("{server}: {why}")]
    Unreachable { server: String, why: String },
}

impl Refusal {
    /// What an answer with a status of failure says.
    pub(super) fn of(
        permission: &Permission,
        code: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Self {
        // Not all of them are a `Status`: what is in front of the server answers too.
        let status: Value = serde_json::from_slice(body).unwrap_or_default();
        let said = match status["message"].as_str() {
            Some(message) => message.to_string(),
            None => String::from_utf8_lossy(body).trim().to_string(),
        };
        let details = &status["details"];
        let causes = details["causes"].as_array();
        let cause = |reason: &str| causes?.iter().find(|cause| cause["reason"] == reason);
        match code {
            StatusCode::FORBIDDEN => Self::Forbidden {
                why: forbidden(permission, &said),
                ending: cause("NamespaceTerminating").is_some(),
            },
            StatusCode::UNAUTHORIZED => Self::Unauthorized(said),
            StatusCode::NOT_FOUND => Self::NotFound(said),
            StatusCode::CONFLICT if status["reason"] == "AlreadyExists" => {
                Self::AlreadyExists(said)
            }
            StatusCode::CONFLICT => Self::Conflict(said),
            StatusCode::GONE => Self::Expired(said),
            StatusCode::TOO_MANY_REQUESTS => match cause("DisruptionBudget") {
                Some(cause) => Self::Budget(cause["message"].as_str().unwrap_or(&said).to_string()),
                // Servers before 1.22 name no cause.
                None if said.contains("disruption budget") => Self::Budget(said),
                None => {
                    let header = headers.get("retry-after");
                    let header = header.and_then(|value| value.to_str().ok()?.parse().ok());
                    let after = header.or_else(|| details["retryAfterSeconds"].as_u64());
                    Self::Busy {
                        said,
                        after: after.map(Duration::from_secs),
                    }
                }
            },
            code => Self::Failed {
                code: code.as_u16(),
                said,
            },
        }
    }

    pub(super) fn unreachable(server: &str, why: impl fmt::Display) -> Self {
        Self::Unreachable {
            server: server.to_string(),
            why: why.to_string(),
        }
    }

    /// Whether the same request can be answered otherwise a little later.
    pub(super) fn passes(&self, verb: Verb) -> bool {
        match self {
            Self::Busy { .. } | Self::Unreachable { .. } => true,
            Self::Failed { code, .. } => *code >= 500,
            // A patch names no version: it is the server's own attempts that met others.
            Self::Conflict(_) => verb == Verb::Patch,
            _ => false,
        }
    }

    /// How long the server wants to be left alone.
    pub(super) fn after(&self) -> Option<Duration> {
        match self {
            Self::Busy { after, .. } => *after,
            _ => None,
        }
    }
}

/// RBAC says who cannot do what; admission plugins say what they do not like.
fn forbidden(permission: &Permission, said: &str) -> String {
    if said.contains(&format!("cannot {}", permission.verb)) {
        format!(
            "the {permission} is missing, give it to this user with a ClusterRole and a ClusterRoleBinding (the server says: {said})"
        )
    } else {
        format!("the server lets nobody do it so: {said}")
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::super::request::PODS;
    use super::*;

    fn refusal(code: u16, body: &str) -> Refusal {
        let permission = Permission::new(Verb::Create, PODS).on("eviction");
        let headers =
            HeaderMap::from_iter([(http::header::RETRY_AFTER, HeaderValue::from_static("3"))]);
        let code = StatusCode::from_u16(code).unwrap();
        Refusal::of(&permission, code, &headers, body.as_bytes())
    }

    #[test]
    fn what_a_server_says_is_told_apart() {
        let status = |reason: &str, message: &str, cause: &str| {
            let causes = json!([{ "reason": cause, "message": format!("{cause} is the cause") }]);
            let details = json!({ "causes": causes });
            json!({ "reason": reason, "message": message, "details": details }).to_string()
        };
        let ending = refusal(403, &status("Forbidden", "no", "NamespaceTerminating"));
        assert!(matches!(ending, Refusal::Forbidden { ending: true, .. }));
        let plain = refusal(403, &status("Forbidden", "x cannot create resource", ""));
        assert!(matches!(plain, Refusal::Forbidden { ending: false, .. }));
        assert!(
            plain
                .to_string()
                .contains("the verb create on pods/eviction in all namespaces is missing")
        );
        let admission = refusal(403, &status("Forbidden", "violates PodSecurity", ""));
        assert!(admission.to_string().ends_with("so: violates PodSecurity"));
        let budget = refusal(429, &status("TooManyRequests", "no", "DisruptionBudget"));
        assert_eq!(budget.to_string(), "DisruptionBudget is the cause");
        assert!(!budget.passes(Verb::Create));
        let old = "Cannot evict pod as it would violate the pod's disruption budget.";
        assert!(matches!(
            refusal(429, &status("TooManyRequests", old, "")),
            Refusal::Budget(_)
        ));
        // A server that sheds load does not answer in JSON.
        let busy = refusal(429, "Too many requests, please try again later.\n");
        assert_eq!(busy.after(), Some(Duration::from_secs(3)));
        assert_eq!(
            busy.to_string(),
            "the server is busy: Too many requests, please try again later."
        );
        let there = refusal(409, &status("AlreadyExists", "no", ""));
        assert!(matches!(there, Refusal::AlreadyExists(_)) && !there.passes(Verb::Patch));
        let conflict = refusal(409, &status("Conflict", "no", ""));
        assert!(conflict.passes(Verb::Patch) && !conflict.passes(Verb::Update));
        let gateway = refusal(502, "<html>bad gateway</html>");
        assert!(gateway.passes(Verb::Update) && gateway.to_string().contains("(502)"));
    }
}
