//! The format of a WAL file. Headers and records are written in whole blocks:
//!
//! ```text
//! header block  magic, version:u32, crc:u32, generation:u64, mark:uuid
//! record        magic, crc:u32, length:u32, entries:u32, mark:uuid, sequence:u64, entries
//! entry         topic:uuid partition:u32 base:u64 revision:u32 position:u64 length:u32, bytes
//! ```
//!
//! Numbers are big-endian; each CRC32C covers the fields behind it. Each record begins at a block and has its
//! length in front, so the rest of its last block may hold anything. A file that is reused is written from its
//! beginning, under a higher generation and another mark. The mark is random: by it the records of this
//! generation are told from older records that are left behind them, and from bytes of clients that look like a
//! record.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes};
use uuid::Uuid;

use crate::log::object::buffers::BLOCK_BYTES;
use crate::log::object::record_store::{ObjectId, Unsynced};
use crate::types::{LogId, Offset, PartitionId, TopicId};

const HEADER_MAGIC: &[u8; 8] = b"ottlredo";
const RECORD_MAGIC: &[u8; 4] = b"redo";
const VERSION: u32 = 1;
const RECORD_HEAD_BYTES: usize = 40;
const ENTRY_HEAD_BYTES: usize = 44;
/// The longest record. A group commit has at most about half of this.
pub(super) const RECORD_BYTES_MAX: usize = 16 << 20;
/// Where the CRCs of a header and of a record lie, and the bytes that the header's CRC covers.
const HEADER_CRC: Range<usize> = 12..16;
const HEADER_BODY: Range<usize> = 16..40;
const RECORD_CRC: Range<usize> = 4..8;
/// Where the number of entries of a record lies.
const ENTRIES: Range<usize> = 12..16;
/// A buffer that is larger than this is freed after use.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// One use of a WAL file, from its beginning on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Generation {
    /// Higher than that of every earlier generation over any file.
    pub(super) number: u64,
    /// Each record of this generation has it.
    pub(super) mark: Uuid,
}

/// Whole blocks in memory, aligned as needed for writes past the page cache.
#[derive(Default)]
pub(super) struct Blocks {
    memory: Vec<u8>,
    from: usize,
    length: usize,
}

impl Blocks {
    /// Room for `length` bytes, rounded up to whole blocks, with arbitrary contents.
    fn room(&mut self, length: usize) -> &mut [u8] {
        self.length = length.next_multiple_of(BLOCK_BYTES);
        if self.from + self.length > self.memory.len() {
            self.memory = vec![0; self.length + BLOCK_BYTES];
            // If the memory cannot be aligned, the write returns an error, which the caller handles.
            self.from = self.memory.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        }
        &mut self.memory[self.from..self.from + self.length]
    }

    /// The blocks, to be written.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.from..self.from + self.length]
    }

    /// Frees the memory if it is unusually large.
    pub(super) fn rest(&mut self) {
        if self.memory.len() > KEPT_BYTES_MAX + BLOCK_BYTES {
            *self = Blocks::default();
        }
    }

    /// `length` zeros.
    pub(super) fn zeros(length: usize) -> Blocks {
        let mut blocks = Blocks::default();
        blocks.room(length).fill(0);
        blocks
    }

    /// The header block of a file.
    pub(super) fn header(generation: Generation) -> Blocks {
        let mut blocks = Blocks::default();
        put_header(blocks.room(BLOCK_BYTES), generation);
        blocks
    }

    /// Replaces the contents by one record.
    pub(super) fn put(&mut self, unsynced: &[&Unsynced], generation: Generation, sequence: u64) {
        let length = record_bytes(unsynced);
        let record = self.room(length);
        // Cannot fail: the room is the sum of all that is put.
        let mut rest = &mut record[..length];
        rest.put_slice(RECORD_MAGIC);
        rest.put_u32(0);
        rest.put_u32(length as u32);
        rest.put_u32(unsynced.len() as u32);
        rest.put_slice(generation.mark.as_bytes());
        rest.put_u64(sequence);
        for Unsynced { object, position, pieces } in unsynced {
            rest.put_slice(object.log.topic.0.as_bytes());
            rest.put_u32(object.log.partition.0);
            rest.put_u64(object.base.get());
            rest.put_u32(object.revision);
            rest.put_u64(*position);
            rest.put_u32(pieces.iter().map(Bytes::len).sum::<usize>() as u32);
            pieces.iter().for_each(|piece| rest.put_slice(piece));
        }
        let crc = crc32c::crc32c(&record[RECORD_CRC.end..length]);
        record[RECORD_CRC].copy_from_slice(&crc.to_be_bytes());
    }
}

/// The length of the record of these bytes.
pub(super) fn record_bytes(unsynced: &[&Unsynced]) -> usize {
    let entries = unsynced.iter().map(|unsynced| ENTRY_HEAD_BYTES + unsynced.bytes());
    RECORD_HEAD_BYTES + entries.sum::<usize>()
}

