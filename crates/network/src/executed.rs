//! A plugin that is an executable (CNI specification, section 2).

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Child, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::Deserialize;
use serde_json::Value;

use crate::PluginFailure;
use crate::attachment::INTERFACE;
use crate::plugin::{Call, Command};

/// How much of each output stream is kept, in bytes. The rest is read and dropped.
const KEPT: usize = 1 << 20;

/// For plugins that run others (iptables) when the daemon itself was started without a `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The plugins that look whether their chains are there and make them if not, so that of two that
/// do so at once on a new node one fails with "File exists".
const MAKERS_OF_CHAINS: [&str; 2] = ["firewall", "portmap"];

/// Held while one of them adds; they wait for the packet filter's one lock anyway.
static CHAINS: Mutex<()> = Mutex::new(());

pub(crate) struct Executed {
    path: PathBuf,
}

/// How a plugin ended.
struct Outcome {
    /// None if it had to be killed.
    status: Option<ExitStatus>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Whether standard output was longer than what was kept.
    overflowed: bool,
}

impl Executed {
    pub(crate) fn find(kind: &str, bin_dirs: &[PathBuf]) -> Option<Self> {
        bin_dirs
            .iter()
            .map(|directory| directory.join(kind))
            .find(is_executable)
            .map(|path| Self { path })
    }

    pub(crate) fn call(&self, call: &Call<'_>) -> Result<Value, PluginFailure> {
        let mut makers = MAKERS_OF_CHAINS.iter();
        let alone = call.command == Command::Add && makers.any(|maker| self.path.ends_with(maker));
        let _alone = alone.then(|| CHAINS.lock().unwrap_or_else(PoisonError::into_inner));
        let outcome = self.run(call).map_err(|source| PluginFailure::NotRun {
            path: self.path.clone(),
            source,
        })?;
        interpret(call, outcome)
    }

    fn run(&self, call: &Call<'_>) -> io::Result<Outcome> {
        let stdin = input(call)?;
        let search = env::join_paths(call.bin_dirs).map_err(io::Error::other)?;
        let mut command = process::Command::new(&self.path);
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // So that a plugin can be killed with all that it has started. Nothing here keeps the
            // standard library from using posix_spawn.
            .process_group(0)
            .env("CNI_COMMAND", call.command.as_str())
            .env("CNI_CONTAINERID", call.container)
            .env("CNI_NETNS", call.netns)
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_ARGS", call.arguments)
            .env("CNI_PATH", search);
        if env::var_os("PATH").is_none_or(|path: OsString| path.is_empty()) {
            command.env("PATH", DEFAULT_PATH);
        }
        let running = Running(Some(command.spawn()?));
        // It holds a copy of the plugin's standard input, and with it the pod's lock.
        drop(command);
        running.attend(Instant::now() + call.timeout)
    }
}

fn is_executable(path: &PathBuf) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Writes the configuration where the plugin reads it. A file and not a pipe: nobody has to feed
/// it, and the lock on it lives as long as the plugin does, even when the daemon does not.
fn input(call: &Call<'_>) -> io::Result<File> {
    let content = call.configuration.to_string();
    let mut file = call.input;
    file.write_all_at(content.as_bytes(), 0)?;
    // Only now, and not to nothing before: a file that has been truncated to nothing is written to
    // the disk as soon as it is closed.
    file.set_len(content.len() as u64)?;
    file.rewind()?;
    file.try_clone()
}

/// A plugin's process with its process group. Unless it was waited for, nothing of either outlives
/// this.
struct Running(Option<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else {
            return;
        };
        // Until the child is waited for, its id cannot be that of anybody else's process group.
        if let Err(error) = kill_process_group(Pid::from_child(&child), Signal::KILL) {
            tracing::warn!(pid = child.id(), %error, "cannot kill a CNI plugin");
        }
        if let Err(error) = child.wait() {
            tracing::warn!(pid = child.id(), %error, "cannot wait for a CNI plugin");
        }
    }
}

/// What a plugin is watched for.
#[derive(Clone, Copy)]
enum Source {
    Stdout,
    Stderr,
    Process,
}

