//! What a runtime says when it fails: its log, or else what it writes to standard error.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, OFlags};
use serde::Deserialize;

use crate::failure::{Explain, Outcome};
use crate::protocol::Failure;

/// How much of it is read, in bytes. It is the end that counts.
const MAX: usize = 8 * 1024;

/// How much of what is no log goes into an error message, in characters.
const MAX_TEXT: usize = 1024;

/// Where one command leaves its messages.
#[derive(Debug)]
pub(super) struct Messages {
    log: PathBuf,
    error: OwnedFd,
}

/// A line of the log (`--log-format json`).
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    level: String,
    msg: String,
}

impl Drop for Messages {
    fn drop(&mut self) {
        // A command that has nothing to say makes none.
        let _ = fs::remove_file(&self.log);
    }
}

impl Messages {
    pub(super) fn new(log: PathBuf) -> Outcome<Self> {
        let error = rustix::fs::memfd_create("runtime", MemfdFlags::CLOEXEC)
            .system(|| "make room for a runtime's messages")?;
        Ok(Self { log, error })
    }

    /// The log's path.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// A standard error that is nobody else's.
    pub(super) fn error(&self) -> BorrowedFd<'_> {
        self.error.as_fd()
    }

    /// The last error that was said.
    pub(super) fn reason(&self) -> Option<String> {
        logged(&self.log).or_else(|| {
            let mut bytes = vec![0; MAX];
            let length = rustix::io::pread(&self.error, &mut bytes[..], 0).ok()?;
            text(&bytes[..length])
        })
    }
}

/// The last error in a log.
fn logged(path: &Path) -> Option<String> {
    let mut log = fs::File::open(path).ok()?;
    let length = log.metadata().ok()?.len();
    let start = length.saturating_sub(MAX as u64);
    std::io::Seek::seek(&mut log, std::io::SeekFrom::Start(start)).ok()?;
    let mut bytes = Vec::new();
    log.take(MAX as u64).read_to_end(&mut bytes).ok()?;
    last_error(&bytes)
}

fn last_error(log: &[u8]) -> Option<String> {
    let lines = log.split(|byte| *byte == b'\n').rev();
    lines
        .filter_map(|line| serde_json::from_slice::<Line>(line).ok())
        .find(|line| matches!(line.level.as_str(), "error" | "fatal" | "panic" | ""))
        .map(|line| line.msg)
}

/// What waits in a pipe that nobody has read yet.
pub(super) fn waiting_in(pipe: &OwnedFd) -> Option<String> {
    rustix::fs::fcntl_setfl(pipe, OFlags::NONBLOCK).ok()?;
    let mut bytes = vec![0; MAX];
    let length = rustix::io::read(pipe, &mut bytes[..]).ok()?;
    text(&bytes[..length])
}

/// Words for an error message: in one line, and not too many.
fn text(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let text: String = lines.join("; ").chars().take(MAX_TEXT).collect();
    (!text.is_empty()).then_some(text)
}

/// A runtime's refusal. That a command which is not in the container is the request's fault shows
/// in its words alone: runc's begin with `exec: "`, crun's with "executable file".
pub(super) fn failure(doing: &str, reason: &str) -> Failure {
    let message = format!("{doing}: {reason}");
    let of_the_request = ["exec: \"", "executable file"];
    if of_the_request.iter().any(|words| reason.contains(words)) {
        Failure::invalid(message)
    } else {
        Failure::system(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::FailureKind;

    #[test]
    fn the_last_error_of_a_log_counts() {
        let log = br#"{"level":"info","msg":"a","time":"2026"}
{"level":"error","msg":"first"}
{"level":"error","msg":"exec: \"x\": not there"}
{"level":"warning","msg":"later"}
"#;
        assert_eq!(last_error(log).as_deref(), Some("exec: \"x\": not there"));
        // Cut off at its beginning, and at its end.
        let cut = &log[10..100];
        assert_eq!(last_error(cut).as_deref(), Some("first"));
        assert_eq!(last_error(&log[130..150]), None);
        assert_eq!(last_error(b"not JSON\n"), None);
        assert_eq!(last_error(b""), None);
    }

    #[test]
    fn text_is_one_line_of_bounded_length() {
        assert_eq!(text(b" one\n\n two \n").as_deref(), Some("one; two"));
        assert_eq!(text(b"\n"), None);
        assert_eq!(text(&[b'x'; 5000]).unwrap().len(), MAX_TEXT);
        assert!(text(b"\xff\xfe").is_some());
    }

    #[test]
    fn a_command_that_is_not_there_is_the_requests_fault() {
        let kind = |reason| failure("runc create", reason).kind;
        let missing = "unable to start container process: exec: \"x\": executable file not found \
                       in $PATH";
        assert_eq!(kind(missing), FailureKind::Invalid);
        assert_eq!(kind("exit code 1"), FailureKind::System);
    }
}
