//! Packages of the node's package manager.
//!
//! A service of the package is not started by its installation: its configuration is yet to be
//! written. What packages' scripts call is systemctl, directly or by deb-systemd-invoke, and where
//! `SYSTEMD_OFFLINE` is 1 it enables and disables, and starts nothing (systemd, "Known Environment
//! Variables"; since 238). Nothing of that is left on the node when all is killed, which cannot be
//! said of a policy-rc.d or of masked units, and it holds for services of what else is installed
//! with the package. An older systemd starts the service, and it is started anew later.

mod changes;

use std::time::Duration;

use changes::Changes;
use tokio::process::Command;

use super::process::{self, Failure};
use super::{Error, Progress};
use crate::Root;

/// Asking repositories over a slow line.
const PATIENCE: Duration = Duration::from_mins(30);

/// Looking something up in a database.
const LOOK: Duration = Duration::from_mins(5);

/// What its cache says of a package, while somebody waits for a plan.
const GLANCE: Duration = Duration::from_secs(20);

/// How long others may hold dpkg's lock, in seconds: unattended upgrades take a while.
const LOCK: &str = "DPkg::Lock::Timeout=600";

/// A program by the name that its makers gave it, and the packages that have it.
struct Known {
    name: &'static str,
    /// The first that the package manager has is taken.
    packages: &'static [&'static str],
    /// Where its makers say how it is installed.
    documentation: &'static str,
}

const KNOWN: [Known; 4] = [
    Known {
        name: "slipway",
        packages: &["slipway"],
        documentation: "Slipway's README.md",
    },
    Known {
        name: "containerd",
        // The first is that of Docker's own repository, where the node uses it.
        packages: &["containerd.io", "containerd"],
        documentation: "https://github.com/containerd/containerd/blob/main/docs/getting-started.md",
    },
    Known {
        name: "cri-o",
        packages: &["cri-o"],
        documentation: "https://github.com/cri-o/packaging/blob/main/README.md",
    },
    Known {
        name: "cri-dockerd",
        packages: &["cri-dockerd"],
        documentation: "https://mirantis.github.io/cri-dockerd/usage/install",
    },
];

/// What installs packages here, in the order in which they are looked for.
const MANAGERS: [Manager; 4] = [Manager::Apt, Manager::Dnf, Manager::Yum, Manager::Zypper];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    Apt,
    Dnf,
    Yum,
    Zypper,
}

/// What there is of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    /// Half-installed, or its configuration without itself.
    Partial,
    Installed,
}

/// The packages of the node that this runs on.
#[derive(Debug)]
pub(super) struct Packages {
    root: Root,
    changes: Changes,
}

impl Packages {
    /// `root` is looked through for the package manager.
    pub(super) fn new(root: Root) -> Self {
        Self {
            changes: Changes::new(root.clone()),
            root,
        }
    }

    /// See [`super::Host::has_package`].
    pub(super) async fn has(&self, name: &str, progress: Progress<'_>) -> Result<bool, Error> {
        let what = || format!("look whether {name} is installed");
        let known = known(name).ok_or_else(|| Error::new(what(), UNKNOWN))?;
        let Some(manager) = self.manager() else {
            return Ok(false);
        };
        let waited = self.changes.wait(progress).await;
        waited.map_err(|failure| Error::new(what(), failure))?;
        let state = manager.states(known).await;
        let states = state.map_err(|failure| Error::new(what(), failure))?;
        Ok(states.iter().any(|(_, state)| *state == State::Installed))
    }

