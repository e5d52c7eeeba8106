//! A log's file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Lines that were not all appended.
#[derive(Debug)]
pub struct Cut {
    /// How many bytes were: whole lines.
    pub written: usize,
    /// Why the others were not.
    pub error: io::Error,
}

/// Appends lines, each with its newline. Blocking.
///
/// # Errors
///
/// Where not all could be written; of a line that was begun nothing is left.
pub fn append(file: &mut File, lines: &[u8]) -> Result<(), Cut> {
    let mut written = 0;
    let error = loop {
        if written == lines.len() {
            return Ok(());
        }
        match file.write(&lines[written..]) {
            Ok(0) => break io::ErrorKind::WriteZero.into(),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break error,
        }
    };
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
    Err(Cut {
        written: written - torn,
        error,
    })
}

/// Opens a log, or makes it.
///
/// It lies in a directory that a container may have mounted: a symbolic link in its place leads to
/// no other file, and a pipe makes nobody wait.
///
/// # Errors
///
/// Those of open(2).
pub fn open(path: &Path) -> io::Result<File> {
    options().create(true).mode(0o640).open(path)
}

/// As [`open`], where there is one.
///
/// # Errors
///
/// Those of open(2).
pub fn open_existing(path: &Path) -> io::Result<File> {
    options().open(path)
}

fn options() -> OpenOptions {
    let mut options = File::options();
    options
        .append(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_appended_and_a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        assert!(open_existing(&log).is_err());
        append(&mut open(&log).unwrap(), b"a\n").unwrap();
        append(&mut open_existing(&log).unwrap(), b"b\nc\n").unwrap();
        assert_eq!(std::fs::read(&log).unwrap(), b"a\nb\nc\n");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&log, &link).unwrap();
        assert!(open(&link).is_err());
    }
}
