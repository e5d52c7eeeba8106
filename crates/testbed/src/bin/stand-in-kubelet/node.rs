//! The kubelet's Node.

use anyhow::Result;
use serde_json::{Value, json};

use crate::api::Api;
use crate::command_line::Kubelet;
use crate::runtime::Runtime;

/// Says that the Node is there and ready, or that its runtime is not.
pub(crate) async fn report(kubelet: &Kubelet, runtime: &Runtime, api: &Api) -> Result<()> {
    let now = now();
    let (version, ready) = match runtime.version().await {
        Ok(version) => (version, "True"),
        Err(error) => {
            eprintln!("E kubelet.go] \"Container runtime is down\" err=\"{error:#}\"");
            (String::new(), "False")
        }
    };
    let images: Vec<Value> = runtime.images().await.unwrap_or_default();
    let mut status = json!({
        "conditions": [{
            "type": "Ready", "status": ready, "reason": "KubeletReady",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }],
        "nodeInfo": { "kubeletVersion": format!("v{}", kubelet.version) },
        "images": images,
    });
    if !version.is_empty() {
        status["nodeInfo"]["containerRuntimeVersion"] = version.into();
    }
    let path = format!("/api/v1/nodes/{}", kubelet.node);
    let patch = json!({ "status": status });
    if !api.patch(&format!("{path}/status"), &patch).await? {
        let node = json!({
            "kind": "Node", "apiVersion": "v1", "metadata": { "name": kubelet.node }, "status": status,
        });
        api.create("/api/v1/nodes", &node).await?;
    }
    Ok(())
}

/// As the API has times.
pub(crate) fn now() -> String {
    let now = jiff::Timestamp::now();
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
