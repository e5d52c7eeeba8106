//! File systems that are mounted for a test and not longer.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

pub(crate) struct Mounted {
    path: PathBuf,
}

impl Mounted {
    pub(crate) fn new(kind: &str, path: &Path, options: &str) -> Self {
        let options = CString::new(options).unwrap();
        mount(
            kind,
            path,
            kind,
            MountFlags::empty(),
            Some(options.as_c_str()),
        )
        .unwrap_or_else(|error| panic!("cannot mount {kind}, which needs root: {error}"));
        Self {
            path: path.to_owned(),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}
