//! What would change on a node that leaves dockershim: every file with its difference, every unit,
//! every object, in the order in which it has to be done. Nothing is changed here.

mod edit;
mod files;
mod kubelet;
mod runtime;
mod settings;
mod target;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::document::Malformed;
use crate::node::{self, Facts, Look, Unit, Version};
use crate::rules;
use crate::{Finding, Root};
use files::Files;

pub use files::FileChange;
pub use settings::Settings;
pub use target::Target;

/// Kernel modules and parameters, in files of their own that come after those of others.
const MODULES: &str = "/etc/modules-load.d/20-leaving-docker.conf";
const PARAMETERS: &str = "/etc/sysctl.d/99-z-leaving-docker.conf";

/// Where CNI's files are everywhere.
const CNI_CONFIGURATIONS: &str = "/etc/cni/net.d";
const CNI_PLUGINS: &str = "/opt/cni/bin";

/// kubeadm's annotation of a Node.
const CRI_SOCKET: &str = "kubeadm.alpha.kubernetes.io/cri-socket";

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the node moves to.
    pub target: Target,
    /// Whether pods are evicted first; without it Docker keeps those that it has until they end.
    pub drain: bool,
    /// What the person knows better than the node's files.
    pub node: node::Options,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing to move.
    #[error(
        "no kubelet runs here, and neither a unit nor a configuration of one is there: run it on a node of the cluster, or give --root the directory of one's files"
    )]
    NoKubelet,
    /// What starts the kubelet is not known.
    #[error(
        "the kubelet is not a service of systemd here: change what starts it by hand ({flags}), or use the migration of whoever installed it"
    )]
    NotSystemd {
        /// What it has to be started with.
        flags: String,
    },
    /// Which flags the kubelet takes is not known.
    #[error("the kubelet's version could not be found out: give it with --kubelet-version")]
    VersionUnknown,
    /// Nothing to do.
    #[error("this node's kubelet runs its pods on {target} already ({endpoint})")]
    AlreadyThere {
        /// What it runs on.
        target: Target,
        /// As the kubelet has it.
        endpoint: String,
    },
    /// Both engines at once are Slipway's.
    #[error(
        "--no-drain is for --to slipway, which has Docker's pods beside its own; to {target}, a node is drained"
    )]
    DrainNeeded {
        /// What was asked for.
        target: Target,
    },
    /// There is nothing to keep.
    #[error("--no-drain keeps Docker's pods, and this node's pods are not Docker's: leave it out")]
    NotOnDocker,
    /// Pods would have no network.
    #[error(
        "pods are on Docker's own bridge ({found}), which goes with dockershim: install a CNI network plugin in the cluster first"
    )]
    NoNetwork {
        /// What says so.
        found: String,
    },
    /// A file that has to be read or changed is broken.
    #[error("{}: {}; {}", .0.found, places(.0), .0.todo)]
    Broken(Box<Finding>),
    /// A file is not what its format allows.
    #[error("{}, {malformed}: repair the file first", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        malformed: Malformed,
    },
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is where nothing can be written.
    #[error("{} is on a file system that is read-only: make it writable, or change the image that the node is made of", path.display())]
    ReadOnly {
        /// The file that would change.
        path: PathBuf,
    },
    /// No file holds the kubelet's flags in a way that is known.
    #[error(
        "no file was found that the kubelet's unit takes its flags from: add {flags} to its command line by hand, then ask again"
    )]
    NoPlaceForFlags {
        /// What is missing.
        flags: String,
    },
    /// systemd takes no dependency back in a drop-in.
    #[error("{}: {key}= ties {unit} to Docker, which is going to be stopped: copy the file to /etc/systemd/system, take docker out of {key}= there, run systemctl daemon-reload, then ask again", path.display())]
    UnitNeedsDocker {
        /// The kubelet's unit.
        unit: String,
        /// Its file, which is a package's.
        path: PathBuf,
        /// `Requires` and the like.
        key: &'static str,
    },
    /// The configuration is written in a way that lines cannot be put into.
    #[error("{}: `{key}: {value}` cannot be put into this file; add it by hand, then ask again", path.display())]
    NoPlaceForKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
}

