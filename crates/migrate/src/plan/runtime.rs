//! The target's own files, with what Docker and dockershim were told.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, value};

use super::cni::Cni;
use super::files::Files;
use super::target::Target;
use super::{Error, Settings, containerd, proxies};
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

/// What the runtime is to be told.
pub(super) struct Wanted<'a> {
    pub(super) target: Target,
    pub(super) systemd_cgroups: bool,
    /// The kubelet's `--pod-infra-container-image`.
    pub(super) pause_image: Option<&'a str>,
    pub(super) cni: Cni,
    /// What containerd's file imports, in the order in which that is read.
    pub(super) imported: Vec<PathBuf>,
    /// What else dockershim was told, and cri-dockerd can be.
    pub(super) dockershim: Vec<(&'static str, String)>,
    pub(super) docker: &'a Settings,
    /// Docker keeps its pods for as long as they live.
    pub(super) beside_docker: bool,
    /// The target's unit, if it is installed.
    pub(super) unit: Option<&'a Unit>,
}

/// Changes the target's files; says what people have to know of it.
pub(super) fn change(files: &mut Files<'_>, wanted: &Wanted<'_>) -> Result<Vec<String>, Error> {
    let mut remarks = Vec::new();
    match wanted.target {
        Target::Slipway => slipway(files, wanted)?,
        Target::Containerd => remarks = containerd::change(files, wanted)?,
        Target::Crio => crio(files, wanted)?,
        Target::CriDockerd => {
            cri_dockerd(files, wanted)?;
            return Ok(remarks);
        }
    }
    proxies::change(files, wanted.target, &wanted.docker.proxies)?;
    Ok(remarks)
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

/// A file of TOML.
pub(super) fn document(path: &Path, source: &Source) -> Result<DocumentMut, Error> {
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

pub(super) fn array(words: &[String]) -> Array {
    words.iter().map(String::as_str).collect()
}

/// Sets a key, and leaves it as it is written where it says so already.
pub(super) fn set(table: &mut dyn TableLike, key: &str, wanted: toml_edit::Value) {
    let same = match (table.get(key).and_then(Item::as_value), &wanted) {
        (Some(toml_edit::Value::String(is)), toml_edit::Value::String(to)) => {
            is.value() == to.value()
        }
        (Some(toml_edit::Value::Boolean(is)), toml_edit::Value::Boolean(to)) => {
            is.value() == to.value()
        }
        (Some(toml_edit::Value::Array(is)), toml_edit::Value::Array(to)) => {
            let texts = |array: &Array| {
                array
                    .iter()
                    .map(|one| one.as_str().map(str::to_string))
                    .collect::<Vec<_>>()
            };
            texts(is) == texts(to)
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
pub(super) fn table<'a>(root: &'a mut Table, keys: &[&str]) -> &'a mut dyn TableLike {
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
