//! What would change on a node that leaves dockershim: every file with its difference, every unit,
//! every object, in the order in which it has to be done. Nothing is changed here.

mod certificates;
mod cni;
mod containerd;
mod cri;
mod edit;
mod error;
mod files;
mod hosts;
mod kubelet;
mod proxies;
mod remarks;
mod runtime;
mod settings;
mod step;
mod target;
mod unread;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Root;
use crate::document::Source;
use crate::host;
use crate::node::{self, Facts, Look, SNAP, Unit, Version};
use crate::rules;
use cni::Cni;
use files::Files;

pub use certificates::Certificates;
pub use error::Error;
pub use files::FileChange;
pub(crate) use files::{Bytes, difference};
pub use settings::Settings;
pub(crate) use settings::has as range_has;
pub use step::Step;
pub use target::Target;

/// Kernel modules and parameters, in files of their own that come after those of others.
const MODULES: &str = "/etc/modules-load.d/20-leaving-docker.conf";
const PARAMETERS: &str = "/etc/sysctl.d/99-z-leaving-docker.conf";

/// What is stopped with Docker, in this order: a socket would start its service again.
const DOCKERS: [&str; 7] = [
    "cri-docker.socket",
    "cri-docker.service",
    // kubespray's names for them.
    "cri-dockerd.socket",
    "cri-dockerd.service",
    "docker.socket",
    "docker.service",
    SNAP,
];

/// The kubelet's unit, wherever systemd starts it.
pub(crate) const KUBELET: &str = "kubelet.service";

/// kubeadm's annotation of a Node.
pub(crate) const CRI_SOCKET: &str = "kubeadm.alpha.kubernetes.io/cri-socket";

/// What is wanted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Options {
    /// What the node moves to.
    pub target: Target,
    /// Whether pods are evicted first; without it Docker keeps those that it has until they end.
    pub drain: bool,
    /// Whether containers in Docker that no kubelet owns may be stopped with it.
    pub stop_others: bool,
    /// What the person knows better than the node's files.
    pub node: node::Options,
}

/// All steps of a node's move, in order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// What the node moves to.
    pub target: Target,
    /// The Node's name, where the kubelet is told one.
    pub node: Option<String>,
    /// How `status.nodeInfo.containerRuntimeVersion` begins now; empty where it is not known.
    pub from: String,
    /// The kubelet's version, which decides which flags it takes.
    pub kubelet: Version,
    /// Whether pods are evicted first.
    pub drain: bool,
    /// In order.
    pub steps: Vec<Step>,
    /// What does not carry over, or wants a look.
    pub remarks: Vec<String>,
}

/// Plans the move of the node below `root`.
///
/// # Errors
///
/// What keeps the node from being moved, and what to do about it.
pub async fn make(root: &Root, options: &Options) -> Result<Plan, Error> {
    let mut look = Look::new(root);
    let facts = Facts::gather(&mut look, &options.node).await;
    let settings = settings_of(&mut look, &facts);
    refuse(&look, &facts, options)?;
    let begun = begun_by_hand(root, &facts, options).await?;
    let mut remarks: Vec<_> = begun.into_iter().collect();
    if !options.drain && !facts.is_on_docker() {
        return Err(Error::NotOnDocker);
    }
    if leaves_docker(&facts, options)
        && let Some(socket) = node::missing_socket(&look, &facts)
    {
        remarks.push(unasked(socket, root.is_live())?);
    }
    if leaves_docker(&facts, options) && !options.stop_others {
        let strangers = node::strangers(&look, &facts).await;
        let containers = strangers.map_err(|why| Error::StrangersUnknown { why })?;
        if !containers.is_empty() {
            return Err(Error::Strangers { containers });
        }
    }
    let version = facts.kubelet.version.ok_or(Error::VersionUnknown)?;
    let found = release(&mut look, options.target).await;
    remarks.extend(cri::judge(version, options.target, found)?);
    let mut planner = Planner {
        files: Files::new(root),
        settings,
        facts: &facts,
        options,
        version,
        steps: Vec::new(),
        remarks,
    };
    planner.plan(&mut look)?;
    unread::refuse(&look, options.target)?;
    let Planner {
        steps,
        settings,
        mut remarks,
        ..
    } = planner;
    remarks.extend(remarks::of(&settings, options, &facts));
    remarks.extend(unread::remarks(&look, options.target));
    if options.target == Target::CriDockerd
        && let Some(docker) = node::too_old_for_cri_dockerd(&look, &facts).await
    {
        remarks.push(remarks::too_old(&docker));
    }
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
        node: facts
            .kubelet
            .flag("hostname-override")
            .map(|said| said.value),
        from: from(&facts).to_string(),
        kubelet: version,
        drain: options.drain,
        remarks,
        steps,
    })
}

