//! The log itself: the file in CRI's format, where the kubelet looks for it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use slipway_log::{Cut, append, open, open_existing};

/// A log that is appended to.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    file: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    inode: u64,
    /// How long it is, less what of it is to come once more.
    length: u64,
    /// How much of what comes next is at its end already: written by a daemon that was killed before it
    /// could note that.
    already: u64,
}

impl Open {
    fn new(file: File, length: Option<u64>) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let there = metadata.len();
        let length = length.unwrap_or(there).min(there);
        Ok(Self {
            file,
            inode: metadata.ino(),
            length,
            already: there - length,
        })
    }

    fn cut(&mut self) -> io::Result<()> {
        if self.already > 0 {
            self.file.set_len(self.length)?;
            self.already = 0;
        }
        Ok(())
    }
}

impl Target {
    /// A log that is to be begun, or gone on with, when there is something to write.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// A log that was of this length when that was noted. The kubelet may have renamed it
    /// and not have come to say so; what it wants to be in the new file is what comes after that.
    pub(super) fn resume(path: PathBuf, inode: u64, length: u64) -> io::Result<Self> {
        let file = find(&path, inode, length)?;
        let file = file.map(|file| Open::new(file, Some(length))).transpose()?;
        Ok(Self { path, file })
    }

    /// The file's inode and length, as they are to be noted; zeros where there is none.
    pub(super) fn noted(&self) -> (u64, u64) {
        let file = self.file.as_ref();
        file.map_or((0, 0), |open| (open.inode, open.length))
    }

    /// Sees to it that there is a file.
    pub(super) fn open(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(Open::new(open(&self.path)?, None)?);
        }
        Ok(())
    }

    /// Opens the path anew; on failure the old file stays in use.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let new = Open::new(open(&self.path)?, None)?;
        self.forget_what_is_to_come()?;
        self.file = Some(new);
        Ok(())
    }

    /// Takes away what was written and not noted, for it will not come once more.
    pub(super) fn forget_what_is_to_come(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Open::cut)
    }

    /// Whether what comes next is there already.
    pub(super) fn is_behind(&self) -> bool {
        self.file.as_ref().is_some_and(|open| open.already > 0)
    }

    /// Appends whole lines.
    pub(super) fn append(&mut self, lines: &[u8]) -> Result<(), Cut> {
        let failed = |error| Cut { written: 0, error };
        self.open().map_err(failed)?;
        let Some(open) = &mut self.file else {
            return Ok(());
        };
        let there = lines
            .len()
            .min(usize::try_from(open.already).unwrap_or(usize::MAX));
        let new = &lines[there..];
        let appended = append(&mut open.file, new);
        open.already -= there as u64;
        open.length += there as u64;
        if !new.is_empty() {
            open.length = open.file.metadata().map_err(failed)?.len();
        }
        appended.map_err(|cut| Cut {
            written: there + cut.written,
            error: cut.error,
        })
    }
}

/// Looks for a file by its inode, at a path or, as kubelets rename logs, beside it under a name that
/// begins with the path's.
fn find(path: &Path, inode: u64, length: u64) -> io::Result<Option<File>> {
    let opened = |path: &Path, least: u64| match open_existing(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(file) => {
            let metadata = file.metadata()?;
            Ok((metadata.ino() == inode && metadata.len() >= least).then_some(file))
        }
    };
    if inode == 0 {
        return Ok(None);
    }
    if let Some(file) = opened(path, 0)? {
        return Ok(Some(file));
    }
    let mut start = path.file_name().unwrap_or_default().to_owned();
    start.push(".");
    let start = start.to_string_lossy().into_owned();
    let entries = path.parent().map(std::fs::read_dir);
    for entry in entries.and_then(Result::ok).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(&start) {
            continue;
        }
        if let Ok(Some(file)) = opened(&entry.path(), length) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}
