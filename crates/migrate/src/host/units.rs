//! Units of systemd: what they are, started, stopped, and made what they were.

mod links;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use slipway_systemd::{Refusal, Systemd};
use zbus::OwnedObjectPath;

use super::{Enablement, Error, Link, Services, UnitState};

/// Replaces a job of the other kind that is under way (systemctl(1), `--job-mode=`).
const MODE: &str = "replace";

/// Longer than a unit's own limits, 90 seconds each to stop and to start, where nobody set others.
const PATIENCE: Duration = Duration::from_mins(5);

/// Why one that is masked is not started.
pub(crate) const MASKED: &str =
    "somebody has masked it, so that it cannot be started: find out why, then systemctl unmask it";

/// Below these systemd has units' files, and finds them by itself (systemd.unit(5), "Unit File Load
/// Path").
const DIRECTORIES: [&str; 5] = [
    "/etc/systemd",
    "/run/systemd",
    "/usr/local/lib/systemd",
    "/usr/lib/systemd",
    "/lib/systemd",
];

/// What enabling and disabling change: kind, link, and what it leads to.
type Changes = Vec<(String, String, String)>;

/// The node's units.
///
/// A unit that is enabled until the next boot only, masked, static, generated or made by a program
/// keeps that: it is started and stopped, and nothing is written for it. A socket that listens is
/// not made anew, for systemd refuses that while its service runs.
#[derive(Debug)]
pub struct Units {
    systemd: Systemd,
    /// Where links of the administrator's are.
    directory: PathBuf,
}

impl Services for Units {
    async fn unit(&self, name: &str) -> Result<UnitState, Error> {
        self.state(name).await
    }
}

impl Units {
    /// Of the node, to be changed.
    pub(super) fn new() -> Self {
        Self::with_patience(PATIENCE)
    }

    /// Of the node; no answer of systemd's is waited for longer than `patience`.
    pub fn with_patience(patience: Duration) -> Self {
        Self {
            systemd: Systemd::new(patience),
            directory: links::DIRECTORY.into(),
        }
    }

    /// See [`Services::unit`].
    async fn state(&self, name: &str) -> Result<UnitState, Error> {
        let state = async {
            Ok(UnitState {
                enablement: self.enablement(name).await?,
                active: self.activity(name).await?.is_active(),
                linked: self.linked(name).await?,
                links: Vec::new(),
            })
        };
        state
            .await
            .map_err(|refusal: Refusal| Error::new(format!("look at {name}"), refusal))
    }

    /// See [`super::Host::unit_to_keep`].
    pub(super) async fn to_keep(&self, name: &str) -> Result<UnitState, Error> {
        Ok(UnitState {
            links: self.links(name)?,
            ..self.state(name).await?
        })
    }

    fn links(&self, name: &str) -> Result<Vec<Link>, Error> {
        let refused = |error: io::Error| Error::new(format!("look for links to {name}"), error);
        links::of(&self.directory, name).map_err(refused)
    }

    /// See [`super::Host::start`].
    pub(super) async fn start(&self, name: &str) -> Result<(), Error> {
        let what = || format!("start {name}");
        let refused = |refusal| Error::new(what(), refusal);
        let unit = self.loaded(name).await.map_err(refused)?;
        if let Some(why) = unit.unusable() {
            return Err(Error::new(what(), why));
        }
        let enablement = self.enablement(name).await.map_err(refused)?;
        if enablement != enablement.enabled() {
            self.enable(name).await.map_err(refused)?;
        }
        let activity = self.activity(name).await.map_err(refused)?;
        if activity.state == "failed" {
            // One that has failed too often is not started until this is forgotten.
            let reset = self.systemd.call::<_, ()>("ResetFailedUnit", &name).await;
            reset.map_err(refused)?;
        }
        let method = if name.ends_with(".socket") {
            "StartUnit"
        } else {
            "RestartUnit"
        };
        self.run(name, method).await?;
        let activity = self.activity(name).await.map_err(refused)?;
        if activity.runs() || self.has_finished(name, &activity).await.map_err(refused)? {
            return Ok(());
        }
        let why = "systemd started it, and it does not run";
        Err(Error::new(what(), self.explained(name, why).await))
    }

