//! Commands that are run in a running container.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::ExecConfig;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use slipway_cgroup::Hierarchy;
use slipway_cri_api::v1::ExecSyncResponse;
use slipway_engine::{
    Error, Result, Session, SessionEnd, Streams, Terminal, TerminalSize, blocking, new_id,
};
use tokio::sync::oneshot;

use crate::cgroups::cgroup_of;
use crate::inspect::Container;
use crate::lifecycle::running;
use crate::node::Node;
use crate::output;
use crate::streams::{self, Close, DETACH_KEYS, Ends, Wanted};

/// What is kept of a command's two outputs together, in bytes: a CRI message carries 16 MiB, the
/// rest of it included.
const MAX_OUTPUT: usize = 16 * 1024 * 1024 - 1024;

/// How long the end of a command that was killed is waited for.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// How long Docker may take to say which process a command is, before it is killed without that.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// How long it may take to say so of a command that lost its client.
const HANG_UP_PATIENCE: Duration = Duration::from_mins(1);

/// How often Docker is asked for it, at first and at last.
const ASKED_AGAIN: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// The exit codes of a command that Docker could not execute, and how it says so in its output.
const NOT_EXECUTED: [i32; 2] = [126, 127];
const COMPLAINT: &str = "OCI runtime exec failed";

/// In the environment of a command with a time limit, and of what it starts: its own value tells
/// whose they are.
const MARK: &str = "SLIPWAY_EXEC";

/// A command that has been started.
struct Started {
    node: Arc<Node>,
    id: String,
    exit: oneshot::Receiver<i32>,
    ends: Ends,
}

/// Runs a command to its end (CRI `ExecSync`).
pub(crate) async fn exec_sync(
    node: &Arc<Node>,
    id: &str,
    command: Vec<String>,
    timeout: i64,
) -> Result<ExecSyncResponse> {
    let wanted = Wanted {
        stdin: false,
        stdout: true,
        stderr: true,
        terminal: false,
        tells_end: true,
    };
    let limit = u64::try_from(timeout).ok().filter(|&seconds| seconds > 0);
    let mark = limit.map(|_| new_id()).transpose()?;
    let mut started = start(node, id, command.clone(), wanted, mark.as_deref()).await?;
    let (stdout, stderr) = (started.ends.stdout.take(), started.ends.stderr.take());
    let exec = started.id.clone();
    let finished = async {
        let (stdout, stderr, code) = tokio::join!(
            streams::collect(stdout, MAX_OUTPUT),
            streams::collect(stderr, MAX_OUTPUT),
            started.ended()
        );
        let code = code?;
        started.written().await?;
        Ok((stdout, stderr, code))
    };
    let (stdout, stderr, exit_code) = match limit {
        None => finished.await?,
        Some(seconds) => {
            let mut finished = Box::pin(finished);
            let limit = tokio::time::timeout(Duration::from_secs(seconds), &mut finished);
            let Ok(finished) = limit.await else {
                kill(node, id, &exec, mark.unwrap_or_default()).await?;
                // One that waits for a disk in the kernel dies when that answers.
                let _ = tokio::time::timeout(KILL_DEADLINE, finished).await;
                return Err(Error::deadline(format!(
                    "command {command:?} in container {id} did not end within {seconds} s and was \
                     killed with all that it had started"
                )));
            };
            finished?
        }
    };
    if NOT_EXECUTED.contains(&exit_code) && stdout.starts_with(COMPLAINT.as_bytes()) {
        let words = String::from_utf8_lossy(&stdout);
        return Err(Error::invalid(format!(
            "exec {command:?} in container {id}: Docker answers: {}",
            words.trim()
        )));
    }
    let room = MAX_OUTPUT - stdout.len();
    Ok(ExecSyncResponse {
        stdout: stdout.into(),
        stderr: stderr.slice(..stderr.len().min(room)).into(),
        exit_code,
    })
}

