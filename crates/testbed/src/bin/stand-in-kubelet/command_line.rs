//! The command line and the configuration file, as the version takes them that is pretended.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

/// Says which version is pretended: `1.23.17`.
const PRETENDED: &str = "STAND_IN_KUBELET_VERSION";
const DEFAULT: &str = "1.23.17";

/// The flags that nodes have, and the first minor version that does not know them.
const FLAGS: &[(&str, u32)] = &[
    ("bootstrap-kubeconfig", u32::MAX),
    ("cgroup-driver", u32::MAX),
    ("cni-bin-dir", 24),
    ("cni-conf-dir", 24),
    ("config", u32::MAX),
    ("container-runtime", 27),
    ("container-runtime-endpoint", u32::MAX),
    ("docker-endpoint", 24),
    ("hostname-override", u32::MAX),
    ("image-pull-progress-deadline", 24),
    ("kubeconfig", u32::MAX),
    ("network-plugin", 24),
    ("node-ip", u32::MAX),
    ("node-labels", u32::MAX),
    ("pod-infra-container-image", 35),
    ("v", u32::MAX),
];

/// What is wanted of it.
pub(crate) enum Outcome {
    Run(Box<Kubelet>),
    Version(String),
}

/// What it is told.
#[derive(Debug)]
pub(crate) struct Kubelet {
    pub(crate) version: String,
    pub(crate) node: String,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) cgroup_driver: String,
    pub(crate) static_pods: Option<PathBuf>,
    pub(crate) pod_logs: PathBuf,
    /// Without one it is dockershim.
    pub(crate) endpoint: Option<PathBuf>,
    pub(crate) pause_image: String,
    pub(crate) cni_plugins: PathBuf,
    pub(crate) cni_configurations: PathBuf,
}

/// Reads all of it.
pub(crate) fn read(words: impl Iterator<Item = String>) -> Result<Outcome> {
    let version = std::env::var(PRETENDED).unwrap_or_else(|_| DEFAULT.to_owned());
    let minor: u32 = version
        .split('.')
        .nth(1)
        .and_then(|minor| minor.parse().ok())
        .with_context(|| format!("{PRETENDED} is {version:?} and no version"))?;
    let mut flags = BTreeMap::new();
    let mut words = words;
    while let Some(word) = words.next() {
        if word == "--version" {
            return Ok(Outcome::Version(version));
        }
        let bare = word.trim_start_matches('-');
        let (name, value) = match bare.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (bare.to_owned(), None),
        };
        let known = FLAGS.iter().find(|(known, _)| *known == name);
        if known.is_none_or(|(_, gone)| minor >= *gone) {
            bail!("failed to parse kubelet flag: unknown flag: --{name}");
        }
        let value = value.or_else(|| words.next());
        flags.insert(name, value.context("flag needs an argument")?);
    }
    let take = |name: &str| flags.get(name).cloned();
    let config = match take("config") {
        Some(path) => keys(Path::new(&path))?,
        None => BTreeMap::new(),
    };
    let remote = minor >= 24 || take("container-runtime").as_deref() == Some("remote");
    let configured = config
        .get("containerRuntimeEndpoint")
        .filter(|_| minor >= 27);
    let endpoint = take("container-runtime-endpoint").or_else(|| configured.cloned());
    let endpoint = endpoint.filter(|_| remote);
    ensure!(
        endpoint.is_some() || !remote,
        "the container runtime endpoint address was not specified or empty, use \
         --container-runtime-endpoint to set"
    );
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let path = |name: &str, usual: &str| PathBuf::from(take(name).unwrap_or_else(|| usual.into()));
    Ok(Outcome::Run(Box::new(Kubelet {
        version,
        node: take("hostname-override").unwrap_or(host),
        kubeconfig: take("kubeconfig")
            .context("--kubeconfig is missing")?
            .into(),
        cgroup_driver: take("cgroup-driver")
            .or_else(|| config.get("cgroupDriver").cloned())
            .unwrap_or_else(|| "cgroupfs".to_owned()),
        static_pods: config.get("staticPodPath").map(PathBuf::from),
        pod_logs: config
            .get("podLogsDir")
            .filter(|_| minor >= 30)
            .map_or_else(|| "/var/log/pods".into(), PathBuf::from),
        endpoint: endpoint.map(|endpoint| {
            let path = endpoint.strip_prefix("unix://").unwrap_or(&endpoint);
            PathBuf::from(path)
        }),
        pause_image: take("pod-infra-container-image")
            .unwrap_or_else(|| "k8s.gcr.io/pause:3.6".to_owned()),
        cni_plugins: path("cni-bin-dir", "/opt/cni/bin"),
        cni_configurations: path("cni-conf-dir", "/etc/cni/net.d"),
    })))
}

/// The keys of the first level of a file of YAML that have their values beside them.
fn keys(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(path).with_context(|| {
        let path = path.display();
        format!("failed to load kubelet config file, path: {path}")
    })?;
    let pairs = text
        .lines()
        .filter(|line| !line.starts_with([' ', '#', '-']));
    let pairs = pairs.filter_map(|line| line.split_once(':'));
    let bare = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
    Ok(pairs
        .map(|(key, value)| (bare(key), bare(value)))
        .filter(|(_, value)| !value.is_empty())
        .collect())
}
