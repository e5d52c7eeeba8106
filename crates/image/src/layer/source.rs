//! The way of a layer's bytes from the network to the archive reader: chunks from a channel, the
//! decompressor, and the digest of what comes out of it.

use std::io::{self, BufRead, Read};

use bytes::{Buf, Bytes};
use oci_spec::image::Digest;
use tokio::sync::mpsc;

use super::Failure;
use crate::digest::Hasher;
use crate::manifest::Compression;

/// Small enough to stay in a core's second-level cache from decompression to write.
const BUFFER_LENGTH: usize = 256 * 1024;

/// What the download sends.
pub(crate) enum Chunk {
    Data(Bytes),
    /// The blob is complete and its digest is right.
    End,
}

/// Reads what a download sends. It ends at [`Chunk::End`]; a sender that goes away earlier is an
/// error for which [`is_abandoned`] is true.
pub(crate) struct ChunkReader {
    chunks: mpsc::Receiver<Chunk>,
    present: Bytes,
    ended: bool,
}

impl ChunkReader {
    pub(crate) fn new(chunks: mpsc::Receiver<Chunk>) -> Self {
        Self {
            chunks,
            present: Bytes::new(),
            ended: false,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the download was abandoned")]
struct Abandoned;

pub(crate) fn is_abandoned(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(<dyn std::error::Error + Send + Sync>::is::<Abandoned>)
}

impl BufRead for ChunkReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.present.is_empty() && !self.ended {
            match self.chunks.blocking_recv() {
                Some(Chunk::Data(bytes)) => self.present = bytes,
                Some(Chunk::End) => self.ended = true,
                None => return Err(io::Error::other(Abandoned)),
            }
        }
        Ok(&self.present)
    }

    fn consume(&mut self, length: usize) {
        self.present.advance(length);
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

enum Decoder {
    Plain(ChunkReader),
    Gzip(Box<flate2::bufread::MultiGzDecoder<ChunkReader>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, ChunkReader>>),
}

impl Decoder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// The uncompressed archive, whose digest is taken on the way.
pub(crate) struct DiffReader {
    decoder: Decoder,
    hasher: Hasher,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl DiffReader {
    pub(crate) fn new(
        reader: ChunkReader,
        compression: Compression,
        diff_id: &Digest,
    ) -> Result<Self, Failure> {
        let decoder = match compression {
            Compression::None => Decoder::Plain(reader),
            Compression::Gzip => {
                Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(reader)))
            }
            Compression::Zstd => Decoder::Zstd(Box::new(
                zstd::stream::read::Decoder::with_buffer(reader)
                    .map_err(|error| Failure::reading(&error))?,
            )),
        };
        let hasher = Hasher::like(diff_id).ok_or_else(|| {
            Failure::Unsupported(format!("diff id {diff_id} has an unknown algorithm"))
        })?;
        let buffer = vec![0; BUFFER_LENGTH].into_boxed_slice();
        Ok(Self {
            decoder,
            hasher,
            buffer,
            start: 0,
            end: 0,
        })
    }

    /// Reads what follows the archive and compares the digest of everything.
    pub(crate) fn finish(mut self, diff_id: &Digest) -> Result<(), Failure> {
        loop {
            let length = self
                .fill_buf()
                .map_err(|error| Failure::reading(&error))?
                .len();
            if length == 0 {
                break;
            }
            self.consume(length);
        }
        let found = self.hasher.finish();
        if found == diff_id.as_ref() {
            Ok(())
        } else {
            Err(Failure::Corrupt(format!(
                "the configuration of the image says diff id {diff_id}, the layer has {found}"
            )))
        }
    }
}

impl BufRead for DiffReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            // A decompressor may deliver little at a time; headers and small files are then served
            // from one full buffer, and the digest works on long runs.
            while self.end < self.buffer.len() {
                match self.decoder.read(&mut self.buffer[self.end..]) {
                    Ok(0) => break,
                    Ok(length) => self.end += length,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.hasher.update(&self.buffer[..self.end]);
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, length: usize) {
        self.start = (self.start + length).min(self.end);
    }
}

impl Read for DiffReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}
