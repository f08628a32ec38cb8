//! Zigzag varints as record bodies carry them, and a checked cursor over borrowed bytes.

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

/// Reads forward through bytes that may end or lie anywhere; every read is checked.
pub(in crate::log) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(in crate::log) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, position: 0 }
    }

    pub(in crate::log) fn position(&self) -> usize {
        self.position
    }

    pub(in crate::log) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `length` bytes as a range of the whole; `None` when fewer are left.
    pub(in crate::log) fn take(&mut self, length: usize) -> Option<std::ops::Range<usize>> {
        if length > self.remaining() {
            return None;
        }
        let range = self.position..self.position + length;
        self.position = range.end;
        Some(range)
    }

    pub(in crate::log) fn byte(&mut self) -> Option<u8> {
        let range = self.take(1)?;
        self.bytes.get(range.start).copied()
    }

    /// A zigzag varint of at most 64 bits.
    pub(in crate::log) fn varlong(&mut self) -> Option<i64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            // The tenth byte has room for one bit only.
            if shift == 63 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        None
    }

    /// A zigzag varint of at most 32 bits.
    pub(in crate::log) fn varint(&mut self) -> Option<i32> {
        i32::try_from(self.varlong()?).ok()
    }

    /// A varint length and that many bytes; the inner `None` is a null.
    pub(in crate::log) fn nullable(&mut self) -> Option<Option<std::ops::Range<usize>>> {
        match self.varint()? {
            -1 => Some(None),
            length => Some(Some(self.take(usize::try_from(length).ok()?)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back_as_they_were_put() {
        for value in [0, -1, 1, 63, -64, 64, 300, i64::from(i32::MAX), i64::MIN, i64::MAX] {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            assert_eq!(Cursor::new(&bytes).varlong(), Some(value));
            assert_eq!(Cursor::new(&bytes[..bytes.len() - 1]).varlong(), None);
        }
    }

    #[test]
    fn overlong_varints_and_lengths_past_the_end_are_refused() {
        assert_eq!(Cursor::new(&[0xff; 11]).varlong(), None);
        assert_eq!(Cursor::new(&[0x80; 9]).varlong(), None);
        assert_eq!(Cursor::new(&[8, 1, 2]).nullable(), None);
        assert_eq!(Cursor::new(&[3]).nullable(), None);
        assert_eq!(Cursor::new(&[1]).nullable(), Some(None));
    }
}
