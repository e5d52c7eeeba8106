//! The cgroups of pods and containers, by the node's cgroup driver: directories that Slipway makes
//! itself, or units of systemd's, which makes the directories.
//!
//! With systemd a pod's cgroup is a slice and a container's a scope in it. A scope takes a process
//! to begin with: it gets one that does nothing and ends once the container's own is there. So a
//! container's limits hold before its first process exists, as with the other driver, and whatever
//! makes that process finds a cgroup to put it into.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use slipway_cgroup::systemd::{
    device_properties, properties, scope_name, slice_at, slice_path, unit_of,
};
use slipway_cgroup::{Cgroup, CgroupPath, DeviceRule, Hierarchy, PathError, Resources, Version};
use slipway_cri_api::v1::CgroupDriver as Reported;
use slipway_engine::{Error, Result};
use slipway_shim::{Launcher, Placeholder};
use tokio::runtime::Handle;

use crate::config::Config;
use crate::failure;
use crate::systemd::{self, Units};

/// Who makes cgroups: `[runtime] cgroup_driver`. It has to be the kubelet's `cgroupDriver`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// Slipway, as directories.
    Cgroupfs,
    /// systemd, as slices and scopes.
    Systemd,
}

/// Makes, changes and removes cgroups. Its methods block, and are called on threads of the tokio
/// runtime on which that is allowed.
#[derive(Debug)]
pub(crate) struct Cgroups {
    hierarchy: Hierarchy,
    driver: Driver,
    /// What pods are put under that name no parent.
    parent: Parent,
}

#[derive(Debug)]
enum Driver {
    Cgroupfs,
    Systemd(Units),
}

#[derive(Debug)]
pub(crate) struct Parent {
    path: CgroupPath,
    /// As it was configured: below a slice, a slice's name begins with its parent's.
    name: String,
}

impl Cgroups {
    /// With the driver and the parent that are configured, or the usual ones.
    ///
    /// # Errors
    ///
    /// [`slipway_engine::Kind::InvalidArgument`] when the parent is of the other driver's form.
    pub(crate) fn new(hierarchy: Hierarchy, config: &Config) -> Result<Self> {
        let parent = parent(config).map_err(|error| {
            Error::invalid(format!(
                "the configuration's runtime.cgroup_parent: {error}"
            ))
        })?;
        Ok(Self {
            hierarchy,
            driver: match driver(config) {
                CgroupDriver::Cgroupfs => Driver::Cgroupfs,
                CgroupDriver::Systemd => Driver::Systemd(Units::default()),
            },
            parent,
        })
    }

    /// The driver, for a kubelet.
    pub(crate) fn reported(&self) -> Reported {
        match self.driver {
            Driver::Cgroupfs => Reported::Cgroupfs,
            Driver::Systemd(_) => Reported::Systemd,
        }
    }

    /// What pods share that name no parent; it stays.
    pub(crate) fn parent(&self) -> &CgroupPath {
        &self.parent.path
    }

    /// The cgroup that a `cgroup_parent` names.
    pub(crate) fn named(&self, parent: &str) -> std::result::Result<CgroupPath, PathError> {
        match self.driver {
            Driver::Cgroupfs => {
                let path = CgroupPath::parse(parent)?;
                // A kubelet with the other driver sends the way to its slice.
                match unit_of(&path) {
                    Some(_) => Err(PathError::SystemdSlice(parent.to_owned())),
                    None => Ok(path),
                }
            }
            Driver::Systemd(_) => slice_at(parent),
        }
    }

    /// The cgroup of a pod that names none.
    pub(crate) fn of_pod(&self, id: &str) -> Result<CgroupPath> {
        let path = match self.driver {
            Driver::Cgroupfs => self.parent.path.join(id),
            Driver::Systemd(_) => match self.parent.name.strip_suffix(".slice") {
                Some("-") | None => slice_path(&format!("slipway_{id}.slice")),
                Some(parent) => slice_path(&format!("{parent}-{id}.slice")),
            },
        };
        path.map_err(|error| Error::internal(format!("the cgroup of pod {id}: {error}")))
    }

    /// The cgroup of a container that is to be made.
    pub(crate) fn of_container(&self, pod: &CgroupPath, id: &str) -> Result<CgroupPath> {
        let path = match self.driver {
            Driver::Cgroupfs => pod.join(id),
            Driver::Systemd(_) => pod.join(&scope_name(id)),
        };
        path.map_err(|error| Error::internal(format!("the cgroup of container {id}: {error}")))
    }

