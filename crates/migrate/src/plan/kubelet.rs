//! The kubelet's own files: flags that go, the endpoint, and what its configuration says of the
//! runtime.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::edit;
use super::files::Files;
use super::target::Target;
use super::{DOCKERS, Error, Settings};
use crate::document::{self, Edit, EnvFile, Format, Source};
use crate::node::{Argument, Kubelet, Origin, Tree, Version};

/// The first kubelet that has no dockershim, and asks for no `--container-runtime`.
const WITHOUT_DOCKERSHIM: Version = Version::new(1, 24);

/// The first kubelet that has its endpoint in its configuration.
const ENDPOINT_CONFIGURED: Version = Version::new(1, 27);

/// Its key there.
const ENDPOINT: &str = "containerRuntimeEndpoint";

/// The flags that a kubelet without a configuration file has for its keys.
const FLAGS: [(&str, &str); 4] = [
    ("cgroupDriver", "cgroup-driver"),
    ("runtimeRequestTimeout", "runtime-request-timeout"),
    ("containerLogMaxSize", "container-log-max-size"),
    ("containerLogMaxFiles", "container-log-max-files"),
];

/// Large images are pulled within it.
const REQUEST_TIMEOUT: &str = "5m0s";

/// The first kubelet without `--pod-infra-container-image`.
const WITHOUT_PAUSE_IMAGE: Version = Version::new(1, 35);

/// What only dockershim read.
const OF_DOCKERSHIM: [&str; 8] = [
    "docker-endpoint",
    "network-plugin",
    "network-plugin-mtu",
    "cni-bin-dir",
    "cni-conf-dir",
    "cni-cache-dir",
    "experimental-dockershim",
    "experimental-dockershim-root-directory",
];

/// The variables that kubeadm's unit puts into the command line, and the files that they are in.
const VARIABLES: [(&str, &str); 3] = [
    ("KUBELET_KUBEADM_ARGS", "/var/lib/kubelet/kubeadm-flags.env"),
    ("KUBELET_EXTRA_ARGS", "/etc/default/kubelet"),
    ("KUBELET_EXTRA_ARGS", "/etc/sysconfig/kubelet"),
];

/// What ties a unit to another so that it ends, or begins, with it.
const TIES: [&str; 5] = ["Requires", "BindsTo", "Requisite", "PartOf", "Wants"];

/// Where files of units are the administrator's: elsewhere, packages replace them.
const OF_PEOPLE: &str = "/etc/";

/// What the kubelet is to be told.
pub(super) struct Wanted<'a> {
    pub(super) target: Target,
    pub(super) version: Version,
    pub(super) cgroup_driver: &'a str,
    pub(super) docker: &'a Settings,
    /// Docker is stopped in the end.
    pub(super) docker_goes: bool,
    /// The kubelet has dockershim, which does not ask how long a pull may take.
    pub(super) on_dockershim: bool,
}

/// A flag as it stands in a file: its word, and that of its value where it is another one.
struct Written<'a> {
    name: String,
    value: String,
    source: &'a Source,
    words: Vec<Range<usize>>,
}

/// The flags that are written in files, in the order of the command line.
fn written(arguments: &[Argument]) -> Vec<Written<'_>> {
    let mut found = Vec::new();
    let mut rest = arguments.iter().skip(1).peekable();
    while let Some(argument) = rest.next() {
        let bare = argument.text.trim_start_matches('-');
        let Origin::File(source, range) = &argument.origin else {
            continue;
        };
        if bare.len() == argument.text.len() || bare.is_empty() {
            continue;
        }
        let mut words = vec![range.clone()];
        let (name, value) = match bare.split_once('=') {
            Some((name, value)) => (name, value.to_string()),
            None => match rest.next_if(|next| !next.text.starts_with('-')) {
                Some(next) => {
                    if let Origin::File(_, range) = &next.origin {
                        words.push(range.clone());
                    }
                    (bare, next.text.clone())
                }
                None => (bare, "true".to_string()),
            },
        };
        found.push(Written {
            name: name.replace('_', "-"),
            value,
            source,
            words,
        });
    }
    found
}

