//! Blocks of names and values, compressed over the whole life of a connection.

use flate2::{Decompress, FlushDecompress, Status};

use super::Error;
use super::dictionary::DICTIONARY;

/// The most bytes that a block may have when it is decompressed.
pub const MAX_BLOCK: usize = 64 * 1024;

/// The most names that a block may have.
pub const MAX_NAMES: usize = 128;

/// Names and values as they came. Names count in lower case, as the protocol wants them sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The value of a name, given in lower case. Of several values (between zero bytes) it is the
    /// first.
    pub fn get(&self, name: &str) -> Option<&str> {
        let (_, values) = self.0.iter().find(|(this, _)| this == name)?;
        values.split('\0').next()
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Headers {
    fn from(pairs: [(&str, &str); N]) -> Self {
        let owned = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self(owned.into())
    }
}

/// Reads the blocks that the other side has written, all of them in their order.
#[derive(Debug)]
pub(super) struct Reader(Decompress);

impl Reader {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(super) fn read(&mut self, compressed: &[u8]) -> Result<Headers, Error> {
        parse(&self.decompress(compressed)?)
    }

    fn decompress(&mut self, mut compressed: &[u8]) -> Result<Vec<u8>, Error> {
        let mut block = Vec::with_capacity(512);
        loop {
            let (before, length) = (self.0.total_in(), block.len());
            let result = self
                .0
                .decompress_vec(compressed, &mut block, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - before).unwrap_or(compressed.len());
            compressed = &compressed[taken.min(compressed.len())..];
            match result {
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| Error::Compression)?;
                    continue;
                }
                Ok(Status::StreamEnd) | Err(_) => return Err(Error::Compression),
            }
            // Room that is left over means that everything has come out.
            if block.len() < block.capacity() {
                return if compressed.is_empty() {
                    Ok(block)
                } else if taken == 0 && block.len() == length {
                    Err(Error::Compression)
                } else {
                    continue;
                };
            }
            if block.len() >= MAX_BLOCK {
                return Err(Error::HeadersTooLarge);
            }
            block.reserve_exact(block.len().min(MAX_BLOCK - block.len()));
        }
    }
}

fn parse(block: &[u8]) -> Result<Headers, Error> {
    let mut rest = block;
    let count = number(&mut rest)?;
    if count > MAX_NAMES {
        return Err(Error::HeadersTooLarge);
    }
    let mut pairs: Vec<(String, String)> = Vec::with_capacity(count);
    for _ in 0..count {
        let name = text(&mut rest)?.to_ascii_lowercase();
        let value = text(&mut rest)?;
        if name.is_empty() || pairs.iter().any(|(other, _)| *other == name) {
            return Err(Error::Headers);
        }
        pairs.push((name, value));
    }
    if rest.is_empty() {
        Ok(Headers(pairs))
    } else {
        Err(Error::Headers)
    }
}

fn number(rest: &mut &[u8]) -> Result<usize, Error> {
    let (bytes, after) = rest.split_first_chunk().ok_or(Error::Headers)?;
    *rest = after;
    usize::try_from(u32::from_be_bytes(*bytes)).map_err(|_| Error::Headers)
}

fn text(rest: &mut &[u8]) -> Result<String, Error> {
    let length = number(rest)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(Error::Headers)?;
    *rest = after;
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::Headers)
}

/// An empty stored block, which is what a compressor's flush ends with (RFC 1979, 2.1).
const FLUSH: [u8; 5] = [0, 0, 0, 0xff, 0xff];

/// Writes blocks that need no state of a compressor, which would be the largest part of an idle
/// session: as stored blocks of deflate (RFC 1951, 3.2.4).
#[derive(Debug, Default)]
pub(super) struct Writer {
    begun: bool,
}

