//! The target's own files, with what Docker and dockershim were told.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, value};

use super::certificates::{self, Certificates};
use super::files::Files;
use super::target::Target;
use super::{Error, Settings, proxies};
use crate::document::Source;
use crate::node::Unit;

/// The name that files get which are ours alone: they come after those of packages and before
/// those of people who number theirs higher.
pub(super) const OWN: &str = "20-leaving-docker";

/// What CRI-O has to agree on with the kubelet comes after all others: the last one counts.
const CRIO: &str = "/etc/crio/crio.conf.d/99-z-leaving-docker.conf";

/// The node itself, which dockerd asks without TLS whatever it is told; CRI-O has to be told.
const LOOPBACK: [&str; 2] = ["127.0.0.1", "localhost"];

/// dockershim's flags that cri-dockerd has as well.
pub(super) const OF_CRI_DOCKERD: [&str; 3] = [
    "cni-cache-dir",
    "docker-endpoint",
    "image-pull-progress-deadline",
];

/// Where containerd looks for registries' hosts.
const CERTIFICATES: &str = "/etc/containerd/certs.d";

/// What the runtime is to be told.
pub(super) struct Wanted<'a> {
    pub(super) target: Target,
    pub(super) systemd_cgroups: bool,
    /// The kubelet's `--pod-infra-container-image`.
    pub(super) pause_image: Option<&'a str>,
    /// The kubelet's `--cni-conf-dir` and `--cni-bin-dir`, where they are not what everybody has.
    pub(super) cni: Cni,
    /// What else dockershim was told, and cri-dockerd can be.
    pub(super) dockershim: Vec<(&'static str, String)>,
    pub(super) docker: &'a Settings,
    /// Docker keeps its pods for as long as they live.
    pub(super) beside_docker: bool,
    /// The target's unit, if it is installed.
    pub(super) unit: Option<&'a Unit>,
}

/// Where CNI's files are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cni {
    pub(super) configurations: Option<String>,
    pub(super) plugins: Vec<String>,
}

impl Cni {
    fn is_default(&self) -> bool {
        self.configurations.is_none() && self.plugins.is_empty()
    }
}

/// Changes the target's files.
pub(super) fn change(files: &mut Files<'_>, wanted: &Wanted<'_>) -> Result<(), Error> {
    match wanted.target {
        Target::Slipway => slipway(files, wanted)?,
        Target::Containerd => containerd(files, wanted)?,
        Target::Crio => crio(files, wanted)?,
        Target::CriDockerd => return cri_dockerd(files, wanted),
    }
    proxies::change(files, wanted.target, &wanted.docker.proxies)
}

fn slipway(files: &mut Files<'_>, wanted: &Wanted<'_>) -> Result<(), Error> {
    let mut document = DocumentMut::new();
    if wanted.beside_docker {
        let engine = table(document.as_table_mut(), &["engine"]);
        engine.insert("name", value("native"));
        engine.insert("also", value("docker"));
    }
    let driver = if wanted.systemd_cgroups {
        "systemd"
    } else {
        "cgroupfs"
    };
    table(document.as_table_mut(), &["runtime"]).insert("cgroup_driver", value(driver));
    if !wanted.cni.is_default() {
        let network = table(document.as_table_mut(), &["network"]);
        if let Some(directory) = &wanted.cni.configurations {
            network.insert("conf_dir", value(directory));
        }
        if !wanted.cni.plugins.is_empty() {
            network.insert("bin_dirs", value(array(&wanted.cni.plugins)));
        }
    }
    let path = PathBuf::from(format!("/etc/slipway/conf.d/{OWN}.toml"));
    files.write(&path, document.to_string().into_bytes())?;
    let registries = registries(wanted.docker, &wanted.docker.insecure_registries);
    write_registries(files, registries)
}

