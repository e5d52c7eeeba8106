//! Who on the node calls docker: scripts, cron jobs, units, profiles of shells.

use std::path::{Path, PathBuf};

use super::Facts;
use super::look::Look;
use super::systemd;
use crate::Evidence;
use crate::calls;
use crate::document::UnitFile;
use crate::rules::{self, Rule};

/// As many lines of one file as a finding names.
const SHOWN: usize = 8;

/// As many files as are read in one tree of directories.
const MAX_FILES: usize = 5000;

/// As deep as scripts are looked for.
const MAX_DEPTH: usize = 4;

/// Crontabs; each directory has files of jobs.
const CRON: [&str; 8] = [
    "/etc/crontab",
    "/etc/anacrontab",
    "/etc/cron.d",
    "/etc/cron.hourly",
    "/etc/cron.daily",
    "/etc/cron.weekly",
    "/etc/cron.monthly",
    "/var/spool/cron",
];

/// Where administrators put scripts.
const SCRIPTS: [&str; 11] = [
    "/etc/rc.local",
    "/etc/rc.d",
    "/etc/init.d",
    "/etc/logrotate.d",
    "/etc/network/if-up.d",
    "/etc/update-motd.d",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/opt",
    "/srv",
    "/var/lib/cloud/scripts",
];

const PROFILES: [&str; 5] = [
    "/etc/profile",
    "/etc/profile.d",
    "/etc/bash.bashrc",
    "/etc/bashrc",
    "/etc/environment",
];

const HOME_PROFILES: [&str; 8] = [
    ".profile",
    ".bashrc",
    ".bash_profile",
    ".bash_aliases",
    ".bash_login",
    ".zshrc",
    ".zprofile",
    ".config/fish/config.fish",
];

/// Units that come with Docker and with those who sit on it.
const DOCKERS_OWN: [&str; 5] = [
    "docker.service",
    "docker.socket",
    "containerd.service",
    "cri-docker.service",
    "cri-docker.socket",
];

/// Files of the same packages in other places.
const PACKAGED: [&str; 6] = [
    "/etc/init.d/docker",
    "/etc/default/docker",
    "/usr/local/bin/dockerd",
    "/usr/local/bin/docker",
    "/usr/local/bin/docker-compose",
    "/opt/cni",
];

pub(super) fn check(look: &mut Look<'_>, facts: &Facts) {
    if facts.runtimes.docker.is_none() {
        return;
    }
    let todo = "Call crictl for pods and containers, nerdctl, podman or buildkit for building, and the Kubernetes API for the rest";
    for place in CRON {
        lines(look, Path::new(place), &rules::CRON_CALLS_DOCKER, todo);
    }
    let homes = homes(look);
    let own = homes.iter().cloned();
    for place in SCRIPTS.map(PathBuf::from).into_iter().chain(own) {
        lines(look, &place, &rules::SCRIPT_CALLS_DOCKER, todo);
    }
    for place in PROFILES {
        lines(look, Path::new(place), &rules::PROFILE_CALLS_DOCKER, todo);
    }
    for home in homes {
        for name in HOME_PROFILES {
            lines(look, &home.join(name), &rules::PROFILE_CALLS_DOCKER, todo);
        }
    }
    units(look, todo);
}

fn homes(look: &mut Look<'_>) -> Vec<PathBuf> {
    let mut homes = vec![PathBuf::from("/root")];
    homes.extend(look.list("/home"));
    homes
}

/// What is at a path, and below it.
fn lines(look: &mut Look<'_>, place: &Path, rule: &'static Rule, todo: &str) {
    let mut waiting = vec![(place.to_path_buf(), 0)];
    let mut files = 0;
    while let Some((path, depth)) = waiting.pop() {
        if PACKAGED.iter().any(|own| path == Path::new(own)) {
            continue;
        }
        let Some(metadata) = look.metadata(&path) else {
            continue;
        };
        // A link to a directory would be looked at twice, or for ever.
        if metadata.is_dir() && (depth == 0 || look.root.link(&path).is_none()) {
            if depth == MAX_DEPTH || is_foreign(&path) {
                continue;
            }
            let below = look.list(&path);
            waiting.extend(below.into_iter().rev().map(|path| (path, depth + 1)));
            continue;
        }
        if !metadata.is_file() {
            continue;
        }
        files += 1;
        if files > MAX_FILES {
            look.report.miss(
                format!("files below {}", place.display()),
                format!("there are more than {MAX_FILES}"),
                "search them by hand (grep -rw docker)",
            );
            return;
        }
        if is_compose(&path) {
            look.report.find(
                &rules::COMPOSE_FILE,
                [Evidence::file(&path)],
                "a project of docker-compose",
                "Make it a Deployment (kompose converts), or run it elsewhere: it ends with Docker",
            );
        } else if metadata.len() < 1 << 20
            && (rule.id != rules::SCRIPT_CALLS_DOCKER.id || may_be_script(&path, &metadata))
        {
            file(look, &path, rule, todo);
        }
    }
}

