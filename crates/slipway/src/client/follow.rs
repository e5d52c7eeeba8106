//! A log file that is read while it is written and rotated.
//!
//! Rotation is what the kubelet does: it renames the file, and the runtime goes on in a new one
//! under the old name. A reader that sees the new file therefore first reads the old one to its
//! end. A file that was cut short is read from its beginning. Two rotations between two reads lose
//! what was in the file between.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use super::log_format;

const CHUNK: usize = 64 << 10;

/// The log under a path, and how far it has been read. The file need not be there yet.
pub(super) struct LogFile {
    path: PathBuf,
    open: Option<OpenLog>,
}

struct OpenLog {
    file: File,
    device_and_inode: (u64, u64),
    position: u64,
    /// A line whose end has not been written yet.
    rest: Vec<u8>,
}

impl LogFile {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            open: None,
        }
    }

    /// Hands each line that has been completed since the last call to `sink`, without its line
    /// feed.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or `sink` failed. A file that is not there is empty.
    pub(super) fn read(
        &mut self,
        mut sink: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        loop {
            let Some(open) = &mut self.open else {
                match OpenLog::new(&self.path)? {
                    None => return Ok(()),
                    Some(open) => self.open = Some(open),
                }
                continue;
            };
            open.read_to_end(&mut sink)?;
            match std::fs::metadata(&self.path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error.into()),
                Ok(now) if (now.dev(), now.ino()) != open.device_and_inode => {
                    // The new file is there, so nobody writes the old one any more.
                    open.read_to_end(&mut sink)?;
                    open.flush(&mut sink)?;
                    self.open = None;
                }
                Ok(now) if now.len() < open.position => {
                    open.file.rewind()?;
                    open.position = 0;
                    open.rest.clear();
                }
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Hands the last line to `sink` even if it has no end: nobody is going to write one.
    pub(super) fn finish(
        &mut self,
        mut sink: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.read(&mut sink)?;
        self.open
            .as_mut()
            .map_or(Ok(()), |open| open.flush(&mut sink))
    }

    /// Leaves out everything but the last `count` lines of the container's, however many records
    /// each of them is. Reads the file from behind, and no more of it than it must.
    pub(super) fn skip_to_last(&mut self, count: usize) -> io::Result<()> {
        if let Some(mut open) = OpenLog::new(&self.path)? {
            open.position = tail_position(&mut open.file, count)?;
            open.file.seek(SeekFrom::Start(open.position))?;
            self.open = Some(open);
        }
        Ok(())
    }
}

impl OpenLog {
    fn new(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let metadata = file.metadata()?;
        let device_and_inode = (metadata.dev(), metadata.ino());
        Ok(Some(Self {
            file,
            device_and_inode,
            position: 0,
            rest: Vec::new(),
        }))
    }

    fn read_to_end(
        &mut self,
        sink: &mut impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = match self.file.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                count => count?,
            };
            self.position += count as u64;
            for piece in chunk[..count].split_inclusive(|&byte| byte == b'\n') {
                match piece.strip_suffix(b"\n") {
                    Some(end) if self.rest.is_empty() => sink(end)?,
                    Some(end) => {
                        self.rest.extend_from_slice(end);
                        sink(&std::mem::take(&mut self.rest))?;
                    }
                    None => self.rest.extend_from_slice(piece),
                }
            }
        }
    }

    fn flush(&mut self, sink: &mut impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() { Ok(()) } else { sink(&rest) }
    }
}

/// Where the last `count` lines of the container's begin.
fn tail_position(file: &mut File, count: usize) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut window = CHUNK as u64;
    loop {
        let start = length.saturating_sub(window);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        Read::take(&mut *file, length - start).read_to_end(&mut bytes)?;
        let beginnings = line_beginnings(&bytes, start == 0);
        if let Some(index) = beginnings.len().checked_sub(count) {
            return Ok(beginnings
                .get(index)
                .map_or(length, |offset| start + *offset as u64));
        }
        if start == 0 {
            return Ok(0);
        }
        window *= 2;
    }
}

/// Where lines of the container's begin in `bytes`: after each record that ends one, and at the
/// beginning if `bytes` begin with a record.
fn line_beginnings(bytes: &[u8], begins_with_record: bool) -> Vec<usize> {
    let mut beginnings = Vec::new();
    let mut offset = 0;
    let mut after_end_of_line = begins_with_record;
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        if after_end_of_line {
            beginnings.push(offset);
        }
        let cut = offset == 0 && !begins_with_record;
        let record = log_format::parse(line.trim_ascii_end());
        after_end_of_line = !cut && !record.is_some_and(|record| record.partial);
        offset += line.len();
    }
    beginnings
}

/// Tells when something happens to a log file.
pub(super) struct LogWatch {
    inotify: AsyncFd<OwnedFd>,
}

/// What happened to a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogEvent {
    /// There may be more to read.
    Written,
    /// Whoever wrote it has closed it: it was rotated, or the container has ended.
    Closed,
}

