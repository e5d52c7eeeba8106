//! Commands that are run in a running container.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use slipway_cri_api::v1::ExecSyncResponse;
use slipway_engine::{Error, Result, Session, SessionEnd, Streams};
use slipway_shim::Shim;
use slipway_shim::protocol::{Exec, ExecCgroup, ExecProcess, Exit};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::oneshot;

use crate::container::Container;
use crate::failure;
use crate::node::Node;
use crate::streams::{Input, Output, Terminal, null};

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
    let place = Place::find(node, id)?;
    let limit = u64::try_from(timeout).ok().filter(|&seconds| seconds > 0);
    let (stdout, stdout_writer) = Output::pipe()?;
    let (stderr, stderr_writer) = Output::pipe()?;
    let cgroup = match limit {
        Some(_) => ExecCgroup::Own,
        None => ExecCgroup::Container,
    };
    let request = place.request(&command, cgroup)?;
    let streams = [null()?, stdout_writer, stderr_writer];
    let mut started = place.start(request, streams).await?;
    let (stdout, stderr) = (started.ends(stdout), started.ends(stderr));
    let exec = started.exec;
    let finished = async { tokio::join!(collect(stdout), collect(stderr), started.ended()) };
    let (stdout, mut stderr, exit) = match limit {
        None => finished.await,
        Some(seconds) => {
            let mut finished = Box::pin(finished);
            let limit = tokio::time::timeout(Duration::from_secs(seconds), &mut finished);
            let Ok(finished) = limit.await else {
                let _ = place.shim.kill_exec(exec).await;
                // One that waits for a disk in the kernel dies when that answers.
                let _ = tokio::time::timeout(KILL_DEADLINE, finished).await;
                return Err(Error::deadline(format!(
                    "command {command:?} in container {} did not end within {seconds} s and was \
                     killed with all that it had started",
                    place.container.id()
                )));
            };
            finished
        }
    };
    stderr.truncate(MAX_OUTPUT - stdout.len());
    Ok(ExecSyncResponse {
        stdout,
        stderr,
        exit_code: exit?.code,
    })
}

/// Whether a command could be run in a container now.
pub(crate) fn check(node: &Node, id: &str) -> Result<()> {
    Place::find(node, id).map(drop)
}

/// Runs a command with its streams in the caller's hands (CRI `Exec`).
pub(crate) async fn exec(
    node: &Arc<Node>,
    id: &str,
    command: Vec<String>,
    streams: Streams,
) -> Result<Session> {
    let place = Place::find(node, id)?;
    let request = place.request(&command, ExecCgroup::Container)?;
    if streams.terminal {
        place.exec_in_terminal(request, streams).await
    } else {
        place.exec_with_pipes(request, streams).await
    }
}

/// A running container and what runs commands in it.
struct Place {
    container: Arc<Container>,
    shim: Shim,
}

/// A command that has been executed.
struct Started {
    exec: u64,
    exit: oneshot::Receiver<Exit>,
    /// For those who wait for its end as well.
    told: Vec<oneshot::Sender<()>>,
}

impl Place {
    fn find(node: &Node, id: &str) -> Result<Self> {
        let container = node.containers.get(id)?;
        if !container.state().is_running() {
            return Err(Error::precondition(format!(
                "container {} is not running: commands can be run only while it is",
                container.id()
            )));
        }
        let shim = container.pod.shim()?;
        Ok(Self { container, shim })
    }

    fn request(&self, command: &[String], cgroup: ExecCgroup) -> Result<Exec> {
        if command.is_empty() {
            return Err(Error::invalid("cmd is empty: there is no command to run"));
        }
        Ok(Exec {
            container: self.container.id().to_owned(),
            process: ExecProcess::Own {
                args: command.to_vec(),
            },
            terminal: false,
            cgroup,
        })
    }

    async fn start(&self, request: Exec, streams: [OwnedFd; 3]) -> Result<Started> {
        let doing = doing(&request);
        let (exec, _) = self
            .shim
            .exec(request, streams)
            .await
            .map_err(|error| failure::of_shim(&error).context(doing))?;
        Ok(self.started(exec))
    }

