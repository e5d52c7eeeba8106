//! Kernel parameters that a pod can have for itself (sysctl(8) names, also with slashes).

use slipway_cri_api::v1::{NamespaceMode, NamespaceOption};
use slipway_engine::{Error, Result};

/// The namespaces that have parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Network,
    Ipc,
    Uts,
}

/// Refuses a parameter that is the whole node's, or that of a namespace which the pod has not for
/// itself.
pub(super) fn check(name: &str, namespaces: &NamespaceOption) -> Result<()> {
    let path = path(name).ok_or_else(|| {
        Error::invalid(format!(
            "LinuxPodSandboxConfig.sysctls: {name:?} is not the name of a sysctl"
        ))
    })?;
    if path == "kernel/hostname" {
        return Err(Error::invalid(format!(
            "LinuxPodSandboxConfig.sysctls: {name} is what PodSandboxConfig.hostname is for"
        )));
    }
    let namespace = namespace(&path).ok_or_else(|| {
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

/// The parameter's path below `/proc/sys`: the first separator tells which notation it is, and the
/// other character is then part of a name (`net.ipv4.conf.eth0/100.forwarding`).
fn path(name: &str) -> Option<String> {
    let separator = name.find(['.', '/']).map(|at| name.as_bytes()[at])?;
    let swap = |letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let path: String = if separator == b'.' {
        name.chars().map(swap).collect()
    } else {
        name.to_owned()
    };
    path.split('/')
        .all(|part| !matches!(part, "" | "." | ".."))
        .then_some(path)
}

fn namespace(path: &str) -> Option<Namespace> {
    const IPC: [&str; 3] = ["kernel/shm", "kernel/msg", "fs/mqueue/"];
    if path.starts_with("net/") {
        Some(Namespace::Network)
    } else if path == "kernel/sem" || IPC.iter().any(|prefix| path.starts_with(prefix)) {
        Some(Namespace::Ipc)
    } else if path == "kernel/domainname" {
        Some(Namespace::Uts)
    } else {
        None
    }
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
