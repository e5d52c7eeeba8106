//! Reads a tar archive entry by entry: ustar, GNU and PAX.
//!
//! The `tar` crate decodes the header fields. The extensions are taken apart here, because its own
//! reader splits PAX records at newlines (which occur in the binary value of a file capability) and
//! reads extensions of any length into memory.

use std::io::{self, BufRead};

use tar::{EntryType, Header};

use super::{Failure, lossy};

const BLOCK: usize = 512;
/// Names and extended attributes of one entry. The kernel allows 64 KiB of attributes an inode.
const EXTENSION_LENGTH_MAX: u64 = 1024 * 1024;
const ATTRIBUTE_PREFIX: &[u8] = b"SCHILY.xattr.";

/// What an entry is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum EntryKind {
    File,
    Directory,
    Symlink { target: Vec<u8> },
    HardLink { target: Vec<u8> },
    CharacterDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// A point in time as tar has it: seconds since the epoch, which may be negative.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// One entry. Its content is read with [`Archive::content`] before the next entry is asked for.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) modified: Time,
    pub(crate) accessed: Option<Time>,
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) size: u64,
}

/// What extension headers said about the entry that follows them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    modified: Option<Time>,
    accessed: Option<Time>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(crate) struct Archive<R> {
    reader: R,
    /// Bytes of the present entry's content that were not read yet.
    remaining: u64,
    /// Bytes that fill the content up to a whole block.
    padding: u64,
}

