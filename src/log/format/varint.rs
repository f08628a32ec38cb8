//! Zigzag varints as record bodies carry them, read from bytes that may end or lie anywhere.
//!
//! What counts as a varint is what Kafka's `ByteUtils` reads: at most five bytes for 32 bits, ten for
//! 64, longer forms than needed are taken, and what does not fit the last byte is dropped.

use std::ops::Range;

/// Appends `value` as a zigzag varint.
pub(in crate::log) fn put(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends a varint length and the bytes; `None` is the length -1.
pub(in crate::log) fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => put(out, -1),
        Some(bytes) => {
            put(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}

/// Why nothing could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) enum ReadFault {
    /// The bytes end too early.
    Ends,
    /// A varint that goes on after the most bytes it may have.
    Overlong,
    /// The codec cannot go on with what it is given.
    Undecodable,
    /// More bytes than the reader may inflate.
    TooLarge,
}

/// Bytes read forward once: of a slice, or of a body that is inflated while it is read.
pub(in crate::log) trait Input {
    /// How many bytes were read.
    fn position(&self) -> usize;

    /// Whether `length` more bytes are there, as far as that is known without reading them.
    fn may_have(&self, length: usize) -> bool;

    /// The next byte.
    fn byte(&mut self) -> Result<u8, ReadFault>;

    /// Passes over `length` bytes.
    fn skip(&mut self, length: usize) -> Result<(), ReadFault>;

    /// Whether there are no more bytes.
    fn is_at_end(&mut self) -> Result<bool, ReadFault>;
}

/// A zigzag varint of 32 bits.
#[inline]
pub(in crate::log) fn varint(input: &mut impl Input) -> Result<i32, ReadFault> {
    let mut value = 0u32;
    for shift in [0, 7, 14, 21, 28] {
        let byte = input.byte()?;
        value |= u32::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    Err(ReadFault::Overlong)
}

/// A zigzag varint of 64 bits.
#[inline]
pub(in crate::log) fn varlong(input: &mut impl Input) -> Result<i64, ReadFault> {
    let mut value = 0u64;
    for shift in [0, 7, 14, 21, 28, 35, 42, 49, 56, 63] {
        let byte = input.byte()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    Err(ReadFault::Overlong)
}

/// Reads forward through a slice.
pub(in crate::log) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(in crate::log) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, position: 0 }
    }

    pub(in crate::log) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `length` bytes as a range of the whole; `None` when fewer are left.
    pub(in crate::log) fn take(&mut self, length: usize) -> Option<Range<usize>> {
        let from = self.position;
        self.skip(length).ok()?;
        Some(from..self.position)
    }

    /// A varint length and that many bytes; the inner `None` is a null.
    pub(in crate::log) fn nullable(&mut self) -> Option<Option<Range<usize>>> {
        match varint(self).ok()? {
            -1 => Some(None),
            length => Some(Some(self.take(usize::try_from(length).ok()?)?)),
        }
    }
}

impl Input for Cursor<'_> {
    #[inline]
    fn position(&self) -> usize {
        self.position
    }

    #[inline]
    fn may_have(&self, length: usize) -> bool {
        length <= self.remaining()
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, ReadFault> {
        let byte = *self.bytes.get(self.position).ok_or(ReadFault::Ends)?;
        self.position += 1;
        Ok(byte)
    }

    #[inline]
    fn skip(&mut self, length: usize) -> Result<(), ReadFault> {
        if length > self.remaining() {
            return Err(ReadFault::Ends);
        }
        self.position += length;
        Ok(())
    }

    fn is_at_end(&mut self) -> Result<bool, ReadFault> {
        Ok(self.remaining() == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<i64, ReadFault> {
        varlong(&mut Cursor::new(bytes))
    }

    fn read_short(bytes: &[u8]) -> Result<i32, ReadFault> {
        varint(&mut Cursor::new(bytes))
    }

    #[test]
    fn varints_come_back_as_they_were_put() {
        for value in [0, -1, 1, 63, -64, 64, 300, i64::from(i32::MAX), i64::MIN, i64::MAX] {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            assert_eq!(read(&bytes), Ok(value));
            assert_eq!(read(&bytes[..bytes.len() - 1]), Err(ReadFault::Ends));
            if let Ok(short) = i32::try_from(value) {
                assert_eq!(read_short(&bytes), Ok(short));
            }
        }
        let mut bytes = Vec::new();
        put(&mut bytes, i64::from(i32::MIN));
        assert_eq!(read_short(&bytes), Ok(i32::MIN));
    }

    #[test]
    fn varints_longer_than_needed_are_read_and_those_that_do_not_end_are_not() {
        assert_eq!(read_short(&[0x82, 0x80, 0x80, 0x80, 0x00]), Ok(1));
        // Bits that have no room in the last byte are dropped, as Kafka drops them.
        assert_eq!(read_short(&[0x82, 0x80, 0x80, 0x80, 0x70]), Ok(1));
        assert_eq!(read_short(&[0x80; 5]), Err(ReadFault::Overlong));
        let ten = |last| [&[0x82][..], &[0x80; 8], &[last]].concat();
        assert_eq!(read(&ten(0)), Ok(1));
        assert_eq!(read(&ten(0x7e)), Ok(1));
        assert_eq!(read(&ten(0x80)), Err(ReadFault::Overlong));
        assert_eq!(read(&[0x80; 9]), Err(ReadFault::Ends));
    }

    #[test]
    fn lengths_past_the_end_and_below_null_are_refused() {
        assert_eq!(Cursor::new(&[8, 1, 2]).nullable(), None);
        assert_eq!(Cursor::new(&[3]).nullable(), None);
        assert_eq!(Cursor::new(&[1]).nullable(), Some(None));
    }
}
