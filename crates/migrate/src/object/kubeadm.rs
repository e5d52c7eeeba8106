//! What the cluster says of its nodes: Node objects, and the configurations from which kubeadm
//! makes new ones.

use super::{Object, joined};
use crate::document::{self, Format, Node, Source};
use crate::node::Version;
use crate::node::removed_flags::{self, Since};
use crate::rules;
use crate::{Evidence, Report};

const ANNOTATION: &str = "kubeadm.alpha.kubernetes.io/cri-socket";

pub(super) fn check(report: &mut Report, object: &Object) {
    match object.kind.as_str() {
        "Node" => of_node(report, object),
        "ConfigMap" => config_map(report, object),
        "InitConfiguration" | "JoinConfiguration" => {
            registration(report, object, "", &object.node);
        }
        "KubeletConfiguration" => {
            let evidence = |node: &Node, field: &str| object.evidence(field, node);
            kubelet(report, &object.node, &evidence);
        }
        _ => {}
    }
}

fn of_node(report: &mut Report, object: &Object) {
    let info = ["status", "nodeInfo"];
    let runtime = object
        .node
        .get(&info)
        .and_then(|info| info.get(&["containerRuntimeVersion"]));
    let kubelet = object
        .node
        .get(&info)
        .and_then(|info| info.text_at(&["kubeletVersion"]));
    if let Some(node) = runtime
        && let Some(version) = node.text().filter(|text| text.starts_with("docker://"))
    {
        let kubelet: Option<Version> = kubelet.and_then(|text| text.parse().ok());
        let behind = match kubelet {
            Some(version) if version >= Version::new(1, 24) => "cri-dockerd",
            Some(_) => "dockershim, or cri-dockerd",
            None => "its kubelet's version is not known",
        };
        report.find(
            &rules::NODE_RUNTIME_DOCKER,
            object.evidence("status.nodeInfo.containerRuntimeVersion", node),
            format!("{version}: {behind}"),
            "Run slipway check node there, and move it before its kubelet becomes 1.24 or newer",
        );
    }
    let Some(annotation) = object.node.get(&["metadata", "annotations", ANNOTATION]) else {
        return;
    };
    let field = format!("metadata.annotations[{ANNOTATION}]");
    socket(report, object, &field, annotation);
}

/// A socket that kubeadm goes by.
fn socket(report: &mut Report, object: &Object, field: &str, node: &Node) {
    let path = node.text().unwrap_or_default();
    if path.contains("dockershim") {
        report.find(
            &rules::NODE_CRI_SOCKET,
            object.evidence(field, node),
            format!("{path} is dockershim's socket"),
            "Once the node has moved, set it to the new runtime's socket with unix:// (unix:///run/containerd/containerd.sock and the like): kubeadm upgrade goes by it",
        );
    } else if path.starts_with('/') {
        report.find(
            &rules::NODE_CRI_SOCKET,
            object.evidence(field, node),
            format!("{path} is without unix://"),
            format!("Write unix://{path}, which kubeadm asks for from 1.24 on"),
        );
    }
}

/// `nodeRegistration` of kubeadm's configurations.
fn registration(report: &mut Report, object: &Object, path: &str, node: &Node) {
    let Some(registration) = node.get(&["nodeRegistration"]) else {
        return;
    };
    let path = joined(path, "nodeRegistration");
    if let Some(node) = registration.get(&["criSocket"]) {
        socket(report, object, &joined(&path, "criSocket"), node);
    }
    let Some(arguments) = registration.get(&["kubeletExtraArgs"]) else {
        return;
    };
    // A map up to v1beta3, a list of names and values since.
    let of_map = arguments
        .entries()
        .iter()
        .map(|entry| (entry.key.as_str(), &entry.value));
    let of_list = arguments
        .items()
        .iter()
        .filter_map(|item| Some((item.text_at(&["name"])?, item)));
    for (name, node) in of_map.chain(of_list) {
        if let Some(Since { version, instead }) = removed_flags::of(name) {
            report.find(
                &rules::KUBELET_FLAG_REMOVED_LATER,
                object.evidence(&joined(&path, "kubeletExtraArgs"), node),
                format!("{name} is refused from {version} on"),
                format!("Remove it. {instead}"),
            );
        }
    }
}

/// The ConfigMaps `kubelet-config` (`kubelet-config-1.23` and the like before 1.24) and
/// `kubeadm-config`, whose values are YAML themselves.
fn config_map(report: &mut Report, object: &Object) {
    if object.namespace != "kube-system" || !object.name.starts_with("kubelet-config") {
        return;
    }
    let Some(entry) = object.node.get(&["data", "kubelet"]) else {
        return;
    };
    let source = Source::new("kubelet", entry.text().unwrap_or_default());
    let Ok(documents) = document::read(&source, Format::Yaml) else {
        report.miss(
            format!("ConfigMap {}", object.name),
            "its value `kubelet` is no YAML",
            "repair it: kubeadm join cannot read it either",
        );
        return;
    };
    let evidence =
        |_: &Node, field: &str| object.evidence(&format!("data.kubelet: {field}"), entry);
    for document in documents {
        kubelet(report, &document, &evidence);
    }
}

fn kubelet(report: &mut Report, node: &Node, evidence: &dyn Fn(&Node, &str) -> Vec<Evidence>) {
    let driver = node.get(&["cgroupDriver"]);
    if driver.and_then(Node::text) != Some("systemd") {
        let found = match driver.and_then(Node::text) {
            Some(driver) => format!("cgroupDriver is {driver}"),
            None => "cgroupDriver is not set, which is cgroupfs".to_string(),
        };
        report.find(
            &rules::KUBELET_CONFIG_MAP,
            evidence(driver.unwrap_or(node), "cgroupDriver"),
            found,
            "Set cgroupDriver: systemd once all nodes have moved, so that new ones agree with their runtime (containerd's SystemdCgroup, CRI-O's default)",
        );
    }
    if let Some(endpoint) = node.get(&["containerRuntimeEndpoint"])
        && endpoint
            .text()
            .is_some_and(|text| text.contains("dockershim"))
    {
        report.find(
            &rules::KUBELET_CONFIG_MAP,
            evidence(endpoint, "containerRuntimeEndpoint"),
            "containerRuntimeEndpoint is dockershim's",
            "Name the new runtime's socket, with unix://",
        );
    }
}