/// Changes the kubelet's files.
pub(super) fn change<'a>(
    files: &mut Files<'_>,
    kubelet: &'a Kubelet,
    arguments: &'a [Argument],
    wanted: &Wanted<'_>,
) -> Result<(), Error> {
    let flags = written(arguments);
    let has_config = kubelet.config.is_some();
    let command = Command::of(kubelet);
    let mut edits: BTreeMap<PathBuf, Vec<Edit>> = BTreeMap::new();
    let mut gone: BTreeMap<PathBuf, (&'a Source, Vec<Range<usize>>)> = BTreeMap::new();
    let mut endpoint_is_set = false;
    for flag in &flags {
        let path = flag.source.path().to_path_buf();
        match fate(flag, wanted, has_config) {
            Fate::Stays => {}
            Fate::Goes => {
                let (_, words) = gone.entry(path).or_insert((flag.source, Vec::new()));
                words.extend(flag.words.iter().cloned());
            }
            Fate::Becomes(value) => {
                endpoint_is_set |= flag.name == "container-runtime-endpoint";
                if flag.value != value {
                    let rest = flag.words[1..].iter().cloned();
                    let (_, words) = gone
                        .entry(path.clone())
                        .or_insert((flag.source, Vec::new()));
                    words.extend(rest);
                    edits.entry(path).or_default().push(Edit {
                        range: flag.words[0].clone(),
                        text: format!("--{}={value}", flag.name),
                    });
                }
            }
        }
    }
    if wanted.docker_goes {
        ties(kubelet, &mut gone)?;
    }
    let mut added = Vec::new();
    let old = wanted.version < WITHOUT_DOCKERSHIM;
    let is_given = |name: &str| flags.iter().any(|flag| flag.name == name);
    if old && !is_given("container-runtime") {
        added.push("--container-runtime=remote".to_string());
    }
    if !has_config {
        let settings = settings(kubelet, wanted, false);
        for (key, value) in &settings {
            let flag = FLAGS.iter().find(|(known, _)| known == key);
            if let Some((_, flag)) = flag.filter(|(_, flag)| !is_given(flag)) {
                added.push(format!("--{flag}={value}"));
            }
        }
    }
    let trees = kubelet.config.iter().chain(&kubelet.drop_ins);
    let configured = trees.chain(&kubelet.instance).any(has_endpoint);
    let by_file = wanted.version >= ENDPOINT_CONFIGURED && configured;
    if !endpoint_is_set && !by_file {
        let endpoint = wanted.target.endpoint();
        added.push(format!("--container-runtime-endpoint={endpoint}"));
    }
    let added = added.join(" ");
    let mut placed = added.is_empty() || add_flags(files, kubelet, &gone, &mut edits, &added)?;
    let in_configuration =
        by_file || (!placed && wanted.version >= ENDPOINT_CONFIGURED && has_config);
    if let Some(command) = command {
        let more = if placed || in_configuration {
            ""
        } else {
            &added
        };
        command.change(files, &mut gone, &mut edits, more)?;
        placed = true;
    }
    if !placed && !in_configuration {
        return Err(Error::NoPlaceForFlags { flags: added });
    }
    for (path, (source, words)) in &gone {
        let entry = edits.entry(path.clone()).or_default();
        entry.extend(edit::without_words(source, words.clone()));
    }
    for (path, edits) in edits {
        if let Some(source) = files.read(&path)? {
            files.write(&path, source.edited(&edits))?;
        }
    }
    let config = kubelet.config.as_ref();
    let lacks = in_configuration && !configured;
    if let Some(config) = config {
        let endpoint = lacks || has_endpoint(config);
        set(files, config, &settings(kubelet, wanted, endpoint))?;
    }
    // What says it elsewhere would overrule that.
    let elsewhere = kubelet.drop_ins.iter().chain(&kubelet.instance);
    for tree in elsewhere {
        let mut settings = settings(kubelet, wanted, true);
        settings.retain(|(key, _)| tree.node.entry(key).is_some());
        set(files, tree, &settings)?;
    }
    Ok(())
}

/// Whether a configuration names the runtime's socket.
fn has_endpoint(config: &Tree) -> bool {
    let endpoint = config.node.text_at(&[ENDPOINT]);
    endpoint.is_some_and(|endpoint| !endpoint.is_empty())
}

/// The command line of the unit itself.
struct Command<'a> {
    unit: &'a str,
    source: &'a Source,
    words: Vec<Range<usize>>,
}

impl<'a> Command<'a> {
    fn of(kubelet: &'a Kubelet) -> Option<Self> {
        let unit = kubelet.unit.as_ref()?;
        let (source, setting) = unit.all("Service", "ExecStart").into_iter().next_back()?;
        let words = setting.value.words();
        Some(Self {
            unit: &unit.name,
            source,
            words: words.into_iter().map(|word| word.range).collect(),
        })
    }

