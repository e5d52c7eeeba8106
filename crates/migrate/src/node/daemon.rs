//! Docker's settings, in daemon.json, on its command line and in its unit: what carries over, into
//! which file of the target, and what does not.

use std::sync::Arc;

use super::Facts;
use super::flags::Flag;
use super::look::{Look, Origin};
use super::runtimes::Docker;
use crate::Evidence;
use crate::document::{EnvFile, Node, Source};
use crate::rules::{self, Rule};
use crate::secrets;

/// What becomes of a setting.
struct Carried {
    rule: &'static Rule,
    /// Keys of daemon.json.
    keys: &'static [&'static str],
    todo: &'static str,
}

/// dockerd(8), "Daemon configuration file", by what they are about.
const SETTINGS: &[Carried] = &[
    Carried {
        rule: &rules::DOCKER_MIRRORS,
        keys: &["registry-mirrors"],
        todo: "containerd: /etc/containerd/certs.d/docker.io/hosts.toml, a [host.\"URL\"] for each mirror. CRI-O and Slipway: /etc/containers/registries.conf, a [[registry.mirror]] below the [[registry]] docker.io. cri-dockerd: nothing",
    },
    Carried {
        rule: &rules::DOCKER_INSECURE_REGISTRIES,
        keys: &["insecure-registries"],
        todo: "containerd: /etc/containerd/certs.d/REGISTRY/hosts.toml with an http:// host or skip_verify = true. CRI-O and Slipway: /etc/containers/registries.conf, [[registry]] with insecure = true; a range of addresses has to become names. cri-dockerd: nothing",
    },
    Carried {
        rule: &rules::DOCKER_PROXY,
        keys: &[PROXIES, "http-proxy", "https-proxy", "no-proxy"],
        todo: PROXY,
    },
    Carried {
        rule: &rules::DOCKER_DATA_ROOT,
        keys: &["data-root", "graph"],
        todo: "containerd: root in /etc/containerd/config.toml. CRI-O: graphroot in /etc/containers/storage.conf. Slipway: --root, or root in /etc/slipway/config.toml. Images are not shared: the disk has to have room for both until Docker is cleaned away",
    },
    Carried {
        rule: &rules::DOCKER_LOGS,
        keys: &["log-driver", "log-opts"],
        todo: "/var/lib/kubelet/config.yaml: max-size becomes containerLogMaxSize, max-file containerLogMaxFiles (100Mi and 3 where in doubt). Other drivers and options (labels, env, tag, compress) have no counterpart: a collector has to read /var/log/pods",
    },
    Carried {
        rule: &rules::DOCKER_ULIMITS,
        keys: &["default-ulimits"],
        todo: "containerd and Slipway: LimitNOFILE= and the like in a drop-in of their unit, which containers inherit. CRI-O: default_ulimits in [crio.runtime]. cri-dockerd: nothing",
    },
    Carried {
        rule: &rules::DOCKER_NETWORK,
        keys: &[
            "bip",
            "bip6",
            "bridge",
            "fixed-cidr",
            "fixed-cidr-v6",
            "default-address-pools",
            "default-gateway",
            "default-gateway-v6",
            "default-network-opts",
            "mtu",
            "ip",
            "ip-forward",
            "ip-forward-no-drop",
            "ip-masq",
            "iptables",
            "ip6tables",
            "ipv6",
            "icc",
            "userland-proxy",
            "userland-proxy-path",
            "dns",
            "dns-opts",
            "dns-search",
            "firewall-backend",
            "allow-direct-routing",
        ],
        todo: "It does not carry over: ranges of addresses and the MTU belong into the CNI configuration in /etc/cni/net.d, name servers into the kubelet's resolvConf. Where iptables was false, nothing is left to clean",
    },
    Carried {
        rule: &rules::DOCKER_LIVE_RESTORE,
        keys: &["live-restore"],
        todo: "Nothing: containers of containerd, CRI-O and Slipway always outlive their daemon",
    },
    Carried {
        rule: &rules::DOCKER_CGROUPS,
        keys: &[
            "exec-opts",
            "cgroup-parent",
            "default-cgroupns-mode",
            "cpu-rt-period",
            "cpu-rt-runtime",
        ],
        todo: "The driver becomes cgroupDriver in /var/lib/kubelet/config.yaml and SystemdCgroup (containerd), cgroup_manager (CRI-O) or runtime.cgroup_driver (Slipway). cgroup-parent has no counterpart: the kubelet names it for each pod",
    },
    Carried {
        rule: &rules::DOCKER_RUNTIMES,
        keys: &["runtimes", "default-runtime", "init", "init-path"],
        todo: "containerd: [plugins.….containerd.runtimes.NAME] and default_runtime_name. CRI-O: [crio.runtime.runtimes.NAME] and default_runtime. Slipway: runtime.handlers. Pods choose by a RuntimeClass; for GPUs, nvidia-ctk writes the runtime's part, and CDI needs none",
    },
    Carried {
        rule: &rules::DOCKER_SECURITY,
        keys: &[
            "selinux-enabled",
            "seccomp-profile",
            "no-new-privileges",
            "userns-remap",
            "default-privileged",
        ],
        todo: "Pods say it themselves: securityContext has seccompProfile, seLinuxOptions and allowPrivilegeEscalation, hostUsers: false is user namespaces. For all pods: seccompDefault in /var/lib/kubelet/config.yaml, and enable_selinux of containerd or selinux of CRI-O",
    },
    Carried {
        rule: &rules::DOCKER_STORAGE,
        keys: &["storage-driver", "storage-drivers", "storage-opts"],
        todo: "The target takes overlayfs. A size limit for each container has no counterpart: set ephemeral-storage limits in pods. devicemapper's and other drivers' devices can be given back once Docker is gone",
    },
    Carried {
        rule: &rules::DOCKER_REMOTE_API,
        keys: &[
            "hosts",
            "tls",
            "tlsverify",
            "tlscacert",
            "tlscert",
            "tlskey",
            "authorization-plugins",
        ],
        todo: "Find out who calls this address (ss -tnp shows it), and give them the Kubernetes API instead; authorization plugins have no counterpart on a CRI socket, which is root's alone",
    },
    Carried {
        rule: &rules::DOCKER_OTHER_SETTING,
        keys: &[
            "max-concurrent-downloads",
            "max-concurrent-uploads",
            "max-download-attempts",
        ],
        todo: "containerd: max_concurrent_downloads of its CRI plugin. The kubelet: serializeImagePulls and maxParallelImagePulls in /var/lib/kubelet/config.yaml",
    },
    Carried {
        rule: &rules::DOCKER_OTHER_SETTING,
        keys: &[
            "default-shm-size",
            "default-ipc-mode",
            "shutdown-timeout",
            "labels",
            "node-generic-resources",
        ],
        todo: "It has no counterpart. For /dev/shm, give pods an emptyDir with medium: Memory; labels belong on the Node",
    },
    Carried {
        rule: &rules::DOCKER_OTHER_SETTING,
        keys: &["metrics-addr"],
        todo: "Scrape the target's own metrics instead: [metrics] address of containerd, metrics_port of CRI-O, metrics_listen of Slipway",
    },
];