fn places(finding: &Finding) -> String {
    let places: Vec<_> = finding.evidence.iter().map(ToString::to_string).collect();
    places.join(", ")
}

/// All steps of a node's move, in order.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// What the node moves to.
    pub target: Target,
    /// The kubelet's version, which decides which flags it takes.
    pub kubelet: Version,
    /// Whether pods are evicted first.
    pub drain: bool,
    /// In order.
    pub steps: Vec<Step>,
    /// What does not carry over, or wants a look.
    pub remarks: Vec<String>,
}

/// One change, or one thing to wait for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "step")]
pub enum Step {
    /// No new pods come (Node `spec.unschedulable`).
    Cordon,
    /// Pods that are not of a DaemonSet are evicted, as their disruption budgets allow.
    Drain,
    /// A package of the node's package manager is installed.
    Install {
        /// Its name.
        package: &'static str,
    },
    /// A unit is stopped.
    Stop {
        /// Its name.
        unit: &'static str,
    },
    /// A file is made or changed.
    File(FileChange),
    /// systemd reads its units again.
    Reload,
    /// Modules are loaded, and parameters set, now.
    Kernel {
        /// For modprobe(8).
        modules: Vec<&'static str>,
        /// For sysctl(8), each to 1.
        parameters: Vec<&'static str>,
    },
    /// Images that Docker has are given to the target.
    CarryImages,
    /// A unit starts with the node, and now; one that runs already is started anew.
    Start {
        /// Its name.
        unit: &'static str,
    },
    /// An annotation of the Node is set.
    Annotate {
        /// Its key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// Keys of the kubelet's configuration in kubeadm's ConfigMap are set, for new nodes.
    ConfigMap {
        /// In `kube-system`.
        name: String,
        /// Key and value.
        settings: Vec<(&'static str, String)>,
    },
    /// The Node is Ready, and says that it runs on the target.
    Await {
        /// How `status.nodeInfo.containerRuntimeVersion` begins.
        runtime: &'static str,
    },
    /// A pod runs on the node and is removed again.
    Probe,
    /// A unit is stopped and does not start with the node any more.
    Disable {
        /// Its name.
        unit: &'static str,
    },
    /// Docker's chains, its FORWARD policy and its bridge are removed.
    CleanNetwork,
    /// Pods come again.
    Uncordon,
}

/// Plans the move of the node below `root`.
///
/// # Errors
///
/// What keeps the node from being moved, and what to do about it.
pub async fn make(root: &Root, options: &Options) -> Result<Plan, Error> {
    let mut look = Look::new(root);
    let facts = Facts::gather(&mut look, &options.node).await;
    refuse(&look, &facts, options)?;
    let version = facts.kubelet.version.ok_or(Error::VersionUnknown)?;
    let mut planner = Planner {
        files: Files::new(root),
        settings: settings_of(&mut look, &facts),
        facts: &facts,
        options,
        version,
        steps: Vec::new(),
    };
    planner.plan(&mut look)?;
    let Planner {
        steps, settings, ..
    } = planner;
    for step in &steps {
        if let Step::File(change) = step
            && is_read_only(root, &change.path)
        {
            let path = change.path.clone();
            return Err(Error::ReadOnly { path });
        }
    }
    Ok(Plan {
        target: options.target,
        kubelet: version,
        drain: options.drain,
        remarks: remarks(&settings, options, &facts),
        steps,
    })
}

/// What keeps a node from being moved at all.
fn refuse(look: &Look<'_>, facts: &Facts, options: &Options) -> Result<(), Error> {
    let kubelet = &facts.kubelet;
    let target = options.target;
    if !kubelet.is_there() {
        return Err(Error::NoKubelet);
    }
    let broken = &rules::FILE_MALFORMED;
    if let Some(finding) = look
        .report
        .findings
        .iter()
        .find(|one| one.rule == broken.id)
    {
        return Err(Error::Broken(Box::new(finding.clone())));
    }
    if kubelet.unit.is_none() {
        let flags = format!("--container-runtime-endpoint={}", target.endpoint());
        return Err(Error::NotSystemd { flags });
    }
    if !options.drain && target != Target::Slipway {
        return Err(Error::DrainNeeded { target });
    }
    if let Some(node::Runtime::Endpoint(endpoint)) = facts.runtime()
        && target.is_at(node::Socket::of(&endpoint.value))
    {
        return Err(Error::AlreadyThere {
            target,
            endpoint: endpoint.value,
        });
    }
    if !options.drain && !facts.is_on_docker() {
        return Err(Error::NotOnDocker);
    }
    if let Some(node::Runtime::Dockershim(_)) = facts.runtime() {
        let plugin = kubelet.flag("network-plugin").map(|said| said.value);
        match plugin.as_deref() {
            Some("cni") => {}
            Some(other) if !other.is_empty() => {
                let found = format!("--network-plugin={other}");
                return Err(Error::NoNetwork { found });
            }
            _ => {
                let found = "there is no --network-plugin".to_string();
                return Err(Error::NoNetwork { found });
            }
        }
    }
    Ok(())
}

fn settings_of(look: &mut Look<'_>, facts: &Facts) -> Settings {
    let Some(docker) = &facts.runtimes.docker else {
        return Settings::default();
    };
    let proxies = node::proxies(look, docker);
    let mut named: Vec<(String, String)> = Vec::new();
    for proxy in proxies {
        let name = proxy.name.to_ascii_lowercase();
        named.retain(|(known, _)| *known != name);
        named.push((name, proxy.value));
    }
    Settings::of(docker, named)
}

/// Whether a file, or the nearest directory above it that is there, cannot be written to.
fn is_read_only(root: &Root, path: &Path) -> bool {
    let there = path.ancestors().find(|path| root.has(path));
    let there = there.and_then(|path| root.resolve(path).ok());
    there.is_some_and(|path| {
        rustix::fs::statvfs(&path).is_ok_and(|system| {
            system
                .f_flag
                .contains(rustix::fs::StatVfsMountFlags::RDONLY)
        })
    })
}

fn remarks(settings: &Settings, options: &Options, facts: &Facts) -> Vec<String> {
    let mut remarks = Vec::new();
    let target = options.target;
    if target != Target::CriDockerd && !settings.insecure_ranges.is_empty() {
        remarks.push(format!(
            "insecure-registries has ranges of addresses ({}), which {target} does not know: name each registry in them that is used",
            settings.insecure_ranges.join(", ")
        ));
    }
    if facts.kubelet.config.is_none() {
        remarks.push(
            "the kubelet has no configuration file: sizes and numbers of log files stay what its flags or defaults say".to_string(),
        );
    }
    if target != Target::CriDockerd {
        remarks.push(
            "slipway check node says which of Docker's other settings do not carry over, and who on this node still calls docker".to_string(),
        );
    }
    remarks
}

struct Planner<'a> {
    files: Files<'a>,
    settings: Settings,
    facts: &'a Facts,
    options: &'a Options,
    version: Version,
    steps: Vec<Step>,
}

impl Planner<'_> {
    fn plan(&mut self, look: &mut Look<'_>) -> Result<(), Error> {
        let target = self.options.target;
        let leaves = target != Target::CriDockerd;
        if self.options.drain {
            self.steps.extend([Step::Cordon, Step::Drain]);
        }
        if !look.has_program(target.program()) {
            let package = target.package();
            self.steps.push(Step::Install { package });
        }
        self.steps.push(Step::Stop {
            unit: "kubelet.service",
        });
        if leaves {
            self.kernel(look)?;
        }
        self.runtime(look)?;
        self.take_files();
        let units = target.units().iter();
        self.steps.extend(units.map(|unit| Step::Start { unit }));
        if self.docker_goes() {
            self.steps.push(Step::CarryImages);
        }
        let settings = self.kubelet(look)?;
        self.take_files();
        self.steps.push(Step::Annotate {
            key: CRI_SOCKET,
            value: target.endpoint().to_string(),
        });
        self.steps.push(Step::ConfigMap {
            name: config_map(self.version),
            settings,
        });
        self.steps.push(Step::Start {
            unit: "kubelet.service",
        });
        self.steps.push(Step::Await {
            runtime: runtime_name(target),
        });
        self.steps.push(Step::Probe);
        if self.docker_goes() {
            for unit in ["docker.socket", "docker.service"] {
                if Unit::load(look, unit).is_some() {
                    self.steps.push(Step::Disable { unit });
                }
            }
            self.steps.push(Step::CleanNetwork);
        }
        if self.options.drain {
            self.steps.push(Step::Uncordon);
        }
        Ok(())
    }

