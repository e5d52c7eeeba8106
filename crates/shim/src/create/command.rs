//! Finding a container's command, and executing it.

use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::seccomp::Armed;
use crate::config::Process;
use crate::failure::{Explain, Outcome};
use crate::protocol::Failure;
use crate::syscall;

/// Where commands are looked for when the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A file, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// The shim's own executable, which no container may run.
    pub(crate) fn of_shim() -> Outcome<Self> {
        let metadata = fs::metadata("/proc/self/exe").system(|| "look at /proc/self/exe")?;
        Ok(Self {
            device: metadata.st_dev(),
            inode: metadata.st_ino(),
        })
    }
}

/// What execve(2) is to be given.
#[derive(Debug)]
pub(crate) struct Command {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    filter: Armed,
}

impl Command {
    /// Executes it; comes back only with the reason why not.
    pub(crate) fn execute(&self) -> Failure {
        if let Err(failure) = self.filter.load() {
            return failure;
        }
        let error = syscall::execute(&self.path, &self.arguments, &self.environment);
        let message = format!("execute {}: {error}", self.path.to_string_lossy());
        match error {
            Errno::NOENT | Errno::ACCESS | Errno::NOEXEC | Errno::TOOBIG | Errno::NOTDIR => {
                Failure::invalid(message)
            }
            _ => Failure::system(message),
        }
    }
}

/// Finds the command, as the user who is to run it.
pub(super) fn command(
    process: &Process,
    environment: &[String],
    shim: Identity,
    filter: Armed,
) -> Outcome<Command> {
    let arguments = &process.args;
    let name = arguments
        .first()
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Failure::invalid("there is no command to run: process.args is empty"))?;
    let path = find(name, environment, shim)?;
    let strings = |strings: &[String]| {
        strings
            .iter()
            .map(|string| CString::new(string.as_str()))
            .collect::<Result<Vec<_>, _>>()
            .invalid(|| "an argument or a variable of the environment")
    };
    Ok(Command {
        path: CString::new(path.into_os_string().into_encoded_bytes())
            .invalid(|| "the command's path")?,
        arguments: strings(arguments)?,
        environment: strings(environment)?,
        filter,
    })
}

fn find(name: &str, environment: &[String], shim: Identity) -> Outcome<PathBuf> {
    let candidates = candidates(name, environment);
    let mut denied = None;
    for candidate in &candidates {
        match check(candidate, shim) {
            Ok(()) => return Ok(candidate.clone()),
            Err(Unfit::Missing) => {}
            Err(Unfit::Denied(reason)) => denied = denied.or(Some((candidate, reason))),
            Err(Unfit::Forbidden(reason)) => {
                return Err(Failure::invalid(format!(
                    "{} {reason}",
                    candidate.display()
                )));
            }
        }
    }
    Err(Failure::invalid(match denied {
        Some((path, reason)) => {
            format!(
                "the command {name:?} cannot be executed: {} {reason}",
                path.display()
            )
        }
        None => format!(
            "the command {name:?} is not in the container: looked for {}",
            candidates
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }))
}

/// Where a command may lie: at its path, or in the directories of `PATH`.
fn candidates(name: &str, environment: &[String]) -> Vec<PathBuf> {
    if name.contains('/') {
        return vec![PathBuf::from(name)];
    }
    let path = environment
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix("PATH="));
    path.unwrap_or(DEFAULT_PATH)
        .split(':')
        .map(|directory| Path::new(if directory.is_empty() { "." } else { directory }).join(name))
        .collect()
}

/// Why a file cannot be a command.
enum Unfit {
    /// There is none.
    Missing,
    /// It is not for this user to execute.
    Denied(String),
    /// It is not for anybody to execute.
    Forbidden(String),
}

fn check(path: &Path, shim: Identity) -> Result<(), Unfit> {
    let opened = match open(path, OFlags::PATH | OFlags::CLOEXEC) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Err(Unfit::Missing),
        Err(Errno::LOOP) => return Err(Unfit::Denied("leads through a link of /proc".to_owned())),
        other => other.map_err(|error| Unfit::Denied(format!("cannot be opened: {error}")))?,
    };
    let denied = |error: Errno| Unfit::Denied(format!("cannot be executed: {error}"));
    let found = rustix::fs::fstat(&opened).map_err(denied)?;
    if (Identity {
        device: found.st_dev,
        inode: found.st_ino,
    }) == shim
    {
        return Err(Unfit::Forbidden(
            "is the runtime's own executable".to_owned(),
        ));
    }
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Unfit::Denied("is a directory".to_owned())),
        _ => return Err(Unfit::Denied("is not a regular file".to_owned())),
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).map_err(|error| {
        Unfit::Denied(match error {
            Errno::ACCESS => "is not executable (no permission)".to_owned(),
            other => format!("cannot be executed: {other}"),
        })
    })?;
    check_interpreter(path)
}

/// A script's interpreter is the file that is executed in the end, so it is looked at as well: by
/// way of /proc/self/exe it could be the shim (CVE-2019-5736).
fn check_interpreter(path: &Path) -> Result<(), Unfit> {
    let mut beginning = [0; 256];
    // A command that cannot be read can still be executed.
    let Ok(file) = open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC) else {
        return Ok(());
    };
    let length = rustix::io::read(&file, &mut beginning).unwrap_or(0);
    let Some(interpreter) = interpreter(&beginning[..length]) else {
        return Ok(());
    };
    match open(Path::new(interpreter), OFlags::PATH | OFlags::CLOEXEC) {
        Err(Errno::LOOP) => Err(Unfit::Forbidden(format!(
            "is a script whose interpreter {interpreter} leads through a link of /proc"
        ))),
        Err(error) => Err(Unfit::Denied(format!(
            "is a script whose interpreter {interpreter} cannot be opened: {error}"
        ))),
        Ok(_) => Ok(()),
    }
}

fn interpreter(beginning: &[u8]) -> Option<&str> {
    let line = beginning
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    std::str::from_utf8(line)
        .ok()?
        .split_ascii_whitespace()
        .next()
}

/// Opens a path in the container, but not through a link of /proc that names no path.
pub(super) fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_looked_for_in_the_last_path() {
        let environment = ["PATH=/a".to_owned(), "PATH=/b::/c".to_owned()];
        let expected = ["/b/x", "./x", "/c/x"].map(PathBuf::from);
        assert_eq!(candidates("x", &environment), expected);
        assert_eq!(candidates("./x", &environment), [PathBuf::from("./x")]);
        assert_eq!(candidates("x", &[]).len(), 6);
    }

    #[test]
    fn interpreters() {
        assert_eq!(interpreter(b"#!/bin/sh\necho"), Some("/bin/sh"));
        assert_eq!(
            interpreter(b"#! /usr/bin/env -S python3\n"),
            Some("/usr/bin/env")
        );
        assert_eq!(interpreter(b"\x7fELF"), None);
        assert_eq!(interpreter(b"#!"), None);
    }
}
