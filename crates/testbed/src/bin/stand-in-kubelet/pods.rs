//! Pods that are to run on the node, from the API and from files, and what is done for each.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::api::Api;
use crate::command_line::Kubelet;
use crate::node::now;
use crate::runtime::{Container, Runtime, Sandbox};

/// The annotation of an object that stands for a pod from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A pod that is to run, or to end.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Of the pod; the API's object of one from a file has another.
    pub(crate) uid: String,
    pub(crate) host_network: bool,
    spec: Value,
    grace: i64,
    /// Somebody has deleted it.
    ends: bool,
    phase: String,
}

impl Pod {
    fn of(object: &Value) -> Self {
        let (metadata, spec) = (&object["metadata"], &object["spec"]);
        Self {
            namespace: metadata["namespace"]
                .as_str()
                .unwrap_or("default")
                .to_owned(),
            name: text(&metadata["name"]).to_owned(),
            uid: text(&metadata["uid"]).to_owned(),
            host_network: spec["hostNetwork"] == true,
            grace: spec["terminationGracePeriodSeconds"].as_i64().unwrap_or(30),
            ends: !metadata["deletionTimestamp"].is_null(),
            phase: text(&object["status"]["phase"]).to_owned(),
            spec: spec.clone(),
        }
    }

    /// Where its containers' logs are, in the directory of all pods' logs.
    pub(crate) fn log_directory(&self, logs: &Path) -> PathBuf {
        let Self {
            namespace,
            name,
            uid,
            ..
        } = self;
        logs.join(format!("{namespace}_{name}_{uid}"))
    }

    pub(crate) fn labels(&self) -> Vec<(&'static str, &str)> {
        vec![
            ("io.kubernetes.pod.name", &self.name),
            ("io.kubernetes.pod.namespace", &self.namespace),
            ("io.kubernetes.pod.uid", &self.uid),
        ]
    }

    fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.namespace, self.name)
    }

    fn containers(&self) -> &[Value] {
        self.spec["containers"]
            .as_array()
            .map_or(&[], Vec::as_slice)
    }

    fn restarts(&self) -> bool {
        self.spec["restartPolicy"]
            .as_str()
            .is_none_or(|policy| policy == "Always")
    }
}

/// A text, or nothing.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The texts of a list.
pub(crate) fn words(value: &Value) -> Vec<String> {
    let words = value.as_array().into_iter().flatten();
    words.map(|word| text(word).to_owned()).collect()
}

/// The pods of a node.
pub(crate) struct Pods {
    node: String,
    files: Option<PathBuf>,
}

impl Pods {
    pub(crate) fn new(kubelet: &Kubelet) -> Self {
        Self {
            node: kubelet.node.clone(),
            files: kubelet.static_pods.clone(),
        }
    }

    /// Has the runtime run what is to run, and nothing else, and says what came of it.
    pub(crate) async fn sync(&mut self, runtime: &Runtime, api: &Api) -> Result<()> {
        let query = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.node);
        let list = api.get(&query).await?.context("the API has no pods")?;
        let objects = list["items"].as_array().cloned().unwrap_or_default();
        let (mirrors, own): (Vec<_>, Vec<_>) = objects
            .iter()
            .partition(|object| !object["metadata"]["annotations"][MIRROR].is_null());
        let mut pods: Vec<Pod> = own.into_iter().map(Pod::of).collect();
        for pod in self.of_files()? {
            mirror(&pod, &self.node, &mirrors, api).await?;
            pods.push(pod);
        }
        for object in &mirrors {
            let metadata = &object["metadata"];
            if pods.iter().all(|pod| metadata["name"] != pod.name.as_str()) {
                let path = Pod::of(object).path();
                api.delete(&path, text(&metadata["uid"])).await?;
            }
        }
        let sandboxes = runtime.sandboxes().await?;
        let known: BTreeSet<&str> = pods.iter().map(|pod| pod.uid.as_str()).collect();
        for stranger in sandboxes
            .iter()
            .filter(|one| !known.contains(one.uid.as_str()))
        {
            runtime.remove_sandbox(stranger, 1).await?;
        }
        for pod in &pods {
            let its = || sandboxes.iter().filter(|sandbox| sandbox.uid == pod.uid);
            if let Err(error) = live(pod, its(), runtime, api).await {
                let Pod {
                    namespace, name, ..
                } = pod;
                eprintln!(
                    "E pod_workers.go] \"Error syncing pod\" pod={namespace}/{name} err=\"{error:#}\""
                );
            }
        }
        Ok(())
    }

    /// The manifests in the directory, which are JSON here.
    fn of_files(&self) -> Result<Vec<Pod>> {
        let files = self
            .files
            .as_ref()
            .and_then(|directory| fs::read_dir(directory).ok());
        let mut pods = Vec::new();
        for file in files.into_iter().flatten() {
            let object: Value = serde_json::from_slice(&fs::read(file?.path())?)?;
            let mut pod = Pod::of(&object);
            pod.uid = format!("static-{}", pod.name);
            pod.name = format!("{}-{}", pod.name, self.node);
            pods.push(pod);
        }
        Ok(pods)
    }
}

