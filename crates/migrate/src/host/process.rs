//! Programs of the node, run to their end.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{ChildStdin, Command};
use tokio::time::timeout;

/// Where administrators' programs are; a job of cron or of systemd may have a shorter path.
const PROGRAMS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a program did not do what it was run for.
#[derive(Debug)]
pub(super) enum Failure {
    /// It could not be started.
    NotStarted(OsString, io::Error),
    /// It failed, with these words.
    Failed(OsString, ExitStatus, String),
    /// It took longer.
    Overdue(OsString, Duration),
    /// What it was to be given broke off.
    Input(String),
    /// Nothing of that came, or was taken.
    Silent(Duration),
    /// A file that it needs.
    File(PathBuf, io::Error),
    /// One that was started before has not ended; what it says is in the file.
    StillAtWork(PathBuf, Duration),
}

/// A command of a program, which speaks the language that all its readers know. Ctrl-C at the
/// terminal is for this process, and ends the program with it: one that ended by itself first would
/// be a step that has failed.
pub(super) fn command(program: &str) -> Command {
    // An empty name in it would be the current directory.
    let path = match std::env::var("PATH") {
        Ok(path) if !path.is_empty() => format!("{path}:{PROGRAMS}"),
        _ => PROGRAMS.to_string(),
    };
    let mut command = Command::new(program);
    command
        .env("PATH", path)
        .env("LC_ALL", "C")
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// Runs it with `input`, and returns what it wrote to its standard output.
pub(super) async fn run(
    command: &mut Command,
    input: &[u8],
    patience: Duration,
) -> Result<String, Failure> {
    let write = async |mut stdin: ChildStdin| {
        // One that does not want it all says so by how it ends.
        let _ = stdin.write_all(input).await;
        Ok(())
    };
    run_with(command, write, patience).await
}

/// Runs it with a stream as its input, which may take as long as it likes while something comes
/// and is taken: `patience` is for each piece, and for the end.
pub(super) async fn feed<B: AsRef<[u8]>, E: fmt::Display>(
    command: &mut Command,
    input: impl Stream<Item = Result<B, E>>,
    patience: Duration,
) -> Result<String, Failure> {
    let mut input = pin!(input);
    let write = async |mut stdin: ChildStdin| {
        loop {
            let piece = timeout(patience, input.next()).await;
            let piece = match piece.map_err(|_| Failure::Silent(patience))? {
                None => return Ok(()),
                Some(Err(error)) => return Err(Failure::Input(error.to_string())),
                Some(Ok(piece)) => piece,
            };
            match timeout(patience, stdin.write_all(piece.as_ref())).await {
                Ok(Ok(())) => {}
                // It has ended, and says why.
                Ok(Err(_)) => return Ok(()),
                Err(_) => return Err(Failure::Silent(patience)),
            }
        }
    };
    run_with(command, write, patience).await
}

async fn run_with(
    command: &mut Command,
    write: impl AsyncFnOnce(ChildStdin) -> Result<(), Failure>,
    patience: Duration,
) -> Result<String, Failure> {
    let program = command.as_std().get_program().to_os_string();
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Err(Failure::NotStarted(program, error)),
    };
    let stdin = child.stdin.take();
    // What it says is read meanwhile, for it would wait for that otherwise.
    let mut ended = pin!(child.wait_with_output());
    let mut output = None;
    if let Some(stdin) = stdin {
        let mut written = pin!(write(stdin));
        tokio::select! {
            written = &mut written => written?,
            early = &mut ended => output = Some(early),
        }
    }
    let output = match output {
        Some(output) => output,
        None => match timeout(patience, ended).await {
            Ok(output) => output,
            Err(_) => return Err(Failure::Overdue(program, patience)),
        },
    };
    let output = output.map_err(|error| Failure::NotStarted(program.clone(), error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
        return Err(Failure::Failed(program, output.status, said));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Failure {
    /// Whether there is no such program.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::NotStarted(_, error) if error.kind() == io::ErrorKind::NotFound)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted(program, error) => {
                write!(out, "{} cannot be run: {error}", program.display())
            }
            Self::Failed(program, status, said) => {
                write!(out, "{} ended with {status}: {said}", program.display())
            }
            Self::Overdue(program, patience) => write!(
                out,
                "{} has not ended after {} s",
                program.display(),
                patience.as_secs()
            ),
            Self::Input(error) => write!(out, "what it was given broke off: {error}"),
            Self::Silent(patience) => {
                write!(out, "nothing has happened for {} s", patience.as_secs())
            }
            Self::File(path, error) => write!(out, "{}: {error}", path.display()),
            Self::StillAtWork(path, patience) => write!(
                out,
                "what was started before has not ended after {} s; fuser {path} shows its processes, and {path} what it says",
                patience.as_secs(),
                path = path.display()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_at_the_terminal_is_for_us_and_not_for_what_we_run() {
        // The fifth field of proc_pid_stat(5).
        let mut command = command("cut");
        command.args(["-d", " ", "-f", "1,5", "/proc/self/stat"]);
        let said = run(&mut command, b"", Duration::from_mins(1)).await;
        let said = said.unwrap_or_else(|failure| panic!("{failure}"));
        let (process, group) = said.trim().split_once(' ').unwrap();
        assert_eq!(process, group, "it is in our process group");
    }
}