const PROXY: &str = "Write the same variables into a drop-in of the target's unit, /etc/systemd/system/containerd.service.d/proxy.conf (crio, slipway), with Environment=; in NO_PROXY, the ranges of pods and services belong as well";

/// Options of the log driver.
const LOG_OPTIONS: &str = "log-opts";

/// dockerd's own, since 23.0: they may have passwords, and are read one by one.
const PROXIES: &str = "proxies";

/// What needs no words: it has to do with dockerd itself.
const OWN: &[&str] = &[
    "config-file",
    "containerd",
    "containerd-namespace",
    "containerd-plugins-namespace",
    "cri-containerd",
    "debug",
    "exec-root",
    "experimental",
    "features",
    "group",
    "log-format",
    "log-level",
    "oom-score-adjust",
    "pidfile",
    "raw-logs",
    "swarm-default-advertise-addr",
    "builder",
    "validate",
    "registry-config-path",
    "D",
    "G",
    "l",
    "p",
];

/// How a flag of dockerd and its key in daemon.json differ.
const FLAGS: &[(&str, &str)] = &[
    ("registry-mirror", "registry-mirrors"),
    ("insecure-registry", "insecure-registries"),
    ("log-opt", "log-opts"),
    ("exec-opt", "exec-opts"),
    ("storage-opt", "storage-opts"),
    ("s", "storage-driver"),
    ("default-ulimit", "default-ulimits"),
    ("default-address-pool", "default-address-pools"),
    ("dns-opt", "dns-opts"),
    ("add-runtime", "runtimes"),
    ("authorization-plugin", "authorization-plugins"),
    ("host", "hosts"),
    ("H", "hosts"),
    ("g", "data-root"),
    ("b", "bridge"),
    ("label", "labels"),
    ("node-generic-resource", "node-generic-resources"),
];

