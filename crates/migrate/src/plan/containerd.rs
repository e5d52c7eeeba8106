//! containerd's files, with what Docker and dockershim were told.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table, TableLike, value};

use super::certificates::{self, Certificates};
use super::files::Files;
use super::runtime::{Wanted, document, set, table};
use super::{Error, Settings};

/// Where containerd looks for registries' hosts.
const CERTIFICATES: &str = "/etc/containerd/certs.d";

pub(super) fn change(files: &mut Files<'_>, wanted: &Wanted<'_>) -> Result<(), Error> {
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
