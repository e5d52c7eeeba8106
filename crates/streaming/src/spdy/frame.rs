//! Frames of SPDY/3.1 (draft-mbelshe-httpbis-spdy-00, 2.2 and 2.6), read and written.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::headers::{Headers, Reader, Writer};

/// The longest control frame that is accepted, in bytes behind its first eight.
pub const MAX_CONTROL: usize = 16 * 1024;

const VERSION: u16 = 3;
const CONTROL: u32 = 1 << 31;
const FIN: u8 = 1;
const INITIAL_WINDOW_SIZE: u32 = 7;

/// Codes of [`Frame::RstStream`].
pub mod reset {
    /// The other side broke the protocol.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// Bytes for a stream that is not open.
    pub const INVALID_STREAM: u32 = 2;
    /// The stream was not wanted; nothing was done for it.
    pub const REFUSED_STREAM: u32 = 3;
    /// The stream is not wanted any longer.
    pub const CANCEL: u32 = 5;
    /// The other side overdrew, or overfilled, the window.
    pub const FLOW_CONTROL_ERROR: u32 = 7;
}

/// Something that one side tells the other. What a session here has no use for is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// The stream; a client's are odd.
        stream: u32,
        /// What it is for.
        headers: Headers,
        /// Whether the sender will send nothing on it.
        fin: bool,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream.
        stream: u32,
        /// Nothing, usually.
        headers: Headers,
        /// Whether the sender will send nothing on it.
        fin: bool,
    },
    /// Ends a stream in both directions.
    RstStream {
        /// The stream.
        stream: u32,
        /// One of [`reset`].
        status: u32,
    },
    /// Says how much may be sent on each stream before it is acknowledged.
    Settings {
        /// In bytes; none where the frame says other things only.
        initial_window: Option<u32>,
    },
    /// Wants to be sent back.
    Ping(u32),
    /// No further stream will be accepted.
    GoAway {
        /// The last that was.
        last_stream: u32,
        /// 0, or 1 for an error of the protocol.
        status: u32,
    },
    /// More names and values for a stream.
    Headers {
        /// The stream.
        stream: u32,
        /// What is said of it.
        headers: Headers,
        /// Whether the sender will send nothing further on it.
        fin: bool,
    },
    /// So many more bytes may be sent.
    WindowUpdate {
        /// The stream; 0 is the whole connection.
        stream: u32,
        /// In bytes.
        delta: u32,
    },
    /// Bytes of a stream; what one frame carried may come in several of these.
    Data {
        /// The stream.
        stream: u32,
        /// The bytes.
        bytes: Bytes,
        /// Whether they are the sender's last.
        fin: bool,
    },
}

/// Why a connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Control frames of another version.
    #[error("a frame of SPDY version {0}, which is not 3")]
    Version(u16),
    /// A control frame above [`MAX_CONTROL`].
    #[error("a control frame of {0} bytes, above {MAX_CONTROL}")]
    FrameTooLarge(usize),
    /// A control frame that is shorter or longer than its kind.
    #[error("a frame of type {kind} with {length} bytes")]
    Length {
        /// The frame's type.
        kind: u16,
        /// Its length.
        length: usize,
    },
    /// A header block that zlib cannot read.
    #[error("a header block that is not compressed as the protocol has it")]
    Compression,
    /// A header block whose lengths or texts are wrong.
    #[error("a header block that has no names and values")]
    Headers,
    /// A header block above its limits.
    #[error("a header block above 64 KiB or 128 names")]
    HeadersTooLarge,
}

/// Takes a connection's bytes apart. It never keeps more than a control frame.
#[derive(Debug)]
pub struct Decoder {
    within: Within,
    headers: Reader,
}

#[derive(Debug, Clone, Copy)]
enum Within {
    Nothing,
    Data { stream: u32, left: usize, fin: bool },
    Unknown { left: usize },
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            within: Within::Nothing,
            headers: Reader::new(),
        }
    }
}

