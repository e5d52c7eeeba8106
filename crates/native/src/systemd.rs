//! systemd, asked over D-Bus for the units that containers' cgroups belong to
//! (org.freedesktop.systemd1(5)).

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde::Serialize;
use slipway_cgroup::systemd::{Property, Value};
use slipway_engine::{Error, Result};
use tokio::sync::Mutex;
use zbus::connection::Builder;
use zbus::message::Type as MessageType;
use zbus::{Connection, DynamicType, MatchRule, Message, MessageStream, OwnedObjectPath, Variant};

const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// How long systemd may take for a call or a job.
const DEADLINE: Duration = Duration::from_secs(30);

/// Whether systemd is this node's init (sd_booted(3)).
pub(crate) fn is_init() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A property as it is sent.
type Sent = (&'static str, Variant<'static>);

/// The connection, made with the first call and again when it has broken.
#[derive(Debug, Default)]
pub(crate) struct Systemd {
    connection: Mutex<Option<Connection>>,
}

impl Systemd {
    /// Makes a scope around the process `pid` in the slice `slice`, and waits until it is there.
    pub(crate) async fn start_scope(
        &self,
        unit: &str,
        slice: &str,
        pid: u32,
        limits: &[Property],
    ) -> Result<()> {
        let mut properties = vec![
            ("Description", text(&format!("slipway container {unit}"))),
            ("Slice", text(slice)),
            // What is in it is Slipway's alone; and a process that is killed for want of memory
            // does not end the rest.
            ("Delegate", Variant::from(true)),
            ("DefaultDependencies", Variant::from(false)),
            ("CollectMode", text("inactive-or-failed")),
            ("PIDs", Variant::from(vec![pid])),
        ];
        properties.extend(accounting());
        self.start(unit, properties, limits).await
    }

    /// Makes a slice, and those that it is in; one that is there is fine.
    pub(crate) async fn start_slice(&self, unit: &str, limits: &[Property]) -> Result<()> {
        let mut properties = vec![("Description", text(&format!("slipway pod {unit}")))];
        properties.extend(accounting());
        self.start(unit, properties, limits).await
    }

    async fn start(
        &self,
        unit: &str,
        mut properties: Vec<Sent>,
        limits: &[Property],
    ) -> Result<()> {
        properties.extend(limits.iter().map(sent));
        let auxiliary: Vec<(&str, Vec<Sent>)> = Vec::new();
        let body = (unit, "replace", properties, auxiliary);
        match self.job("StartTransientUnit", unit, &body).await {
            Err(Refusal::Named { name, .. }) if name.ends_with(".UnitExists") => Ok(()),
            other => other.map_err(|refusal| refusal.of("start", unit)),
        }
    }

    /// Ends a unit, with what is left in it; one that is not there is fine.
    pub(crate) async fn stop(&self, unit: &str) -> Result<()> {
        match self.job("StopUnit", unit, &(unit, "replace")).await {
            Err(Refusal::Named { name, .. }) if name.ends_with(".NoSuchUnit") => Ok(()),
            other => other.map_err(|refusal| refusal.of("stop", unit)),
        }
    }

    /// Changes limits of a unit, until the next boot.
    pub(crate) async fn set(&self, unit: &str, limits: &[Property]) -> Result<()> {
        if limits.is_empty() {
            return Ok(());
        }
        let properties: Vec<Sent> = limits.iter().map(sent).collect();
        let connection = self
            .connection()
            .await
            .map_err(|refusal| refusal.of("change", unit))?;
        call(&connection, "SetUnitProperties", &(unit, true, properties))
            .await
            .map_err(|refusal| refusal.of("change", unit))?;
        Ok(())
    }

