//! Against a stand-in for systemd on a bus of its own. What only systemd itself can show is tried
//! in a machine (`e2e::machine::host`).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::net::{UnixListener, UnixStream};
use zbus::connection::Builder;
use zbus::message::{Header, Type as MessageType};
use zbus::names::BusName;
use zbus::{Connection, Guid, Message, ObjectPath, Variant};

use super::*;

const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// What becomes of a unit that is started.
#[derive(Clone, Copy, PartialEq)]
enum Start {
    Runs,
    /// It ends with this status.
    Fails(i32),
    /// systemd starts it again and again.
    EndsAtOnce,
    /// It has done what it does.
    Finishes,
    /// A condition is not met.
    IsSkipped,
    /// It never ends starting.
    Hangs,
    /// Somebody else has it stopped meanwhile.
    IsCanceled,
}

#[derive(Clone)]
struct Unit {
    file_state: &'static str,
    load: &'static str,
    changed: bool,
    active: &'static str,
    sub: &'static str,
    fragment: String,
    start: Start,
}

impl Unit {
    fn new(file_state: &'static str, active: &'static str) -> Self {
        Self {
            file_state,
            load: "loaded",
            changed: false,
            active,
            sub: "some",
            fragment: "/nonexistent/file".to_string(),
            start: Start::Runs,
        }
    }

    fn starting(start: Start) -> Self {
        Self {
            start,
            ..Self::new("disabled", "inactive")
        }
    }

    fn property(&self, name: &str) -> Variant<'static> {
        let (result, code, status) = match self.start {
            Start::Fails(status) => ("exit-code", 1, status),
            _ => ("success", 0, 0),
        };
        let text = |text: &str| Variant::from(text.to_string());
        match name {
            "LoadState" => text(self.load),
            "NeedDaemonReload" => Variant::from(self.changed),
            "ActiveState" => text(self.active),
            "SubState" => text(self.sub),
            "FragmentPath" => text(&self.fragment),
            "Result" => text(result),
            "ExecMainCode" => Variant::from(code),
            "ExecMainStatus" => Variant::from(status),
            "ConditionResult" => Variant::from(self.start != Start::IsSkipped),
            "Type" if self.start == Start::Finishes => text("oneshot"),
            "Type" => text("notify"),
            other => panic!("{other}"),
        }
    }

    /// How its job ends, if it does.
    fn start(&mut self) -> Option<&'static str> {
        (self.active, self.sub) = match self.start {
            Start::Runs => ("active", "running"),
            Start::Fails(_) => ("failed", "failed"),
            Start::EndsAtOnce => ("activating", "auto-restart"),
            Start::Hangs => ("activating", "start"),
            Start::Finishes | Start::IsSkipped | Start::IsCanceled => ("inactive", "dead"),
        };
        match self.start {
            Start::Hangs => None,
            Start::Fails(_) => Some("failed"),
            Start::IsCanceled => Some("canceled"),
            _ => Some("done"),
        }
    }
}

/// What it has, and what it was asked that changes something.
#[derive(Default)]
struct Known {
    /// Instead of /etc/systemd/system.
    links: PathBuf,
    units: BTreeMap<String, Unit>,
    asked: Vec<String>,
}

impl Known {
    /// As `[Install]` says, in each unit `WantedBy=multi-user.target`.
    fn enable(&self, name: &str) {
        let link = self.links.join("multi-user.target.wants").join(name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("/usr/lib").join(name), link).unwrap();
        }
    }

    /// All links, and directories that are empty then.
    fn disable(&self, name: &str) {
        let below = |directory: &Path| {
            let entries = fs::read_dir(directory).unwrap();
            entries
                .map(|entry| entry.unwrap().path())
                .collect::<Vec<_>>()
        };
        let mut all = below(&self.links);
        let directories: Vec<_> = all.iter().filter(|path| path.is_dir()).cloned().collect();
        all.extend(directories.iter().flat_map(|path| below(path)));
        for path in all {
            let target = fs::read_link(&path);
            if target.is_ok_and(|target| target.ends_with(name) || path.ends_with(name)) {
                fs::remove_file(path).unwrap();
            }
        }
        for directory in directories {
            let _ = fs::remove_dir(directory);
        }
    }

    fn reload(&mut self) {
        self.asked.push("Reload".to_string());
        for unit in self.units.values_mut() {
            unit.changed = false;
            if unit.load == "not-found" {
                unit.load = "loaded";
            }
        }
    }
}

