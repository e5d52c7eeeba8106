//! A stand-in for systemd on a node that has none: a message bus of one service, which makes the
//! cgroups of units as systemd would and writes down what it was asked.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use zbus::connection::Builder;
use zbus::message::Type as MessageType;
use zbus::{Connection, Guid, Message, ObjectPath, OwnedVariant};

use crate::{Scratch, cgroup};

/// Properties as they come.
type Sent = Vec<(String, OwnedVariant)>;

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const OBJECT: &str = "/org/freedesktop/systemd1";

/// The properties of a unit, as D-Bus's tools write their values.
pub type Properties = BTreeMap<String, String>;

/// The stand-in. It ends when it is dropped; the cgroups of units that are left go with the scratch
/// directory, as those do that a killed test leaves.
#[derive(Debug)]
pub struct FakeSystemd {
    units: Arc<Units>,
    socket: PathBuf,
    serving: JoinHandle<()>,
}

#[derive(Debug)]
struct Units {
    /// Where the cgroups are made: v2, or v1's `name=systemd`.
    hierarchy: PathBuf,
    known: Mutex<BTreeMap<String, Unit>>,
}

#[derive(Debug)]
struct Unit {
    directory: PathBuf,
    properties: Properties,
}

impl FakeSystemd {
    /// Listens in the scratch directory.
    ///
    /// # Errors
    /// When it cannot, or when there is no cgroup hierarchy that is systemd's.
    pub fn start(scratch: &Scratch) -> Result<Self> {
        let hierarchy = cgroup::of_systemd().context("no cgroup hierarchy is systemd's")?;
        let socket = scratch.join("systemd.sock");
        let listener = UnixListener::bind(&socket)?;
        let units = Arc::new(Units {
            hierarchy,
            known: Mutex::default(),
        });
        let served = Arc::clone(&units);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(Arc::clone(&served), stream));
            }
        });
        Ok(Self {
            units,
            socket,
            serving,
        })
    }

    /// What `DBUS_SYSTEM_BUS_ADDRESS` has to be for it to be found.
    pub fn address(&self) -> String {
        format!("unix:path={}", self.socket.display())
    }

    /// The units there are.
    pub fn units(&self) -> Vec<String> {
        self.units.known().keys().cloned().collect()
    }

    /// The properties of a unit, with what they were changed to; none when there is no such unit.
    pub fn properties(&self, unit: &str) -> Option<Properties> {
        let known = self.units.known();
        known.get(unit).map(|unit| unit.properties.clone())
    }

    /// Removes a slice from every hierarchy, as a kubelet does with a pod's once the pod is gone.
    ///
    /// # Errors
    /// When something is left in it.
    pub fn remove(&self, slice: &str) -> Result<()> {
        self.units.stop(slice);
        let directory = self.units.directory(slice, &Properties::new());
        let path = directory.strip_prefix(&self.units.hierarchy)?;
        for hierarchy in cgroup::hierarchies() {
            match fs::remove_dir(hierarchy.join(path)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error)
                        .with_context(|| format!("{slice} in {}", hierarchy.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for FakeSystemd {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Units {
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Unit>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `a-b.slice` is in `a.slice`; a scope is in the slice that it names.
    fn directory(&self, unit: &str, properties: &Properties) -> PathBuf {
        let mut directory = self.hierarchy.clone();
        let slice = properties
            .get("Slice")
            .map_or(unit, |slice| slice.trim_matches('"'));
        let stem = slice.trim_end_matches(".slice");
        for (end, _) in stem.match_indices('-').chain([(stem.len(), "")]) {
            directory.push(format!("{}.slice", &stem[..end]));
        }
        if slice != unit {
            directory.push(unit);
        }
        directory
    }

    fn start(&self, unit: &str, properties: Properties, pids: &[u32]) -> Result<bool> {
        let directory = self.directory(unit, &properties);
        if self.known().contains_key(unit) {
            return Ok(false);
        }
        fs::create_dir_all(&directory)?;
        for pid in pids {
            fs::write(directory.join("cgroup.procs"), pid.to_string())?;
        }
        let unit = (
            unit.to_owned(),
            Unit {
                directory,
                properties,
            },
        );
        self.known().extend([unit]);
        Ok(true)
    }

    /// Whether there was such a unit.
    fn stop(&self, unit: &str) -> bool {
        let Some(Unit { directory, .. }) = self.known().remove(unit) else {
            return false;
        };
        let _ = fs::remove_dir(directory);
        true
    }
}

async fn serve(units: Arc<Units>, stream: UnixStream) {
    let answered = async {
        let builder = Builder::unix_stream(stream.into_std()?)
            .server(Guid::generate())
            .p2p();
        let mut messages = builder.build_message_stream().await?;
        let connection = Connection::from(&messages);
        let mut job = 0;
        while let Some(message) = messages.next().await {
            let message = message?;
            if message.message_type() == MessageType::MethodCall {
                job += 1;
                answer(&units, &connection, &message, job).await?;
            }
        }
        anyhow::Ok(())
    };
    // The daemon was killed, or the test is over.
    let _ = answered.await;
}

async fn answer(
    units: &Units,
    connection: &Connection,
    message: &Message,
    number: u32,
) -> Result<()> {
    let header = message.header();
    let method = header.member().map(ToString::to_string).unwrap_or_default();
    let job = ObjectPath::try_from(format!("{OBJECT}/job/{number}"))?;
    let unit = match method.as_str() {
        "Hello" => return Ok(connection.reply(&header, &":1.1").await?),
        "StartTransientUnit" => {
            let body = message.body();
            let (unit, _, properties, _): (String, String, Sent, Vec<(String, Sent)>) =
                body.deserialize()?;
            let mut pids = Vec::new();
            let mut written = Properties::new();
            for (name, value) in properties {
                written.insert(name.clone(), value.to_string());
                if name == "PIDs" {
                    pids = value.try_into()?;
                }
            }
            if !units.start(&unit, written, &pids)? {
                let name = "org.freedesktop.systemd1.UnitExists";
                return Ok(connection.reply_error(&header, name, &"it exists").await?);
            }
            unit
        }
        "StopUnit" => {
            let body = message.body();
            let (unit, _): (String, String) = body.deserialize()?;
            if !units.stop(&unit) {
                let name = "org.freedesktop.systemd1.NoSuchUnit";
                return Ok(connection.reply_error(&header, name, &"not loaded").await?);
            }
            unit
        }
        "SetUnitProperties" => {
            let body = message.body();
            let (unit, _, properties): (String, bool, Sent) = body.deserialize()?;
            if let Some(unit) = units.known().get_mut(&unit) {
                let changed = properties.into_iter();
                unit.properties
                    .extend(changed.map(|(name, value)| (name, value.to_string())));
            }
            return Ok(connection.reply(&header, &()).await?);
        }
        _ => return Ok(connection.reply(&header, &()).await?),
    };
    connection.reply(&header, &&job).await?;
    let ended = (number, &job, unit, "done");
    let nobody = None::<zbus::names::BusName<'_>>;
    connection
        .emit_signal(nobody, OBJECT, MANAGER, "JobRemoved", &ended)
        .await?;
    Ok(())
}
