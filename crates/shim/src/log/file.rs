//! A log's file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::failure::{Explain, Outcome};

/// A file that whole lines are appended to. What cannot be written is dropped, and the next lines
/// are tried again.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
}

impl LogFile {
    pub(super) fn open(path: PathBuf) -> Self {
        let file = open(&path).ok();
        Self { path, file }
    }

    /// Opens the path anew; on failure the old file stays in use.
    pub(super) fn reopen(&mut self) -> Outcome<()> {
        let file = open(&self.path).system(|| format!("open the log {}", self.path.display()))?;
        self.file = Some(file);
        Ok(())
    }

    /// Appends lines, each with its newline.
    pub(super) fn append(&mut self, lines: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let mut written = 0;
        while written < lines.len() {
            match file.write(&lines[written..]) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let torn = lines[..written]
            .iter()
            .rev()
            .take_while(|byte| **byte != b'\n')
            .count();
        if torn > 0 {
            // Nobody else writes the file: what is at its end is ours to take back, lest the next
            // line be glued to half of this one.
            if let Ok(metadata) = file.metadata() {
                let _ = file.set_len(metadata.len().saturating_sub(torn as u64));
            }
        }
    }
}

/// A log lies in a directory that a container may have mounted: a symbolic link in its place must
/// not lead the shim to another file, nor a pipe make it wait.
fn open(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}
