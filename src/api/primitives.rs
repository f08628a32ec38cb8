//! Kafka's primitive types by hand, for what comes and goes most often: headers, Produce and the
//! answers to Fetch. Flexible versions (KIP-482) write lengths as varints and end with tagged fields.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use thiserror::Error;
use uuid::Uuid;

/// Why bytes are no such value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Malformed {
    #[error("it ends too early")]
    Cut,
    #[error("a length is impossible")]
    Length,
    #[error("a text is not UTF-8")]
    Text,
    #[error("a varint is too long")]
    Varint,
}

/// Takes values off the front of a request.
pub(super) struct Reader {
    rest: Bytes,
    is_flexible: bool,
}

impl Reader {
    pub(super) fn new(bytes: Bytes, is_flexible: bool) -> Reader {
        Reader { rest: bytes, is_flexible }
    }

    /// What was not taken.
    pub(super) fn into_rest(self) -> Bytes {
        self.rest
    }

    pub(super) fn i16(&mut self) -> Result<i16, Malformed> {
        self.rest.try_get_i16().map_err(|_| Malformed::Cut)
    }

    pub(super) fn i32(&mut self) -> Result<i32, Malformed> {
        self.rest.try_get_i32().map_err(|_| Malformed::Cut)
    }

    pub(super) fn uuid(&mut self) -> Result<Uuid, Malformed> {
        self.rest.try_get_u128().map(Uuid::from_u128).map_err(|_| Malformed::Cut)
    }

    /// A text that may be null.
    pub(super) fn text(&mut self) -> Result<Option<StrBytes>, Malformed> {
        let length = match self.is_flexible {
            true => self.compact_length()?,
            false => length(self.i16()?.into())?,
        };
        self.text_of(length)
    }

    /// A text that may be null, whose length is never a varint.
    pub(super) fn plain_text(&mut self) -> Result<Option<StrBytes>, Malformed> {
        let length = length(self.i16()?.into())?;
        self.text_of(length)
    }

    /// A copy: a text outlives its frame, whose buffer the log may have for its own.
    fn text_of(&mut self, length: Option<usize>) -> Result<Option<StrBytes>, Malformed> {
        let Some(length) = length else { return Ok(None) };
        let text = String::from_utf8(self.take(length)?.to_vec()).map_err(|_| Malformed::Text)?;
        Ok(Some(StrBytes::from_string(text)))
    }

    /// Bytes that may be null, without a copy.
    pub(super) fn bytes(&mut self) -> Result<Option<Bytes>, Malformed> {
        match self.long_length()? {
            Some(length) => self.take(length).map(Some),
            None => Ok(None),
        }
    }

    /// How many elements follow. Each must be found before room is made for it.
    pub(super) fn count(&mut self) -> Result<usize, Malformed> {
        self.long_length()?.ok_or(Malformed::Length)
    }

    /// Tagged fields, of which none is known: whatever comes is skipped.
    pub(super) fn tags(&mut self) -> Result<(), Malformed> {
        if !self.is_flexible {
            return Ok(());
        }
        for _ in 0..self.varint()? {
            self.varint()?;
            let size = self.varint()? as usize;
            self.take(size)?;
        }
        Ok(())
    }

    fn long_length(&mut self) -> Result<Option<usize>, Malformed> {
        match self.is_flexible {
            true => self.compact_length(),
            false => length(self.i32()?),
        }
    }

    fn compact_length(&mut self) -> Result<Option<usize>, Malformed> {
        Ok((self.varint()? as usize).checked_sub(1))
    }

    fn take(&mut self, length: usize) -> Result<Bytes, Malformed> {
        if self.rest.len() < length {
            return Err(Malformed::Cut);
        }
        Ok(self.rest.split_to(length))
    }

    fn varint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.rest.try_get_u8().map_err(|_| Malformed::Cut)?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::Varint)
    }
}

/// Null is -1.
fn length(length: i32) -> Result<Option<usize>, Malformed> {
    match length {
        -1 => Ok(None),
        _ => usize::try_from(length).map(Some).map_err(|_| Malformed::Length),
    }
}

/// Puts values behind one another.
pub(super) struct Writer {
    pub(super) bytes: BytesMut,
    is_flexible: bool,
}

impl Writer {
    /// Behind what `bytes` holds.
    pub(super) fn new(bytes: BytesMut, is_flexible: bool) -> Writer {
        Writer { bytes, is_flexible }
    }

    /// A topic by its name, which must have come from a client or be one of at most 249 bytes.
    pub(super) fn text(&mut self, text: &str) {
        if self.is_flexible {
            self.varint(text.len() + 1);
        } else {
            self.bytes.put_i16(text.len() as i16);
        }
        self.bytes.put_slice(text.as_bytes());
    }

    /// A text, or null. What does not fit a length is cut.
    pub(super) fn nullable_text(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(&text[..text.floor_char_boundary(i16::MAX as usize)]),
            None if self.is_flexible => self.varint(0),
            None => self.bytes.put_i16(-1),
        }
    }

    pub(super) fn uuid(&mut self, id: Uuid) {
        self.bytes.put_slice(id.as_bytes());
    }

    /// The length of bytes or of an array that follows.
    pub(super) fn count(&mut self, items: usize) {
        if self.is_flexible { self.varint(items + 1) } else { self.bytes.put_i32(items as i32) }
    }

    /// No tagged fields.
    pub(super) fn tags(&mut self) {
        if self.is_flexible {
            self.bytes.put_u8(0);
        }
    }

    fn varint(&mut self, value: usize) {
        let mut value = value as u32;
        while value >= 0x80 {
            self.bytes.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.put_u8(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_in_both_formats() {
        let id = Uuid::from_u128(7);
        let long = "ä".repeat(20_000);
        for is_flexible in [false, true] {
            let mut writer = Writer::new(BytesMut::new(), is_flexible);
            writer.text("clicks");
            writer.nullable_text(None);
            writer.nullable_text(Some(&long));
            writer.uuid(id);
            writer.count(300);
            writer.tags();
            writer.bytes.put_i32(5);
            let mut reader = Reader::new(writer.bytes.freeze(), is_flexible);
            assert_eq!(reader.text().unwrap().as_deref(), Some("clicks"));
            assert_eq!(reader.text(), Ok(None));
            assert_eq!(reader.text().unwrap().as_deref(), Some(&long[..32_766]));
            assert_eq!(reader.uuid(), Ok(id));
            assert_eq!(reader.count(), Ok(300));
            assert_eq!(reader.tags(), Ok(()));
            assert_eq!(reader.i32(), Ok(5));
            assert_eq!(reader.i16(), Err(Malformed::Cut));
        }
    }

    #[test]
    fn impossible_values_are_named() {
        let read =
            |bytes: &'static [u8], is_flexible| Reader::new(Bytes::from_static(bytes), is_flexible);
        assert_eq!(read(&[0xff, 0xfe], false).text(), Err(Malformed::Length));
        assert_eq!(read(&[0xff; 4], false).count(), Err(Malformed::Length));
        assert_eq!(read(&[0xff; 4], false).bytes(), Ok(None));
        assert_eq!(read(&[0, 2, b'a'], false).plain_text(), Err(Malformed::Cut));
        assert_eq!(read(&[0, 1, 0xff], false).text(), Err(Malformed::Text));
        assert_eq!(read(&[0xff; 5], true).count(), Err(Malformed::Varint));
        assert_eq!(read(&[0], true).count(), Err(Malformed::Length));
        assert_eq!(read(&[1, 0, 9], true).tags(), Err(Malformed::Cut));
        assert_eq!(read(&[], false).tags(), Ok(()));
    }
}
