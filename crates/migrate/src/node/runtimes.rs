//! The runtimes that are there, and what their files say.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::flags::{self, Flag};
use super::look::{Look, Origin, Said, Tree};
use super::process::Process;
use super::systemd::Unit;
use crate::Evidence;
use crate::document::{Format, Node, Value};

/// Docker as a snap.
pub(crate) const SNAP: &str = "snap.docker.dockerd.service";

/// Where the snap has Docker's data and configuration, `$SNAP_COMMON` and `$SNAP_DATA`.
const SNAP_FLAGS: [(&str, &str); 2] = [
    ("data-root", "/var/snap/docker/common/var-lib-docker"),
    ("config-file", "/var/snap/docker/current/config/daemon.json"),
];

/// What is known of a node's runtimes.
#[derive(Debug, Default)]
pub struct Runtimes {
    /// Docker, if it is there.
    pub docker: Option<Docker>,
    /// The flags of cri-dockerd in force: of the process, or else of the unit.
    pub cri_dockerd: Vec<Flag>,
    /// containerd, if it is there: on its own or as Docker's.
    pub containerd: Option<Containerd>,
    /// CRI-O, if it is there.
    pub crio: Option<Crio>,
    /// Slipway's configuration, if it is there.
    pub slipway: Option<Tree>,
    /// Whether the node's init is systemd.
    pub systemd: bool,
    /// Whether the node has control groups of version 2 alone.
    pub cgroup_v2: bool,
}

/// dockerd.
#[derive(Debug)]
pub struct Docker {
    /// The running one.
    pub process: Option<Process>,
    /// What systemd starts.
    pub unit: Option<Unit>,
    /// The flags in force: of the process, or else of the unit.
    pub flags: Vec<Flag>,
    /// `/etc/docker/daemon.json`, or what `--config-file` names.
    pub config: Option<Tree>,
    /// Whether that file is there and could not be read: what it says is not known.
    pub config_broken: bool,
}

/// containerd.
#[derive(Debug)]
pub struct Containerd {
    /// Its configuration and what that imports.
    pub configs: Vec<Tree>,
    /// Whether its configuration is there and could not be read: what it says is not known.
    pub config_broken: bool,
    /// Whether a process of its own runs, not as dockerd's child.
    pub process: Option<Process>,
}

/// CRI-O.
#[derive(Debug)]
pub struct Crio {
    /// crio.conf and its drop-ins, in the order in which they are read.
    pub configs: Vec<Tree>,
    /// Whether one of them is there and could not be read: what it says is not known.
    pub config_broken: bool,
}

impl Runtimes {
    /// The cgroup driver that dockerd takes where nothing says it.
    pub fn docker_default_driver(&self) -> &'static str {
        if self.cgroup_v2 && self.systemd {
            "systemd"
        } else {
            "cgroupfs"
        }
    }

    pub(super) fn gather(look: &mut Look<'_>, processes: &[Process]) -> Self {
        Self {
            docker: docker(look, processes),
            cri_dockerd: cri_dockerd(look, processes),
            containerd: containerd(look, processes),
            crio: crio(look, processes),
            slipway: look.tree("/etc/slipway/config.toml", Format::Toml),
            systemd: look.root.has("/run/systemd/system"),
            cgroup_v2: look.root.has("/sys/fs/cgroup/cgroup.controllers"),
        }
    }
}

/// The process of a program that is the node's own.
pub(super) fn process_of<'a>(processes: &'a [Process], program: &str) -> Option<&'a Process> {
    processes
        .iter()
        .find(|process| process.program() == program && process.of_host)
}

fn docker(look: &mut Look<'_>, processes: &[Process]) -> Option<Docker> {
    // CentOS 7 has its own name for it.
    let process = process_of(processes, "dockerd");
    let process = process.or_else(|| process_of(processes, "dockerd-current"));
    let process = process.cloned();
    let unit = Unit::load(look, "docker.service").or_else(|| Unit::load(look, SNAP));
    let planned = match &unit {
        Some(unit) if unit.name == SNAP => flags_of_snap(unit),
        Some(unit) => flags::parse(&unit.command(look)),
        None => Vec::new(),
    };
    let flags = match &process {
        Some(process) => flags::located(flags::parse(&process.command()), &planned),
        None => planned,
    };
    let named = flags::find(&flags, "config-file").map(|flag| flag.value.clone());
    let path = named.unwrap_or_else(|| "/etc/docker/daemon.json".to_string());
    let there = process.is_some()
        || unit.is_some()
        || look.root.has(&path)
        || look.root.has("/run/docker.sock")
        || look.has_program("dockerd");
    if !there {
        return None;
    }
    let config = daemon_json(look, &path);
    Some(Docker {
        config_broken: config.is_none() && look.root.has(&path),
        config,
        process,
        unit,
        flags,
    })
}

/// What the snap's own script gives to dockerd: its unit says only that the snap is run.
fn flags_of_snap(unit: &Unit) -> Vec<Flag> {
    let command = unit.all("Service", "ExecStart").into_iter().next_back();
    let flags = command.into_iter().flat_map(|(source, setting)| {
        SNAP_FLAGS.map(|(name, value)| Flag {
            name: name.to_string(),
            value: value.to_string(),
            origin: Origin::File(Arc::clone(source), setting.offset..setting.offset),
        })
    });
    flags.collect()
}