    /// Changes it where it is written, if that is the administrator's file; otherwise in a drop-in,
    /// for a package's file is replaced with the package.
    fn change(
        &self,
        files: &mut Files<'_>,
        gone: &mut BTreeMap<PathBuf, (&Source, Vec<Range<usize>>)>,
        edits: &mut BTreeMap<PathBuf, Vec<Edit>>,
        added: &str,
    ) -> Result<(), Error> {
        let path = self.source.path();
        let Some(last) = self.words.last() else {
            return Ok(());
        };
        if path.starts_with(OF_PEOPLE) {
            if !added.is_empty() {
                let end = last.end;
                edits.entry(path.to_path_buf()).or_default().push(Edit {
                    range: end..end,
                    text: format!(" {added}"),
                });
            }
            return Ok(());
        }
        let (_, without) = gone.remove(path).unwrap_or((self.source, Vec::new()));
        let instead = edits.remove(path).unwrap_or_default();
        if without.is_empty() && instead.is_empty() && added.is_empty() {
            return Ok(());
        }
        let kept = self.words.iter().filter(|word| !without.contains(word));
        let mut words: Vec<&str> = kept
            .map(|word| {
                let other = instead.iter().find(|edit| edit.range == *word);
                other.map_or(&self.source.text()[word.clone()], |edit| edit.text.as_str())
            })
            .collect();
        if !added.is_empty() {
            words.push(added);
        }
        let text = format!("[Service]\nExecStart=\nExecStart={}\n", words.join(" "));
        let path = format!("/etc/systemd/system/{}.d/90-leaving-docker.conf", self.unit);
        files.write(Path::new(&path), text.into_bytes())
    }
}

/// What ties the kubelet's unit to Docker's, so that it would end with it.
fn ties<'a>(
    kubelet: &'a Kubelet,
    gone: &mut BTreeMap<PathBuf, (&'a Source, Vec<Range<usize>>)>,
) -> Result<(), Error> {
    let Some(unit) = &kubelet.unit else {
        return Ok(());
    };
    for key in TIES {
        for (source, setting) in unit.all("Unit", key) {
            let path = source.path();
            for word in setting.value.words() {
                if !DOCKERS.contains(&word.text()) {
                    continue;
                }
                if !path.starts_with(OF_PEOPLE) {
                    return Err(Error::UnitNeedsDocker {
                        unit: unit.name.clone(),
                        path: path.to_path_buf(),
                        key,
                    });
                }
                let (_, words) = gone
                    .entry(path.to_path_buf())
                    .or_insert((source, Vec::new()));
                words.push(word.range);
            }
        }
    }
    Ok(())
}

/// What becomes of a flag.
enum Fate {
    Stays,
    Goes,
    Becomes(String),
}

fn fate(flag: &Written<'_>, wanted: &Wanted<'_>, has_config: bool) -> Fate {
    // Those of cAdvisor's look for Docker's containers, which stay.
    let keeps_docker = wanted.target == Target::CriDockerd && wanted.version < WITHOUT_DOCKERSHIM;
    match flag.name.as_str() {
        "container-runtime-endpoint" => Fate::Becomes(wanted.target.endpoint().to_string()),
        "container-runtime" if wanted.version < WITHOUT_DOCKERSHIM => {
            Fate::Becomes("remote".to_string())
        }
        "container-runtime" | "image-pull-progress-deadline" => Fate::Goes,
        "cgroup-driver" if has_config => Fate::Goes,
        "cgroup-driver" => Fate::Becomes(wanted.cgroup_driver.to_string()),
        "pod-infra-container-image"
            if wanted.target == Target::Slipway || wanted.version >= WITHOUT_PAUSE_IMAGE =>
        {
            Fate::Goes
        }
        // A cgroup that will not be there.
        "runtime-cgroups" if wanted.docker_goes && flag.value.contains("docker") => Fate::Goes,
        name if OF_DOCKERSHIM.contains(&name) => Fate::Goes,
        name if (name == "docker" || name.starts_with("docker-")) && !keeps_docker => Fate::Goes,
        _ => Fate::Stays,
    }
}

