//! A line of a log.

/// Which of a container's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or a terminal.
    Out,
    /// Standard error.
    Error,
}

/// Whether a piece ends its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// It does.
    Full,
    /// The line goes on in the stream's next piece.
    Partial,
}

/// Writes a line behind others: what a container has written, given in pieces and without a
/// newline, at an RFC 3339 time.
pub fn write_line(lines: &mut Vec<u8>, time: &[u8], stream: Stream, tag: Tag, text: [&[u8]; 2]) {
    lines.extend_from_slice(time);
    lines.extend_from_slice(match stream {
        Stream::Out => b" stdout ",
        Stream::Error => b" stderr ",
    });
    lines.extend_from_slice(match tag {
        Tag::Full => b"F ",
        Tag::Partial => b"P ",
    });
    for piece in text {
        lines.extend_from_slice(piece);
    }
    lines.push(b'\n');
}