impl<R: BufRead> Archive<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader,
            remaining: 0,
            padding: 0,
        }
    }

    /// The next entry, or `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Failure> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_rest()?;
            let mut block = [0; BLOCK];
            if !self.read_header(&mut block)? {
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            check(header)?;
            let size = number(header.entry_size(), &header.as_old().size, "size")?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let data = self.read_extension(size)?;
                    extensions.read_pax(&data)?;
                }
                EntryType::XGlobalHeader => self.start_content(size),
                EntryType::GNULongName => {
                    extensions.path = Some(text(self.read_extension(size)?));
                }
                EntryType::GNULongLink => {
                    extensions.link = Some(text(self.read_extension(size)?));
                }
                _ => return self.entry(header, size, extensions).map(Some),
            }
        }
    }

    /// The content of the present entry that is buffered now; empty when all of it was read. What
    /// was used of it is reported with [`Archive::consume`].
    pub(crate) fn content(&mut self) -> Result<&[u8], Failure> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let buffer = self
            .reader
            .fill_buf()
            .map_err(|error| Failure::reading(&error))?;
        if buffer.is_empty() {
            return Err(truncated());
        }
        let length = buffer
            .len()
            .min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        Ok(&buffer[..length])
    }

    pub(crate) fn consume(&mut self, length: usize) {
        self.reader.consume(length);
        self.remaining -= length as u64;
    }

    fn entry(
        &mut self,
        header: &Header,
        size: u64,
        extensions: Extensions,
    ) -> Result<Entry, Failure> {
        let path = extensions
            .path
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = || {
            extensions
                .link
                .clone()
                .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
                .filter(|target| !target.is_empty())
                .ok_or_else(|| Failure::corrupt(format!("link {:?} has no target", lossy(&path))))
        };
        let device = || -> Result<(u32, u32), Failure> {
            let major = malformed(header.device_major(), "device major")?.unwrap_or(0);
            Ok((
                major,
                malformed(header.device_minor(), "device minor")?.unwrap_or(0),
            ))
        };
        let kind = match header.entry_type() {
            // Before ustar, a directory was a file with a slash at the end.
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => {
                EntryKind::Directory
            }
            EntryType::Regular | EntryType::Continuous => EntryKind::File,
            EntryType::Directory => EntryKind::Directory,
            EntryType::Symlink => EntryKind::Symlink { target: link()? },
            EntryType::Link => EntryKind::HardLink { target: link()? },
            EntryType::Char => {
                device().map(|(major, minor)| EntryKind::CharacterDevice { major, minor })?
            }
            EntryType::Block => {
                device().map(|(major, minor)| EntryKind::BlockDevice { major, minor })?
            }
            EntryType::Fifo => EntryKind::Fifo,
            EntryType::GNUSparse => return Err(sparse(&path)),
            other => {
                return Err(Failure::Unsupported(format!(
                    "archive entry {:?} has type {:?}, which no container image needs",
                    lossy(&path),
                    char::from(other.as_byte())
                )));
            }
        };
        // Only files have content; a size that another kind claims is ignored, as Go's tar does,
        // with which the field writes and reads its layers.
        let size = match kind {
            EntryKind::File => extensions.size.unwrap_or(size),
            _ => 0,
        };
        self.start_content(size);
        let header_time = number(header.mtime(), &header.as_old().mtime, "mtime")?.cast_signed();
        Ok(Entry {
            kind,
            mode: number(header.mode(), &header.as_old().mode, "mode")? & 0o7777,
            uid: id(extensions.uid, header.uid(), &header.as_old().uid, "uid")?,
            gid: id(extensions.gid, header.gid(), &header.as_old().gid, "gid")?,
            modified: extensions.modified.unwrap_or(Time {
                seconds: header_time,
                nanoseconds: 0,
            }),
            accessed: extensions.accessed,
            attributes: extensions.attributes,
            size,
            path,
        })
    }

    fn start_content(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip_rest(&mut self) -> Result<(), Failure> {
        let mut left = self
            .remaining
            .saturating_add(std::mem::take(&mut self.padding));
        self.remaining = 0;
        while left > 0 {
            let buffer = self
                .reader
                .fill_buf()
                .map_err(|error| Failure::reading(&error))?;
            if buffer.is_empty() {
                return Err(truncated());
            }
            let length = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            self.reader.consume(length);
            left -= length as u64;
        }
        Ok(())
    }

    /// Reads the next header block; false at the end, which is a block of zeros or just the end of
    /// the file.
    fn read_header(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, Failure> {
        let mut filled = 0;
        while filled < block.len() {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(truncated()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::reading(&error)),
            }
        }
        Ok(block.iter().any(|&byte| byte != 0))
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, Failure> {
        if size > EXTENSION_LENGTH_MAX {
            return Err(Failure::corrupt(format!(
                "an archive entry has {size} bytes of names and attributes (at most \
                 {EXTENSION_LENGTH_MAX} are allowed)"
            )));
        }
        self.start_content(size);
        let mut data = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        loop {
            let chunk = self.content()?;
            if chunk.is_empty() {
                return Ok(data);
            }
            let length = chunk.len();
            data.extend_from_slice(chunk);
            self.consume(length);
        }
    }
}

impl Extensions {
    /// Reads PAX records: `length key=value\n`, where the length counts the whole record and the
    /// value may hold any byte (POSIX, pax, "Extended Header").
    fn read_pax(&mut self, mut data: &[u8]) -> Result<(), Failure> {
        while !data.is_empty() {
            let (key, value, rest) = split_record(data)
                .ok_or_else(|| Failure::corrupt("a PAX extended header is malformed".into()))?;
            data = rest;
            self.set(key, value).map_err(|()| {
                Failure::corrupt(format!(
                    "PAX record {:?} has the value {:?}",
                    lossy(key),
                    lossy(value)
                ))
            })?;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), ()> {
        let number = || {
            std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok())
        };
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number().ok_or(())?),
            b"uid" => self.uid = Some(number().and_then(|id| u32::try_from(id).ok()).ok_or(())?),
            b"gid" => self.gid = Some(number().and_then(|id| u32::try_from(id).ok()).ok_or(())?),
            b"mtime" => self.modified = Some(parse_time(value).ok_or(())?),
            b"atime" => self.accessed = Some(parse_time(value).ok_or(())?),
            _ if key.starts_with(b"GNU.sparse.") => return Err(()),
            _ => {
                if let Some(name) = key.strip_prefix(ATTRIBUTE_PREFIX) {
                    self.attributes.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// Key, value and what follows the first record.
fn split_record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|&byte| byte == b' ')?;
    let length: usize = std::str::from_utf8(&data[..space]).ok()?.parse().ok()?;
    let record = data.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &data[length..]))
}

