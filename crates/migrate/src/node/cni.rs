//! Where pods have their network from, and whether a CRI runtime finds it.

use std::path::{Path, PathBuf};

use super::Facts;
use super::kubelet::Kubelet;
use super::look::{Look, Tree};
use super::runtime::{Runtime, Socket};
use super::runtimes::{Containerd, Docker};
use crate::Evidence;
use crate::document::{Format, Node};
use crate::rules;

const CONFIGURATIONS: &str = "/etc/cni/net.d";

/// Where plugins are; Debian has a place of its own.
const PLUGINS: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];

pub(super) fn check(look: &mut Look<'_>, facts: &Facts) {
    let kubelet = &facts.kubelet;
    if !kubelet.is_there() {
        return;
    }
    if let Some(docker) = &facts.runtimes.docker {
        flannel(look, docker);
    }
    let plugin = kubelet.flag("network-plugin");
    let shim = matches!(facts.runtime(), Some(Runtime::Dockershim(_)));
    match plugin.as_ref().map(|said| said.value.as_str()) {
        Some("kubenet") => {
            look.report.find(
                &rules::CNI_KUBENET,
                plugin.map(|said| said.origin.evidence()),
                "--network-plugin=kubenet",
                "Install a CNI network plugin in the cluster, or write a bridge configuration into /etc/cni/net.d with the node's podCIDR and keep the routes that the cloud provider makes",
            );
            return;
        }
        None | Some("") if shim => {
            look.report.find(
                &rules::CNI_DOCKER_BRIDGE,
                own_place(kubelet),
                "no --network-plugin: pods are on Docker's bridge",
                "Install a CNI network plugin in the cluster before anything else: pods get other addresses",
            );
            return;
        }
        _ => {}
    }
    directories(look, kubelet);
    containerd(look, facts);
    let directory = kubelet.flag("cni-conf-dir").map(|said| said.value);
    let directory = directory.unwrap_or_else(|| CONFIGURATIONS.to_string());
    configuration(look, &directory, &places(facts));
}

/// Where the kubelet as a whole is seen.
fn own_place(kubelet: &Kubelet) -> Option<Evidence> {
    let process = kubelet.processes.first().map(super::Process::evidence);
    let unit = kubelet.unit.as_ref().and_then(|unit| unit.files.first());
    process.or_else(|| unit.map(|(source, _)| Evidence::file(source.path())))
}

fn directories(look: &mut Look<'_>, kubelet: &Kubelet) {
    for (flag, usual, key) in [
        (
            "cni-conf-dir",
            CONFIGURATIONS,
            "conf_dir of containerd, network_dir of CRI-O, network.conf_dir of Slipway",
        ),
        (
            "cni-bin-dir",
            PLUGINS[0],
            "bin_dir of containerd, plugin_dirs of CRI-O, network.bin_dirs of Slipway",
        ),
    ] {
        let Some(said) = kubelet.flag(flag) else {
            continue;
        };
        if said.value.trim_end_matches('/') != usual {
            look.report.find(
                &rules::CNI_DIRECTORY,
                [said.origin.evidence()],
                format!("--{flag}={}", said.value),
                format!("Set the same in the runtime ({key}), or move the files to {usual}"),
            );
        }
    }
}

/// containerd that is there beside Docker, and does not look where pods on Docker have their plugins
/// from.
fn containerd(look: &mut Look<'_>, facts: &Facts) {
    let containerd = facts.runtimes.containerd.as_ref();
    let Some((said, evidence)) = containerd.and_then(Containerd::cni_plugins) else {
        return;
    };
    if !facts.is_on_docker() {
        return;
    }
    let flag = facts.dockershim_flag("cni-bin-dir");
    let used = flag.unwrap_or_else(|| PLUGINS[0].to_string());
    let is_said = |directory: &str| {
        let directory = directory.trim_end_matches('/');
        said.iter()
            .any(|one| one.trim_end_matches('/') == directory)
    };
    if !used.split(',').all(is_said) {
        look.report.find(
            &rules::CNI_DIRECTORY,
            [evidence],
            format!(
                "containerd looks for plugins in {}, and pods on Docker have theirs from {used}",
                said.join(", ")
            ),
            "Before pods run there, set bin_dir to where the plugins are, as slipway migrate does, or have the network's plugins in both",
        );
    }
}