/// Runs a command with its streams in the caller's hands (CRI `Exec`).
pub(crate) async fn exec(
    node: &Arc<Node>,
    id: &str,
    command: Vec<String>,
    streams: Streams,
) -> Result<Session> {
    let wanted = Wanted {
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        terminal: streams.terminal,
        // A terminal stays open, and Docker would take its output away as well.
        tells_end: !streams.terminal,
    };
    let mut started = start(node, id, command, wanted, None).await?;
    let terminal = streams.terminal.then(|| {
        Box::new(Screen {
            node: Arc::clone(node),
            path: format!("/exec/{}/resize", started.id),
        }) as Box<dyn Terminal>
    });
    let hang_up = HangUp {
        node: Arc::clone(node),
        exec: started.id.clone(),
        armed: streams.terminal,
    };
    Ok(Session {
        stdin: started.ends.stdin.take(),
        stdout: started.ends.stdout.take(),
        stderr: started.ends.stderr.take(),
        terminal,
        end: Box::pin(async move {
            let code = started.ended().await;
            hang_up.disarm();
            code.map(SessionEnd::Exited)
        }),
    })
}

async fn start(
    node: &Arc<Node>,
    id: &str,
    command: Vec<String>,
    wanted: Wanted,
    mark: Option<&str>,
) -> Result<Started> {
    let container = running(node, id)?;
    if command.is_empty() {
        return Err(Error::invalid("cmd is empty: there is no command to run"));
    }
    let what = format!("exec {command:?} in container {}", container.id);
    let config = ExecConfig {
        attach_stdin: Some(wanted.stdin),
        attach_stdout: Some(wanted.stdout),
        attach_stderr: Some(wanted.stderr && !wanted.terminal),
        tty: Some(wanted.terminal),
        detach_keys: Some(DETACH_KEYS.to_owned()),
        cmd: Some(command),
        env: mark.map(|mark| vec![format!("{MARK}={mark}")]),
        ..ExecConfig::default()
    };
    let container = container.id.as_str();
    let made = node
        .dockerd
        .call(&what, |docker| async move {
            docker.create_exec(container, config).await
        })
        .await?;
    let exit = node.execs.wait_for(&made.id);
    let body = serde_json::json!({ "Detach": false, "Tty": wanted.terminal });
    let path = format!("/exec/{}/start", made.id);
    let raw = node
        .dockerd
        .upgrade(&what, &path, Some(body.to_string()))
        .await;
    let raw = raw.inspect_err(|_| node.execs.forget(&made.id))?;
    Ok(Started {
        node: Arc::clone(node),
        ends: streams::split(raw, wanted),
        id: made.id,
        exit,
    })
}

impl Started {
    /// Waits for its end. Docker tells of it, but not of the end of one that it could not execute:
    /// of that the streams' end tells.
    async fn ended(&mut self) -> Result<i32> {
        let code = tokio::select! {
            code = &mut self.exit => code,
            _ = self.ends.pumps.closed() => match inspect(&self.node, &self.id).await? {
                (_, Some(code)) => {
                    self.node.execs.forget(&self.id);
                    Ok(code)
                }
                (Some(pid), None) if output::is_open(pid) => {
                    self.node.execs.forget(&self.id);
                    return Err(self.torn());
                }
                _ => (&mut self.exit).await,
            },
        };
        self.ends.pumps.finish();
        code.map_err(|_| {
            Error::internal(
                "Docker's event stream has ended before the command did: how it ends is not known",
            )
        })
    }

    /// Waits until all of what it has written is there.
    async fn written(&mut self) -> Result<()> {
        match self.ends.pumps.closed().await {
            Close::Whole => Ok(()),
            Close::Torn => Err(self.torn()),
        }
    }

    fn torn(&self) -> Error {
        streams::torn(&format!("exec {}", self.id))
    }
}

/// Hangs up on a command in a terminal that has lost its client, as the kernel does where the
/// terminal is the client's: Docker keeps it.
struct HangUp {
    node: Arc<Node>,
    exec: String,
    armed: bool,
}

impl HangUp {
    /// The command has ended.
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (node, exec) = (Arc::clone(&self.node), std::mem::take(&mut self.exec));
        tokio::spawn(async move {
            let pid = tokio::time::timeout(HANG_UP_PATIENCE, process(&node, &exec));
            if let Ok(Some(pid)) = pid.await {
                for process in walk(pid, |_| ()) {
                    let _ = pidfd_send_signal(&process, Signal::HUP);
                }
            }
        });
    }
}

/// The process of a command as the node numbers it, and its exit code if it has ended.
async fn inspect(node: &Node, exec: &str) -> Result<(Option<i32>, Option<i32>)> {
    let what = format!("inspect exec {exec}");
    let found = node
        .dockerd
        .call(
            &what,
            |docker| async move { docker.inspect_exec(exec).await },
        )
        .await?;
    let number = |number: Option<i64>| number.and_then(|number| i32::try_from(number).ok());
    let running = found.running.unwrap_or_default();
    let code = number(found.exit_code).filter(|_| !running);
    Ok((number(found.pid).filter(|&pid| pid > 0), code))
}