impl Decoder {
    /// The next frame, taken from the front of what has been received; none when more has to be
    /// received first. After an error there is no next one.
    pub fn decode(&mut self, received: &mut BytesMut) -> Result<Option<Frame>, Error> {
        loop {
            match self.within {
                Within::Nothing => match self.begin(received)? {
                    Begun::Frame(frame) => return Ok(Some(frame)),
                    Begun::Within(within) => self.within = within,
                    Begun::Incomplete => return Ok(None),
                },
                Within::Data { left, .. } if left > 0 && received.is_empty() => return Ok(None),
                Within::Data { stream, left, fin } => {
                    let bytes = received.split_to(left.min(received.len())).freeze();
                    let left = left - bytes.len();
                    let fin_now = fin && left == 0;
                    self.within = if left == 0 {
                        Within::Nothing
                    } else {
                        Within::Data { stream, left, fin }
                    };
                    return Ok(Some(Frame::Data {
                        stream,
                        bytes,
                        fin: fin_now,
                    }));
                }
                Within::Unknown { left } => {
                    let skipped = left.min(received.len());
                    received.advance(skipped);
                    if skipped < left {
                        self.within = Within::Unknown {
                            left: left - skipped,
                        };
                        return Ok(None);
                    }
                    self.within = Within::Nothing;
                }
            }
        }
    }

    fn begin(&mut self, received: &mut BytesMut) -> Result<Begun, Error> {
        let Some(mut start) = received.get(..8) else {
            return Ok(Begun::Incomplete);
        };
        let (first, second) = (start.get_u32(), start.get_u32());
        let flags = second.to_be_bytes()[0];
        let length = (second & 0x00ff_ffff) as usize;
        if first & CONTROL == 0 {
            received.advance(8);
            return Ok(Begun::Within(Within::Data {
                stream: first,
                left: length,
                fin: flags & FIN != 0,
            }));
        }
        let [high, low, kind @ ..] = first.to_be_bytes();
        let (version, kind) = (
            u16::from_be_bytes([high & 0x7f, low]),
            u16::from_be_bytes(kind),
        );
        if version != VERSION {
            return Err(Error::Version(version));
        }
        // What is unknown is to be ignored (2.2.1); the CREDENTIAL that was dropped is, too.
        if !(1..=4).contains(&kind) && !(6..=9).contains(&kind) {
            received.advance(8);
            return Ok(Begun::Within(Within::Unknown { left: length }));
        }
        if length > MAX_CONTROL {
            return Err(Error::FrameTooLarge(length));
        }
        if received.len() < 8 + length {
            received.reserve(8 + length - received.len());
            return Ok(Begun::Incomplete);
        }
        received.advance(8);
        let body = received.split_to(length);
        self.control(kind, flags & FIN != 0, &body)
            .map(Begun::Frame)
    }

    fn control(&mut self, kind: u16, fin: bool, mut body: &[u8]) -> Result<Frame, Error> {
        let length = body.len();
        let bad = || Error::Length { kind, length };
        let least = match kind {
            1 => 10,
            2 | 4 | 6 | 8 => 4,
            _ => 8,
        };
        if length < least || (matches!(kind, 3 | 6 | 7 | 9) && length != least) {
            return Err(bad());
        }
        let first = body.get_u32();
        let stream = first & !CONTROL;
        Ok(match kind {
            1 => Frame::SynStream {
                stream,
                // Behind the stream it belongs to, its priority and its slot.
                headers: self.headers.read(&body[6..])?,
                fin,
            },
            2 => Frame::SynReply {
                stream,
                headers: self.headers.read(body)?,
                fin,
            },
            3 => Frame::RstStream {
                stream,
                status: body.get_u32(),
            },
            4 => {
                if u64::from(first) * 8 != body.len() as u64 {
                    return Err(bad());
                }
                let mut initial_window = None;
                while body.has_remaining() {
                    let (id, value) = (body.get_u32() & 0x00ff_ffff, body.get_u32());
                    if id == INITIAL_WINDOW_SIZE {
                        initial_window = Some(value);
                    }
                }
                Frame::Settings { initial_window }
            }
            6 => Frame::Ping(first),
            7 => Frame::GoAway {
                last_stream: stream,
                status: body.get_u32(),
            },
            8 => Frame::Headers {
                stream,
                headers: self.headers.read(body)?,
                fin,
            },
            _ => Frame::WindowUpdate {
                stream,
                delta: body.get_u32() & !CONTROL,
            },
        })
    }
}

enum Begun {
    Frame(Frame),
    Within(Within),
    Incomplete,
}

/// Puts frames into bytes.
#[derive(Debug, Default)]
pub struct Encoder {
    headers: Writer,
}