/// Adds flags to a variable that the unit puts into the command line; whether there is one.
fn add_flags(
    files: &mut Files<'_>,
    kubelet: &Kubelet,
    gone: &BTreeMap<PathBuf, (&Source, Vec<Range<usize>>)>,
    edits: &mut BTreeMap<PathBuf, Vec<Edit>>,
    added: &str,
) -> Result<bool, Error> {
    let Some(unit) = &kubelet.unit else {
        return Ok(false);
    };
    let command = unit.all("Service", "ExecStart");
    let uses = |name: &str| {
        command.last().is_some_and(|(_, setting)| {
            let words = setting.value.words();
            words.iter().any(|word| {
                word.text() == format!("${name}") || word.text() == format!("${{{name}}}")
            })
        })
    };
    let named = unit.environment_files();
    for (variable, path) in VARIABLES {
        let path = Path::new(path);
        if !uses(variable) || !named.iter().any(|(file, _)| file == path) {
            continue;
        }
        let Some(source) = files.read(path)? else {
            continue;
        };
        let file = EnvFile::read(&source);
        let edit = match file.get(variable) {
            Some(one) => {
                let taken = gone.get(path).map_or(0, |(_, words)| words.len());
                let is_empty = one.value.words().len() <= taken;
                let space = if is_empty { "" } else { " " };
                append(&source, one.value_range.clone(), &format!("{space}{added}"))
            }
            None => edit::last_line(&source, &format!("{variable}=\"{added}\"")),
        };
        edits.entry(path.to_path_buf()).or_default().push(edit);
        return Ok(true);
    }
    // kubeadm's file is not there yet where the node was joined by hand.
    for (variable, path) in VARIABLES {
        let path = Path::new(path);
        if uses(variable) && named.iter().any(|(file, _)| file == path) {
            files.write(path, format!("{variable}=\"{added}\"\n").into_bytes())?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// More text at the end of a value, inside of its quotes.
fn append(source: &Source, value: Range<usize>, text: &str) -> Edit {
    let written = &source.text()[value.clone()];
    if written.is_empty() {
        return Edit {
            range: value,
            text: format!("\"{}\"", text.trim_start()),
        };
    }
    // Behind anything else, a quote is text.
    let quotes = ['"', '\''];
    let at = if written.len() > 1 && written.starts_with(quotes) && written.ends_with(quotes) {
        value.end - 1
    } else {
        value.end
    };
    Edit {
        range: at..at,
        text: text.to_string(),
    }
}

/// Sets keys of a configuration.
fn set(
    files: &mut Files<'_>,
    config: &Tree,
    settings: &[(&'static str, String)],
) -> Result<(), Error> {
    let path = config.source.path().to_path_buf();
    let Some(source) = files.read(&path)? else {
        return Ok(());
    };
    let edited = configured(source, settings)?;
    files.write(&path, edited.bytes().to_vec())
}

/// A configuration with these settings.
pub(super) fn configured<K: AsRef<str>>(
    mut source: Source,
    settings: &[(K, String)],
) -> Result<Source, Error> {
    let path = source.path().to_path_buf();
    for (key, value) in settings {
        let key = key.as_ref();
        let documents =
            document::read(&source, Format::Yaml).map_err(|malformed| Error::Malformed {
                path: path.clone(),
                malformed,
            })?;
        let edit = match documents.first() {
            Some(map) if map.text_at(&[key]) == Some(value) => continue,
            Some(map) => edit::yaml_setting(&source, map, key, value),
            None => Some(edit::last_line(&source, &format!("{key}: {value}"))),
        };
        let edit = edit.ok_or_else(|| Error::NoPlaceForKey {
            path: path.clone(),
            key: key.to_string(),
            value: value.clone(),
        })?;
        let edited = source.edited(&[edit]);
        source = Source::new(&path, edited);
    }
    Ok(source)
}

/// The keys of the kubelet's configuration that change with its runtime.
pub(super) fn settings(
    kubelet: &Kubelet,
    wanted: &Wanted<'_>,
    endpoint: bool,
) -> Vec<(&'static str, String)> {
    let mut settings = vec![("cgroupDriver", wanted.cgroup_driver.to_string())];
    if endpoint {
        settings.push((ENDPOINT, wanted.target.endpoint().to_string()));
    }
    let timeout_is_flag = kubelet.flag("runtime-request-timeout").is_some();
    if wanted.on_dockershim && !timeout_is_flag && kubelet.request_timeout_is_short() {
        settings.push(("runtimeRequestTimeout", REQUEST_TIMEOUT.to_string()));
    }
    if wanted.target != Target::CriDockerd {
        let set = |key: &str| kubelet.configured(&[key]).is_some();
        if let Some(size) = wanted
            .docker
            .max_log_size
            .as_ref()
            .filter(|_| !set("containerLogMaxSize"))
        {
            settings.push(("containerLogMaxSize", size.clone()));
        }
        if let Some(count) = wanted
            .docker
            .max_log_files
            .filter(|_| !set("containerLogMaxFiles"))
        {
            settings.push(("containerLogMaxFiles", count.to_string()));
        }
    }
    settings
}