fn crio(files: &mut Files<'_>, wanted: &Wanted<'_>) -> Result<(), Error> {
    let mut document = DocumentMut::new();
    let driver = if wanted.systemd_cgroups {
        "systemd"
    } else {
        "cgroupfs"
    };
    let runtime = table(document.as_table_mut(), &["crio", "runtime"]);
    runtime.insert("cgroup_manager", value(driver));
    if !wanted.systemd_cgroups {
        // CRI-O refuses a slice for conmon without systemd's manager.
        runtime.insert("conmon_cgroup", value("pod"));
    }
    if let Some(image) = wanted.pause_image {
        table(document.as_table_mut(), &["crio", "image"]).insert("pause_image", value(image));
    }
    if !wanted.cni.is_default() {
        let network = table(document.as_table_mut(), &["crio", "network"]);
        if let Some(directory) = &wanted.cni.configurations {
            network.insert("network_dir", value(directory));
        }
        if !wanted.cni.plugins.is_empty() {
            network.insert("plugin_dirs", value(array(&wanted.cni.plugins)));
        }
    }
    files.write(Path::new(CRIO), document.to_string().into_bytes())?;
    // Without it CRI-O refuses names without a registry, which are Docker Hub's everywhere else.
    let hub = "unqualified-search-registries = [\"docker.io\"]\n\n";
    let mut insecure = wanted.docker.insecure_registries.clone();
    for host in LOOPBACK {
        if !insecure.iter().any(|one| one == host) {
            insecure.push(host.to_string());
        }
    }
    let registries = registries(wanted.docker, &insecure);
    write_registries(files, format!("{hub}{registries}"))
}

/// `containers-registries.conf(5)`, which CRI-O and Slipway read.
fn registries(docker: &Settings, insecure: &[String]) -> String {
    let mut text = String::new();
    for registry in insecure {
        let _ = writeln!(
            text,
            "[[registry]]\nlocation = {registry:?}\ninsecure = true\n"
        );
    }
    if !docker.mirrors.is_empty() {
        text.push_str("[[registry]]\nlocation = \"docker.io\"\n\n");
    }
    for mirror in &docker.mirrors {
        let (scheme, location) = mirror.split_once("://").unwrap_or(("https", mirror));
        let location = location.trim_end_matches('/');
        let host = location.split('/').next().unwrap_or(location);
        let insecure = scheme == "http" || docker.is_insecure(host);
        let _ = writeln!(text, "[[registry.mirror]]\nlocation = {location:?}");
        if insecure {
            text.push_str("insecure = true\n");
        }
        text.push('\n');
    }
    text
}

fn write_registries(files: &mut Files<'_>, mut text: String) -> Result<(), Error> {
    if text.is_empty() {
        return Ok(());
    }
    text.truncate(text.trim_end().len() + 1);
    let path = PathBuf::from(format!("/etc/containers/registries.conf.d/{OWN}.conf"));
    files.write(&path, text.into_bytes())
}

fn containerd(files: &mut Files<'_>, wanted: &Wanted<'_>) -> Result<(), Error> {
    let path = Path::new("/etc/containerd/config.toml");
    let source = files.read(path)?;
    let mut document = match &source {
        Some(source) => document(path, source)?,
        None => DocumentMut::new(),
    };
    let root = document.as_table_mut();
    let plugins = Plugins::of(root);
    if let Some(disabled) = root
        .get_mut("disabled_plugins")
        .and_then(Item::as_array_mut)
    {
        disabled.retain(|plugin| {
            !plugin
                .as_str()
                .is_some_and(|name| name.split('.').any(|part| part == "cri"))
        });
    }
    let runc = ["plugins", plugins.runtime, "containerd", "runtimes", "runc"];
    let runtime = table(root, &runc);
    if !runtime.contains_key("runtime_type") {
        runtime.insert("runtime_type", value("io.containerd.runc.v2"));
    }
    let options = table(root, &[&runc[..], &["options"]].concat());
    set(options, "SystemdCgroup", wanted.systemd_cgroups.into());
    if let Some(image) = wanted.pause_image {
        let (keys, key) = plugins.pause_image;
        set(table(root, keys), key, image.into());
    }
    if wanted.docker.has_registries() || !wanted.docker.certificates.is_empty() {
        let registry = table(root, plugins.registry);
        if let Some(key) = instead_of_hosts(registry) {
            let path = path.to_path_buf();
            return Err(Error::InsteadOfHosts { path, key });
        }
        let is = registry.get("config_path").and_then(Item::as_str);
        let directories = directories(is.unwrap_or_default(), wanted.docker);
        set(registry, "config_path", directories.into());
    }
    if !wanted.cni.is_default() {
        let cni = table(root, &["plugins", plugins.runtime, "cni"]);
        if let Some(directory) = &wanted.cni.configurations {
            set(cni, "conf_dir", directory.as_str().into());
        }
        if let Some(directory) = wanted.cni.plugins.first() {
            set(cni, "bin_dir", directory.as_str().into());
        }
    }
    files.write(path, document.to_string().into_bytes())?;
    hosts(files, wanted.docker)
}

