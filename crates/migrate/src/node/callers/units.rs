//! Units of systemd that call docker or need Docker's, and the scripts that they start: those of the
//! node and those of its users.

use std::path::{Path, PathBuf};

use super::{Callers, TODO, is_named_as_script};
use crate::Evidence;
use crate::calls;
use crate::document::{Setting, Source, UnitFile};
use crate::node::systemd;
use crate::rules;

/// Units of all users (systemd.unit(5), "User Unit Search Path").
const OF_USERS: [&str; 6] = [
    "/etc/systemd/user",
    "/run/systemd/user",
    "/usr/local/share/systemd/user",
    "/usr/share/systemd/user",
    "/usr/local/lib/systemd/user",
    "/usr/lib/systemd/user",
];

/// Units of one user, in the home.
const OF_HOME: [&str; 2] = [".config/systemd/user", ".local/share/systemd/user"];

/// Units that come with Docker and with those who sit on it.
const DOCKERS_OWN: [&str; 5] = [
    "docker.service",
    "docker.socket",
    "containerd.service",
    "cri-docker.service",
    "cri-docker.socket",
];

/// Where programs without a path are looked for (systemd.exec(5), `ExecSearchPath=`).
const PROGRAMS: [&str; 5] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/root",
];

/// A file of a unit.
struct File<'a> {
    source: &'a Source,
    unit: UnitFile,
    /// What `%h` stands for, where that is known.
    home: Option<&'a Path>,
    /// Whether it is the system's manager that reads it: Docker's units are that one's.
    of_system: bool,
}

impl Callers<'_, '_> {
    /// Looks at all units.
    pub(super) fn units(&mut self, homes: &[PathBuf]) {
        for directory in systemd::DIRECTORIES {
            self.directory(Path::new(directory), Some(Path::new("/root")), true);
        }
        for directory in OF_USERS {
            self.directory(Path::new(directory), None, false);
        }
        for home in homes {
            for directory in OF_HOME {
                self.directory(&home.join(directory), Some(home), false);
            }
        }
    }

    fn directory(&mut self, directory: &Path, home: Option<&Path>, of_system: bool) {
        for path in self.look.list(directory) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let unit = name.trim_end_matches(".d");
            if DOCKERS_OWN.contains(&unit) {
                continue;
            }
            // The kubelet's own has rules of its own.
            let of_kubelet = unit == "kubelet.service";
            let files = if unit == name {
                vec![path.clone()]
            } else {
                self.look.list(&path)
            };
            for path in files {
                self.unit_file(&path, home, of_system, of_kubelet);
            }
        }
    }

    fn unit_file(&mut self, path: &Path, home: Option<&Path>, of_system: bool, of_kubelet: bool) {
        let Some(metadata) = self.look.metadata(path) else {
            return;
        };
        if !metadata.is_file() || is_second_name(self, path) || !self.walk.is_new(&metadata) {
            return;
        }
        let Some(source) = self.look.read(path) else {
            return;
        };
        let file = File {
            unit: UnitFile::read(&source),
            source: &source,
            home,
            of_system,
        };
        for setting in &file.unit.settings {
            if setting.key.starts_with("Exec") {
                self.command(&file, setting, of_kubelet);
            } else if !of_kubelet && setting.section == "Unit" && file.of_system {
                self.dependency(&file, setting);
            }
        }
    }

    fn command(&mut self, file: &File<'_>, setting: &Setting, of_kubelet: bool) {
        let by = || Evidence::at(file.source, setting.offset);
        if let Some(call) = calls::call(setting.value.text())
            && !of_kubelet
        {
            let rule = &rules::UNIT_CALLS_DOCKER;
            self.left_over
                .find(self.look, rule, vec![by()], &call, TODO);
        }
        for named in file.scripts(setting) {
            let mut places = file.places(&named).into_iter();
            let is_there = places.any(|path| self.named(&path, &rules::UNIT_CALLS_DOCKER, by()));
            // What is not where its path says calls nobody.
            let is_open = !named.starts_with('/') || named.contains('%');
            if !is_there && is_open && is_named_as_script(Path::new(&named)) {
                self.look.report.miss(
                    format!("{named}, which {} runs", by()),
                    "where it is turns out only when it is started",
                    "look at it by hand",
                );
            }
        }
    }

    fn dependency(&mut self, file: &File<'_>, setting: &Setting) {
        let key = setting.key.as_str();
        let is_need = matches!(key, "Requires" | "BindsTo" | "Requisite");
        // Without Docker, these are heeded no more.
        let is_wish = matches!(key, "Wants" | "PartOf") && !self.left_over.is_so();
        let value = setting.value.text();
        let mut units = value.split_whitespace();
        let is_dockers = units.any(|unit| matches!(unit, "docker.service" | "docker.socket"));
        if (is_need || is_wish) && is_dockers {
            self.left_over.find(
                self.look,
                &rules::UNIT_NEEDS_DOCKER,
                vec![Evidence::at(file.source, setting.offset)],
                &format!("{key}={}", value.trim()),
                "Name the new runtime's unit instead; Wants= starts Docker again where it is not disabled",
            );
        }
    }
}

impl File<'_> {
    /// What in a command may be a script: words that are paths, and those that are called like one.
    fn scripts(&self, setting: &Setting) -> Vec<String> {
        let mut found = Vec::new();
        for word in setting.value.words() {
            let mut word = word.text().replace("%%", "%");
            if let Some(home) = self.home {
                word = word.replace("%h", &home.to_string_lossy());
            }
            let whole = word.trim_start_matches(['@', '-', ':', '+', '!']);
            if whole.starts_with('/') || is_script_beside(whole) {
                found.push(whole.to_string());
            }
            // A shell's command line is one word.
            let within = calls::paths(whole).filter(|path| *path != whole);
            found.extend(within.map(str::to_string));
        }
        found
    }

    /// Where it may be.
    fn places(&self, script: &str) -> Vec<PathBuf> {
        if script.starts_with('/') {
            return vec![PathBuf::from(script)];
        }
        let own = self.unit.all("Service", "WorkingDirectory");
        let own = own.map(|one| one.value.text().trim_start_matches('-'));
        let above = own.chain(PROGRAMS).map(Path::new);
        above.map(|above| above.join(script)).collect()
    }
}

/// Whether a word without a path is called as a script is, and is no pattern.
fn is_script_beside(word: &str) -> bool {
    let is_plain =
        !word.contains(|letter: char| letter.is_whitespace() || "*?[$=\\".contains(letter));
    is_plain && !word.starts_with('-') && is_named_as_script(Path::new(word))
}

/// Whether it is a link to what is looked at by its own name: units that are switched on, aliases.
fn is_second_name(callers: &Callers<'_, '_>, path: &Path) -> bool {
    let root = callers.look.root;
    if root.link(path).is_none() {
        return false;
    }
    let destination = root.destination(path);
    let directory = destination
        .ok()
        .and_then(|path| Some(path.parent()?.to_path_buf()));
    directory.is_some_and(|directory| {
        let mut all = systemd::DIRECTORIES.iter().chain(&OF_USERS);
        all.any(|one| root.destination(one).is_ok_and(|one| one == directory))
    })
}