    /// Whether Docker is stopped in the end.
    fn docker_goes(&self) -> bool {
        let leaves = self.options.target != Target::CriDockerd;
        leaves && self.options.drain && self.facts.runtimes.docker.is_some()
    }

    fn take_files(&mut self) {
        let changes = self.files.take();
        let units = Path::new("/etc/systemd/system");
        let reload = changes.iter().any(|change| change.path.starts_with(units));
        self.steps.extend(changes.into_iter().map(Step::File));
        if reload {
            self.steps.push(Step::Reload);
        }
    }

    /// What Docker loaded and set without saying so.
    fn kernel(&mut self, look: &mut Look<'_>) -> Result<(), Error> {
        let modules = node::modules_not_at_boot(look);
        let parameters = node::parameters_not_at_boot(look);
        if modules.is_empty() && parameters.is_empty() {
            return Ok(());
        }
        if !modules.is_empty() {
            let text = format!("{}\n", modules.join("\n"));
            self.files.write(Path::new(MODULES), text.into_bytes())?;
        }
        if !parameters.is_empty() {
            let lines: Vec<_> = parameters
                .iter()
                .map(|one| format!("{one} = 1\n"))
                .collect();
            self.files
                .write(Path::new(PARAMETERS), lines.concat().into_bytes())?;
        }
        self.take_files();
        self.steps.push(Step::Kernel {
            modules,
            parameters,
        });
        Ok(())
    }