impl Encoder {
    /// Appends a frame. Frames have to be sent in the order in which they were encoded.
    ///
    /// # Panics
    /// When the frame is longer than its 24 bits of length can say.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::SynStream {
                stream,
                headers,
                fin,
            } => {
                let block = self.headers.write(headers);
                start(out, 1, *fin, 10 + block.len());
                out.put_u32(*stream);
                out.put_bytes(0, 6);
                out.extend(block);
            }
            Frame::SynReply {
                stream,
                headers,
                fin,
            } => self.stream_headers(2, *stream, headers, *fin, out),
            Frame::RstStream { stream, status } => numbers(out, 3, &[*stream, *status]),
            Frame::Settings { initial_window } => match initial_window {
                Some(window) => numbers(out, 4, &[1, INITIAL_WINDOW_SIZE, *window]),
                None => numbers(out, 4, &[0]),
            },
            Frame::Ping(id) => numbers(out, 6, &[*id]),
            Frame::GoAway {
                last_stream,
                status,
            } => numbers(out, 7, &[*last_stream, *status]),
            Frame::Headers {
                stream,
                headers,
                fin,
            } => self.stream_headers(8, *stream, headers, *fin, out),
            Frame::WindowUpdate { stream, delta } => numbers(out, 9, &[*stream, *delta]),
            Frame::Data { stream, bytes, fin } => {
                out.put_u32(*stream);
                out.put_u32(flags_and_length(*fin, bytes.len()));
                out.extend_from_slice(bytes);
            }
        }
    }

    fn stream_headers(
        &mut self,
        kind: u16,
        stream: u32,
        headers: &Headers,
        fin: bool,
        out: &mut BytesMut,
    ) {
        let block = self.headers.write(headers);
        start(out, kind, fin, 4 + block.len());
        out.put_u32(stream);
        out.extend(block);
    }
}

fn numbers(out: &mut BytesMut, kind: u16, numbers: &[u32]) {
    start(out, kind, false, 4 * numbers.len());
    for number in numbers {
        out.put_u32(*number);
    }
}

fn start(out: &mut BytesMut, kind: u16, fin: bool, length: usize) {
    out.put_u32(CONTROL | u32::from(VERSION) << 16 | u32::from(kind));
    out.put_u32(flags_and_length(fin, length));
}

