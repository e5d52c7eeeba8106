//! The record of attachments: what it takes to undo an ADD, and the lock of each pod.
//!
//! A pod has a directory, named by its id:
//!
//! - `input` is what plugins have as their standard input, and is locked (flock(2)) while an
//!   operation runs. The lock belongs to the open file, which a plugin inherits: it outlives a
//!   daemon that is killed for as long as its plugin does.
//! - `attachment.json` is the pod's parameters and the configuration, written before the first
//!   plugin runs. The attachment exists while this file does.
//! - `results` has the result of each plugin whose ADD succeeded, one a line.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;
use crate::attachment::Attachment;
use crate::conflist::{Conflist, is_identifier};

const INPUT: &str = "input";
const ATTACHMENT: &str = "attachment.json";
const RESULTS: &str = "results";
/// What a file is called until it is complete; left only by a crash.
const INCOMPLETE: &str = "incomplete";

/// The directory of all pods.
pub(crate) struct Cache {
    directory: PathBuf,
}

/// One pod's directory, with its lock held. Its files stay until [`Entry::remove`].
pub(crate) struct Entry {
    directory: PathBuf,
    input: File,
}

/// What was to be done for a pod.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) attachment: Attachment,
    /// Where the configuration was read from.
    pub(crate) file: PathBuf,
    pub(crate) list: Conflist,
    /// Another runtime's record of it, where that one has made it.
    #[serde(default)]
    pub(crate) foreign: Option<PathBuf>,
}

/// What there is to undo.
pub(crate) enum Recorded {
    /// No plugin has run, or all of it has been undone.
    Nothing,
    /// An ADD has begun.
    Attachment(Box<Record>),
    /// An ADD has begun, and what it was given has been lost.
    Damaged(String),
}

impl Cache {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The ids of pods that have a directory, in no order.
    pub(crate) fn pods(&self) -> Result<Vec<String>, Error> {
        let failed = |source| failure("list the attachments in", &self.directory, source);
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut pods = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            pods.extend(name.into_string().ok().filter(|name| is_identifier(name)));
        }
        Ok(pods)
    }

    /// Makes a pod's directory, if it has none, and locks it.
    pub(crate) fn create(&self, pod_id: &str, patience: Duration) -> Result<Entry, Error> {
        let directory = self.directory.join(pod_id);
        loop {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .map_err(|source| failure("create", &directory, source))?;
            // None only if a delete has removed the directory in between.
            if let Some(entry) = self.open(pod_id, patience)? {
                return Ok(entry);
            }
        }
    }

    /// Locks a pod's directory, if it has one.
    pub(crate) fn open(&self, pod_id: &str, patience: Duration) -> Result<Option<Entry>, Error> {
        let directory = self.directory.join(pod_id);
        let path = directory.join(INPUT);
        loop {
            let opened = writable().read(true).truncate(false).open(&path);
            let file = match opened {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(failure("open", &path, error)),
            };
            let input = lock(file, patience)
                .map_err(|source| failure("lock", &path, source))?
                .ok_or_else(|| Error::Busy {
                    pod_id: pod_id.to_string(),
                    path: path.clone(),
                    waited: patience,
                })?;
            // Whoever held the lock may have removed the file; then it locks nothing any more.
            if is_still_at(&input, &path) {
                return Ok(Some(Entry { directory, input }));
            }
        }
    }
}

/// Locks a file, waiting for at most `patience`; none if that was not enough.
fn lock(file: File, patience: Duration) -> io::Result<Option<File>> {
    match file.try_lock() {
        Ok(()) => return Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // flock(2) has no timeout. A thread that gets the lock too late finds nobody to give it to, and
    // closes the file.
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new()
        .name("cni-lock".into())
        .spawn(move || {
            let locked = file.lock().map(|()| file);
            let _ = sender.send(locked);
        })?;
    receiver.recv_timeout(patience).ok().transpose()
}

fn is_still_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(opened), Ok(named)) => (opened.dev(), opened.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

impl Entry {
    pub(crate) fn input(&self) -> &File {
        &self.input
    }

    /// Records what is about to be done.
    ///
    /// It is not forced to the disk. What plugins write later (host-local's addresses, say) does not
    /// outlive a power failure without this file's name; if only its content is lost, that is found
    /// out ([`Recorded::Damaged`]).
    pub(crate) fn begin(&self, record: &Record) -> Result<(), Error> {
        let path = self.directory.join(ATTACHMENT);
        let incomplete = self.directory.join(INCOMPLETE);
        let write = || {
            let mut file = writable().truncate(true).open(&incomplete)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            fs::rename(&incomplete, &path)
        };
        write().map_err(|source| failure("write", &path, source))
    }

    /// Records what a plugin has done. The file is appended to: to replace it would make file
    /// systems write it to the disk at once, and its removal wait for that.
    pub(crate) fn progress(&self, result: &Value) -> Result<(), Error> {
        let path = self.directory.join(RESULTS);
        let line = format!("{result}\n");
        let write = || {
            writable()
                .append(true)
                .open(&path)?
                .write_all(line.as_bytes())
        };
        write().map_err(|source| failure("write", &path, source))
    }

    pub(crate) fn record(&self) -> Result<Recorded, Error> {
        let Some(content) = self.read(ATTACHMENT)? else {
            return Ok(Recorded::Nothing);
        };
        Ok(match serde_json::from_slice(&content) {
            Ok(record) => Recorded::Attachment(Box::new(record)),
            Err(error) => Recorded::Damaged(error.to_string()),
        })
    }

    /// The last result, if there is one that can be read.
    pub(crate) fn result(&self) -> Result<Option<Value>, Error> {
        let content = self.read(RESULTS)?.unwrap_or_default();
        let mut lines = content.rsplit(|byte| *byte == b'\n');
        Ok(lines.find_map(|line| serde_json::from_slice(line).ok()))
    }

    /// Forgets the attachment.
    pub(crate) fn remove(self) -> Result<(), Error> {
        // In this order, so that what remains after a crash says that there is nothing to undo.
        for name in [ATTACHMENT, RESULTS, INCOMPLETE, INPUT] {
            let path = self.directory.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failure("remove", &path, error));
                }
                _ => {}
            }
        }
        match fs::remove_dir(&self.directory) {
            // A create that waits for this very lock may have begun the directory anew.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(|source| failure("remove", &self.directory, source)),
        }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.directory.join(name);
        match fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failure("read", &path, error)),
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Closing would not do while a process that a plugin has left behind has the file open.
        if let Err(error) = self.input.unlock() {
            tracing::warn!(directory = %self.directory.display(), %error, "cannot unlock");
        }
    }
}

/// For a file that is made when it is not there, for the daemon's eyes only.
fn writable() -> fs::OpenOptions {
    let mut options = File::options();
    options.write(true).create(true).mode(0o600);
    options
}

fn failure(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Cache {
        action,
        path: path.to_owned(),
        source,
    }
}
