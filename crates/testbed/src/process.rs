//! Processes: those that the testbed starts, and those that its runtimes leave running.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::Scratch;
use crate::wait::within;

/// The variable that marks every process of a scratch directory, and what they start in turn.
pub(crate) const MARK: &str = "SLIPWAY_TESTBED";

/// Where plugins and runtimes look for programs; a bare `sudo` or CI shell may lack the `sbin`s.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where programs are looked for when those of a directory come first.
pub(crate) fn path_with(directory: &Path) -> OsString {
    let mut path = directory.as_os_str().to_owned();
    path.push(":");
    path.push(PATH);
    path
}

/// A process that the testbed started; it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `<scratch>/<name>.log`, and notes its pid and
    /// start time there, by which a later run can end it if this one is killed.
    pub(crate) fn spawn(scratch: &Scratch, name: &str, command: &mut Command) -> Result<Self> {
        let log = scratch.path().join(format!("{name}.log"));
        let output = OpenOptions::new().create(true).append(true).open(&log)?;
        if !command.get_envs().any(|(name, _)| name == "PATH") {
            command.env("PATH", PATH);
        }
        let child = command
            .env(MARK, scratch.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| {
                format!("cannot start {name} ({})", command.get_program().display())
            })?;
        let process = Self { child, log };
        record(scratch.path(), process.pid())?;
        Ok(process)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// What it has written so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last `lines` lines of the log, for an error message.
    pub(crate) fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<_> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Whether it has ended by itself, and how.
    pub(crate) fn exited(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Ends it by SIGKILL and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end (SIGTERM); true if it did so within `limit`. Otherwise it is killed.
    pub(crate) fn terminate(&mut self, limit: Duration) -> bool {
        if self.exited().is_none() {
            signal(self.pid(), Signal::TERM);
        }
        let ended = within(limit, || self.exited().is_some());
        self.kill();
        ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A running process that belongs to a scratch directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its process id.
    pub pid: i32,
    /// Its command line, with blanks between the arguments.
    pub command: String,
}

/// The processes that were started under `scratch`, directly or by what was started there, or
/// whose command line, executable, working or root directory lies in it. Zombies do not count.
pub fn of(scratch: &Path) -> Vec<Found> {
    matching(|pid| is_marked(pid, scratch) || refers(pid, scratch))
}

/// Ends what is left of the processes of `scratch`, and waits until they are gone.
///
/// Killed are those that were recorded when they were started, those that carry the directory's
/// mark in their environment, and shims (which have no environment) of a pod in there; somebody
/// else's `tail -f` of a log in there is not.
pub(crate) fn kill_all(scratch: &Path) {
    for pid in recorded(scratch) {
        kill(pid);
    }
    kill_strays(scratch);
}

/// Ends the marked processes and shims of `scratch` that the testbed has not started itself: what
/// a daemon left when it ended. Waits until they are gone.
pub(crate) fn kill_strays(scratch: &Path) {
    within(Duration::from_secs(5), || {
        let started = recorded(scratch);
        let left = matching(|pid| {
            !started.contains(&pid) && (is_marked(pid, scratch) || is_shim(pid, scratch))
        });
        for process in &left {
            kill(process.pid);
        }
        left.is_empty()
    });
}

/// Sends SIGKILL to `pid`; one that is gone already is fine.
pub(crate) fn kill(pid: i32) {
    signal(pid, Signal::KILL);
}

/// Sends a signal to `pid` if it is still the process that it was when this function began.
pub(crate) fn signal(pid: i32, signal: Signal) {
    let Some(pid) = Pid::from_raw(pid) else {
        return;
    };
    if let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) {
        let _ = pidfd_send_signal(&handle, signal);
    }
}

/// The proportional set size of a process in bytes (`Pss` of `/proc/<pid>/smaps_rollup`), or
/// `None` when it is gone.
pub fn pss(pid: i32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// When a process was started, in clock ticks since boot; `None` if there is none or it is a
/// zombie. Together with the pid this names a process for good.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of `/proc/<pid>/stat`; the second field, the name, may hold blanks and parentheses.
fn parse_stat(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

pub(crate) fn record(scratch: &Path, pid: i32) -> Result<()> {
    let Some(started) = start_time(pid) else {
        return Ok(());
    };
    let mut ledger: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(scratch.join("processes"))?;
    writeln!(ledger, "{pid} {started}")?;
    Ok(())
}

/// The recorded processes that still run: same pid and same start time.
pub(crate) fn recorded(scratch: &Path) -> Vec<i32> {
    let ledger = fs::read_to_string(scratch.join("processes")).unwrap_or_default();
    ledger
        .lines()
        .filter_map(|line| {
            let (pid, started) = line.split_once(' ')?;
            Some((pid.parse().ok()?, started.parse().ok()?))
        })
        .filter(|&(pid, started): &(i32, u64)| start_time(pid) == Some(started))
        .map(|(pid, _)| pid)
        .collect()
}

fn matching(belongs: impl Fn(i32) -> bool) -> Vec<Found> {
    let own = std::process::id().cast_signed();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| pid != own && start_time(pid).is_some() && belongs(pid))
        .map(|pid| Found {
            pid,
            command: command_line(pid),
        })
        .collect()
}

fn command_line(pid: i32) -> String {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&raw)
        .trim_end_matches('\0')
        .replace('\0', " ")
}

fn is_marked(pid: i32, scratch: &Path) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let expected = [MARK.as_bytes(), b"=", scratch.as_os_str().as_bytes()].concat();
    environment
        .split(|&byte| byte == 0)
        .any(|entry| entry == expected)
}