/// Where containerd looks for hosts: where it does already, and where ours are.
fn directories(is: &str, docker: &Settings) -> String {
    let mut directories: Vec<_> = is.split(':').filter(|one| !one.is_empty()).collect();
    if docker.has_registries() && !directories.contains(&CERTIFICATES) {
        directories.insert(0, CERTIFICATES);
    }
    if !docker.certificates.is_empty() && !directories.contains(&certificates::DIRECTORY) {
        directories.push(certificates::DIRECTORY);
    }
    directories.join(":")
}

/// The older way to say what `hosts.toml` says; the CRI plugin does not start with both.
fn instead_of_hosts(registry: &dyn TableLike) -> Option<&'static str> {
    let inside = |key: &str| registry.get(key).and_then(Item::as_table_like);
    if inside("mirrors").is_some_and(|mirrors| !mirrors.is_empty()) {
        return Some("mirrors");
    }
    let mut configs = inside("configs")?.iter();
    let has_tls = |item: &Item| {
        let table = item.as_table_like();
        table.is_some_and(|table| table.contains_key("tls"))
    };
    configs.any(|(_, item)| has_tls(item)).then_some("configs")
}

/// Where the version of a file has the CRI plugin's settings.
struct Plugins {
    runtime: &'static str,
    pause_image: (&'static [&'static str], &'static str),
    registry: &'static [&'static str],
}

impl Plugins {
    /// A file that says nothing of its version and of plugins becomes one of version 2, which all
    /// that are in use read.
    fn of(root: &mut Table) -> Self {
        const CRI: &str = "io.containerd.grpc.v1.cri";
        let version = root.get("version").and_then(Item::as_integer);
        match version {
            Some(3..) => Self {
                runtime: "io.containerd.cri.v1.runtime",
                pause_image: (
                    &["plugins", "io.containerd.cri.v1.images", "pinned_images"],
                    "sandbox",
                ),
                registry: &["plugins", "io.containerd.cri.v1.images", "registry"],
            },
            None | Some(1) if root.contains_key("plugins") => Self {
                runtime: "cri",
                pause_image: (&["plugins", "cri"], "sandbox_image"),
                registry: &["plugins", "cri", "registry"],
            },
            Some(2) => Self::second(CRI),
            _ => {
                root.insert("version", value(2));
                Self::second(CRI)
            }
        }
    }

    fn second(runtime: &'static str) -> Self {
        Self {
            runtime,
            pause_image: (&["plugins", "io.containerd.grpc.v1.cri"], "sandbox_image"),
            registry: &["plugins", "io.containerd.grpc.v1.cri", "registry"],
        }
    }
}

/// containerd's `hosts.toml`, one for each registry.
fn hosts(files: &mut Files<'_>, docker: &Settings) -> Result<(), Error> {
    const CAPABILITIES: &str = "capabilities = [\"pull\", \"resolve\"]\n";
    let path = |registry: &str| PathBuf::from(format!("{CERTIFICATES}/{registry}/hosts.toml"));
    let certificates = |host: &str| {
        let known = docker.certificates.get(host);
        known.map_or_else(String::new, Certificates::in_hosts_toml)
    };
    if !docker.mirrors.is_empty() {
        let mut text = String::from("server = \"https://registry-1.docker.io\"\n");
        for mirror in &docker.mirrors {
            let url = if mirror.contains("://") {
                mirror.trim_end_matches('/').to_string()
            } else {
                format!("https://{}", mirror.trim_end_matches('/'))
            };
            let _ = write!(text, "\n[host.{url:?}]\n{CAPABILITIES}");
            let host = url
                .strip_prefix("https://")
                .and_then(|rest| rest.split('/').next());
            if let Some(host) = host {
                if docker.is_insecure(host) {
                    text.push_str("skip_verify = true\n");
                }
                text.push_str(&certificates(host));
            }
        }
        host_file(files, &path("docker.io"), &text)?;
    }
    for registry in &docker.insecure_registries {
        let certificates = certificates(registry);
        let text = format!(
            "server = \"https://{registry}\"\n\n[host.\"https://{registry}\"]\n{CAPABILITIES}skip_verify = true\n{certificates}\n\
             [host.\"http://{registry}\"]\n{CAPABILITIES}"
        );
        host_file(files, &path(registry), &text)?;
    }
    Ok(())
}

