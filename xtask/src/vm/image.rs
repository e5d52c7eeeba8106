//! The machine's disk, kernel and initial file system: made once for each recipe.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use super::guest::{FILES, PACKAGES, RELEASE};
use crate::program;

/// The size of the machine's disk in bytes, most of which are a hole.
const DISK: u64 = 8 << 30;

/// How long an image that nobody uses is kept: other clones may have another recipe.
const KEPT: Duration = Duration::from_hours(14 * 24);

/// What an image is called before it is one.
const UNFINISHED: &str = "making-";

/// Locked (shared) by everybody who uses the image, and written by whoever was last.
const USED: &str = "used";

/// An image on disk, under a name that is the digest of its recipe. Nobody removes it while this is
/// there.
#[derive(Debug)]
pub(super) struct Image {
    directory: PathBuf,
    _used: File,
}

impl Image {
    /// Makes the image where it is not there yet, which takes minutes. It is the user's and not
    /// this build's, so that it outlives a target directory and serves every clone.
    pub(super) fn provide() -> Result<Self> {
        Self::provide_in(&cache()?, make)
    }

    /// Whoever comes second waits until the first one is done.
    fn provide_in(cache: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        fs::create_dir_all(cache).with_context(|| cache.display().to_string())?;
        let lock = File::create(cache.join("lock"))?;
        lock.lock()?;
        let directory = cache.join(key());
        if !directory.exists() {
            let scratch = tempfile::Builder::new()
                .prefix(UNFINISHED)
                .tempdir_in(cache)?;
            println!(
                "making a machine of Debian {RELEASE} in {}: this is done once",
                cache.display()
            );
            make(scratch.path())?;
            fs::rename(scratch.path(), &directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
            // Only now: what is not finished goes with the directory.
            let _moved = scratch.keep();
        }
        let used = File::create(directory.join(USED))?;
        used.lock_shared()?;
        used.set_modified(SystemTime::now())?;
        prune(cache, SystemTime::now() - KEPT)?;
        Ok(Self {
            directory,
            _used: used,
        })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.directory.join("disk.img")
    }

    pub(super) fn kernel(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    pub(super) fn initial(&self) -> PathBuf {
        self.directory.join("initrd.img")
    }
}

/// `$XDG_CACHE_HOME` or `~/.cache`, as the XDG Base Directory Specification has it.
fn cache() -> Result<PathBuf> {
    let named = |name: &str, below: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then(|| path.join(below))
    };
    let cache = named("XDG_CACHE_HOME", "").or_else(|| named("HOME", ".cache"));
    let cache =
        cache.context("no directory for the machine's image: set XDG_CACHE_HOME or HOME")?;
    Ok(cache.join("slipway-vm"))
}

/// Removes images that nobody has used since then and nobody uses now, and what somebody who was
/// killed has not finished. Whoever calls this holds the cache's lock.
fn prune(cache: &Path, since: SystemTime) -> Result<()> {
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let unfinished = entry.file_name().to_string_lossy().starts_with(UNFINISHED);
        let old = || -> Result<bool> {
            let used = File::open(entry.path().join(USED))?;
            Ok(used.metadata()?.modified()? < since && used.try_lock().is_ok())
        };
        if unfinished || old().unwrap_or(false) {
            println!("removing the old machine {}", entry.path().display());
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn key() -> String {
    let recipe = format!("{RELEASE}{PACKAGES:?}{FILES:?}{DISK}");
    Sha256::digest(recipe)
        .iter()
        .take(8)
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn make(directory: &Path) -> Result<()> {
    let root = directory.join("root");
    program::run(
        Command::new("debootstrap")
            .arg("--variant=minbase")
            .arg(format!("--include={}", PACKAGES.join(",")))
            .arg(RELEASE)
            .arg(&root),
    )?;
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
    for cache in ["var/cache/apt", "var/lib/apt/lists"] {
        fs::remove_dir_all(root.join(cache))?;
        fs::create_dir_all(root.join(cache))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands for an image.
    fn pretended(directory: &Path) -> Result<()> {
        Ok(fs::write(directory.join("disk.img"), "disk")?)
    }

    #[test]
    fn an_image_is_made_once_also_by_two_at_a_time() {
        let cache = tempfile::tempdir().unwrap();
        let made = std::sync::Mutex::new(0);
        let provide = || {
            Image::provide_in(cache.path(), |directory| {
                *made.lock().unwrap() += 1;
                pretended(directory)
            })
        };
        std::thread::scope(|scope| {
            let both = [scope.spawn(provide), scope.spawn(provide)];
            for image in both.map(|thread| thread.join().unwrap().unwrap()) {
                assert_eq!(fs::read_to_string(image.disk()).unwrap(), "disk");
            }
        });
        assert_eq!(made.into_inner().unwrap(), 1);
    }

    #[test]
    fn what_is_not_finished_is_no_image() {
        let cache = tempfile::tempdir().unwrap();
        let killed = cache.path().join("making-killed");
        fs::create_dir(&killed).unwrap();
        let failed = Image::provide_in(cache.path(), |directory| {
            pretended(directory)?;
            anyhow::bail!("no network")
        });
        assert!(failed.unwrap_err().to_string().contains("no network"));
        Image::provide_in(cache.path(), pretended).unwrap();
        assert!(!killed.exists());
        let names = fs::read_dir(cache.path()).unwrap();
        let directories = names.filter(|entry| entry.as_ref().unwrap().path().is_dir());
        assert_eq!(directories.count(), 1);
    }

    #[test]
    fn an_old_image_goes_unless_somebody_uses_it() {
        let cache = tempfile::tempdir().unwrap();
        let image = Image::provide_in(cache.path(), pretended).unwrap();
        let directory = image.directory().to_owned();
        let later = SystemTime::now() + Duration::from_hours(1);
        prune(cache.path(), later).unwrap();
        assert!(directory.exists(), "it is in use");
        drop(image);
        prune(cache.path(), SystemTime::now() - KEPT).unwrap();
        assert!(directory.exists(), "it is not old");
        prune(cache.path(), later).unwrap();
        assert!(!directory.exists());
    }
}