/// Trees that are not the administrator's own, and large.
fn is_foreign(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    matches!(
        name,
        Some(
            "node_modules"
                | ".git"
                | ".cache"
                | ".cargo"
                | ".rustup"
                | "site-packages"
                | "__pycache__"
                | ".npm"
                | ".local"
        )
    )
}

fn is_compose(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let is_yaml = path
        .extension()
        .is_some_and(|end| end == "yml" || end == "yaml");
    is_yaml && (name.starts_with("docker-compose") || name.starts_with("compose."))
}

fn may_be_script(path: &Path, metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let end = path.extension().and_then(|end| end.to_str());
    let named = matches!(end, Some("sh" | "bash" | "py" | "pl" | "rb" | "php" | "mk"));
    named || metadata.permissions().mode() & 0o111 != 0 || path.starts_with("/etc")
}

fn file(look: &mut Look<'_>, path: &Path, rule: &'static Rule, todo: &str) {
    let Some(source) = look.read(path) else {
        return;
    };
    if source.bytes().contains(&0) {
        return;
    }
    let calls: Vec<_> = source
        .lines()
        .filter_map(|(start, line)| Some((start, calls::call(line)?)))
        .collect();
    let Some((_, first)) = calls.first() else {
        return;
    };
    let evidence = calls.iter().take(SHOWN);
    let more = match calls.len() {
        1 => String::new(),
        number => format!(" (and {} more)", number - 1),
    };
    look.report.find(
        rule,
        evidence.map(|(start, _)| Evidence::at(&source, *start)),
        format!("{first}{more}"),
        todo,
    );
}

fn units(look: &mut Look<'_>, todo: &str) {
    for directory in systemd::DIRECTORIES {
        // Of a merged /usr, one directory has two names.
        if directory == "/lib/systemd/system" && look.root.link("/lib").is_some() {
            continue;
        }
        for path in look.list(directory) {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let unit = name.trim_end_matches(".d");
            // The kubelet's own has rules of its own.
            if DOCKERS_OWN.contains(&unit) || unit == "kubelet.service" {
                continue;
            }
            let files = if unit == name {
                vec![path]
            } else {
                look.list(&path)
            };
            for path in files {
                if look.metadata(&path).is_some_and(|one| one.is_file()) {
                    unit_file(look, &path, todo);
                }
            }
        }
    }
}

fn unit_file(look: &mut Look<'_>, path: &Path, todo: &str) {
    // A unit that is switched on is a link to itself.
    if look.root.link(path).is_some() {
        return;
    }
    let Some(source) = look.read(path) else {
        return;
    };
    for setting in UnitFile::read(&source).settings {
        let value = setting.value.text();
        let evidence = Evidence::at(&source, setting.offset);
        if setting.key.starts_with("Exec")
            && let Some(call) = calls::call(value)
        {
            look.report
                .find(&rules::UNIT_CALLS_DOCKER, [evidence], call, todo);
        } else if setting.section == "Unit"
            && matches!(
                setting.key.as_str(),
                "Requires" | "BindsTo" | "Requisite" | "PartOf" | "Wants"
            )
            && value
                .split_whitespace()
                .any(|unit| matches!(unit, "docker.service" | "docker.socket"))
        {
            look.report.find(
                &rules::UNIT_NEEDS_DOCKER,
                [evidence],
                format!("{}={}", setting.key, value.trim()),
                "Name the new runtime's unit instead; Wants= starts Docker again where it is not disabled",
            );
        }
    }
}
