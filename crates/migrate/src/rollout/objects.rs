//! What is made in the cluster for as long as nodes move: a namespace, an account that may do what
//! a node's steps do and nothing else, its credentials, and a Job for each node.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::Config;
use serde_json::{Value, json};

use super::Options;
use crate::control_plane::request::{
    CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, JOBS, Kind, NAMESPACES, Permission, ROLE_BINDINGS, ROLES,
    SECRETS, SERVICE_ACCOUNTS,
};

/// The namespace, and everything in it that needs a name.
pub(super) const NAME: &str = "slipway-migrate";

/// Where the Job has its credentials.
const CREDENTIALS: &str = "/etc/slipway-migrate";

/// The Node that a Job is for.
pub(super) const NODE: &str = "migrate.slipway/node";

/// An object, and where it belongs.
pub(super) struct Object {
    pub(super) kind: Kind,
    pub(super) namespace: String,
    pub(super) body: Value,
}

impl Object {
    pub(super) fn name(&self) -> &str {
        self.body["metadata"]["name"].as_str().unwrap_or_default()
    }

    fn new(kind: Kind, singular: &str, namespace: &str, name: &str, rest: Value) -> Self {
        let mut body = rest;
        body["apiVersion"] = kind.api_version().into();
        body["kind"] = singular.into();
        body["metadata"]["name"] = name.into();
        body["metadata"]["labels"]["app.kubernetes.io/name"] = NAME.into();
        if !namespace.is_empty() {
            body["metadata"]["namespace"] = namespace.into();
        }
        Self {
            kind,
            namespace: namespace.to_string(),
            body,
        }
    }
}

/// The namespace, the account and what it may do, in the order in which they are made. They are
/// taken away in the reverse order.
pub(super) fn standing(permissions: &[Permission]) -> Vec<Object> {
    // The Jobs are privileged.
    let labels = json!({ "metadata": { "labels": {
        "pod-security.kubernetes.io/enforce": "privileged",
    } } });
    let mut objects = vec![
        Object::new(NAMESPACES, "Namespace", "", NAME, labels),
        Object::new(SERVICE_ACCOUNTS, "ServiceAccount", NAME, NAME, json!({})),
    ];
    let mut rules: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for permission in permissions {
        let rules = rules.entry(&permission.namespace).or_default();
        rules.push(permission.rule());
    }
    let subjects = json!([{ "kind": "ServiceAccount", "namespace": NAME, "name": NAME }]);
    for (namespace, rules) in rules {
        let rules = json!({ "rules": rules });
        let bound = |role: &str| {
            let role = json!({ "apiGroup": ROLES.group(), "kind": role, "name": NAME });
            json!({ "roleRef": role, "subjects": subjects })
        };
        objects.extend(if namespace.is_empty() {
            [
                Object::new(CLUSTER_ROLES, "ClusterRole", "", NAME, rules),
                Object::new(
                    CLUSTER_ROLE_BINDINGS,
                    "ClusterRoleBinding",
                    "",
                    NAME,
                    bound("ClusterRole"),
                ),
            ]
        } else {
            [
                Object::new(ROLES, "Role", namespace, NAME, rules),
                Object::new(ROLE_BINDINGS, "RoleBinding", namespace, NAME, bound("Role")),
            ]
        });
    }
    objects
}

/// The account's credentials as a kubeconfig, which is how the node's steps take them.
pub(super) fn credentials(config: &Config, server: Option<&str>, token: &str) -> Object {
    let own = config.cluster_url.to_string();
    let server = server.unwrap_or(own.trim_end_matches('/'));
    let mut cluster = json!({ "server": server });
    if let Some(certificates) = &config.root_cert {
        let certificates: String = certificates.iter().map(|one| pem(one)).collect();
        cluster["certificate-authority-data"] = STANDARD.encode(certificates).into();
    }
    if config.accept_invalid_certs {
        cluster["insecure-skip-tls-verify"] = true.into();
    }
    if let Some(name) = &config.tls_server_name {
        cluster["tls-server-name"] = name.as_str().into();
    }
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": NAME,
        "clusters": [{ "name": NAME, "cluster": cluster }],
        "users": [{ "name": NAME, "user": { "token": token } }],
        "contexts": [{ "name": NAME, "context": { "cluster": NAME, "user": NAME } }],
    });
    let kubeconfig = STANDARD.encode(kubeconfig.to_string());
    let data = json!({ "data": { "kubeconfig": kubeconfig } });
    Object::new(SECRETS, "Secret", NAME, NAME, data)
}

/// A certificate as text (RFC 7468).
fn pem(certificate: &[u8]) -> String {
    let text = STANDARD.encode(certificate);
    let mut lines = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        lines.extend(line.iter().map(|byte| char::from(*byte)));
        lines.push('\n');
    }
    lines + "-----END CERTIFICATE-----\n"
}

/// What has a node begin to move: a pod on it that starts the move on the host and ends.
pub(super) fn job(options: &Options, node: &Value) -> Object {
    let name = node["metadata"]["name"].as_str().unwrap_or_default();
    let mut command = vec![
        "slipway",
        "migrate",
        "node-job",
        "--to",
        options.target.name(),
    ];
    let credentials = format!("{CREDENTIALS}/kubeconfig");
    command.extend(["--node", name, "--kubeconfig", &credentials]);
    command.extend(options.arguments.iter().map(String::as_str));
    let annotations = json!({ NODE: name });
    let body = json!({
        "metadata": { "annotations": annotations },
        "spec": {
            "backoffLimit": 3,
            "template": {
                "metadata": { "annotations": annotations },
                "spec": {
                    // Past the scheduler, onto a Node that takes no pods.
                    "nodeName": name,
                    "tolerations": [{ "operator": "Exists" }],
                    "hostPID": true,
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": false,
                    "containers": [{
                        "name": "start", "image": options.image, "command": command,
                        "imagePullPolicy": "IfNotPresent",
                        "securityContext": { "privileged": true },
                        "volumeMounts": [
                            { "name": "credentials", "mountPath": CREDENTIALS, "readOnly": true },
                        ],
                    }],
                    "volumes": [{
                        "name": "credentials",
                        "secret": { "secretName": NAME, "defaultMode": 0o400 },
                    }],
                },
            },
        },
    });
    Object::new(JOBS, "Job", NAME, &job_name(node), body)
}

/// A name of which a label can be made, for any name of a Node.
pub(super) fn job_name(node: &Value) -> String {
    let text = |field: &str, length: usize| {
        let text = node["metadata"][field].as_str().unwrap_or_default();
        text.chars().take(length).collect::<String>()
    };
    let name = text("name", 40);
    let name = name.trim_end_matches(['.', '-']);
    format!("move-{name}-{}", text("uid", 8))
}
