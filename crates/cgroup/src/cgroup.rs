//! One cgroup, in every hierarchy that a container is put into.

use std::path::PathBuf;
use std::sync::Arc;

use crate::changes::Changes;
use crate::device::{self, DeviceRule};
use crate::hierarchy::{Layout, Mounted};
use crate::{CgroupPath, Error, Resources, v1, v2};

/// A cgroup by name. It may or may not exist, holds nothing, and is not removed when dropped.
#[derive(Debug, Clone)]
pub struct Cgroup {
    layout: Arc<Layout>,
    path: CgroupPath,
}

/// Limits that were changed, and what they were before.
#[derive(Debug)]
pub struct Updated(Changes);

impl Updated {
    /// Puts back what was changed, because something else that belongs to the change was refused.
    pub fn undo(self) {
        self.0.undo();
    }
}

impl Cgroup {
    pub(crate) fn new(layout: Arc<Layout>, path: CgroupPath) -> Self {
        Self { layout, path }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Its path, from the mount points of the hierarchies.
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// Its directories: one for each v1 hierarchy (`name=systemd` included), or the one of v2. A
    /// process joins it by writing its number into `cgroup.procs` of all of them.
    pub fn directories(&self) -> Vec<PathBuf> {
        self.layout
            .mounts()
            .iter()
            .map(|mount| self.path.below(&mount.mount_point))
            .collect()
    }

    /// The file with an `oom_kill N` line that counts the processes killed for want of memory:
    /// `memory.oom_control` on v1, for this cgroup alone; `memory.events` on v2, for it and all
    /// below it. None without a memory controller.
    pub fn oom_events(&self) -> Option<PathBuf> {
        let file = match *self.layout {
            Layout::V1(_) => "memory.oom_control",
            Layout::V2(_) => "memory.events",
        };
        Some(self.directory_of("memory")?.join(file))
    }

    /// Whether it is there, in any hierarchy.
    pub fn exists(&self) -> bool {
        self.directories()
            .iter()
            .any(|directory| directory.is_dir())
    }

    /// Sets what is set in `resources` and leaves the rest, while processes run in it. The limits
    /// are written one by one; when one is refused, those before it are taken back, except lines
    /// for devices that a file of [`Resources::unified`] did not have.
    ///
    /// A `memory_limit` below what is in use and cannot be reclaimed is refused: by the kernel on
    /// v1 ([`Error::Write`] with `EBUSY`), and here on v2 ([`Error::MemoryInUse`]), where the kernel
    /// would let the OOM killer loose.
    pub fn update(&self, resources: &Resources) -> Result<Updated, Error> {
        self.refuse_root()?;
        self.refuse_below_use(resources)?;
        let mut changes = Changes::Reversible(Vec::new());
        match self.apply(resources, &mut changes) {
            Ok(()) => Ok(Updated(changes)),
            Err(error) => {
                changes.undo();
                Err(error)
            }
        }
    }

    /// Refuses settings of [`Resources::unified`] that this cgroup has no file for. Those that are made
    /// beside it have the same ones.
    pub fn check_files(&self, resources: &Resources) -> Result<(), Error> {
        match *self.layout {
            Layout::V1(_) => Ok(()),
            Layout::V2(_) => v2::check_files(self, resources),
        }
    }

    pub(crate) fn apply(&self, resources: &Resources, changes: &mut Changes) -> Result<(), Error> {
        match *self.layout {
            Layout::V1(_) => v1::apply(self, resources, changes),
            Layout::V2(_) => v2::apply(self, resources, changes),
        }
    }

    /// Refuses a `memory_limit` as [`Cgroup::update`] does on v2; on v1 it is for the kernel to refuse.
    pub fn refuse_below_use(&self, resources: &Resources) -> Result<(), Error> {
        let limit = resources.memory_limit.filter(|limit| *limit > 0);
        let (Layout::V2(_), Some(limit)) = (&*self.layout, limit) else {
            return Ok(());
        };
        let memory = self.stats()?.memory;
        match memory.map(|memory| memory.working_set) {
            Some(in_use) if in_use > limit.unsigned_abs() => {
                Err(Error::MemoryInUse { limit, in_use })
            }
            _ => Ok(()),
        }
    }

    /// Replaces the rules for device access (`linux.resources.devices` of the OCI runtime
    /// specification): the last rule that speaks of an access decides, and what none speaks of is
    /// denied. No rules at all leave the cgroup as it is. On v2 the change is atomic; on v1 there is
    /// a moment in between at which everything is denied or allowed, as the first rule says.
    pub fn set_devices(&self, rules: &[DeviceRule]) -> Result<(), Error> {
        self.refuse_root()?;
        if rules.is_empty() {
            return Ok(());
        }
        let rules = device::normalise(rules)?;
        match *self.layout {
            Layout::V1(_) => v1::set_devices(self, &rules),
            Layout::V2(_) => v2::set_devices(self, &rules),
        }
    }

    pub(crate) fn refuse_root(&self) -> Result<(), Error> {
        if self.path.is_root() {
            Err(Error::Root)
        } else {
            Ok(())
        }
    }

    /// Its directory in the hierarchy of `controller`.
    pub(crate) fn directory_of(&self, controller: &str) -> Option<PathBuf> {
        let mount = self
            .layout
            .mounts()
            .iter()
            .find(|mount: &&Mounted| mount.has(controller))?;
        Some(self.path.below(&mount.mount_point))
    }

    /// As [`Cgroup::directory_of`], for a limit that cannot be kept without the controller.
    pub(crate) fn require(
        &self,
        controller: &'static str,
        setting: &'static str,
    ) -> Result<PathBuf, Error> {
        self.directory_of(controller)
            .ok_or(Error::MissingController {
                controller,
                setting,
            })
    }
}
