//! What the metadata writes to the journal. A record is a list of changes, which hold together or
//! not at all, or a part of the whole image, written when the slot is written anew.
//!
//! A record begins with the number of its format, 3, and its sort. Formats 1 and 2 were text, see
//! `change/text.rs`.
//!
//! ```text
//! changes     3:u8 0:u8 change…
//! image part  3:u8 1:u8 index:u32 is_last:u8 change…
//! ```
//!
//! The parts of an image lie at consecutive positions and are counted from 0. They count only when
//! the last of them is there: a writer that ends earlier, or that another one gets ahead of, leaves
//! parts that say nothing. See `replay.rs`.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::change::{self, Change, text};
use super::image::Image;

/// The format that this binary writes. Persisted.
const FORMAT: u8 = 3;
const CHANGES: u8 = 0;
const IMAGE_PART: u8 = 1;

/// One record of the metadata's slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JournalRecord {
    /// What was decided.
    Changes(Vec<Change>),
    /// A part of the image at this position; the changes of all its parts make it out of nothing.
    ImagePart { index: u32, is_last: bool, changes: Vec<Change> },
}

/// The record of changes that are decided together.
pub(super) fn encode(changes: &[Change]) -> Bytes {
    let mut out = BytesMut::from(&[FORMAT, CHANGES][..]);
    change::put(changes, &mut out);
    out.freeze()
}

/// The records of an image, each a little larger than `part_bytes`, except for the last and for those
/// with one larger change.
pub(super) fn parts(image: &Image, part_bytes: usize) -> impl Iterator<Item = Bytes> {
    let mut changes = image.changes().peekable();
    let mut indices = 0..;
    let mut is_ended = false;
    std::iter::from_fn(move || {
        if is_ended {
            return None;
        }
        let mut body = BytesMut::new();
        while body.len() < part_bytes
            && let Some(change) = changes.next()
        {
            change::put(&[change], &mut body);
        }
        is_ended = changes.peek().is_none();
        let mut out = BytesMut::from(&[FORMAT, IMAGE_PART][..]);
        out.put_u32(indices.next()?);
        out.put_u8(u8::from(is_ended));
        out.put_slice(&body);
        Some(out.freeze())
    })
}

/// What a record says.
pub(super) fn decode(mut record: Bytes) -> Result<JournalRecord, String> {
    if text::is_text(&record) {
        return Ok(JournalRecord::Changes(vec![text::read(&record)?]));
    }
    let cut = |_| "it ends before it says what it is".to_owned();
    let format = record.try_get_u8().map_err(cut)?;
    if format != FORMAT {
        return Err(format!(
            "it has format {format}, this version reads up to {FORMAT}; run a newer Ottla"
        ));
    }
    match record.try_get_u8().map_err(cut)? {
        CHANGES => Ok(JournalRecord::Changes(change::read(record)?)),
        IMAGE_PART => {
            let index = record.try_get_u32().map_err(cut)?;
            let is_last = record.try_get_u8().map_err(cut)? == 1;
            Ok(JournalRecord::ImagePart { index, is_last, changes: change::read(record)? })
        }
        sort => Err(format!("it is of the unknown sort {sort}; run a newer Ottla")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::change::tests::each;

    #[test]
    fn changes_that_are_decided_together_come_back_together() {
        assert_eq!(decode(encode(&each())), Ok(JournalRecord::Changes(each())));
    }

    #[test]
    fn records_of_no_known_format_are_refused() {
        let refusal = decode(Bytes::from_static(&[7, 0])).unwrap_err();
        assert!(refusal.contains("format 7"), "{refusal}");
        for record in [&b""[..], b"\x03", b"\x03\x02", b"\x03\x01\0\0", b"\x03\x00\x01", b"{"] {
            assert!(decode(Bytes::from_static(record)).is_err(), "{record:?}");
        }
    }
}