/// A setting, wherever it is.
struct Set {
    key: String,
    value: String,
    evidence: Evidence,
}

pub(super) fn check(look: &mut Look<'_>, facts: &Facts) {
    let Some(docker) = &facts.runtimes.docker else {
        return;
    };
    for set in settings(docker) {
        judge(look, &set);
    }
    for proxy in proxies(look, docker) {
        look.report.find(
            &rules::DOCKER_PROXY,
            [proxy.evidence],
            format!("{} is {}", proxy.name, secrets::proxy(&proxy.value)),
            PROXY,
        );
    }
    certificates(look);
    credentials(look);
}

fn settings(docker: &Docker) -> Vec<Set> {
    let mut all = Vec::new();
    if let Some(config) = &docker.config {
        for entry in config.node.entries() {
            // Of a key that is there twice, dockerd takes the last one.
            let last = config.node.entry(&entry.key);
            let counts = last.is_some_and(|last| last.key_range == entry.key_range);
            if !counts || entry.key == PROXIES {
                continue;
            }
            all.push(Set {
                key: entry.key.clone(),
                value: if entry.key == LOG_OPTIONS {
                    log_options(&entry.value)
                } else {
                    secrets::without_credentials(&entry.value.brief())
                },
                evidence: Evidence::at(&config.source, entry.key_range.start),
            });
        }
    }
    let of_flag = |flag: &Flag| {
        let known = FLAGS.iter().find(|(name, _)| *name == flag.name);
        let key = known.map_or(flag.name.as_str(), |(_, key)| key).to_string();
        let value = match flag.value.split_once('=') {
            Some((name, value)) if key == LOG_OPTIONS => {
                format!("{name}={}", secrets::option(name, value))
            }
            _ => secrets::without_credentials(&flag.value),
        };
        Set {
            key,
            value,
            evidence: flag.origin.evidence(),
        }
    };
    let others = docker.flags.iter().filter(|flag| !is_proxy(&flag.name));
    all.extend(others.map(of_flag));
    all
}

