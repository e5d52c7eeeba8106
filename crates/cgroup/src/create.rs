//! Making a cgroup and the ones above it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::changes::Changes;
use crate::hierarchy::{Layout, Mounted};
use crate::{Cgroup, CgroupPath, DeviceRule, Error, Hierarchy, Resources, control_file, v1, v2};

impl Hierarchy {
    /// Makes the cgroup at `path` with its device rules and limits, and those above it that do not
    /// exist. On v1 an empty `cpuset` is filled from the parent's at each level; on v2 every
    /// available controller is enabled on the way down.
    ///
    /// A cgroup that is there already is replaced when it is empty, so that its limits and counters
    /// start afresh, and [`Error::Occupied`] when it is not. On error every directory that was made
    /// is removed again; controllers enabled in cgroups that existed before stay enabled.
    pub fn create(
        &self,
        path: &CgroupPath,
        resources: &Resources,
        devices: &[DeviceRule],
    ) -> Result<Cgroup, Error> {
        let cgroup = self.open(path);
        cgroup.refuse_root()?;
        if cgroup.exists() {
            let pids = cgroup.processes()?;
            if !pids.is_empty() {
                return Err(Error::Occupied {
                    path: path.clone(),
                    pids,
                });
            }
            cgroup.remove()?;
        }
        self.adopt(path, resources, devices)
    }

    /// Completes a cgroup that systemd has made in some of the hierarchies: makes it in the others,
    /// and gives it its device rules and limits. As [`Hierarchy::create`], but for one that exists,
    /// and has processes, already.
    pub fn adopt(
        &self,
        path: &CgroupPath,
        resources: &Resources,
        devices: &[DeviceRule],
    ) -> Result<Cgroup, Error> {
        let cgroup = self.open(path);
        cgroup.refuse_root()?;
        let mut made = Made::default();
        self.make(path, &mut made)?;
        cgroup.set_devices(devices)?;
        cgroup.apply(resources, &mut Changes::Final)?;
        made.keep();
        Ok(cgroup)
    }

    /// Makes the cgroup at `path`, without limits, and those above it, for other cgroups to be made
    /// in. Returns the ones that existed in no hierarchy before, outermost first: it is the
    /// caller's to remove them, innermost first. On error there are none: they are removed again.
    pub fn create_parent(&self, path: &CgroupPath) -> Result<Vec<CgroupPath>, Error> {
        let mut made = Made::default();
        if !path.is_root() {
            self.make(path, &mut made)?;
        }
        let is_new = |one: &CgroupPath| {
            self.open(one)
                .directories()
                .iter()
                .all(|directory| made.0.contains(directory))
        };
        let new = path.lineage().into_iter().filter(is_new).collect();
        made.keep();
        Ok(new)
    }

    fn make(&self, path: &CgroupPath, made: &mut Made) -> Result<(), Error> {
        for mount in self.layout().mounts() {
            make_directory(mount, path, made)?;
        }
        match self.layout() {
            Layout::V1(mounts) => match mounts.iter().find(|mount| mount.has("cpuset")) {
                Some(mount) => v1::inherit_cpuset(&mount.mount_point, path),
                None => Ok(()),
            },
            Layout::V2(mount) => v2::delegate(mount, path),
        }
    }
}

fn make_directory(mount: &Mounted, path: &CgroupPath, made: &mut Made) -> Result<(), Error> {
    let directory = path.below(&mount.mount_point);
    let failed = match fs::create_dir(&directory) {
        Ok(()) => {
            made.0.push(directory);
            return Ok(());
        }
        Err(error) => error,
    };
    match (failed.kind(), path.parent()) {
        (io::ErrorKind::AlreadyExists, _) if directory.is_dir() => Ok(()),
        (io::ErrorKind::NotFound, Some(parent)) if !parent.is_root() => {
            make_directory(mount, &parent, made)?;
            make_directory(mount, path, made)
        }
        _ => Err(Error::Create {
            hint: hint(&failed),
            directory,
            source: failed,
        }),
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => {
            "; cgroup.max.depth or cgroup.max.descendants of one above is reached"
        }
        Some(libc::EEXIST) => "; a control file has that name",
        Some(libc::EACCES | libc::EPERM) => "; it takes root, and a cgroup that is delegated to it",
        Some(libc::ENOENT) => "; the one above was removed at the same time",
        Some(libc::ENOMEM | libc::ENOSPC) => {
            "; the kernel can make no more memory cgroups, so old ones are not being given back"
        }
        _ => "",
    }
}

/// Directories that were made and go again unless they are kept, the innermost first. One that
/// somebody else uses by now stays.
#[derive(Default)]
struct Made(Vec<PathBuf>);

impl Made {
    fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for directory in self.0.iter().rev() {
            // The error that led here is the one worth reporting.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Reads a control file that is inherited, writing what the parent has where it is empty.
pub(crate) fn inherit(directory: &Path, file: &str, top: &Path) -> Result<String, Error> {
    let own = control_file::read(&directory.join(file))?
        .trim_ascii()
        .to_owned();
    match directory
        .parent()
        .filter(|_| own.is_empty() && directory != top)
    {
        None => Ok(own),
        Some(parent) => {
            let inherited = inherit(parent, file, top)?;
            control_file::write(&directory.join(file), &inherited)?;
            Ok(inherited)
        }
    }
}
