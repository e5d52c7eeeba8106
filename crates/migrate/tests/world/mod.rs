//! A node and its cluster as steps of a move see them: units, packages, the kernel and the API in
//! memory, which refuse what would hurt; files below a directory. Whoever moves can be killed
//! before and after each thing that is done.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use slipway_migrate::Root;
use slipway_migrate::control_plane::{self, ControlPlane, Needs, PreflightError};
use slipway_migrate::host::{
    self, Enablement, Host, KernelState, NetworkState, Services, UnitState,
};
use slipway_migrate::node::Version;
use slipway_migrate::plan::Target;
use tempfile::TempDir;

use crate::tree::unpack;

/// A file that every move changes. It is somebody's, and has an attribute.
const GIVEN: &str = "/var/lib/kubelet/kubeadm-flags.env";

const ATTRIBUTE: &str = "user.whose";

/// What a kill is: a panic that only tests of kills catch.
pub(crate) const KILLED: &str = "killed";

/// All that a move changes, beside files.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) units: BTreeMap<String, UnitState>,
    pub(crate) packages: BTreeSet<String>,
    pub(crate) modules: BTreeSet<String>,
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) network: NetworkState,
    pub(crate) docker_pods: BTreeSet<String>,
    pub(crate) target_pods: BTreeSet<String>,
    pub(crate) carried: bool,
    pub(crate) cordoned: bool,
    pub(crate) evictable: bool,
    pub(crate) annotations: BTreeMap<String, String>,
    /// By the names of `ConfigMap`s in `kube-system`.
    pub(crate) configurations: BTreeMap<String, String>,
    pub(crate) probe: bool,
    /// What containerd has read of its configuration.
    pub(crate) read: Option<String>,
}

/// The node and its cluster.
pub(crate) struct World {
    pub(crate) directory: TempDir,
    pub(crate) state: RefCell<State>,
    /// How many more things are done before the kill; negative for none.
    pub(crate) left: Cell<i64>,
    /// What fails, by name.
    pub(crate) fails: RefCell<BTreeSet<&'static str>>,
    /// What was asked for before anything was begun.
    pub(crate) asked: RefCell<Vec<Needs>>,
    /// What was said of the steps that were going on.
    pub(crate) said: RefCell<Vec<String>>,
    /// Whether the API server is a static pod of this node.
    pub(crate) control_plane: bool,
    /// The API server's version.
    pub(crate) server: Cell<Version>,
}

/// What Docker had in the network.
fn of_docker() -> NetworkState {
    NetworkState {
        forward: [Some("DROP".to_string()), None],
        rules: [vec!["-N DOCKER".to_string()], Vec::new()],
        bridge: Some("docker0".to_string()),
    }
}

fn without_docker() -> NetworkState {
    NetworkState {
        forward: [Some("ACCEPT".to_string()), None],
        rules: [Vec::new(), Vec::new()],
        bridge: None,
    }
}

fn parameters_at_boot() -> BTreeMap<String, String> {
    BTreeMap::from([("net.ipv4.ip_forward".to_string(), "0".to_string())])
}

/// What kubeadm gives to new nodes before a move.
pub(crate) fn configuration() -> String {
    "cgroupDriver: cgroupfs\nkind: KubeletConfiguration\n".to_string()
}

