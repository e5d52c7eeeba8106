//! How a move is carried out, and how the cluster is reached.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use slipway_migrate::apply::Settings;
use slipway_migrate::cluster::Access;
use slipway_migrate::control_plane::DrainOptions;
use slipway_migrate::node::{self, Version};

use crate::client::duration;

/// Where kubeadm leaves an administrator's credentials on a control plane.
const ADMINISTRATOR: &str = "/etc/kubernetes/admin.conf";

/// How each node is moved.
#[derive(Debug, Clone, Args)]
pub(super) struct How {
    /// The kubelet's version, where it cannot be found out
    #[arg(long, value_name = "VERSION")]
    kubelet_version: Option<Version>,

    /// Leave things as they are where a step fails, rather than take all back
    #[arg(long)]
    no_rollback: bool,

    /// How long pods may take to leave, disruption budgets among the reasons
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = duration::parse)]
    drain_timeout: Duration,

    /// How long the Node may take to be Ready on its new runtime, and a pod to run there
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::parse)]
    ready_timeout: Duration,

    /// Evict pods that have no controller as well: nobody makes them anew
    #[arg(long)]
    force: bool,

    /// Evict pods with emptyDir volumes as well: what is in these is lost
    #[arg(long)]
    delete_emptydir_data: bool,

    /// What the pod runs that is to prove the node; by default a pause image that the node has
    #[arg(long, value_name = "IMAGE")]
    probe_image: Option<String>,
}

impl How {
    /// What is known better than the node's files do.
    pub(super) fn node(&self) -> node::Options {
        node::Options {
            kubelet_version: self.kubelet_version,
        }
    }

    pub(super) fn settings(&self, announce: bool) -> Settings {
        Settings {
            drain: self.drain_timeout,
            ready: self.ready_timeout,
            roll_back: !self.no_rollback,
            evict: DrainOptions {
                force: self.force,
                delete_emptydir_data: self.delete_emptydir_data,
            },
            probe_image: self.probe_image.clone(),
            announce,
        }
    }

    /// The longest that a node's move takes but for its images, both ways.
    pub(super) fn patience(&self) -> Duration {
        (self.drain_timeout + self.ready_timeout * 2) * 2
    }

    /// The same for another process.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--drain-timeout={}", self.drain_timeout.as_secs()),
            format!("--ready-timeout={}", self.ready_timeout.as_secs()),
        ];
        if let Some(version) = self.kubelet_version {
            arguments.push(format!("--kubelet-version={version}"));
        }
        if let Some(image) = &self.probe_image {
            arguments.push(format!("--probe-image={image}"));
        }
        let flags = [
            (self.no_rollback, "--no-rollback"),
            (self.force, "--force"),
            (self.delete_emptydir_data, "--delete-emptydir-data"),
        ];
        let given = flags.iter().filter(|(given, _)| *given);
        arguments.extend(given.map(|(_, flag)| (*flag).to_owned()));
        arguments
    }
}

/// How the cluster is reached.
#[derive(Debug, Clone, Args)]
pub(super) struct ClusterArgs {
    /// A kubeconfig; by default $KUBECONFIG, ~/.kube/config, /etc/kubernetes/admin.conf
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// A context of the kubeconfig; by default its current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl ClusterArgs {
    /// What was said, or else what was said when the move began.
    pub(super) fn or(self, begun: &Access) -> anyhow::Result<Access> {
        if !self.is_given() {
            return Ok(begun.clone());
        }
        self.access()
    }

    /// Whether a cluster was named.
    pub(super) fn is_given(&self) -> bool {
        self.kubeconfig.is_some() || self.context.is_some()
    }

    pub(super) fn access(self) -> anyhow::Result<Access> {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".kube/config"));
        let kubeconfig = match self.kubeconfig {
            // Whoever resumes may be elsewhere.
            Some(path) => Some(
                path.canonicalize()
                    .with_context(|| format!("--kubeconfig {}", path.display()))?,
            ),
            None if std::env::var_os("KUBECONFIG").is_some() => None,
            None if home().is_some_and(|path| path.exists()) => home(),
            None => Some(PathBuf::from(ADMINISTRATOR)).filter(|path| path.exists()),
        };
        Ok(Access {
            kubeconfig,
            context: self.context,
        })
    }
}
