//! The package for Debian and its relatives.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::source_date;
use super::tree::Tree;
use crate::{cargo, directory, program};

/// What dpkg runs before and after it unpacks and removes files.
const SCRIPTS: [&str; 4] = ["preinst", "postinst", "prerm", "postrm"];

/// How a package's files are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// As small as every dpkg can unpack.
    Small,
    /// Not at all, where small programs matter less than the time that an emulated machine takes.
    Quick,
}

impl Packing {
    fn argument(self) -> &'static str {
        match self {
            Self::Small => "-Zxz",
            Self::Quick => "-Znone",
        }
    }
}

/// Turns a tree into a package.
pub(super) fn write(tree: &Tree, version: &str, packing: Packing, to: &Path) -> Result<PathBuf> {
    let control = tree.path().join("DEBIAN");
    let size = directory::size(tree.path())? / 1024;
    let library = c_library(&fs::read(tree.program("slipway"))?)
        .context("slipway names no version of the C library")?;
    fs::create_dir(&control)?;
    fs::set_permissions(&control, fs::Permissions::from_mode(0o755))?;
    fs::write(
        control.join("control"),
        description(version, size, &library),
    )?;
    fs::write(control.join("conffiles"), "/etc/slipway/config.toml\n")?;
    fs::write(control.join("md5sums"), checksums(tree.path())?)?;
    for script in SCRIPTS {
        let from = cargo::workspace().join("dist/debian").join(script);
        let script = control.join(script);
        fs::copy(&from, &script).with_context(|| format!("cannot copy {}", from.display()))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    }
    let file = to.join(format!("slipway_{version}_amd64.deb"));
    program::run(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", packing.argument(), "--build"])
            .arg(tree.path())
            .arg(&file)
            .env("SOURCE_DATE_EPOCH", source_date()?),
    )?;
    Ok(file)
}

fn description(version: &str, size: u64, library: &str) -> String {
    format!(
        "\
Package: slipway
Version: {version}
Architecture: amd64
Maintainer: The Slipway authors <slipway-runtime@users.noreply.github.com>
Installed-Size: {size}
Depends: libc6 (>= {library})
Recommends: apparmor, conntrack, containernetworking-plugins, iptables, kmod
Suggests: criu, runc
Section: admin
Priority: optional
Homepage: https://github.com/slipway-runtime/slipway
Description: container runtime of a Kubernetes node
 Slipway runs the pods that a kubelet asks for over CRI: images, network, logs
 and processes, with one small process a pod and no other OCI runtime.
 .
 Pods go on while the daemon is restarted, and while this package is upgraded.
"
    )
}

/// The newest version of glibc that a program's symbols are of, and so the oldest that it runs on.
fn c_library(program: &[u8]) -> Option<String> {
    const PREFIX: &[u8] = b"GLIBC_2.";
    let minors = program.windows(PREFIX.len()).enumerate();
    let minors = minors.filter(|(_, window)| *window == PREFIX);
    let minors = minors.filter_map(|(at, _)| {
        let digits = program[at + PREFIX.len()..].iter();
        let digits = digits.take_while(|byte| byte.is_ascii_digit());
        let digits = digits.map(|&byte| char::from(byte)).collect::<String>();
        digits.parse::<u32>().ok()
    });
    minors.max().map(|minor| format!("2.{minor}"))
}

/// What `dpkg --verify` compares with.
fn checksums(root: &Path) -> Result<Vec<u8>> {
    program::run(
        Command::new("sh")
            .args([
                "-c",
                "find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum",
            ])
            .current_dir(root),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::debian;
    use crate::dist::tree::pretended;

    #[test]
    fn a_package_keeps_what_the_administrator_changes_and_everybody_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let programs = pretended(directory.path());
        let package = debian(&programs, "1.2.3", Packing::Small, directory.path()).unwrap();
        let ask = |option: &str, rest: &[&str]| {
            let mut command = Command::new("dpkg-deb");
            let printed = program::run(command.arg(option).arg(&package).args(rest)).unwrap();
            String::from_utf8(printed).unwrap()
        };
        assert_eq!(ask("--info", &["conffiles"]), "/etc/slipway/config.toml\n");
        assert_eq!(
            ask("--field", &["Version", "Depends"]),
            "Version: 1.2.3\nDepends: libc6 (>= 2.34)\n"
        );
        let listed = ask("--contents", &[]);
        for line in listed.lines() {
            let mode = &line[..10];
            assert!(
                ["drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x"].contains(&mode),
                "{line}"
            );
            assert!(line.contains(" root/root "), "{line}");
        }
        for file in [
            "./usr/bin/slipway-shim",
            "./usr/lib/systemd/system/slipway.service",
        ] {
            assert!(listed.contains(file), "no {file} in\n{listed}");
        }
    }

    #[test]
    fn the_newest_version_of_the_c_library_counts() {
        let program = b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0GLIBC_2.\0";
        assert_eq!(c_library(program).as_deref(), Some("2.34"));
        assert_eq!(c_library(b"static"), None);
    }

    #[test]
    fn a_paragraph_of_control_data_has_no_empty_line() {
        let text = description("1.2.3", 4, "2.36");
        assert!(text.lines().all(|line| !line.is_empty()), "{text}");
        assert!(text.contains("\nVersion: 1.2.3\n"));
        assert!(text.contains("libc6 (>= 2.36)"));
    }
}
