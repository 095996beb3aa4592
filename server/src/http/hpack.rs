//! As much of HPACK (RFC 7541) as it takes to find the name of the server among a request's fields.
//!
//! A block of fields can be walked without the dynamic table, because every field says how long it
//! is; what the indexed ones stand for stays unknown.
//!
//! Refuses: numbers and strings that are longer than the block, code that is not Huffman code; all
//! of them give `None`. Keeps no state between blocks.

use std::ops::Range;

/// `:authority` in the static table.
const AUTHORITY_INDEX: usize = 1;

/// Where the value of the first `:authority` that is spelt out stands in a block of fields, with
/// its length in front, and what it says. `None` also for a block that cannot be read.
pub(super) fn find_authority(block: &[u8]) -> Option<(Range<usize>, Vec<u8>)> {
    let mut reader = FieldReader { block, at: 0 };
    loop {
        // The representations of a field, RFC 7541, section 6.
        let (prefix_bits, has_value) = match *block.get(reader.at)? {
            0x80.. => (7, false),
            0x40..=0x7f => (6, true),
            0x20..=0x3f => (5, false),
            _ => (4, true),
        };
        let index = reader.integer(prefix_bits)?;
        if !has_value {
            continue;
        }
        let is_authority = match index {
            0 => reader.string()?.decoded()? == b":authority",
            _ => index == AUTHORITY_INDEX,
        };
        let start = reader.at;
        let value = reader.string()?;
        if is_authority {
            return Some((start..reader.at, value.decoded()?));
        }
    }
}

/// Reads the parts of HPACK's fields; every method gives `None` where the block ends too early.
struct FieldReader<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> FieldReader<'a> {
    /// A number that starts in the low bits of a byte (RFC 7541, section 5.1).
    fn integer(&mut self, prefix_bits: u32) -> Option<usize> {
        let mask = (1 << prefix_bits) - 1;
        let mut value = usize::from(self.byte()?) & mask;
        if value < mask {
            return Some(value);
        }
        // Three more bytes say more than a frame can hold.
        for shift in [0, 7, 14] {
            let byte = usize::from(self.byte()?);
            value += (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A string with its length in front (RFC 7541, section 5.2).
    fn string(&mut self) -> Option<FieldString<'a>> {
        let huffman = self.block.get(self.at)? & 0x80 != 0;
        let length = self.integer(7)?;
        let bytes = self.block.get(self.at..)?.get(..length)?;
        self.at += length;
        Some(FieldString { huffman, bytes })
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.block.get(self.at)?;
        self.at += 1;
        Some(byte)
    }
}

/// A string as it stands in a block of fields.
struct FieldString<'a> {
    huffman: bool,
    bytes: &'a [u8],
}

impl FieldString<'_> {
    /// What it says; `None` if it breaks the rules of its code.
    fn decoded(&self) -> Option<Vec<u8>> {
        if self.huffman { huffman_decoded(self.bytes) } else { Some(self.bytes.to_vec()) }
    }
}

/// Appends a string as it is, with its length in front.
pub(super) fn put_string(block: &mut Vec<u8>, text: &[u8]) {
    match text.len().checked_sub(0x7f) {
        None => block.push(text.len() as u8),
        Some(mut rest) => {
            block.push(0x7f);
            while rest >= 0x80 {
                block.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            block.push(rest as u8);
        }
    }
    block.extend_from_slice(text);
}

/// HPACK's code (RFC 7541, appendix B): the bytes whose code has so many bits. The code is canonical:
/// through this list each code is the one before it plus one, with zeros appended where the length
/// grows. The last code of 30 bits, all ones, stands for no byte.
const HUFFMAN: [(u32, &[u8]); 21] = [
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b"!\"()?"),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\x00$@[]~"),
    (14, b"^}"),
    (15, b"<`{"),
    (19, b"\\\xc3\xd0"),
    (20, b"\x80\x82\x83\xa2\xb8\xc2\xe0\xe2"),
    (21, b"\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6"),
    (
        22,
        b"\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4\xc6\xe4\xe8\
          \xe9",
    ),
    (
        23,
        b"\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4\xb6\xb7\xbc\
          \xbf\xc5\xe7\xef",
    ),
    (24, b"\x09\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed"),
    (25, b"\xc7\xcf\xea\xeb"),
    (26, b"\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff"),
    (27, b"\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe"),
    (
        28,
        b"\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\
          \x1f\x7f\xdc\xf9",
    ),
    (30, b"\x0a\x0d\x16"),
];

