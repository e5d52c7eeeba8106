//! Which runtime the kubelet runs its pods on, now and after its next start.

use super::Facts;
use super::flags::{self, Flag};
use super::kubelet::{Kubelet, said};
use super::look::{Look, Said};
use super::version::Version;
use crate::Evidence;
use crate::rules;

/// The first version without dockershim.
pub(super) const WITHOUT_DOCKERSHIM: Version = Version::new(1, 24);

/// What a kubelet without an endpoint takes, from 1.24 on.
const DEFAULT_ENDPOINT: &str = "unix:///run/containerd/containerd.sock";

/// Whom a CRI socket leads to, as far as its path tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// Docker behind cri-dockerd, or behind a dockershim.
    Docker,
    /// containerd.
    Containerd,
    /// CRI-O.
    Crio,
    /// Slipway.
    Slipway,
    /// Somebody else.
    Other,
}

impl Socket {
    /// Whom an endpoint leads to.
    pub fn of(endpoint: &str) -> Self {
        let has = |word| endpoint.contains(word);
        if has("dockerd") || has("dockershim") || has("/docker.sock") {
            Self::Docker
        } else if has("containerd") {
            Self::Containerd
        } else if has("crio") {
            Self::Crio
        } else if has("slipway") {
            Self::Slipway
        } else {
            Self::Other
        }
    }
}

/// What runs a kubelet's pods.
#[derive(Debug, Clone)]
pub enum Runtime {
    /// The kubelet's own part that speaks to Docker; with what says so, if anything does.
    Dockershim(Option<Said>),
    /// Whoever is behind a CRI socket.
    Endpoint(Said),
    /// Whoever is behind the default socket, [`DEFAULT_ENDPOINT`].
    Default,
}

impl Runtime {
    /// What a kubelet with these flags uses; nothing where its version would tell and is unknown.
    pub(super) fn of(kubelet: &Kubelet, flags: &[Flag], has_docker: bool) -> Option<Self> {
        let runtime = flags::find(flags, "container-runtime").map(said);
        let endpoint = endpoint(kubelet, flags);
        match kubelet.version {
            Some(version) if version >= WITHOUT_DOCKERSHIM => {
                Some(endpoint.map_or(Self::Default, Self::Endpoint))
            }
            Some(_) => Some(match (runtime, endpoint) {
                (Some(runtime), Some(endpoint)) if runtime.value == "remote" => {
                    Self::Endpoint(endpoint)
                }
                (runtime, _) => Self::Dockershim(runtime),
            }),
            None => match (runtime, endpoint) {
                (Some(runtime), _) if runtime.value == "docker" => {
                    Some(Self::Dockershim(Some(runtime)))
                }
                (_, Some(endpoint)) => Some(Self::Endpoint(endpoint)),
                (_, None) if has_docker => Some(Self::Dockershim(None)),
                (_, None) => None,
            },
        }
    }

    /// Whether pods are Docker's containers.
    pub fn is_docker(&self) -> bool {
        match self {
            Self::Dockershim(_) => true,
            Self::Endpoint(endpoint) => Socket::of(&endpoint.value) == Socket::Docker,
            Self::Default => false,
        }
    }

    /// Whom its socket leads to; dockershim has none.
    pub fn socket(&self) -> Socket {
        match self {
            Self::Dockershim(_) => Socket::Docker,
            Self::Endpoint(endpoint) => Socket::of(&endpoint.value),
            Self::Default => Socket::of(DEFAULT_ENDPOINT),
        }
    }
}

/// The endpoint: the flag, or else the configuration.
fn endpoint(kubelet: &Kubelet, flags: &[Flag]) -> Option<Said> {
    let key = ["containerRuntimeEndpoint"];
    let of_instance = || kubelet.instance.as_ref()?.said(&key);
    flags::find(flags, "container-runtime-endpoint")
        .map(said)
        .or_else(of_instance)
        .or_else(|| kubelet.configured(&key))
        .filter(|said| !said.value.is_empty())
}

impl Facts {
    /// What runs the pods now.
    pub fn runtime(&self) -> Option<Runtime> {
        let kubelet = &self.kubelet;
        Runtime::of(kubelet, kubelet.flags(), self.runtimes.docker.is_some())
    }

    /// Whether the kubelet's pods are Docker's containers.
    pub fn is_on_docker(&self) -> bool {
        self.runtime().is_some_and(|runtime| runtime.is_docker())
    }

    /// A flag of whoever makes the pods on Docker: cri-dockerd's where the kubelet speaks to that, and
    /// the kubelet's own, which are dockershim's, otherwise.
    pub(crate) fn dockershim_flag(&self, name: &str) -> Option<String> {
        let behind = match self.runtime() {
            Some(Runtime::Endpoint(endpoint)) => Socket::of(&endpoint.value) == Socket::Docker,
            _ => false,
        };
        let flags = behind.then_some(&self.runtimes.cri_dockerd[..]);
        let found = flags.and_then(|flags| flags::find(flags, name));
        found
            .map(|flag| flag.value.clone())
            .or_else(|| Some(self.kubelet.flag(name)?.value))
    }
}

