//! A Docker Engine, Debian's where no other is asked for, with everything that it keeps in a scratch directory.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::process::{self, Process};
use crate::{Scratch, mount, wait};

/// Longer than dockerd takes to come up on a busy machine, or to end with all its containers.
const STARTING: Duration = Duration::from_mins(1);
const ENDING: Duration = Duration::from_secs(30);

/// Which Docker Engine is tried: a directory with its programs, as Docker's own archives have them.
const DIRECTORY: &str = "SLIPWAY_TEST_DOCKER";

/// How many lines of its log are shown when something went wrong.
const SHOWN: usize = 100;

/// A running `dockerd`, which touches no network of the machine: no bridge, no packet filter. It
/// runs a containerd of its own.
///
/// Dropping it ends it with all its containers.
#[derive(Debug)]
pub struct Docker {
    process: Process,
    driver: CgroupDriver,
    scratch: Arc<Scratch>,
}

/// What dockerd makes containers' cgroups with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// By itself: `cgroup_parent` is a path.
    Cgroupfs,
    /// Through systemd, which has to be the node's init: `cgroup_parent` is a slice.
    Systemd,
}

impl Docker {
    /// Starts dockerd and waits until it answers. Cgroup parents of tests are paths, also where
    /// systemd is the node's init.
    ///
    /// # Errors
    /// When it is not installed or does not come up; with its log.
    pub async fn start(scratch: &Arc<Scratch>) -> Result<Self> {
        Self::start_with(scratch, CgroupDriver::Cgroupfs).await
    }

    /// As [`start`](Self::start), with a cgroup driver.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(scratch: &Arc<Scratch>, driver: CgroupDriver) -> Result<Self> {
        let process = spawn(scratch, driver)?;
        let mut docker = Self {
            process,
            driver,
            scratch: Arc::clone(scratch),
        };
        docker.answers().await?;
        Ok(docker)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        socket(&self.scratch)
    }

    /// dockerd's process id.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Runs `docker` against it and returns what it printed.
    ///
    /// # Errors
    /// When it fails; with its words.
    pub fn cli(&self, arguments: &[&str]) -> Result<String> {
        let host = format!("unix://{}", self.socket().display());
        let mut words = vec!["--host", &host];
        words.extend(arguments);
        process::run("docker", &words)
    }

    /// Stops it where it stands, so that it takes connections and answers nothing, until
    /// [`Docker::resume`].
    pub fn freeze(&self) {
        process::signal(self.pid(), Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        process::signal(self.pid(), Signal::CONT);
    }

    /// Ends dockerd and its containerd by SIGKILL; containers go on.
    pub fn kill9(&mut self) {
        self.process.kill();
        if let Some(pid) = containerd(&self.scratch) {
            process::kill(pid);
        }
        // A zombie that nobody reaps would look to the next dockerd like one that runs.
        let _ = fs::remove_file(containerd_pid(&self.scratch));
    }

    /// Starts it again with another `daemon.json`, as [`restart`](Self::restart) does.
    ///
    /// # Errors
    /// When it ends instead; with its log.
    pub async fn reconfigure(&mut self, config: &str) -> Result<()> {
        fs::write(configuration(&self.scratch), config)?;
        self.restart().await
    }

    /// Starts it again, after SIGKILL if it still runs, and waits until it answers.
    ///
    /// # Errors
    /// When it ends instead; with its log.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill9();
        let _ = fs::remove_file(self.scratch.join("docker.pid"));
        self.process = spawn(&self.scratch, self.driver)?;
        self.answers().await
    }

    /// Ends it by SIGTERM, and with it all its containers.
    ///
    /// # Errors
    /// When it does not end in time; with its log.
    pub fn stop(&mut self) -> Result<()> {
        ensure!(
            self.process.terminate(ENDING),
            "dockerd has not ended {ENDING:?} after SIGTERM:\n{}",
            self.process.log_tail(SHOWN)
        );
        mount::unmount_below(&data(&self.scratch));
        mount::unmount_below(&execution(&self.scratch));
        Ok(())
    }

    async fn answers(&mut self) -> Result<()> {
        let Self {
            process, scratch, ..
        } = self;
        let socket = socket(scratch);
        let outcome = wait::eventually("dockerd to answer", STARTING, async || {
            if let Some(status) = process.exited() {
                bail!("dockerd ended with {status} before it answered");
            }
            Ok(ping(&socket))
        })
        .await;
        outcome.with_context(|| format!("its log ends with:\n{}", process.log_tail(SHOWN)))?;
        // What it has started is the testbed's too.
        let containerd = containerd(scratch).context("dockerd runs no containerd")?;
        process::record(scratch.path(), containerd)
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- dockerd ----\n{}\n----", self.process.log_tail(SHOWN));
        }
        self.resume();
        self.process.terminate(ENDING);
        process::kill_strays(self.scratch.path());
        mount::unmount_below(&data(&self.scratch));
        mount::unmount_below(&execution(&self.scratch));
    }
}

fn spawn(scratch: &Arc<Scratch>, driver: CgroupDriver) -> Result<Process> {
    let config = configuration(scratch);
    if !config.exists() {
        fs::write(&config, "{}")?;
    }
    let socket = socket(scratch);
    let _ = fs::remove_file(&socket);
    let mut command = program();
    command
        .arg("--config-file")
        .arg(config)
        .arg("--data-root")
        .arg(data(scratch))
        .arg("--exec-root")
        .arg(execution(scratch))
        .arg("--pidfile")
        .arg(scratch.join("docker.pid"))
        .arg(format!("--host=unix://{}", socket.display()))
        .arg(match driver {
            CgroupDriver::Cgroupfs => "--exec-opt=native.cgroupdriver=cgroupfs",
            CgroupDriver::Systemd => "--exec-opt=native.cgroupdriver=systemd",
        })
        .args([
            "--log-level=warn",
            "--group=0",
            "--bridge=none",
            "--iptables=false",
        ])
        .args([
            "--ip-forward=false",
            "--ip-masq=false",
            "--userland-proxy=false",
        ]);
    Process::spawn(scratch, "dockerd", &mut command).context("is the package docker.io installed?")
}

/// Debian's, or the one in the directory that [`DIRECTORY`] names, with the containerd and the shim
/// beside it.
fn program() -> Command {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else {
        return Command::new("dockerd");
    };
    let mut command = Command::new(directory.join("dockerd"));
    command.env("PATH", process::path_with(&directory));
    command
}

/// Its images and containers.
pub(crate) fn data(scratch: &Scratch) -> PathBuf {
    scratch.join("docker")
}

/// Whether a mount is dockerd's for as long as it runs, and no container's.
pub(crate) fn is_own_mount(scratch: &Scratch, point: &Path) -> bool {
    point == data(scratch) || point == execution(scratch).join("netns/default")
}

/// What a reboot would end.
fn execution(scratch: &Scratch) -> PathBuf {
    scratch.join("docker-run")
}

fn configuration(scratch: &Scratch) -> PathBuf {
    scratch.join("docker.json")
}

fn socket(scratch: &Scratch) -> PathBuf {
    scratch.join("docker.sock")
}

fn containerd_pid(scratch: &Scratch) -> PathBuf {
    execution(scratch).join("containerd/containerd.pid")
}

/// The containerd that dockerd has started.
fn containerd(scratch: &Scratch) -> Option<i32> {
    let file = containerd_pid(scratch);
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn ping(socket: &Path) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.ends_with("OK"))
}