/// Whether this is a `slipway-shim` that was started for a pod directory below `scratch`, or the
/// init process that it has forked for the pod.
fn is_shim(pid: i32, scratch: &Path) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|&byte| byte == 0);
    words.next() == Some(b"slipway-shim")
        && words
            .next()
            .is_some_and(|word| Path::new(OsStr::from_bytes(word)).starts_with(scratch))
}

fn refers(pid: i32, scratch: &Path) -> bool {
    let links = ["cwd", "root", "exe"];
    links.iter().any(|link| {
        fs::read_link(format!("/proc/{pid}/{link}")).is_ok_and(|path| path.starts_with(scratch))
    }) || fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        line.split(|&byte| byte == 0)
            .any(|word| mentions(word, scratch))
    })
}

/// Whether an argument holds the path of `scratch`, followed by its end or by a slash.
fn mentions(argument: &[u8], scratch: &Path) -> bool {
    let path = scratch.as_os_str().as_bytes();
    argument
        .windows(path.len())
        .enumerate()
        .any(|(at, window)| {
            window == path && matches!(argument.get(at + path.len()), None | Some(b'/'))
        })
}

/// Runs a program of the host to its end and returns what it printed.
///
/// # Errors
/// When it cannot be started or fails; the message has its own words.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments.iter().map(OsStr::new))
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    anyhow::bail!(
        "{program} {}: {}, {}",
        arguments.join(" "),
        output.status,
        words.trim()
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};

    use super::*;

    #[test]
    fn the_start_time_is_read_past_a_name_with_parentheses() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2 3";
        assert_eq!(parse_stat(stat), Some(4242));
        assert_eq!(parse_stat(&stat.replace(" S ", " Z ")), None);
        assert_eq!(parse_stat("garbage"), None);
    }

    #[test]
    fn an_argument_mentions_a_directory_only_as_a_whole_component() {
        let scratch = Path::new("/var/tmp/slw/1");
        assert!(mentions(b"--root=/var/tmp/slw/1/root", scratch));
        assert!(mentions(b"/var/tmp/slw/1", scratch));
        assert!(!mentions(b"/var/tmp/slw/12/root", scratch));
        assert!(!mentions(b"/var/tmp", scratch));
    }

    #[test]
    fn a_shim_without_an_environment_is_ended_and_a_reader_of_the_directory_is_not() {
        let scratch = Scratch::new().unwrap();
        let script = scratch.join("script");
        fs::write(&script, "read line").unwrap();
        let start = |name: &str| {
            let mut command = Command::new("/bin/sh");
            command
                .arg0(name)
                .arg(&script)
                .env_clear()
                .stdin(Stdio::piped());
            command.spawn().unwrap()
        };
        let (mut shim, mut reader) = (start("slipway-shim"), start("tail"));
        // Both must have become what they are started as before they can be told apart.
        assert!(within(Duration::from_secs(5), || of(scratch.path()).len() == 2));
        kill_strays(scratch.path());
        let status = shim.wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
        assert_eq!(reader.try_wait().unwrap(), None);
        reader.kill().unwrap();
        reader.wait().unwrap();
    }

    #[test]
    fn this_process_has_a_start_time_and_memory() {
        let own = std::process::id().cast_signed();
        assert!(start_time(own).is_some());
        assert!(pss(own).is_some_and(|bytes| bytes > 4096));
        assert_eq!(pss(-1), None);
    }
}