struct Fake {
    known: Arc<Mutex<Known>>,
    units: Units,
    _directory: tempfile::TempDir,
}

impl Fake {
    fn new(units: &[(&str, Unit)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("bus");
        let listener = UnixListener::bind(&socket).unwrap();
        let units = units
            .iter()
            .map(|(name, unit)| ((*name).to_string(), unit.clone()));
        let known = Arc::new(Mutex::new(Known {
            links: directory.path().join("links"),
            units: units.collect(),
            asked: Vec::new(),
        }));
        let links = directory.path().join("links");
        fs::create_dir(&links).unwrap();
        let served = Arc::clone(&known);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(Arc::clone(&served), stream));
            }
        });
        let address = format!("unix:path={}", socket.display());
        let systemd = Systemd::at(address, Duration::from_secs(2));
        Self {
            known,
            units: Units {
                systemd,
                directory: links,
            },
            _directory: directory,
        }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.known.lock().unwrap().asked)
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Unit)) {
        change(self.known.lock().unwrap().units.get_mut(name).unwrap());
    }

    async fn state(&self, name: &str) -> String {
        self.units.state(name).await.unwrap().to_string()
    }

    /// Why a unit was not started.
    async fn refusal(&self, name: &str) -> String {
        self.units.start(name).await.unwrap_err().to_string()
    }
}

async fn serve(known: Arc<Mutex<Known>>, stream: UnixStream) {
    let builder = Builder::unix_stream(stream.into_std().unwrap())
        .server(Guid::generate())
        .p2p();
    let Ok(mut messages) = builder.build_message_stream().await else {
        return;
    };
    let connection = Connection::from(&messages);
    let mut number = 0;
    while let Some(Ok(message)) = messages.next().await {
        if message.message_type() == MessageType::MethodCall {
            number += 1;
            answer(&known, &connection, &message, number).await;
        }
    }
}

async fn refuse(connection: &Connection, header: &Header<'_>, error: &str) {
    let name = format!("org.freedesktop.{error}");
    let said = &"it says no";
    connection.reply_error(header, name, said).await.unwrap();
}

