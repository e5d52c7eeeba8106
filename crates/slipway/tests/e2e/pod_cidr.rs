//! The node's pod CIDR, which a kubelet tells with UpdateRuntimeConfig.

use std::fs;

use slipway_cri_api::v1::{
    NetworkConfig, RuntimeConfig, StatusRequest, UpdateRuntimeConfigRequest,
};
use slipway_testbed::{Cri, Node};
use tonic::{Code, Status};

use crate::refused;

pub(crate) async fn update(cri: &Cri, pod_cidr: &str) -> Result<(), Status> {
    let network_config = Some(NetworkConfig {
        pod_cidr: pod_cidr.to_owned(),
    });
    let request = UpdateRuntimeConfigRequest {
        runtime_config: Some(RuntimeConfig { network_config }),
    };
    cri.runtime().update_runtime_config(request).await.map(drop)
}

async fn network_is_ready(cri: &Cri) -> bool {
    let request = StatusRequest { verbose: false };
    let status = cri.runtime().status(request).await.unwrap().into_inner();
    let conditions = status.status.unwrap().conditions;
    let network = conditions.iter().find(|one| one.r#type == "NetworkReady");
    network.unwrap().status
}

#[tokio::test]
async fn a_pod_cidr_makes_a_network_of_a_template() {
    let directory = tempfile::tempdir().unwrap();
    let template = directory.path().join("template");
    let config = format!("[network]\nconf_template = {template:?}\n");
    let node = Node::start_with(|builder| builder.config(config))
        .await
        .unwrap();
    let cri = node.cri();
    // The testbed's own configuration, with the range left to the template.
    let conflist = node.cni.conflist().unwrap();
    let ranges = conflist.find("\"ranges\": [").unwrap() + "\"ranges\": [".len();
    let end = conflist[ranges..].find("\"routes\"").unwrap() + ranges;
    let closing = conflist[..end].rfind(']').unwrap();
    let text = format!(
        "{}{{{{range $i, $range := .PodCIDRRanges}}}}{{{{if $i}}}}, {{{{end}}}}\
         [{{\"subnet\": \"{{{{$range}}}}\"}}]{{{{end}}}}{}",
        &conflist[..ranges],
        &conflist[closing..]
    );
    fs::write(&template, text).unwrap();

    // The configuration of somebody else is left alone.
    update(cri, &node.cni.subnet()).await.unwrap();
    let files = || fs::read_dir(node.cni.conf_dir()).unwrap().count();
    assert_eq!(files(), 1);
    fs::remove_file(node.cni.conf_dir().join("10-slipway.conflist")).unwrap();
    assert!(!network_is_ready(cri).await);
    // No range yet.
    update(cri, "").await.unwrap();
    assert_eq!(files(), 0);
    refused(
        update(cri, "10.0.0.0").await,
        Code::InvalidArgument,
        &["NetworkConfig.pod_cidr", "10.0.0.0"],
    );
    let good = fs::read_to_string(&template).unwrap();
    fs::write(&template, "{\n{{.PodCIDRs}}}").unwrap();
    refused(
        update(cri, &node.cni.subnet()).await,
        Code::FailedPrecondition,
        &["network.conf_template", "line 2", ".PodCIDRRanges"],
    );
    assert_eq!(files(), 0);

    fs::write(&template, good).unwrap();
    update(cri, &node.cni.subnet()).await.unwrap();
    assert!(network_is_ready(cri).await);
    let id = cri.run_pod(&node.pod("addressed")).await.unwrap();
    let address = cri.pod_status(&id).await.unwrap().network.unwrap().ip;
    let network = node.cni.subnet();
    let network = network.strip_suffix("0/24").unwrap();
    assert!(address.starts_with(network), "{address} of {network}");
    // Told again, as each kubelet does when it starts.
    update(cri, &node.cni.subnet()).await.unwrap();
    node.finish().await.unwrap();
}

#[tokio::test]
async fn without_a_template_a_pod_cidr_changes_nothing() {
    let node = Node::start().await.unwrap();
    let before = node.cni.conflist().unwrap();
    update(node.cri(), "10.99.0.0/16,fd00:99::/64")
        .await
        .unwrap();
    assert_eq!(node.cni.conflist().unwrap(), before);
    refused(
        node.cri()
            .runtime()
            .update_runtime_config(UpdateRuntimeConfigRequest::default())
            .await,
        Code::InvalidArgument,
        &["runtime_config"],
    );
    node.finish().await.unwrap();
}