    /// See [`super::Host::stop`].
    pub(super) async fn stop(&self, name: &str) -> Result<(), Error> {
        match self.systemd.job("StopUnit", &(name, MODE)).await {
            Ok(()) => {}
            Err(refusal) if refusal.is_absence() => return Ok(()),
            Err(refusal) => {
                let why = self.explained(name, &refusal).await;
                return Err(Error::new(format!("stop {name}"), why));
            }
        }
        let activity = self.activity(name).await;
        let activity = activity.map_err(|refusal| Error::new(format!("stop {name}"), refusal))?;
        if !activity.is_active() {
            return Ok(());
        }
        let why = "systemd stopped it, and something has started it again (systemctl list-dependencies --reverse shows who may)";
        let why = self.explained(name, why).await;
        Err(Error::new(format!("stop {name}"), why))
    }

    /// See [`super::Host::disable`].
    pub(super) async fn disable(&self, name: &str, before: &UnitState) -> Result<(), Error> {
        self.stop(name).await?;
        let disable = async {
            let linked = self.linked_before(name, before).await?;
            let enablement = self.enablement(name).await?;
            if enablement != enablement.disabled() {
                self.take_links(name).await?;
            }
            self.link(name, linked.as_deref()).await
        };
        disable
            .await
            .map_err(|refusal: Refusal| Error::new(format!("disable {name}"), refusal))
    }

    /// See [`super::Host::restore_unit`].
    pub(super) async fn restore(&self, name: &str, before: &UnitState) -> Result<(), Error> {
        let what = || format!("make {name} what it was ({before})");
        let refused = |refusal| Error::new(what(), refusal);
        let linked = self.linked_before(name, before).await.map_err(refused)?;
        let there = self.links(name)?;
        let link = async || self.link(name, linked.as_deref()).await;
        link().await.map_err(refused)?;
        let now = self.state(name).await?;
        if now.active && !before.active {
            self.stop(name).await?;
        }
        if now.enablement != before.enablement {
            let starts = before.active || before.enablement == Enablement::Enabled;
            if now.enablement == Enablement::Absent && starts {
                return Err(Error::new(
                    what(),
                    "there is no such unit any more: install its package again, then go on",
                ));
            }
            self.restore_enablement(name, now.enablement, before.enablement)
                .await
                .map_err(refused)?;
            link().await.map_err(refused)?;
        }
        self.restore_links(name, before, &there).await?;
        if before.active && !self.state(name).await?.active {
            self.run(name, "StartUnit").await?;
            let activity = self.activity(name).await.map_err(refused)?;
            if !activity.is_active()
                && !self.has_finished(name, &activity).await.map_err(refused)?
            {
                let why = "systemd started it, and it does not run";
                return Err(Error::new(what(), self.explained(name, why).await));
            }
        }
        Ok(())
    }

    /// See [`super::Host::reload`].
    pub(super) async fn reload(&self) -> Result<(), Error> {
        let reloaded = self.systemd.call("Reload", &()).await;
        reloaded.map_err(|refusal| Error::new("have systemd read its units again", refusal))
    }

    /// Starts or restarts it, and waits until the job is done.
    async fn run(&self, name: &str, method: &'static str) -> Result<(), Error> {
        match self.systemd.job(method, &(name, MODE)).await {
            Ok(()) => Ok(()),
            Err(refusal) => {
                let why = self.explained(name, &refusal).await;
                Err(Error::new(format!("start {name}"), why))
            }
        }
    }

    async fn enablement(&self, name: &str) -> Result<Enablement, Refusal> {
        let state: Result<String, _> = self.systemd.call("GetUnitFileState", &name).await;
        match state {
            Ok(state) => Ok(Enablement::of(&state)),
            Err(refusal) if refusal.is_absence() => Ok(Enablement::Absent),
            Err(refusal) => Err(refusal),
        }
    }

    /// Has it start with the node, as its `[Install]` section says.
    async fn enable(&self, name: &str) -> Result<(), Refusal> {
        let body = (vec![name], false, false);
        let (_, changes): (bool, Changes) = self.systemd.call("EnableUnitFiles", &body).await?;
        self.known(&changes).await
    }