fn flags_and_length(fin: bool, length: usize) -> u32 {
    let length = u32::try_from(length).expect("a frame of less than 4 GiB");
    assert!(length < 1 << 24, "a frame of less than 16 MiB");
    u32::from(fin) << 24 | length
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode_all(bytes: &[u8]) -> Result<Vec<Frame>, Error> {
        let (mut decoder, mut received) = (Decoder::default(), BytesMut::from(bytes));
        std::iter::from_fn(|| decoder.decode(&mut received).transpose()).collect()
    }

    #[test]
    fn a_frame_has_the_bytes_that_the_protocol_gives_it() {
        let mut out = BytesMut::new();
        let mut encoder = Encoder::default();
        encoder.encode(&Frame::Ping(2), &mut out);
        encoder.encode(
            &Frame::Data {
                stream: 5,
                bytes: Bytes::from_static(b"ab"),
                fin: true,
            },
            &mut out,
        );
        encoder.encode(
            &Frame::SynReply {
                stream: 1,
                headers: Headers::default(),
                fin: false,
            },
            &mut out,
        );
        let expected: &[u8] = &[
            0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2, // PING
            0, 0, 0, 5, 1, 0, 0, 2, b'a', b'b', // data
            0x80, 3, 0, 2, 0, 0, 0, 20, 0, 0, 0, 1, // SYN_REPLY
            0x78, 1, 0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0, // no names
            0, 0, 0, 0xff, 0xff, // flushed
        ];
        assert_eq!(&out[..], expected);
    }

    #[test]
    fn what_is_unknown_is_passed_over() {
        let mut bytes = vec![0x80, 3, 0, 10, 0, 0, 0, 3, 1, 2, 3];
        bytes.extend([0x80, 3, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.extend([0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]);
        assert_eq!(decode_all(&bytes), Ok(vec![Frame::Ping(7)]));
    }

    #[test]
    fn what_breaks_the_protocol_is_named() {
        let decode = |bytes: &[u8]| decode_all(bytes).unwrap_err();
        assert_eq!(decode(&[0x80, 2, 0, 6, 0, 0, 0, 4]), Error::Version(2));
        assert_eq!(
            decode(&[0x80, 3, 0, 1, 0, 1, 0, 0]),
            Error::FrameTooLarge(1 << 16)
        );
        for (kind, length) in [
            (1, 9),
            (2, 3),
            (3, 9),
            (4, 0),
            (6, 5),
            (7, 4),
            (8, 2),
            (9, 7),
        ] {
            let mut bytes = vec![0x80, 3, 0, kind, 0, 0, 0, length];
            bytes.resize(8 + usize::from(length), 0);
            let (kind, length) = (u16::from(kind), usize::from(length));
            assert_eq!(decode(&bytes), Error::Length { kind, length });
        }
        // More settings than there are bytes for.
        assert!(decode_all(&[0x80, 3, 0, 4, 0, 0, 0, 4, 0x20, 0, 0, 0]).is_err());
    }

    fn any_headers() -> impl Strategy<Value = Headers> {
        prop::collection::btree_map("[a-z]{1,9}", "[ -~]{0,30}", 0..5)
            .prop_map(|map| Headers(map.into_iter().collect()))
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let stream = 0..=u32::MAX >> 1;
        let window = prop::option::of(any::<u32>());
        prop_oneof![
            (stream.clone(), any_headers(), any::<bool>()).prop_map(|(stream, headers, fin)| {
                Frame::SynStream {
                    stream,
                    headers,
                    fin,
                }
            }),
            (stream.clone(), any_headers(), any::<bool>()).prop_map(|(stream, headers, fin)| {
                Frame::SynReply {
                    stream,
                    headers,
                    fin,
                }
            }),
            (stream.clone(), any_headers(), any::<bool>()).prop_map(|(stream, headers, fin)| {
                Frame::Headers {
                    stream,
                    headers,
                    fin,
                }
            }),
            (stream.clone(), any::<u32>())
                .prop_map(|(stream, status)| Frame::RstStream { stream, status }),
            window.prop_map(|initial_window| Frame::Settings { initial_window }),
            any::<u32>().prop_map(Frame::Ping),
            (stream.clone(), any::<u32>()).prop_map(|(last_stream, status)| Frame::GoAway {
                last_stream,
                status
            }),
            (stream.clone(), stream.clone())
                .prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
            (
                stream,
                prop::collection::vec(any::<u8>(), 0..100),
                any::<bool>()
            )
                .prop_map(|(stream, bytes, fin)| {
                    let bytes = bytes.into();
                    Frame::Data { stream, bytes, fin }
                }),
        ]
    }

    /// Puts the pieces of a data frame together again.
    fn joined(frames: Vec<Frame>) -> Vec<Frame> {
        let mut all: Vec<Frame> = Vec::new();
        let mut open = false;
        for frame in frames {
            match (all.last_mut(), frame) {
                (
                    Some(Frame::Data { bytes, fin, .. }),
                    Frame::Data {
                        bytes: more,
                        fin: last,
                        ..
                    },
                ) if open => {
                    *bytes = [bytes.as_ref(), &more].concat().into();
                    *fin = last;
                }
                (_, frame) => all.push(frame),
            }
            open = true;
        }
        all
    }

    proptest! {
        #[test]
        fn frames_survive_in_pieces_of_any_size(
            frames in prop::collection::vec(any_frame(), 0..8),
            sizes in prop::collection::vec(1_usize..40, 1..8),
        ) {
            let (mut encoder, mut bytes) = (Encoder::default(), BytesMut::new());
            // Neighbours of the same stream could not be told from pieces of one frame.
            let mut apart = Vec::new();
            for frame in frames {
                apart.push(frame);
                apart.push(Frame::Ping(0));
            }
            for frame in &apart {
                encoder.encode(frame, &mut bytes);
            }
            let (mut decoder, mut received) = (Decoder::default(), BytesMut::new());
            let mut decoded = Vec::new();
            for size in sizes.iter().cycle() {
                if bytes.is_empty() {
                    break;
                }
                received.extend(bytes.split_to((*size).min(bytes.len())));
                while let Some(frame) = decoder.decode(&mut received).unwrap() {
                    decoded.push(frame);
                }
            }
            prop_assert_eq!(joined(decoded), apart);
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode_all(&bytes);
        }
    }
}
