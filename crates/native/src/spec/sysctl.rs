//! Which kernel parameters a pod may set: those of namespaces that it has for itself.

use slipway_cri_api::v1::{NamespaceMode, NamespaceOption};
use slipway_engine::{Error, Result};
use slipway_shim::sysctl::{self, Namespace};

/// Refuses a parameter that is the whole node's, or that of a namespace which the pod has not for
/// itself.
pub(super) fn check(name: &str, namespaces: &NamespaceOption) -> Result<()> {
    let path = sysctl::path(name).ok_or_else(|| {
        Error::invalid(format!(
            "LinuxPodSandboxConfig.sysctls: {name:?} is not the name of a sysctl"
        ))
    })?;
    if path == "kernel/hostname" {
        return Err(Error::invalid(format!(
            "LinuxPodSandboxConfig.sysctls: {name} is what PodSandboxConfig.hostname is for"
        )));
    }
    let namespace = sysctl::namespace(&path).ok_or_else(|| {
        Error::invalid(format!(
            "LinuxPodSandboxConfig.sysctls: {name} is not one of a pod's own (net.*, kernel.shm*, \
             kernel.msg*, kernel.sem, fs.mqueue.*, kernel.domainname); set it on the node"
        ))
    })?;
    let node = NamespaceMode::Node as i32;
    let (mode, what) = match namespace {
        Namespace::Network => (namespaces.network, "network"),
        Namespace::Ipc => (namespaces.ipc, "IPC"),
        // A pod on the node's network has the node's name.
        Namespace::Uts => (namespaces.network, "UTS"),
    };
    if mode == node {
        return Err(Error::invalid(format!(
            "LinuxPodSandboxConfig.sysctls: {name} belongs to the {what} namespace, which this \
             pod shares with the node; set it on the node"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use slipway_engine::Kind;

    use super::*;

    #[test]
    fn a_pods_own_parameters_are_taken() {
        for name in [
            "net.ipv4.ip_forward",
            "net/ipv4/ip_forward",
            "net.ipv4.conf.eth0/100.forwarding",
            "kernel.shmmax",
            "kernel.shm_rmid_forced",
            "kernel.msgmax",
            "kernel.sem",
            "fs.mqueue.msg_max",
            "kernel.domainname",
        ] {
            assert!(check(name, &NamespaceOption::default()).is_ok(), "{name}");
        }
    }

    #[test]
    fn those_of_the_node_are_refused_by_name() {
        let node = NamespaceMode::Node as i32;
        let own = NamespaceOption::default();
        let host_network = NamespaceOption {
            network: node,
            ..NamespaceOption::default()
        };
        let host_ipc = NamespaceOption {
            ipc: node,
            ..NamespaceOption::default()
        };
        for (name, namespaces) in [
            ("net.ipv4.ip_forward", &host_network),
            ("net/ipv4/ip_forward", &host_network),
            ("kernel.domainname", &host_network),
            ("kernel.shmmax", &host_ipc),
            ("kernel.shm_rmid_forced", &host_ipc),
            ("fs.mqueue.msg_max", &host_ipc),
            ("kernel.panic", &own),
            ("kernel.semaphores", &own),
            ("kernel.hostname", &own),
            ("user.max_user_namespaces", &own),
            ("vm.swappiness", &own),
            ("net/../kernel/panic", &own),
            ("net..x", &own),
            ("", &own),
        ] {
            let error = check(name, namespaces).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{name}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