    /// Has it not start with the node. Where its file itself is a link that somebody made with
    /// systemctl link, systemd takes that away as well: [`Self::link`] makes it again.
    async fn take_links(&self, name: &str) -> Result<(), Refusal> {
        let body = (vec![name], false);
        let changes: Changes = self.systemd.call("DisableUnitFiles", &body).await?;
        self.known(&changes).await
    }

    /// Links a unit's file again where it was linked before and systemd does not know it any more.
    async fn link(&self, name: &str, linked: Option<&Path>) -> Result<(), Refusal> {
        let Some(file) = linked.filter(|file| file.exists()) else {
            return Ok(());
        };
        if self.enablement(name).await? != Enablement::Absent {
            return Ok(());
        }
        let body = (vec![file.to_string_lossy().into_owned()], false, false);
        let changes: Changes = self.systemd.call("LinkUnitFiles", &body).await?;
        self.known(&changes).await
    }

    /// What is known of it from before, or else by now: older journals do not say it.
    async fn linked_before(
        &self,
        name: &str,
        before: &UnitState,
    ) -> Result<Option<PathBuf>, Refusal> {
        match &before.linked {
            Some(file) => Ok(Some(file.clone())),
            None => self.linked(name).await,
        }
    }

    /// Its file, where that is in none of systemd's directories.
    async fn linked(&self, name: &str) -> Result<Option<PathBuf>, Refusal> {
        let unit: OwnedObjectPath = match self.systemd.call("LoadUnit", &name).await {
            Ok(unit) => unit,
            Err(refusal) if refusal.is_absence() => return Ok(None),
            Err(refusal) => return Err(refusal),
        };
        let file: String = self.systemd.property(&unit, "Unit", "FragmentPath").await?;
        let Ok(file) = std::fs::canonicalize(&file) else {
            return Ok(None);
        };
        let is_own = DIRECTORIES.iter().any(|own| file.starts_with(own));
        Ok(Some(file).filter(|file| !is_own && file.is_file()))
    }

    async fn restore_enablement(
        &self,
        name: &str,
        now: Enablement,
        before: Enablement,
    ) -> Result<(), Refusal> {
        match (now, before) {
            (_, Enablement::Enabled) => self.enable(name).await,
            (Enablement::Enabled, _) => self.take_links(name).await,
            (_, Enablement::Masked) if now != Enablement::Absent => {
                let body = (vec![name], false, false);
                let changes: Changes = self.systemd.call("MaskUnitFiles", &body).await?;
                self.known(&changes).await
            }
            _ => Ok(()),
        }
    }

    /// Makes the links that were there, also those that no `[Install]` section names. `there` are those from
    /// before systemd made any.
    async fn restore_links(
        &self,
        name: &str,
        before: &UnitState,
        there: &[Link],
    ) -> Result<(), Error> {
        // An older journal has none: what systemd makes is all that is known then.
        if before.links.is_empty() {
            return Ok(());
        }
        let what = || format!("make the links to {name} again that there were");
        let mut made = self.links(name)?;
        made.retain(|link| !there.contains(link));
        let changed = links::restore(&before.links, &made);
        if !changed.map_err(|error| Error::new(what(), error))? {
            return Ok(());
        }
        let known = self.systemd.call("Reload", &()).await;
        known.map_err(|refusal: Refusal| Error::new(what(), refusal))
    }

    /// Has systemd know what was linked.
    async fn known(&self, changes: &Changes) -> Result<(), Refusal> {
        if changes.is_empty() {
            return Ok(());
        }
        self.systemd.call("Reload", &()).await
    }

    /// The unit as systemd has it in memory: what is on disk, if that has changed.
    async fn loaded(&self, name: &str) -> Result<Loaded, Refusal> {
        let loaded = self.load(name).await?;
        if !loaded.is_outdated {
            return Ok(loaded);
        }
        self.systemd.call::<_, ()>("Reload", &()).await?;
        self.load(name).await
    }

    async fn load(&self, name: &str) -> Result<Loaded, Refusal> {
        let unit: OwnedObjectPath = self.systemd.call("LoadUnit", &name).await?;
        let state: String = self.systemd.property(&unit, "Unit", "LoadState").await?;
        let changed: bool = self
            .systemd
            .property(&unit, "Unit", "NeedDaemonReload")
            .await?;
        Ok(Loaded {
            is_outdated: changed || state == "not-found",
            state,
        })
    }

