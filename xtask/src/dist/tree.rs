//! The files of an installation, in a directory that stands for `/`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::{cargo, program};

/// Where the files go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Below `/usr`, as Debian's packages have them.
    Debian,
    /// Below `/usr/local`, which belongs to the administrator.
    Local,
}

impl Layout {
    fn prefix(self) -> &'static str {
        match self {
            Self::Debian => "usr",
            Self::Local => "usr/local",
        }
    }

    fn zsh(self) -> &'static str {
        match self {
            Self::Debian => "share/zsh/vendor-completions",
            Self::Local => "share/zsh/site-functions",
        }
    }
}

/// Such a directory. It goes when this is dropped.
#[derive(Debug)]
pub(super) struct Tree {
    directory: TempDir,
    layout: Layout,
}

impl Tree {
    /// Puts everything into place.
    pub(super) fn new(
        layout: Layout,
        slipway: &Path,
        configuration: &str,
        sbom: &str,
    ) -> Result<Self> {
        let tree = Self {
            directory: TempDir::new()?,
            layout,
        };
        tree.programs(slipway)?;
        tree.node()?;
        tree.shells(slipway)?;
        tree.manual(slipway)?;
        tree.documents(sbom)?;
        tree.configuration(configuration)?;
        // Whatever the umask is: an archive that is unpacked at / gives its modes to /usr as well.
        program::run(
            Command::new("chmod")
                .args(["--recursive", "u+w,go-w,a+rX"])
                .arg(tree.path()),
        )?;
        Ok(tree)
    }

    /// What stands for `/`.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The path of a program.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.below("bin").join(name)
    }

    fn below(&self, path: &str) -> PathBuf {
        self.path().join(self.layout.prefix()).join(path)
    }

    fn write(&self, path: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path().join(path);
        let parent = path.parent().context("a file has a directory")?;
        fs::create_dir_all(parent)?;
        fs::write(&path, contents).with_context(|| format!("cannot write {}", path.display()))
    }

    fn programs(&self, slipway: &Path) -> Result<()> {
        fs::create_dir_all(self.below("bin"))?;
        for name in ["slipway", "slipway-shim"] {
            let (from, to) = (slipway.with_file_name(name), self.program(name));
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    /// dpkg keeps what the administrator has changed; an archive would not, so there it is an example.
    fn configuration(&self, text: &str) -> Result<()> {
        match self.layout {
            Layout::Debian => {
                fs::create_dir_all(self.path().join("etc/slipway/conf.d"))?;
                self.write("etc/slipway/config.toml", text)
            }
            Layout::Local => {
                let examples = self.below("share/doc/slipway/examples");
                self.write(examples.join("config.toml"), text)
            }
        }
    }

    /// What systemd, the kernel and crictl are told.
    fn node(&self) -> Result<()> {
        let programs = format!("/{}/bin/", self.layout.prefix());
        let unit = source("dist/slipway.service")?.replace("/usr/bin/", &programs);
        self.write(self.below("lib/systemd/system/slipway.service"), unit)?;
        for (from, to) in [
            ("dist/modules-load.conf", "lib/modules-load.d/slipway.conf"),
            ("dist/sysctl.conf", "lib/sysctl.d/90-slipway.conf"),
            ("dist/crictl.yaml", "share/doc/slipway/examples/crictl.yaml"),
            (
                "dist/grafana/slipway.json",
                "share/doc/slipway/examples/grafana-dashboard.json",
            ),
            (
                "dist/prometheus/slipway-alerts.yml",
                "share/doc/slipway/examples/prometheus-alerts.yml",
            ),
        ] {
            self.write(self.below(to), source(from)?)?;
        }
        Ok(())
    }

    fn shells(&self, slipway: &Path) -> Result<()> {
        for (shell, directory, name) in [
            ("bash", "share/bash-completion/completions", "slipway"),
            ("zsh", self.layout.zsh(), "_slipway"),
            ("fish", "share/fish/vendor_completions.d", "slipway.fish"),
        ] {
            let script = program::run(Command::new(slipway).args(["completions", shell]))?;
            self.write(self.below(directory).join(name), script)?;
        }
        Ok(())
    }

    fn manual(&self, slipway: &Path) -> Result<()> {
        let pages = self.below("share/man/man1");
        program::run(Command::new(slipway).arg("man").arg(&pages))?;
        for page in fs::read_dir(&pages)? {
            compress(&page?.path())?;
        }
        Ok(())
    }

    fn documents(&self, sbom: &str) -> Result<()> {
        let directory = self.below("share/doc/slipway");
        for (from, to) in [
            ("LICENSE", "copyright"),
            ("CHANGELOG.md", "changelog"),
            ("README.md", "README.md"),
            ("SECURITY.md", "SECURITY.md"),
            ("SPECIFICATION.md", "SPECIFICATION.md"),
            ("docs/configuration.md", "docs/configuration.md"),
            ("docs/install.md", "docs/install.md"),
            ("docs/monitoring.md", "docs/monitoring.md"),
            ("docs/troubleshooting.md", "docs/troubleshooting.md"),
            ("docs/upgrade.md", "docs/upgrade.md"),
        ] {
            self.write(directory.join(to), source(from)?)?;
        }
        compress(&directory.join("changelog"))?;
        self.write(directory.join("sbom.cdx.json"), sbom)
    }
}

/// A file of the repository.
fn source(path: &str) -> Result<String> {
    let path = cargo::workspace().join(path);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Packs a file, with `.gz` after its name.
pub(super) fn compress(file: &Path) -> Result<()> {
    program::run(Command::new("gzip").arg("-9n").arg(file))?;
    Ok(())
}

/// Programs for tests: scripts that print something where completions, and make a directory where
/// manual pages, are asked of them.
#[cfg(test)]
pub(super) fn pretended(directory: &Path) -> PathBuf {
    let script = "#!/bin/sh\n# GLIBC_2.34\n[ $1 != man ] || mkdir -p $2\necho $*\n";
    let file = directory.join("script");
    fs::write(&file, script).unwrap();
    // By another process: what this one has open for writing cannot be executed.
    for name in ["slipway", "slipway-shim"] {
        let mut install = Command::new("install");
        program::run(install.arg(&file).arg(directory.join(name))).unwrap();
    }
    directory.join("slipway")
}
