//! Slipway's daemon with everything that it keeps in a scratch directory.

use std::ffi::OsString;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::process::Process;
use crate::runtime::{Launch, Runtime};
use crate::{Cni, Docker, Scratch, eventually};

/// A running `slipway serve`; see [`Runtime`] for what can be done with it.
#[derive(Debug)]
pub struct Daemon {
    runtime: Runtime,
}

/// What is passed to `slipway serve` beside the directories.
#[derive(Debug)]
pub struct DaemonBuilder {
    scratch: Arc<Scratch>,
    conf_dir: PathBuf,
    bin_dir: PathBuf,
    binary: Option<PathBuf>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    config: String,
    registries: String,
    /// The socket of the Docker Engine, where that runs the pods.
    docker: Option<PathBuf>,
}

impl Daemon {
    /// Has the daemon run new pods itself, from its next start on, and keep those that the Docker
    /// Engine has; `more` lines go into its `[engine]`.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn leave_docker(&self, docker: &Docker, more: &str) -> Result<()> {
        let engine = format!("name = \"native\"\nalso = \"docker\"\n{more}");
        use_docker(self.scratch(), &engine, &docker.socket())
    }

    /// Starts the daemon and waits until it answers Version.
    ///
    /// # Errors
    /// When the binary is not built, or when the daemon ends instead; with its log.
    pub async fn start(scratch: &Arc<Scratch>, cni: &Cni) -> Result<Self> {
        Self::builder(scratch, cni).start().await
    }

    /// A daemon that is told more.
    pub fn builder(scratch: &Arc<Scratch>, cni: &Cni) -> DaemonBuilder {
        DaemonBuilder {
            scratch: Arc::clone(scratch),
            conf_dir: cni.conf_dir().to_owned(),
            bin_dir: cni.bin_dir().to_owned(),
            binary: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            config: String::new(),
            registries: String::new(),
            docker: None,
        }
    }

    /// `--root`.
    pub fn root(&self) -> PathBuf {
        root(self.runtime.scratch())
    }

    /// `--state`.
    pub fn state(&self) -> PathBuf {
        state(self.runtime.scratch())
    }
}

impl Deref for Daemon {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        &self.runtime
    }
}

impl DerefMut for Daemon {
    fn deref_mut(&mut self) -> &mut Runtime {
        &mut self.runtime
    }
}

/// Says in a drop-in of its own which engines the daemon has from its next start on.
fn use_docker(scratch: &Scratch, engine: &str, socket: &Path) -> Result<()> {
    let drop_ins = scratch.join("conf.d");
    std::fs::create_dir_all(&drop_ins)?;
    let text = format!(
        "[engine]\n{engine}\n[engine.docker]\nendpoint = \"unix://{}\"\n",
        socket.display()
    );
    Ok(std::fs::write(drop_ins.join("docker.toml"), text)?)
}

impl DaemonBuilder {
    /// The directory that it will work in.
    pub fn scratch(&self) -> &Arc<Scratch> {
        &self.scratch
    }

    /// A binary other than that of [`slipway_binary`].
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// One more argument of `slipway serve`.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// A variable in the daemon's environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// A daemon whose pods a Docker Engine runs.
    #[must_use]
    pub fn docker(self, docker: &Docker) -> Self {
        self.docker_at(docker.socket())
    }

    /// As [`docker`](Self::docker), by a socket behind which that Docker Engine is.
    #[must_use]
    pub fn docker_at(mut self, socket: impl Into<PathBuf>) -> Self {
        self.docker = Some(socket.into());
        self
    }

    /// The text of its configuration file (TOML); empty if never called.
    #[must_use]
    pub fn config(mut self, text: impl Into<String>) -> Self {
        self.config = text.into();
        self
    }

    /// The text of its `registries.conf`; empty if never called.
    #[must_use]
    pub fn registries(mut self, text: impl Into<String>) -> Self {
        self.registries = text.into();
        self
    }

    /// Starts the daemon and waits until it answers Version.
    ///
    /// # Errors
    /// When the binary is not built, or when the daemon ends instead; with its log.
    pub async fn start(self) -> Result<Daemon> {
        let scratch = Arc::clone(&self.scratch);
        let launch = self.launch()?;
        Ok(Daemon {
            runtime: Runtime::start(&scratch, launch).await?,
        })
    }

