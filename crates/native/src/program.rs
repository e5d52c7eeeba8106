//! Running another program to its end.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

/// Runs it without standard input and answers what it wrote and how it ended; none when that took
/// longer than `limit`, after which it is killed with what it has started.
pub(crate) async fn run(
    command: &mut Command,
    limit: Option<Duration>,
) -> io::Result<Option<Output>> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let group = child.id().and_then(|pid| i32::try_from(pid).ok());
    let mut ended = Box::pin(child.wait_with_output());
    let Some(limit) = limit else {
        return ended.await.map(Some);
    };
    if let Ok(output) = tokio::time::timeout(limit, &mut ended).await {
        return output.map(Some);
    }
    if let Some(group) = group.and_then(Pid::from_raw) {
        // It is not reaped before its end is waited for.
        let _ = kill_process_group(group, Signal::KILL);
    }
    ended.await.map(|_| None)
}

/// The last line of what a program has written that is not empty.
pub(crate) fn last_line(written: &[u8]) -> String {
    let text = String::from_utf8_lossy(written);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.unwrap_or("it said nothing").trim().to_owned()
}