impl LogWatch {
    /// Watches the directory of `log`, because the file itself may be replaced or not be there yet.
    pub(super) fn new(log: &Path) -> io::Result<Self> {
        let directory = log.parent().filter(|parent| !parent.as_os_str().is_empty());
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(
            &inotify,
            directory.unwrap_or(Path::new(".")),
            WatchFlags::CREATE
                | WatchFlags::MODIFY
                | WatchFlags::MOVED_TO
                | WatchFlags::CLOSE_WRITE
                | WatchFlags::DELETE,
        )?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types that are no OwnedFd"
        )]
        let inotify = AsyncFd::new(inotify)?;
        Ok(Self { inotify })
    }

    /// Waits for something to happen. What happened since the last call counts too. Can be dropped
    /// at any time without losing anything.
    pub(super) async fn event(&self) -> io::Result<LogEvent> {
        loop {
            let mut ready = self.inotify.readable().await?;
            match ready.try_io(|inotify| drain(inotify.get_ref())) {
                Ok(event) => return event,
                Err(_would_block) => {}
            }
        }
    }
}

/// All waiting events in one; [`ErrorKind::WouldBlock`] if there are none.
fn drain(inotify: &OwnedFd) -> io::Result<LogEvent> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    let mut happened = None;
    loop {
        match reader.next() {
            Ok(event) if event.events().contains(ReadFlags::CLOSE_WRITE) => {
                happened = Some(LogEvent::Closed);
            }
            Ok(_) => happened = happened.or(Some(LogEvent::Written)),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return happened.ok_or(ErrorKind::WouldBlock.into()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn lines(log: &mut LogFile) -> Vec<String> {
        let mut lines = Vec::new();
        let sink = |line: &[u8]| {
            lines.push(String::from_utf8_lossy(line).into_owned());
            Ok(())
        };
        log.read(sink).unwrap();
        lines
    }

    fn append(path: &Path, text: &str) {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_line_is_read_when_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut log = LogFile::new(&path);
        assert!(lines(&mut log).is_empty());
        append(&path, "one\ntw");
        assert_eq!(lines(&mut log), ["one"]);
        append(&path, "o\n\nthree");
        assert_eq!(lines(&mut log), ["two", ""]);
        let mut last = Vec::new();
        log.finish(|line| {
            last.extend_from_slice(line);
            Ok(())
        })
        .unwrap();
        assert_eq!(last, b"three");
    }

    #[test]
    fn rotation_loses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        append(&path, "1\n");
        let mut log = LogFile::new(&path);
        assert_eq!(lines(&mut log), ["1"]);
        let old = directory.path().join("0.log.old");
        fs::rename(&path, &old).unwrap();
        append(&old, "2\n");
        assert_eq!(lines(&mut log), ["2"]);
        append(&old, "3\n");
        append(&path, "4\n");
        assert_eq!(lines(&mut log), ["3", "4"]);
    }

    #[test]
    fn a_file_that_was_cut_is_read_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        append(&path, "a long line\n");
        let mut log = LogFile::new(&path);
        assert_eq!(lines(&mut log).len(), 1);
        fs::write(&path, "new\n").unwrap();
        assert_eq!(lines(&mut log), ["new"]);
    }

    #[test]
    fn the_last_lines_are_lines_of_the_container() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        append(
            &path,
            "t stdout F 1\nt stdout P 2\nt stdout P 2\nt stdout F 2\nt stdout F 3\n",
        );
        for (count, records) in [(0, 0), (1, 1), (2, 4), (3, 5), (9, 5)] {
            let mut log = LogFile::new(&path);
            log.skip_to_last(count).unwrap();
            assert_eq!(lines(&mut log).len(), records, "--tail {count}");
        }
    }

    #[test]
    fn the_last_lines_may_be_far_from_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let text: Vec<_> = (0..20_000).map(|n| format!("t stdout F {n}\n")).collect();
        append(&path, &text.concat());
        let mut log = LogFile::new(&path);
        log.skip_to_last(15_000).unwrap();
        let last = lines(&mut log);
        assert_eq!(last.len(), 15_000);
        assert_eq!(last[0], "t stdout F 5000");
    }

    #[tokio::test]
    async fn writing_and_closing_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let watch = LogWatch::new(&path).unwrap();
        let mut file = File::create(&path).unwrap();
        assert_eq!(watch.event().await.unwrap(), LogEvent::Written);
        file.write_all(b"x\n").unwrap();
        assert_eq!(watch.event().await.unwrap(), LogEvent::Written);
        drop(file);
        assert_eq!(watch.event().await.unwrap(), LogEvent::Closed);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However a log is written, read and rotated, each line arrives once and in order.
        #[test]
        fn every_line_arrives_once(steps in prop::collection::vec((0..3_u8, 1..40_usize), 1..40)) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("0.log");
            let mut log = LogFile::new(&path);
            let (mut written, mut read) = (0, Vec::new());
            let mut pending = String::new();
            for (step, (kind, size)) in steps.into_iter().enumerate() {
                match kind {
                    0 => {
                        written += 1;
                        pending.extend(["line ", &written.to_string(), "\n"]);
                        let cut = size.min(pending.len());
                        append(&path, &pending[..cut]);
                        pending.drain(..cut);
                    }
                    1 => read.extend(lines(&mut log)),
                    _ if path.exists() => {
                        // A reader that has never seen a file cannot know of it once it is gone.
                        read.extend(lines(&mut log));
                        append(&path, &std::mem::take(&mut pending));
                        fs::rename(&path, directory.path().join(format!("old{step}"))).unwrap();
                        read.extend(lines(&mut log));
                    }
                    _ => {}
                }
            }
            append(&path, &pending);
            read.extend(lines(&mut log));
            let expected: Vec<_> = (1..=written).map(|n| format!("line {n}")).collect();
            prop_assert_eq!(read, expected);
        }
    }
}