impl Running {
    /// Reads what the plugin writes until it has ended and nobody has its output open any more, or
    /// until the deadline.
    fn attend(mut self, deadline: Instant) -> io::Result<Outcome> {
        let Some(child) = &mut self.0 else {
            unreachable!("it is taken only below")
        };
        let mut stdout = Stream::new(child.stdout.take());
        let mut stderr = Stream::new(child.stderr.take());
        let mut process = Some(pidfd_open(Pid::from_child(child), PidfdFlags::empty())?);
        loop {
            let sources = [
                stdout
                    .pipe
                    .as_ref()
                    .map(|pipe| (Source::Stdout, pipe.as_fd())),
                stderr
                    .pipe
                    .as_ref()
                    .map(|pipe| (Source::Stderr, pipe.as_fd())),
                process
                    .as_ref()
                    .map(|process| (Source::Process, process.as_fd())),
            ];
            let (sources, mut events): (Vec<Source>, Vec<PollFd<'_>>) = sources
                .into_iter()
                .flatten()
                .map(|(source, fd)| (source, PollFd::from_borrowed_fd(fd, PollFlags::IN)))
                .unzip();
            if sources.is_empty() {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match poll(&mut events, Some(&timespec(left))) {
                Ok(0) => return Ok(Outcome::new(None, stdout, stderr)),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let ready: Vec<bool> = events.iter().map(|e| !e.revents().is_empty()).collect();
            for (source, _) in sources.into_iter().zip(ready).filter(|(_, ready)| *ready) {
                match source {
                    Source::Stdout => stdout.read()?,
                    Source::Stderr => stderr.read()?,
                    Source::Process => process = None,
                }
            }
        }
        let status = self.0.take().map(|mut child| child.wait()).transpose()?;
        Ok(Outcome::new(status, stdout, stderr))
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec {
        tv_sec: i64::MAX,
        tv_nsec: 0,
    })
}

/// One of a plugin's output streams.
struct Stream<P> {
    /// None at its end.
    pipe: Option<P>,
    kept: Vec<u8>,
    overflowed: bool,
}

impl<P: Read> Stream<P> {
    fn new(pipe: Option<P>) -> Self {
        Self {
            pipe,
            kept: Vec::new(),
            overflowed: false,
        }
    }

    /// Reads once, which does not block after the pipe was reported ready.
    fn read(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else {
            return Ok(());
        };
        let mut buffer = [0; 16 * 1024];
        let length = match pipe.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        };
        if length == 0 {
            self.pipe = None;
        }
        let room = length.min(KEPT - self.kept.len());
        self.kept.extend_from_slice(&buffer[..room]);
        self.overflowed |= room < length;
        Ok(())
    }
}

impl Outcome {
    fn new<O, E>(status: Option<ExitStatus>, stdout: Stream<O>, stderr: Stream<E>) -> Self {
        let overflowed = stdout.overflowed;
        Self {
            status,
            stdout: stdout.kept,
            stderr: stderr.kept,
            overflowed,
        }
    }
}

/// An error as a plugin reports it (CNI specification, section 5).
#[derive(Deserialize)]
struct Report {
    code: u64,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

fn interpret(call: &Call<'_>, outcome: Outcome) -> Result<Value, PluginFailure> {
    let Outcome {
        status,
        stdout,
        stderr,
        overflowed,
    } = outcome;
    let Some(status) = status else {
        return Err(PluginFailure::TimedOut {
            after: call.timeout,
            stdout,
            stderr,
        });
    };
    if !status.success() {
        return Err(match serde_json::from_slice(&stdout) {
            Ok(Report { code, msg, details }) => PluginFailure::Reported {
                code,
                message: msg,
                details,
                stderr,
            },
            Err(_) => PluginFailure::Exited {
                status,
                stdout,
                stderr,
            },
        });
    }
    if call.command != Command::Add {
        return Ok(Value::Null);
    }
    let reason = if overflowed {
        format!("it is longer than {KEPT} bytes")
    } else if stdout.trim_ascii().is_empty() {
        "it is empty".to_string()
    } else {
        match serde_json::from_slice(&stdout) {
            Ok(result @ Value::Object(_)) => return Ok(result),
            Ok(_) => "it is not a JSON object".to_string(),
            Err(error) => format!("it is not JSON: {error}"),
        }
    };
    Err(PluginFailure::Unreadable {
        reason,
        stdout,
        stderr,
    })
}
