//! A log's file.

use std::fs::File;
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
        let file = slipway_log::open(&path).ok();
        Self { path, file }
    }

    /// Opens the path anew; on failure the old file stays in use.
    pub(super) fn reopen(&mut self) -> Outcome<()> {
        let file = slipway_log::open(&self.path);
        self.file = Some(file.system(|| format!("open the log {}", self.path.display()))?);
        Ok(())
    }

    /// Appends lines, each with its newline.
    pub(super) fn append(&mut self, lines: &[u8]) {
        if let Some(file) = &mut self.file {
            let _ = slipway_log::append(file, lines);
        }
    }
}
