//! Commands that are run in a running container.

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use slipway_cri_api::v1::ExecSyncResponse;
use slipway_engine::{Error, Result};
use slipway_shim::protocol::{Exec, ExecProcess, Exit};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use crate::node::Node;
use crate::{failure, signal};

/// What is kept of a command's two outputs together, in bytes: a CRI message carries 16 MiB, the
/// rest of it included.
const MAX_OUTPUT: usize = 16 * 1024 * 1024 - 1024;

/// How much is read from a pipe at once, in bytes.
const CHUNK: usize = 16 * 1024;

/// How long the end of a command that was killed is waited for.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Runs a command to its end (CRI `ExecSync`).
pub(crate) async fn exec_sync(
    node: &Arc<Node>,
    id: &str,
    command: Vec<String>,
    timeout: i64,
) -> Result<ExecSyncResponse> {
    let container = node.containers.get(id)?;
    if command.is_empty() {
        return Err(Error::invalid("ExecSyncRequest.cmd is empty"));
    }
    if !container.state().is_running() {
        return Err(Error::precondition(format!(
            "container {} is not running: commands can be run only while it is",
            container.id()
        )));
    }
    let shim = container.pod.shim()?;
    let (stdout, stdout_writer) = output_pipe()?;
    let (stderr, stderr_writer) = output_pipe()?;
    let stdin = null()?;
    let request = Exec {
        container: container.id().to_owned(),
        process: ExecProcess::Own {
            args: command.clone(),
        },
    };
    let (exec, _) = shim
        .exec(request, [stdin, stdout_writer, stderr_writer])
        .await
        .map_err(|error| failure::of_shim(&error).context(format!("exec {command:?}")))?;
    let mut end = container.pod.exec_end(exec);
    let mut outputs = Outputs {
        stdout: Output::new(stdout),
        stderr: Output::new(stderr),
    };
    let limit = u64::try_from(timeout).ok().filter(|&seconds| seconds > 0);
    let exit = match limit {
        None => outputs.collect_until(&mut end).await,
        Some(seconds) => {
            let limit = Duration::from_secs(seconds);
            let Ok(exit) = tokio::time::timeout(limit, outputs.collect_until(&mut end)).await
            else {
                let _ = shim.kill_exec(exec, signal::SIGKILL).await;
                // One that waits for a disk in the kernel dies when that answers.
                let _ = tokio::time::timeout(KILL_DEADLINE, end).await;
                return Err(Error::deadline(format!(
                    "command {command:?} in container {} did not end within {seconds} s and was \
                     killed",
                    container.id()
                )));
            };
            exit
        }
    };
    let exit = exit.ok_or_else(|| {
        Error::internal(format!(
            "command {command:?}: the shim of container {} has gone meanwhile",
            container.id()
        ))
    })?;
    let Outputs { stdout, mut stderr } = outputs;
    stderr.bytes.truncate(MAX_OUTPUT - stdout.bytes.len());
    Ok(ExecSyncResponse {
        stdout: stdout.bytes,
        stderr: stderr.bytes,
        exit_code: exit.code,
    })
}

fn output_pipe() -> Result<(pipe::Receiver, OwnedFd)> {
    let make = || -> std::io::Result<_> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        Ok((pipe::Receiver::from_owned_fd(reader)?, writer))
    };
    make().map_err(|error| Error::internal(format!("no pipe for a command's output: {error}")))
}

fn null() -> Result<OwnedFd> {
    fs::File::open("/dev/null")
        .map(OwnedFd::from)
        .map_err(|error| Error::internal(format!("/dev/null cannot be opened: {error}")))
}

/// One output of a command, kept up to [`MAX_OUTPUT`] and read on beyond it, so that the command
/// never waits for a reader.
struct Output {
    pipe: Option<pipe::Receiver>,
    bytes: Vec<u8>,
    chunk: Box<[u8]>,
}

struct Outputs {
    stdout: Output,
    stderr: Output,
}

impl Output {
    fn new(pipe: pipe::Receiver) -> Self {
        Self {
            pipe: Some(pipe),
            bytes: Vec::new(),
            chunk: vec![0; CHUNK].into(),
        }
    }

    fn keep(&mut self, count: usize) {
        let room = MAX_OUTPUT - self.bytes.len();
        self.bytes.extend_from_slice(&self.chunk[..count.min(room)]);
    }

    /// Reads once; waits for ever after the end.
    async fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else {
            return std::future::pending().await;
        };
        match pipe.read(&mut self.chunk).await {
            Ok(count @ 1..) => self.keep(count),
            Ok(0) | Err(_) => self.pipe = None,
        }
    }

    /// Reads what is there now.
    fn drain(&mut self) {
        let Some(pipe) = self.pipe.take() else { return };
        while let Ok(count @ 1..) = pipe.try_read(&mut self.chunk) {
            self.keep(count);
        }
    }
}

impl Outputs {
    /// Reads both until the command has ended, and then what it has left in the pipes. A child of
    /// it that lives on and holds the pipes open is not waited for.
    async fn collect_until(&mut self, end: &mut oneshot::Receiver<Exit>) -> Option<Exit> {
        let exit = loop {
            tokio::select! {
                exit = &mut *end => break exit.ok(),
                () = self.stdout.read() => {}
                () = self.stderr.read() => {}
            }
        };
        self.stdout.drain();
        self.stderr.drain();
        exit
    }
}
