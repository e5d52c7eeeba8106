//! What a move changes and a rollback has to bring back.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::cluster::{CRI_SOCKET, Cluster};
use crate::vm::package::shell;

/// Every file below these to the byte, with its mode, its owner and where it leads; units; the
/// kernel's parameters; Docker's rules; the API's objects. A line each.
const SCRIPT: &str = r"
find /etc /var/lib/kubelet -printf 'file %p %y %m %U:%G %l\n'
find /etc /var/lib/kubelet -type f -exec sha256sum {} + | sed 's/^/content /'
for unit in kubelet.service docker.service docker.socket containerd.service slipway.service; do
    echo unit $unit $(systemctl is-enabled $unit 2>&1 || true) $(systemctl is-active $unit || true)
done
for key in net/ipv4/ip_forward net/bridge/bridge-nf-call-iptables net/bridge/bridge-nf-call-ip6tables; do
    echo kernel $key $(cat /proc/sys/$key 2>&1 || true)
done
iptables -S FORWARD | head -n 1 | sed 's/^/rule /'
iptables-save | grep -i docker | grep -v '^:' | sed 's/^/rule /'
ip -o link show docker0 | grep -o 'docker0' | sed 's/^/link /'
";

/// The node at one moment.
#[derive(Debug)]
pub(super) struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Takes it.
    pub(super) fn take(cluster: &Cluster) -> Result<Self> {
        let text = shell(SCRIPT)?;
        let mut lines: BTreeSet<_> = text.lines().map(str::to_owned).collect();
        let node = cluster.node()?;
        lines.insert(format!(
            "node {}",
            node["metadata"]["annotations"][CRI_SOCKET]
        ));
        lines.insert(format!("node {}", node["spec"]["unschedulable"] == true));
        lines.insert(format!("map {}", cluster.kubelet_configuration()?));
        Ok(Self(lines))
    }

    /// Sees to it that nothing is different now.
    pub(super) fn is_same(&self, cluster: &Cluster) -> Result<()> {
        let now = Self::take(cluster)?;
        let gone = self.0.difference(&now.0).map(|line| format!("- {line}"));
        let new = now.0.difference(&self.0).map(|line| format!("+ {line}"));
        let all: Vec<_> = gone.chain(new).collect();
        ensure!(
            all.is_empty(),
            "the node is not what it was:\n{}",
            all.join("\n")
        );
        Ok(())
    }
}
