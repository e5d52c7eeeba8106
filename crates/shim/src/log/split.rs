//! Cutting a stream of bytes into log lines.

use slipway_log::Tag;

/// The longest line that is written whole, in bytes: what the other CRI runtimes use.
pub(super) const LONGEST: usize = 16 * 1024;

/// Cuts at newlines, and every [`LONGEST`] bytes where there is none. How the bytes arrive makes
/// no difference to the pieces.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    /// The beginning of a line whose end has not arrived; at most `LONGEST` bytes.
    pending: Vec<u8>,
}

impl Splitter {
    /// Takes bytes and gives each piece that they complete as two slices, to be written one after
    /// the other. Newlines are not part of a piece.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut piece: impl FnMut(Tag, &[u8], &[u8])) {
        while !bytes.is_empty() {
            let room = LONGEST - self.pending.len();
            let window = &bytes[..bytes.len().min(room + 1)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                piece(Tag::Full, &self.pending, &bytes[..end]);
                bytes = &bytes[end + 1..];
            } else if window.len() > room {
                piece(Tag::Partial, &self.pending, &bytes[..room]);
                bytes = &bytes[room..];
            } else {
                self.pending.extend_from_slice(bytes);
                return;
            }
            self.pending = Vec::new();
        }
    }

    /// Gives the last line where the stream has ended without a newline. It is tagged as one that
    /// goes on, as the other CRI runtimes do it, so that a reader shows the bytes that were written
    /// and no newline that was not.
    pub(super) fn finish(&mut self, mut piece: impl FnMut(Tag, &[u8], &[u8])) {
        let pending = std::mem::take(&mut self.pending);
        if !pending.is_empty() {
            piece(Tag::Partial, &pending, &[]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Pieces = Vec<(Tag, Vec<u8>)>;

    fn split(chunks: &[&[u8]]) -> Pieces {
        let mut splitter = Splitter::default();
        let mut pieces = Pieces::new();
        for chunk in chunks {
            splitter.push(chunk, |tag, head, tail| {
                pieces.push((tag, [head, tail].concat()));
            });
        }
        splitter.finish(|tag, head, tail| {
            pieces.push((tag, [head, tail].concat()));
        });
        pieces
    }

    #[test]
    fn lines_end_at_newlines() {
        let expected = vec![
            (Tag::Full, b"a".to_vec()),
            (Tag::Full, vec![]),
            (Tag::Full, b"bc".to_vec()),
            (Tag::Partial, b"d".to_vec()),
        ];
        assert_eq!(split(&[b"a\n\nb", b"c\nd"]), expected);
    }

    #[test]
    fn a_line_of_the_longest_length_is_whole() {
        let mut line = vec![b'x'; LONGEST];
        line.push(b'\n');
        assert_eq!(split(&[&line]), vec![(Tag::Full, vec![b'x'; LONGEST])]);
    }

    #[test]
    fn a_longer_line_is_cut() {
        let mut line = vec![b'x'; LONGEST + 1];
        line.push(b'\n');
        let expected = vec![(Tag::Partial, vec![b'x'; LONGEST]), (Tag::Full, vec![b'x'])];
        assert_eq!(split(&[&line]), expected);
    }

    /// Bytes in which newlines and very long lines both are likely.
    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let run = (0..3usize, 0..2 * LONGEST + 3).prop_map(|(kind, length)| match kind {
            0 => vec![b'\n'; length % 5],
            1 => vec![b'y'; length % 100],
            _ => vec![b'x'; length],
        });
        prop::collection::vec(run, 0..8).prop_map(|runs| runs.concat())
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(
            stream in streams(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut start = 0;
            for cut in cuts {
                chunks.push(&stream[start..cut]);
                start = cut;
            }
            chunks.push(&stream[start..]);
            prop_assert_eq!(split(&chunks), split(&[&stream]));
        }

        #[test]
        fn pieces_put_together_are_the_stream(stream in streams()) {
            let mut together = Vec::new();
            for (tag, piece) in split(&[&stream]) {
                prop_assert!(piece.len() <= LONGEST);
                together.extend(piece);
                if tag == Tag::Full {
                    together.push(b'\n');
                }
            }
            prop_assert_eq!(together, stream);
        }
    }
}