/// The text of a kubelet's configuration with these settings.
///
/// # Errors
///
/// A text that is no YAML, or where lines cannot be put into it.
pub(crate) fn kubelet_configuration(
    text: &str,
    settings: &[(String, String)],
) -> Result<String, Error> {
    let source = Source::new("kubelet", text);
    let edited = kubelet::configured(source, settings)?;
    Ok(edited.text().to_string())
}

/// What keeps a node from being moved at all.
fn refuse(look: &Look<'_>, facts: &Facts, options: &Options) -> Result<(), Error> {
    let kubelet = &facts.kubelet;
    let target = options.target;
    if !kubelet.is_there() && facts.distribution().is_none() {
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
    unread::refuse(look, target)?;
    if let Some(unit) = &kubelet.unit
        && let Some(program) = &kubelet.wrapper
    {
        return Err(Error::KubeletInside {
            unit: unit.name.clone(),
            program: program.clone(),
            flags: format!("--container-runtime-endpoint={}", target.endpoint()),
        });
    }
    if !options.drain && target != Target::Slipway {
        return Err(Error::DrainNeeded { target });
    }
    if target == Target::CriDockerd && facts.runtimes.docker.is_none() {
        return Err(Error::NoDocker);
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

/// The target's release: of the program that is there, or of the package that would be installed.
async fn release(look: &mut Look<'_>, target: Target) -> Option<cri::Found> {
    let (package, program) = (target.package(), target.program());
    if look.has_program(program) {
        let packages = host::packages_of(package);
        let release = node::release(look, (program, target.service()), packages).await?;
        let offered_by = None;
        return Some(cri::Found {
            release,
            offered_by,
        });
    }
    if !look.root.is_live() {
        return None;
    }
    let (manager, version) = host::offered(look.root, package).await?;
    Some(cri::Found {
        release: version.parse().ok()?,
        offered_by: Some(manager),
    })
}

/// What somebody has begun, where the kubelet is pointed at the target and cannot run pods there.
///
/// # Errors
///
/// [`Error::AlreadyThere`] where nothing is known to keep it from that.
async fn begun_by_hand(
    root: &Root,
    facts: &Facts,
    options: &Options,
) -> Result<Option<String>, Error> {
    let target = options.target;
    let endpoint = match facts.runtime() {
        Some(node::Runtime::Endpoint(endpoint)) => endpoint.value,
        _ => return Ok(None),
    };
    if !target.is_at(node::Socket::of(&endpoint)) {
        return Ok(None);
    }
    let findings = node::check(root, &options.node).await.findings;
    let found: Vec<_> = findings
        .into_iter()
        .filter(|finding| keeps_pods_away(finding.rule, target))
        .map(|finding| finding.found)
        .collect();
    if found.is_empty() {
        return Err(Error::AlreadyThere { target, endpoint });
    }
    Ok(Some(format!(
        "the kubelet is pointed at {target} already, and cannot run pods there ({}): these steps end what was begun",
        found.join("; ")
    )))
}

/// Whether a finding keeps a kubelet that is pointed at a runtime from running pods there.
fn keeps_pods_away(rule: &str, target: Target) -> bool {
    // Under Docker, containerd needs no CRI.
    let of_target = [(Target::Containerd, rules::CONTAINERD_CRI_DISABLED.id)];
    let of_all = [
        rules::KUBELET_FLAG_REFUSED.id,
        rules::CGROUP_DRIVER_MISMATCH.id,
    ];
    of_all.contains(&rule) || of_target.contains(&(target, rule))
}

/// Whether Docker is stopped in the end.
fn leaves_docker(facts: &Facts, options: &Options) -> bool {
    let leaves = options.target != Target::CriDockerd;
    leaves && options.drain && facts.runtimes.docker.is_some()
}

/// What is said of a Docker that cannot be asked for containers of others: files of a node are planned
/// for all the same.
///
/// # Errors
///
/// On the node itself, where they would be stopped, and images are carried over.
fn unasked(socket: &'static str, is_live: bool) -> Result<String, Error> {
    if is_live {
        return Err(Error::DockerUnasked { socket });
    }
    Ok("Docker runs, and has no socket below --root: containers that no kubelet owns would be stopped with it, and are not known here; on the node, apply asks for them before it begins".to_string())
}

fn settings_of(look: &mut Look<'_>, facts: &Facts) -> Settings {
    let Some(docker) = &facts.runtimes.docker else {
        return Settings::default();
    };
    let proxies = node::proxies(look, docker);
    let mut named: Vec<(String, String)> = Vec::new();
    for proxy in proxies {
        let name = proxy.name.to_ascii_lowercase().replace('-', "_");
        named.retain(|(known, _)| *known != name);
        named.push((name, proxy.value));
    }
    Settings {
        certificates: Certificates::of_hosts(look),
        ..Settings::of(docker, named)
    }
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

struct Planner<'a> {
    files: Files<'a>,
    settings: Settings,
    facts: &'a Facts,
    options: &'a Options,
    version: Version,
    steps: Vec<Step>,
    remarks: Vec<String>,
}

impl Planner<'_> {
    fn plan(&mut self, look: &mut Look<'_>) -> Result<(), Error> {
        let target = self.options.target;
        if !look.has_program(target.program()) {
            let package = target.package().to_string();
            self.steps.push(Step::Install { package });
        }
        if self.options.drain {
            self.steps.extend([Step::Cordon, Step::Drain]);
        }
        if target != Target::CriDockerd {
            self.kernel(look)?;
        }
        self.runtime(look)?;
        self.take_files();
        let units = target.units().iter();
        self.steps.extend(units.map(|unit| start(unit)));
        if self.docker_goes() {
            self.steps.push(Step::CarryImages);
        }
        // On a control plane the API server may stop with the kubelet, and is back with it.
        let settings = self.kubelet(look)?;
        self.steps.push(Step::Annotate {
            key: CRI_SOCKET.to_string(),
            value: target.endpoint().to_string(),
        });
        self.steps.push(Step::ConfigMap {
            name: None,
            settings,
        });
        self.steps.push(Step::Stop {
            unit: KUBELET.to_string(),
        });
        self.take_files();
        if self.docker_goes() {
            self.steps.push(Step::StopPods { endpoint: None });
        }
        if let Some(endpoint) = self.left_endpoint() {
            let endpoint = Some(endpoint);
            self.steps.push(Step::StopPods { endpoint });
        }
        self.steps.push(start(KUBELET));
        self.steps.push(Step::Await {
            runtime: runtime_name(target).to_string(),
        });
        self.steps.push(Step::Probe);
        if self.docker_goes() {
            self.stop_docker(look);
        }
        if self.options.drain {
            self.steps.push(Step::Uncordon);
        }
        Ok(())
    }

    /// Docker's units, and what it leaves in the network. One that systemd does not know of is for
    /// whoever started it.
    fn stop_docker(&mut self, look: &mut Look<'_>) {
        let is_there = |look: &mut Look<'_>, unit: &str| Unit::load(look, unit).is_some();
        let mut is_service = false;
        for unit in DOCKERS {
            if is_there(look, unit) {
                is_service |= matches!(unit, "docker.service" | SNAP);
                let unit = unit.to_string();
                self.steps.push(Step::Disable { unit });
            }
        }
        if is_service {
            self.steps.push(Step::CleanNetwork);
        } else {
            self.remarks.push(
                "Docker is no service of systemd here: stop it by hand once the node has proved itself; its bridges and its chains go with the next reboot".to_string(),
            );
        }
    }

    fn docker_goes(&self) -> bool {
        leaves_docker(self.facts, self.options)
    }

    /// Where pods are now, if that is not Docker.
    fn left_endpoint(&self) -> Option<String> {
        match self.facts.runtime()? {
            node::Runtime::Endpoint(endpoint) if !self.facts.is_on_docker() => Some(endpoint.value),
            _ => None,
        }
    }

    fn take_files(&mut self) {
        let changes = self.files.take();
        let reload = changes.iter().any(FileChange::is_of_units);
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
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_string).collect();
        self.steps.push(Step::Kernel {
            modules: owned(modules),
            parameters: owned(parameters),
        });
        Ok(())
    }

    /// The driver that all are to have: systemd's where systemd is init; but where Docker stays, its
    /// own, and where pods stay, the one that they have.
    fn cgroup_driver(&self) -> String {
        let runtimes = &self.facts.runtimes;
        let docker = runtimes.docker.as_ref();
        if self.options.target == Target::CriDockerd
            && let Some(docker) = docker
        {
            let said = docker.cgroup_driver().map(|said| said.value);
            return said.unwrap_or_else(|| runtimes.docker_default_driver().to_string());
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
        let flag = |name: &str| self.facts.dockershim_flag(name);
        let pause_image = flag("pod-infra-container-image");
        let dockershim = runtime::OF_CRI_DOCKERD.into_iter();
        let dockershim = dockershim.filter_map(|name| Some((name, flag(name)?)));
        let unit = Unit::load(look, self.options.target.service());
        let wanted = runtime::Wanted {
            target: self.options.target,
            systemd_cgroups: self.cgroup_driver() == "systemd",
            pause_image: pause_image.as_deref(),
            cni: Cni::of(look, self.facts),
            imported: self
                .facts
                .runtimes
                .containerd
                .as_ref()
                .map_or_else(Vec::new, node::Containerd::imported),
            dockershim: dockershim.collect(),
            docker: &self.settings,
            beside_docker: !self.options.drain,
            unit: unit.as_ref(),
        };
        let remarks = runtime::change(&mut self.files, &wanted)?;
        self.remarks.extend(remarks);
        Ok(())
    }

    fn kubelet(&mut self, look: &mut Look<'_>) -> Result<Vec<(String, String)>, Error> {
        let kubelet = &self.facts.kubelet;
        let command = kubelet.unit.as_ref().map(|unit| unit.command(look));
        let driver = self.cgroup_driver();
        let wanted = kubelet::Wanted {
            target: self.options.target,
            version: self.version,
            cgroup_driver: &driver,
            docker: &self.settings,
            docker_goes: self.docker_goes(),
            on_dockershim: matches!(self.facts.runtime(), Some(node::Runtime::Dockershim(_))),
        };
        let arguments = command.unwrap_or_default();
        kubelet::change(&mut self.files, kubelet, &arguments, &wanted)?;
        let settings = kubelet::settings(kubelet, &wanted, false);
        let settings = settings.into_iter();
        Ok(settings
            .map(|(key, value)| (key.to_string(), value))
            .collect())
    }
}

fn start(unit: &str) -> Step {
    let unit = unit.to_string();
    Step::Start { unit }
}

fn from(facts: &Facts) -> &'static str {
    match facts.runtime().map(|runtime| runtime.socket()) {
        Some(node::Socket::Docker) => runtime_name(Target::CriDockerd),
        Some(node::Socket::Containerd) => runtime_name(Target::Containerd),
        Some(node::Socket::Crio) => runtime_name(Target::Crio),
        Some(node::Socket::Slipway) => runtime_name(Target::Slipway),
        Some(node::Socket::Other) | None => "",
    }
}

/// How `status.nodeInfo.containerRuntimeVersion` begins.
pub(crate) fn runtime_name(target: Target) -> &'static str {
    match target {
        Target::Slipway => "slipway://",
        Target::Containerd => "containerd://",
        Target::Crio => "cri-o://",
        Target::CriDockerd => "docker://",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_docker_that_cannot_be_asked_is_no_docker_without_containers() {
        let command = b"/usr/bin/dockerd\0-H\0tcp://127.0.0.1:2375\0";
        for (process, socket, hidden) in [
            (Some(command), None, true),
            (Some(command), Some("run/docker.sock"), false),
            (None, None, false),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let at = |path: &str| {
                let path = directory.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                path
            };
            fs::write(at("etc/docker/daemon.json"), "{}").unwrap();
            fs::write(at("proc/1/cmdline"), "/sbin/init").unwrap();
            if let Some(command) = process {
                fs::write(at("proc/7/cmdline"), command).unwrap();
            }
            if let Some(socket) = socket {
                fs::write(at(socket), "").unwrap();
            }
            let root = Root::new(directory.path());
            let mut look = Look::new(&root);
            let facts = Facts::gather(&mut look, &node::Options::default()).await;
            let why = node::missing_socket(&look, &facts);
            assert_eq!(why.is_some(), hidden, "{why:?}");
        }
        let refused = unasked("/run/docker.sock", true).unwrap_err().to_string();
        assert!(refused.contains("-H unix:///run/docker.sock"), "{refused}");
        assert!(unasked("/run/docker.sock", false).is_ok());
    }
}
