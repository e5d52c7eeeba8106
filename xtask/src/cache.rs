//! What takes minutes to make and is made once: directories of the user's cache, one for each
//! recipe. It is the user's and not a build's, so that it outlives a target directory and serves
//! every clone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

/// How long what nobody uses is kept: other clones may have another recipe.
const KEPT: Duration = Duration::from_hours(14 * 24);

/// What a directory is called before it is finished.
const UNFINISHED: &str = "making-";

/// Locked (shared) by everybody who uses the directory, and written by whoever was last.
const USED: &str = "used";

/// A directory whose name is the digest of its recipe. Nobody removes it while this is there.
#[derive(Debug)]
pub(crate) struct Cached {
    directory: PathBuf,
    _used: File,
}

impl Cached {
    /// Makes the directory where it is not there yet. `name` is that of all its recipes in the
    /// user's cache, `what` is said while it is made.
    ///
    /// # Errors
    /// When there is no place for it, or with what `make` says; nothing is left of it then.
    pub(crate) fn provide(
        name: &str,
        what: &str,
        recipe: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        Self::provide_in(&place()?.join(name), what, recipe, make)
    }

    /// Whoever comes second waits until the first one is done.
    fn provide_in(
        cache: &Path,
        what: &str,
        recipe: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        fs::create_dir_all(cache).with_context(|| cache.display().to_string())?;
        let lock = File::create(cache.join("lock"))?;
        lock.lock()?;
        let directory = cache.join(&digest(recipe)[..16]);
        if !directory.exists() {
            let scratch = tempfile::Builder::new()
                .prefix(UNFINISHED)
                .tempdir_in(cache)?;
            println!("making {what} in {}: this is done once", cache.display());
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

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

/// `$XDG_CACHE_HOME` or `~/.cache`, as the XDG Base Directory Specification has it.
fn place() -> Result<PathBuf> {
    let named = |name: &str, below: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then(|| path.join(below))
    };
    named("XDG_CACHE_HOME", "")
        .or_else(|| named("HOME", ".cache"))
        .context("no directory for what is made once: set XDG_CACHE_HOME or HOME")
}

/// Removes what nobody has used since then and nobody uses now, and what somebody who was killed
/// has not finished. Whoever calls this holds the cache's lock.
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
            println!("removing {}, which is old", entry.path().display());
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// What tells contents apart, in hexadecimal digits.
pub(crate) fn digest(content: impl AsRef<[u8]>) -> String {
    Sha256::digest(content)
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provide(cache: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<Cached> {
        Cached::provide_in(cache, "a pretence", "recipe", make)
    }

    /// What stands for something that takes long.
    fn pretended(directory: &Path) -> Result<()> {
        Ok(fs::write(directory.join("disk.img"), "disk")?)
    }

    #[test]
    fn it_is_made_once_also_by_two_at_a_time() {
        let cache = tempfile::tempdir().unwrap();
        let made = std::sync::Mutex::new(0);
        let provide = || {
            provide(cache.path(), |directory| {
                *made.lock().unwrap() += 1;
                pretended(directory)
            })
        };
        std::thread::scope(|scope| {
            let both = [scope.spawn(provide), scope.spawn(provide)];
            for cached in both.map(|thread| thread.join().unwrap().unwrap()) {
                let disk = cached.directory().join("disk.img");
                assert_eq!(fs::read_to_string(disk).unwrap(), "disk");
            }
        });
        assert_eq!(made.into_inner().unwrap(), 1);
    }

    #[test]
    fn another_recipe_makes_another() {
        let cache = tempfile::tempdir().unwrap();
        let one = provide(cache.path(), pretended).unwrap();
        let other = Cached::provide_in(cache.path(), "", "other", pretended).unwrap();
        assert_ne!(one.directory(), other.directory());
        assert!(one.directory().exists());
    }

    #[test]
    fn what_is_not_finished_is_not_there() {
        let cache = tempfile::tempdir().unwrap();
        let killed = cache.path().join("making-killed");
        fs::create_dir(&killed).unwrap();
        let failed = provide(cache.path(), |directory| {
            pretended(directory)?;
            anyhow::bail!("no network")
        });
        assert!(failed.unwrap_err().to_string().contains("no network"));
        provide(cache.path(), pretended).unwrap();
        assert!(!killed.exists());
        let names = fs::read_dir(cache.path()).unwrap();
        let directories = names.filter(|entry| entry.as_ref().unwrap().path().is_dir());
        assert_eq!(directories.count(), 1);
    }

    #[test]
    fn what_is_old_goes_unless_somebody_uses_it() {
        let cache = tempfile::tempdir().unwrap();
        let cached = provide(cache.path(), pretended).unwrap();
        let directory = cached.directory().to_owned();
        let later = SystemTime::now() + Duration::from_hours(1);
        prune(cache.path(), later).unwrap();
        assert!(directory.exists(), "it is in use");
        drop(cached);
        prune(cache.path(), SystemTime::now() - KEPT).unwrap();
        assert!(directory.exists(), "it is not old");
        prune(cache.path(), later).unwrap();
        assert!(!directory.exists());
    }
}
