//! Releases of runtimes: of what a node has, as its program or its package says.

use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::str::FromStr;

use tokio::process::Command;
use tokio::time::timeout;

use super::look::Look;
use super::systemd::Unit;
use super::version::{PATIENCE, packaged};

/// `1.6.20`: what a runtime speaks may change in any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Release {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    patch: u32,
}

impl Release {
    pub(crate) const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// The first one among words, such as `--version` prints.
    fn among(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|word| word.parse().ok())
    }
}

impl fmt::Display for Release {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Release {
    type Err = ();

    /// Reads `1.6.20`, `v2.0.0-rc.1`, `1.6.20~ds1-1+b1`, `5:0.3.4.3-0`.
    fn from_str(text: &str) -> Result<Self, ()> {
        // Before a colon there is the epoch of a package.
        let bare = text.split_once(':').map_or(text, |(_, bare)| bare);
        let bare = bare.strip_prefix('v').unwrap_or(bare);
        let mut parts = bare.splitn(3, '.');
        let mut number = || {
            let part = parts.next()?;
            let end = part.find(|letter: char| !letter.is_ascii_digit());
            part[..end.unwrap_or(part.len())].parse().ok()
        };
        match (number(), number()) {
            (Some(major), Some(minor)) => Ok(Self::new(major, minor, number().unwrap_or(0))),
            _ => Err(()),
        }
    }
}

/// The release of a program that a unit starts: what it says itself, or one of these packages.
pub(crate) async fn release(
    look: &mut Look<'_>,
    (program, unit): (&str, &str),
    packages: &[&str],
) -> Option<Release> {
    let unit = Unit::load(look, unit);
    let of_unit = unit.and_then(|unit| Some(unit.command(look).into_iter().next()?.text));
    let of_unit = of_unit.filter(|path| path.ends_with(&format!("/{program}")));
    let path = of_unit.or_else(|| look.program(program))?;
    if look.root.is_live()
        && let Some(release) = asked(Path::new(&path)).await
    {
        return Some(release);
    }
    // What administrators have put there is in no package.
    if path.starts_with("/usr/local/") || path.starts_with("/opt/") {
        return None;
    }
    let version = packages.iter().find_map(|package| packaged(look, package));
    version?.parse().ok()
}

/// What `--version` prints: cri-dockerd to its standard error. It is the program that systemd starts
/// as root anyway.
async fn asked(program: &Path) -> Option<Release> {
    let mut command = Command::new(program);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    let said = Release::among(&String::from_utf8_lossy(&output.stdout));
    said.or_else(|| Release::among(&String::from_utf8_lossy(&output.stderr)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn releases_are_read_as_programs_and_packages_write_them() {
        for (text, wanted) in [
            (
                "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+b1",
                "1.6.20",
            ),
            (
                "containerd containerd.io 1.7.27 05044ec0a9a75232cad458027ca83437aae3f4da",
                "1.7.27",
            ),
            (
                "containerd github.com/containerd/containerd/v2 v2.0.0-rc.1 207ad711",
                "2.0.0",
            ),
            (
                "crio version 1.26.1\nVersion:        1.26.1\nGitCommit:      unknown\n",
                "1.26.1",
            ),
            ("cri-dockerd 0.3.4 (e88b1605)\n", "0.3.4"),
            ("5:0.3.21.3-0.debian-bookworm", "0.3.21"),
            ("1.24-2.el8", "1.24.0"),
        ] {
            let read = Release::among(text).map(|release| release.to_string());
            assert_eq!(read.as_deref(), Some(wanted), "{text}");
        }
        assert_eq!(
            Release::among("flag provided but not defined: -version"),
            None
        );
    }

    #[tokio::test]
    async fn a_program_that_speaks_to_either_stream_is_heard() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("cri-dockerd");
        for stream in [1, 2] {
            let text =
                format!("#!/bin/sh\n[ \"$*\" = --version ] && echo cri-dockerd 0.3.4 >&{stream}\n");
            fs::write(&program, text).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            assert_eq!(asked(&program).await, Some(Release::new(0, 3, 4)));
        }
        assert_eq!(asked(Path::new("/nonexistent/program")).await, None);
    }
}
