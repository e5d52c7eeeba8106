//! The archive for any distribution.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::tar;
use super::tree::Tree;
use crate::program;

/// Writes the archive of a tree; its paths are those below `/`.
pub(super) fn write(tree: &Tree, version: &str, directory: &Path) -> Result<PathBuf> {
    let file = directory.join(format!("slipway-{version}-linux-amd64.tar.gz"));
    program::run(
        tar(tree.path(), &file)?
            .arg("--use-compress-program=gzip -9n")
            .arg("usr"),
    )?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;
    use crate::dist::tree::{Layout, pretended};

    #[test]
    fn the_archive_lies_below_usr_local_and_overwrites_no_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let slipway = pretended(directory.path());
        let tree = Tree::new(Layout::Local, &slipway, "# keys", "{}").unwrap();
        let archive = write(&tree, "1.2.3", directory.path()).unwrap();
        let listed = program::run(Command::new("tar").arg("-tvzf").arg(&archive)).unwrap();
        let listed = String::from_utf8(listed).unwrap();
        for line in listed.lines() {
            let path = line.split_whitespace().last().unwrap();
            let allowed = ["usr/", "usr/local/"].contains(&path) || path.starts_with("usr/local/");
            assert!(allowed && line.contains(" 0/0 "), "{line}");
            assert!(
                !line.starts_with('d') || line.starts_with("drwxr-xr-x"),
                "{line}"
            );
        }
        for file in [
            "bin/slipway-shim",
            "lib/sysctl.d/90-slipway.conf",
            "examples/config.toml",
        ] {
            assert!(listed.contains(file), "no {file} in\n{listed}");
        }
        let unit = tree
            .path()
            .join("usr/local/lib/systemd/system/slipway.service");
        let unit = fs::read_to_string(unit).unwrap();
        assert!(
            unit.contains("ExecStart=/usr/local/bin/slipway serve\n"),
            "{unit}"
        );
    }
}
