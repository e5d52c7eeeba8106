//! Changes the value of `:authority` in an HPACK header block, and nothing else of it (RFC 7541).

use std::ops::Range;

use http::uri::Authority;

const AUTHORITY: &[u8] = b":authority";

/// The index of `:authority` in the static table (appendix A).
const AUTHORITY_INDEX: usize = 1;

/// The Huffman code (appendix B), as far as it has text: symbols with codes of the same length in
/// bits have consecutive codes, and codes of the next length begin where these end.
const CODES: [(u32, &[u8]); 10] = [
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b"!\"()?"),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\0$@[]~"),
    (14, b"^}"),
    (LONGEST_CODE, b"<`{"),
];

const LONGEST_CODE: u32 = 15;

/// Replaces the characters of an `:authority` that make it none. Does nothing if it is one, if it
/// cannot be replaced, or from where on the block is malformed.
pub(super) fn mend_authority(block: &mut [u8]) {
    let mut cursor = Cursor { block, at: 0 };
    while let Some(field) = cursor.field() {
        if let Some(value) = field.authority {
            let encoded = &mut block[value.bytes.clone()];
            if value.huffman {
                mend_huffman(encoded);
            } else {
                mend_plain(encoded);
            }
        }
        cursor = Cursor {
            block,
            at: field.end,
        };
    }
}

/// What is between two fields of a block.
struct Cursor<'a> {
    block: &'a [u8],
    at: usize,
}

/// A field of a header block, or a change of the dynamic table's size.
struct Field {
    end: usize,
    /// The value, if the field is `:authority` and its value is here.
    authority: Option<Literal>,
}

/// A string in a block.
struct Literal {
    huffman: bool,
    bytes: Range<usize>,
}

