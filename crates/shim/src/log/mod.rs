//! Container logs, from what streams bring to the lines of their files.

mod file;
mod split;
mod timestamp;

use std::path::PathBuf;

pub(crate) use slipway_log::Stream;
use slipway_log::{Tag, write_line};

use self::file::LogFile;
use self::split::Splitter;
use self::timestamp::Timestamp;
use crate::failure::Outcome;
use crate::record::now;

/// How much is written at once, in bytes, unless a single line is longer.
const BATCH: usize = 32 * 1024;

/// A container's log.
#[derive(Debug)]
pub(crate) struct Log {
    file: LogFile,
    out: Splitter,
    error: Splitter,
}

impl Log {
    /// Opens the file. Where that fails the log drops what it is given until it is reopened: a
    /// log never keeps a container from running.
    pub(crate) fn open(path: PathBuf) -> Self {
        Self {
            file: LogFile::open(path),
            out: Splitter::default(),
            error: Splitter::default(),
        }
    }

    /// Opens the path anew. On failure the old file stays in use.
    pub(crate) fn reopen(&mut self) -> Outcome<()> {
        self.file.reopen()
    }

    /// Takes what a stream has brought.
    pub(crate) fn push(&mut self, stream: Stream, bytes: &[u8]) {
        let mut batch = Batch::new(&mut self.file, stream);
        let splitter = match stream {
            Stream::Out => &mut self.out,
            Stream::Error => &mut self.error,
        };
        splitter.push(bytes, |tag, head, tail| batch.line(tag, head, tail));
        batch.write();
    }

    /// Writes last lines that had no newline.
    pub(crate) fn finish(&mut self) {
        for (stream, splitter) in [
            (Stream::Out, &mut self.out),
            (Stream::Error, &mut self.error),
        ] {
            let mut batch = Batch::new(&mut self.file, stream);
            splitter.finish(|tag, head, tail| batch.line(tag, head, tail));
            batch.write();
        }
    }
}

/// Lines that arrived together, have one time, and are written together.
struct Batch<'a> {
    file: &'a mut LogFile,
    stream: Stream,
    time: Option<Timestamp>,
    lines: Vec<u8>,
}

impl<'a> Batch<'a> {
    fn new(file: &'a mut LogFile, stream: Stream) -> Self {
        Self {
            file,
            stream,
            time: None,
            lines: Vec::new(),
        }
    }

    fn line(&mut self, tag: Tag, head: &[u8], tail: &[u8]) {
        let time = self.time.get_or_insert_with(|| Timestamp::new(now()));
        let (time, text) = (time.as_bytes(), [head, tail]);
        write_line(&mut self.lines, time, self.stream, tag, text);
        if self.lines.len() >= BATCH {
            self.write();
        }
    }

    fn write(&mut self) {
        if !self.lines.is_empty() {
            self.file.append(&self.lines);
            self.lines.clear();
        }
    }
}