    /// Has something done that takes a job, and waits for the job's end.
    async fn job<B: Serialize + DynamicType>(
        &self,
        method: &'static str,
        unit: &str,
        body: &B,
    ) -> std::result::Result<(), Refusal> {
        let connection = self.connection().await?;
        let rule = MatchRule::builder()
            .msg_type(MessageType::Signal)
            .interface(MANAGER)
            .member("JobRemoved")
            .build()?;
        // Listened to before the call, so that the end of a quick job is not missed.
        let mut ended = MessageStream::for_match_rule(rule, &connection, None).await?;
        let job: OwnedObjectPath = call(&connection, method, body)
            .await?
            .body()
            .deserialize()?;
        let wait = async {
            while let Some(message) = ended.next().await {
                let message = message?;
                let body = message.body();
                let (_, path, _, result): (u32, OwnedObjectPath, String, String) =
                    body.deserialize()?;
                if path == job {
                    return Ok(result);
                }
            }
            Err(Refusal::Gone)
        };
        match tokio::time::timeout(DEADLINE, wait).await {
            Ok(Ok(result)) if result == "done" => Ok(()),
            Ok(Ok(result)) => Err(Refusal::Job(result)),
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => {
                tracing::warn!(unit, method, "systemd does not finish a job");
                Err(Refusal::Overdue)
            }
        }
    }

    async fn connection(&self) -> std::result::Result<Connection, Refusal> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref() {
            // systemd closes it when it executes itself anew, and the bus when it is restarted. A
            // second subscription is refused, which is an answer all the same.
            match call(connection, "Subscribe", &()).await {
                Ok(_) | Err(Refusal::Named { .. }) => return Ok(connection.clone()),
                Err(_) => {}
            }
        }
        let connection = connect().await?;
        let _ = call(&connection, "Subscribe", &()).await;
        *kept = Some(connection.clone());
        Ok(connection)
    }
}

/// Through the message bus. On the socket on which systemd itself listens for systemctl it signs its
/// messages with a name that the D-Bus specification does not allow there, and zbus refuses.
async fn connect() -> zbus::Result<Connection> {
    Builder::system().method_timeout(DEADLINE).build().await
}

async fn call<B: Serialize + DynamicType>(
    connection: &Connection,
    method: &'static str,
    body: &B,
) -> std::result::Result<Message, Refusal> {
    let answer = connection.call_method(Some(SERVICE), OBJECT, Some(MANAGER), method, body);
    Ok(answer.await?)
}

fn text(value: &str) -> Variant<'static> {
    Variant::from(value.to_owned())
}

fn accounting() -> impl Iterator<Item = Sent> {
    let each = ["CPUAccounting", "MemoryAccounting", "TasksAccounting"];
    each.into_iter().map(|name| (name, Variant::from(true)))
}

fn sent(property: &Property) -> Sent {
    let value = match &property.value {
        Value::Number(number) => Variant::from(*number),
        Value::Flag(flag) => Variant::from(*flag),
        Value::Text(value) => text(value),
        Value::Bytes(bytes) => Variant::from(bytes.clone()),
        Value::Pairs(pairs) => Variant::from(pairs.clone()),
    };
    (property.name, value)
}

/// Why systemd did not do something.
#[derive(Debug)]
enum Refusal {
    /// By the error's name on D-Bus.
    Named { name: String, message: String },
    /// The job has ended otherwise (`org.freedesktop.systemd1(5)`, `JobRemoved`).
    Job(String),
    /// The job has not ended in time.
    Overdue,
    /// The connection has broken.
    Gone,
    /// It cannot be talked to.
    Unreachable(zbus::Error),
}

impl From<zbus::Error> for Refusal {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, message, _) => Self::Named {
                name: name.to_string(),
                message: message.unwrap_or_default(),
            },
            other => Self::Unreachable(other),
        }
    }
}

impl Refusal {
    fn of(self, doing: &str, unit: &str) -> Error {
        let reason = match self {
            Self::Named { name, message } => format!("{message} ({name})"),
            Self::Job(result) => {
                format!("its job ended with {result:?}; see `journalctl -u {unit}`")
            }
            Self::Overdue => format!("its job has not ended after {} s", DEADLINE.as_secs()),
            Self::Gone => "the connection was closed".to_owned(),
            Self::Unreachable(error) => format!(
                "systemd cannot be reached over D-Bus: {error}; on a node without systemd, set \
                 runtime.cgroup_driver = \"cgroupfs\""
            ),
        };
        Error::internal(format!("systemd did not {doing} the unit {unit}: {reason}"))
    }
}
