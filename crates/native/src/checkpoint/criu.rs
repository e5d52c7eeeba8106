//! Having CRIU write the state of a container's processes (criu(8), `dump`).

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use slipway_checkpoint::{Checkpoint, Work};
use slipway_engine::{Error, Result, blocking};
use slipway_shim::protocol::Runtime;
use tokio::process::Command;

use crate::config::Config;
use crate::{handlers, program};

/// How long CRIU may take to say whether it works here.
const CHECK_DEADLINE: Duration = Duration::from_secs(10);

/// How much of its log goes into an error message, in characters.
const MAX_REASON: usize = 1000;

/// CRIU's executable: as configured, or in the directories of `path`.
///
/// # Errors
///
/// [`slipway_engine::Kind::FailedPrecondition`] when there is none.
pub(super) fn find(config: &Config, path: &OsStr) -> Result<PathBuf> {
    let missing = |found: String| {
        Error::precondition(format!(
            "checkpoints are written by CRIU, and {found}: install the package criu on the node, \
             or say where it is with runtime.criu_path"
        ))
    };
    if let Some(path) = &config.criu_path {
        return match handlers::executable(path) {
            Ok(()) => Ok(path.clone()),
            Err(reason) => Err(missing(format!("{} {reason}", path.display()))),
        };
    }
    env::split_paths(path)
        .map(|directory| directory.join("criu"))
        .find(|path| handlers::executable(path).is_ok())
        .ok_or_else(|| missing("there is no criu in PATH".to_owned()))
}

/// Where programs are looked for.
pub(super) fn search_path() -> OsString {
    env::var_os("PATH").unwrap_or_default()
}

/// One dump.
pub(super) struct Dump<'a> {
    pub(super) criu: &'a Path,
    /// The container's init.
    pub(super) pid: i32,
    pub(super) container: &'a str,
    /// Takes the log and the statistics, and the images.
    pub(super) work: &'a Work,
    pub(super) checkpoint: &'a Checkpoint,
}

impl Dump<'_> {
    /// Has CRIU dump a container of the built-in runtime, made from this `config.json`.
    pub(super) async fn run(&self, config: &Value) -> Result<()> {
        let (process, config) = (PathBuf::from(format!("/proc/{}", self.pid)), config.clone());
        let images = self.work.images();
        let arguments = blocking::run(move || {
            note_streams(&process, &images)?;
            let mut arguments = namespaces(&process, &config)?;
            arguments.extend(mounts(&process, &config)?);
            if config["process"]["terminal"] == json!(true) {
                arguments.extend(terminal(&process)?);
            }
            Ok(arguments)
        })
        .await?;
        let mut command = Command::new(self.criu);
        command
            .arg("dump")
            .args(["--tree", &self.pid.to_string()])
            .arg("--images-dir")
            .arg(self.work.images())
            .arg("--work-dir")
            .arg(self.work.directory())
            .args(["--log-file", "dump.log", "-v4", "--leave-running"])
            // What the container may have open beyond itself is kept as far as CRIU can.
            .args(["--tcp-established", "--ext-unix-sk", "--file-locks"])
            .args(["--manage-cgroups=ignore"])
            .args(["--enable-external-masters", "--enable-external-sharing"])
            .args(arguments);
        self.finish(&mut command).await
    }

    /// Has an external runtime do it for its own container.
    pub(super) async fn run_by(&self, runtime: &Runtime) -> Result<()> {
        let mut command = handlers::command(runtime);
        if let Some(directory) = self.criu.parent() {
            // Runtimes look for CRIU in PATH.
            let path = search_path();
            let all = [directory.to_owned()]
                .into_iter()
                .chain(env::split_paths(&path));
            command.env("PATH", env::join_paths(all).unwrap_or(path.clone()));
        }
        command
            .args(["checkpoint", "--leave-running", "--image-path"])
            .arg(self.work.images())
            .arg("--work-path")
            .arg(self.work.directory())
            .args(["--tcp-established", "--ext-unix-sk", "--file-locks"])
            .args(["--shell-job", self.container]);
        self.finish(&mut command).await
    }

    async fn finish(&self, command: &mut Command) -> Result<()> {
        let name = command.as_std().get_program().to_owned();
        let ended = program::run(command, self.checkpoint.limit()).await;
        let ended = ended.map_err(|error| {
            Error::internal(format!("run {}: {error}", Path::new(&name).display()))
        })?;
        let output = ended.ok_or_else(|| self.checkpoint.overdue())?;
        if output.status.success() {
            return Ok(());
        }
        let log = self.work.directory().join("dump.log");
        let log = blocking::run(move || Ok(fs::read_to_string(log).unwrap_or_default())).await?;
        let reason = match reason(&log) {
            said if said.is_empty() => program::last_line(&output.stderr),
            said => said,
        };
        let message = format!(
            "{} ended with {}: {reason}",
            Path::new(&name).display(),
            output.status
        );
        // Whether it is the node or the container that it cannot cope with.
        let check = &mut Command::new(self.criu);
        match program::run(check.arg("check"), Some(CHECK_DEADLINE)).await {
            Ok(Some(output)) if output.status.success() => Err(Error::internal(message)),
            _ => Err(Error::precondition(format!(
                "CRIU does not work on this node, as `{} check` says as well: it may be too old \
                 for the kernel, or lack its permission; {message}",
                self.criu.display()
            ))),
        }
    }
}