    /// Makes a pod's cgroup where it is not there.
    pub(crate) fn create_parent(&self, path: &CgroupPath) -> Result<()> {
        if let (Driver::Systemd(systemd), Some(slice)) = (&self.driver, unit_of(path))
            && !self.hierarchy.open(path).exists()
        {
            wait(systemd.start_slice(slice, &[]))?;
        }
        self.hierarchy
            .create_parent(path)
            .map(drop)
            .map_err(|error| failure::of_cgroup(&error))
    }

    /// Makes a container's cgroup. What is given back beside it is kept until the container's first
    /// process is in it.
    pub(crate) fn create(
        &self,
        launcher: &Launcher,
        path: &CgroupPath,
        limits: &Resources,
        devices: &[DeviceRule],
    ) -> std::result::Result<(Cgroup, Option<Placeholder>), CreateError> {
        let (Driver::Systemd(systemd), Some(scope)) = (&self.driver, unit_of(path)) else {
            return Ok((self.hierarchy.create(path, limits, devices)?, None));
        };
        let version = self.hierarchy.version();
        let mut all = properties(version, limits);
        if version == Version::V1 {
            all.extend(device_properties(devices)?);
        }
        let placeholder = launcher.placeholder().map_err(|error| {
            Error::internal(format!(
                "slipway-shim cannot be started for {scope}: {error}"
            ))
        })?;
        let parent = path.parent();
        let slice = parent.as_ref().and_then(unit_of).unwrap_or("-.slice");
        wait(systemd.start_scope(scope, slice, placeholder.pid(), &all))?;
        match self.hierarchy.adopt(path, limits, devices) {
            Ok(cgroup) => Ok((cgroup, Some(placeholder))),
            Err(error) => {
                drop(placeholder);
                self.stop_unit(path);
                Err(error.into())
            }
        }
    }

    /// What an external runtime is told of a container's cgroup (`linux.cgroupsPath` of the OCI
    /// runtime specification) where it has to ask systemd for it: runc takes no scope that has a
    /// process already, and so makes the same one itself. None where the cgroup is there before.
    pub(crate) fn of_runtime(&self, path: &CgroupPath) -> Option<String> {
        let (Driver::Systemd(_), Some(scope)) = (&self.driver, unit_of(path)) else {
            return None;
        };
        let name = scope.strip_suffix(".scope")?.strip_prefix("slipway-")?;
        let parent = path.parent();
        let slice = parent.as_ref().and_then(unit_of).unwrap_or("-.slice");
        Some(format!("{slice}:slipway:{name}"))
    }

    /// Changes the limits of a pod's or a container's cgroup.
    pub(crate) fn update(
        &self,
        cgroup: &Cgroup,
        limits: &Resources,
    ) -> std::result::Result<(), CreateError> {
        // First, because it is here that limits are looked at before they are set.
        let updated = cgroup.update(limits)?;
        let (Driver::Systemd(systemd), Some(unit)) = (&self.driver, unit_of(cgroup.path())) else {
            return Ok(());
        };
        let changed = wait(systemd.set(unit, &properties(self.hierarchy.version(), limits)));
        changed.map_err(|error| {
            updated.undo();
            error.into()
        })
    }

    /// Removes a container's cgroup, whose processes have ended or are ending.
    pub(crate) fn remove(&self, cgroup: &Cgroup) -> Result<()> {
        self.stop_unit(cgroup.path());
        cgroup.remove().map_err(|error| failure::of_cgroup(&error))
    }

    /// Removes a cgroup that was made for a pod, unless somebody has put others there meanwhile.
    /// `own` says that it is the pod's alone: a slice that others may use stays, because systemd
    /// ends all that is in one that is stopped.
    pub(crate) fn remove_parent(&self, path: &CgroupPath, own: bool) {
        if let (Driver::Systemd(_), Some(_)) = (&self.driver, unit_of(path)) {
            if !own {
                return;
            }
            self.stop_unit(path);
        }
        let cgroup = self.hierarchy.open(path);
        let beside = self.hierarchy.beside(path);
        for directory in cgroup.directories().into_iter().chain(beside) {
            let _ = std::fs::remove_dir(directory);
        }
    }

    /// Ends the unit that a cgroup is. Without systemd's help its directory goes all the same.
    fn stop_unit(&self, path: &CgroupPath) {
        if let (Driver::Systemd(systemd), Some(unit)) = (&self.driver, unit_of(path))
            && let Err(error) = wait(systemd.stop(unit))
        {
            tracing::warn!(%error, "a unit may be left");
        }
    }
}