impl World {
    pub(crate) fn new(node: &str, target: Target, control_plane: bool) -> Self {
        // Hundreds of moves, each entry of whose journals is synchronized: to memory, here.
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let text = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/nodes")
            .join(node);
        let _ = unpack(&fs::read_to_string(text).unwrap(), directory.path());
        let running = UnitState {
            enablement: Enablement::Enabled,
            active: true,
            linked: None,
            links: Vec::new(),
        };
        let units = ["kubelet.service", "docker.service", "docker.socket"];
        let state = State {
            units: units.map(|unit| (unit.to_string(), running.clone())).into(),
            packages: BTreeSet::new(),
            modules: BTreeSet::from(["overlay".to_string()]),
            parameters: parameters_at_boot(),
            network: of_docker(),
            docker_pods: BTreeSet::from(["static".to_string(), "plain".to_string()]),
            target_pods: BTreeSet::new(),
            carried: false,
            cordoned: false,
            evictable: true,
            annotations: BTreeMap::new(),
            configurations: BTreeMap::from([("kubelet-config-1.18".to_string(), configuration())]),
            probe: false,
            read: None,
        };
        let world = Self {
            directory,
            state: RefCell::new(state),
            left: Cell::new(-1),
            fails: RefCell::default(),
            asked: RefCell::default(),
            said: RefCell::default(),
            control_plane,
            server: Cell::new("1.18".parse().unwrap()),
        };
        fs::create_dir_all(world.at("/usr/bin")).unwrap();
        give(&world.at(GIVEN));
        // Whoever runs this has Slipway.
        if target == Target::Slipway {
            world.unpack_package(target.package());
        }
        world
    }

    /// One thing that is done: the kill, when it is time.
    pub(crate) fn point(&self) {
        match self.left.get() {
            0 => std::panic::panic_any(KILLED),
            left => self.left.set(left - 1),
        }
    }

    fn host(&self, what: &'static str) -> Result<(), host::Error> {
        self.point();
        if self.fails.borrow().contains(what) {
            return Err(host::Error::new(what, "it was told to fail"));
        }
        Ok(())
    }

    fn api(&self, what: &'static str) -> Result<(), control_plane::Error> {
        self.point();
        if self.fails.borrow().contains(what) {
            return Err(control_plane::Error::new(what, "it was told to fail"));
        }
        let state = self.state.borrow();
        let runs = state.docker_pods.contains("static") || state.target_pods.contains("static");
        if self.control_plane && !runs {
            return Err(control_plane::Error::new(what, "connection refused"));
        }
        Ok(())
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        Root::new(self.directory.path()).resolve(path).unwrap()
    }