/// What a log of CRIU's says went wrong.
fn reason(log: &str) -> String {
    let errors = log.lines().filter_map(|line| {
        let at = line.find("Error (")?;
        Some(line[at..].trim())
    });
    let all = errors.collect::<Vec<_>>().join("; ");
    all.chars().take(MAX_REASON).collect()
}

/// Notes what the standard streams are, as runc does for a restore to know them by.
fn note_streams(process: &Path, images: &Path) -> Result<()> {
    let streams: Vec<String> = (0..3)
        .map(|number| {
            let target = fs::read_link(process.join(format!("fd/{number}")));
            target.map_or_else(
                |_| "/dev/null".to_owned(),
                |target| target.display().to_string(),
            )
        })
        .collect();
    let path = images.join("descriptors.json");
    fs::write(&path, json!(streams).to_string())
        .map_err(|error| Error::internal(format!("{}: {error}", path.display())))
}

/// Namespaces that the container has from its pod: a restored one gets them from another.
fn namespaces(process: &Path, config: &Value) -> Result<Vec<String>> {
    let mut arguments = Vec::new();
    let listed = config["linux"]["namespaces"].as_array();
    for (kind, file, name) in [
        ("network", "net", "extRootNetNS"),
        ("pid", "pid", "extRootPidNS"),
    ] {
        let of_pod = listed.into_iter().flatten().any(|namespace| {
            namespace["type"] == json!(kind) && namespace["path"].as_str().is_some()
        });
        if of_pod {
            let path = process.join("ns").join(file);
            let found = fs::metadata(&path)
                .map_err(|error| Error::internal(format!("{}: {error}", path.display())))?;
            arguments.push("--external".to_owned());
            arguments.push(format!("{file}[{}]:{name}", found.ino()));
        }
    }
    Ok(arguments)
}

/// A terminal whose other side the shim has.
fn terminal(process: &Path) -> Result<Vec<String>> {
    let path = process.join("fd/0");
    let found = fs::metadata(&path)
        .map_err(|error| Error::internal(format!("{}: {error}", path.display())))?;
    let name = format!("tty[{:x}:{:x}]", found.rdev(), found.dev());
    Ok(["--shell-job", "--external", &name]
        .map(str::to_owned)
        .into())
}

/// Mounts whose content is not the container's: volumes, cgroups, what is masked.
fn mounts(process: &Path, config: &Value) -> Result<Vec<String>> {
    let path = process.join("mountinfo");
    let mountinfo = fs::read_to_string(&path)
        .map_err(|error| Error::internal(format!("{}: {error}", path.display())))?;
    // A masked directory is an empty one of the container's own.
    let is_directory = |point: &str| process.join("root").join(&point[1..]).is_dir();
    let external = external(&mountinfo, config);
    let masked = texts(&config["linux"]["maskedPaths"]);
    let masked =
        masked.filter(|path| !is_directory(path) && points(&mountinfo).any(|it| it.1 == *path));
    let masked = masked.map(|path| (path.to_owned(), "/dev/null".to_owned()));
    Ok(external
        .into_iter()
        .map(|point| (point.clone(), point))
        .chain(masked)
        .flat_map(|(point, name)| ["--external".to_owned(), format!("mnt[{point}]:{name}")])
        .collect())
}