/// The process of a command that was started, once Docker says it; none if the command has ended.
///
/// Docker passes on what a command writes before it knows the command's process itself, and tells
/// nobody when it does.
async fn process(node: &Node, exec: &str) -> Option<i32> {
    let [mut pause, longest] = ASKED_AGAIN;
    loop {
        match inspect(node, exec).await {
            Ok((_, Some(_))) => return None,
            Ok((Some(pid), None)) => return Some(pid),
            Ok((None, None)) | Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = longest.min(pause * 2);
    }
}

/// Kills a command with all that it has started.
async fn kill(node: &Node, container: &str, exec: &str, mark: String) -> Result<()> {
    // What Docker does not say is found all the same, below.
    let first = tokio::time::timeout(KILL_PATIENCE, process(node, exec)).await;
    let first = first.ok().flatten();
    let container = node.container(container)?;
    blocking::run(move || {
        if let Some(pid) = first {
            kill_tree(pid);
        }
        // What has left its parents is found by what it has inherited.
        for pid in beside(&container) {
            if is_marked(pid, &mark) {
                kill_tree(pid);
            }
        }
        Ok(())
    })
    .await
}

/// The processes of a container.
fn beside(container: &Container) -> Vec<i32> {
    let hierarchy = Hierarchy::detect().ok();
    let processes = cgroup_of(&container.id, container.pid)
        .zip(hierarchy)
        .and_then(|(path, hierarchy)| hierarchy.open(&path).processes().ok());
    processes.unwrap_or_default()
}

fn is_marked(pid: i32, mark: &str) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let expected = format!("{MARK}={mark}");
    environment
        .split(|byte| *byte == 0)
        .any(|entry| entry == expected.as_bytes())
}

/// Kills a process and its descendants. Those that are found are stopped first, so that none of
/// them starts another one unseen.
fn kill_tree(pid: i32) {
    let found = walk(pid, |handle| {
        let _ = pidfd_send_signal(handle, Signal::STOP);
    });
    for process in found {
        let _ = pidfd_send_signal(&process, Signal::KILL);
    }
}

/// A process and its descendants, each of them met before its own are looked for.
fn walk(pid: i32, meet: impl Fn(&OwnedFd)) -> Vec<OwnedFd> {
    let (mut known, mut next) = (HashSet::new(), vec![pid]);
    let mut found = Vec::new();
    while let Some(pid) = next.pop() {
        let Some(process) = Pid::from_raw(pid).filter(|_| known.insert(pid)) else {
            continue;
        };
        let Ok(handle) = pidfd_open(process, PidfdFlags::empty()) else {
            continue;
        };
        meet(&handle);
        found.push(handle);
        next.extend(children(pid));
    }
    found
}

/// The children of all threads of a process (proc(5)).
fn children(pid: i32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| {
            let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
            pids.collect::<Vec<_>>()
        })
        .collect()
}

/// A terminal of Docker's.
pub(crate) struct Screen {
    pub(crate) node: Arc<Node>,
    /// Where its size is set.
    pub(crate) path: String,
}

#[tonic::async_trait]
impl Terminal for Screen {
    async fn resize(&self, size: TerminalSize) -> Result<()> {
        let TerminalSize { width, height } = size;
        let path = format!("{}?h={height}&w={width}", self.path);
        self.node.dockerd.post("resize a terminal", &path).await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_process_dies_with_what_it_has_started() {
        let mut parent = Command::new("/bin/sh")
            .args(["-c", "sleep 1000 & sleep 1000 & wait"])
            .spawn()
            .unwrap();
        let pid = i32::try_from(parent.id()).unwrap();
        while children(pid).len() < 2 {
            std::thread::yield_now();
        }
        let started = children(pid);
        kill_tree(pid);
        assert_eq!(parent.wait().unwrap().signal(), Some(9));
        let deadline = Instant::now() + Duration::from_secs(20);
        for child in started {
            // It becomes a zombie, or is gone.
            while is_alive(child) {
                assert!(Instant::now() < deadline, "{child} goes on");
                std::thread::yield_now();
            }
        }
    }

    fn is_alive(pid: i32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ") && !stat.contains(") X ")
    }
}
