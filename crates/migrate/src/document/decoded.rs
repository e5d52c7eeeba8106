//! Text that was written with quotes and escapes, and the byte of the file that each of its own
//! came from.

use std::ops::Range;

/// What is meant, beside where it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decoded {
    text: String,
    /// Where in the file each byte of `text` is written.
    origin: Vec<usize>,
}

/// A word of a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// Without its quotes.
    pub decoded: Decoded,
    /// The bytes of the file that it is written with, quotes of its own included.
    pub range: Range<usize>,
}

impl Word {
    /// Without its quotes.
    pub fn text(&self) -> &str {
        self.decoded.text()
    }
}

impl Decoded {
    /// What is meant.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Adds a letter that is written at `offset` of the file.
    pub(super) fn push(&mut self, letter: char, offset: usize) {
        self.text.push(letter);
        self.origin.extend(offset..offset + letter.len_utf8());
    }

    /// Takes away what was put in last, down to a length in bytes.
    pub(super) fn truncate(&mut self, length: usize) {
        self.text.truncate(length);
        self.origin.truncate(length);
    }

    /// What comes behind a byte of the text.
    #[must_use]
    pub fn after(&self, byte: usize) -> Self {
        Self {
            text: self.text[byte..].to_string(),
            origin: self.origin[byte..].to_vec(),
        }
    }

    /// The bytes of the file from the first to the last letter; none where there is no letter.
    pub fn range(&self) -> Option<Range<usize>> {
        let (first, last) = (*self.origin.first()?, *self.origin.last()?);
        Some(first..last + 1)
    }

    /// The words as systemd splits a command line (systemd.service(5), "Command lines") and the
    /// value of a variable that it puts into one: at white space, with quotes and backslashes.
    pub fn words(&self) -> Vec<Word> {
        let mut words = Vec::new();
        let mut word = Self::default();
        let mut range: Option<Range<usize>> = None;
        let mut quote = None;
        let mut escaped = false;
        for (letter, origin) in self.text.char_indices().map(|(at, c)| (c, self.origin[at])) {
            if quote.is_none() && !escaped && letter.is_ascii_whitespace() {
                if let Some(range) = range.take() {
                    let decoded = std::mem::take(&mut word);
                    words.push(Word { decoded, range });
                }
                continue;
            }
            let end = origin + letter.len_utf8();
            range = Some(range.map_or(origin..end, |range| range.start..end.max(range.end)));
            if escaped {
                escaped = false;
                match letter {
                    'n' => word.push('\n', origin),
                    't' => word.push('\t', origin),
                    's' => word.push(' ', origin),
                    _ => word.push(letter, origin),
                }
            } else if letter == '\\' && quote != Some('\'') {
                escaped = true;
            } else if quote == Some(letter) {
                quote = None;
            } else if quote.is_none() && matches!(letter, '"' | '\'') {
                quote = Some(letter);
            } else {
                word.push(letter, origin);
            }
        }
        if let Some(range) = range {
            if escaped {
                word.push('\\', range.end - 1);
            }
            words.push(Word {
                decoded: word,
                range,
            });
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Decoded {
        let mut decoded = Decoded::default();
        for (at, letter) in text.char_indices() {
            decoded.push(letter, at + 10);
        }
        decoded
    }

    #[test]
    fn words_have_their_quotes_in_their_range() {
        let words = decoded(r#"--a="b c"  '--d' e\ f "#).words();
        let texts: Vec<_> = words.iter().map(Word::text).collect();
        assert_eq!(texts, ["--a=b c", "--d", "e f"]);
        assert_eq!(words[0].range, 10..19);
        assert_eq!(words[1].range, 21..26);
    }

    #[test]
    fn an_open_quote_ends_with_the_text() {
        let words = decoded("a 'b c").words();
        assert_eq!(words[1].text(), "b c");
        assert!(decoded("  ").words().is_empty());
    }
}
