//! The runtimes that take part, each in a scratch directory of its own.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Error, Result};
use slipway_testbed::{Cni, Containerd, Daemon, Docker, DockerProxy, Registry, Runtime, Scratch};

use super::{Contest, Engine, Peer, memory};

/// A runtime that is measured.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) runtime: Server,
    pub(crate) scratch: Arc<Scratch>,
    /// Its daemon's size before the first call, in bytes.
    pub(crate) daemon_at_rest: u64,
    /// Where its pods run on Docker.
    pub(crate) docker: Option<OnDocker>,
}

/// What a runtime asks, and how long that takes. Both end after the daemon.
pub(crate) struct OnDocker {
    pub(crate) proxy: DockerProxy,
    /// Where the daemon offers metrics.
    pub(crate) metrics: SocketAddr,
    _docker: Docker,
}

impl OnDocker {
    async fn start(scratch: &Arc<Scratch>) -> Result<Self> {
        let docker = Docker::start(scratch).await?;
        Ok(Self {
            proxy: DockerProxy::start(scratch, &docker)?,
            metrics: SocketAddr::from(([127, 0, 0, 1], scratch.host_port())),
            _docker: docker,
        })
    }
}

/// The daemons there are; each is dropped with what it left.
pub(crate) enum Server {
    Slipway(Daemon),
    Containerd(Containerd),
}

impl Deref for Server {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        match self {
            Self::Slipway(daemon) => daemon,
            Self::Containerd(containerd) => containerd,
        }
    }
}

impl Subject {
    async fn new(name: &'static str, runtime: Server) -> Result<Self> {
        let daemon_at_rest = memory::at_rest(&runtime).await?;
        let scratch = Arc::clone(runtime.scratch());
        Ok(Self {
            name,
            runtime,
            scratch,
            daemon_at_rest,
            docker: None,
        })
    }

    /// Adds whose call it was, and the end of the daemon's log.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let log = self.runtime.log();
        let lines: Vec<_> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(20)..].join("\n");
        error.context(format!("{} failed; its log ends with:\n{end}\n", self.name))
    }
}

/// What runtimes are measured on: a registry and a network that all of them use.
pub(crate) struct Ground {
    pub(crate) registry: Registry,
    cni: Cni,
}

impl Ground {
    /// # Errors
    /// When the registry does not start.
    pub(crate) async fn new() -> Result<Self> {
        let scratch = Scratch::new()?;
        Ok(Self {
            registry: Registry::start(&scratch).await?,
            cni: Cni::new(&scratch)?,
        })
    }

    /// Starts Slipway, unless `slipway` is `None`, and then the peer if there is one.
    ///
    /// # Errors
    /// When a daemon does not come up; with its log.
    pub(crate) async fn start(
        &self,
        contest: &Contest,
        slipway: Option<PathBuf>,
    ) -> Result<Vec<Subject>> {
        let mut subjects = Vec::new();
        if let Some(binary) = slipway {
            let scratch = Scratch::new()?;
            let docker = match contest.engine {
                Engine::Native => None,
                Engine::Docker => Some(OnDocker::start(&scratch).await?),
            };
            let mut builder = Daemon::builder(&scratch, &self.cni).binary(binary);
            if let Some(OnDocker { proxy, metrics, .. }) = &docker {
                builder = builder
                    .docker_at(proxy.socket())
                    .argument("--metrics-listen")
                    .argument(metrics.to_string());
            }
            let daemon = builder.start().await?;
            let subject = Subject::new("slipway", Server::Slipway(daemon)).await?;
            subjects.push(Subject { docker, ..subject });
        }
        if contest.against == Some(Peer::Containerd) {
            let scratch = Scratch::new()?;
            let containerd = Containerd::start(&scratch, &self.cni, &self.registry).await?;
            subjects.push(Subject::new("containerd", Server::Containerd(containerd)).await?);
        }
        Ok(subjects)
    }
}
