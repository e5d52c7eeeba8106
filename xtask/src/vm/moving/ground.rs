//! A node as kubeadm 1.23 leaves it, with Docker.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::json;
use slipway_testbed::{Image, Registry, Scratch};

use super::KUBELET;
use super::cluster::Cluster;
use crate::vm::package::{self, network, shell};

/// What kubeadm's and the kubelet's packages and kubeadm itself have written: path and text.
const FILES: [(&str, &str); 6] = [
    (
        "/lib/systemd/system/kubelet.service",
        "[Unit]
Description=kubelet: The Kubernetes Node Agent
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=2

[Install]
WantedBy=multi-user.target
",
    ),
    (
        "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf",
        r#"# Note: This dropin only works with kubeadm and kubelet v1.11+
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
# This is a file that "kubeadm init" and "kubeadm join" generate at runtime
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"#,
    ),
    ("/etc/ssl/certs/ca-certificates.crt", AUTHORITIES),
    ("/var/lib/kubelet/config.yaml", CONFIGURATION),
    (
        "/etc/docker/daemon.json",
        r#"{
  "exec-opts": ["native.cgroupdriver=systemd"],
  "log-driver": "json-file",
  "log-opts": {
    "max-size": "100m"
  },
  "storage-driver": "overlay2"
}
"#,
    ),
    // Nothing is asked for by way of it.
    (
        "/etc/systemd/system/docker.service.d/http-proxy.conf",
        r#"[Service]
Environment="HTTP_PROXY=http://node:open$sesame%%21@proxy.example:3128"
Environment="NO_PROXY=localhost,127.0.0.0/8,10.0.0.0/8"
"#,
    ),
];

/// The proxy that Docker has, as a process sees it.
pub(super) const PROXY: &str = "HTTP_PROXY=http://node:open$sesame%21@proxy.example:3128";

/// Nobody's: nodes have certificates of authorities, without which a client of an API server is not
/// made.
const AUTHORITIES: &str = "-----BEGIN CERTIFICATE-----
MIIBeTCCAR+gAwIBAgIUQTfYe2GdOuqAUoo0rlJhIQK7xgIwCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyMTE5MTgyMFoYDzIxMjYxMDI4MTkx
ODIwWjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AARbVHxWzqReXsDTeHr4Hp5Y4Rf2qLMISYReiCADd8b/jntYHYx93+9eEMURFy8F
gxgYTawH4aIxwkDREQGAcZc/o1MwUTAdBgNVHQ4EFgQUjtPXkukGpCBezLarPLeS
EWswf5QwHwYDVR0jBBgwFoAUjtPXkukGpCBezLarPLeSEWswf5QwDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEAzfTKbHIAiCJjfav84DdPLQ9HNw/X
vrHiQT33jMt5M8MCIA+UfxN6Xq27SdmVdf8Uq3HifA4PPWGtSzTyzvgYX38m
-----END CERTIFICATE-----
";

/// The kubelet's, also in kubeadm's `ConfigMap`.
pub(super) const CONFIGURATION: &str = "apiVersion: kubelet.config.k8s.io/v1beta1
cgroupDriver: systemd
clusterDNS:
- 10.96.0.10
clusterDomain: cluster.local
kind: KubeletConfiguration
# of this cluster's own
rotateCertificates: true
staticPodPath: /etc/kubernetes/manifests
volumeStatsAggPeriod: 0s
";

/// Makes it, with Slipway's package installed and not in use; returns the image of its pods.
pub(super) async fn make() -> Result<String> {
    let version = package::first();
    shell(&format!(
        "cd /etc/systemd/system
        rm -f docker.service docker.socket containerd.service
        cp /share/bin/{KUBELET} /usr/bin/kubelet
        dpkg -i {version}
        systemctl disable --now slipway.service 2>&1"
    ))?;
    network()?;
    // Where kubeadm's packages have the plugins, and Debian's containerd does not look.
    shell("mkdir -p /opt/cni; mv /usr/lib/cni /opt/cni/bin")?;
    for (path, text) in FILES {
        write(path, text)?;
    }
    shell("systemctl daemon-reload; systemctl enable --now docker.service 2>&1")?;
    let scratch = Scratch::new()?;
    let registry = Registry::start(&scratch).await?;
    let endless = ["sh", "-c", "trap 'exit 0' TERM; sleep 2147483647 & wait"];
    let pause = Image::busybox().entrypoint(endless);
    let pause = registry.push("pause:3.6", &pause).await?.reference;
    let image = registry
        .push("busybox:1", &Image::busybox())
        .await?
        .reference;
    shell(&format!("docker pull -q {pause}; docker pull -q {image}"))?;
    let flags = format!(
        "KUBELET_KUBEADM_ARGS=\"--network-plugin=cni --pod-infra-container-image={pause}\"\n"
    );
    write("/var/lib/kubelet/kubeadm-flags.env", &flags)?;
    Ok(image)
}

/// Has the kubelet run, with a static pod.
pub(super) fn start_kubelet(cluster: &Cluster) -> Result<()> {
    let metadata = json!({ "name": "etcd", "namespace": "kube-system" });
    let pod = json!({ "kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": cluster.spec(true) });
    write("/etc/kubernetes/manifests/etcd.yaml", &pod.to_string())?;
    shell("systemctl enable --now kubelet.service 2>&1")?;
    Ok(())
}

fn write(path: &str, text: &str) -> Result<()> {
    let path = Path::new(path);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    Ok(fs::write(path, text)?)
}