async fn answer(known: &Mutex<Known>, connection: &Connection, message: &Message, number: u32) {
    let header = message.header();
    let method = header.member().unwrap().to_string();
    let body = message.body();
    let named = match method.as_str() {
        "Hello" => return connection.reply(&header, &":1.1").await.unwrap(),
        "Subscribe" | "AddMatch" | "RemoveMatch" => {
            return connection.reply(&header, &()).await.unwrap();
        }
        "Reload" => {
            known.lock().unwrap().reload();
            return connection.reply(&header, &()).await.unwrap();
        }
        "Get" => {
            let (_, name): (String, String) = body.deserialize().unwrap();
            let path = header.path().unwrap().to_string();
            let place: usize = path.rsplit('_').next().unwrap().parse().unwrap();
            let value = {
                let known = known.lock().unwrap();
                known.units.values().nth(place).unwrap().property(&name)
            };
            return connection.reply(&header, &value).await.unwrap();
        }
        "EnableUnitFiles" | "LinkUnitFiles" | "MaskUnitFiles" => {
            let (names, _, _): (Vec<String>, bool, bool) = body.deserialize().unwrap();
            names[0].clone()
        }
        "DisableUnitFiles" => {
            let (names, _): (Vec<String>, bool) = body.deserialize().unwrap();
            names[0].clone()
        }
        "StartUnit" | "RestartUnit" | "StopUnit" => {
            let (name, mode): (String, String) = body.deserialize().unwrap();
            assert_eq!(mode, "replace");
            name
        }
        _ => body.deserialize().unwrap(),
    };
    let name = named.rsplit('/').next().unwrap().to_string();
    let (place, unit) = {
        let mut known = known.lock().unwrap();
        if !matches!(method.as_str(), "LoadUnit" | "GetUnit" | "GetUnitFileState") {
            known.asked.push(format!("{method} {named}"));
        }
        let place = known.units.keys().position(|one| *one == name);
        (place, known.units.get(&name).cloned())
    };
    let (Some(place), Some(mut unit)) = (place, unit) else {
        let error = match method.as_str() {
            "GetUnitFileState" => "DBus.Error.FileNotFound",
            _ => "systemd1.NoSuchUnit",
        };
        return refuse(connection, &header, error).await;
    };
    let changes = vec![("symlink", "/etc/link", "/usr/file")];
    let mut job = None;
    match method.as_str() {
        "LoadUnit" | "GetUnit" => {
            let path = ObjectPath::try_from(format!("{OBJECT}/unit/_{place}")).unwrap();
            return connection.reply(&header, &path).await.unwrap();
        }
        "GetUnitFileState" if unit.file_state.is_empty() => {
            return refuse(connection, &header, "systemd1.NoSuchUnit").await;
        }
        "GetUnitFileState" => return connection.reply(&header, &unit.file_state).await.unwrap(),
        "EnableUnitFiles" => unit.file_state = "enabled",
        "DisableUnitFiles" if unit.fragment.starts_with("/nonexistent") => {
            unit.file_state = "disabled";
        }
        // It was a link.
        "DisableUnitFiles" => unit.file_state = "",
        "LinkUnitFiles" => unit.file_state = "linked",
        "MaskUnitFiles" => unit.file_state = "masked",
        "ResetFailedUnit" => (unit.active, unit.sub) = ("inactive", "dead"),
        "StartUnit" | "RestartUnit" => job = Some(unit.start()),
        "StopUnit" => {
            (unit.active, unit.sub) = ("inactive", "dead");
            job = Some(Some("done"));
        }
        other => panic!("{other}"),
    }
    {
        let mut known = known.lock().unwrap();
        match method.as_str() {
            "EnableUnitFiles" => known.enable(&name),
            "DisableUnitFiles" => known.disable(&name),
            _ => {}
        }
        known.units.insert(name.clone(), unit);
    }
    let Some(result) = job else {
        return match method.as_str() {
            "ResetFailedUnit" => connection.reply(&header, &()).await.unwrap(),
            "EnableUnitFiles" => connection.reply(&header, &(true, changes)).await.unwrap(),
            _ => connection.reply(&header, &changes).await.unwrap(),
        };
    };
    let job = ObjectPath::try_from(format!("{OBJECT}/job/{number}")).unwrap();
    // That of another job comes first.
    let other = ObjectPath::try_from(format!("{OBJECT}/job/0")).unwrap();
    let nobody = None::<BusName<'_>>;
    connection.reply(&header, &&job).await.unwrap();
    for (path, result) in [(other, Some("failed")), (job, result)] {
        let Some(result) = result else {
            continue;
        };
        let ended = (number, path, name.clone(), result);
        connection
            .emit_signal(nobody.clone(), OBJECT, MANAGER, "JobRemoved", &ended)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn states_are_those_of_systemd() {
    let fake = Fake::new(&[
        ("a.service", Unit::new("enabled", "active")),
        ("b.service", Unit::new("static", "inactive")),
        ("c.service", Unit::new("masked-runtime", "failed")),
        ("d.service", Unit::new("linked", "reloading")),
        ("e.service", Unit::new("enabled-runtime", "activating")),
        ("f.service", Unit::new("", "active")),
    ]);
    for (name, state) in [
        ("a", "enabled, active"),
        ("b", "static or generated, inactive"),
        ("c", "masked, inactive"),
        ("d", "disabled, active"),
        ("e", "static or generated, active"),
        ("f", "not-found, active"),
        ("g", "not-found, inactive"),
    ] {
        assert_eq!(
            fake.state(&format!("{name}.service")).await,
            state,
            "{name}"
        );
    }
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn what_is_foretold_of_a_unit_is_what_becomes_of_it() {
    let states = ["enabled", "disabled", "static", "enabled-runtime"];
    let units = states.into_iter().flat_map(|state| {
        let named = |active: &'static str| (format!("{state}-{active}.service"), state, active);
        ["active", "inactive"].map(named)
    });
    let units: Vec<_> = units.collect();
    let made: Vec<_> = units
        .iter()
        .map(|(name, state, active)| (name.as_str(), Unit::new(state, active)))
        .collect();
    for (name, ..) in &units {
        let fake = Fake::new(&made);
        let before = fake.units.unit(name).await.unwrap();
        fake.units.stop(name).await.unwrap();
        let stopped = fake.units.unit(name).await.unwrap();
        assert_eq!(stopped, before.stopped(), "{name}");
        fake.units.start(name).await.unwrap();
        let started = fake.units.unit(name).await.unwrap();
        assert_eq!(started, stopped.started(), "{name}");
        assert_eq!(started, before.started(), "{name}");
        fake.units.disable(name, &started).await.unwrap();
        let disabled = fake.units.unit(name).await.unwrap();
        assert_eq!(disabled, started.disabled(), "{name}");
    }
}

#[tokio::test]
async fn a_unit_is_enabled_and_started_anew() {
    let fake = Fake::new(&[
        ("new.service", Unit::new("disabled", "inactive")),
        ("running.service", Unit::new("enabled", "active")),
        ("failed.service", Unit::new("static", "failed")),
        ("heard.socket", Unit::new("enabled", "active")),
        ("oneshot.service", Unit::starting(Start::Finishes)),
    ]);
    for (name, asked) in [
        (
            "new.service",
            &[
                "EnableUnitFiles new.service",
                "Reload",
                "RestartUnit new.service",
            ][..],
        ),
        ("running.service", &["RestartUnit running.service"]),
        (
            "failed.service",
            &[
                "ResetFailedUnit failed.service",
                "RestartUnit failed.service",
            ],
        ),
        ("heard.socket", &["StartUnit heard.socket"]),
    ] {
        fake.units.start(name).await.unwrap();
        assert_eq!(fake.asked(), asked);
        assert!(fake.state(name).await.ends_with(", active"), "{name}");
    }
    fake.units.start("oneshot.service").await.unwrap();
}

#[tokio::test]
async fn a_unit_that_systemd_does_not_know_yet_is_read_first() {
    let name = "a.service";
    for unit in [
        Unit {
            changed: true,
            ..Unit::new("enabled", "active")
        },
        Unit {
            load: "not-found",
            ..Unit::new("enabled", "inactive")
        },
    ] {
        let fake = Fake::new(&[(name, unit)]);
        fake.units.start(name).await.unwrap();
        assert_eq!(fake.asked(), ["Reload", "RestartUnit a.service"]);
    }
}

#[tokio::test]
async fn why_a_unit_was_not_started_is_said() {
    let fake = Fake::new(&[
        ("fails.service", Unit::starting(Start::Fails(203))),
        ("loops.service", Unit::starting(Start::EndsAtOnce)),
        ("skips.service", Unit::starting(Start::IsSkipped)),
        ("hangs.service", Unit::starting(Start::Hangs)),
        ("canceled.service", Unit::starting(Start::IsCanceled)),
        (
            "masked.service",
            Unit {
                load: "masked",
                ..Unit::new("masked", "inactive")
            },
        ),
        (
            "broken.service",
            Unit {
                load: "bad-setting",
                ..Unit::new("bad", "inactive")
            },
        ),
    ]);
    for (name, words) in [
        (
            "fails",
            &[
                "its state is failed (failed)",
                "ended with status 203",
                "journalctl -u fails.service",
            ][..],
        ),
        (
            "loops",
            &["its state is activating (auto-restart)", "journalctl"],
        ),
        ("skips", &["a condition of its unit is not met"]),
        (
            "hangs",
            &[
                "has not finished after 2 s",
                "activating (start)",
                "list-jobs",
            ],
        ),
        ("canceled", &["\"canceled\""]),
        ("masked", &["systemctl unmask"]),
        ("broken", &["systemd-analyze verify"]),
        ("absent", &["NoSuchUnit"]),
    ] {
        let refusal = fake.refusal(&format!("{name}.service")).await;
        for word in words {
            assert!(refusal.contains(word), "{refusal}");
        }
        let what = format!("start {name}.service: ");
        assert!(refusal.starts_with(&what), "{refusal}");
    }
}

#[tokio::test]
async fn stopping_and_disabling_can_be_done_again() {
    let fake = Fake::new(&[("a.service", Unit::new("enabled", "active"))]);
    fake.units.stop("a.service").await.unwrap();
    assert_eq!(fake.state("a.service").await, "enabled, inactive");
    fake.asked();
    let before = fake.units.state("a.service").await.unwrap();
    for _ in 0..2 {
        fake.units.disable("a.service", &before).await.unwrap();
        assert_eq!(fake.state("a.service").await, "disabled, inactive");
    }
    let asked = fake.asked();
    let stop = "StopUnit a.service";
    assert_eq!(asked, [stop, "DisableUnitFiles a.service", "Reload", stop]);
    fake.units.stop("absent.service").await.unwrap();
    fake.units.disable("absent.service", &before).await.unwrap();
}

#[tokio::test]
async fn a_file_that_was_linked_stays_linked() {
    let file = tempfile::NamedTempFile::with_suffix(".service").unwrap();
    let path: PathBuf = file.path().canonicalize().unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let fragment = path.to_str().unwrap().to_string();
    let unit = Unit {
        fragment,
        ..Unit::new("enabled", "inactive")
    };
    let fake = Fake::new(&[(name, unit)]);
    let before = fake.units.state(name).await.unwrap();
    assert_eq!(before.linked.as_ref(), Some(&path));
    let link = format!("LinkUnitFiles {}", path.display());
    let file_state = || fake.known.lock().unwrap().units[name].file_state;
    fake.units.disable(name, &before).await.unwrap();
    assert_eq!(file_state(), "linked");
    assert!(fake.asked().contains(&link));

    // Killed when systemd had taken the link away: systemd knows nothing of it any more.
    let lost = |unit: &mut Unit| {
        unit.file_state = "";
        unit.fragment = String::new();
    };
    fake.change(name, lost);
    fake.units.disable(name, &before).await.unwrap();
    assert_eq!(file_state(), "linked");
    fake.change(name, lost);
    fake.units.restore(name, &before).await.unwrap();
    assert_eq!(file_state(), "enabled");
    assert_eq!(
        fake.asked().iter().filter(|asked| **asked == link).count(),
        2
    );
}

#[tokio::test]
async fn links_that_people_made_are_made_again() {
    let name = "docker.service";
    let fake = Fake::new(&[(name, Unit::new("enabled", "active"))]);
    let directory = fake.units.directory.clone();
    let link = |path: &str, target: &str| {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    };
    let (own, other) = ("/lib/docker.service", "/lib/other.service");
    let made = [
        ("dock.service", own),
        (
            "kubelet.service.wants/docker.service",
            "../../system/docker.service",
        ),
        ("sleep.target.requires/dock.service", own),
        ("a.slice.upholds/docker.service", own),
    ];
    for (path, target) in made {
        link(path, target);
    }
    link("kubelet.service.wants/other.service", other);
    let links = || links::of(&directory, name).unwrap();
    let first = links();
    assert_eq!(first.len(), made.len());
    let before = fake.units.to_keep(name).await.unwrap();
    assert_eq!(before.links, first);
    for _ in 0..2 {
        fake.units.disable(name, &before).await.unwrap();
        assert!(links().is_empty());
        // What [Install] says was not so before.
        fake.units.restore(name, &before).await.unwrap();
        assert_eq!(links(), first);
        assert_eq!(fake.units.to_keep(name).await.unwrap(), before);
        fake.asked();
        fake.units.restore(name, &before).await.unwrap();
        assert!(fake.asked().is_empty());
    }

    // One is gone, and at another's place is what somebody else put there.
    fs::remove_file(directory.join("dock.service")).unwrap();
    let wants = directory.join("kubelet.service.wants/docker.service");
    fs::remove_file(&wants).unwrap();
    symlink(other, &wants).unwrap();
    fake.units.restore(name, &before).await.unwrap();
    assert_eq!(
        fs::read_link(directory.join("dock.service")).unwrap(),
        Path::new(own)
    );
    assert_eq!(fs::read_link(&wants).unwrap(), Path::new(other));
    assert_eq!(fake.asked(), ["Reload"]);

    // Of an older journal.
    let text = r#"{"enablement":"enabled","active":true}"#;
    let older: UnitState = serde_json::from_str(text).unwrap();
    fake.units.disable(name, &before).await.unwrap();
    fake.units.restore(name, &older).await.unwrap();
    assert_eq!(fake.units.state(name).await.unwrap(), older);
    let path = directory.join("multi-user.target.wants/docker.service");
    assert_eq!(links().first().map(|link| link.path.clone()), Some(path));
}

#[tokio::test]
async fn every_state_is_come_back_to() {
    let name = "a.service";
    for (file_state, active) in [
        ("enabled", "active"),
        ("enabled", "inactive"),
        ("disabled", "active"),
        ("disabled", "inactive"),
        ("static", "inactive"),
    ] {
        let fake = Fake::new(&[(name, Unit::new(file_state, active))]);
        let before = fake.units.state(name).await.unwrap();
        fake.units.start(name).await.unwrap();
        for _ in 0..2 {
            fake.units.restore(name, &before).await.unwrap();
            assert_eq!(fake.units.state(name).await.unwrap(), before);
        }
        fake.units.disable(name, &before).await.unwrap();
        fake.units.restore(name, &before).await.unwrap();
        assert_eq!(fake.units.state(name).await.unwrap(), before);
    }
    // One that systemd started again and again does so again.
    let looping = Unit {
        active: "activating",
        start: Start::EndsAtOnce,
        ..Unit::new("enabled", "")
    };
    let fake = Fake::new(&[(name, looping)]);
    let before = fake.units.state(name).await.unwrap();
    fake.units.disable(name, &before).await.unwrap();
    fake.units.restore(name, &before).await.unwrap();
    assert_eq!(fake.units.state(name).await.unwrap(), before);
    // One that a package brought is left as it can be removed; one that has gone is missed.
    let absent = UnitState {
        enablement: Enablement::Absent,
        active: false,
        linked: None,
        links: Vec::new(),
    };
    fake.units.restore(name, &absent).await.unwrap();
    assert_eq!(fake.state(name).await, "disabled, inactive");
    fake.units.restore("gone.service", &absent).await.unwrap();
    let refused = fake
        .units
        .restore("gone.service", &before)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("install its package again"),
        "{refused}"
    );
    fake.change(name, |unit| unit.file_state = "disabled");
    let masked = UnitState {
        enablement: Enablement::Masked,
        active: false,
        linked: None,
        links: Vec::new(),
    };
    fake.units.restore(name, &masked).await.unwrap();
    assert_eq!(fake.state(name).await, "masked, inactive");
}

#[tokio::test]
async fn a_bus_that_is_not_there_is_named() {
    let systemd = Systemd::at(
        "unix:path=/nonexistent/bus".to_string(),
        Duration::from_secs(2),
    );
    let units = Units {
        systemd,
        directory: "/nonexistent".into(),
    };
    let refused = units.stop("a.service").await.unwrap_err().to_string();
    assert!(refused.contains("package dbus"), "{refused}");
}
