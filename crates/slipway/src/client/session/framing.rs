//! Channels in WebSocket messages, as Kubernetes has them: a message's first byte names the stream
//! that the rest belongs to.

use anyhow::bail;
use bytes::{BufMut as _, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::Message;

/// Standard input, to the process.
pub(super) const STDIN: u8 = 0;
/// Standard output, or the terminal.
pub(super) const STDOUT: u8 = 1;
/// Standard error.
pub(super) const STDERR: u8 = 2;
/// How it ended.
pub(super) const ERROR: u8 = 3;
/// The terminal's size, to the process.
pub(super) const RESIZE: u8 = 4;

/// Stands in the place of a channel when the byte behind it names one that is closed.
const CLOSE: u8 = 255;

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum Encoding {
    /// `v4.channel.k8s.io`.
    Plain,
    /// `v5.channel.k8s.io`, in which a channel can be closed by itself.
    WithClose,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client) enum Said {
    /// Bytes of a channel.
    Bytes(u8, Bytes),
    /// Nothing more comes on a channel.
    Close(u8),
    /// Nothing.
    Nothing,
}

impl Encoding {
    /// What a message says.
    pub(in crate::client) fn decode(self, mut payload: Bytes) -> anyhow::Result<Said> {
        let Some(&channel) = payload.first() else {
            return Ok(Said::Nothing);
        };
        let rest = payload.split_off(1);
        match (self, channel, &rest[..]) {
            (Self::WithClose, CLOSE, &[channel]) => Ok(Said::Close(channel)),
            (Self::WithClose, CLOSE, _) => {
                bail!("the runtime's streaming server closes no channel that has a number")
            }
            _ => Ok(Said::Bytes(channel, rest)),
        }
    }

    /// Bytes of a channel.
    pub(in crate::client) fn encode(channel: u8, bytes: &[u8]) -> Message {
        let mut payload = BytesMut::with_capacity(1 + bytes.len());
        payload.put_u8(channel);
        payload.put_slice(bytes);
        Message::Binary(payload.freeze())
    }

    /// That nothing more comes on a channel; none where there is no word for it.
    pub(in crate::client) fn close(self, channel: u8) -> Option<Message> {
        let payload = || Bytes::copy_from_slice(&[CLOSE, channel]);
        (self == Self::WithClose).then(|| Message::Binary(payload()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_servers_write_them() {
        let said = |encoding: Encoding, text| encoding.decode(Bytes::from_static(text));
        for encoding in [Encoding::Plain, Encoding::WithClose] {
            let out = Said::Bytes(STDOUT, Bytes::from_static(b"out"));
            assert_eq!(said(encoding, b"\x01out").unwrap(), out);
            assert_eq!(said(encoding, b"").unwrap(), Said::Nothing);
            assert_eq!(
                Encoding::encode(STDIN, b"in"),
                Message::binary(b"\0in".to_vec())
            );
        }
        assert_eq!(
            said(Encoding::WithClose, b"\xff\x00").unwrap(),
            Said::Close(0)
        );
        assert!(said(Encoding::WithClose, b"\xff").is_err());
        let plain = Said::Bytes(255, Bytes::from_static(b"\0"));
        assert_eq!(said(Encoding::Plain, b"\xff\x00").unwrap(), plain);
        assert_eq!(Encoding::Plain.close(STDIN), None);
    }
}