impl Cursor<'_> {
    /// None at the end, and where the block is malformed.
    fn field(&mut self) -> Option<Field> {
        let first = *self.block.get(self.at)?;
        // Section 6: an indexed field, a literal that is indexed, a change of the table's size, and
        // literals that are not or never indexed.
        let (prefix, is_literal) = match first.leading_zeros() {
            0 => (7, false),
            1 => (6, true),
            2 => (5, false),
            _ => (4, true),
        };
        let index = self.integer(prefix)?;
        let mut authority = None;
        if is_literal {
            let named = match index {
                0 => self.literal().map(|name| self.is_authority(&name))?,
                index => index == AUTHORITY_INDEX,
            };
            authority = Some(self.literal()?).filter(|_| named);
        }
        Some(Field {
            end: self.at,
            authority,
        })
    }

    /// Section 5.1.
    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let limit = (1 << prefix) - 1;
        let mut value = usize::from(self.byte()?) & limit;
        if value < limit {
            return Some(value);
        }
        // Nothing here is longer than a block, which 28 bits are enough for.
        for shift in [0, 7, 14, 21] {
            let byte = usize::from(self.byte()?);
            value += (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Section 5.2.
    fn literal(&mut self) -> Option<Literal> {
        let huffman = *self.block.get(self.at)? & 0x80 != 0;
        let length = self.integer(7)?;
        let bytes = self.at..self.at + length;
        self.at = bytes.end;
        (bytes.end <= self.block.len()).then_some(Literal { huffman, bytes })
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.block.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn is_authority(&self, name: &Literal) -> bool {
        let bytes = &self.block[name.bytes.clone()];
        if name.huffman {
            text(&decode(bytes).unwrap_or_default()) == AUTHORITY
        } else {
            bytes == AUTHORITY
        }
    }
}

fn is_valid(authority: &[u8]) -> bool {
    Authority::try_from(authority).is_ok()
}

fn mend_plain(value: &mut [u8]) {
    if !is_valid(value) {
        for byte in value.iter_mut().filter(|byte| !is_unreserved(**byte)) {
            *byte = b'-';
        }
    }
}

fn mend_huffman(encoded: &mut [u8]) {
    let Some(mut symbols) = decode(encoded) else {
        return;
    };
    if is_valid(&text(&symbols)) {
        return;
    }
    for symbol in &mut symbols {
        if !is_unreserved(symbol.byte) {
            let Some(byte) = substitute(symbol.bits) else {
                return;
            };
            symbol.byte = byte;
        }
    }
    encode(&symbols, encoded);
}

/// Whether a character may be anywhere in an authority (RFC 3986, section 2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// A character that may be anywhere in an authority and has a code of this length.
fn substitute(bits: u32) -> Option<u8> {
    match bits {
        6 => Some(b'-'),
        7 => Some(b'x'),
        8 => Some(b'X'),
        10 => Some(b'!'),
        11 => Some(b'\''),
        13 => Some(b'~'),
        _ => None,
    }
}

/// A character, and the length of its code.
struct Symbol {
    byte: u8,
    bits: u32,
}

fn text(symbols: &[Symbol]) -> Vec<u8> {
    symbols.iter().map(|symbol| symbol.byte).collect()
}

/// The groups of [`CODES`], each with its first code.
fn groups() -> impl Iterator<Item = (u32, u32, &'static [u8])> {
    let mut next = 0;
    let mut length = 0;
    CODES.iter().map(move |(bits, symbols)| {
        let first = next << (bits - length);
        length = *bits;
        next = first + u32::try_from(symbols.len()).expect("a handful");
        (*bits, first, *symbols)
    })
}

/// None if there is a symbol that is not in [`CODES`], or the padding is not as it has to be.
fn decode(encoded: &[u8]) -> Option<Vec<Symbol>> {
    let mut symbols = Vec::with_capacity(encoded.len() * 8 / 5);
    let mut bytes = encoded.iter();
    // The bits that are not decoded yet: the last `available` ones of `window`.
    let (mut window, mut available) = (0_u32, 0_u32);
    loop {
        while available < LONGEST_CODE
            && let Some(byte) = bytes.next()
        {
            window = window << 8 | u32::from(*byte);
            available += 8;
        }
        let ones = (1 << available) - 1;
        if available < 8 && window & ones == ones {
            return Some(symbols);
        }
        let symbol = groups().find_map(|(bits, first, symbols)| {
            let code = (window & ones) >> available.checked_sub(bits)?;
            let byte = symbols.get(code.checked_sub(first)? as usize)?;
            Some(Symbol { byte: *byte, bits })
        })?;
        available -= symbol.bits;
        symbols.push(symbol);
    }
}

/// Writes symbols over the codes that they were decoded from, or others of the same lengths.
fn encode(symbols: &[Symbol], encoded: &mut [u8]) {
    let mut encoded = encoded.iter_mut();
    let (mut window, mut available) = (0_u32, 0_u32);
    for symbol in symbols {
        window = window << symbol.bits | code(symbol);
        available += symbol.bits;
        while available >= 8
            && let Some(byte) = encoded.next()
        {
            available -= 8;
            *byte = lowest_byte(window >> available);
        }
    }
    if available > 0
        && let Some(byte) = encoded.next()
    {
        *byte = lowest_byte(window << (8 - available) | 0xff >> available);
    }
}

fn lowest_byte(window: u32) -> u8 {
    window.to_be_bytes()[3]
}

fn code(symbol: &Symbol) -> u32 {
    groups()
        .find_map(|(bits, first, symbols)| {
            let place = symbols.iter().position(|byte| *byte == symbol.byte)?;
            (bits == symbol.bits).then(|| first + u32::try_from(place).expect("a handful"))
        })
        .expect("a symbol that was decoded, or its substitute")
}

#[cfg(test)]
pub(super) mod tests {
    use loona_hpack::huffman::HuffmanDecoder;
    use proptest::prelude::*;

    use super::*;

    /// Text in Huffman code; panics where [`CODES`] does not have it.
    pub(in crate::authority) fn huffman(text: &[u8]) -> Vec<u8> {
        let symbols: Vec<Symbol> = text
            .iter()
            .map(|byte| {
                let bits = CODES.iter().find(|(_, symbols)| symbols.contains(byte));
                Symbol {
                    byte: *byte,
                    bits: bits.expect("a symbol in the table").0,
                }
            })
            .collect();
        let bits: u32 = symbols.iter().map(|symbol| symbol.bits).sum();
        let mut encoded = vec![0; bits.div_ceil(8) as usize];
        encode(&symbols, &mut encoded);
        encoded
    }

    fn mended(value: &[u8]) -> Vec<u8> {
        let mut encoded = huffman(value);
        mend_huffman(&mut encoded);
        HuffmanDecoder::new()
            .decode(&encoded)
            .expect("it stays well-formed")
    }

    #[test]
    fn every_code_is_the_one_of_the_specification() {
        let mut all: Vec<u8> = CODES
            .iter()
            .flat_map(|(_, symbols)| *symbols)
            .copied()
            .collect();
        for byte in &all {
            let decoded = HuffmanDecoder::new().decode(&huffman(&[*byte]));
            assert_eq!(decoded.ok(), Some(vec![*byte]));
        }
        all.sort_unstable();
        let text: Vec<u8> = std::iter::once(0)
            .chain(b' '..=b'~')
            .filter(|b| *b != b'\\')
            .collect();
        assert_eq!(all, text);
    }

    #[test]
    fn a_path_becomes_an_authority() {
        let cases = [
            (
                "%2Frun%2Fslipway%2Fslipway.sock",
                "-2Frun-2Fslipway-2Fslipway.sock",
            ),
            ("/run/slipway/slipway.sock", "-run-slipway-slipway.sock"),
            ("unix:///run/x.sock", "unixx---run-x.sock"),
            ("localhost", "localhost"),
            ("10.0.0.1:8080", "10.0.0.1:8080"),
            ("[::1]:8080", "[::1]:8080"),
        ];
        for (value, expected) in cases {
            let text = |bytes| String::from_utf8(bytes).expect("text");
            assert_eq!(text(mended(value.as_bytes())), expected);
            let mut plain = value.as_bytes().to_vec();
            mend_plain(&mut plain);
            assert_eq!(text(plain), expected.replace("unixx", "unix-"));
        }
    }

    #[test]
    fn what_cannot_be_mended_is_left_alone() {
        for value in ["/run/#1", "%{x}", "a/b<c>", ""] {
            assert_eq!(mended(value.as_bytes()), value.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn a_mended_authority_is_valid_and_as_long(
            value in r"[ -\[\]_a-z|~&&[^#<>]]{1,60}",
        ) {
            let mended = mended(value.as_bytes());
            prop_assert_eq!(mended.len(), value.len());
            prop_assert!(is_valid(&mended), "{}", String::from_utf8_lossy(&mended));
            let mut plain = value.clone().into_bytes();
            mend_plain(&mut plain);
            prop_assert!(is_valid(&plain));
            if is_valid(value.as_bytes()) {
                prop_assert_eq!(&mended, value.as_bytes());
                prop_assert_eq!(plain, value.as_bytes());
            }
        }

        #[test]
        fn no_block_makes_it_panic_or_grow(
            mut block in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            mend_authority(&mut block);
        }

        #[test]
        fn a_block_without_an_authority_is_not_changed(
            names in prop::collection::vec("[a-z-]{1,20}", 0..10),
            value in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut encoder = loona_hpack::Encoder::new();
            let fields = names.iter().map(|name| (name.as_bytes(), &value[..]));
            let block = encoder.encode(fields);
            let mut mended = block.clone();
            mend_authority(&mut mended);
            prop_assert_eq!(mended, block);
        }
    }
}
