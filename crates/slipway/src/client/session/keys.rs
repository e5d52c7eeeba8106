//! The keys that leave a session: ctrl-p ctrl-q.

use bytes::Bytes;

const CTRL_P: u8 = 0x10;
const CTRL_Q: u8 = 0x11;

/// What was typed, as far as it is for the process.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Typed {
    pub(super) bytes: Bytes,
    /// Whether the user leaves after it.
    pub(super) leaves: bool,
}

impl Typed {
    /// All of it.
    pub(super) fn all(bytes: Bytes) -> Self {
        Self {
            bytes,
            leaves: false,
        }
    }
}

/// Finds the keys in what is typed. A ctrl-p is held back until the next key shows what it means.
#[derive(Debug, Default)]
pub(super) struct DetachKeys {
    held: bool,
}

impl DetachKeys {
    pub(super) fn take(&mut self, typed: &[u8]) -> Typed {
        let mut bytes = Vec::with_capacity(typed.len() + 1);
        for &key in typed {
            match (std::mem::take(&mut self.held), key) {
                (true, CTRL_Q) => {
                    return Typed {
                        bytes: bytes.into(),
                        leaves: true,
                    };
                }
                (held, key) => {
                    if held {
                        bytes.push(CTRL_P);
                    }
                    if key == CTRL_P {
                        self.held = true;
                    } else {
                        bytes.push(key);
                    }
                }
            }
        }
        Typed::all(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys = DetachKeys::default();
        let mut all = Vec::new();
        for piece in pieces {
            let Typed { bytes, leaves } = keys.take(piece);
            all.extend_from_slice(&bytes);
            if leaves {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn only_one_key_after_the_other_leaves() {
        for (pieces, expected, leaves) in [
            (&[&b"ls\n"[..]][..], &b"ls\n"[..], false),
            (&[b"a\x10\x11b"], b"a", true),
            (&[b"a\x10", b"\x11"], b"a", true),
            (&[b"a\x10", b"b"], b"a\x10b", false),
            (&[b"\x11\x10"], b"\x11", false),
            (&[b"\x10\x10\x11"], b"\x10", true),
        ] {
            let (bytes, left) = typed(pieces);
            assert_eq!((bytes.as_slice(), left), (expected, leaves), "{pieces:?}");
        }
    }
}
