//! The daemon that does the work: where it is, whether it answers, and how long it may take.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::models::{SystemInfoCgroupDriverEnum, SystemInfoCgroupVersionEnum};
use bollard::{ClientVersion, Docker};
use rustix::thread::CapabilitySet;
use serde::de::DeserializeOwned;
use slipway_engine::{Error, Kind, Result};
use tokio::sync::watch;

use crate::config::Config;
use crate::failure;
use crate::wire::{self, Failure, Raw};

/// The oldest version of the interface that has what is needed: that of Docker 20.10.
const OLDEST: (usize, usize) = (1, 41);

/// dockerd, there or not.
pub(crate) struct Dockerd {
    socket: PathBuf,
    /// As errors name it.
    endpoint: String,
    timeout: Duration,
    link: watch::Sender<Link>,
    /// Whether it is known what it has, or had.
    is_known: AtomicBool,
}

/// Whether dockerd can be asked.
#[derive(Clone)]
pub(crate) enum Link {
    /// It cannot, and why.
    Down(Error),
    /// It can, and what is known of its containers is up to date.
    Up(Up),
}

/// A dockerd that answers.
#[derive(Clone)]
pub(crate) struct Up {
    pub(crate) docker: Docker,
    pub(crate) facts: Arc<Facts>,
}

/// What a dockerd says of itself when it is connected to.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The program's version.
    pub(crate) version: String,
    /// The version of the interface that is spoken with it.
    pub(crate) api: (usize, usize),
    pub(crate) systemd_cgroups: bool,
    pub(crate) cgroups_v1: bool,
    pub(crate) root: PathBuf,
    pub(crate) logging_driver: String,
    pub(crate) architecture: String,
    pub(crate) runtimes: Vec<String>,
    pub(crate) live_restore: bool,
    pub(crate) experiments: Experiments,
    pub(crate) labels: Labels,
    /// The lowest oom_score_adj that it can give to a container.
    pub(crate) lowest_oom_score: i64,
    /// The capabilities that it has itself; all that there are where that is not known.
    pub(crate) capabilities: CapabilitySet,
}

/// What dockerd does of what is experimental (`experimental` in daemon.json).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Experiments {
    Done,
    Refused,
}

/// Whether dockerd gives SELinux labels to containers (`selinux-enabled` in daemon.json).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Labels {
    Given,
    None,
}

impl Labels {
    fn of(security: &[String]) -> Self {
        let mut parts = security.iter().flat_map(|option| option.split(','));
        if parts.any(|part| part == "name=selinux") {
            Self::Given
        } else {
            Self::None
        }
    }
}

#[cfg(test)]
impl Facts {
    /// What the oldest Docker says of itself.
    pub(crate) fn of_tests() -> Self {
        Self {
            version: "20.10.24".to_owned(),
            api: OLDEST,
            systemd_cgroups: false,
            cgroups_v1: true,
            root: PathBuf::from("/var/lib/docker"),
            logging_driver: "json-file".to_owned(),
            architecture: "x86_64".to_owned(),
            runtimes: vec!["runc".to_owned()],
            live_restore: false,
            experiments: Experiments::Refused,
            labels: Labels::None,
            lowest_oom_score: 0,
            capabilities: CapabilitySet::all(),
        }
    }
}

impl Dockerd {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let socket = config.socket().ok_or_else(|| {
            Error::invalid(format!(
                "engine.docker.endpoint {:?} is not unix:// and an absolute path",
                config.endpoint
            ))
        })?;
        let waiting = Error::new(
            Kind::Unavailable,
            format!("dockerd at {} is being connected to", config.endpoint),
        );
        Ok(Self {
            socket,
            endpoint: config.endpoint.clone(),
            timeout: config.timeout(),
            link: watch::Sender::new(Link::Down(waiting)),
            is_known: AtomicBool::new(false),
        })
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The dockerd that answers.
    ///
    /// # Errors
    ///
    /// [`Kind::Unavailable`] while it does not.
    pub(crate) fn up(&self) -> Result<Up> {
        match &*self.link.borrow() {
            Link::Up(up) => Ok(up.clone()),
            Link::Down(error) => Err(error.clone()),
        }
    }

    /// Whether it is known what dockerd has, or was when it could last be asked, by this daemon or one
    /// before.
    ///
    /// # Errors
    ///
    /// [`Kind::Unavailable`] where it could not be asked yet.
    pub(crate) fn is_known(&self) -> Result<()> {
        if self.is_known.load(Ordering::Acquire) {
            return Ok(());
        }
        self.up().map(drop)
    }

