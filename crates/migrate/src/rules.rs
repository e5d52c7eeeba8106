//! The rules, by their ids.

use crate::finding::Severity;
use crate::finding::Severity::{Blocker, Note, Warning};

/// What is looked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Stays what it is from version to version.
    pub id: &'static str,
    /// That of all its findings.
    pub severity: Severity,
    /// What it finds, for the list of rules.
    pub title: &'static str,
}

macro_rules! rules {
    ($($name:ident $id:literal $severity:ident $title:literal)*) => {
        $(
            #[doc = $title]
            pub const $name: Rule = Rule { id: $id, severity: $severity, title: $title };
        )*

        /// All of them, in the order of the documentation.
        pub static ALL: &[&Rule] = &[$(&$name),*];
    };
}

rules! {
    // What runs the pods.
    RUNTIME_DOCKERSHIM "runtime-dockershim" Warning
        "The kubelet runs its pods on Docker through dockershim, which Kubernetes 1.24 no longer has"
    RUNTIME_CRI_DOCKERD "runtime-cri-dockerd" Note
        "The kubelet runs its pods on Docker through cri-dockerd"
    RUNTIME_CRI "runtime-cri" Note
        "The kubelet runs its pods on a CRI runtime already"
    RUNTIME_ENDPOINT_IGNORED "runtime-endpoint-ignored" Warning
        "An endpoint is set, but a kubelet before 1.24 passes over it without --container-runtime=remote"
    RUNTIME_ENDPOINT_DEFAULT "runtime-endpoint-default" Warning
        "No endpoint is set, and this kubelet takes containerd's"
    RUNTIME_ENDPOINT_SCHEME "runtime-endpoint-scheme" Warning
        "The endpoint is a path without unix://, which newer kubelets and kubeadm refuse"
    RUNTIME_SOCKET_MISSING "runtime-socket-missing" Blocker
        "The endpoint that the kubelet is to use next is a socket that is not there"

    // The kubelet.
    KUBELET_FLAG_REFUSED "kubelet-flag-refused" Blocker
        "A flag that this kubelet refuses: it does not start again"
    KUBELET_FLAG_REMOVED_LATER "kubelet-flag-removed-later" Warning
        "A flag that a later kubelet refuses"
    KUBELET_CONTRADICTION "kubelet-contradiction" Warning
        "Flags, files and the running kubelet say different things of one setting"
    KUBELET_NOT_SYSTEMD "kubelet-not-systemd" Warning
        "The kubelet runs, but no systemd unit starts it"
    KUBELET_REQUIRES_DOCKER "kubelet-requires-docker" Blocker
        "The kubelet's unit needs Docker's: stopping Docker stops the kubelet"
    KUBELET_SECOND "kubelet-second" Warning
        "More than one kubelet runs on the node"
    KUBELET_LOG_ROTATION "kubelet-log-rotation" Note
        "Logs of containers are rotated by the kubelet once Docker is gone, with its defaults where nothing is set"
    KUBELET_REQUEST_TIMEOUT "kubelet-request-timeout" Note
        "runtimeRequestTimeout is shorter than large images take"
    KUBELET_DOCKER_SETTING "kubelet-docker-setting" Note
        "A setting of the kubelet that only dockershim heeded"

    // cgroups.
    CGROUP_DRIVER_MISMATCH "cgroup-driver-mismatch" Blocker
        "The kubelet and its runtime do not use the same cgroup driver"
    CGROUP_DRIVER_TARGET "cgroup-driver-target" Warning
        "Another runtime of the node is set to another cgroup driver than the kubelet"
    CGROUP_DRIVER_CGROUPFS "cgroup-driver-cgroupfs" Warning
        "The node is systemd's, and the kubelet writes its cgroups beside it (cgroupfs)"

    // Runtimes that are there.
    CONTAINERD_CRI_DISABLED "containerd-cri-disabled" Warning
        "containerd is there with its CRI plugin switched off, as containerd.io's packages ship it"
    CONTAINERD_SHARED "containerd-shared" Note
        "Docker's containerd is the one that a CRI runtime would be: it has to stay when Docker goes"

    // Docker's settings: what carries over.
    DOCKER_MIRRORS "docker-mirrors" Warning
        "Docker pulls through registry mirrors"
    DOCKER_INSECURE_REGISTRIES "docker-insecure-registries" Warning
        "Docker trusts registries without TLS, or with certificates of nobody"
    DOCKER_REGISTRY_CERTIFICATES "docker-registry-certificates" Warning
        "Docker has certificates of its own for registries"
    DOCKER_CREDENTIALS "docker-credentials" Note
        "Credentials of registries are in Docker's file"
    DOCKER_PROXY "docker-proxy" Warning
        "Docker reaches registries through a proxy"
    DOCKER_DATA_ROOT "docker-data-root" Warning
        "Docker's data is on a disk of its own"
    DOCKER_LOGS "docker-logs" Warning
        "Docker writes and rotates the logs of containers in a way that was set"
    DOCKER_ULIMITS "docker-ulimits" Warning
        "Docker gives containers limits of its own (default-ulimits)"
    DOCKER_NETWORK "docker-network" Warning
        "Docker's bridge, addresses or DNS were set; pods of a CRI runtime have their network from CNI alone"
    DOCKER_LIVE_RESTORE "docker-live-restore" Note
        "Containers outlive a restart of dockerd; CRI runtimes have it so without being told"
    DOCKER_CGROUPS "docker-cgroups" Note
        "Docker was told where cgroups are and who makes them"
    DOCKER_RUNTIMES "docker-runtimes" Warning
        "Docker has OCI runtimes beside runc, or another default (GPUs, sandboxes)"
    DOCKER_SECURITY "docker-security" Warning
        "Docker applies seccomp, SELinux, user namespaces or no-new-privileges to all containers"
    DOCKER_STORAGE "docker-storage" Note
        "Docker's storage driver or its options were set"
    DOCKER_REMOTE_API "docker-remote-api" Warning
        "Docker listens on the network: whoever calls it there has nobody to call afterwards"
    DOCKER_OTHER_SETTING "docker-other-setting" Warning
        "A setting of Docker that has no counterpart, or none that is known"

    // What Docker did without being asked.
    SYSCTL_NOT_PERSISTENT "sysctl-not-persistent" Warning
        "A kernel parameter that pods need is set now and in no file: it is gone after the next reboot"
    SYSCTL_UNSET "sysctl-unset" Warning
        "A kernel parameter that pods need is not set"
    MODULE_NOT_PERSISTENT "module-not-persistent" Warning
        "A kernel module that pods need is in no file of modules to load: it is missing after the next reboot"
    MODULE_CONNTRACK "module-conntrack" Note
        "Connection tracking is loaded because somebody asked for it, and in no file"
    PACKET_FILTER_FORWARD "packet-filter-forward" Warning
        "Docker sets the FORWARD policy to DROP: what is not Docker's may not get through until a reboot"
    PACKET_FILTER_DOCKER "packet-filter-docker" Warning
        "Docker's chains are in the packet filter and stay when it stops"
    PACKET_FILTER_SAVED "packet-filter-saved" Warning
        "Docker's chains were saved to a file, and come back at each boot"
    DOCKER_BRIDGE "docker-bridge" Note
        "Docker's bridge stays until the next reboot"

    // CNI.
    CNI_KUBENET "cni-kubenet" Blocker
        "Pods have their network from kubenet, which is a part of dockershim"
    CNI_DOCKER_BRIDGE "cni-docker-bridge" Blocker
        "Pods have their network from Docker's bridge"
    CNI_FLANNEL_DOCKER "cni-flannel-docker" Blocker
        "flannel gives its subnet to Docker's bridge instead of a CNI configuration"
    CNI_NO_CONFIGURATION "cni-no-configuration" Blocker
        "There is no CNI configuration: pods of a CRI runtime get no network"
    CNI_PLUGIN_MISSING "cni-plugin-missing" Blocker
        "A CNI configuration names a plugin that is not there"
    CNI_DIRECTORY "cni-directory" Warning
        "The kubelet has CNI in other places than runtimes look for it"

    // What calls Docker on the node.
    SCRIPT_CALLS_DOCKER "script-calls-docker" Warning
        "A script of the node calls docker or docker-compose"
    CRON_CALLS_DOCKER "cron-calls-docker" Warning
        "A cron job calls docker or docker-compose"
    UNIT_CALLS_DOCKER "unit-calls-docker" Warning
        "A systemd unit calls docker or docker-compose"
    UNIT_NEEDS_DOCKER "unit-needs-docker" Warning
        "A systemd unit starts Docker's with it, or goes down with it"
    PROFILE_CALLS_DOCKER "profile-calls-docker" Note
        "A shell's profile has docker in it"
    COMPOSE_FILE "compose-file" Warning
        "Services are described for docker-compose on the node"
    DOCKER_LEFT_OVER "docker-left-over" Note
        "A script, a profile or a configuration has Docker in it, and the node has no Docker any more"

    // Who watches.
    AGENT "monitoring-agent" Warning
        "A monitoring or security agent that asks Docker, unless it is told otherwise"
    AGENT_CONFIGURATION "agent-configuration" Warning
        "A configuration names Docker's socket or its interface"
    LOG_COLLECTOR "log-collector" Warning
        "A collector of logs, which read Docker's format and find CRI's"
    LOG_PATH "log-path" Warning
        "Logs are read below Docker's data directory, where none will be"
    LOG_FORMAT "log-format" Warning
        "Logs are parsed as Docker's JSON lines; a CRI runtime writes `time stream tag text`"
    METRIC_NAMES "metric-names" Warning
        "A query goes by the names that Docker's containers have (k8s_…)"
    METRIC_GONE "metric-gone" Warning
        "A query uses a file-system metric that the kubelet has only for Docker's containers"
    PROCESS_USES_SOCKET "process-uses-socket" Warning
        "A process was started with Docker's socket or data directory on its command line"

    // What only Docker has.
    CONTAINER_OUTSIDE_KUBERNETES "container-outside-kubernetes" Blocker
        "A running container of Docker that no kubelet owns: it ends with Docker"
    CONTAINER_STOPPED "container-stopped" Note
        "A stopped container of Docker that no kubelet owns"
    DOCKER_SWARM "docker-swarm" Blocker
        "The node is in a swarm"
    IMAGE_ONLY_HERE "image-only-here" Warning
        "An image that was built or loaded here and that no registry is known to have"
    VOLUME_ONLY_HERE "volume-only-here" Warning
        "A volume of Docker: its data is in Docker's data directory"

    // Workloads.
    MOUNTS_DOCKER_SOCKET "mounts-docker-socket" Blocker
        "A pod mounts Docker's socket, in whatever spelling"
    MOUNTS_SOCKET_PARENT "mounts-socket-parent" Warning
        "A pod mounts a directory above Docker's socket or data, and may use it from there"
    MOUNTS_DOCKER_DATA "mounts-docker-data" Blocker
        "A pod or volume uses Docker's data directory"
    MOUNTS_DOCKER_FILES "mounts-docker-files" Warning
        "A pod mounts Docker's configuration, certificates or program from the node"
    RUNS_DOCKER "runs-docker" Blocker
        "A pod that can reach the node's Docker runs docker commands"
    DOCKER_HOST_VARIABLE "docker-host-variable" Warning
        "A container is told where a Docker Engine is (DOCKER_HOST)"
    DOCKER_IN_DOCKER "docker-in-docker" Note
        "A pod has a Docker Engine of its own in a container: that goes on working"

    // What the cluster says of its nodes.
    NODE_RUNTIME_DOCKER "node-runtime-docker" Warning
        "A node says that Docker is its runtime (docker://): dockershim, or cri-dockerd"
    NODE_CRI_SOCKET "node-cri-socket" Warning
        "kubeadm would look for Docker on a node, or is told a socket without unix://"
    KUBELET_CONFIG_MAP "kubelet-config-map" Warning
        "kubeadm gives new nodes a kubelet configuration that was made for Docker"

    // Any file.
    FILE_MALFORMED "file-malformed" Blocker
        "A file that is read by the kubelet or a runtime is not what its format allows"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_plain_and_there_once() {
        let ids: BTreeSet<_> = ALL.iter().map(|rule| rule.id).collect();
        assert_eq!(ids.len(), ALL.len());
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
        assert!(ids.iter().all(|id| id.bytes().all(plain)));
    }
}
