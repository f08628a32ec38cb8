//! What a valid record is, and the walk over the records of a batch that says whether it is one.
//!
//! The one definition for the check of what producers send, look-ups by timestamp, compaction and
//! the decoder. It follows Kafka's `DefaultRecord` and `LogValidator`, and is stricter where Kafka
//! stores what consumers cannot read: offset deltas are 0, 1, 2 and so on, a record is as long as it
//! says also where it is compressed, and no length is below -1. Nothing is copied or allocated.

use super::batch::BatchHeader;
use super::varint::{Input, ReadFault, varint, varlong};
use crate::types::Timestamp;

/// Where a record's parts lie in the inflated body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct Layout {
    /// Where its length begins.
    pub(in crate::log) start: usize,
    pub(in crate::log) timestamp_delta: i64,
    pub(in crate::log) offset_delta: i32,
    /// First byte and length; `None` is a null key.
    pub(in crate::log) key: Option<(usize, usize)>,
    /// First byte and length; `None` is a tombstone.
    pub(in crate::log) value: Option<(usize, usize)>,
    /// Where the number of headers stands; they are the rest of the record.
    pub(in crate::log) headers: usize,
    /// One past its last byte.
    pub(in crate::log) end: usize,
}

/// What is wrong with a record, or with what follows the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) enum Fault {
    /// Its bytes cannot be read.
    Read(ReadFault),
    /// Its length does not end: Kafka has no word for that one.
    EndlessLength,
    /// A negative length, or more than there is.
    Length(i32),
    /// Its fields end elsewhere than its length says.
    LengthOfFields,
    /// Another offset delta than its place in the batch.
    OffsetDelta(i32),
    /// A key that is shorter than null or longer than the record.
    KeyLength(i32),
    /// The same of the value.
    ValueLength(i32),
    /// A negative number of headers, or more than fit.
    HeaderCount(i32),
    /// A header without a name, or with one longer than the record.
    HeaderNameLength(i32),
    /// A header's value that is shorter than null or longer than the record.
    HeaderValueLength(i32),
    /// Bytes behind the last record.
    Trailing,
}

/// The record at which a walk ended, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct Broken {
    /// Its place in the batch, from 0.
    pub(in crate::log) index: i32,
    pub(in crate::log) fault: Fault,
}

impl From<ReadFault> for Fault {
    fn from(fault: ReadFault) -> Fault {
        Fault::Read(fault)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Read(ReadFault::Ends) => f.write_str("the batch ends within it"),
            Fault::Read(ReadFault::Overlong) => f.write_str("a number in it does not end"),
            Fault::Read(ReadFault::Undecodable) => f.write_str("it cannot be decompressed"),
            Fault::Read(ReadFault::TooLarge) => f.write_str("it lies beyond the bound"),
            Fault::EndlessLength => f.write_str("its length does not end"),
            Fault::Length(length) => write!(f, "its length is {length}, which does not fit"),
            Fault::LengthOfFields => f.write_str("its fields are not as long as it says"),
            Fault::OffsetDelta(delta) => write!(f, "its offset delta is {delta}"),
            Fault::KeyLength(length) => write!(f, "its key's length is {length}"),
            Fault::ValueLength(length) => write!(f, "its value's length is {length}"),
            Fault::HeaderCount(count) => write!(f, "it says that it has {count} headers"),
            Fault::HeaderNameLength(length) => {
                write!(f, "the length of a header's name is {length}")
            }
            Fault::HeaderValueLength(length) => {
                write!(f, "the length of a header's value is {length}")
            }
            Fault::Trailing => f.write_str("bytes follow it, and it is the last one"),
        }
    }
}

impl Broken {
    /// The fault with its place in a batch of `count` records.
    pub(in crate::log) fn of(&self, count: i32) -> String {
        format!("record {} of {count}: {}", self.index, self.fault)
    }
}

impl Layout {
    /// The record's time, which is the batch's where the broker has stamped that one.
    #[inline]
    pub(in crate::log) fn timestamp(&self, header: &BatchHeader) -> Timestamp {
        if header.log_append_time() {
            return header.max_timestamp;
        }
        self.create_time(header)
    }

    /// The time that its producer has given it.
    #[inline]
    pub(in crate::log) fn create_time(&self, header: &BatchHeader) -> Timestamp {
        // As in Java, where sums wrap.
        Timestamp(header.base_timestamp.0.wrapping_add(self.timestamp_delta))
    }
}

/// Passes over the next record, whatever its offset delta.
#[inline]
pub(in crate::log) fn record<I: Input>(input: &mut I) -> Result<Layout, Fault> {
    let start = input.position();
    let length = varint(input).map_err(|fault| match fault {
        ReadFault::Overlong => Fault::EndlessLength,
        other => Fault::Read(other),
    })?;
    let end = match usize::try_from(length) {
        Ok(bytes) if input.may_have(bytes) => input.position() + bytes,
        _ => return Err(Fault::Length(length)),
    };
    // Attributes: none are defined, and Kafka takes any.
    input.byte()?;
    let timestamp_delta = varlong(input)?;
    let offset_delta = varint(input)?;
    let key = nullable(input, end, Fault::KeyLength)?;
    let value = nullable(input, end, Fault::ValueLength)?;
    let headers = input.position();
    let count = varint(input)?;
    if count != 0 {
        pass_headers(input, count, end)?;
    }
    if input.position() != end {
        return Err(Fault::LengthOfFields);
    }
    Ok(Layout { start, timestamp_delta, offset_delta, key, value, headers, end })
}

fn pass_headers<I: Input>(input: &mut I, count: i32, end: usize) -> Result<(), Fault> {
    let most = end.saturating_sub(input.position());
    if usize::try_from(count).is_ok_and(|count| count <= most) {
        for _ in 0..count {
            if nullable(input, end, Fault::HeaderNameLength)?.is_none() {
                return Err(Fault::HeaderNameLength(-1));
            }
            nullable(input, end, Fault::HeaderValueLength)?;
        }
        return Ok(());
    }
    Err(Fault::HeaderCount(count))
}

/// Passes over a length and so many bytes, which end at `end` at the latest.
#[inline]
fn nullable<I: Input>(
    input: &mut I,
    end: usize,
    fault: impl FnOnce(i32) -> Fault,
) -> Result<Option<(usize, usize)>, Fault> {
    let length = varint(input)?;
    if length == -1 {
        return Ok(None);
    }
    let from = input.position();
    match usize::try_from(length) {
        Ok(bytes) if bytes <= end.saturating_sub(from) => {
            input.skip(bytes)?;
            Ok(Some((from, bytes)))
        }
        _ => Err(fault(length)),
    }
}

/// Passes over all records of a batch as a producer must send them, and shows each to `visit`.
#[inline]
pub(in crate::log) fn walk<I: Input>(
    header: &BatchHeader,
    input: &mut I,
    mut visit: impl FnMut(i32, &Layout),
) -> Result<(), Broken> {
    for index in 0..header.record_count {
        let layout = record(input).map_err(|fault| Broken { index, fault })?;
        if layout.offset_delta != index {
            return Err(Broken { index, fault: Fault::OffsetDelta(layout.offset_delta) });
        }
        visit(index, &layout);
    }
    let index = (header.record_count - 1).max(0);
    match input.is_at_end() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Broken { index, fault: Fault::Trailing }),
        Err(fault) => Err(Broken { index, fault: Fault::Read(fault) }),
    }
}

#[cfg(test)]
mod tests;
