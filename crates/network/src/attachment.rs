//! What a pod asks of its network, and how CNI puts it to the plugins.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use slipway_cri_api::v1::{self, PodSandboxConfig};

use crate::Error;
use crate::conflist::is_identifier;

/// The interface that a pod gets, `CNI_IFNAME`.
pub(crate) const INTERFACE: &str = "eth0";

/// A pod's network namespace and what the plugins are told about the pod.
///
/// For [`Network::delete`](crate::Network::delete) the pod's id is enough: the rest is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The pod sandbox's id: `CNI_CONTAINERID` and `K8S_POD_INFRA_CONTAINER_ID`.
    pub pod_id: String,
    /// The pod's name: `K8S_POD_NAME`.
    pub name: String,
    /// The pod's Kubernetes namespace: `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// The pod's UID in Kubernetes: `K8S_POD_UID`.
    pub uid: String,
    /// Where the pod's network namespace is pinned: `CNI_NETNS`.
    pub netns: PathBuf,
    /// For plugins with the capability `portMappings`. Those with host port 0 are left out.
    pub port_mappings: Vec<PortMapping>,
    /// For plugins with the capability `dns`.
    pub dns: Option<Dns>,
    /// The pod's cgroup, for plugins with the capability `cgroupPath`.
    pub cgroup_path: Option<String>,
}

/// A port of the node that leads to one of the pod (CRI `PortMapping`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port in the pod.
    pub container_port: u16,
    /// The port on the node; 0 for none.
    pub host_port: u16,
    /// The node's address that has the port; none for all of them.
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol that ports belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A resolver's configuration (CRI `DNSConfig`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Resolver options, as in resolv.conf(5).
    pub options: Vec<String>,
}

impl Attachment {
    /// What CRI says of a pod, with the network namespace that it has. Ports that lead from no port
    /// of the node are left out, and so is what is no port.
    pub fn of_pod(pod_id: &str, config: &PodSandboxConfig, netns: PathBuf) -> Self {
        let metadata = config.metadata.clone().unwrap_or_default();
        let dns = config.dns_config.clone().map(|dns| Dns {
            servers: dns.servers,
            searches: dns.searches,
            options: dns.options,
        });
        let mappings = config.port_mappings.iter();
        let mappings = mappings.filter(|mapping| mapping.host_port > 0);
        Self {
            pod_id: pod_id.to_owned(),
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            netns,
            port_mappings: mappings.filter_map(PortMapping::of).collect(),
            dns,
            cgroup_path: None,
        }
    }

    /// Refuses an attachment whose values would mean something else to a plugin.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if !is_identifier(&self.pod_id) {
            return Err(Error::InvalidAttachment {
                field: "pod id",
                value: self.pod_id.clone(),
                reason: "CNI wants letters, digits, `_`, `.` and `-`, with a letter or digit first",
            });
        }
        let in_args = [
            ("name", &self.name),
            ("namespace", &self.namespace),
            ("uid", &self.uid),
        ];
        for (field, value) in in_args {
            if value.contains([';', '=', '\0']) {
                return Err(Error::InvalidAttachment {
                    field,
                    value: value.clone(),
                    reason: "it is passed in CNI_ARGS, where `;` and `=` separate values",
                });
            }
        }
        if self.netns.as_os_str().as_encoded_bytes().contains(&0) {
            return Err(Error::InvalidAttachment {
                field: "network namespace",
                value: self.netns.display().to_string(),
                reason: "a path cannot contain a NUL byte",
            });
        }
        Ok(())
    }

    /// `CNI_ARGS`, with the keys that Kubernetes' runtimes have always passed.
    pub(crate) fn arguments(&self) -> String {
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};\
             K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            self.namespace, self.name, self.pod_id, self.uid,
        )
    }

    /// What the pod has for one of the capabilities that CNI's conventions define; none if it has
    /// nothing, or if the capability is not known here.
    pub(crate) fn capability(&self, name: &str) -> Option<Value> {
        match name {
            "portMappings" => self.mapped_ports(),
            "dns" => self.dns.as_ref().map(|dns| json!(dns)),
            "cgroupPath" => self.cgroup_path.as_ref().map(|path| json!(path)),
            _ => None,
        }
    }

    fn mapped_ports(&self) -> Option<Value> {
        let mapped: Vec<Value> = self
            .port_mappings
            .iter()
            .filter(|mapping| mapping.host_port != 0)
            .map(PortMapping::to_cni)
            .collect();
        (!mapped.is_empty()).then_some(Value::Array(mapped))
    }
}

impl PortMapping {
    fn of(mapping: &v1::PortMapping) -> Option<Self> {
        Some(Self {
            protocol: match v1::Protocol::try_from(mapping.protocol).ok()? {
                v1::Protocol::Tcp => Protocol::Tcp,
                v1::Protocol::Udp => Protocol::Udp,
                v1::Protocol::Sctp => Protocol::Sctp,
            },
            container_port: u16::try_from(mapping.container_port).ok()?,
            host_port: u16::try_from(mapping.host_port).ok()?,
            host_ip: mapping.host_ip.parse().ok(),
        })
    }

    fn to_cni(&self) -> Value {
        let mut mapping = Map::new();
        mapping.insert("hostPort".into(), json!(self.host_port));
        mapping.insert("containerPort".into(), json!(self.container_port));
        mapping.insert("protocol".into(), json!(self.protocol));
        if let Some(address) = self.host_ip {
            mapping.insert("hostIP".into(), json!(address));
        }
        Value::Object(mapping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Attachment {
        Attachment {
            pod_id: "0a1b".into(),
            name: "web-0".into(),
            namespace: "shop".into(),
            uid: "7c1e".into(),
            ..Attachment::default()
        }
    }

    #[test]
    fn arguments_name_the_pod() {
        assert_eq!(
            pod().arguments(),
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;\
             K8S_POD_INFRA_CONTAINER_ID=0a1b;K8S_POD_UID=7c1e",
        );
    }

    #[test]
    fn a_value_cannot_smuggle_in_another_argument() {
        let pod = Attachment {
            name: "a;K8S_POD_NAMESPACE=kube-system".into(),
            ..pod()
        };
        let error = pod
            .validate()
            .expect_err("the name must be refused")
            .to_string();
        assert!(error.contains("CNI_ARGS"), "{error}");
    }

    #[test]
    fn a_pod_id_cannot_leave_the_cache() {
        for id in ["", "..", "../a", "a/b", "-a"] {
            let pod = Attachment {
                pod_id: id.into(),
                ..pod()
            };
            assert!(pod.validate().is_err(), "{id:?} was taken");
        }
        pod().validate().expect("an ordinary pod");
    }

    #[test]
    fn only_ports_of_the_node_are_mapped() {
        let mapping = |host_port, host_ip| PortMapping {
            protocol: Protocol::Udp,
            container_port: 53,
            host_port,
            host_ip,
        };
        let mut pod = pod();
        pod.port_mappings = vec![mapping(0, None)];
        assert_eq!(pod.capability("portMappings"), None);

        pod.port_mappings
            .push(mapping(5353, Some("::1".parse().expect("an address"))));
        assert_eq!(
            pod.capability("portMappings"),
            Some(json!([
                {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "::1"}
            ])),
        );
        assert_eq!(pod.capability("bandwidth"), None);
    }
}
