//! The machine's disk, kernel and initial file system: made once for each recipe.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::guest::{FILES, PACKAGES};
use crate::cache::Cached;
use crate::debian::{self, RELEASE};
use crate::program;

/// The size of the machine's disk in bytes, most of which are a hole.
const DISK: u64 = 8 << 30;

/// An image on disk.
#[derive(Debug)]
pub(super) struct Image(Cached);

impl Image {
    /// Makes the image where it is not there yet, which takes minutes.
    pub(super) fn provide() -> Result<Self> {
        let what = format!("a machine of Debian {RELEASE}");
        let recipe = format!("{RELEASE}{PACKAGES:?}{FILES:?}{DISK}");
        Cached::provide("slipway-vm", &what, &recipe, make).map(Self)
    }

    pub(super) fn directory(&self) -> &Path {
        self.0.directory()
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.directory().join("disk.img")
    }

    pub(super) fn kernel(&self) -> PathBuf {
        self.directory().join("vmlinuz")
    }

    pub(super) fn initial(&self) -> PathBuf {
        self.directory().join("initrd.img")
    }
}

fn make(directory: &Path) -> Result<()> {
    let root = directory.join("root");
    debian::bootstrap(&root, PACKAGES)?;
    for (path, mode, text) in FILES {
        let path = root.join(path);
        let parent = path
            .parent()
            .context("a file of the image has no directory")?;
        fs::create_dir_all(parent)?;
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
    }
    program::run(
        Command::new("chroot")
            .arg(&root)
            .args(["update-initramfs", "-u"]),
    )?;
    for (prefix, name) in [("vmlinuz-", "vmlinuz"), ("initrd.img-", "initrd.img")] {
        let boot = fs::read_dir(root.join("boot"))?;
        let found = boot
            .filter_map(Result::ok)
            .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .with_context(|| format!("the image has no /boot/{prefix}*"))?;
        fs::copy(found.path(), directory.join(name))?;
    }
    let disk = directory.join("disk.img");
    file_system(&root, &disk, "root", DISK)?;
    fs::remove_dir_all(&root)?;
    Ok(())
}

/// Makes an ext4 file system with the contents of a directory.
pub(super) fn file_system(contents: &Path, disk: &Path, label: &str, size: u64) -> Result<()> {
    fs::File::create(disk)?.set_len(size)?;
    program::run(
        Command::new("mkfs.ext4")
            .args([
                "-q",
                "-F",
                "-m",
                "0",
                "-E",
                "root_owner=0:0",
                "-L",
                label,
                "-d",
            ])
            .arg(contents)
            .arg(disk),
    )?;
    Ok(())
}