    fn unpack_package(&self, package: &str) {
        let (program, unit) = match package {
            "containerd" => ("containerd", "containerd.service"),
            "cri-o" => ("crio", "crio.service"),
            "cri-dockerd" => ("cri-dockerd", "cri-docker.service"),
            other => (other, "slipway.service"),
        };
        for (path, text) in [
            (format!("/usr/bin/{program}"), "program"),
            (
                format!("/lib/systemd/system/{unit}"),
                "[Service]\nExecStart=/usr/bin/x\n",
            ),
        ] {
            let path = self.at(&path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        if package == "containerd" {
            fs::create_dir_all(self.at("/etc/containerd")).unwrap();
            fs::write(
                self.at("/etc/containerd/config.toml"),
                "disabled_plugins = [\"cri\"]\n",
            )
            .unwrap();
        }
        let mut state = self.state.borrow_mut();
        state.packages.insert(package.to_string());
        let stopped = UnitState {
            enablement: Enablement::Disabled,
            active: false,
            linked: None,
            links: Vec::new(),
        };
        state.units.insert(unit.to_string(), stopped.clone());
        if package == "cri-dockerd" {
            state.units.insert("cri-docker.socket".to_string(), stopped);
        }
    }

    /// Whom the kubelet would speak to with the files as they are.
    pub(crate) fn is_on_docker(&self) -> bool {
        let flags = fs::read_to_string(self.at("/var/lib/kubelet/kubeadm-flags.env")).unwrap();
        !flags.contains("--container-runtime-endpoint")
    }

    /// A kubelet makes what is missing where it looks.
    fn start_kubelet(&self) {
        let on_docker = self.is_on_docker();
        let through_docker = {
            let flags = fs::read_to_string(self.at("/var/lib/kubelet/kubeadm-flags.env")).unwrap();
            flags.contains("cri-dockerd")
        };
        let adopts = {
            let path = self.at("/etc/slipway/conf.d/20-leaving-docker.toml");
            fs::read_to_string(path).is_ok_and(|text| text.contains("also = \"docker\""))
        };
        let mut state = self.state.borrow_mut();
        let pods = if state.evictable {
            vec!["static", "plain"]
        } else {
            vec!["static"]
        };
        for pod in pods {
            if on_docker || through_docker {
                state.docker_pods.insert(pod.to_string());
            } else if !(adopts && state.docker_pods.contains(pod)) {
                state.target_pods.insert(pod.to_string());
            }
        }
        let both: Vec<_> = state.docker_pods.intersection(&state.target_pods).collect();
        assert!(both.is_empty(), "{both:?} run twice");
    }

    fn set_active(&self, name: &str, active: bool) {
        let is_target = !name.starts_with("kubelet") && !name.starts_with("docker");
        if is_target && !active {
            let state = self.state.borrow();
            assert!(
                state.target_pods.is_empty(),
                "{name} was stopped with {:?}",
                state.target_pods
            );
        }
        if name == "docker.service" && !active {
            let mut state = self.state.borrow_mut();
            assert!(
                state.docker_pods.is_empty(),
                "Docker was stopped with {:?}",
                state.docker_pods
            );
            state.network.bridge.clone_from(&of_docker().bridge);
        }
        if name == "docker.service" && active {
            self.state.borrow_mut().network = of_docker();
        }
        let was = self.state.borrow().units.get(name).cloned();
        if name == "kubelet.service" && active && was.is_some_and(|unit| !unit.active) {
            self.start_kubelet();
        }
        let mut state = self.state.borrow_mut();
        if let Some(unit) = state.units.get_mut(name) {
            unit.active = active;
        }
        if name == "containerd.service" {
            let read = fs::read_to_string(self.at("/etc/containerd/config.toml"));
            state.read = read.ok().filter(|_| active);
        }
    }

    /// The node is started anew: what is enabled runs, and only what files say is set.
    pub(crate) fn reboot(&self) {
        let parameters = fs::read_to_string(self.at("/etc/sysctl.d/99-z-leaving-docker.conf"));
        let modules = fs::read_to_string(self.at("/etc/modules-load.d/20-leaving-docker.conf"));
        let docker = {
            let mut state = self.state.borrow_mut();
            state.docker_pods.clear();
            state.target_pods.clear();
            state.modules = BTreeSet::from(["overlay".to_string()]);
            let loaded = modules.iter().flat_map(|text| text.lines());
            state.modules.extend(loaded.map(str::to_string));
            state.parameters = parameters_at_boot();
            for line in parameters.iter().flat_map(|text| text.lines()) {
                let (name, value) = line.split_once(" = ").unwrap();
                state.parameters.insert(name.to_string(), value.to_string());
            }
            for unit in state.units.values_mut() {
                unit.active = unit.enablement == Enablement::Enabled;
            }
            state.units["docker.service"].active
        };
        self.state.borrow_mut().network = if docker {
            of_docker()
        } else {
            without_docker()
        };
        if self.state.borrow().units["kubelet.service"].active {
            self.start_kubelet();
        }
    }

    /// Has a package installed, and its service running, before the move.
    pub(crate) fn run(&self, package: &str, unit: &str) {
        self.unpack_package(package);
        self.set_active(unit, true);
    }

    fn enable(&self, name: &str, enablement: Enablement) {
        let mut state = self.state.borrow_mut();
        if let Some(unit) = state.units.get_mut(name) {
            unit.enablement = enablement;
        }
    }

    /// Every file and link, but for the journal's.
    pub(crate) fn tree(&self) -> Tree {
        let mut tree = BTreeMap::new();
        walk(self.directory.path(), self.directory.path(), &mut tree);
        tree
    }
}

/// What there is at each path.
pub(crate) type Tree = BTreeMap<String, Found>;

/// A file, a link or a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) mode: u32,
    /// User and group.
    owner: (u32, u32),
    /// Its extended attribute [`ATTRIBUTE`].
    attribute: Option<Vec<u8>>,
    /// What is in a file, or where a link leads.
    pub(crate) text: String,
}

fn give(path: &Path) {
    chown(path, Some(1001), Some(1002)).unwrap();
    let set = rustix::fs::setxattr(path, ATTRIBUTE, b"somebody", XattrFlags::empty());
    // Linux before 6.6 has none in memory (tmpfs(5)).
    if let Err(refused) = set {
        assert_eq!(refused, Errno::NOTSUP);
    }
}

fn walk(base: &Path, directory: &Path, tree: &mut Tree) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("/{}", path.strip_prefix(base).unwrap().display());
        if name.starts_with("/var/lib/slipway-migrate") {
            continue;
        }
        let metadata = fs::symlink_metadata(&path).unwrap();
        let text = if metadata.is_dir() {
            walk(base, &path, tree);
            String::new()
        } else if metadata.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else {
            fs::read_to_string(&path).unwrap()
        };
        let mut value = [0; 64];
        let length = rustix::fs::lgetxattr(&path, ATTRIBUTE, &mut value[..]);
        let found = Found {
            mode: metadata.permissions().mode(),
            owner: (metadata.uid(), metadata.gid()),
            attribute: length.ok().map(|length| value[..length].to_vec()),
            text,
        };
        tree.insert(name, found);
    }
}

