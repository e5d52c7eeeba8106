//! Channels over WebSocket messages, as Kubernetes has them: a message's first byte says which
//! stream the rest belongs to.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// The channels of a process's session; a port-forward's are two for each port.
pub mod process {
    /// Standard input, to the process.
    pub const STDIN: u8 = 0;
    /// Standard output, or the terminal.
    pub const STDOUT: u8 = 1;
    /// Standard error.
    pub const STDERR: u8 = 2;
    /// How it ended.
    pub const ERROR: u8 = 3;
    /// The terminal's size, to the process.
    pub const RESIZE: u8 = 4;
}

/// What stands in the place of the channel when the byte behind it names one to be closed.
const CLOSE: u8 = 255;

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `channel.k8s.io`, `v4.channel.k8s.io`: a byte with the channel, then bytes.
    Binary,
    /// `v5.channel.k8s.io`: the same, and 255 with a channel closes that one.
    BinaryWithClose,
    /// `base64.channel.k8s.io`, `v4.base64.channel.k8s.io`: a digit, then base64.
    Base64,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Bytes for a channel.
    Bytes(u8, Bytes),
    /// Nothing more comes on a channel.
    Close(u8),
    /// Nothing.
    Nothing,
}

/// A message that says nothing that can be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a digit and base64.
    #[error("a message that is no channel's digit and base64")]
    Base64,
    /// The close signal with other than one channel.
    #[error("a close signal that does not name one channel")]
    Close,
}

impl Encoding {
    /// How many channels there can be.
    pub fn channels(self) -> usize {
        match self {
            // One number less than a byte has: 255 closes.
            Self::Binary | Self::BinaryWithClose => 254,
            Self::Base64 => 10,
        }
    }

    /// Reads a message's payload.
    pub fn decode(self, mut payload: Bytes) -> Result<Said, Error> {
        let Some(&channel) = payload.first() else {
            return Ok(Said::Nothing);
        };
        let rest = payload.split_off(1);
        match self {
            Self::BinaryWithClose if channel == CLOSE => match rest[..] {
                [channel] => Ok(Said::Close(channel)),
                _ => Err(Error::Close),
            },
            Self::Binary | Self::BinaryWithClose => Ok(Said::Bytes(channel, rest)),
            Self::Base64 => {
                let channel = channel
                    .checked_sub(b'0')
                    .filter(|digit| *digit < 10)
                    .ok_or(Error::Base64)?;
                let bytes = BASE64_STANDARD.decode(&rest).map_err(|_| Error::Base64)?;
                Ok(Said::Bytes(channel, bytes.into()))
            }
        }
    }

    /// Writes bytes of a channel; with base64 there are ten of them.
    pub fn encode(self, channel: u8, bytes: &[u8]) -> Message {
        match self {
            Self::Binary | Self::BinaryWithClose => {
                let mut payload = BytesMut::with_capacity(1 + bytes.len());
                payload.extend([channel]);
                payload.extend_from_slice(bytes);
                Message::Binary(payload.freeze())
            }
            Self::Base64 => {
                let mut text = char::from(b'0' + channel % 10).to_string();
                BASE64_STANDARD.encode_string(bytes, &mut text);
                Message::Text(Utf8Bytes::from(text))
            }
        }
    }

    /// Writes that nothing more comes on a channel, where there is a word for it.
    pub fn close(self, channel: u8) -> Option<Message> {
        (self == Self::BinaryWithClose)
            .then(|| Message::Binary(Bytes::copy_from_slice(&[CLOSE, channel])))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Encoding; 3] = [
        Encoding::Binary,
        Encoding::BinaryWithClose,
        Encoding::Base64,
    ];

    #[test]
    fn messages_are_as_clients_write_them() {
        let bytes = |text: &'static [u8]| Bytes::from_static(text);
        let decode = |encoding: Encoding, text| encoding.decode(bytes(text));
        assert_eq!(
            decode(Encoding::Binary, b"\x00ls\n"),
            Ok(Said::Bytes(0, bytes(b"ls\n")))
        );
        assert_eq!(
            decode(Encoding::Base64, b"0bHMK"),
            Ok(Said::Bytes(0, bytes(b"ls\n")))
        );
        assert_eq!(
            decode(Encoding::BinaryWithClose, b"\xff\x00"),
            Ok(Said::Close(0))
        );
        assert_eq!(
            decode(Encoding::Binary, b"\xff\x00"),
            Ok(Said::Bytes(255, bytes(b"\x00")))
        );
        for encoding in ALL {
            assert_eq!(decode(encoding, b""), Ok(Said::Nothing));
        }
        assert_eq!(Encoding::Base64.encode(1, b"hi"), Message::text("1aGk="));
        assert_eq!(Encoding::Binary.close(0), None);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for text in [&b"0!"[..], b"0bHM", b"/", b":", b"\x00ls"] {
            let decoded = Encoding::Base64.decode(Bytes::copy_from_slice(text));
            assert_eq!(decoded, Err(Error::Base64), "{text:?}");
        }
        for text in [&b"\xff"[..], b"\xff\x00\x01"] {
            let decoded = Encoding::BinaryWithClose.decode(Bytes::copy_from_slice(text));
            assert_eq!(decoded, Err(Error::Close), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            channel in 0_u8..10,
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            for encoding in ALL {
                let message = encoding.encode(channel, &bytes).into_data();
                let said = Said::Bytes(channel, bytes.clone().into());
                prop_assert_eq!(encoding.decode(message), Ok(said));
            }
        }

        #[test]
        fn any_payload_is_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for encoding in ALL {
                let _ = encoding.decode(bytes.clone().into());
            }
        }
    }
}
