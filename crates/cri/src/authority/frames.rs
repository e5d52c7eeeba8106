//! Where header blocks are in a stream of HTTP/2 frames (RFC 9113, sections 4.1, 6.2 and 6.10).

use std::ops::Range;

use super::hpack;

/// What a client begins with (section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest header block that is looked at, with its frames' headers, in bytes.
pub(super) const LONGEST_BLOCK: usize = 64 * 1024;

/// The length of a frame's header in bytes.
pub(super) const HEADER: usize = 9;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

const END_HEADERS: u8 = 0x04;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;

/// What can be said of bytes that begin where a frame begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// The first `seen` of them may go on, and with them the `unseen` bytes that follow, whether
    /// they have come yet or not.
    Pass { seen: usize, unseen: usize },
    /// It takes this many more to tell.
    Wait(usize),
    /// The frames are not in an order that HTTP/2 allows.
    GiveUp,
}

/// The header of a frame.
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    /// With its reserved bit, which a client leaves alone.
    stream: [u8; 4],
}

impl Frame {
    fn parse(header: &[u8; HEADER]) -> Self {
        let [l0, l1, l2, kind, flags, stream @ ..] = *header;
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        Self {
            length,
            kind,
            flags,
            stream,
        }
    }

    /// Where in a frame with this header at offset `at` the header block (or a part of it) is. None
    /// if the padding is longer than the frame.
    fn fragment(&self, bytes: &[u8], at: usize) -> Option<Range<usize>> {
        let mut start = at + HEADER;
        let mut end = start + self.length;
        if self.kind == HEADERS && self.flags & PADDED != 0 {
            end = end.checked_sub(usize::from(*bytes.get(start)?))?;
            start += 1;
        }
        if self.kind == HEADERS && self.flags & PRIORITY != 0 {
            start += 5;
        }
        (start <= end).then_some(start..end)
    }
}

/// Looks at bytes that begin where a frame begins, and mends the header block that is complete in
/// them. `complete` is for this function alone: it spares the frames of an earlier look at the same
/// bytes, and is 0 where a new look can begin.
pub(super) fn look(bytes: &mut [u8], complete: &mut usize) -> Look {
    let answer = find_end(bytes, complete);
    if let Look::Pass { seen, unseen: 0 } = answer
        && bytes[3] == HEADERS
    {
        mend(&mut bytes[..seen]);
    }
    if !matches!(answer, Look::Wait(_)) {
        *complete = 0;
    }
    answer
}

fn find_end(bytes: &[u8], complete: &mut usize) -> Look {
    loop {
        let at = *complete;
        let Some(header) = bytes[at..].first_chunk() else {
            return Look::Wait(at + HEADER - bytes.len());
        };
        let frame = Frame::parse(header);
        if at == 0 && frame.kind != HEADERS {
            return Look::Pass {
                seen: HEADER,
                unseen: frame.length,
            };
        }
        if at > 0 && (frame.kind != CONTINUATION || frame.stream[..] != bytes[5..HEADER]) {
            return Look::GiveUp;
        }
        let end = at + HEADER + frame.length;
        if end > LONGEST_BLOCK {
            return Look::Pass {
                seen: at + HEADER,
                unseen: frame.length,
            };
        }
        if end > bytes.len() {
            return Look::Wait(end - bytes.len());
        }
        if frame.flags & END_HEADERS != 0 {
            return Look::Pass {
                seen: end,
                unseen: 0,
            };
        }
        *complete = end;
    }
}

/// Mends the authority in a complete header block: a HEADERS frame and its CONTINUATIONs.
fn mend(frames: &mut [u8]) {
    let Some(fragments) = fragments(frames) else {
        return;
    };
    if let [fragment] = &fragments[..] {
        hpack::mend_authority(&mut frames[fragment.clone()]);
        return;
    }
    let mut block: Vec<u8> = fragments
        .iter()
        .flat_map(|fragment| &frames[fragment.clone()])
        .copied()
        .collect();
    hpack::mend_authority(&mut block);
    let mut mended = &block[..];
    for fragment in fragments {
        let (part, rest) = mended.split_at(fragment.len());
        frames[fragment].copy_from_slice(part);
        mended = rest;
    }
}

fn fragments(frames: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut fragments = Vec::new();
    let mut at = 0;
    while let Some(header) = frames[at..].first_chunk() {
        let frame = Frame::parse(header);
        fragments.push(frame.fragment(frames, at)?);
        at += HEADER + frame.length;
    }
    Some(fragments)
}
