//! Kernel parameters that belong to a namespace, and so to a pod.

/// A parameter's path below `/proc/sys`. Both notations of sysctl(8) are known: the first
/// separator of a name tells which one it is, and the other character is then part of a name
/// (`net.ipv4.conf.eth0/100.forwarding`). None where it would leave that directory, or is no name.
pub fn path(name: &str) -> Option<String> {
    let separator = name.find(['.', '/']).map(|at| name.as_bytes()[at])?;
    let path: String = if separator == b'.' {
        name.chars()
            .map(|letter| match letter {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect()
    } else {
        name.to_owned()
    };
    path.split('/')
        .all(|part| !matches!(part, "" | "." | ".."))
        .then_some(path)
}

/// The namespaces that have parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// A pod's own network: `net/`.
    Network,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// The domain name.
    Uts,
}

/// Which namespace a parameter belongs to; none where it is the whole node's.
pub fn namespace(path: &str) -> Option<Namespace> {
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
    use super::*;

    #[test]
    fn names_are_read_in_both_notations() {
        assert_eq!(
            path("net.ipv4.ip_forward").as_deref(),
            Some("net/ipv4/ip_forward")
        );
        assert_eq!(
            path("net.ipv4.conf.eth0/100.forwarding").as_deref(),
            Some("net/ipv4/conf/eth0.100/forwarding")
        );
        assert_eq!(
            path("net/ipv4/conf/eth0.100/forwarding").as_deref(),
            Some("net/ipv4/conf/eth0.100/forwarding")
        );
    }

    #[test]
    fn names_do_not_leave_their_directory() {
        for name in [
            "net/../kernel/core_pattern",
            "net.//.kernel",
            "/kernel/x",
            "",
            "net..x",
        ] {
            assert_eq!(path(name), None, "{name}");
        }
    }

    #[test]
    fn parameters_belong_to_namespaces() {
        assert_eq!(namespace("net/core/somaxconn"), Some(Namespace::Network));
        assert_eq!(namespace("kernel/shm_rmid_forced"), Some(Namespace::Ipc));
        assert_eq!(namespace("kernel/sem"), Some(Namespace::Ipc));
        assert_eq!(namespace("kernel/semaphores"), None);
        assert_eq!(namespace("kernel/core_pattern"), None);
    }
}
