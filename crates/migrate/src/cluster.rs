//! `slipway check cluster`: what in a cluster's objects needs Docker, and which nodes have it. The
//! objects are listed over the Kubernetes API, and looked at by the rules that manifests are looked
//! at with.

mod api;

use std::path::PathBuf;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::{Deserialize, Serialize};

use crate::Report;
use crate::document::Node;
use crate::finding::NodeRuntime;
use crate::object::{self, Object};

pub(crate) use api::causes;
use api::{Api, Refusal, Resource};

/// How to get at the cluster.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Access {
    /// A kubeconfig; none is `$KUBECONFIG`, `~/.kube/config`, or the credentials of the pod that
    /// this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// A context of it; none is its current one.
    pub context: Option<String>,
}

/// Why nothing could be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// A kubeconfig was named that cannot be used.
    #[error("kubeconfig: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// Neither a kubeconfig nor a pod's credentials.
    #[error("no way to a cluster: {0}; name a kubeconfig with --kubeconfig")]
    Nothing(#[from] kube::config::InferConfigError),
    /// Nobody answers there, or nobody who can be talked to.
    #[error("{server}: {why}")]
    NoAnswer {
        /// The address of the API server.
        server: String,
        /// What happened.
        why: String,
    },
    /// What the credentials are made of cannot be used.
    #[error("credentials of the cluster: {0}")]
    Client(#[source] Box<kube::Error>),
}

/// What is listed, in this order: nodes first, owners before what they make.
const RESOURCES: [Resource; 12] = [
    Resource::core("Node", "nodes"),
    Resource::core("PersistentVolume", "persistentvolumes"),
    Resource::of("Deployment", "deployments", &["apps/v1"]),
    Resource::of("DaemonSet", "daemonsets", &["apps/v1"]),
    Resource::of("StatefulSet", "statefulsets", &["apps/v1"]),
    Resource::of("ReplicaSet", "replicasets", &["apps/v1"]),
    Resource::core("ReplicationController", "replicationcontrollers"),
    // Before 1.21 there was the second alone.
    Resource::of("CronJob", "cronjobs", &["batch/v1", "batch/v1beta1"]),
    Resource::of("Job", "jobs", &["batch/v1"]),
    Resource::core("Pod", "pods"),
    Resource::core("ConfigMap", "configmaps"),
    Resource::optional(
        "PrometheusRule",
        "prometheusrules",
        &["monitoring.coreos.com/v1"],
    ),
];

/// Looks at a cluster; it needs the verb `list` on what it lists and says what it was refused.
///
/// # Errors
///
/// Where there is no way to a cluster. What a cluster does not answer is in the report.
pub async fn check(access: &Access) -> Result<Report, Unreachable> {
    let (client, server) = client(access).await?;
    let api = Api::new(client);
    let mut report = Report::default();
    let mut objects = Vec::new();
    for resource in &RESOURCES {
        match api.list(resource).await {
            Ok(items) => objects.extend(items),
            // Twelve times the same would be no better.
            Err(Refusal::Unreachable(why)) if objects.is_empty() => {
                return Err(Unreachable::NoAnswer { server, why });
            }
            Err(refusal) => report.miss(
                format!("{} of all namespaces", resource.name),
                &refusal,
                refusal.todo(resource),
            ),
        }
    }
    report.nodes = objects.iter().filter_map(node_runtime).collect();
    object::check(&mut report, &objects);
    report.sort();
    Ok(report)
}

/// A client, and the server's address.
async fn client(access: &Access) -> Result<(Client, String), Unreachable> {
    let mut config = config(access).await?;
    config.read_timeout = Some(api::PATIENCE);
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(|error| Unreachable::Client(Box::new(error)))?;
    Ok((client, server))
}

/// Where the API server is, and who asks it.
pub(crate) async fn config(access: &Access) -> Result<Config, Unreachable> {
    let options = KubeConfigOptions {
        context: access.context.clone(),
        ..KubeConfigOptions::default()
    };
    Ok(match &access.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)?;
            Config::from_custom_kubeconfig(kubeconfig, &options).await?
        }
        None if access.context.is_some() => Config::from_kubeconfig(&options).await?,
        None => Config::infer().await?,
    })
}

/// What a Node object says of its runtime.
fn node_runtime(object: &Object) -> Option<NodeRuntime> {
    if object.kind != "Node" {
        return None;
    }
    let info = object.node.get(&["status", "nodeInfo"]);
    let text = |key: &str| {
        let text = info.and_then(|info: &Node| info.text_at(&[key]));
        text.unwrap_or("unknown").to_string()
    };
    Some(NodeRuntime {
        name: object.name.clone(),
        runtime: text("containerRuntimeVersion"),
        kubelet: text("kubeletVersion"),
    })
}