    /// Starts a daemon that is expected to end by itself, because something is wrong with what it
    /// was given or with where it runs, and returns what it wrote. Another daemon of the same
    /// scratch directory is left alone.
    ///
    /// # Errors
    /// When it has not ended after 15 seconds, or has ended with success.
    pub async fn refused(self) -> Result<String> {
        let scratch = Arc::clone(&self.scratch);
        let launch = self.launch()?;
        let name = format!("slipway-refused-{}", scratch.serial());
        let mut process = Process::spawn(&scratch, &name, &mut launch.command())?;
        let mut status = None;
        eventually(&name, Duration::from_secs(15), async || {
            status = process.exited();
            Ok(status.is_some())
        })
        .await?;
        let said = process.log();
        let success = status.is_some_and(|status| status.success());
        ensure!(
            !success,
            "the daemon has ended with success, saying:\n{said}"
        );
        Ok(said)
    }

    fn launch(self) -> Result<Launch> {
        let scratch = &self.scratch;
        let program = self.binary.map_or_else(slipway_binary, Ok)?;
        let (config, registries) = (scratch.join("config.toml"), scratch.join("registries.conf"));
        // Cgroup parents of tests are paths, also where systemd is the node's init.
        if !self.config.contains("cgroup_driver") {
            let drop_ins = scratch.join("conf.d");
            std::fs::create_dir_all(&drop_ins)?;
            let driver = "[runtime]\ncgroup_driver = \"cgroupfs\"\n";
            std::fs::write(drop_ins.join("driver.toml"), driver)?;
        }
        if let Some(socket) = &self.docker {
            use_docker(scratch, "name = \"docker\"", socket)?;
        }
        std::fs::write(&config, self.config)?;
        std::fs::write(&registries, self.registries)?;
        let socket = scratch.join("slipway.sock");
        let mut listen = OsString::from("unix://");
        listen.push(&socket);
        let flags: [(&str, OsString); 7] = [
            ("--config", config.into()),
            ("--listen", listen),
            ("--root", root(scratch).into()),
            ("--state", state(scratch).into()),
            ("--cni-conf-dir", self.conf_dir.into()),
            ("--cni-bin-dir", self.bin_dir.into()),
            ("--registries-conf", registries.into()),
        ];
        let mut arguments = vec![OsString::from("serve")];
        arguments.extend(
            flags
                .into_iter()
                .flat_map(|(flag, value)| [flag.into(), value]),
        );
        arguments.extend(self.arguments);
        Ok(Launch {
            name: "slipway",
            program,
            arguments,
            environment: self.environment,
            socket,
            directories: vec![root(scratch), state(scratch)],
        })
    }
}

pub(crate) fn root(scratch: &Scratch) -> PathBuf {
    scratch.join("root")
}

pub(crate) fn state(scratch: &Scratch) -> PathBuf {
    scratch.join("run")
}

/// The `slipway` to test: `SLIPWAY_BIN`, or what cargo names to integration tests, or the one that
/// was built into the directory of the running test.
///
/// # Errors
/// When there is none, or no `slipway-shim` beside it.
pub fn slipway_binary() -> Result<PathBuf> {
    let named = ["SLIPWAY_BIN", "CARGO_BIN_EXE_slipway"]
        .iter()
        .find_map(std::env::var_os);
    let binary = if let Some(path) = named {
        PathBuf::from(path)
    } else {
        let own = std::env::current_exe().context("this test has no path")?;
        let directories = own.ancestors().skip(1).take(3);
        directories
            .map(|directory| directory.join("slipway"))
            .find(|candidate| candidate.is_file())
            .with_context(|| {
                format!(
                    "no slipway is built beside {}: run `cargo build`",
                    own.display()
                )
            })?
    };
    let shim = binary
        .parent()
        .unwrap_or(Path::new("/"))
        .join("slipway-shim");
    if !binary.is_file() || !shim.is_file() {
        bail!(
            "{} and slipway-shim beside it must be built: run `cargo build`",
            binary.display()
        );
    }
    Ok(binary)
}