/// Options of log drivers, some of which are secrets.
fn log_options(options: &Node) -> String {
    let shown = options.entries().iter().map(|entry| {
        let value = entry.value.brief();
        format!("{}={}", entry.key, secrets::option(&entry.key, &value))
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Whether it says no more than what is so anyway.
fn is_default(set: &Set) -> bool {
    let local = [
        "fd://",
        "unix:///var/run/docker.sock",
        "unix:///run/docker.sock",
    ];
    match set.key.as_str() {
        "hosts" => set.value.split(", ").all(|host| local.contains(&host)),
        "log-driver" => set.value == "json-file",
        "data-root" | "graph" => set.value.trim_end_matches('/') == "/var/lib/docker",
        "storage-driver" => set.value == "overlay2",
        "live-restore" | "selinux-enabled" | "userland-proxy" | "init" | "tls" => {
            set.value == "false"
        }
        "iptables" | "ip-forward" | "ip-masq" | "icc" => set.value == "true",
        "ipv6" => set.value == "false",
        "default-runtime" => set.value == "runc",
        _ => set.value.is_empty(),
    }
}

fn judge(look: &mut Look<'_>, set: &Set) {
    if OWN.contains(&set.key.as_str()) || is_default(set) {
        return;
    }
    let known = SETTINGS
        .iter()
        .find(|one| one.keys.contains(&set.key.as_str()));
    let (rule, todo) = known.map_or(
        (
            &rules::DOCKER_OTHER_SETTING,
            "No counterpart of it is known here: look up what it does, and whether pods go by it",
        ),
        |known| (known.rule, known.todo),
    );
    look.report.find(
        rule,
        [set.evidence.clone()],
        format!("{} is {}", set.key, set.value),
        todo,
    );
}

/// A variable, or a setting of dockerd's own (since 23.0).
fn is_proxy(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    matches!(
        name.as_str(),
        "http_proxy" | "https_proxy" | "no_proxy" | "all_proxy"
    )
}

/// A variable that says how the network is reached.
pub(crate) struct Proxy {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) evidence: Evidence,
}

/// Proxies in the unit, its drop-ins and the files of variables beside it, and those of dockerd's own
/// settings, which count before them and come last.
pub(crate) fn proxies(look: &mut Look<'_>, docker: &Docker) -> Vec<Proxy> {
    let mut found = Vec::new();
    if let Some(unit) = &docker.unit {
        for (source, setting) in unit.all("Service", "Environment") {
            for word in setting.value.words() {
                if let Some((name, value)) = word.text().split_once('=')
                    && is_proxy(name)
                {
                    found.push(Proxy {
                        name: name.to_string(),
                        // systemd.unit(5): a percent sign, which begins specifiers, is doubled.
                        value: value.replace("%%", "%"),
                        evidence: Evidence::at(source, word.range.start),
                    });
                }
            }
        }
    }
    for source in environment_files(look, docker) {
        for one in EnvFile::read(&source).assignments {
            // systemd knows no export, and passes over the line; scripts of init take it.
            if is_proxy(&one.name) && !(one.exported && docker.unit.is_some()) {
                let origin = Origin::File(Arc::clone(&source), one.range.clone());
                found.push(Proxy {
                    value: one.value.text().to_string(),
                    name: one.name,
                    evidence: origin.evidence(),
                });
            }
        }
    }
    if let Some(config) = &docker.config {
        let own = config.node.get(&[PROXIES]).into_iter();
        found.extend(own.flat_map(Node::entries).map(|entry| Proxy {
            name: entry.key.clone(),
            value: entry.value.text().unwrap_or_default().to_string(),
            evidence: config.evidence(&entry.value),
        }));
    }
    let of_flags = docker.flags.iter().filter(|flag| is_proxy(&flag.name));
    found.extend(of_flags.map(|flag| Proxy {
        name: flag.name.clone(),
        value: flag.value.clone(),
        evidence: flag.origin.evidence(),
    }));
    found
}

/// The files that dockerd's variables come from: those that its unit names, or, where it has none,
/// those that scripts of init read.
fn environment_files(look: &mut Look<'_>, docker: &Docker) -> Vec<Arc<Source>> {
    match &docker.unit {
        Some(unit) => unit.environment_sources(look),
        None => ["/etc/default/docker", "/etc/sysconfig/docker"]
            .into_iter()
            .filter_map(|path| look.read(path))
            .collect(),
    }
}

fn certificates(look: &mut Look<'_>) {
    for path in look.list("/etc/docker/certs.d") {
        let host = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        look.report.find(
            &rules::DOCKER_REGISTRY_CERTIFICATES,
            [Evidence::file(&path)],
            format!("certificates for {host}"),
            "containerd: copy the directory to /etc/containerd/certs.d and name ca and client in its hosts.toml. CRI-O: /etc/containers/certs.d takes it as it is. Slipway: add ca.crt to the node's own certificates (update-ca-certificates, or update-ca-trust); certificates of clients have no counterpart",
        );
    }
}

fn credentials(look: &mut Look<'_>) {
    for path in ["/root/.docker/config.json", "/root/.dockercfg"] {
        if look.root.has(path) {
            look.report.find(
                &rules::DOCKER_CREDENTIALS,
                [Evidence::file(path)],
                "credentials of registries",
                "The kubelet reads /root/.docker/config.json and /var/lib/kubelet/config.json under any runtime. credHelpers in it were docker's alone: configure a credential provider of the kubelet for them",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_key_is_in_one_place() {
        let mut seen = BTreeSet::new();
        let keys = SETTINGS.iter().flat_map(|one| one.keys).chain(OWN);
        for key in keys {
            assert!(seen.insert(key), "{key}");
        }
        for (_, key) in FLAGS {
            assert!(seen.contains(key), "{key}");
        }
    }
}
