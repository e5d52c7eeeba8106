//! What the service manager is told of the daemon, and what it has asked for: sd_notify(3).
//!
//! Without a service manager, or under one that wants to hear nothing, everything here is silent.

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use slipway_cri_api::v1::VersionRequest;
use slipway_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::client;

/// How long a daemon that is up may take to answer itself for the first time.
const FIRST_ANSWER: Duration = Duration::from_mins(1);

/// The service manager's variables; whoever inherited them could speak in the daemon's name.
const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// What can be said, in the words of sd_notify(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State<'a> {
    /// One line for people.
    Status(&'a str),
    /// CRI is answered.
    Ready,
    /// The configuration is being read again; `Ready` ends this.
    Reloading,
    /// CRI is still answered.
    Alive,
    /// The daemon is ending, and is not watched any more.
    Stopping,
}

impl State<'_> {
    fn message(self) -> String {
        match self {
            Self::Status(text) => format!("STATUS={}", text.replace('\n', " ")),
            Self::Ready => "READY=1".to_owned(),
            Self::Reloading => {
                let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
                let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
                format!("RELOADING=1\nMONOTONIC_USEC={microseconds}")
            }
            Self::Alive => "WATCHDOG=1".to_owned(),
            // The calls that are under way may take longer than a watchdog waits; how long the end
            // may take is the unit's TimeoutStopSec.
            Self::Stopping => "STOPPING=1\nWATCHDOG_USEC=0".to_owned(),
        }
    }
}

/// The service manager that started the daemon, if it wants to hear of it.
#[derive(Debug, Default)]
pub(crate) struct ServiceManager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Takes what the service manager has put into the environment out of it, so that no plugin,
    /// runtime or shim inherits it. A socket that cannot be used is an error: the service manager
    /// would wait in vain.
    ///
    /// # Safety
    ///
    /// No other thread may have been started yet.
    #[expect(unsafe_code, reason = "the environment can be changed in no other way")]
    pub(crate) unsafe fn from_environment() -> anyhow::Result<Self> {
        let [socket, period, pid] = VARIABLES.map(|name| {
            let value = std::env::var_os(name).filter(|value| !value.is_empty());
            // SAFETY: the caller says that nobody else reads or changes the environment.
            unsafe { std::env::remove_var(name) };
            value
        });
        Ok(Self {
            socket: socket.as_deref().map(connect).transpose()?,
            watchdog: watchdog(period, pid)?,
        })
    }

    /// Says something; one that cannot be told is not waited for.
    pub(crate) fn tell(&self, state: State<'_>) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(state.message().as_bytes())
        {
            tracing::warn!(%error, ?state, "the service manager cannot be told");
        }
    }

    /// Says that the daemon is ready once CRI is answered on `socket`, and that it is alive as long
    /// as it is: each time over a connection of its own, made by the runtime that serves all others.
    ///
    /// # Errors
    ///
    /// When there is no first answer. Otherwise this does not end.
    pub(crate) async fn attend(&self, socket: &Path) -> anyhow::Result<()> {
        if self.socket.is_some() {
            timeout(FIRST_ANSWER, ask(socket))
                .await
                .map_err(anyhow::Error::from)
                .flatten()
                .context("the daemon does not answer on its own socket")?;
            let status = format!("Answers CRI on {}", socket.display());
            self.tell(State::Status(&status));
            self.tell(State::Ready);
        }
        let Some(period) = self.watchdog else {
            return std::future::pending().await;
        };
        // A slow answer still comes in time: asked for after a third, waited for for another one.
        let mut ticks = interval(period / 3);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let answer = timeout(period / 3, ask(socket)).await;
            match answer.map_err(anyhow::Error::from).flatten() {
                Ok(()) => self.tell(State::Alive),
                Err(error) => tracing::error!(
                    error = format!("{error:#}"),
                    "the daemon does not answer on its own socket; if this goes on, the service \
                     manager starts it again"
                ),
            }
        }
    }
}

/// Asks for CRI's version.
async fn ask(socket: &Path) -> anyhow::Result<()> {
    let channel = client::open(socket).await?;
    let request = VersionRequest::default();
    RuntimeServiceClient::new(channel).version(request).await?;
    Ok(())
}

/// The socket that `NOTIFY_SOCKET` names: a path, or a name in the abstract namespace after `@`.
fn connect(name: &OsStr) -> anyhow::Result<UnixDatagram> {
    let bytes = name.as_bytes();
    let address = match bytes.first() {
        Some(b'/') => SocketAddr::from_pathname(Path::new(name)),
        Some(b'@') => SocketAddr::from_abstract_name(&bytes[1..]),
        _ => bail!("NOTIFY_SOCKET={} is no Unix socket", name.display()),
    };
    let connected = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // A manager that reads nothing must not hold the daemon up.
        socket.set_nonblocking(true)?;
        Ok(socket)
    });
    connected.with_context(|| format!("NOTIFY_SOCKET={} cannot be reached", name.display()))
}

/// Within which time the service manager wants to hear that the daemon lives, if it asks this
/// process: sd_watchdog_enabled(3).
fn watchdog(period: Option<OsString>, pid: Option<OsString>) -> anyhow::Result<Option<Duration>> {
    fn number(name: &str, value: &OsString) -> anyhow::Result<u64> {
        let text = value.to_str().unwrap_or_default();
        text.parse()
            .with_context(|| format!("{name}={} is no number", value.display()))
    }
    let Some(period) = period else {
        return Ok(None);
    };
    let microseconds = number("WATCHDOG_USEC", &period)?;
    let asked = match pid {
        None => true,
        Some(pid) => number("WATCHDOG_PID", &pid)? == u64::from(std::process::id()),
    };
    let period = Duration::from_micros(microseconds);
    Ok(Some(period).filter(|period| asked && *period >= Duration::from_millis(3)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let size = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..size]).into_owned()
    }

    #[test]
    fn messages_reach_a_socket_by_its_path_and_by_its_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("slipway-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&abstract_address).unwrap();
        for (socket, variable) in [
            (by_path, path.into_os_string()),
            (by_name, format!("@{name}").into()),
        ] {
            let manager = ServiceManager {
                socket: Some(connect(&variable).unwrap()),
                watchdog: None,
            };
            manager.tell(State::Status("two\nlines"));
            assert_eq!(received(&socket), "STATUS=two lines");
            manager.tell(State::Stopping);
            assert_eq!(received(&socket), "STOPPING=1\nWATCHDOG_USEC=0");
        }
    }

    #[test]
    fn a_socket_that_is_none_or_not_there_is_named() {
        for name in ["vsock:2:1234", "relative", "/nonexistent/notify"] {
            let error = format!("{:#}", connect(name.as_ref()).unwrap_err());
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names() {
        let own = std::process::id().to_string();
        let asked = |period: Option<&str>, pid: Option<&str>| {
            watchdog(period.map(Into::into), pid.map(Into::into))
        };
        let second = Some(Duration::from_secs(1));
        assert_eq!(asked(Some("1000000"), None).unwrap(), second);
        assert_eq!(asked(Some("1000000"), Some(&own)).unwrap(), second);
        assert_eq!(asked(Some("1000000"), Some("1")).unwrap(), None);
        assert_eq!(asked(Some("0"), None).unwrap(), None);
        assert_eq!(asked(None, Some(&own)).unwrap(), None);
        assert!(asked(Some("soon"), None).is_err());
    }
}