    /// The driver that all are to have: systemd's where systemd is init; but where Docker stays, its
    /// own, and where pods stay, the one that they have.
    fn cgroup_driver(&self) -> String {
        let runtimes = &self.facts.runtimes;
        let docker = runtimes.docker.as_ref();
        if self.options.target == Target::CriDockerd
            && let Some(driver) = docker.and_then(node::Docker::cgroup_driver)
        {
            return driver.value;
        }
        let now = self.facts.kubelet.setting("cgroup-driver", "cgroupDriver");
        let drained = self.options.drain && self.options.target != Target::CriDockerd;
        match now {
            Some(now) if !(drained && runtimes.systemd) => now.value,
            None if !(drained && runtimes.systemd) => "cgroupfs".to_string(),
            _ => "systemd".to_string(),
        }
    }

    fn runtime(&mut self, look: &mut Look<'_>) -> Result<(), Error> {
        let flag = |name: &str| self.facts.kubelet.flag(name).map(|said| said.value);
        let pause_image = flag("pod-infra-container-image");
        let elsewhere = |path: &String, usual: &str| path.trim_end_matches('/') != usual;
        let plugins = flag("cni-bin-dir").filter(|path| elsewhere(path, CNI_PLUGINS));
        let plugins = plugins.iter().flat_map(|paths| paths.split(','));
        let cni = runtime::Cni {
            configurations: flag("cni-conf-dir").filter(|path| elsewhere(path, CNI_CONFIGURATIONS)),
            plugins: plugins.map(str::to_string).collect(),
        };
        let unit = Unit::load(look, self.options.target.service());
        let wanted = runtime::Wanted {
            target: self.options.target,
            systemd_cgroups: self.cgroup_driver() == "systemd",
            pause_image: pause_image.as_deref(),
            cni,
            docker: &self.settings,
            beside_docker: !self.options.drain,
            unit: unit.as_ref(),
        };
        runtime::change(&mut self.files, &wanted)
    }

