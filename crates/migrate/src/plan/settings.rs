//! What Docker was told on this node that its successor has to be told as well.

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
    /// Variables and their values, by their names in lower case.
    pub proxies: Vec<(String, String)>,
    /// `log-opts.max-size`, as a quantity of Kubernetes.
    pub max_log_size: Option<String>,
    /// `log-opts.max-file`; a kubelet wants two at least.
    pub max_log_files: Option<u32>,
}

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
        let (ranges, hosts) = insecure
            .into_iter()
            .partition(|registry| registry.contains('/'));
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
            mirrors: listed("registry-mirrors", "registry-mirror"),
            insecure_registries: hosts,
            insecure_ranges: ranges,
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
}

/// A size of Docker's (`10m`, whose letters are powers of 1024) as Kubernetes writes it.
fn quantity(size: &str) -> Option<String> {
    let lower = size.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let digits = lower.trim_end_matches(['k', 'm', 'g', 't']);
    let number: u64 = digits.parse().ok().filter(|number| *number > 0)?;
    let suffix = match &lower[digits.len()..] {
        "" => "",
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
            ("4096", Some("4096")),
            ("-1", None),
            ("10mm", None),
            ("", None),
        ] {
            assert_eq!(quantity(docker).as_deref(), kubernetes, "{docker}");
        }
    }
}
