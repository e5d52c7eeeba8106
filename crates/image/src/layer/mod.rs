//! Layers: an archive, compressed or not, becomes a directory for overlayfs.

mod archive;
mod attributes;
mod inherit;
mod place;
mod source;
#[cfg(test)]
mod tests;
mod unpack;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::error::is_no_space;
use crate::manifest::Compression;

pub(crate) use inherit::inherit_attributes;
pub(crate) use source::{Chunk, ChunkReader};

/// Why a layer could not be unpacked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    /// The archive is not what it claims to be, or an entry is forbidden.
    Corrupt(String),
    /// An entry of a kind that is not handled.
    Unsupported(String),
    /// The file system is full.
    NoSpace(String),
    /// The file system refused.
    Store(String),
    /// The download ended before the layer did; its own error says why.
    Abandoned,
}

impl Failure {
    fn corrupt(message: String) -> Self {
        Self::Corrupt(message)
    }

    /// An error of reading the archive, from the decompressor or from the download.
    fn reading(error: &io::Error) -> Self {
        if source::is_abandoned(error) {
            Self::Abandoned
        } else {
            Self::Corrupt(format!("it cannot be decompressed: {error}"))
        }
    }

    /// An error of the file system at the entry `path`.
    fn writing(path: &[u8], asked: &str, error: rustix::io::Errno) -> Self {
        let message = format!(
            "cannot {asked} {:?}: {error}",
            String::from_utf8_lossy(path)
        );
        if is_no_space(&error.into()) {
            Self::NoSpace(message)
        } else {
            Self::Store(message)
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(message)
            | Self::Unsupported(message)
            | Self::NoSpace(message)
            | Self::Store(message) => f.write_str(message),
            Self::Abandoned => f.write_str("the download was abandoned"),
        }
    }
}

/// A layer that lies in its directory.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    /// Space on disk in bytes, counted in blocks of 4 KiB.
    pub(crate) bytes: u64,
    /// Files, directories and everything else that has an inode.
    pub(crate) inodes: u64,
    /// Directories that the archive does not mention but has entries in, parents first. They still
    /// lack the attributes of the layers below ([`inherit_attributes`]).
    pub(crate) implied: Vec<PathBuf>,
    /// The archive marks its own root as opaque, so nothing below this layer is visible.
    pub(crate) hides_lower: bool,
}

/// Unpacks the blob that `reader` delivers into the empty directory `root` and returns what it
/// holds, after comparing the digest of the uncompressed archive with `diff_id`. Blocking.
pub(crate) fn unpack(
    reader: ChunkReader,
    compression: Compression,
    diff_id: &oci_spec::image::Digest,
    root: OwnedFd,
) -> Result<Unpacked, Failure> {
    let mut archive = source::DiffReader::new(reader, compression, diff_id)?;
    let unpacked = unpack::unpack(&mut archive, root)?;
    archive.finish(diff_id)?;
    Ok(unpacked)
}

/// A name from an archive, for people.
fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
