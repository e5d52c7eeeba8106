//! systemd's manager, asked over D-Bus (org.freedesktop.systemd1(5)): calls, properties of units, and
//! jobs that are waited for. What is asked for is its users' affair.
#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use zbus::connection::Builder;
use zbus::message::Type as MessageType;
use zbus::{
    Connection, DBusError as _, DynamicType, MatchRule, MessageStream, OwnedObjectPath,
    OwnedVariant, Type,
};

const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// The connection, made with the first call and again when it has broken.
#[derive(Debug)]
pub struct Systemd {
    /// The bus, where it is not the node's.
    address: Option<String>,
    patience: Duration,
    connection: Mutex<Option<Connection>>,
}

/// Why systemd did not do something.
#[derive(Debug)]
pub enum Refusal {
    /// By the error's name on D-Bus.
    Named {
        /// As `org.freedesktop.systemd1.NoSuchUnit`.
        name: String,
        /// What systemd says about it.
        message: String,
    },
    /// The job has ended otherwise than `done` (`JobRemoved`).
    Job(String),
    /// The job has not ended in time.
    Overdue(Duration),
    /// The connection was closed while a job was waited for.
    Gone,
    /// It cannot be talked to, or answers what is not understood.
    Unreachable(zbus::Error),
}

impl Systemd {
    /// The node's own, through the message bus; no call and no job is waited for longer than
    /// `patience`. On the socket on which systemd itself listens for systemctl it signs its messages
    /// with a name that the D-Bus specification does not allow there, and zbus refuses.
    pub fn new(patience: Duration) -> Self {
        Self {
            address: None,
            patience,
            connection: Mutex::default(),
        }
    }

    /// On another bus, by its D-Bus address.
    pub fn at(address: String, patience: Duration) -> Self {
        Self {
            address: Some(address),
            patience,
            connection: Mutex::default(),
        }
    }

    /// Calls a method of the manager.
    ///
    /// # Errors
    ///
    /// What systemd has against it, or why it cannot be asked.
    pub async fn call<B, R>(&self, method: &'static str, body: &B) -> Result<R, Refusal>
    where
        B: Serialize + DynamicType,
        R: DeserializeOwned + Type,
    {
        let connection = self.connection().await?;
        call(&connection, OBJECT, MANAGER, method, body).await
    }

    /// A property of a unit's object; the kind of unit is the interface's last part.
    ///
    /// # Errors
    ///
    /// As [`Self::call`].
    pub async fn property<T>(
        &self,
        unit: &OwnedObjectPath,
        kind: &str,
        name: &str,
    ) -> Result<T, Refusal>
    where
        T: TryFrom<OwnedVariant>,
        T::Error: Into<zbus::Error>,
    {
        let connection = self.connection().await?;
        let interface = format!("{SERVICE}.{kind}");
        let value: OwnedVariant = call(
            &connection,
            unit.as_str(),
            PROPERTIES,
            "Get",
            &(interface, name),
        )
        .await?;
        T::try_from(value).map_err(|error| Refusal::Unreachable(error.into()))
    }

    /// Has something done that takes a job, and waits for the job's end.
    ///
    /// # Errors
    ///
    /// As [`Self::call`]; and a job that ends otherwise than `done`, or not in time.
    pub async fn job<B>(&self, method: &'static str, body: &B) -> Result<(), Refusal>
    where
        B: Serialize + DynamicType,
    {
        let connection = self.connection().await?;
        let rule = MatchRule::builder()
            .msg_type(MessageType::Signal)
            .interface(MANAGER)
            .member("JobRemoved")
            .build()?;
        // Listened to before the call, so that the end of a quick job is not missed.
        let mut ended = MessageStream::for_match_rule(rule, &connection, None).await?;
        let job: OwnedObjectPath = call(&connection, OBJECT, MANAGER, method, body).await?;
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
        match tokio::time::timeout(self.patience, wait).await {
            Ok(Ok(result)) if result == "done" => Ok(()),
            Ok(Ok(result)) => Err(Refusal::Job(result)),
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => Err(Refusal::Overdue(self.patience)),
        }
    }

    async fn connection(&self) -> Result<Connection, Refusal> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref() {
            // systemd closes it when it executes itself anew, and the bus when it is restarted. A
            // second subscription is refused, which is an answer all the same.
            match call(connection, OBJECT, MANAGER, "Subscribe", &()).await {
                Ok(()) => return Ok(connection.clone()),
                Err(Refusal::Named { name, .. }) if name.ends_with(".AlreadySubscribed") => {
                    return Ok(connection.clone());
                }
                Err(_) => {}
            }
        }
        let builder = match &self.address {
            Some(address) => Builder::address(address.as_str()),
            None => Builder::system(),
        };
        let connection = builder.method_timeout(self.patience).build();
        let connection = tokio::time::timeout(self.patience, connection)
            .await
            .map_err(|_| Refusal::Overdue(self.patience))??;
        call::<_, ()>(&connection, OBJECT, MANAGER, "Subscribe", &()).await?;
        *kept = Some(connection.clone());
        Ok(connection)
    }
}

async fn call<B, R>(
    connection: &Connection,
    object: &str,
    interface: &str,
    method: &'static str,
    body: &B,
) -> Result<R, Refusal>
where
    B: Serialize + DynamicType,
    R: DeserializeOwned + Type,
{
    let answer = connection
        .call_method(Some(SERVICE), object, Some(interface), method, body)
        .await?;
    Ok(answer.body().deserialize()?)
}

impl Refusal {
    /// Whether it says that there is no such unit.
    pub fn is_absence(&self) -> bool {
        let Self::Named { name, .. } = self else {
            return false;
        };
        [".NoSuchUnit", ".FileNotFound", ".LoadFailed"]
            .iter()
            .any(|end| name.ends_with(end))
    }
}

impl From<zbus::Error> for Refusal {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, message, _) => Self::Named {
                name: name.to_string(),
                message: message.unwrap_or_default(),
            },
            // So are those that every service may have, of a file that is not there for instance.
            zbus::Error::FDO(error) => Self::Named {
                name: error.name().to_string(),
                message: error.description().unwrap_or_default().to_string(),
            },
            other => Self::Unreachable(other),
        }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named { name, message } => write!(out, "systemd says: {message} ({name})"),
            Self::Job(result) => write!(out, "systemd's job ended with {result:?}"),
            Self::Overdue(patience) => write!(
                out,
                "systemd has not finished after {} s (systemctl list-jobs shows what it waits for)",
                patience.as_secs()
            ),
            Self::Gone => out.write_str(
                "the message bus closed the connection while systemd was at it; look at systemctl \
                 status dbus, then go on",
            ),
            Self::Unreachable(error) => write!(
                out,
                "systemd cannot be reached over the message bus: {error}; run it as root on a node \
                 whose init is systemd, with the package dbus"
            ),
        }
    }
}