fn put_header(block: &mut [u8], generation: Generation) {
    block.fill(0);
    // Cannot fail: a block is larger.
    let mut rest = &mut block[HEADER_BODY];
    rest.put_u64(generation.number);
    rest.put_slice(generation.mark.as_bytes());
    let crc = crc32c::crc32c(&block[HEADER_BODY]);
    let mut rest = &mut *block;
    rest.put_slice(HEADER_MAGIC);
    rest.put_u32(VERSION);
    rest.put_u32(crc);
}

impl Generation {
    /// A generation without records: the file is empty.
    pub(super) fn empty(number: u64) -> Generation {
        Generation { number, mark: Uuid::nil() }
    }

    /// Whether the file is known to have no records.
    pub(super) fn is_empty(&self) -> bool {
        self.mark.is_nil()
    }

    /// The generation in a header block; `None` if this is no valid header.
    pub(super) fn parse(block: &[u8]) -> Option<Generation> {
        let mut body = block.get(HEADER_BODY)?;
        let is_ours = block.starts_with(HEADER_MAGIC)
            && block[HEADER_MAGIC.len()..HEADER_CRC.start] == VERSION.to_be_bytes()
            && block[HEADER_CRC] == crc32c::crc32c(body).to_be_bytes();
        is_ours
            .then(|| Generation { number: body.get_u64(), mark: Uuid::from_u128(body.get_u128()) })
    }
}

/// The fixed fields at the beginning of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHead {
    pub(super) length: usize,
    pub(super) mark: Uuid,
    pub(super) sequence: u64,
}

impl RecordHead {
    /// The head of the record that begins at the start of `block`, if one does.
    pub(super) fn parse(block: &[u8]) -> Option<RecordHead> {
        let mut rest = block.get(..RECORD_HEAD_BYTES)?.strip_prefix(RECORD_MAGIC)?;
        rest.advance(4);
        let length = rest.get_u32() as usize;
        rest.advance(4);
        let (mark, sequence) = (Uuid::from_u128(rest.get_u128()), rest.get_u64());
        let is_possible = (RECORD_HEAD_BYTES..=RECORD_BYTES_MAX).contains(&length);
        is_possible.then_some(RecordHead { length, mark, sequence })
    }
}

/// Appended bytes, and the object and position that they belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) object: ObjectId,
    pub(super) position: u64,
    pub(super) bytes: Bytes,
}

/// The entries of a record; `None` if its CRC or its structure is wrong.
pub(super) fn entries(record: &Bytes) -> Option<Vec<Entry>> {
    let crc = record.get(RECORD_CRC)?;
    if crc != crc32c::crc32c(record.get(RECORD_CRC.end..)?).to_be_bytes() {
        return None;
    }
    let count = record.get(ENTRIES)?.get_u32();
    let mut rest = record.slice(RECORD_HEAD_BYTES.min(record.len())..);
    let mut entries = Vec::new();
    for _ in 0..count {
        if rest.len() < ENTRY_HEAD_BYTES {
            return None;
        }
        let topic = TopicId(Uuid::from_u128(rest.get_u128()));
        let log = LogId { topic, partition: PartitionId(rest.get_u32()) };
        let base = Offset::new(rest.get_u64());
        let object = ObjectId { log, base, revision: rest.get_u32() };
        let position = rest.get_u64();
        let length = rest.get_u32() as usize;
        if length > rest.len() {
            return None;
        }
        entries.push(Entry { object, position, bytes: rest.split_to(length) });
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_put_and_not_when_a_bit_is_wrong() {
        let object = |partition| ObjectId {
            log: LogId { topic: TopicId(Uuid::from_u128(7)), partition: PartitionId(partition) },
            base: Offset::new(11),
            revision: 2,
        };
        let pieces = |texts: &[&'static str]| texts.iter().map(|text| Bytes::from(*text)).collect();
        let first = Unsynced { object: object(0), position: 4, pieces: pieces(&["ab", "c"]) };
        let second = Unsynced { object: object(1), position: 0, pieces: pieces(&["d"]) };
        let mut blocks = Blocks::default();
        let generation = Generation { number: 9, mark: Uuid::new_v4() };
        assert_eq!(Generation::parse(Blocks::header(generation).bytes()), Some(generation));
        blocks.put(&[&first, &second], generation, 0);
        assert_eq!((blocks.bytes().len(), Generation::parse(blocks.bytes())), (BLOCK_BYTES, None));
        let head = RecordHead::parse(blocks.bytes()).unwrap();
        assert_eq!((head.mark, head.sequence), (generation.mark, 0));
        let record = Bytes::copy_from_slice(&blocks.bytes()[..head.length]);
        let entry = |object, position, text| Entry { object, position, bytes: Bytes::from(text) };
        let expected = [entry(object(0), 4, "abc"), entry(object(1), 0, "d")];
        assert_eq!(entries(&record).unwrap(), expected);
        for index in 0..record.len() {
            let mut wrong = record.to_vec();
            wrong[index] ^= 0x10;
            let is_other = RecordHead::parse(&wrong) != Some(head);
            assert!(is_other || entries(&Bytes::from(wrong)).is_none(), "byte {index}");
        }
        blocks.put(&[&second], generation, 1);
        assert_eq!(blocks.bytes().len(), BLOCK_BYTES);
        assert_eq!(blocks.bytes().as_ptr().align_offset(BLOCK_BYTES), 0);
    }
}