/// Decimal seconds with an optional fraction, as PAX writes times.
fn parse_time(value: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let mut nanoseconds: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        seconds = seconds.checked_sub(1)?;
        nanoseconds = 1_000_000_000 - nanoseconds;
    }
    Some(Time {
        seconds,
        nanoseconds,
    })
}

fn check(header: &Header) -> Result<(), Failure> {
    let bytes = header.as_bytes();
    let sum: u32 = bytes[..148]
        .iter()
        .chain(&bytes[156..])
        .map(|&byte| u32::from(byte))
        .sum();
    // The field itself counts as eight spaces.
    if header
        .cksum()
        .is_ok_and(|expected| expected == sum + 8 * u32::from(b' '))
    {
        Ok(())
    } else {
        Err(Failure::corrupt(
            "it is not a tar archive: the checksum of a header is wrong".into(),
        ))
    }
}

/// A numeric field, which counts as 0 where it was left empty.
fn number<T: Default>(value: io::Result<T>, raw: &[u8], name: &str) -> Result<T, Failure> {
    if raw.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(T::default());
    }
    malformed(value, name)
}

fn malformed<T>(value: io::Result<T>, name: &str) -> Result<T, Failure> {
    value.map_err(|error| {
        Failure::corrupt(format!(
            "the {name} of an archive entry is malformed: {error}"
        ))
    })
}

fn id(
    extended: Option<u32>,
    header: io::Result<u64>,
    raw: &[u8],
    name: &str,
) -> Result<u32, Failure> {
    if let Some(id) = extended {
        return Ok(id);
    }
    let id = number(header, raw, name)?;
    u32::try_from(id)
        .map_err(|_| Failure::corrupt(format!("the {name} {id} of an archive entry is too large")))
}

/// Cuts at the first NUL, with which GNU names end.
fn text(mut data: Vec<u8>) -> Vec<u8> {
    if let Some(end) = data.iter().position(|&byte| byte == 0) {
        data.truncate(end);
    }
    data
}

fn sparse(path: &[u8]) -> Failure {
    Failure::Unsupported(format!(
        "archive entry {:?} is a sparse file, which image layers do not use",
        lossy(path)
    ))
}

fn truncated() -> Failure {
    Failure::corrupt("the archive ends in the middle of an entry".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_values_may_hold_any_byte() {
        let mut extensions = Extensions::default();
        let value = [b'a', b'\n', 0, 0xff, b'=', b'\n'];
        let mut data = b"35 SCHILY.xattr.user.x=".to_vec();
        data.extend_from_slice(&value);
        data.push(b'\n');
        let length = data.len();
        data.splice(..2, length.to_string().bytes());
        data.extend_from_slice(b"11 uid=123\n");
        extensions.read_pax(&data).unwrap();
        assert_eq!(
            extensions.attributes,
            [(b"user.x".to_vec(), value.to_vec())]
        );
        assert_eq!(extensions.uid, Some(123));
        for broken in [
            &b"99 uid=1\n"[..],
            b"uid=1\n",
            b"9 uid=12 ",
            b"8 uid12\n",
            b"x",
        ] {
            assert!(Extensions::default().read_pax(broken).is_err());
        }
    }

    #[test]
    fn pax_times_have_nanoseconds_and_signs() {
        let time = |text: &str| parse_time(text.as_bytes()).map(|t| (t.seconds, t.nanoseconds));
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("12.0000000019"), Some((12, 1)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("-0.5"), Some((-1, 500_000_000)));
        assert_eq!(time("1.x"), None);
        assert_eq!(time(""), None);
    }
}