fn cri_dockerd(look: &mut Look<'_>, processes: &[Process]) -> Vec<Flag> {
    let units = ["cri-docker.service", "cri-dockerd.service"];
    let unit = units.into_iter().find_map(|name| Unit::load(look, name));
    let planned = unit.map_or_else(Vec::new, |unit| flags::parse(&unit.command(look)));
    match process_of(processes, "cri-dockerd") {
        Some(process) => flags::located(flags::parse(&process.command()), &planned),
        None => planned,
    }
}

/// An empty one says nothing, which dockerd takes since 23.0.
fn daemon_json(look: &mut Look<'_>, path: &str) -> Option<Tree> {
    let source = look.read(path)?;
    if !source.text().trim().is_empty() {
        let tree = look.tree(path, Format::Json)?;
        if let Some((node, what)) = misshapen(&tree.node) {
            let place = tree.source.place(node.range.start);
            let problem = format!("line {}, column {}: {what}", place.line, place.column);
            look.malformed(&tree.source, place, problem);
            return None;
        }
        return Some(tree);
    }
    let node = Node {
        range: 0..0,
        value: Value::Map(Vec::new()),
    };
    Some(Tree { source, node })
}

/// What dockerd takes as a list of text, and nothing else.
const LISTS: [&str; 4] = [
    "registry-mirrors",
    "insecure-registries",
    "hosts",
    "exec-opts",
];

/// What it takes as an object.
const OBJECTS: [&str; 2] = ["log-opts", "proxies"];

/// What it takes as text.
const TEXTS: [&str; 3] = ["data-root", "graph", "log-driver"];

/// The first value that dockerd does not start with, as it is of another kind than what it reads
/// there; `null` is as good as nothing.
fn misshapen(root: &Node) -> Option<(&Node, String)> {
    let is_text = |node: &Node| matches!(node.value, Value::Text(_) | Value::Null);
    let is_object = |node: &Node| matches!(node.value, Value::Map(_) | Value::Null);
    let is_list = |node: &Node| match &node.value {
        Value::List(items) => items.iter().all(is_text),
        value => *value == Value::Null,
    };
    if !is_object(root) {
        return Some((
            root,
            "dockerd takes an object here, of settings".to_string(),
        ));
    }
    root.entries().iter().find_map(|entry| {
        let key = entry.key.as_str();
        let (fits, kind) = match key {
            _ if LISTS.contains(&key) => (is_list(&entry.value), "a list of texts"),
            _ if OBJECTS.contains(&key) => (is_object(&entry.value), "an object"),
            _ if TEXTS.contains(&key) => (is_text(&entry.value), "a text"),
            _ => return None,
        };
        (!fits).then(|| (&entry.value, format!("dockerd takes {kind} for {key}")))
    })
}

fn containerd(look: &mut Look<'_>, processes: &[Process]) -> Option<Containerd> {
    let of_docker = |process: &&Process| {
        let arguments = &process.arguments;
        arguments
            .iter()
            .any(|one| one.contains("/docker/containerd"))
    };
    let process = processes
        .iter()
        .filter(|process| process.program() == "containerd" && process.of_host)
        .find(|process| !of_docker(process))
        .cloned();
    let path = "/etc/containerd/config.toml";
    if process.is_none() && !look.root.has(path) && !look.has_program("containerd") {
        return None;
    }
    let configs = with_imports(look, path);
    let config_broken = configs.is_empty() && look.root.has(path);
    Some(Containerd {
        configs,
        config_broken,
        process,
    })
}

/// A file of containerd's, then what it imports, then what those import: each overrules those before it.
fn with_imports(look: &mut Look<'_>, path: &str) -> Vec<Tree> {
    let mut paths = vec![PathBuf::from(path)];
    let mut configs = Vec::new();
    let mut at = 0;
    while let Some(path) = paths.get(at).cloned() {
        at += 1;
        let Some(config) = look.tree(&path, Format::Toml) else {
            continue;
        };
        let imports = config.node.get(&["imports"]).map_or(&[][..], Node::items);
        let directory = path.parent().unwrap_or(Path::new("/"));
        for import in imports.iter().filter_map(Node::text) {
            let import = without_dots(&directory.join(import));
            let mut imported = look.matching(&import.to_string_lossy());
            imported.retain(|path| !paths.contains(path));
            paths.extend(imported);
        }
        configs.push(config);
    }
    configs
}

/// A path without `.` and `..`, whatever is a link in it, as containerd compares them.
fn without_dots(path: &Path) -> PathBuf {
    let mut without = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                without.pop();
            }
            Component::CurDir => {}
            other => without.push(other),
        }
    }
    without
}