    fn kubelet(&mut self, look: &mut Look<'_>) -> Result<Vec<(&'static str, String)>, Error> {
        let kubelet = &self.facts.kubelet;
        let command = kubelet.unit.as_ref().map(|unit| unit.command(look));
        let driver = self.cgroup_driver();
        let wanted = kubelet::Wanted {
            target: self.options.target,
            version: self.version,
            cgroup_driver: &driver,
            docker: &self.settings,
            docker_goes: self.docker_goes(),
        };
        let arguments = command.unwrap_or_default();
        kubelet::change(&mut self.files, kubelet, &arguments, &wanted)?;
        Ok(kubelet::settings(kubelet, &wanted, false))
    }
}

/// kubeadm's ConfigMap had the version in its name before 1.24.
fn config_map(version: Version) -> String {
    if version < Version::new(1, 24) {
        format!("kubelet-config-{version}")
    } else {
        "kubelet-config".to_string()
    }
}

fn runtime_name(target: Target) -> &'static str {
    match target {
        Target::Slipway => "slipway://",
        Target::Containerd => "containerd://",
        Target::Crio => "cri-o://",
        Target::CriDockerd => "docker://",
    }
}

impl fmt::Display for Step {
    /// One line: what is done.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cordon => out.write_str("cordon the node, so that no new pods come"),
            Self::Drain => out.write_str(
                "drain the node: evict all pods but those of DaemonSets, as disruption budgets allow",
            ),
            Self::Install { package } => write!(out, "install the package {package}"),
            Self::Stop { unit } => write!(out, "stop {unit}"),
            Self::File(change) if change.before.is_none() => {
                write!(out, "make {}", change.path.display())
            }
            Self::File(change) => write!(out, "change {}", change.path.display()),
            Self::Reload => out.write_str("have systemd read its units again"),
            Self::Kernel {
                modules,
                parameters,
            } => {
                let mut parts = Vec::new();
                if !modules.is_empty() {
                    parts.push(format!("load {}", modules.join(", ")));
                }
                if !parameters.is_empty() {
                    parts.push(format!("set {} to 1", parameters.join(", ")));
                }
                out.write_str(&parts.join("; "))
            }
            Self::CarryImages => out.write_str("carry Docker's images over"),
            Self::Start { unit } => write!(out, "enable {unit}, and start it anew"),
            Self::Annotate { key, value } => write!(out, "annotate the Node: {key}={value}"),
            Self::ConfigMap { name, settings } => {
                let settings: Vec<_> = settings
                    .iter()
                    .map(|(key, value)| format!("{key}: {value}"))
                    .collect();
                let settings = settings.join(", ");
                write!(out, "set {settings} in the ConfigMap kube-system/{name}, if kubeadm made one")
            }
            Self::Await { runtime } => {
                write!(out, "wait until the Node is Ready and its runtime is {runtime}…")
            }
            Self::Probe => out.write_str("run a pod on the node, and remove it"),
            Self::Disable { unit } => write!(out, "stop and disable {unit}"),
            Self::CleanNetwork => {
                out.write_str("remove Docker's chains from the packet filter, and its bridge")
            }
            Self::Uncordon => out.write_str("uncordon the node, so that pods come again"),
        }
    }
}
