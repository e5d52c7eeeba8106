//! The kubelet: as it runs, and as the node's files would start it.

use std::path::{Path, PathBuf};

use super::flags::{self, Flag};
use super::look::{Look, Said, Tree};
use super::process::Process;
use super::systemd::Unit;
use super::version::Version;
use crate::document::Format;

/// The names that the unit has.
const UNITS: [&str; 2] = ["kubelet.service", "snap.microk8s.daemon-kubelet.service"];

/// What a unit may start that starts the kubelet in its own way, and does not hand on what is added to
/// its command line.
const WRAPPERS: [&str; 6] = ["docker", "podman", "rkt", "ctr", "sh", "bash"];

/// Where kubeadm keeps the configuration.
const CONFIG: &str = "/var/lib/kubelet/config.yaml";

/// What of the configuration kubeadm keeps for one node, since 1.32.
const INSTANCE: &str = "/var/lib/kubelet/instance-config.yaml";

/// All that is known of a node's kubelet.
#[derive(Debug)]
pub struct Kubelet {
    /// Those that run on the node itself, not in a container that is a node of its own.
    pub processes: Vec<Process>,
    /// The flags of the first of them, at their places in the files that say the same.
    pub running: Vec<Flag>,
    /// What systemd starts.
    pub unit: Option<Unit>,
    /// The flags that it would start with.
    pub planned: Vec<Flag>,
    /// The program of the unit, or else of the process.
    pub program: Option<PathBuf>,
    /// What the unit starts instead, which starts the kubelet: its flags are not in the unit.
    pub wrapper: Option<String>,
    /// Its configuration file.
    pub config: Option<Tree>,
    /// Whether that file is there and could not be read: what it says is not known.
    pub config_broken: bool,
    /// The files of `--config-dir`, which count before it; the last one most.
    pub drop_ins: Vec<Tree>,
    /// kubeadm's part of it for this node.
    pub instance: Option<Tree>,
    /// Where it is known.
    pub version: Option<Version>,
}

impl Kubelet {
    pub(super) fn gather(look: &mut Look<'_>, processes: &[Process]) -> Self {
        let own = |process: &&Process| is_kubelet(process) && process.of_host;
        let processes: Vec<_> = processes.iter().filter(own).cloned().collect();
        let unit = UNITS.iter().find_map(|name| Unit::load(look, name));
        let mut command = unit
            .as_ref()
            .map_or_else(Vec::new, |unit| unit.command(look));
        let wrapper = command.first().and_then(|argument| wrapper(&argument.text));
        if wrapper.is_some() {
            command.clear();
        }
        let planned = flags::parse(&command);
        let running = processes
            .first()
            .map_or_else(Vec::new, |one| flags::parse(&one.command()));
        let running = flags::located(running, &planned);
        let of_unit = command.first().map(|argument| &argument.text);
        let of_process = processes.first().map(|process| &process.arguments[0]);
        let program = of_unit.or(of_process).map(PathBuf::from);
        let named = flags::find(&running, "config").or_else(|| flags::find(&planned, "config"));
        let is_named = named.is_some();
        let path = named.map_or_else(|| CONFIG.to_string(), |flag| flag.value.clone());
        let config = look.tree(&path, Format::Yaml);
        let config_broken = config.is_none() && look.root.has(&path);
        if config.is_none() && !config_broken && is_named {
            look.report.miss(
                path,
                "the kubelet's --config names it, and it is not there",
                "look whether the node has joined its cluster",
            );
        }
        let directory =
            flags::find(&running, "config-dir").or_else(|| flags::find(&planned, "config-dir"));
        let mut paths = directory.map_or_else(Vec::new, |flag| look.list(&flag.value));
        paths.retain(|path| path.extension().is_some_and(|end| end == "conf"));
        let drop_ins: Vec<_> = paths
            .iter()
            .filter_map(|path| look.tree(path, Format::Yaml))
            .collect();
        let config_broken = config_broken || drop_ins.len() < paths.len();
        let instance = look.tree(INSTANCE, Format::Yaml);
        Self {
            processes,
            running,
            unit,
            planned,
            program,
            wrapper,
            config,
            config_broken,
            drop_ins,
            instance,
            version: None,
        }
    }

    /// Whether the node has one at all.
    pub fn is_there(&self) -> bool {
        !self.processes.is_empty() || self.unit.is_some() || self.config.is_some()
    }

    /// The flags in force: those of the running kubelet, or what it would be started with.
    pub fn flags(&self) -> &[Flag] {
        if self.processes.is_empty() {
            &self.planned
        } else {
            &self.running
        }
    }

    /// What a flag is set to, now.
    pub fn flag(&self, name: &str) -> Option<Said> {
        flags::find(self.flags(), name).map(said)
    }

    /// What the configuration says behind keys. Empty text and no time are what kubeadm writes for
    /// what is not set.
    pub fn configured(&self, keys: &[&str]) -> Option<Said> {
        let mut files = self.drop_ins.iter().rev().chain(&self.config);
        let said = files.find_map(|file| file.said(keys))?;
        (!matches!(said.value.as_str(), "" | "0s")).then_some(said)
    }

    /// A setting that is a flag and a key of the configuration: the flag counts.
    pub fn setting(&self, flag: &str, key: &str) -> Option<Said> {
        self.flag(flag).or_else(|| self.configured(&[key]))
    }

    /// How long it waits for its runtime; nothing for the default, which is two minutes.
    pub fn request_timeout(&self) -> Option<Said> {
        self.setting("runtime-request-timeout", "runtimeRequestTimeout")
    }

    /// Whether pulls of large images take longer than that.
    pub fn request_timeout_is_short(&self) -> bool {
        self.request_timeout().is_none_or(|said| {
            matches!(said.value.as_str(), "2m" | "2m0s" | "1m" | "1m0s" | "120s")
        })
    }
}

/// What a flag says.
pub(super) fn said(flag: &Flag) -> Said {
    Said {
        value: flag.value.clone(),
        origin: flag.origin.clone(),
    }
}

fn wrapper(program: &str) -> Option<String> {
    let name = program.rsplit('/').next()?;
    WRAPPERS.contains(&name).then(|| name.to_string())
}

fn is_kubelet(process: &Process) -> bool {
    match process.program() {
        "kubelet" => true,
        "hyperkube" => process.arguments.get(1).is_some_and(|one| one == "kubelet"),
        _ => false,
    }
}

/// Files of variables that hold a kubelet's arguments where the unit reads them.
pub(super) const ENVIRONMENT_FILES: [&str; 3] = [
    "/var/lib/kubelet/kubeadm-flags.env",
    "/etc/default/kubelet",
    "/etc/sysconfig/kubelet",
];

/// Whether the unit reads a file of variables.
pub(super) fn reads(unit: &Unit, path: &Path) -> bool {
    let files = unit.environment_files();
    files.iter().any(|(named, _)| named == path)
}