/// Sees to it that the API shows a pod from a file, in an object that is its newest.
async fn mirror(pod: &Pod, node: &str, mirrors: &[&Value], api: &Api) -> Result<()> {
    let shown = mirrors
        .iter()
        .find(|object| object["metadata"]["name"] == pod.name.as_str());
    if let Some(object) = shown {
        let metadata = &object["metadata"];
        if metadata["deletionTimestamp"].is_null() {
            return Ok(());
        }
        api.delete(&pod.path(), text(&metadata["uid"])).await?;
    }
    let mut spec = pod.spec.clone();
    spec["nodeName"] = node.into();
    let object = json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": pod.name, "namespace": pod.namespace,
            "annotations": { MIRROR: pod.uid, "kubernetes.io/config.source": "file" },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Node", "name": node, "uid": node, "controller": true,
            }],
        },
        "spec": spec,
    });
    let path = format!("/api/v1/namespaces/{}/pods", pod.namespace);
    api.create(&path, &object).await
}

/// Brings one pod a step further.
async fn live(
    pod: &Pod,
    sandboxes: impl Iterator<Item = &Sandbox>,
    runtime: &Runtime,
    api: &Api,
) -> Result<()> {
    let (ready, broken): (Vec<_>, Vec<_>) = sandboxes.partition(|sandbox| sandbox.ready);
    let is_over = ["Succeeded", "Failed"].contains(&pod.phase.as_str());
    for sandbox in &broken {
        runtime.remove_sandbox(sandbox, pod.grace).await?;
    }
    if pod.ends {
        for sandbox in &ready {
            runtime.remove_sandbox(sandbox, pod.grace).await?;
        }
        return api.delete(&pod.path(), &pod.uid).await;
    }
    if is_over {
        return Ok(());
    }
    let Some(sandbox) = ready.first() else {
        runtime.run_sandbox(pod).await?;
        return Ok(());
    };
    for container in pod.containers() {
        let name = text(&container["name"]);
        let last = sandbox.containers.iter().find(|one| one.name == name);
        match last {
            None => {
                runtime
                    .run_container(pod, &sandbox.id, container, 0)
                    .await?;
            }
            Some(last) if last.exit_code.is_some() && pod.restarts() => {
                runtime.remove_container(&last.id).await?;
                let attempt = last.attempt + 1;
                runtime
                    .run_container(pod, &sandbox.id, container, attempt)
                    .await?;
            }
            Some(_) => {}
        }
    }
    tell(pod, &sandbox.containers, api).await
}

/// Says how the pod's containers are.
async fn tell(pod: &Pod, containers: &[Container], api: &Api) -> Result<()> {
    let whole = containers.len() == pod.containers().len();
    let phase = if !whole {
        "Pending"
    } else if containers.iter().all(|one| one.exit_code == Some(0)) {
        "Succeeded"
    } else if containers.iter().all(|one| one.exit_code.is_some()) && !pod.restarts() {
        "Failed"
    } else {
        "Running"
    };
    if phase == pod.phase {
        return Ok(());
    }
    let state = |one: &Container| match one.exit_code {
        None => json!({ "running": { "startedAt": now() } }),
        Some(code) => json!({ "terminated": { "exitCode": code } }),
    };
    let statuses: Vec<_> = containers
        .iter()
        .map(|one| json!({ "name": one.name, "ready": one.exit_code.is_none(), "containerID": one.id, "state": state(one) }))
        .collect();
    let ready = if phase == "Running" { "True" } else { "False" };
    let patch = json!({ "status": {
        "phase": phase,
        "conditions": [{ "type": "Ready", "status": ready }],
        "containerStatuses": statuses,
    } });
    api.patch(&format!("{}/status", pod.path()), &patch).await?;
    Ok(())
}