impl Services for World {
    async fn unit(&self, name: &str) -> Result<UnitState, host::Error> {
        self.host("unit")?;
        let absent = UnitState {
            enablement: Enablement::Absent,
            active: false,
            linked: None,
            links: Vec::new(),
        };
        Ok(self
            .state
            .borrow()
            .units
            .get(name)
            .cloned()
            .unwrap_or(absent))
    }
}

impl Host for World {
    async fn unit_to_keep(&self, name: &str) -> Result<UnitState, host::Error> {
        self.unit(name).await
    }

    async fn start(&self, name: &str) -> Result<(), host::Error> {
        self.host("start")?;
        assert!(
            self.state.borrow().units.contains_key(name),
            "{name} is started"
        );
        self.enable(name, Enablement::Enabled);
        self.point();
        self.set_active(name, true);
        self.point();
        Ok(())
    }

    async fn stop(&self, name: &str) -> Result<(), host::Error> {
        self.host("stop")?;
        self.set_active(name, false);
        self.point();
        Ok(())
    }

    async fn disable(&self, name: &str, _: &UnitState) -> Result<(), host::Error> {
        self.host("disable")?;
        self.enable(name, Enablement::Disabled);
        self.point();
        self.set_active(name, false);
        self.point();
        Ok(())
    }

    async fn restore_unit(&self, name: &str, before: &UnitState) -> Result<(), host::Error> {
        self.host("restore-unit")?;
        self.enable(name, before.enablement);
        self.point();
        if self
            .state
            .borrow()
            .units
            .get(name)
            .is_some_and(|unit| unit.active != before.active)
        {
            self.set_active(name, before.active);
        }
        self.point();
        Ok(())
    }

    async fn reload(&self) -> Result<(), host::Error> {
        self.host("reload")
    }

    async fn has_package(&self, name: &str, _: host::Progress<'_>) -> Result<bool, host::Error> {
        self.host("has-package")?;
        Ok(self.state.borrow().packages.contains(name))
    }

    async fn install(&self, name: &str, _: host::Progress<'_>) -> Result<(), host::Error> {
        self.host("install")?;
        if !self.state.borrow().packages.contains(name) {
            self.unpack_package(name);
        }
        self.point();
        Ok(())
    }

    async fn remove(&self, name: &str, _: host::Progress<'_>) -> Result<(), host::Error> {
        self.host("remove")?;
        if !self.state.borrow_mut().packages.remove(name) {
            return Ok(());
        }
        let (program, units): (_, &[&str]) = match name {
            "containerd" => ("containerd", &["containerd.service"]),
            "cri-o" => ("crio", &["crio.service"]),
            _ => ("cri-dockerd", &["cri-docker.service", "cri-docker.socket"]),
        };
        fs::remove_file(self.at(&format!("/usr/bin/{program}"))).unwrap();
        fs::remove_file(self.at(&format!("/lib/systemd/system/{}", units[0]))).unwrap();
        if name == "containerd" {
            fs::remove_dir_all(self.at("/etc/containerd")).unwrap();
            self.state.borrow_mut().read = None;
        }
        for unit in units {
            self.state.borrow_mut().units.remove(*unit);
        }
        self.point();
        Ok(())
    }

