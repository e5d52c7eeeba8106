//! The directories of the store: complete layers under their chain ids, and temporary ones.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;

/// `layers/<hex of the chain id>` and `temporary/<number>` below a root. All methods block.
#[derive(Debug)]
pub(crate) struct Store {
    layers: PathBuf,
    temporary: PathBuf,
    next: AtomicU64,
}

/// A directory that is removed with everything in it unless it becomes a layer.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
}

impl Store {
    /// Opens the store that the caller has locked, and removes what a crash has left in the middle
    /// of being unpacked or deleted.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let store = Self {
            layers: root.join("layers"),
            temporary: root.join("temporary"),
            next: AtomicU64::new(0),
        };
        for directory in [&store.layers, &store.temporary] {
            create_directory(directory)?;
        }
        for entry in entries(&store.temporary)? {
            remove_tree(&store.temporary.join(entry))?;
        }
        Ok(store)
    }

    /// The chain ids for which there is a directory.
    pub(crate) fn chain_ids(&self) -> Result<Vec<String>, Error> {
        Ok(entries(&self.layers)?
            .into_iter()
            .map(|name| chain_id_of(&name))
            .collect())
    }

    /// Where the layer is or would be.
    pub(crate) fn layer(&self, chain_id: &str) -> PathBuf {
        self.layers.join(directory_name(chain_id))
    }

    /// A fresh empty directory on the same file system.
    pub(crate) fn temporary(&self) -> Result<Temporary, Error> {
        let temporary = Temporary {
            path: self.temporary_path(),
        };
        create_directory(&temporary.path)?;
        Ok(temporary)
    }

    /// Makes a complete directory the layer `chain_id`.
    pub(crate) fn commit(&self, temporary: Temporary, chain_id: &str) -> Result<(), Error> {
        let layer = self.layer(chain_id);
        fs::rename(&temporary.path, &layer)
            .map_err(|error| Error::store(&layer, "cannot move the unpacked layer here", &error))?;
        std::mem::forget(temporary);
        Ok(())
    }

    /// Deletes a layer; at once as far as its name is concerned. One that is not there is no error.
    pub(crate) fn remove(&self, chain_id: &str) -> Result<(), Error> {
        let layer = self.layer(chain_id);
        let doomed = self.temporary_path();
        match fs::rename(&layer, &doomed) {
            Ok(()) => remove_tree(&doomed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::store(&layer, "cannot move the layer away", &error)),
        }
    }

    fn temporary_path(&self) -> PathBuf {
        self.temporary
            .join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }
}

impl Temporary {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(%error, "an unfinished layer stays until the next start");
        }
    }
}

/// Writes everything on the file system of `root` to the disk.
pub(crate) fn sync(root: &Path) -> Result<(), Error> {
    File::open(root)
        .and_then(|root| rustix::fs::syncfs(root).map_err(io::Error::from))
        .map_err(|error| Error::store(root, "cannot write to the disk", &error))
}

/// `sha256:abc` is the directory `abc`; other algorithms keep their name, as nothing else does.
fn directory_name(chain_id: &str) -> String {
    chain_id
        .strip_prefix("sha256:")
        .map_or_else(|| chain_id.replace(':', "-"), str::to_owned)
}

fn chain_id_of(name: &str) -> String {
    match name.split_once('-') {
        Some((algorithm, hex)) => format!("{algorithm}:{hex}"),
        None => format!("sha256:{name}"),
    }
}

pub(crate) fn create_directory(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Error::store(path, "cannot create the directory", &error))
}

fn entries(path: &Path) -> Result<Vec<String>, Error> {
    fs::read_dir(path)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        })
        .map_err(|error| Error::store(path, "cannot list the directory", &error))
}

fn remove_tree(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::store(path, "cannot remove it", &error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_appear_whole_and_crashes_are_cleaned_up() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let long = format!("sha512:{}", "b".repeat(128));
        for chain_id in ["sha256:aa", long.as_str()] {
            let temporary = store.temporary().unwrap();
            fs::write(temporary.path().join("file"), "x").unwrap();
            assert!(!store.layer(chain_id).exists());
            store.commit(temporary, chain_id).unwrap();
            assert!(store.layer(chain_id).join("file").exists());
        }
        let mut chain_ids = store.chain_ids().unwrap();
        chain_ids.sort();
        assert_eq!(chain_ids, ["sha256:aa", &long]);
        drop(store.temporary().unwrap());
        let crashed = store.temporary().unwrap();
        fs::write(crashed.path().join("half"), "x").unwrap();
        std::mem::forget(crashed);
        assert_eq!(
            fs::read_dir(directory.path().join("temporary"))
                .unwrap()
                .count(),
            1
        );
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(
            fs::read_dir(directory.path().join("temporary"))
                .unwrap()
                .count(),
            0
        );
        store.remove("sha256:aa").unwrap();
        store.remove("sha256:aa").unwrap();
        assert_eq!(store.chain_ids().unwrap(), [long]);
    }
}
