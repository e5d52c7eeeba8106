//! What a move has done so far, on disk: an entry before each step, with what was there, and one
//! after it. An entry is on the disk before what it announces begins.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::record::{Begun, Entry, Record};
use crate::Root;

/// Where journals are. It is no part of any runtime's own directory, which goes with its package.
pub const DIRECTORY: &str = "/var/lib/slipway-migrate";

/// The journal of the last move.
const JOURNAL: &str = "journal";

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody is at it.
    #[error(
        "another slipway migrate{who} is at work on this node: wait for it, or stop it and then resume"
    )]
    Busy {
        /// Its process id, where it said so.
        who: String,
    },
    /// A file of it cannot be used.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// An entry that makes no sense where it is.
    #[error("{}, line {line}: {why}; it was written by another version of slipway, or changed: finish with the one that wrote it", path.display())]
    Corrupt {
        /// The journal.
        path: PathBuf,
        /// Which one, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
}

/// A line of the journal.
#[derive(Serialize, Deserialize)]
struct Line<E> {
    /// Seconds since 1970, UTC.
    at: u64,
    #[serde(flatten)]
    entry: E,
}

/// The directory of journals, held by one process at a time.
#[derive(Debug)]
pub struct Journals {
    directory: PathBuf,
    _lock: File,
}

impl Journals {
    /// Makes the directory, and holds it.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] while another process holds it.
    pub fn hold(root: &Root) -> Result<Self, Error> {
        let directory = directory(root)?;
        let at = |path: &Path| file_error(path);
        // Files that others may not read are in it.
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory);
        made.map_err(at(&directory))?;
        let path = directory.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(at(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = lock.read_to_string(&mut pid);
                let who = match pid.trim() {
                    "" => String::new(),
                    pid => format!(" (process {pid})"),
                };
                return Err(Error::Busy { who });
            }
            Err(TryLockError::Error(source)) => return Err(Error::File { path, source }),
        }
        lock.set_len(0).map_err(at(&path))?;
        writeln!(lock, "{}", std::process::id()).map_err(at(&path))?;
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    /// Where copies are kept of what people changed in between.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The last move; nothing where there was none.
    ///
    /// # Errors
    ///
    /// A journal that cannot be read.
    pub fn last(&self) -> Result<Option<Journal>, Error> {
        let path = self.directory.join(JOURNAL);
        let Some((record, length)) = read(&path)? else {
            return Ok(None);
        };
        let file = OpenOptions::new().append(true).open(&path);
        let file = file.map_err(file_error(&path))?;
        // What was being written when the power went is no entry.
        file.set_len(length).map_err(file_error(&path))?;
        Ok(Some(Journal { path, file, record }))
    }

    /// Begins the journal of a new move; that of the last one is kept under the time of its
    /// beginning.
    ///
    /// # Errors
    ///
    /// What keeps it from being written.
    pub fn begin(&self, begun: Begun) -> Result<Journal, Error> {
        let path = self.directory.join(JOURNAL);
        if let Some((record, _)) = read(&path)? {
            let kept = self.directory.join(format!("{JOURNAL}-{}", record.at));
            fs::rename(&path, &kept).map_err(file_error(&path))?;
        }
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let mut file = file.map_err(file_error(&path))?;
        file.set_len(0).map_err(file_error(&path))?;
        let entry = Entry::Begun(Box::new(begun));
        let at = append(&mut file, &path, &entry)?;
        let directory = File::open(&self.directory).and_then(|directory| directory.sync_all());
        directory.map_err(file_error(&self.directory))?;
        let Entry::Begun(begun) = entry else {
            unreachable!("it was made above");
        };
        let record = Record::new(at, *begun);
        Ok(Journal { path, file, record })
    }

    /// Removes all that is here, once there is nothing left to take back.
    ///
    /// # Errors
    ///
    /// What cannot be removed.
    pub fn remove(self) -> Result<(), Error> {
        fs::remove_dir_all(&self.directory).map_err(file_error(&self.directory))
    }
}

/// The journal of one move.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    record: Record,
}

impl Journal {
    /// What it says.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Notes that what Docker has left is about to be removed: there is no way back from here.
    ///
    /// # Errors
    ///
    /// A move that is not done; and what keeps the entry from being written.
    pub fn begin_cleaning(&mut self) -> Result<(), Error> {
        self.add(&Entry::Cleaning)
    }

    /// Adds an entry, and waits until it is on the disk.
    pub(super) fn add(&mut self, entry: &Entry) -> Result<(), Error> {
        let mut record = self.record.clone();
        let accepted = record.accept(entry.clone());
        accepted.map_err(|why| Error::Corrupt {
            path: self.path.clone(),
            line: 0,
            why,
        })?;
        append(&mut self.file, &self.path, entry)?;
        self.record = record;
        Ok(())
    }
}

/// What the last move came to, without holding anything: it may be going on.
///
/// # Errors
///
/// A journal that cannot be read.
pub fn last(root: &Root) -> Result<Option<Record>, Error> {
    let path = directory(root)?.join(JOURNAL);
    Ok(read(&path)?.map(|(record, _)| record))
}

fn directory(root: &Root) -> Result<PathBuf, Error> {
    let path = Path::new(DIRECTORY);
    root.real(path).map_err(file_error(path))
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let path = path.to_path_buf();
    move |source| Error::File {
        path: path.clone(),
        source,
    }
}

fn append(file: &mut File, path: &Path, entry: &Entry) -> Result<u64, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let at = now.map_or(0, |now| now.as_secs());
    let written = serde_json::to_vec(&Line { at, entry }).map_err(io::Error::from);
    let written = written.and_then(|mut line| {
        line.push(b'\n');
        file.write_all(&line)?;
        file.sync_data()
    });
    written.map_err(file_error(path))?;
    Ok(at)
}

/// The record, and how long the journal is without an entry that was not finished.
fn read(path: &Path) -> Result<Option<(Record, u64)>, Error> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|mut file| {
        file.rewind()?;
        file.read_to_end(&mut bytes)
    }) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            let path = path.to_path_buf();
            return Err(Error::File { path, source });
        }
    }
    let whole = bytes.iter().rposition(|byte| *byte == b'\n');
    let whole = whole.map_or(0, |end| end + 1);
    let corrupt = |line: usize, why: String| Error::Corrupt {
        path: path.to_path_buf(),
        line,
        why,
    };
    let mut record: Option<Record> = None;
    for (number, line) in (1..).zip(bytes[..whole].split_inclusive(|byte| *byte == b'\n')) {
        let line: Line<Entry> =
            serde_json::from_slice(line).map_err(|error| corrupt(number, error.to_string()))?;
        match (&mut record, line.entry) {
            (None, Entry::Begun(begun)) => record = Some(Record::new(line.at, *begun)),
            (None, _) => return Err(corrupt(number, "nothing has begun".to_string())),
            (Some(record), entry) => record.accept(entry).map_err(|why| corrupt(number, why))?,
        }
    }
    Ok(record.map(|record| (record, whole as u64)))
}