/// The mount points of a container that stand for something outside of it.
fn external(mountinfo: &str, config: &Value) -> BTreeSet<String> {
    let listed = config["mounts"].as_array();
    let binds: Vec<&str> = listed
        .into_iter()
        .flatten()
        .filter(|mount| {
            mount["type"] == json!("bind")
                || texts(&mount["options"]).any(|option| matches!(option, "bind" | "rbind"))
        })
        .filter_map(|mount| mount["destination"].as_str())
        .collect();
    let below = |point: &str| {
        binds.iter().any(|bind| {
            point
                .strip_prefix(bind)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    points(mountinfo)
        .filter(|(root, point, kind)| {
            // A terminal that is shown somewhere else: /dev/console.
            let terminal = *kind == "devpts" && !matches!(*root, "/" | "/ptmx");
            terminal || below(point) || kind.starts_with("cgroup")
        })
        .map(|(_, point, _)| point)
        .collect()
}

/// The mounts of a mountinfo file (proc(5)): which directory of its file system is mounted, where,
/// and what kind that is.
fn points(mountinfo: &str) -> impl Iterator<Item = (&str, String, &str)> {
    mountinfo.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        let point = point.replace("\\040", " ");
        Some((root, point, file_system.split(' ').next()?))
    })
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bound_and_what_is_below_it_is_external() {
        let config = json!({"mounts": [
            {"destination": "/proc", "type": "proc"},
            {"destination": "/dev", "type": "tmpfs"},
            {"destination": "/etc/hosts", "type": "bind", "options": ["rbind", "rw"]},
            {"destination": "/data", "type": "none", "options": ["rbind"]},
        ]});
        let mountinfo = "\
            1 0 0:1 / / rw,relatime - overlay overlay rw\n\
            2 1 0:2 / /proc rw - proc proc rw\n\
            3 1 0:3 / /dev rw - tmpfs tmpfs rw\n\
            4 1 8:1 /x/hosts /etc/hosts rw master:1 - ext4 /dev/sda rw\n\
            5 1 8:1 /y /data rw - ext4 /dev/sda rw\n\
            6 5 0:9 / /data/deep\\040er ro - tmpfs t rw\n\
            7 1 8:1 /z /database rw - ext4 /dev/sda rw\n\
            9 3 0:6 /0 /dev/console rw - devpts devpts rw\n\
            9 3 0:6 / /dev/pts rw - devpts devpts rw\n\
            8 1 0:5 /a /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n\
            broken line\n";
        let found = external(mountinfo, &config);
        let expected = [
            "/data",
            "/data/deep er",
            "/dev/console",
            "/etc/hosts",
            "/sys/fs/cgroup/cpu",
        ];
        assert!(found.iter().eq(expected.iter()), "{found:?}");
    }

    #[test]
    fn a_node_without_criu_is_told_what_to_install() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().as_os_str();
        let error = find(&Config::default(), path).unwrap_err();
        assert_eq!(error.kind(), slipway_engine::Kind::FailedPrecondition);
        for word in ["PATH", "install", "criu_path"] {
            assert!(error.to_string().contains(word), "{error}");
        }
        let criu = directory.path().join("criu");
        fs::copy("/bin/true", &criu).unwrap();
        assert_eq!(find(&Config::default(), path).unwrap(), criu);
    }

    #[test]
    fn the_reason_is_what_criu_calls_an_error() {
        let log = "(00.001) Version: 4\n(00.002) Error (criu/a.c:1): no\n(00.003) Warn x\n\
                   (00.004) Error (criu/b.c:2): Dumping FAILED.\n";
        let expected = "Error (criu/a.c:1): no; Error (criu/b.c:2): Dumping FAILED.";
        assert_eq!(reason(log), expected);
        assert_eq!(reason("fine"), "");
    }
}