/// Where plugins are looked for: by containerd, where that makes the pods.
fn places(facts: &Facts) -> Vec<PathBuf> {
    let is_containerd = |runtime: Runtime| runtime.socket() == Socket::Containerd;
    let containerd = facts.runtimes.containerd.as_ref();
    let containerd = containerd.filter(|containerd| !containerd.config_broken);
    if let Some(containerd) = containerd
        && facts.runtime().is_some_and(is_containerd)
    {
        let said = containerd.cni_plugins().map(|(said, _)| said);
        let said = said.unwrap_or_else(|| vec![PLUGINS[0].to_string()]);
        return said.into_iter().map(PathBuf::from).collect();
    }
    let mut places: Vec<PathBuf> = PLUGINS.map(PathBuf::from).into();
    if let Some(said) = facts.kubelet.flag("cni-bin-dir") {
        places.extend(said.value.split(',').map(PathBuf::from));
    }
    places
}

/// The configuration that counts is the first by name that can be used.
fn configuration(look: &mut Look<'_>, directory: &str, places: &[PathBuf]) {
    let files = configurations(look, directory);
    if files.is_empty() {
        look.report.find(
            &rules::CNI_NO_CONFIGURATION,
            [Evidence::file(directory)],
            format!("there is no configuration in {directory}"),
            "Install the cluster's network plugin on this node, or look where it writes its configuration",
        );
        return;
    }
    for path in files {
        let Some(tree) = look.tree(&path, Format::Json) else {
            continue;
        };
        for kind in plugins(&tree).filter_map(|plugin| plugin.get(&["type"])) {
            let Some(name) = kind.text() else { continue };
            let there = |place: &PathBuf| look.root.has(Path::new(place).join(name));
            if !places.iter().any(there) {
                look.report.find(
                    &rules::CNI_PLUGIN_MISSING,
                    [tree.evidence(kind)],
                    format!("the plugin {name} is in none of {}", shown(places)),
                    "Install it (packages containernetworking-plugins, kubernetes-cni, or the network's own), or remove a configuration that is left over",
                );
            }
        }
    }
}

/// The files of networks in a directory, by name.
fn configurations(look: &mut Look<'_>, directory: &str) -> Vec<PathBuf> {
    let mut files = look.list(directory);
    files.retain(|path| {
        let end = path.extension().and_then(|end| end.to_str());
        matches!(end, Some("conf" | "conflist" | "json"))
    });
    files
}

/// The plugins of a list, or the one that a file is of.
fn plugins(tree: &Tree) -> impl Iterator<Item = &Node> {
    let list = tree.node.get(&["plugins"]);
    let one = list.is_none().then_some(&tree.node);
    list.into_iter().flat_map(Node::items).chain(one)
}

/// What a pod's network is made with: the plugins of the configuration that counts, those that give
/// them addresses, and the one for the pod's loopback, which every runtime runs.
pub(crate) fn plugins_of_network(look: &mut Look<'_>, directory: &str) -> Vec<String> {
    let mut names = Vec::new();
    for path in configurations(look, directory) {
        let Some(tree) = look.tree(&path, Format::Json) else {
            continue;
        };
        for plugin in plugins(&tree) {
            let all = [&["type"][..], &["ipam", "type"]];
            let all = all.into_iter().filter_map(|keys| plugin.text_at(keys));
            names.extend(all.map(str::to_string));
        }
        if !names.is_empty() {
            break;
        }
    }
    names.push("loopback".to_string());
    names
}

fn shown(places: &[PathBuf]) -> String {
    let names: Vec<_> = places
        .iter()
        .map(|place| place.display().to_string())
        .collect();
    names.join(", ")
}

/// flannel's old way: mk-docker-opts.sh writes `--bip` and `--mtu` for dockerd.
fn flannel(look: &mut Look<'_>, docker: &Docker) {
    let Some(unit) = &docker.unit else {
        return;
    };
    let todo = "Run flannel with its CNI plugin: a conflist in /etc/cni/net.d with type flannel, and take its options out of Docker's unit";
    for (source, file) in &unit.files {
        for setting in &file.settings {
            // Flatcar's own unit names the file whether flannel is there or not.
            let named = setting.value.text().trim().strip_prefix('-');
            let is_people = source.path().starts_with("/etc");
            let is_file = setting.key == "EnvironmentFile";
            if is_file && !is_people && named.is_some_and(|path| !look.root.has(path)) {
                continue;
            }
            if setting.value.text().contains("flannel") {
                look.report.find(
                    &rules::CNI_FLANNEL_DOCKER,
                    [Evidence::at(source, setting.offset)],
                    format!("{}={}", setting.key, setting.value.text().trim()),
                    todo,
                );
            }
        }
    }
    for path in [
        "/run/flannel/docker",
        "/run/flannel/flannel_docker_opts.env",
        "/run/flannel_docker_opts.env",
        "/run/docker_opts.env",
    ] {
        if look.root.has(path) {
            look.report.find(
                &rules::CNI_FLANNEL_DOCKER,
                [Evidence::file(path)],
                "flannel's options for dockerd",
                todo,
            );
        }
    }
}