/// Writes a `hosts.toml`. Of one that somebody has written already nothing is changed: the hosts that
/// it does not have come after those that it has.
fn host_file(files: &mut Files<'_>, path: &Path, text: &str) -> Result<(), Error> {
    let Some(source) = files.read(path)? else {
        return files.write(path, text.as_bytes().to_vec());
    };
    let mut there = document(path, &source)?;
    let Ok(ours) = text.parse::<DocumentMut>() else {
        unreachable!("it was written above");
    };
    let has = |url: &str| {
        let hosts = there.get("host").and_then(Item::as_table_like);
        hosts.is_some_and(|hosts| hosts.contains_key(url))
    };
    let hosts = ours.get("host").and_then(Item::as_table_like);
    let hosts = hosts.into_iter().flat_map(TableLike::iter);
    let missing: Vec<_> = hosts.filter(|(url, _)| !has(url)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let all = table(there.as_table_mut(), &["host"]);
    for (url, host) in missing {
        let mut host = host.clone();
        if let Some(host) = host.as_table_mut() {
            host.set_position(None);
            host.decor_mut().set_prefix("\n");
        }
        all.insert(url, host);
    }
    files.write(path, there.to_string().into_bytes())
}

/// A file of TOML.
fn document(path: &Path, source: &Source) -> Result<DocumentMut, Error> {
    source
        .text()
        .parse()
        .map_err(|error: toml_edit::TomlError| {
            let at = error.span().map_or(0, |span| span.start);
            Error::Malformed {
                path: path.to_path_buf(),
                malformed: crate::document::Malformed {
                    place: source.place(at),
                    problem: error.message().to_string(),
                },
            }
        })
}

/// What dockershim did with the kubelet's flags, cri-dockerd does with its own.
fn cri_dockerd(files: &mut Files<'_>, wanted: &Wanted<'_>) -> Result<(), Error> {
    let installed = wanted.unit.and_then(|unit| {
        let (_, setting) = unit.all("Service", "ExecStart").into_iter().next_back()?;
        let words = setting.value.words();
        Some(
            words
                .iter()
                .map(|word| word.text().to_string())
                .collect::<Vec<_>>(),
        )
    });
    let mut words = installed.unwrap_or_else(|| {
        [
            "/usr/bin/cri-dockerd",
            "--container-runtime-endpoint",
            "fd://",
        ]
        .map(str::to_string)
        .to_vec()
    });
    let mut flags = vec![("--network-plugin", "cni".to_string())];
    if let Some(directory) = &wanted.cni.configurations {
        flags.push(("--cni-conf-dir", directory.clone()));
    }
    if !wanted.cni.plugins.is_empty() {
        flags.push(("--cni-bin-dir", wanted.cni.plugins.join(",")));
    }
    if let Some(image) = wanted.pause_image {
        flags.push(("--pod-infra-container-image", image.to_string()));
    }
    let dockershim = wanted.dockershim.iter();
    let dockershim = dockershim.map(|(name, value)| (format!("--{name}"), value.clone()));
    let flags = flags
        .into_iter()
        .map(|(name, value)| (name.to_string(), value));
    for (name, value) in flags.chain(dockershim) {
        words.retain(|word| !word.starts_with(&format!("{name}=")));
        words.push(format!("{name}={value}"));
    }
    let text = format!("[Service]\nExecStart=\nExecStart={}\n", words.join(" "));
    let path = PathBuf::from(format!(
        "/etc/systemd/system/cri-docker.service.d/{OWN}.conf"
    ));
    files.write(&path, text.into_bytes())
}

fn array(words: &[String]) -> Array {
    words.iter().map(String::as_str).collect()
}

/// Sets a key, and leaves it as it is written where it says so already.
fn set(table: &mut dyn TableLike, key: &str, wanted: toml_edit::Value) {
    let same = match (table.get(key).and_then(Item::as_value), &wanted) {
        (Some(toml_edit::Value::String(is)), toml_edit::Value::String(to)) => {
            is.value() == to.value()
        }
        (Some(toml_edit::Value::Boolean(is)), toml_edit::Value::Boolean(to)) => {
            is.value() == to.value()
        }
        _ => false,
    };
    if same {
        return;
    }
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(there) => {
            let decor = there.decor().clone();
            *there = wanted;
            *there.decor_mut() = decor;
        }
        None => {
            table.insert(key, Item::Value(wanted));
        }
    }
}

/// The table behind keys, made where it is not there; those on the way get no heading of their own.
fn table<'a>(root: &'a mut Table, keys: &[&str]) -> &'a mut dyn TableLike {
    let mut table: &mut dyn TableLike = root;
    for key in keys {
        let is_table = table.get(key).is_some_and(Item::is_table_like);
        if !is_table {
            let mut new = Table::new();
            new.set_implicit(true);
            table.insert(key, Item::Table(new));
        }
        let Some(next) = table.get_mut(key).and_then(Item::as_table_like_mut) else {
            unreachable!("it was put there");
        };
        table = next;
    }
    table
}
