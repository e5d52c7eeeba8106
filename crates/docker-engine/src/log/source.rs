//! Docker's files of a container's log: one that is written, `….log`, and older ones, `….log.1` and so
//! on, which may be compressed (`….log.1.gz`). Docker renames them or removes them at any time.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::fingerprint;

/// As much of a file's beginning as tells it from others, in bytes, unless its first record is shorter.
const BEGINNING: usize = 32 * 1024;

/// Which of the files. An inode's number is given again once a file was removed, and a file gets another
/// one when it is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) inode: u64,
    /// Of the first record, which has a time; 0 while there is none.
    pub(super) first: u64,
}

/// One of the files, open.
#[derive(Debug)]
pub(super) struct Source {
    content: Content,
    identity: Identity,
}

#[derive(Debug)]
enum Content {
    Plain(File),
    /// With how much of it was decompressed.
    Compressed(Box<MultiGzDecoder<File>>, u64),
}

impl Source {
    fn open(path: &Path, compressed: bool) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        let content = if compressed {
            Content::Compressed(Box::new(MultiGzDecoder::new(file)), 0)
        } else {
            Content::Plain(file)
        };
        let identity = Identity { inode, first: 0 };
        let mut source = Self { content, identity };
        source.identify()?;
        Ok(source)
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Looks for the first record, unless it is known.
    pub(super) fn identify(&mut self) -> io::Result<()> {
        if self.identity.first != 0 {
            return Ok(());
        }
        let mut beginning = vec![0; BEGINNING];
        let length = self.read_at(&mut beginning, 0)?;
        let first = match beginning[..length].iter().position(|&byte| byte == b'\n') {
            Some(end) => &beginning[..end],
            None if length == BEGINNING => &beginning[..],
            None => return Ok(()),
        };
        self.identity.first = fingerprint(first);
        Ok(())
    }

    /// Fills a buffer as far as there is something.
    pub(super) fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + filled as u64;
            match self.content.read_at(&mut buffer[filled..], at) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Whether it is shorter than it was: Docker has begun it anew.
    pub(super) fn is_cut(&self, offset: u64) -> io::Result<bool> {
        match &self.content {
            Content::Plain(file) => Ok(file.metadata()?.len() < offset),
            Content::Compressed(..) => Ok(false),
        }
    }

    /// Takes it for another file, which it is once Docker has begun it anew.
    pub(super) fn begin_anew(&mut self) {
        self.identity.first = 0;
    }

    fn has_something(&self) -> bool {
        self.identity.first != 0
    }

    fn is(&self, wanted: Identity) -> bool {
        if wanted.first == 0 {
            return false;
        }
        match &self.content {
            Content::Plain(_) => self.identity == wanted,
            Content::Compressed(..) => self.identity.first == wanted.first,
        }
    }
}

impl Content {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let (decoder, position) = match self {
            Self::Plain(file) => return file.read_at(buffer, offset),
            Self::Compressed(decoder, position) => (decoder, position),
        };
        if offset < *position {
            let mut file = decoder.get_ref();
            file.rewind()?;
            let file = file.try_clone()?;
            (**decoder, *position) = (MultiGzDecoder::new(file), 0);
        }
        if offset > *position {
            let ahead = &mut (**decoder).by_ref().take(offset - *position);
            *position += of_what_is_there(io::copy(ahead, &mut io::sink()))?;
            if *position < offset {
                return Ok(0);
            }
        }
        let count = of_what_is_there(decoder.read(buffer).map(|count| count as u64))?;
        *position += count;
        Ok(usize::try_from(count).unwrap_or_default())
    }
}

/// Docker may have been killed over compressing a file.
fn of_what_is_there(read: io::Result<u64>) -> io::Result<u64> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        other => other,
    }
}

/// What there is beside one of the files.
#[derive(Debug)]
pub(super) enum Found {
    /// The file itself, opened anew, and the next one after it that has something, if there is one.
    Known(Source, Option<Source>),
    /// Others that have something, of which this is the oldest.
    Others {
        oldest: Source,
        /// Whether Docker keeps no older ones, so that each is gone when the next begins.
        alone: bool,
    },
    /// No file that has something.
    Nothing,
}

/// Looks for one of the files. Those that are empty are passed over, for only by its first record is a
/// file known again once it was compressed.
pub(super) fn find(path: &Path, wanted: Identity) -> io::Result<Found> {
    loop {
        let before = inode(path)?;
        let mut all = all(path, Some(wanted))?;
        if let Some(known) = all.pop_if(|source| source.is(wanted)) {
            let next = all.into_iter().rfind(Source::has_something);
            return Ok(Found::Known(known, next));
        }
        // Docker may have renamed one that was not looked at yet to one that had been.
        if inode(path)? != before {
            continue;
        }
        let alone = all.len() == 1;
        return Ok(match all.into_iter().rfind(Source::has_something) {
            Some(oldest) => Found::Others { oldest, alone },
            None => Found::Nothing,
        });
    }
}

/// The oldest that there is.
pub(super) fn oldest(path: &Path) -> io::Result<Source> {
    let oldest = all(path, None)?.pop();
    oldest.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The inode of the file that is written now; none for a moment while Docker exchanges it.
pub(super) fn inode(path: &Path) -> io::Result<Option<u64>> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// All of them, the newest first, or as far as one that is looked for. Docker makes a file's number greater as it renames it, so that by
/// going up none is missed, and one may be seen twice.
fn all(path: &Path, wanted: Option<Identity>) -> io::Result<Vec<Source>> {
    let mut all: Vec<Source> = Vec::new();
    for number in 0..=highest(path)? + 1 {
        for compressed in [false, true] {
            let source = match Source::open(&numbered(path, number, compressed), compressed) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let found = wanted.is_some_and(|wanted| source.is(wanted));
            if !all.iter().any(|seen| source.is(seen.identity)) {
                all.push(source);
            }
            if found {
                return Ok(all);
            }
            // Beside one that is whole there may be the beginning of its compressed form.
            break;
        }
    }
    Ok(all)
}

fn numbered(path: &Path, number: u32, compressed: bool) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    if number > 0 {
        name.push(format!(".{number}"));
    }
    if compressed {
        name.push(".gz");
    }
    name.into()
}

/// The highest number of those that there are.
fn highest(path: &Path) -> io::Result<u32> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut highest = 0;
    for entry in std::fs::read_dir(directory)? {
        let file = entry?.file_name();
        let file = file.to_string_lossy();
        let number = file
            .strip_prefix(&*name)
            .map(|rest| rest.trim_end_matches(".gz"));
        let number = number.and_then(|number| number.strip_prefix('.')?.parse().ok());
        highest = highest.max(number.unwrap_or(0));
    }
    Ok(highest)
}