    async fn activity(&self, name: &str) -> Result<Activity, Refusal> {
        let unit: OwnedObjectPath = match self.systemd.call("GetUnit", &name).await {
            Ok(unit) => unit,
            Err(refusal) if refusal.is_absence() => return Ok(Activity::default()),
            Err(refusal) => return Err(refusal),
        };
        Ok(Activity {
            state: self.systemd.property(&unit, "Unit", "ActiveState").await?,
            detail: self.systemd.property(&unit, "Unit", "SubState").await?,
        })
    }

    /// Whether it is a service that does something and ends, and has done so.
    async fn has_finished(&self, name: &str, activity: &Activity) -> Result<bool, Refusal> {
        if activity.state != "inactive" || !name.ends_with(".service") {
            return Ok(false);
        }
        let unit: OwnedObjectPath = self.systemd.call("LoadUnit", &name).await?;
        let kind: String = self.systemd.property(&unit, "Service", "Type").await?;
        let result: String = self.systemd.property(&unit, "Service", "Result").await?;
        let met: bool = self
            .systemd
            .property(&unit, "Unit", "ConditionResult")
            .await?;
        Ok(kind == "oneshot" && result == "success" && met)
    }

    /// Why, with what systemd knows of the unit, and where more is written.
    async fn explained(&self, name: &str, why: impl fmt::Display) -> String {
        let state = match self.description(name).await {
            Ok(state) => state,
            Err(refusal) => format!("its state is not known: {refusal}"),
        };
        format!("{why}; {state}; look at journalctl -u {name}")
    }

    async fn description(&self, name: &str) -> Result<String, Refusal> {
        let unit: OwnedObjectPath = self.systemd.call("LoadUnit", &name).await?;
        let activity = self.activity(name).await?;
        let mut text = format!("its state is {activity}");
        if activity.state == "inactive" {
            let met: bool = self
                .systemd
                .property(&unit, "Unit", "ConditionResult")
                .await?;
            if !met {
                text.push_str(", and a condition of its unit is not met");
            }
        }
        if !name.ends_with(".service") {
            return Ok(text);
        }
        let result: String = self.systemd.property(&unit, "Service", "Result").await?;
        let code: i32 = self
            .systemd
            .property(&unit, "Service", "ExecMainCode")
            .await?;
        let status: i32 = self
            .systemd
            .property(&unit, "Service", "ExecMainStatus")
            .await?;
        text = format!("{text}, its result {result}");
        match code {
            // The values of si_code for SIGCHLD, sigaction(2).
            1 => text = format!("{text}, its process ended with status {status}"),
            2 | 3 => text = format!("{text}, its process was ended by signal {status}"),
            _ => {}
        }
        Ok(text)
    }
}

/// What systemd made of a unit's files.
struct Loaded {
    state: String,
    /// Whether the files have changed since.
    is_outdated: bool,
}

impl Loaded {
    fn unusable(&self) -> Option<&'static str> {
        match self.state.as_str() {
            "not-found" => Some(
                "there is no such unit: install the package that has it, or put its file into /etc/systemd/system",
            ),
            "masked" => Some(MASKED),
            "bad-setting" | "error" => Some(
                "systemd cannot use its file: systemctl status and systemd-analyze verify say why",
            ),
            _ => None,
        }
    }
}

/// `ActiveState` and `SubState`.
#[derive(Debug)]
struct Activity {
    state: String,
    detail: String,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            state: "inactive".to_string(),
            detail: "dead".to_string(),
        }
    }
}

impl Activity {
    /// Whether it runs, or is on its way: a service that systemd starts again and again is not
    /// one that was stopped.
    fn is_active(&self) -> bool {
        self.runs() || self.state == "activating"
    }

    /// Whether it runs.
    fn runs(&self) -> bool {
        matches!(self.state.as_str(), "active" | "reloading" | "refreshing")
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({})", self.state, self.detail)
    }
}

impl Enablement {
    /// As systemd names it.
    fn of(state: &str) -> Self {
        match state {
            "enabled" => Self::Enabled,
            "disabled" | "linked" | "linked-runtime" => Self::Disabled,
            "masked" | "masked-runtime" => Self::Masked,
            _ => Self::Fixed,
        }
    }
}

#[cfg(test)]
mod tests;
