//! Who on the node calls docker: scripts, cron jobs, units, profiles of shells.
//!
//! On a node without Docker too: who calls it there fails, or does so at the next run.

mod units;

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use super::Facts;
use super::homes;
use super::left_over::LeftOver;
use super::look::Look;
use super::walk::Walk;
use crate::Evidence;
use crate::calls;
use crate::document::Source;
use crate::rules::{self, Rule};

/// As many lines of one file as a finding names.
const SHOWN: usize = 8;

/// What to do about a call.
const TODO: &str = "Call crictl for pods and containers, nerdctl, podman or buildkit for building, and the Kubernetes API for the rest";

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

/// Files of Docker's packages.
const PACKAGED: [&str; 6] = [
    "/etc/init.d/docker",
    "/etc/default/docker",
    "/usr/local/bin/dockerd",
    "/usr/local/bin/docker",
    "/usr/local/bin/docker-compose",
    "/opt/cni",
];

pub(super) fn check(look: &mut Look<'_>, facts: &Facts) {
    let mut callers = Callers {
        left_over: LeftOver::of(look, facts),
        look,
        walk: Walk::default(),
    };
    let homes = homes::all(callers.look);
    // What runs by itself comes first: a script that a unit names counts as the unit's.
    callers.units(&homes);
    for place in CRON {
        callers.cron(Path::new(place));
    }
    let of_homes = homes
        .iter()
        .flat_map(|home| HOME_PROFILES.map(|name| home.join(name)));
    for place in PROFILES.map(PathBuf::from).into_iter().chain(of_homes) {
        for (path, _) in callers.files(&place) {
            callers.file(&path, &rules::PROFILE_CALLS_DOCKER, None);
        }
    }
    let of_homes = homes
        .iter()
        .flat_map(|home| [home.clone(), home.join(".local/bin")]);
    for place in SCRIPTS.map(PathBuf::from).into_iter().chain(of_homes) {
        callers.scripts(&place);
    }
}

/// A search for them.
struct Callers<'l, 'r> {
    look: &'l mut Look<'r>,
    left_over: LeftOver,
    walk: Walk,
}

impl Callers<'_, '_> {
    fn files(&mut self, place: &Path) -> Vec<(PathBuf, Metadata)> {
        let is_left_out = |path: &Path| is_packaged(path) || is_foreign(path);
        self.walk.files(self.look, place, is_left_out)
    }

    fn cron(&mut self, place: &Path) {
        for (path, _) in self.files(place) {
            let Some(source) = self.look.text(&path) else {
                continue;
            };
            self.calls(&source, &rules::CRON_CALLS_DOCKER, None);
            for (start, line) in source.lines() {
                for named in calls::paths(line) {
                    let by = Evidence::at(&source, start);
                    self.named(Path::new(named), &rules::CRON_CALLS_DOCKER, by);
                }
            }
        }
    }

    fn scripts(&mut self, place: &Path) {
        for (path, metadata) in self.files(place) {
            if is_compose(&path) {
                self.left_over.find(
                    self.look,
                    &rules::COMPOSE_FILE,
                    vec![Evidence::file(&path)],
                    "a project of docker-compose",
                    "Make it a Deployment (kompose converts), or run it elsewhere: it ends with Docker",
                );
            } else if path.starts_with("/etc") || is_script(self.look, &path, &metadata) {
                self.file(&path, &rules::SCRIPT_CALLS_DOCKER, None);
            }
        }
    }

    /// What somebody names who runs it, if it is a script that was not looked at already; whether it
    /// is there.
    fn named(&mut self, path: &Path, rule: &'static Rule, by: Evidence) -> bool {
        let metadata = self.look.metadata(path).filter(Metadata::is_file);
        let Some(metadata) = metadata else {
            return false;
        };
        if !is_packaged(path)
            && is_script(self.look, path, &metadata)
            && self.walk.is_new(&metadata)
        {
            self.file(path, rule, Some(by));
        }
        true
    }

    /// The calls in a file, which `by` has run.
    fn file(&mut self, path: &Path, rule: &'static Rule, by: Option<Evidence>) {
        if let Some(source) = self.look.text(path) {
            self.calls(&source, rule, by);
        }
    }

    fn calls(&mut self, source: &Source, rule: &'static Rule, by: Option<Evidence>) {
        let calls: Vec<_> = source
            .lines()
            .filter_map(|(start, line)| Some((start, calls::call(line)?)))
            .collect();
        let Some((_, first)) = calls.first() else {
            return;
        };
        let evidence = calls.iter().take(SHOWN);
        let evidence = evidence.map(|(start, _)| Evidence::at(source, *start));
        let more = match calls.len() {
            1 => String::new(),
            number => format!(" (and {} more)", number - 1),
        };
        let found = format!("{first}{more}");
        self.left_over
            .find(self.look, rule, evidence.chain(by).collect(), &found, TODO);
    }
}

fn is_packaged(path: &Path) -> bool {
    PACKAGED.iter().any(|own| path == Path::new(own))
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
                | ".nvm"
                | ".pyenv"
                | ".rbenv"
                | ".rvm"
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

/// Whether a file is called as scripts are.
fn is_named_as_script(path: &Path) -> bool {
    let end = path.extension().and_then(|end| end.to_str());
    matches!(
        end,
        Some("sh" | "bash" | "ksh" | "zsh" | "fish" | "py" | "pl" | "rb" | "php" | "mk")
    )
}

/// Whether a file is one for an interpreter: by its name, or because it says so. A shell runs an
/// executable one that does not.
fn is_script(look: &mut Look<'_>, path: &Path, metadata: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let is_executable = metadata.permissions().mode() & 0o111 != 0;
    let is_small = metadata.len() < 1 << 20;
    is_named_as_script(path)
        || is_executable && is_small
        || (is_executable || path.extension().is_none()) && look.names_interpreter(path)
}