/// The bytes behind HPACK's Huffman code; `None` for bits that are neither code nor padding.
fn huffman_decoded(coded: &[u8]) -> Option<Vec<u8>> {
    let end = coded.len() * 8;
    let mut decoded = Vec::with_capacity(coded.len() * 8 / 5);
    let mut at = 0;
    loop {
        let next = next_32_bits(coded, at);
        match huffman_symbol(next) {
            Some((bits, symbol)) if at + bits <= end => {
                decoded.push(symbol);
                at += bits;
            }
            // A string ends with fewer than eight bits, all ones.
            _ => return (end - at < 8 && next == u32::MAX).then_some(decoded),
        }
    }
}

/// The bits from `at` on, with ones after the last.
fn next_32_bits(coded: &[u8], at: usize) -> u32 {
    let first = at / 8;
    let bytes: [u8; 5] = std::array::from_fn(|offset| coded.get(first + offset).copied().unwrap_or(0xff));
    let high = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    ((u64::from(high) << 8 | u64::from(bytes[4])) >> (8 - at % 8)) as u32
}

/// The symbol whose code these bits start with, and the length of its code.
fn huffman_symbol(bits: u32) -> Option<(usize, u8)> {
    let (mut first, mut first_length) = (0, 0);
    for (length, symbols) in HUFFMAN {
        first <<= length - first_length;
        let offset = ((bits >> (32 - length)) - first) as usize;
        if let Some(symbol) = symbols.get(offset) {
            return Some((length as usize, *symbol));
        }
        (first, first_length) = (first + symbols.len() as u32, length);
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A string in Huffman code, with its length in front: the slow twin of `huffman_decoded`.
    pub fn huffman(text: &[u8]) -> Vec<u8> {
        let mut bits = String::new();
        for byte in text {
            let (mut code, mut code_length) = (0, 0);
            'search: for (length, symbols) in HUFFMAN {
                code <<= length - code_length;
                code_length = length;
                for symbol in symbols {
                    if symbol == byte {
                        break 'search;
                    }
                    code += 1;
                }
            }
            bits += &format!("{code:0width$b}", width = code_length as usize);
        }
        bits += &"1".repeat(bits.len().wrapping_neg() % 8);
        let digits = bits.as_bytes().chunks(8).map(|octet| std::str::from_utf8(octet).expect("digits"));
        let coded: Vec<u8> =
            digits.map(|octet| u8::from_str_radix(octet, 2).expect("eight digits")).collect();
        let mut written = Vec::new();
        put_string(&mut written, &coded);
        written[0] |= 0x80;
        written
    }

    #[test]
    fn huffman_code_is_read_as_in_the_rfcs_examples() {
        let read =
            |coded: &[u8]| huffman_decoded(coded).map(|text| String::from_utf8_lossy(&text).into_owned());
        let name = b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
        assert_eq!(read(name).as_deref(), Some("www.example.com"));
        let date =
            b"\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff";
        assert_eq!(read(date).as_deref(), Some("Mon, 21 Oct 2013 20:13:21 GMT"));
        assert_eq!(read(b"\xff\xff\xff\xfc"), None, "the end of a string is no byte");
        assert_eq!(read(b"\x00"), None, "padding is ones");
    }

    #[test]
    fn huffman_code_is_complete_but_for_the_end_of_a_string() {
        let mut bytes: Vec<u8> = HUFFMAN.iter().flat_map(|(_, symbols)| symbols.iter().copied()).collect();
        let used: u64 = HUFFMAN.iter().map(|(length, symbols)| (symbols.len() as u64) << (30 - length)).sum();
        assert_eq!(used, (1 << 30) - 1);
        bytes.sort_unstable();
        assert!(bytes.iter().copied().eq(0..=u8::MAX));
    }

    proptest! {
        #[test]
        fn a_string_in_huffman_code_is_read_back(text in prop::collection::vec(any::<u8>(), 0..30)) {
            prop_assert_eq!(huffman_decoded(&huffman(&text)[1..]), Some(text));
        }

        #[test]
        fn any_block_of_fields_is_survived(block in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some((place, _)) = find_authority(&block) {
                prop_assert!(place.end <= block.len());
            }
        }
    }
}
