//! A file's bytes, and where in it something is.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// A line and a column, both from 1; the column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

/// Why a file cannot be read as what it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {}, column {}: {problem}", place.line, place.column)]
pub struct Malformed {
    /// Where reading ended.
    pub place: Place,
    /// What is wrong there.
    pub problem: String,
}

/// Replaces a range of a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Bytes of the file as it is.
    pub range: Range<usize>,
    /// What is there afterwards.
    pub text: String,
}

/// A file as it was read.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    /// As long as the file, with a `?` for each byte that is not UTF-8.
    text: String,
    /// The file's bytes, where they are others than the text's.
    raw: Option<Vec<u8>>,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl Source {
    /// `path` is what evidence names.
    pub fn new(path: impl Into<PathBuf>, bytes: impl Into<Vec<u8>>) -> Self {
        let (text, raw) = match String::from_utf8(bytes.into()) {
            Ok(text) => (text, None),
            Err(error) => {
                let bytes = error.into_bytes();
                let mut text = String::with_capacity(bytes.len());
                for chunk in bytes.utf8_chunks() {
                    text.push_str(chunk.valid());
                    text.extend(chunk.invalid().iter().map(|_| '?'));
                }
                (text, Some(bytes))
            }
        };
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0)
            .chain(ends.map(|(end, _)| end + 1))
            .collect();
        Self {
            path: path.into(),
            text,
            raw,
            lines,
        }
    }

    /// As the node has it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says, byte for byte, except that bytes that are not UTF-8 are each a `?`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.raw.as_deref().unwrap_or(self.text.as_bytes())
    }

    /// The place of a byte, or of the end.
    pub fn place(&self, offset: usize) -> Place {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines[line - 1];
        Place {
            line,
            column: self.text[start..offset].chars().count() + 1,
        }
    }

    /// What is wrong at a byte.
    pub(crate) fn malformed(&self, offset: usize, problem: impl Into<String>) -> Malformed {
        Malformed {
            place: self.place(offset),
            problem: problem.into(),
        }
    }

    /// Each line with the byte at which it begins, without its end (LF or CR LF).
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let text = self.text.as_str();
        let next = self.lines.iter().skip(1).copied().chain([text.len()]);
        self.lines.iter().zip(next).map(|(start, next)| {
            let line = &text[*start..next];
            let line = line.strip_suffix('\n').unwrap_or(line);
            (*start, line.strip_suffix('\r').unwrap_or(line))
        })
    }

    /// Its bytes with `edits` made, in whatever order they are given.
    ///
    /// # Panics
    ///
    /// Where two edits overlap, or one is not inside the file.
    pub fn edited(&self, edits: &[Edit]) -> Vec<u8> {
        let mut edits: Vec<_> = edits.iter().collect();
        edits.sort_by_key(|edit| (edit.range.start, edit.range.end));
        let before = self.bytes();
        let mut bytes = Vec::with_capacity(before.len());
        let mut done = 0;
        for edit in edits {
            bytes.extend(&before[done..edit.range.start]);
            bytes.extend(edit.text.as_bytes());
            done = edit.range.end;
        }
        bytes.extend(&before[done..]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_and_bytes_stay() {
        let source = Source::new("/x", b"a\r\n\xe4\xc3\xa4b\n".to_vec());
        assert_eq!(source.text(), "a\r\n?\u{e4}b\n");
        assert_eq!(source.place(0), Place { line: 1, column: 1 });
        assert_eq!(source.place(6), Place { line: 2, column: 3 });
        assert_eq!(source.place(99), Place { line: 3, column: 1 });
        let lines: Vec<_> = source.lines().collect();
        assert_eq!(lines, [(0, "a"), (3, "?\u{e4}b"), (8, "")]);
        let edit = |range, text: &str| Edit {
            range,
            text: text.into(),
        };
        assert_eq!(
            source.edited(&[edit(6..7, "c"), edit(0..0, "# ")]),
            b"# a\r\n\xe4\xc3\xa4c\n"
        );
    }
}