/// Why a cgroup could not be made or changed.
#[derive(Debug)]
pub(crate) enum CreateError {
    /// The kernel's answer, or what is known before it is asked.
    Cgroup(slipway_cgroup::Error),
    /// systemd's.
    Other(Error),
}

impl CreateError {
    /// As the domain has it, a limit's refusal by the field of the message at `at`.
    pub(crate) fn by_field(self, at: &str) -> Error {
        match self {
            Self::Cgroup(error) => slipway_resources::refused(at, &error),
            Self::Other(error) => error,
        }
    }
}

impl From<slipway_cgroup::Error> for CreateError {
    fn from(error: slipway_cgroup::Error) -> Self {
        Self::Cgroup(error)
    }
}

impl From<Error> for CreateError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// The driver that is configured, or the node's own.
fn driver(config: &Config) -> CgroupDriver {
    config.cgroup_driver.unwrap_or_else(|| {
        if systemd::is_init() {
            CgroupDriver::Systemd
        } else {
            CgroupDriver::Cgroupfs
        }
    })
}

/// The parent that is configured, or the usual one; an error in words when it is of the other
/// driver's form.
pub(crate) fn parent(config: &Config) -> std::result::Result<Parent, String> {
    let (driver, usual) = match driver(config) {
        driver @ CgroupDriver::Cgroupfs => (driver, "/slipway"),
        driver @ CgroupDriver::Systemd => (driver, "slipway.slice"),
    };
    let name = config.cgroup_parent.as_deref().unwrap_or(usual).to_owned();
    match parse(driver, &name) {
        Ok(path) => Ok(Parent { path, name }),
        Err(error) => Err(format!("{name:?}: {error}")),
    }
}

fn parse(driver: CgroupDriver, parent: &str) -> std::result::Result<CgroupPath, PathError> {
    match driver {
        CgroupDriver::Cgroupfs => CgroupPath::parse(parent),
        CgroupDriver::Systemd => slice_path(parent),
    }
}

/// Waits for systemd, on a thread that may.
fn wait<T>(answer: impl Future<Output = T>) -> T {
    Handle::current().block_on(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroups(driver: CgroupDriver, parent: Option<&str>) -> Result<Cgroups> {
        let config = Config {
            cgroup_driver: Some(driver),
            cgroup_parent: parent.map(str::to_owned),
            ..Config::default()
        };
        Cgroups::new(Hierarchy::detect().unwrap(), &config)
    }

    #[test]
    fn each_driver_names_cgroups_in_its_way() {
        let own = cgroups(CgroupDriver::Cgroupfs, None).unwrap();
        let pod = own.of_pod("p1").unwrap();
        assert_eq!(pod.as_str(), "/slipway/p1");
        assert_eq!(
            own.of_container(&pod, "c1").unwrap().as_str(),
            "/slipway/p1/c1"
        );

        let units = cgroups(CgroupDriver::Systemd, None).unwrap();
        let pod = units.of_pod("p1").unwrap();
        assert_eq!(pod.as_str(), "/slipway.slice/slipway-p1.slice");
        assert_eq!(
            units.of_container(&pod, "c1").unwrap().as_str(),
            "/slipway.slice/slipway-p1.slice/slipway-c1.scope"
        );
        let scope = units.of_container(&pod, "c1").unwrap();
        let told = units.of_runtime(&scope);
        assert_eq!(told.as_deref(), Some("slipway-p1.slice:slipway:c1"));
        assert_eq!(own.of_runtime(&scope), None);
        let root = cgroups(CgroupDriver::Systemd, Some("-.slice")).unwrap();
        assert_eq!(root.of_pod("p1").unwrap().as_str(), "/slipway_p1.slice");
    }

    #[test]
    fn a_parent_of_the_other_form_is_refused_with_what_to_do() {
        for (driver, parent, advice) in [
            (
                CgroupDriver::Systemd,
                "/kubepods/pod1",
                "cgroup_driver = \"cgroupfs\"",
            ),
            (
                CgroupDriver::Cgroupfs,
                "kubepods-pod1.slice",
                "cgroup_driver = \"systemd\"",
            ),
        ] {
            let named = cgroups(driver, None).unwrap().named(parent).unwrap_err();
            let configured = cgroups(driver, Some(parent)).unwrap_err();
            for said in [named.to_string(), configured.to_string()] {
                assert!(said.contains(parent) && said.contains(advice), "{said}");
            }
        }
    }
}
