//! A container runtime's daemon that runs for one scratch directory.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{self, Process};
use crate::{Cri, Scratch, cgroup, mount, wait};

/// Longer than any daemon takes to come up on a busy machine, or to end.
const STARTING: Duration = Duration::from_secs(30);
const ENDING: Duration = Duration::from_secs(15);

/// How many lines of its log are shown when something went wrong.
const SHOWN: usize = 200;

/// What to run and where it will listen.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) socket: PathBuf,
    /// Where it keeps everything; what is still mounted there in the end is unmounted.
    pub(crate) directories: Vec<PathBuf>,
}

impl Launch {
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().cloned());
        command
    }
}

/// A running daemon behind a CRI socket: Slipway's ([`Daemon`](crate::Daemon)) or
/// [`Containerd`](crate::Containerd).
///
/// Dropping it stops and removes all pods over CRI if it answers, ends the daemon, and then what
/// the daemon left: shims, cgroups, mounts. While a test panics it also shows the daemon's log.
#[derive(Debug)]
pub struct Runtime {
    launch: Launch,
    process: Process,
    cri: Cri,
    scratch: Arc<Scratch>,
}

impl Runtime {
    pub(crate) async fn start(scratch: &Arc<Scratch>, launch: Launch) -> Result<Self> {
        let process = spawn(scratch, &launch)?;
        let cri = Cri::new(&launch.socket);
        let mut runtime = Self {
            launch,
            process,
            cri,
            scratch: Arc::clone(scratch),
        };
        runtime.answers().await?;
        Ok(runtime)
    }

    /// A client of its socket.
    pub fn cri(&self) -> &Cri {
        &self.cri
    }

    /// The daemon's process id.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// The directory that it belongs to.
    pub fn scratch(&self) -> &Arc<Scratch> {
        &self.scratch
    }

    /// What the daemon has written to its output, in all of its lives.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The processes that run for the daemon's pods, without the daemon: shims, and what is in the
    /// pods' cgroups. With each of the latter its cgroup directory, whose last component is, for
    /// the processes of a container, the container's id.
    pub fn pod_processes(&self) -> Vec<(i32, Option<PathBuf>)> {
        let inside = cgroup::processes(&self.scratch.cgroup_parent());
        let started = process::recorded(self.scratch.path());
        let outside: Vec<_> = process::of(self.scratch.path())
            .into_iter()
            .map(|found| found.pid)
            .filter(|pid| !started.contains(pid) && !inside.iter().any(|(other, _)| other == pid))
            .map(|pid| (pid, None))
            .collect();
        inside
            .into_iter()
            .map(|(pid, group)| (pid, Some(group)))
            .chain(outside)
            .collect()
    }

    /// Ends the daemon by SIGKILL, at once and with nothing else.
    pub fn kill9(&mut self) {
        self.process.kill();
    }

    /// Starts the daemon again with the same arguments, after SIGKILL if it still runs, and waits
    /// until it answers.
    ///
    /// # Errors
    /// When it ends instead; with its log.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = spawn(&self.scratch, &self.launch)?;
        self.answers().await
    }

    /// Ends the daemon by SIGTERM; the pods stay.
    ///
    /// # Errors
    /// When it does not end within 15 seconds, or not with success; with its log.
    pub fn stop(&mut self) -> Result<()> {
        ensure!(
            self.process.terminate(ENDING),
            "{} has not ended {ENDING:?} after SIGTERM:\n{}",
            self.launch.name,
            self.process.log_tail(SHOWN)
        );
        let status = self
            .process
            .exited()
            .context("an ended process has a status")?;
        ensure!(
            status.success(),
            "{} ended with {status} after SIGTERM:\n{}",
            self.launch.name,
            self.process.log_tail(SHOWN)
        );
        Ok(())
    }

    async fn answers(&mut self) -> Result<()> {
        let Self {
            launch,
            process,
            cri,
            ..
        } = self;
        let name = launch.name;
        let outcome = wait::eventually(&format!("{name} to answer"), STARTING, async || {
            if let Some(status) = process.exited() {
                bail!("{name} ended with {status} before it answered");
            }
            Ok(launch.socket.exists() && cri.version().await.is_ok())
        })
        .await;
        outcome.with_context(|| format!("its log ends with:\n{}", process.log_tail(SHOWN)))
    }

    /// Removes all pods from a thread of its own: a destructor may not wait in a tokio runtime.
    fn remove_pods(&self) {
        let socket = self.launch.socket.clone();
        let remover = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                tokio::time::timeout(Duration::from_secs(30), Cri::new(&socket).remove_all())
                    .await??;
                anyhow::Ok(())
            })
        });
        if let Ok(Err(error)) = remover.join() {
            eprintln!("testbed: pods were not removed over CRI: {error:#}");
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "---- {} ----\n{}\n----",
                self.launch.name,
                self.process.log_tail(SHOWN)
            );
        }
        if self.process.exited().is_none() {
            self.remove_pods();
        }
        self.process.terminate(ENDING);
        process::kill_strays(self.scratch.path());
        cgroup::kill_and_remove(&self.scratch.cgroup_parent());
        for directory in &self.launch.directories {
            mount::unmount_below(directory);
        }
    }
}

fn spawn(scratch: &Scratch, launch: &Launch) -> Result<Process> {
    // A socket left by a daemon that was killed would look like one that is slow to answer.
    remove_socket(&launch.socket)?;
    Process::spawn(scratch, launch.name, &mut launch.command())
}

fn remove_socket(socket: &Path) -> Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