    async fn kernel(
        &self,
        modules: &[String],
        parameters: &[String],
    ) -> Result<KernelState, host::Error> {
        self.host("kernel")?;
        let state = self.state.borrow();
        Ok(KernelState {
            missing: modules
                .iter()
                .filter(|module| !state.modules.contains(*module))
                .cloned()
                .collect(),
            parameters: parameters
                .iter()
                .map(|name| (name.clone(), state.parameters.get(name).cloned()))
                .collect(),
        })
    }

    async fn set_kernel(
        &self,
        modules: &[String],
        parameters: &[String],
    ) -> Result<(), host::Error> {
        self.host("set-kernel")?;
        self.state
            .borrow_mut()
            .modules
            .extend(modules.iter().cloned());
        self.point();
        for name in parameters {
            let mut state = self.state.borrow_mut();
            state.parameters.insert(name.clone(), "1".to_string());
        }
        self.point();
        Ok(())
    }

    async fn restore_kernel(&self, before: &KernelState) -> Result<(), host::Error> {
        self.host("restore-kernel")?;
        let mut state = self.state.borrow_mut();
        for (name, value) in &before.parameters {
            match value {
                Some(value) => state.parameters.insert(name.clone(), value.clone()),
                None => state.parameters.remove(name),
            };
        }
        for module in &before.missing {
            state.modules.remove(module);
        }
        Ok(())
    }

    async fn carry_images(&self, _: Target, _: host::Progress<'_>) -> Result<(), host::Error> {
        self.host("carry-images")?;
        self.state.borrow_mut().carried = true;
        self.point();
        Ok(())
    }

    async fn stop_pods(&self, _: host::Progress<'_>) -> Result<(), host::Error> {
        self.host("stop-pods")?;
        assert!(!self.state.borrow().units["kubelet.service"].active);
        self.state.borrow_mut().docker_pods.clear();
        self.point();
        Ok(())
    }

    async fn forget(&self) -> Result<(), host::Error> {
        self.host("forget")
    }

    async fn remove_pods(
        &self,
        _: &str,
        _: bool,
        _: host::Progress<'_>,
    ) -> Result<(), host::Error> {
        self.host("remove-pods")?;
        assert!(!self.state.borrow().units["kubelet.service"].active);
        self.state.borrow_mut().target_pods.clear();
        self.point();
        Ok(())
    }

    async fn network(&self) -> Result<NetworkState, host::Error> {
        self.host("network")?;
        Ok(self.state.borrow().network.clone())
    }

    async fn clean_network(&self, _: host::Progress<'_>) -> Result<(), host::Error> {
        self.host("clean-network")?;
        assert!(!self.state.borrow().units["docker.service"].active);
        self.state.borrow_mut().network = without_docker();
        self.point();
        Ok(())
    }

    async fn restore_network(&self, before: &NetworkState) -> Result<(), host::Error> {
        self.host("restore-network")?;
        self.state.borrow_mut().network = before.clone();
        self.point();
        Ok(())
    }
}

impl ControlPlane for World {
    async fn preflight(&self, needs: Needs) -> Result<(), PreflightError> {
        self.asked.borrow_mut().push(needs);
        if self.fails.borrow().contains("answer") {
            let error = control_plane::Error::new("answer", "connection refused");
            return Err(PreflightError::Unanswered(error));
        }
        let denied = self.fails.borrow().contains("preflight");
        self.api("preflight").map_err(|error| {
            if denied {
                PreflightError::Denied(error)
            } else {
                PreflightError::Unanswered(error)
            }
        })
    }

