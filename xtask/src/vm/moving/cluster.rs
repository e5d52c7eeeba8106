//! The cluster that the node is of: a server of the API, and what a scheduler and controllers would
//! do.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use slipway_testbed::{KubernetesServer, eventually};

/// The node's name, which is the machine's.
pub(super) const NODE: &str = "node";

/// kubeadm's annotation.
pub(super) const CRI_SOCKET: &str = "kubeadm.alpha.kubernetes.io/cri-socket";

/// Where dockershim listened.
const DOCKERSHIM: &str = "/var/run/dockershim.sock";

/// Where kubeconfigs say that the server is.
const ADDRESS: &str = "127.0.0.1:6443";

/// What outlives a reboot, as in a cluster whose control plane is elsewhere.
const KINDS: [&str; 4] = ["nodes", "pods", "configmaps", "daemonsets"];

/// Longer than anything takes in an emulated machine.
pub(super) const LONG: Duration = Duration::from_mins(4);

/// The server, and the image of its pods.
pub(super) struct Cluster {
    server: KubernetesServer,
    image: String,
}

impl Cluster {
    /// Starts the server, writes the kubeconfigs, and puts these objects there.
    pub(super) fn start(image: &str, objects: &[Value]) -> Result<Self> {
        let server = KubernetesServer::start_at(ADDRESS.parse()?)?;
        server.claim(NODE);
        fs::create_dir_all("/etc/kubernetes")?;
        for name in ["admin.conf", "kubelet.conf"] {
            let path = format!("/etc/kubernetes/{name}");
            fs::copy(server.kubeconfig(), path)?;
        }
        for object in objects {
            server.put(object.clone());
        }
        let image = image.to_owned();
        Ok(Self { server, image })
    }

    /// What there is, for after a reboot.
    pub(super) fn objects(&self) -> Vec<Value> {
        let all = KINDS.iter().flat_map(|kind| self.server.list(kind));
        all.collect()
    }

    /// What kubeadm and the cluster's people have made.
    pub(super) fn populate(&self, kubelet: &str) {
        let name = "kubelet-config-1.23";
        self.server.put(json!({
            "kind": "ConfigMap", "apiVersion": "v1",
            "metadata": { "name": name, "namespace": "kube-system" },
            "data": { "kubelet": kubelet },
        }));
        self.server.put(json!({
            "kind": "DaemonSet", "apiVersion": "apps/v1",
            "metadata": { "name": "agent", "namespace": "kube-system", "uid": "agent" },
        }));
        self.put("kube-system", "agent-x", Some("DaemonSet"), true);
        self.put("default", "web", Some("ReplicaSet"), false);
    }

    /// Has the node run a pod, as a scheduler does.
    pub(super) fn put(&self, namespace: &str, name: &str, owner: Option<&str>, host_network: bool) {
        let owner = owner.map(|kind| {
            let name = name.split('-').next();
            json!({ "apiVersion": "apps/v1", "kind": kind, "name": name, "uid": name, "controller": true })
        });
        let owners: Vec<_> = owner.into_iter().collect();
        self.server.put(json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": { "name": name, "namespace": namespace, "ownerReferences": owners },
            "spec": self.spec(host_network),
            "status": { "phase": "Pending" },
        }));
    }

    /// Takes a pod away, as a kubelet has said that it is gone.
    pub(super) fn remove(&self, namespace: &str, name: &str) {
        self.server.remove("pods", namespace, name);
    }

    /// A pod that runs until it is told to end.
    pub(super) fn spec(&self, host_network: bool) -> Value {
        let script = "trap 'exit 0' TERM; echo begun; sleep 2147483647 & wait";
        json!({
            "nodeName": NODE, "hostNetwork": host_network, "terminationGracePeriodSeconds": 20,
            "containers": [{ "name": "main", "image": self.image, "command": ["sh", "-c", script] }],
        })
    }

    /// The node's object.
    pub(super) fn node(&self) -> Result<Value> {
        self.get("nodes", "", NODE)
    }

    /// An object.
    pub(super) fn get(&self, resource: &str, namespace: &str, name: &str) -> Result<Value> {
        let found = self.server.get(resource, namespace, name);
        found.with_context(|| format!("there is no {name} among the {resource}"))
    }

    /// All objects of a kind.
    pub(super) fn list(&self, resource: &str) -> Vec<Value> {
        self.server.list(resource)
    }

    /// The image of its pods.
    pub(super) fn image(&self) -> &str {
        &self.image
    }

    /// The kubelet's configuration in kubeadm's `ConfigMap`.
    pub(super) fn kubelet_configuration(&self) -> Result<String> {
        let map = self.get("configmaps", "kube-system", "kubelet-config-1.23")?;
        let text = map["data"]["kubelet"].clone();
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// As kubeadm has annotated a node with dockershim.
    pub(super) fn annotate(&self) {
        self.server.change("nodes", "", NODE, |node| {
            node["metadata"]["annotations"][CRI_SOCKET] = DOCKERSHIM.into();
        });
    }

    /// Waits until the Node is ready on a runtime.
    pub(super) async fn is_ready_on(&self, runtime: &str) -> Result<()> {
        let what = format!("a Node that is Ready on {runtime}");
        eventually(&what, LONG, async || {
            let Ok(node) = self.node() else {
                return Ok(false);
            };
            let status = &node["status"];
            let version = status["nodeInfo"]["containerRuntimeVersion"].as_str();
            let ready = status["conditions"][0]["status"] == "True";
            Ok(ready && version.is_some_and(|version| version.starts_with(runtime)))
        })
        .await
    }

    /// Waits until these pods run, and no others are there.
    pub(super) async fn runs(&self, wanted: &[&str]) -> Result<()> {
        let mut seen = Vec::new();
        let outcome = eventually("pods to run", LONG, async || {
            let pods = self.server.list("pods");
            seen = pods
                .iter()
                .map(|pod| {
                    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
                    format!("{name} {phase}")
                })
                .collect();
            seen.sort();
            let wanted = wanted.iter().map(|name| format!("{name} Running"));
            Ok(wanted.eq(seen.iter().cloned()))
        })
        .await;
        outcome.with_context(|| format!("the API has {seen:?} and not {wanted:?}"))
    }

    /// Sees to it that new pods may come.
    pub(super) fn takes_pods(&self) -> Result<()> {
        let cordoned = &self.node()?["spec"]["unschedulable"];
        ensure!(*cordoned != true, "the node is still cordoned");
        Ok(())
    }
}
