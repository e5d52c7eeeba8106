//! The steps of a node's move.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::files::FileChange;

/// One change, or one thing to wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum Step {
    /// No new pods come (Node `spec.unschedulable`).
    Cordon,
    /// Pods that are not of a DaemonSet are evicted, as their disruption budgets allow.
    Drain,
    /// A package of the node's package manager is installed.
    Install {
        /// Its name.
        package: String,
    },
    /// A unit is stopped.
    Stop {
        /// Its name.
        unit: String,
    },
    /// A file is made or changed.
    File(FileChange),
    /// systemd reads its units again.
    Reload,
    /// Modules are loaded, and parameters set, now.
    Kernel {
        /// For modprobe(8).
        modules: Vec<String>,
        /// For sysctl(8), each to 1.
        parameters: Vec<String>,
    },
    /// Images that Docker has are given to the target.
    CarryImages,
    /// Pods that are left where they were (those of DaemonSets, and static ones) are stopped, and
    /// their networks given back.
    StopPods {
        /// Where the kubelet had them; nothing for Docker.
        endpoint: Option<String>,
    },
    /// A unit starts with the node, and now; one that runs already is started anew.
    Start {
        /// Its name.
        unit: String,
    },
    /// An annotation of the Node is set.
    Annotate {
        /// Its key.
        key: String,
        /// Its value.
        value: String,
    },
    /// Keys of the kubelet's configuration in kubeadm's ConfigMap are set, for new nodes. Which one that
    /// is depends on the cluster's version.
    ConfigMap {
        /// In journals of before: its name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Key and value.
        settings: Vec<(String, String)>,
    },
    /// The Node is Ready, and says that it runs on the target.
    Await {
        /// How `status.nodeInfo.containerRuntimeVersion` begins.
        runtime: String,
    },
    /// A pod runs on the node and is removed again.
    Probe,
    /// A unit is stopped and does not start with the node any more.
    Disable {
        /// Its name.
        unit: String,
    },
    /// Docker's chains, its FORWARD policy and its bridges are removed.
    CleanNetwork,
    /// Pods come again.
    Uncordon,
}

impl fmt::Display for Step {
    /// One line: what is done.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cordon => out.write_str("cordon the node, so that no new pods come"),
            Self::Drain => out.write_str(
                "drain the node: evict all pods but those of DaemonSets, as disruption budgets allow",
            ),
            Self::Install { package } => write!(out, "install the package {package}"),
            Self::Stop { unit } => write!(out, "stop {unit}"),
            Self::File(change) if change.before.is_none() => {
                write!(out, "make {}", change.path.display())
            }
            Self::File(change) => write!(out, "change {}", change.path.display()),
            Self::Reload => out.write_str("have systemd read its units again"),
            Self::Kernel {
                modules,
                parameters,
            } => {
                let mut parts = Vec::new();
                if !modules.is_empty() {
                    parts.push(format!("load {}", modules.join(", ")));
                }
                if !parameters.is_empty() {
                    parts.push(format!("set {} to 1", parameters.join(", ")));
                }
                out.write_str(&parts.join("; "))
            }
            Self::CarryImages => out.write_str("carry Docker's images over"),
            Self::StopPods { endpoint } => {
                let at = endpoint.as_deref().unwrap_or("Docker");
                write!(out, "stop pods of DaemonSets, and static ones, that are left at {at}")
            }
            Self::Start { unit } => write!(out, "enable {unit}, and start it anew"),
            Self::Annotate { key, value } => write!(out, "annotate the Node: {key}={value}"),
            Self::ConfigMap { settings, .. } => {
                let settings: Vec<_> = settings
                    .iter()
                    .map(|(key, value)| format!("{key}: {value}"))
                    .collect();
                let settings = settings.join(", ");
                write!(
                    out,
                    "set {settings} in kubeadm's ConfigMap kube-system/kubelet-config (kubelet-config-1.N before 1.24), if there is one"
                )
            }
            Self::Await { runtime } => {
                write!(out, "wait until the Node is Ready and its runtime is {runtime}…")
            }
            Self::Probe => out.write_str("run a pod on the node, and remove it"),
            Self::Disable { unit } => write!(out, "stop and disable {unit}"),
            Self::CleanNetwork => {
                out.write_str("remove Docker's chains from the packet filter, and its bridges")
            }
            Self::Uncordon => out.write_str("uncordon the node, so that pods come again"),
        }
    }
}
