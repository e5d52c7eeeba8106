//! Reading Docker's files of one container and writing its log. All of it blocks.
//!
//! Lines are written first, and then it is noted how far: a daemon that was killed in between finds
//! more in the log than was noted, and passes over as much of what it writes once more, for the same
//! records make the same lines.

use std::io;
use std::path::{Path, PathBuf};

use super::entry::{Damaged, convert};
use super::link;
use super::position::Position;
use super::source::{self, Found, Source};
use super::target::Target;

/// How much is read at once, in bytes; more for a record that is longer.
const BATCH: usize = 128 * 1024;

/// The longest record that is read; Docker's own are shorter than a hundredth of it.
const LONGEST: usize = 8 * 1024 * 1024;

/// How much is read before somebody else has a turn, in bytes.
const TURN: usize = 4 * 1024 * 1024;

/// Where everything of a container's log is.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    /// Docker's file that is written.
    pub(super) docker: PathBuf,
    /// The log.
    pub(super) log: PathBuf,
    /// Where it is noted how far it is written.
    pub(super) position: PathBuf,
}

/// Whether there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Everything that Docker has written is in the log.
    UpToDate,
    /// There is more, and others wait.
    More,
}

/// A log and how far it is written.
#[derive(Debug)]
pub(super) struct Follower {
    /// As it is told.
    id: String,
    paths: Paths,
    source: Source,
    /// How much of the source is in the log.
    offset: u64,
    target: Target,
    noted: Option<Position>,
    told: Told,
}

/// What was told of this log, and is not told again.
#[derive(Debug, Default)]
struct Told {
    missing: bool,
    damaged: bool,
}

impl Follower {
    /// Begins a log with the oldest that Docker has of it, or goes on with one.
    pub(super) fn open(id: &str, paths: Paths) -> io::Result<Self> {
        let noted = named(&paths.position, Position::read(&paths.position))?;
        let mut told = Told::default();
        let (source, offset, target) = match noted {
            None => begin(&paths)?,
            Some(position) => go_on(id, &paths, position, &mut told)?,
        };
        let mut follower = Self {
            id: id.to_owned(),
            paths,
            source,
            offset,
            target,
            noted,
            told,
        };
        // Where it cannot be noted, that is told of when it is written.
        let _ = follower.note();
        Ok(follower)
    }

    /// Writes what Docker has written.
    ///
    /// # Errors
    ///
    /// Where that cannot be done now. Nothing is lost by it: the next call goes on there.
    pub(super) fn proceed(&mut self) -> io::Result<Progress> {
        let mut batch = Batch::default();
        let mut taken = 0;
        loop {
            // Before it is read to its end: once there is a newer one, nothing is added to it.
            let written = named(&self.paths.docker, source::inode(&self.paths.docker))?;
            let over = written.is_some_and(|inode| inode != self.source.identity().inode);
            loop {
                let count = self.batch(&mut batch)?;
                taken += count;
                if count == 0 {
                    break;
                }
                if taken >= TURN {
                    self.note()?;
                    return Ok(Progress::More);
                }
            }
            if !over || !self.next()? {
                self.note()?;
                return Ok(Progress::UpToDate);
            }
        }
    }

    /// Opens the log's path anew; on failure the old file stays in use.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if self.target.is_behind() {
            self.proceed()?;
        }
        named(&self.paths.log, self.target.reopen())?;
        self.note()
    }

    /// Removes what was noted of a log that nobody will go on with.
    pub(super) fn forget(self) {
        remove_position(&self.paths.position);
    }

    /// Writes what is there of a file, as much as is read at once. Answers how many bytes of it.
    fn batch(&mut self, batch: &mut Batch) -> io::Result<usize> {
        let read = batch.read(&mut self.source, self.offset);
        let whole = named(&self.paths.docker, read)?;
        if whole == 0 {
            if named(&self.paths.docker, self.source.is_cut(self.offset))? {
                self.tell_missing("Docker has begun its only file of this log anew");
                self.source.begin_anew();
                self.offset = 0;
                return self.batch(batch);
            }
            return Ok(0);
        }
        if batch.convert(whole) == Err(Damaged) && !self.told.damaged {
            self.told.damaged = true;
            tracing::warn!(
                container = self.id,
                file = %self.paths.docker.display(),
                "records in Docker's file of a log are not whole, and are left out"
            );
        }
        self.source.identify()?;
        let (done, failed) = match self.target.append(&batch.lines) {
            Ok(()) => (whole, Ok(())),
            Err(cut) => {
                let failed = named(&self.paths.log, Err(cut.error));
                (batch.of_lines(cut.written), failed)
            }
        };
        self.offset += done as u64;
        // What could not be noted is noted later, or else told of.
        let _ = self.note();
        failed?;
        Ok(done)
    }

    /// Goes on with the file that Docker began after one that was read to its end.
    fn next(&mut self) -> io::Result<bool> {
        let found = source::find(&self.paths.docker, self.source.identity());
        let next = match named(&self.paths.docker, found)? {
            Found::Known(_, None) | Found::Nothing => return Ok(false),
            Found::Known(_, Some(next)) => next,
            // In the file that it had begun with there was nothing.
            Found::Others { oldest, .. } if self.source.identity().first == 0 => oldest,
            Found::Others { oldest, alone } => {
                self.tell_missing(if alone {
                    "Docker keeps one file of this log (max-file of its log options), and removes \
                     what it may just have written"
                } else {
                    "Docker has removed files of this log before they were read"
                });
                oldest
            }
        };
        (self.source, self.offset) = (next, 0);
        let _ = self.note();
        Ok(true)
    }

    /// Notes how far the log is written, unless that is noted.
    fn note(&mut self) -> io::Result<()> {
        let (log_inode, log_length) = self.target.noted();
        let position = Position {
            source: self.source.identity(),
            offset: self.offset,
            log_inode,
            log_length,
        };
        if self.noted != Some(position) {
            named(&self.paths.position, position.write(&self.paths.position))?;
            self.noted = Some(position);
        }
        Ok(())
    }

    fn tell_missing(&mut self, why: &str) {
        tell_missing(&self.id, &self.paths, &mut self.told, why);
    }
}