impl Writer {
    pub(super) fn write(&mut self, headers: &Headers) -> Vec<u8> {
        let mut block = Vec::new();
        let length = |bytes: &mut Vec<u8>, length: usize| {
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            bytes.extend(length.to_be_bytes());
        };
        length(&mut block, headers.0.len());
        for text in headers.0.iter().flat_map(|(name, value)| [name, value]) {
            length(&mut block, text.len());
            block.extend(text.as_bytes());
        }
        let mut out = Vec::with_capacity(block.len() + 12);
        if !self.begun {
            // zlib's header: deflate with a window of 32 KiB and no dictionary.
            out.extend([0x78, 0x01]);
            self.begun = true;
        }
        for stored in block.chunks(usize::from(u16::MAX)) {
            let length = u16::try_from(stored.len()).unwrap_or(u16::MAX);
            out.push(0);
            out.extend(length.to_le_bytes());
            out.extend((!length).to_le_bytes());
            out.extend(stored);
        }
        // The empty block of a flush: Go's decompressor gives out nothing before it has seen it.
        out.extend(FLUSH);
        out
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    use super::*;

    /// As other clients do it: with the dictionary, flushed after each block.
    fn compress(compress: &mut Compress, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 1024);
        let status = compress.compress_vec(bytes, &mut out, FlushCompress::Sync);
        assert_eq!(status.unwrap(), Status::Ok);
        out
    }

    fn primed() -> Compress {
        let mut compressor = Compress::new(Compression::best(), true);
        compressor.set_dictionary(&DICTIONARY).unwrap();
        compressor
    }

    fn plain(headers: &Headers) -> Vec<u8> {
        let written = Writer { begun: true }.write(headers);
        written[5..written.len() - FLUSH.len()].to_vec()
    }

    #[test]
    fn blocks_that_were_compressed_with_the_dictionary_are_read_in_their_order() {
        let (mut compressor, mut reader) = (primed(), Reader::new());
        for kind in ["error", "stdin", "stdout", "stderr", "resize"] {
            let headers = Headers::from([("streamtype", kind), ("content-length", "0")]);
            let read = reader.read(&compress(&mut compressor, &plain(&headers)));
            assert_eq!(read.unwrap(), headers);
        }
    }

    #[test]
    fn every_block_ends_with_a_flush() {
        let mut writer = Writer::default();
        for _ in 0..2 {
            assert!(writer.write(&Headers::default()).ends_with(&FLUSH));
        }
    }

    #[test]
    fn names_are_read_in_lower_case_and_the_first_of_several_values_counts() {
        let headers = Headers::from([("StreamType", "data\0error")]);
        let read = Reader::new()
            .read(&Writer::default().write(&headers))
            .unwrap();
        assert_eq!(read.get("streamtype"), Some("data"));
        assert_eq!(read.get("port"), None);
    }

    #[test]
    fn a_bomb_is_given_up_at_its_limit() {
        let (mut compressor, mut reader) = (primed(), Reader::new());
        let mut bytes = 1_u32.to_be_bytes().to_vec();
        bytes.resize(8 << 20, 0);
        let bomb = compress(&mut compressor, &bytes);
        assert!(bomb.len() < 16 * 1024, "{}", bomb.len());
        assert_eq!(reader.read(&bomb), Err(Error::HeadersTooLarge));
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let read = |bytes: &[u8]| Reader::new().read(&compress(&mut primed(), bytes));
        for bytes in [
            &[0, 0, 0][..],
            &[0, 0, 0, 1],
            &[0, 0, 0, 0, 0],
            &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, b'a'],
            &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, b'a'],
            &[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 1, b'a'],
        ] {
            assert_eq!(read(bytes), Err(Error::Headers), "{bytes:?}");
        }
        assert_eq!(read(&[0xff, 0, 0, 0]), Err(Error::HeadersTooLarge));
        let twice = Headers::from([("a", "1"), ("A", "2")]);
        assert_eq!(read(&plain(&twice)), Err(Error::Headers));
        let mut reader = Reader::new();
        assert_eq!(reader.read(b"no zlib at all"), Err(Error::Compression));
        // A finished stream leaves nothing for the blocks that would follow.
        let mut out = Vec::with_capacity(1024);
        primed()
            .compress_vec(&[0; 4], &mut out, FlushCompress::Finish)
            .unwrap();
        assert_eq!(Reader::new().read(&out), Err(Error::Compression));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            blocks in prop::collection::vec(
                prop::collection::btree_map("[a-z-]{1,20}", "[ -~]{0,200}", 0..10), 0..5),
        ) {
            let (mut writer, mut reader) = (Writer::default(), Reader::new());
            for block in blocks {
                let headers = Headers(block.into_iter().collect());
                prop_assert_eq!(reader.read(&writer.write(&headers)), Ok(headers));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Reader::new().read(&bytes);
            let _ = Reader::new().read(&compress(&mut primed(), &bytes));
        }
    }
}
