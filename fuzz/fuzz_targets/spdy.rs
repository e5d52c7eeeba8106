//! SPDY from whatever a client may send: nothing panics, a connection ends with its client, and
//! frames do not depend on the pieces in which they arrive.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use slipway_streaming::fuzzing;
use slipway_streaming::spdy::{Decoder, Encoder, Error, Frame};

fuzz_target!(|data: &[u8]| {
    let whole = decode(data, data.len());
    let pieces = decode(data, 7);
    assert_eq!(whole, pieces);
    // What was understood can be said again.
    let (mut encoder, mut bytes) = (Encoder::default(), BytesMut::new());
    for frame in &whole.0 {
        encoder.encode(frame, &mut bytes);
    }
    assert_eq!(decode(&bytes, bytes.len()), (whole.0, None));
    fuzzing::spdy(data);
});

/// The frames in this, up to the first that is broken; those with the bytes of one stream are put
/// together.
fn decode(data: &[u8], piece: usize) -> (Vec<Frame>, Option<Error>) {
    let (mut decoder, mut received) = (Decoder::default(), BytesMut::new());
    let mut frames: Vec<Frame> = Vec::new();
    for piece in data.chunks(piece.max(1)) {
        received.extend_from_slice(piece);
        loop {
            let frame = match decoder.decode(&mut received) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            };
            match (frames.last_mut(), frame) {
                (
                    Some(Frame::Data { stream, bytes, fin }),
                    Frame::Data {
                        stream: of,
                        bytes: more,
                        fin: last,
                    },
                ) if *stream == of && !*fin => {
                    *bytes = [&bytes[..], &more].concat().into();
                    *fin = last;
                }
                (_, frame) => frames.push(frame),
            }
        }
    }
    (frames, None)
}