    /// Waits until it cannot be asked.
    pub(crate) async fn lost(&self) {
        let mut link = self.link.subscribe();
        // The sender is this one's own.
        let _ = link.wait_for(|link| matches!(link, Link::Down(_))).await;
    }

    pub(crate) fn set(&self, link: Link) {
        let up = matches!(link, Link::Up(_));
        self.link.send_replace(link);
        self.is_known.fetch_or(up, Ordering::Release);
    }

    /// From now on it is known what dockerd had when a daemon before this one could ask it.
    pub(crate) fn remember(&self) {
        self.is_known.store(true, Ordering::Release);
    }

    /// Waits until it is up.
    pub(crate) async fn reached(&self) {
        let mut link = self.link.subscribe();
        // The sender is here.
        let _ = link.wait_for(|link| matches!(link, Link::Up(_))).await;
    }

    /// Has dockerd do something, within the time that a request may take.
    ///
    /// # Errors
    ///
    /// [`Kind::Unavailable`] where dockerd is not there, [`Kind::DeadlineExceeded`] where it does
    /// not answer, and what it refuses as [`failure::of_docker`] has it.
    pub(crate) async fn call<T, F>(&self, what: &str, ask: impl FnOnce(Docker) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, bollard::errors::Error>>,
    {
        self.call_within(self.timeout, what, ask).await
    }

    /// As [`Dockerd::call`], for a request that takes `longer` by itself.
    pub(crate) async fn call_longer<T, F>(
        &self,
        longer: Duration,
        what: &str,
        ask: impl FnOnce(Docker) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, bollard::errors::Error>>,
    {
        let limit = self.timeout.saturating_add(longer);
        self.call_within(limit, what, ask).await
    }

    async fn call_within<T, F>(
        &self,
        limit: Duration,
        what: &str,
        ask: impl FnOnce(Docker) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, bollard::errors::Error>>,
    {
        let docker = self.up()?.docker;
        self.answer(limit, what, ask(docker)).await
    }

    /// As [`Dockerd::call`], with a dockerd that is only just being connected to.
    pub(crate) async fn answer<T>(
        &self,
        limit: Duration,
        what: &str,
        asked: impl Future<Output = std::result::Result<T, bollard::errors::Error>>,
    ) -> Result<T> {
        match tokio::time::timeout(limit, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(failure::of_docker(what, &self.endpoint, &error)),
            Err(_) => Err(failure::late(what, &self.endpoint)),
        }
    }

    /// Posts a request whose connection becomes a raw stream.
    pub(crate) async fn upgrade(
        &self,
        what: &str,
        path: &str,
        body: Option<String>,
    ) -> Result<Raw> {
        let path = self.versioned(path)?;
        self.in_time(what, wire::upgrade(&self.socket, &path, body))
            .await
    }

    /// Asks for something that bollard reads in one version of the interface only.
    pub(crate) async fn get<T: DeserializeOwned>(&self, what: &str, path: &str) -> Result<T> {
        let path = self.versioned(path)?;
        self.in_time(what, wire::get(&self.socket, &path)).await
    }

    /// Posts what needs no body.
    pub(crate) async fn post(&self, what: &str, path: &str) -> Result<()> {
        let path = self.versioned(path)?;
        self.in_time(what, wire::post(&self.socket, &path)).await
    }

    fn versioned(&self, path: &str) -> Result<String> {
        let (major, minor) = self.up()?.facts.api;
        Ok(format!("/v{major}.{minor}{path}"))
    }

    async fn in_time<T>(
        &self,
        what: &str,
        asked: impl Future<Output = std::result::Result<T, Failure>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.of_wire(what, error)),
            Err(_) => Err(failure::late(what, &self.endpoint)),
        }
    }

    fn of_wire(&self, what: &str, failure: Failure) -> Error {
        let error = match failure {
            Failure::Connection(err) => bollard::errors::Error::IOError { err },
            Failure::Refused(status, message) => {
                bollard::errors::Error::DockerResponseServerError {
                    status_code: status.as_u16(),
                    message,
                }
            }
        };
        failure::of_docker(what, &self.endpoint, &error)
    }

    /// Connects: agrees on a version and asks what dockerd is like.
    pub(crate) async fn connect(&self) -> Result<Up> {
        let what = "connect";
        let version = self.in_time(what, wire::version(&self.socket)).await?;
        let api = agree(&version.api_version).ok_or_else(|| {
            Error::precondition(format!(
                "dockerd {} at {} speaks version {:?} of the Docker Engine API, and {}.{} is the \
                 oldest that can be worked with; Docker 20.10 or a later one is needed",
                version.version, self.endpoint, version.api_version, OLDEST.0, OLDEST.1
            ))
        })?;
        let docker = self.client(api)?;
        let info = self
            .answer(self.timeout, what, async { docker.info().await })
            .await?;
        let (capabilities, lowest_oom_score) = match wire::listener(&self.socket).await {
            Ok(pid) => {
                let pid = pid.as_raw_pid();
                let capabilities = capabilities(pid);
                (capabilities, lowest_oom_score(pid, capabilities))
            }
            Err(_) => (CapabilitySet::all(), 0),
        };
        let facts = Facts {
            version: version.version,
            api,
            systemd_cgroups: info.cgroup_driver == Some(SystemInfoCgroupDriverEnum::SYSTEMD),
            cgroups_v1: info.cgroup_version != Some(SystemInfoCgroupVersionEnum::_2),
            root: info.docker_root_dir.unwrap_or_default().into(),
            logging_driver: info.logging_driver.unwrap_or_default(),
            architecture: info.architecture.unwrap_or_default(),
            runtimes: info.runtimes.unwrap_or_default().into_keys().collect(),
            live_restore: info.live_restore_enabled.unwrap_or_default(),
            experiments: match info.experimental_build {
                Some(true) => Experiments::Done,
                _ => Experiments::Refused,
            },
            labels: Labels::of(&info.security_options.unwrap_or_default()),
            lowest_oom_score,
            capabilities,
        };
        Ok(Up {
            docker,
            facts: Arc::new(facts),
        })
    }

    /// bollard, made to ask in the version that was agreed on: by itself it asks in none.
    fn client(&self, (major, minor): (usize, usize)) -> Result<Docker> {
        let path = self.socket.to_string_lossy();
        let version = ClientVersion {
            major_version: major,
            minor_version: minor,
        };
        // Who asks has a limit of its own around this one.
        let never = u64::from(u32::MAX);
        let docker = Docker::connect_with_unix(&path, never, &version)
            .map_err(|error| failure::of_docker("connect", &self.endpoint, &error))?;
        Ok(docker.with_request_modifier(move |mut request| {
            let uri = request.uri();
            let versioned = uri.path_and_query().and_then(|path| {
                let mut parts = uri.clone().into_parts();
                let path = format!("/v{major}.{minor}{path}");
                parts.path_and_query = Some(path.parse().ok()?);
                http::Uri::from_parts(parts).ok()
            });
            if let Some(versioned) = versioned {
                *request.uri_mut() = versioned;
            }
            request
        }))
    }
}

/// The version to speak with a dockerd whose latest one is this; none where it is too old.
fn agree(theirs: &str) -> Option<(usize, usize)> {
    let (major, minor) = theirs.split_once('.')?;
    let theirs = (major.parse().ok()?, minor.parse().ok()?);
    let ours = bollard::API_DEFAULT_VERSION;
    let ours = (ours.major_version, ours.minor_version);
    (theirs >= OLDEST).then(|| theirs.min(ours))
}

/// The capabilities in effect for a process, by their numbers (proc(5)).
fn capabilities(pid: i32) -> CapabilitySet {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .map_or(CapabilitySet::all(), CapabilitySet::from_bits_retain)
}

/// The lowest `oom_score_adj` that a process can give to another one: without
/// `CAP_SYS_RESOURCE`, in a container for example, its own (proc(5)).
fn lowest_oom_score(pid: i32, capabilities: CapabilitySet) -> i64 {
    if capabilities.contains(CapabilitySet::SYS_RESOURCE) {
        return -1000;
    }
    let own = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj"));
    let own = own.unwrap_or_default().trim().parse().unwrap_or(0);
    tracing::warn!(
        lowest = own,
        "dockerd has no CAP_SYS_RESOURCE and can give no container a lower oom_score_adj than \
         this; what is lower is raised to it"
    );
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_of_two_versions_is_spoken_and_none_before_20_10() {
        assert_eq!(agree("1.41"), Some((1, 41)));
        assert_eq!(agree("1.44"), Some((1, 44)));
        let ours = bollard::API_DEFAULT_VERSION;
        let ours = (ours.major_version, ours.minor_version);
        assert_eq!(agree("1.99"), Some(ours));
        assert_eq!(agree("2.0"), Some(ours));
        for old in ["1.40", "1.9", "0.99", "", "1", "x.y"] {
            assert_eq!(agree(old), None, "{old}");
        }
    }

    #[test]
    fn this_process_can_set_what_the_kernel_lets_it() {
        let own = i32::try_from(std::process::id()).unwrap();
        let capabilities = capabilities(own);
        assert!((-1000..=1000).contains(&lowest_oom_score(own, capabilities)));
        assert_eq!(lowest_oom_score(own, CapabilitySet::all()), -1000);
    }
}
