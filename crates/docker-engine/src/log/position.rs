//! How far a log is written, on disk: for a daemon that goes on where another one was killed.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::fingerprint;
use super::source::Identity;

/// What was read of Docker's files, and what the log was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// Which of Docker's files.
    pub(super) source: Identity,
    /// How many of its bytes are in the log; so are all older files.
    pub(super) offset: u64,
    /// The log's file; 0 while there is none.
    pub(super) log_inode: u64,
    /// How long it was, in bytes.
    pub(super) log_length: u64,
}

const FIELDS: usize = 5;
const SIZE: usize = (FIELDS + 1) * 8;

impl Position {
    /// What was written last; none where nothing was, or nothing that can be read.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let (fields, rest) = bytes.as_chunks::<8>();
        let fields: Vec<u64> = fields
            .iter()
            .map(|field| u64::from_le_bytes(*field))
            .collect();
        let [inode, first, offset, log_inode, log_length, sum] = fields[..] else {
            return Ok(None);
        };
        if !rest.is_empty() || sum != fingerprint(&bytes[..FIELDS * 8]) {
            return Ok(None);
        }
        Ok(Some(Self {
            source: Identity { inode, first },
            offset,
            log_inode,
            log_length,
        }))
    }

    /// Writes it over the last one. It is so little that a kill comes before it or after it.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let Identity { inode, first } = self.source;
        let fields = [inode, first, self.offset, self.log_inode, self.log_length];
        let mut bytes = Vec::with_capacity(SIZE);
        for field in fields {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(fingerprint(&bytes).to_le_bytes());
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        file.write_all_at(&bytes, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_and_a_damaged_one_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        assert_eq!(Position::read(&path).unwrap(), None);
        let mut position = Position {
            source: Identity { inode: 1, first: 2 },
            offset: u64::MAX,
            log_inode: 4,
            log_length: 5,
        };
        position.write(&path).unwrap();
        assert_eq!(Position::read(&path).unwrap(), Some(position));
        position.offset = 3;
        position.write(&path).unwrap();
        assert_eq!(Position::read(&path).unwrap(), Some(position));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[9] ^= 1;
        for damaged in [&bytes[..], &bytes[1..], &[]] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(Position::read(&path).unwrap(), None);
        }
    }
}
