//! All parts of a node together.

use std::sync::Arc;

use anyhow::Result;
use slipway_cri_api::v1::PodSandboxConfig;

use crate::{Cni, Cri, Daemon, Docker, Image, Pushed, Registry, Scratch, leaks, pod};

/// What runs the pods of test nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// This machine's kernel.
    Native,
    /// A Docker Engine of each node's own.
    Docker,
}

impl Engine {
    /// The engine that this run of the tests is for: `SLIPWAY_TEST_ENGINE`, or the native one.
    ///
    /// # Panics
    /// When the variable names none.
    pub fn under_test() -> Self {
        match std::env::var("SLIPWAY_TEST_ENGINE").as_deref() {
            Err(_) | Ok("native") => Self::Native,
            Ok("docker") => Self::Docker,
            Ok(other) => panic!("SLIPWAY_TEST_ENGINE is {other:?}, not native or docker"),
        }
    }
}

/// A node of one test's own: Slipway's daemon, a registry and a pod network.
///
/// The fields are dropped from the first to the last, so that the daemon can still use the network
/// to remove its pods.
#[derive(Debug)]
pub struct Node {
    /// The daemon.
    pub daemon: Daemon,
    /// The Docker Engine, where that runs the pods.
    pub docker: Option<Docker>,
    /// The registry, empty at first.
    pub registry: Registry,
    /// The network.
    pub cni: Cni,
    /// The directory.
    pub scratch: Arc<Scratch>,
}

impl Node {
    /// Starts everything, with a daemon that has an empty configuration.
    ///
    /// # Errors
    /// When a part is not installed, not built, or does not come up; with its own words.
    pub async fn start() -> Result<Self> {
        Self::start_with(|builder| builder).await
    }

    /// As [`start`](Self::start), with a daemon that is told more.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(
        tell: impl FnOnce(crate::DaemonBuilder) -> crate::DaemonBuilder,
    ) -> Result<Self> {
        Self::start_on(Engine::under_test(), tell).await
    }

    /// As [`start_with`](Self::start_with), on an engine whatever this run of the tests is for.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_on(
        engine: Engine,
        tell: impl FnOnce(crate::DaemonBuilder) -> crate::DaemonBuilder,
    ) -> Result<Self> {
        let scratch = Scratch::new()?;
        let cni = Cni::new(&scratch)?;
        let registry = Registry::start(&scratch).await?;
        let docker = match engine {
            Engine::Native => None,
            Engine::Docker => Some(Docker::start(&scratch).await?),
        };
        let mut builder = Daemon::builder(&scratch, &cni);
        if let Some(docker) = &docker {
            builder = builder.docker(docker);
        }
        let daemon = tell(builder).start().await?;
        if docker.is_some() {
            daemon.cri().knows_its_pods().await?;
        }
        Ok(Self {
            daemon,
            docker,
            registry,
            cni,
            scratch,
        })
    }

    /// A client of the daemon.
    pub fn cri(&self) -> &Cri {
        self.daemon.cri()
    }

    /// A pod's configuration; see [`pod::config`].
    pub fn pod(&self, name: &str) -> PodSandboxConfig {
        pod::config(&self.scratch, name)
    }

    /// Pushes an image as `name` and has the daemon pull it.
    ///
    /// # Errors
    /// When either fails.
    pub async fn provide(&self, name: &str, image: &Image) -> Result<Pushed> {
        let pushed = self.registry.push(name, image).await?;
        self.cri().pull(&pushed.reference).await?;
        Ok(pushed)
    }

    /// Removes all pods over CRI, then ends the daemon, and looks for leaks after each.
    ///
    /// # Errors
    /// When a call fails or the daemon does not end well.
    ///
    /// # Panics
    /// When something was left behind; see [`leaks::assert_none`].
    pub async fn finish(mut self) -> Result<()> {
        self.cri().remove_all().await?;
        leaks::assert_none(&self.scratch);
        self.daemon.stop()?;
        leaks::assert_none(&self.scratch);
        if let Some(mut docker) = self.docker.take() {
            docker.stop()?;
            leaks::assert_none(&self.scratch);
        }
        Ok(())
    }
}