fn begin(paths: &Paths) -> io::Result<(Source, u64, Target)> {
    // What is left of a container of the same name and attempt.
    link::remove(&paths.log);
    let source = named(&paths.docker, source::oldest(&paths.docker))?;
    let mut target = Target::new(paths.log.clone());
    // A kubelet looks for it as soon as the container runs. Where it cannot be made now, it will
    // be, or will be told of, when there is something to write.
    let _ = target.open();
    Ok((source, 0, target))
}

fn go_on(
    id: &str,
    paths: &Paths,
    position: Position,
    told: &mut Told,
) -> io::Result<(Source, u64, Target)> {
    let target = Target::resume(paths.log.clone(), position.log_inode, position.log_length);
    let mut target = named(&paths.log, target)?;
    if position.source.first == 0 {
        // It had begun with a file in which there was nothing yet.
        let source = named(&paths.docker, source::oldest(&paths.docker))?;
        return Ok((source, 0, target));
    }
    let found = source::find(&paths.docker, position.source);
    match named(&paths.docker, found)? {
        Found::Known(source, _) => Ok((source, position.offset, target)),
        Found::Others { oldest, .. } => {
            let why = "Docker has removed the file that was being read";
            tell_missing(id, paths, told, why);
            named(&paths.log, target.forget_what_is_to_come())?;
            Ok((oldest, 0, target))
        }
        Found::Nothing => named(&paths.docker, Err(io::ErrorKind::NotFound.into())),
    }
}

fn tell_missing(id: &str, paths: &Paths, told: &mut Told, why: &str) {
    if !told.missing {
        told.missing = true;
        tracing::warn!(
            container = id,
            log = %paths.log.display(),
            "lines are missing in a log: {why}"
        );
    }
}

/// Removes what was noted of a log.
pub(super) fn remove_position(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::error!(file = %path.display(), %error, "what was noted of a log is left");
        }
        _ => {}
    }
}

/// With the path, which errors of system calls do not have.
fn named<T>(path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Records and the lines that they make.
#[derive(Default)]
struct Batch {
    records: Vec<u8>,
    lines: Vec<u8>,
    /// Where each record and its lines end.
    ends: Vec<(usize, usize)>,
}

impl Batch {
    /// Reads records; answers how long those are that are whole.
    fn read(&mut self, source: &mut Source, offset: u64) -> io::Result<usize> {
        let mut size = BATCH;
        loop {
            self.records.resize(size, 0);
            let length = source.read_at(&mut self.records, offset)?;
            let newline = self.records[..length]
                .iter()
                .rposition(|&byte| byte == b'\n');
            match newline {
                Some(end) => return Ok(end + 1),
                None if length < size => return Ok(0),
                // It is none of Docker's records.
                None if size >= LONGEST => return Ok(length),
                None => size *= 4,
            }
        }
    }

    fn convert(&mut self, length: usize) -> Result<(), Damaged> {
        self.lines.clear();
        self.ends.clear();
        let (mut end, mut all) = (0, Ok(()));
        for record in self.records[..length].split_inclusive(|&byte| byte == b'\n') {
            end += record.len();
            let record = record.strip_suffix(b"\n").unwrap_or(record);
            all = convert(record, &mut self.lines).and(all);
            self.ends.push((end, self.lines.len()));
        }
        all
    }

    /// How long the records are that make so many bytes of lines.
    fn of_lines(&self, written: usize) -> usize {
        let done = self.ends.partition_point(|&(_, lines)| lines <= written);
        done.checked_sub(1).map_or(0, |last| self.ends[last].0)
    }
}

#[cfg(test)]
mod tests;
