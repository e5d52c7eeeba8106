//! A store in a scratch directory, and what lies in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use slipway_image::{Config, Images};
use tempfile::TempDir;

pub(crate) struct Node {
    pub(crate) directory: TempDir,
    pub(crate) images: Images,
}

impl Node {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let images = open(directory.path());
        Self { directory, images }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    pub(crate) fn registries_conf(&self, text: &str) {
        fs::write(self.directory.path().join("registries.conf"), text).unwrap();
    }

    /// Ends this process's use of the store, as far as a test can, and opens it anew.
    pub(crate) fn reopen(self) -> Self {
        let Self { directory, images } = self;
        drop(images);
        let images = reopen(directory.path());
        Self { directory, images }
    }

    /// Names of the layer directories.
    pub(crate) fn layers(&self) -> BTreeSet<String> {
        names(&self.root().join("layers"))
    }

    pub(crate) fn temporary(&self) -> BTreeSet<String> {
        names(&self.root().join("temporary"))
    }

    pub(crate) fn assert_empty(&self) {
        assert_eq!(self.images.list().unwrap().len(), 0);
        assert_eq!(self.layers(), BTreeSet::new());
        assert_eq!(self.temporary(), BTreeSet::new());
    }
}

pub(crate) fn config(directory: &Path) -> Config {
    Config {
        registries_conf: directory.join("registries.conf"),
        stall_timeout: Duration::from_secs(2),
        ..Config::default()
    }
}

pub(crate) fn open(directory: &Path) -> Images {
    Images::open(&directory.join("image"), config(directory)).unwrap()
}

/// A task that writes to the disk in the background may have the store open for a moment.
fn reopen(directory: &Path) -> Images {
    for _ in 0..500 {
        match Images::open(&directory.join("image"), config(directory)) {
            Ok(images) => return images,
            Err(error) if error.to_string().contains("another process") => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the store stays in use")
}

pub(crate) fn names(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}