    fn started(&self, exec: u64) -> Started {
        Started {
            exec,
            exit: self.container.pod.exec_end(exec),
            told: Vec::new(),
        }
    }

    async fn exec_with_pipes(&self, request: Exec, streams: Streams) -> Result<Session> {
        let (reader, stdin) = if streams.stdin {
            let (reader, stdin) = Input::pipe()?;
            (reader, Some(stdin))
        } else {
            (null()?, None)
        };
        let output = |wanted: bool| -> Result<_> {
            if wanted {
                let (output, writer) = Output::pipe()?;
                Ok((Some(output), writer))
            } else {
                Ok((None, null()?))
            }
        };
        let (stdout, stdout_writer) = output(streams.stdout)?;
        let (stderr, stderr_writer) = output(streams.stderr)?;
        let descriptors = [reader, stdout_writer, stderr_writer];
        let mut started = self.start(request, descriptors).await?;
        Ok(Session {
            stdin: stdin.map(|stdin| Box::pin(stdin) as _),
            stdout: stdout.map(|output| Box::pin(started.ends(output)) as _),
            stderr: stderr.map(|output| Box::pin(started.ends(output)) as _),
            terminal: None,
            end: started.watched(),
        })
    }

    async fn exec_in_terminal(&self, request: Exec, streams: Streams) -> Result<Session> {
        let request = Exec {
            terminal: true,
            ..request
        };
        let doing = doing(&request);
        let (exec, master) = self
            .shim
            .exec_in_terminal(request)
            .await
            .map_err(|error| failure::of_shim(&error).context(doing))?;
        let mut started = self.started(exec);
        let mut output = started.ends(Output::terminal(&master)?);
        let stdin = streams.stdin.then(|| Input::to(&master)).transpose()?;
        let stdout = if streams.stdout {
            Some(Box::pin(output) as _)
        } else {
            // A terminal that nobody looks at shows all the same.
            tokio::spawn(async move { tokio::io::copy(&mut output, &mut tokio::io::sink()).await });
            None
        };
        Ok(Session {
            stdin: stdin.map(|stdin| Box::pin(stdin) as _),
            stdout,
            stderr: None,
            terminal: Some(Box::new(Terminal(master))),
            end: started.watched(),
        })
    }
}

fn doing(request: &Exec) -> String {
    match &request.process {
        ExecProcess::Own { args } => format!("exec {args:?}"),
        ExecProcess::Given(_) => "exec".to_owned(),
    }
}

impl Started {
    /// Has an output end with the command.
    fn ends(&mut self, output: Output) -> Output {
        let (told, ended) = oneshot::channel();
        self.told.push(told);
        output.until(ended)
    }

    /// Waits for its end.
    async fn ended(self) -> Result<Exit> {
        self.exit.await.map_err(|_| {
            Error::internal("the container's slipway-shim has gone before the command's end")
        })
    }

    /// Waits for its end whether or not anybody waits with it, so that its outputs end then.
    fn watched(mut self) -> std::pin::Pin<Box<dyn Future<Output = Result<SessionEnd>> + Send>> {
        let told = std::mem::take(&mut self.told);
        let end = tokio::spawn(async move {
            let exit = self.ended().await;
            drop(told);
            exit
        });
        Box::pin(async move {
            let exit = end
                .await
                .unwrap_or_else(|ended| Err(Error::internal(format!("the exec crashed: {ended}"))));
            exit.map(|exit| SessionEnd::Exited(exit.code))
        })
    }
}

/// Reads an output to its end and keeps as much as fits into an answer: the command never waits for
/// a reader.
async fn collect(mut output: impl AsyncRead + Unpin) -> Vec<u8> {
    let (mut kept, mut chunk) = (Vec::new(), vec![0; CHUNK]);
    while let Ok(count @ 1..) = output.read(&mut chunk).await {
        let room = MAX_OUTPUT - kept.len();
        kept.extend_from_slice(&chunk[..count.min(room)]);
    }
    kept
}