    async fn is_ready(&self) -> Result<bool, control_plane::Error> {
        self.api("is-ready")?;
        Ok(self.state.borrow().units["kubelet.service"].active)
    }

    async fn is_cordoned(&self) -> Result<bool, control_plane::Error> {
        self.api("is-cordoned")?;
        Ok(self.state.borrow().cordoned)
    }

    async fn set_cordoned(&self, cordoned: bool) -> Result<(), control_plane::Error> {
        self.api("set-cordoned")?;
        let mut state = self.state.borrow_mut();
        state.cordoned = cordoned;
        // Pods come to a node that takes some, and whose kubelet runs.
        if !cordoned && state.units["kubelet.service"].active {
            state.evictable = true;
            if self.is_on_docker() || state.docker_pods.contains("static") {
                state.docker_pods.insert("plain".to_string());
            } else {
                state.target_pods.insert("plain".to_string());
            }
        }
        drop(state);
        self.point();
        Ok(())
    }

    async fn drain(&self, _: Duration, _: host::Progress<'_>) -> Result<(), control_plane::Error> {
        self.api("drain")?;
        let mut state = self.state.borrow_mut();
        assert!(state.cordoned, "a node that takes pods is drained");
        assert!(state.units["kubelet.service"].active, "nobody stops pods");
        state.evictable = false;
        state.docker_pods.remove("plain");
        state.target_pods.remove("plain");
        drop(state);
        self.point();
        Ok(())
    }

    async fn annotation(&self, key: &str) -> Result<Option<String>, control_plane::Error> {
        self.api("annotation")?;
        Ok(self.state.borrow().annotations.get(key).cloned())
    }

    async fn set_annotation(
        &self,
        key: &str,
        value: Option<&str>,
    ) -> Result<(), control_plane::Error> {
        self.api("set-annotation")?;
        let mut state = self.state.borrow_mut();
        match value {
            Some(value) => state.annotations.insert(key.to_string(), value.to_string()),
            None => state.annotations.remove(key),
        };
        drop(state);
        self.point();
        Ok(())
    }

    async fn version(&self) -> Result<Version, control_plane::Error> {
        self.api("version")?;
        Ok(self.server.get())
    }

    async fn kubelet_configuration(
        &self,
        name: &str,
    ) -> Result<Option<String>, control_plane::Error> {
        self.api("kubelet-configuration")?;
        Ok(self.state.borrow().configurations.get(name).cloned())
    }

    async fn replace_kubelet_configuration(
        &self,
        name: &str,
        expected: &str,
        text: &str,
    ) -> Result<bool, control_plane::Error> {
        self.api("replace-kubelet-configuration")?;
        let mut state = self.state.borrow_mut();
        let found = state.configurations.get_mut(name);
        let found = found.filter(|found| *found == expected);
        let same = found.map(|found| *found = text.to_string()).is_some();
        drop(state);
        self.point();
        Ok(same)
    }

    async fn wait_ready(
        &self,
        runtime: &str,
        _: Duration,
        _: host::Progress<'_>,
    ) -> Result<(), control_plane::Error> {
        self.api("wait-ready")?;
        if !self.state.borrow().units["kubelet.service"].active {
            return Err(control_plane::Error::new(
                "wait",
                "the kubelet does not run",
            ));
        }
        let docker = runtime.starts_with("docker://");
        let pods = &self.state.borrow().docker_pods;
        if docker && !pods.contains("static") {
            return Err(control_plane::Error::new(
                "wait",
                "the node is on another runtime",
            ));
        }
        Ok(())
    }

    async fn probe(&self, _: Duration, _: host::Progress<'_>) -> Result<(), control_plane::Error> {
        self.api("probe")?;
        self.state.borrow_mut().probe = true;
        self.point();
        self.state.borrow_mut().probe = false;
        self.point();
        Ok(())
    }

    async fn remove_probe(&self) -> Result<(), control_plane::Error> {
        self.api("remove-probe")?;
        self.state.borrow_mut().probe = false;
        Ok(())
    }
}