pub(super) fn check(look: &mut Look<'_>, facts: &Facts) {
    let kubelet = &facts.kubelet;
    if !kubelet.is_there() {
        if let Some(program) = facts.distribution() {
            look.report.miss(
                "the kubelet",
                format!("{program} has it inside, and is told in its own way what it runs pods on"),
                "look whether it was started with --docker, and move it with its own settings",
            );
            return;
        }
        look.report.miss(
            "the kubelet",
            "no kubelet runs here, and neither a unit nor a configuration of one is there",
            "run it on a node of the cluster, or give --root the directory of one's files",
        );
        return;
    }
    processes(look, facts);
    in_force(look, facts);
    let Some(endpoint) = endpoint(kubelet, &kubelet.planned) else {
        return;
    };
    if endpoint.value.starts_with('/') {
        look.report.find(
            &rules::RUNTIME_ENDPOINT_SCHEME,
            [endpoint.origin.evidence()],
            format!("the endpoint is {}, without unix://", endpoint.value),
            format!("Write unix://{}", endpoint.value),
        );
    }
    let path = endpoint.value.trim_start_matches("unix://");
    if look.root.has("/run/lock") || look.root.is_live() {
        let there = look.root.has(path);
        if path.starts_with('/') && !there && Socket::of(path) != Socket::Docker {
            look.report.find(
                &rules::RUNTIME_SOCKET_MISSING,
                [endpoint.origin.evidence()],
                format!("the kubelet's files name {path}, and nothing is there"),
                "Start the runtime that listens there, or name the socket of the one that runs",
            );
        }
    }
}

fn processes(look: &mut Look<'_>, facts: &Facts) {
    let kubelet = &facts.kubelet;
    if kubelet.processes.len() > 1 {
        look.report.find(
            &rules::KUBELET_SECOND,
            kubelet.processes.iter().map(super::Process::evidence),
            format!("{} kubelets run on this node", kubelet.processes.len()),
            "Find out which one the cluster knows; the first was looked at",
        );
    }
    if let Some(process) = kubelet.processes.first()
        && kubelet.unit.is_none()
    {
        look.report.find(
            &rules::KUBELET_NOT_SYSTEMD,
            [process.evidence()],
            "the kubelet runs, and there is no kubelet.service",
            "Find out what starts it (an init script, a container, an installer's agent): that is where its flags have to be changed, and slipway migrate plan does not know that place",
        );
    }
}

fn in_force(look: &mut Look<'_>, facts: &Facts) {
    let kubelet = &facts.kubelet;
    let of_kubelet = || {
        let process = kubelet.processes.first().map(super::Process::evidence);
        let unit = kubelet.unit.as_ref();
        let unit = unit.and_then(|unit| Some(Evidence::file(unit.files.first()?.0.path())));
        let config = kubelet.config.as_ref();
        process
            .or(unit)
            .or_else(|| config.map(|config| Evidence::file(config.source.path())))
    };
    match facts.runtime() {
        Some(Runtime::Dockershim(said)) => {
            let evidence = said.map(|said| said.origin.evidence()).or_else(of_kubelet);
            let version = match kubelet.version {
                Some(version) => format!("this kubelet is {version}"),
                None => "the kubelet's version is not known".to_string(),
            };
            look.report.find(
                &rules::RUNTIME_DOCKERSHIM,
                evidence,
                format!("the kubelet runs its pods on Docker through dockershim; {version}"),
                "Move the node to a CRI runtime before its kubelet becomes 1.24 or newer",
            );
            if let Some(endpoint) = flags::find(kubelet.flags(), "container-runtime-endpoint")
                && Socket::of(&endpoint.value) != Socket::Docker
            {
                look.report.find(
                    &rules::RUNTIME_ENDPOINT_IGNORED,
                    [endpoint.origin.evidence()],
                    format!("{} is set, and Docker runs the pods all the same", endpoint.value),
                    "Add --container-runtime=remote while the kubelet is older than 1.24",
                );
            }
        }
        Some(Runtime::Endpoint(endpoint)) => {
            let evidence = [endpoint.origin.evidence()];
            if Socket::of(&endpoint.value) == Socket::Docker {
                look.report.find(
                    &rules::RUNTIME_CRI_DOCKERD,
                    evidence,
                    format!("pods run on Docker through {}", endpoint.value),
                    "Nothing, as long as Docker is to stay: newer kubelets go on with cri-dockerd",
                );
            } else {
                look.report.find(
                    &rules::RUNTIME_CRI,
                    evidence,
                    format!("pods run on {}", endpoint.value),
                    "Nothing: this node does not need Docker for its pods",
                );
            }
        }
        Some(Runtime::Default) => look.report.find(
            &rules::RUNTIME_ENDPOINT_DEFAULT,
            of_kubelet(),
            format!("no endpoint is set, so that this kubelet uses {DEFAULT_ENDPOINT}"),
            "Set containerRuntimeEndpoint in the kubelet's configuration (1.27 and newer) or --container-runtime-endpoint",
        ),
        None => look.report.miss(
            "the kubelet's runtime",
            "no endpoint is set, the kubelet's version is not known, and Docker is not there",
            "give the version with --kubelet-version",
        ),
    }
}
