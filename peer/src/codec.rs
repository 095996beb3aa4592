//! Numbers, texts and byte strings in handshakes and control frames: little-endian, with a `u32`
//! length before what varies.
//!
//! Readers are total: any bytes give a value or [`Malformed`], and nothing is allocated for a
//! length or a count that the bytes at hand cannot hold.

use bytes::BufMut;

/// Bytes that do not say what they should.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed content: field={0}")]
pub struct Malformed(pub &'static str);

/// A cursor over received bytes.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Malformed> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed(field))?;
        self.0 = rest;
        Ok(*first)
    }

    pub fn u8(&mut self, field: &'static str) -> Result<u8, Malformed> {
        self.array(field).map(u8::from_le_bytes)
    }

    pub fn u32(&mut self, field: &'static str) -> Result<u32, Malformed> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, field: &'static str) -> Result<u64, Malformed> {
        self.array(field).map(u64::from_le_bytes)
    }

    pub fn u128(&mut self, field: &'static str) -> Result<u128, Malformed> {
        self.array(field).map(u128::from_le_bytes)
    }

    /// 0 or 1.
    pub fn flag(&mut self, field: &'static str) -> Result<bool, Malformed> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed(field)),
        }
    }

    /// A byte string of at most `bytes_max`.
    pub fn bytes(&mut self, bytes_max: usize, field: &'static str) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u32(field)?).map_err(|_| Malformed(field))?;
        if length > bytes_max {
            return Err(Malformed(field));
        }
        let (first, rest) = self.0.split_at_checked(length).ok_or(Malformed(field))?;
        self.0 = rest;
        Ok(first)
    }

    /// A text of at most `bytes_max`.
    pub fn text(&mut self, bytes_max: usize, field: &'static str) -> Result<String, Malformed> {
        let bytes = self.bytes(bytes_max, field)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed(field))
    }

    /// How many elements follow: at most `count_max`, and no more than the rest can hold if each
    /// takes at least `each_min` bytes.
    pub fn count(
        &mut self,
        count_max: usize,
        each_min: usize,
        field: &'static str,
    ) -> Result<usize, Malformed> {
        let count = usize::try_from(self.u32(field)?).map_err(|_| Malformed(field))?;
        let fits = count.checked_mul(each_min).is_some_and(|bytes| bytes <= self.0.len());
        if count <= count_max && fits { Ok(count) } else { Err(Malformed(field)) }
    }

    /// What is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("end")) }
    }
}

/// Appends a byte string.
///
/// # Panics
///
/// If it is 4 GiB or longer; everything that is encoded is bounded far below.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(u32::try_from(bytes.len()).expect("bounded far below 4 GiB"));
    out.put_slice(bytes);
}

/// Appends a count of elements.
///
/// # Panics
///
/// If there are 4 G or more; everything that is encoded is bounded far below.
pub(crate) fn put_count(out: &mut Vec<u8>, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("bounded far below 4 G"));
}

/// The start of `text` that fits `bytes_max`, cut between characters.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_the_bytes_cannot_hold_is_malformed() {
        let mut bytes = Vec::new();
        put_count(&mut bytes, 3);
        bytes.extend_from_slice(&[0; 23]);
        assert!(Reader::new(&bytes).count(10, 8, "ids").is_err());
        bytes.push(0);
        assert_eq!(Reader::new(&bytes).count(10, 8, "ids"), Ok(3));
        assert!(Reader::new(&bytes).count(2, 8, "ids").is_err());
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("añb", 2), "a");
        assert_eq!(cut("añb", 3), "añ");
        assert_eq!(cut("añb", 9), "añb");
    }
}
