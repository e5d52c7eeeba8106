//! What Docker was told on this node that its successor has to be told as well.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::certificates::Certificates;
use crate::node::Docker;

/// Docker's settings that carry over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `registry-mirrors`: URLs that are asked before Docker Hub.
    pub mirrors: Vec<String>,
    /// `insecure-registries`: hosts that are asked without TLS, or without looking who they are.
    pub insecure_registries: Vec<String>,
    /// `insecure-registries` that are ranges of addresses, which nobody else has.
    pub insecure_ranges: Vec<String>,
    /// Certificates for registries, by their hosts.
    pub certificates: BTreeMap<String, Certificates>,
    /// Variables and their values, by their names in lower case.
    pub proxies: Vec<(String, String)>,
    /// `log-opts.max-size`, as a quantity of Kubernetes.
    pub max_log_size: Option<String>,
    /// `log-opts.max-file`; a kubelet wants two at least.
    pub max_log_files: Option<u32>,
}

/// Docker Hub, by the names that dockerd takes for the same.
const HUB: [&str; 2] = ["docker.io", "index.docker.io"];

impl Settings {
    /// Reads them from a Docker's files, command line and unit.
    pub(crate) fn of(docker: &Docker, proxies: Vec<(String, String)>) -> Self {
        let listed = |key: &str, flag: &str| -> Vec<String> {
            let config = docker.config.as_ref();
            let of_file = config.and_then(|config| config.node.get(&[key]));
            let of_file = of_file.into_iter().flat_map(crate::document::Node::items);
            let of_file = of_file.filter_map(|item| Some(item.text()?.to_string()));
            let of_flags = docker.flags.iter().filter(|one| one.name == flag);
            of_file
                .chain(of_flags.map(|one| one.value.clone()))
                .collect()
        };
        let insecure = listed("insecure-registries", "insecure-registry");
        // dockerd warns of a scheme, and goes on without it.
        let insecure = insecure
            .iter()
            .map(|registry| match registry.split_once("://") {
                Some((_, host)) => host.to_string(),
                None => registry.clone(),
            });
        // dockerd asks its own registry with TLS whatever is said here.
        let insecure = insecure.filter(|host| !HUB.contains(&host.as_str()));
        let (ranges, hosts) = once_each(insecure).partition(|registry| registry.contains('/'));
        let mirrors = listed("registry-mirrors", "registry-mirror");
        let mirrors = mirrors
            .iter()
            .map(|mirror| mirror.trim_end_matches('/').to_string());
        let option = |name: &str| {
            let of_file = docker.config.as_ref();
            let of_file = of_file.and_then(|config| config.node.text_at(&["log-opts", name]));
            let of_flag = || {
                let mut options = docker.flags.iter().filter(|flag| flag.name == "log-opt");
                options.find_map(|flag| flag.value.strip_prefix(name)?.strip_prefix('='))
            };
            of_file.or_else(of_flag).map(str::to_string)
        };
        Self {
            mirrors: once_each(mirrors).collect(),
            insecure_registries: hosts,
            insecure_ranges: ranges,
            certificates: BTreeMap::new(),
            proxies,
            max_log_size: option("max-size").and_then(|size| quantity(&size)),
            max_log_files: option("max-file")
                .and_then(|count| count.parse().ok())
                .map(|count: u32| count.max(2)),
        }
    }

    /// Whether registries are asked in another way than by default.
    pub(crate) fn has_registries(&self) -> bool {
        !self.mirrors.is_empty() || !self.insecure_registries.is_empty()
    }

    /// Whether dockerd did not look who this host (and its port) is: named, or in a range.
    pub(crate) fn is_insecure(&self, host: &str) -> bool {
        let address = host.parse::<SocketAddr>().map(|address| address.ip());
        let address = address.or_else(|_| host.trim_matches(['[', ']']).parse());
        let address = address.ok();
        address.is_some_and(|address: IpAddr| address.is_loopback())
            || self.insecure_registries.iter().any(|one| one == host)
            || self.insecure_ranges.iter().any(|range| has(range, address))
    }
}

/// The first of those that are the same: dockerd passes over the others, and files of its
/// successors must not say a thing twice.
fn once_each(all: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
    let mut seen = BTreeSet::new();
    all.filter(move |one| seen.insert(one.clone()))
}

/// Whether a range of addresses (`10.0.0.0/8`) has one. A range of all has those of names as well.
pub(crate) fn has(range: &str, address: Option<IpAddr>) -> bool {
    let Some((network, bits)) = range.split_once('/') else {
        return false;
    };
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    match (network, address) {
        _ if bits == 0 => true,
        (IpAddr::V4(network), Some(IpAddr::V4(address))) if bits <= 32 => {
            (u32::from(network) ^ u32::from(address)) >> (32 - bits) == 0
        }
        (IpAddr::V6(network), Some(IpAddr::V6(address))) if bits <= 128 => {
            (u128::from(network) ^ u128::from(address)) >> (128 - bits) == 0
        }
        _ => false,
    }
}

/// A size of Docker's (`10m`, whose letters are powers of 1024) as Kubernetes writes it; never a mere
/// number, which YAML would not take for text.
fn quantity(size: &str) -> Option<String> {
    let lower = size.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let digits = lower.trim_end_matches(['k', 'm', 'g', 't']);
    let number: u64 = digits.parse().ok().filter(|number| *number > 0)?;
    let suffix = match &lower[digits.len()..] {
        "" => return Some(format!("{}Ki", number.div_ceil(1024))),
        "k" => "Ki",
        "m" => "Mi",
        "g" => "Gi",
        "t" => "Ti",
        _ => return None,
    };
    Some(format!("{number}{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (docker, kubernetes) in [
            ("10m", Some("10Mi")),
            ("100MB", Some("100Mi")),
            ("1g", Some("1Gi")),
            ("4096", Some("4Ki")),
            ("1000000", Some("977Ki")),
            ("-1", None),
            ("10mm", None),
            ("", None),
        ] {
            assert_eq!(quantity(docker).as_deref(), kubernetes, "{docker}");
        }
    }

    #[test]
    fn hosts_are_insecure_by_name_and_by_range() {
        let texts = |all: &[&str]| all.iter().map(|one| (*one).to_string()).collect();
        let settings = Settings {
            insecure_registries: texts(&["registry.lan:5000"]),
            insecure_ranges: texts(&["10.8.0.0/13", "fd00::/8", "nonsense/8", "1.2.3.4/99"]),
            ..Settings::default()
        };
        for (host, insecure) in [
            ("registry.lan:5000", true),
            ("registry.lan", false),
            ("10.15.255.1:5000", true),
            ("10.16.0.1:5000", false),
            ("[fd12::1]:5000", true),
            ("[fe80::1]", false),
            ("127.0.0.1:5000", true),
            ("1.2.3.4", false),
        ] {
            assert_eq!(settings.is_insecure(host), insecure, "{host}");
        }
        let all = Settings {
            insecure_ranges: texts(&["0.0.0.0/0"]),
            ..Settings::default()
        };
        assert!(all.is_insecure("registry.lan"));
    }

    #[test]
    fn the_same_is_said_once() {
        let all = ["b", "a", "b"].map(str::to_string);
        let once: Vec<_> = once_each(all.into_iter()).collect();
        assert_eq!(once, ["b", "a"]);
    }
}