fn crio(look: &mut Look<'_>, processes: &[Process]) -> Option<Crio> {
    let path = "/etc/crio/crio.conf";
    let directory = "/etc/crio/crio.conf.d";
    if process_of(processes, "crio").is_none()
        && !look.root.has(path)
        && !look.root.has(directory)
        && !look.has_program("crio")
    {
        return None;
    }
    let mut paths = vec![path.into()];
    paths.extend(look.list(directory));
    paths.retain(|path| path.extension().is_some_and(|end| end == "conf") && look.root.has(path));
    let configs: Vec<_> = paths
        .iter()
        .filter_map(|path| look.tree(path, Format::Toml))
        .collect();
    Some(Crio {
        config_broken: configs.len() < paths.len(),
        configs,
    })
}

/// What the last of several files says behind keys.
fn last(configs: &[Tree], keys: &[&str]) -> Option<Said> {
    configs.iter().rev().find_map(|config| config.said(keys))
}

impl Docker {
    /// What a setting is, in daemon.json or as a flag of the same name.
    pub fn says(&self, key: &str) -> Option<String> {
        let of_file = self.config.as_ref().and_then(|config| config.said(&[key]));
        let of_flag = || flags::find(&self.flags, key).map(|flag| flag.value.clone());
        of_file.map(|said| said.value).or_else(of_flag)
    }

    /// Where it was told to have its data, by either of the setting's names.
    pub fn data_root(&self) -> Option<String> {
        ["data-root", "graph", "g"]
            .into_iter()
            .find_map(|key| self.says(key))
    }

    /// The cgroup driver that it was told to use: native.cgroupdriver of exec-opts.
    pub fn cgroup_driver(&self) -> Option<Said> {
        let of_flag = self
            .flags
            .iter()
            .rev()
            .filter(|flag| flag.name == "exec-opt")
            .find_map(|flag| {
                Some(Said {
                    value: flag.value.strip_prefix("native.cgroupdriver=")?.to_string(),
                    origin: flag.origin.clone(),
                })
            });
        let of_file = || {
            let config = self.config.as_ref()?;
            let options = config.node.get(&["exec-opts"])?.items();
            options.iter().find_map(|option| {
                let value = option.text()?.strip_prefix("native.cgroupdriver=")?;
                Some(Said {
                    value: value.to_string(),
                    origin: config.origin(option),
                })
            })
        };
        of_flag.or_else(of_file)
    }
}

/// Where containerd has its CRI plugin's settings, the newest version of the file first.
const CRI_PLUGINS: [&str; 3] = [
    "io.containerd.cri.v1.runtime",
    "io.containerd.grpc.v1.cri",
    "cri",
];

impl Containerd {
    /// The files that its own imports.
    pub(crate) fn imported(&self) -> Vec<PathBuf> {
        let imported = self.configs.iter().skip(1);
        imported
            .map(|config| config.source.path().to_path_buf())
            .collect()
    }

    /// Where its CRI plugin is told that CNI's plugins are; nothing where no file says it, which is
    /// `/opt/cni/bin`.
    pub fn cni_plugins(&self) -> Option<(Vec<String>, Evidence)> {
        let keys = CRI_PLUGINS.iter().flat_map(|plugin| {
            let keys = |key| ["plugins", plugin, "cni", key];
            ["bin_dirs", "bin_dir"].map(keys)
        });
        let mut said = keys.filter_map(|keys| {
            let mut configs = self.configs.iter().rev();
            configs.find_map(|config| Some((config, config.node.get(&keys)?)))
        });
        let (config, node) = said.next()?;
        let all = node.items().iter().chain([node]).filter_map(Node::text);
        Some((all.map(str::to_string).collect(), config.evidence(node)))
    }

    /// Where its CRI plugin is switched off.
    pub fn cri_disabled(&self) -> Option<Said> {
        self.configs.iter().find_map(|config| {
            let disabled = config.node.get(&["disabled_plugins"])?.items();
            disabled.iter().find_map(|plugin| {
                let name = plugin.text()?;
                CRI_PLUGINS.contains(&name).then(|| Said {
                    value: name.to_string(),
                    origin: config.origin(plugin),
                })
            })
        })
    }

    /// Whether the runtime that pods get by default is told to use systemd's cgroups; nothing
    /// where no file says it, which is no.
    pub fn systemd_cgroup(&self) -> Option<Said> {
        let default = CRI_PLUGINS
            .iter()
            .find_map(|plugin| {
                let keys = ["plugins", plugin, "containerd", "default_runtime_name"];
                last(&self.configs, &keys)
            })
            .map_or_else(|| "runc".to_string(), |said| said.value);
        CRI_PLUGINS.iter().find_map(|plugin| {
            let keys = [
                "plugins",
                plugin,
                "containerd",
                "runtimes",
                &default,
                "options",
                "SystemdCgroup",
            ];
            let old = ["plugins", plugin, "systemd_cgroup"];
            last(&self.configs, &keys).or_else(|| last(&self.configs, &old))
        })
    }
}

impl Crio {
    /// What `cgroup_manager` says; nothing where no file says it, which is `systemd`.
    pub fn cgroup_manager(&self) -> Option<Said> {
        last(&self.configs, &["crio", "runtime", "cgroup_manager"])
    }
}