    /// See [`super::Host::install`].
    pub(super) async fn install(&self, name: &str, progress: Progress<'_>) -> Result<(), Error> {
        let what = format!("install {name}");
        let known = known(name).ok_or_else(|| Error::new(&what, UNKNOWN))?;
        let missing = |why: &dyn std::fmt::Display| {
            let todo = format!(
                "install {name} by hand, as its makers say ({}), then go on",
                known.documentation
            );
            Error::new(&what, format!("{why}; {todo}"))
        };
        let Some(manager) = self.manager() else {
            return Err(missing(
                &"this node has none of apt-get, dnf, yum and zypper",
            ));
        };
        if self.has(name, progress).await? {
            return Ok(());
        }
        manager.refresh(&self.changes, progress).await;
        let mut package = None;
        for candidate in known.packages {
            let offered = manager.offers(candidate).await;
            if offered.map_err(|failure| missing(&failure))? {
                package = Some(candidate);
                break;
            }
        }
        let Some(package) = package else {
            let tried = known.packages.join(" or ");
            let program = manager.program();
            return Err(missing(&format!("{program} has no package {tried} here")));
        };
        progress(&format!("{} installs {package}", manager.program()));
        let installed = manager.install(package, &self.changes, progress).await;
        installed.map_err(|failure| missing(&failure))?;
        if self.has(name, progress).await? {
            return Ok(());
        }
        let program = manager.program();
        Err(missing(&format!(
            "{program} is done, and {package} is not installed"
        )))
    }

    /// See [`super::Host::remove`].
    pub(super) async fn remove(&self, name: &str, progress: Progress<'_>) -> Result<(), Error> {
        let what = format!("remove {name}");
        let known = known(name).ok_or_else(|| Error::new(&what, UNKNOWN))?;
        let Some(manager) = self.manager() else {
            return Ok(());
        };
        let waited = self.changes.wait(progress).await;
        waited.map_err(|failure| Error::new(&what, failure))?;
        let states = manager.states(known).await;
        for (package, state) in states.map_err(|failure| Error::new(&what, failure))? {
            if state == State::Absent {
                continue;
            }
            let removed = manager.remove(package, &self.changes, progress).await;
            removed.map_err(|failure| {
                let todo = "where another package needs it by now, remove that one first";
                Error::new(&what, format!("{failure}; {todo}"))
            })?;
        }
        Ok(())
    }

    async fn offered(&self, name: &str) -> Option<(&'static str, String)> {
        let manager = self.manager()?;
        for package in known(name)?.packages {
            if let Some(version) = manager.version_offered(package).await {
                return Some((manager.program(), version));
            }
        }
        None
    }

    fn manager(&self) -> Option<Manager> {
        MANAGERS.into_iter().find(|manager| {
            let mut directories = ["/usr/bin", "/bin"].into_iter();
            directories.any(|directory| self.root.has(format!("{directory}/{}", manager.program())))
        })
    }
}

/// The packages that have a program, by the name that its makers gave it.
pub(crate) fn packages_of(name: &str) -> &'static [&'static str] {
    known(name).map_or(&[], |known| known.packages)
}

/// The package manager of the node that this runs on, and which version of a program it would install,
/// as far as it has that in its cache: repositories are not asked.
pub(crate) async fn offered(root: &Root, name: &str) -> Option<(&'static str, String)> {
    Packages::new(root.clone()).offered(name).await
}

/// What a caller is told that asks for something that nobody moves to.
const UNKNOWN: &str = "it is not known which package has it";

