//! The archive for any distribution.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::source_date;
use super::tree::Tree;
use crate::program;

/// Writes the archive of a tree; its paths are those below `/`.
pub(super) fn write(tree: &Tree, version: &str, directory: &Path) -> Result<PathBuf> {
    let file = directory.join(format!("slipway-{version}-linux-amd64.tar.gz"));
    program::run(
        Command::new("tar")
            .args(["--create", "--use-compress-program=gzip -9n"])
            .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
            .arg(format!("--mtime=@{}", source_date()?))
            .arg("--file")
            .arg(&file)
            .arg("--directory")
            .arg(tree.path())
            .args(["etc", "usr"]),
    )?;
    Ok(file)
}
