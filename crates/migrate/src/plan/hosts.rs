//! What Docker was told of registries, for containerd: a `hosts.toml` for each.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, TableLike};

use super::certificates::{self, Certificates};
use super::files::Files;
use super::runtime::{document, table};
use super::{Error, Settings};

/// Where containerd looks for registries' hosts.
const CERTIFICATES: &str = "/etc/containerd/certs.d";

/// Where containerd looks for hosts: where it does already, and where ours are.
pub(super) fn directories(is: &str, docker: &Settings) -> String {
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
pub(super) fn instead_of_hosts(registry: &dyn TableLike) -> Option<&'static str> {
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

/// containerd's `hosts.toml`, one for each registry.
pub(super) fn change(files: &mut Files<'_>, docker: &Settings) -> Result<(), Error> {
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