fn known(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

impl Manager {
    fn program(self) -> &'static str {
        match self {
            Self::Apt => "apt-get",
            Self::Dnf => "dnf",
            Self::Yum => "yum",
            Self::Zypper => "zypper",
        }
    }

    /// What there is of each of the packages.
    async fn states(self, known: &'static Known) -> Result<Vec<(&'static str, State)>, Failure> {
        let mut states = Vec::new();
        for package in known.packages {
            states.push((*package, self.state(package).await?));
        }
        Ok(states)
    }

    async fn state(self, package: &str) -> Result<State, Failure> {
        let (program, arguments) = match self {
            Self::Apt => ("dpkg-query", ["--show", "--showformat=${db:Status-Status}"]),
            _ => ("rpm", ["--query", "--quiet"]),
        };
        let mut command = process::command(program);
        let said = match run(command.args(arguments).arg(package), LOOK).await {
            Ok(said) => said,
            Err(Failure::Failed(..)) => return Ok(State::Absent),
            Err(failure) => return Err(failure),
        };
        Ok(match said.trim() {
            "" | "installed" => State::Installed,
            "not-installed" => State::Absent,
            _ => State::Partial,
        })
    }

    /// Has it ask its repositories what they have. One that cannot be reached may not be needed.
    async fn refresh(self, changes: &Changes, progress: Progress<'_>) {
        if self != Self::Apt {
            return;
        }
        progress("apt-get asks its repositories what they have");
        let mut command = changing(self.program());
        command.args(["--quiet", "update"]);
        if let Err(failure) = changes.run(command, progress).await {
            progress(&format!("not all of them answered: {failure}"));
        }
    }

    /// Whether it knows where to get a package.
    async fn offers(self, package: &str) -> Result<bool, Failure> {
        let (program, arguments): (_, &[&str]) = match self {
            Self::Apt => ("apt-cache", &["show", "--no-all-versions"]),
            Self::Dnf | Self::Yum => (self.program(), &["--quiet", "info"]),
            Self::Zypper => (
                self.program(),
                &["--non-interactive", "search", "--match-exact"],
            ),
        };
        let mut command = process::command(program);
        match run(command.args(arguments).arg(package), PATIENCE).await {
            // apt-cache says nothing of one that others only mention.
            Ok(said) => Ok(!said.trim().is_empty()),
            Err(Failure::Failed(..)) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// The version that it would install, by its cache.
    async fn version_offered(self, package: &str) -> Option<String> {
        let (program, arguments): (_, &[&str]) = match self {
            Self::Apt => ("apt-cache", &["show", "--no-all-versions"]),
            Self::Dnf | Self::Yum => (self.program(), &["--quiet", "--cacheonly", "info"]),
            Self::Zypper => (
                self.program(),
                &["--non-interactive", "--no-refresh", "info"],
            ),
        };
        let mut command = process::command(program);
        let said = run(command.args(arguments).arg(package), GLANCE)
            .await
            .ok()?;
        said.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == "Version").then(|| value.trim().to_string())
        })
    }

    /// Installs a package, and what it cannot do without; nothing is removed for it.
    async fn install(
        self,
        package: &str,
        changes: &Changes,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        let install = || {
            let mut command = changing(self.program());
            match self {
                Self::Apt => command
                    .args(["--yes", "--quiet", "--no-install-recommends", "--no-remove"])
                    // Through a terminal of its own, dpkg would end with it.
                    .args(["-o", LOCK, "-o", "Dpkg::Use-Pty=0"])
                    .args(["-o", "Dpkg::Options::=--force-confdef"])
                    .args(["-o", "Dpkg::Options::=--force-confold", "install"]),
                Self::Dnf => command.args(["-y", "--setopt=install_weak_deps=False", "install"]),
                Self::Yum => command.args(["-y", "install"]),
                Self::Zypper => command.args(["--non-interactive", "install", "--no-recommends"]),
            };
            command.arg(package).env("SYSTEMD_OFFLINE", "1");
            command
        };
        match changes.run(install(), progress).await {
            Err(Failure::Failed(_, _, said)) if said.contains("dpkg was interrupted") => {
                let mut command = changing("dpkg");
                command.args(["--force-confdef", "--force-confold", "--configure", "-a"]);
                command.env("SYSTEMD_OFFLINE", "1");
                changes.run(command, progress).await?;
                changes.run(install(), progress).await
            }
            other => other,
        }
    }

    /// Removes a package with its configuration, if nothing needs it.
    async fn remove(
        self,
        package: &str,
        changes: &Changes,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        let (program, option) = if self == Self::Apt {
            ("dpkg", "--purge")
        } else {
            ("rpm", "--erase")
        };
        let mut command = changing(program);
        command.args([option, package]);
        changes.run(command, progress).await
    }
}

/// A command that changes packages.
fn changing(program: &str) -> Command {
    let mut command = process::command(program);
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        // On Ubuntu it would restart services of others, the kubelet too.
        .env("NEEDRESTART_SUSPEND", "1")
        .env("APT_LISTCHANGES_FRONTEND", "none");
    command
}

async fn run(command: &mut Command, patience: Duration) -> Result<String, Failure> {
    process::run(command, b"", patience).await
}

#[cfg(test)]
mod tests;
