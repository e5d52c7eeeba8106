//! What a machine is given: a small read-only disk, `/share` in the machine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::image;
use crate::directory;

/// A disk in the making.
#[derive(Debug)]
pub(super) struct Share {
    directory: TempDir,
}

/// A disk. It goes when this is dropped.
#[derive(Debug)]
pub(super) struct Disk {
    _directory: TempDir,
    path: PathBuf,
}

impl Disk {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Share {
    pub(super) fn new() -> Result<Self> {
        let directory = TempDir::new()?;
        fs::create_dir(directory.path().join("contents"))?;
        Ok(Self { directory })
    }

    fn contents(&self, name: &str) -> PathBuf {
        self.directory.path().join("contents").join(name)
    }

    /// Puts `slipway` and the shim beside it into `/share/bin`, without their symbols: they make
    /// up most of their size.
    pub(super) fn programs(&mut self, slipway: &Path) -> Result<()> {
        self.program(slipway)?;
        self.program(&slipway.with_file_name("slipway-shim"))
    }

    /// Puts a program into `/share/bin`, without its symbols.
    pub(super) fn program(&mut self, program: &Path) -> Result<()> {
        let name = program
            .file_name()
            .with_context(|| format!("{} has no name", program.display()))?;
        fs::create_dir_all(self.contents("bin"))?;
        strip(program, &self.contents("bin").join(name))
    }

    /// Puts a test program into `/share/tests`.
    pub(super) fn tests(&mut self, program: &Path) -> Result<()> {
        fs::create_dir(self.contents("tests"))?;
        strip(program, &self.contents("tests/e2e"))
    }

    /// Puts a file or a directory into `/share`.
    pub(super) fn add(&mut self, path: &Path) -> Result<()> {
        let name = path
            .file_name()
            .with_context(|| format!("{} has no name", path.display()))?;
        let status = Command::new("cp")
            .arg("-a")
            .arg(path)
            .arg(self.contents("").join(name))
            .status()?;
        ensure!(status.success(), "{} cannot be copied", path.display());
        Ok(())
    }

    /// Has the machine run a command and end with it.
    pub(super) fn command(&mut self, command: &[String]) -> Result<()> {
        let quoted: Vec<String> = command.iter().map(|word| quote(word)).collect();
        let run = self.contents("run");
        let text = format!(
            "#!/bin/sh\nexport SLIPWAY_BIN=/share/bin/slipway\nexec {}\n",
            quoted.join(" ")
        );
        fs::write(&run, text)?;
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Makes the disk.
    pub(super) fn into_disk(self) -> Result<Disk> {
        let path = self.directory.path().join("share.img");
        let contents = self.contents("");
        let size = directory::size(&contents)?;
        // Half as much again, for what the file system itself takes.
        let size = (size + size / 2 + (16 << 20)).next_multiple_of(1 << 20);
        image::file_system(&contents, &path, "share", size)?;
        Ok(Disk {
            _directory: self.directory,
            path,
        })
    }
}

/// Copies a program without its symbols.
pub(super) fn strip(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("strip")
        .arg("-o")
        .arg(to)
        .arg(from)
        .status()
        .context("cannot start strip")?;
    ensure!(status.success(), "{} cannot be stripped", from.display());
    Ok(())
}

/// One word of sh(1).
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell() {
        let words = ["plain", "two words", "it's", "$HOME", "", "a\nb"];
        let script = format!("printf '%s|' {}", words.map(quote).join(" "));
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text, words.map(|word| format!("{word}|")).concat());
    }
}
