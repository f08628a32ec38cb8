//! The partition logs' share of the view: snapshots, pages of the sparse index, and aborted
//! transactions. All of it can be rebuilt from the segments.

use super::keys::{self, Family};
use super::{Store, StoreError};
use crate::types::{LogId, Offset, ProducerEpoch, ProducerId, Timestamp};

/// How far the view has applied a log, and the log's state there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSnapshot {
    /// First offset of the log.
    pub start: Offset,
    /// The offset after the last one applied.
    pub end: Offset,
    /// The last batch applied, if any segment has one: the log must still have it, or the snapshot
    /// is of no use.
    pub anchor: Option<Anchor>,
    /// Up to where the log is compacted.
    pub cleaned_to: Offset,
    /// Every segment, the last one as far as it is applied.
    pub segments: Vec<SegmentEntry>,
    /// Every producer that the log remembers.
    pub producers: Vec<ProducerEntry>,
}

/// A batch by which a log is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Where it begins in the last segment.
    pub position: u64,
    /// Its base offset.
    pub base_offset: Offset,
    /// Its CRC.
    pub crc: u32,
}

/// A segment of a log, as its index is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentId {
    /// Its first offset.
    pub base: Offset,
    /// How often its contents were replaced.
    pub revision: u32,
}

/// One segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentEntry {
    /// Its first offset.
    pub base: Offset,
    /// How often its contents were replaced.
    pub revision: u32,
    /// Bytes applied.
    pub bytes: u64,
    /// Largest timestamp of its first batch of records.
    pub first_timestamp: Option<Timestamp>,
    /// Its largest timestamp and the first batch that has it.
    pub largest: Option<(Timestamp, Offset)>,
    /// The largest timestamp of its transaction markers.
    pub largest_marker: Option<Timestamp>,
}

/// One producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerEntry {
    /// Its id.
    pub id: ProducerId,
    /// Its current epoch.
    pub epoch: ProducerEpoch,
    /// Largest timestamp of its last batch.
    pub last_timestamp: Timestamp,
    /// First offset of its open transaction.
    pub txn_first: Option<Offset>,
    /// First and last sequence, first and last offset of its last batches, oldest first.
    pub batches: Vec<(i32, i32, Offset, Offset)>,
}

/// One sparse index entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Base offset of a batch.
    pub offset: Offset,
    /// Where the batch begins.
    pub position: u64,
    /// Largest timestamp in the segment before that batch.
    pub timestamp_before: Timestamp,
}

/// An aborted transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedEntry {
    /// Whose.
    pub producer: ProducerId,
    /// Its first offset.
    pub first_offset: Offset,
    /// Offset of its marker.
    pub marker: Offset,
}

/// What a log adds to the view in one step.
#[derive(Debug)]
pub struct LogUpdate<'a> {
    /// The state that the rest leads to.
    pub snapshot: &'a LogSnapshot,
    /// New index entries by segment.
    pub index: Vec<(SegmentId, &'a [IndexEntry])>,
    /// New aborted transactions.
    pub aborted: &'a [AbortedEntry],
    /// Segments that the log has no more.
    pub dropped: &'a [SegmentId],
    /// Aborted transactions that end before this offset are of no use any more.
    pub aborted_from: Offset,
}

/// Version of each value written here.
const VERSION: u8 = 2;
/// Version of a snapshot. Version 2 has no timestamps of markers.
const SNAPSHOT_VERSION: u8 = 3;
/// Index entries of one page: one key for about a MiB of log.
const PAGE_ENTRIES_MAX: usize = 256;
const ENTRY_BYTES: usize = 24;

impl Store {
    /// Puts a log's update in, all of it or nothing.
    pub fn keep_log(&self, log: LogId, update: &LogUpdate<'_>) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (segment, entries) in &update.index {
            put_index(&mut batch, log, *segment, entries);
        }
        for aborted in update.aborted {
            let mut value = Writer::versioned();
            value.u64(aborted.producer.0 as u64);
            value.u64(aborted.first_offset.get());
            batch.insert(keys::aborted(log, aborted.marker), value.0);
        }
        batch.insert(keys::log(Family::LogSnapshot, log), encode_snapshot(update.snapshot));
        self.guarded(|db| {
            for segment in update.dropped {
                for key in db.scan_prefix(keys::index_pages(log, *segment)).keys() {
                    batch.remove(key?);
                }
            }
            let ended = keys::log(Family::LogAborted, log)..keys::aborted(log, update.aborted_from);
            for key in db.range(ended).keys() {
                batch.remove(key?);
            }
            db.apply_batch(batch)
        })
    }

    /// Puts index entries of one segment in, before any snapshot covers them.
    pub fn keep_index(
        &self,
        log: LogId,
        segment: SegmentId,
        entries: &[IndexEntry],
    ) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        put_index(&mut batch, log, segment, entries);
        self.guarded(|db| db.apply_batch(batch))
    }

    /// Every log that has a snapshot.
    pub fn logs(&self) -> Result<Vec<LogId>, StoreError> {
        let prefix = [Family::LogSnapshot as u8];
        let keys: Vec<_> = self.guarded(|db| db.scan_prefix(prefix).keys().collect())?;
        Ok(keys.iter().filter_map(|key| keys::log_of(key)).collect())
    }

    /// A log's newest snapshot; `None` when there is none that this version can read.
    pub fn log_snapshot(&self, log: LogId) -> Result<Option<LogSnapshot>, StoreError> {
        let value = self.guarded(|db| db.get(keys::log(Family::LogSnapshot, log)))?;
        Ok(value.and_then(|value| decode_snapshot(&value)))
    }

    /// A log's aborted transactions, by marker.
    pub fn log_aborted(&self, log: LogId) -> Result<Vec<AbortedEntry>, StoreError> {
        let prefix = keys::log(Family::LogAborted, log);
        let pairs: Vec<_> = self.guarded(|db| db.scan_prefix(&prefix).collect())?;
        let entry = |(key, value): &(sled::IVec, sled::IVec)| {
            let marker = Reader(key.get(prefix.len()..)?).offset()?;
            let mut value = Reader::versioned(value)?;
            let producer = ProducerId(value.u64()? as i64);
            Some(AbortedEntry { producer, first_offset: value.offset()?, marker })
        };
        Ok(pairs.iter().filter_map(entry).collect())
    }

    /// The page of a segment's index that may hold the last entry at or before `offset`.
    pub fn index_page_at(
        &self,
        log: LogId,
        segment: SegmentId,
        offset: Offset,
    ) -> Result<Vec<IndexEntry>, StoreError> {
        let range = keys::index_pages(log, segment)..=keys::index_page(log, segment, offset);
        let page = self.guarded(|db| db.range(range).next_back().transpose())?;
        Ok(page.map(|(_, value)| decode_page(&value)).unwrap_or_default())
    }

    /// The last page of a segment's index that begins before any timestamp reached `timestamp`.
    pub fn index_page_before(
        &self,
        log: LogId,
        segment: SegmentId,
        timestamp: Timestamp,
    ) -> Result<Vec<IndexEntry>, StoreError> {
        let prefix = keys::index_pages(log, segment);
        self.guarded(|db| {
            let mut before = Vec::new();
            for pair in db.scan_prefix(&prefix) {
                let page = decode_page(&pair?.1);
                if page.first().is_none_or(|first| first.timestamp_before >= timestamp) {
                    break;
                }
                before = page;
            }
            Ok(before)
        })
    }

    /// Removes everything about a log.
    pub fn forget_log(&self, log: LogId) -> Result<(), StoreError> {
        self.forget(log, &[Family::LogSnapshot, Family::LogIndexPage, Family::LogAborted])
    }

    fn forget(&self, log: LogId, families: &[Family]) -> Result<(), StoreError> {
        self.guarded(|db| {
            for family in families.iter().copied() {
                let mut batch = sled::Batch::default();
                for key in db.scan_prefix(keys::log(family, log)).keys() {
                    batch.remove(key?);
                }
                db.apply_batch(batch)?;
            }
            Ok(())
        })
    }
}

fn put_index(batch: &mut sled::Batch, log: LogId, segment: SegmentId, entries: &[IndexEntry]) {
    for page in entries.chunks(PAGE_ENTRIES_MAX) {
        if let Some(first) = page.first() {
            batch.insert(keys::index_page(log, segment, first.offset), encode_page(page));
        }
    }
}

fn encode_page(entries: &[IndexEntry]) -> Vec<u8> {
    let mut value = Writer::versioned();
    for entry in entries {
        value.u64(entry.offset.get());
        value.u64(entry.position);
        value.u64(entry.timestamp_before.0 as u64);
    }
    value.0
}

/// The entries of a page; none when this version cannot read it.
fn decode_page(value: &[u8]) -> Vec<IndexEntry> {
    let Some(Reader(entries)) = Reader::versioned(value) else {
        return Vec::new();
    };
    let entry = |bytes: &[u8]| {
        let mut reader = Reader(bytes);
        Some(IndexEntry {
            offset: reader.offset()?,
            position: reader.u64()?,
            timestamp_before: reader.timestamp()?,
        })
    };
    entries.chunks_exact(ENTRY_BYTES).filter_map(entry).collect()
}

fn encode_snapshot(snapshot: &LogSnapshot) -> Vec<u8> {
    let mut value = Writer(vec![SNAPSHOT_VERSION]);
    value.u64(snapshot.start.get());
    value.u64(snapshot.end.get());
    value.u64(snapshot.cleaned_to.get());
    value.u8(u8::from(snapshot.anchor.is_some()));
    if let Some(anchor) = snapshot.anchor {
        value.u64(anchor.position);
        value.u64(anchor.base_offset.get());
        value.u32(anchor.crc);
    }
    value.u32(snapshot.segments.len() as u32);
    for segment in &snapshot.segments {
        value.u64(segment.base.get());
        value.u32(segment.revision);
        value.u64(segment.bytes);
        value.u8(u8::from(segment.first_timestamp.is_some()));
        if let Some(timestamp) = segment.first_timestamp {
            value.u64(timestamp.0 as u64);
        }
        value.u8(u8::from(segment.largest.is_some()));
        if let Some((timestamp, batch)) = segment.largest {
            value.u64(timestamp.0 as u64);
            value.u64(batch.get());
        }
        value.u8(u8::from(segment.largest_marker.is_some()));
        if let Some(timestamp) = segment.largest_marker {
            value.u64(timestamp.0 as u64);
        }
    }
    value.u32(snapshot.producers.len() as u32);
    for producer in &snapshot.producers {
        value.u64(producer.id.0 as u64);
        value.u32(u32::from(producer.epoch.0 as u16));
        value.u64(producer.last_timestamp.0 as u64);
        value.u8(u8::from(producer.txn_first.is_some()));
        if let Some(first) = producer.txn_first {
            value.u64(first.get());
        }
        value.u8(producer.batches.len() as u8);
        for (first_sequence, last_sequence, base, last) in &producer.batches {
            value.u32(*first_sequence as u32);
            value.u32(*last_sequence as u32);
            value.u64(base.get());
            value.u64(last.get());
        }
    }
    value.0
}

fn decode_snapshot(value: &[u8]) -> Option<LogSnapshot> {
    let (version, fields) = value.split_first()?;
    if ![VERSION, SNAPSHOT_VERSION].contains(version) {
        return None;
    }
    let mut reader = Reader(fields);
    let (start, end) = (reader.offset()?, reader.offset()?);
    let cleaned_to = reader.offset()?;
    let anchor = match reader.u8()? {
        0 => None,
        _ => Some(Anchor {
            position: reader.u64()?,
            base_offset: reader.offset()?,
            crc: reader.u32()?,
        }),
    };
    let mut segments = Vec::new();
    for _ in 0..reader.u32()? {
        let (base, revision, bytes) = (reader.offset()?, reader.u32()?, reader.u64()?);
        let first_timestamp = match reader.u8()? {
            0 => None,
            _ => Some(reader.timestamp()?),
        };
        let largest = match reader.u8()? {
            0 => None,
            _ => Some((reader.timestamp()?, reader.offset()?)),
        };
        let largest_marker = match *version {
            SNAPSHOT_VERSION if reader.u8()? > 0 => Some(reader.timestamp()?),
            _ => None,
        };
        segments.push(SegmentEntry {
            base,
            revision,
            bytes,
            first_timestamp,
            largest,
            largest_marker,
        });
    }
    let mut producers = Vec::new();
    for _ in 0..reader.u32()? {
        let id = ProducerId(reader.u64()? as i64);
        let epoch = ProducerEpoch(reader.u32()? as u16 as i16);
        let last_timestamp = reader.timestamp()?;
        let txn_first = match reader.u8()? {
            0 => None,
            _ => Some(reader.offset()?),
        };
        let mut batches = Vec::new();
        for _ in 0..reader.u8()? {
            batches.push((
                reader.u32()? as i32,
                reader.u32()? as i32,
                reader.offset()?,
                reader.offset()?,
            ));
        }
        producers.push(ProducerEntry { id, epoch, last_timestamp, txn_first, batches });
    }
    let whole = reader.0.is_empty();
    whole.then_some(LogSnapshot { start, end, anchor, cleaned_to, segments, producers })
}

/// Big-endian fields behind a version byte.
struct Writer(Vec<u8>);

impl Writer {
    fn versioned() -> Writer {
        Writer(vec![VERSION])
    }

    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }
}

/// Reads what `Writer` wrote; every read is checked.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// `None` for a value of another version.
    fn versioned(value: &'a [u8]) -> Option<Reader<'a>> {
        value.strip_prefix(&[VERSION]).map(Reader)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn offset(&mut self) -> Option<Offset> {
        self.u64().map(Offset::new)
    }

    fn timestamp(&mut self) -> Option<Timestamp> {
        self.u64().map(|value| Timestamp(value as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PartitionId, TopicId};

    fn log(partition: u32) -> LogId {
        LogId { topic: TopicId(uuid::Uuid::from_u128(1)), partition: PartitionId(partition) }
    }

    fn snapshot() -> LogSnapshot {
        LogSnapshot {
            start: Offset::new(1),
            end: Offset::new(900),
            anchor: Some(Anchor { position: 77, base_offset: Offset::new(899), crc: 0xdead_beef }),
            cleaned_to: Offset::new(400),
            segments: vec![
                SegmentEntry {
                    base: Offset::new(1),
                    revision: 3,
                    bytes: 1000,
                    first_timestamp: Some(Timestamp(-7)),
                    largest: Some((Timestamp(-5), Offset::new(3))),
                    largest_marker: Some(Timestamp(8)),
                },
                SegmentEntry {
                    base: Offset::new(400),
                    revision: 0,
                    bytes: 138,
                    first_timestamp: None,
                    largest: None,
                    largest_marker: None,
                },
            ],
            producers: vec![ProducerEntry {
                id: ProducerId(7),
                epoch: ProducerEpoch(-1),
                last_timestamp: Timestamp(12),
                txn_first: Some(Offset::new(500)),
                batches: vec![(i32::MAX, 0, Offset::new(500), Offset::new(501))],
            }],
        }
    }

    fn segment(base: u64) -> SegmentId {
        SegmentId { base: Offset::new(base), revision: 0 }
    }

    fn entries(count: u64) -> Vec<IndexEntry> {
        let entry = |n| IndexEntry {
            offset: Offset::new(10 * n),
            position: 100 * n,
            timestamp_before: Timestamp(n as i64 - 1),
        };
        (0..count).map(entry).collect()
    }

    #[test]
    fn a_logs_update_is_read_back_and_forgotten_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let entries = entries(600);
        let aborted = [3, 9].map(|marker| AbortedEntry {
            producer: ProducerId(2),
            first_offset: Offset::new(marker - 2),
            marker: Offset::new(marker),
        });
        for partition in [0, 1] {
            let update = LogUpdate {
                snapshot: &snapshot(),
                index: vec![(segment(0), &entries), (segment(6000), &entries[..1])],
                aborted: &aborted,
                dropped: &[],
                aborted_from: Offset::ZERO,
            };
            store.keep_log(log(partition), &update).unwrap();
        }
        store.forget_log(log(1)).unwrap();
        assert_eq!(store.log_snapshot(log(0)).unwrap(), Some(snapshot()));
        assert_eq!(store.log_aborted(log(0)).unwrap(), aborted);
        let page = store.index_page_at(log(0), segment(0), Offset::new(2565)).unwrap();
        assert_eq!(page, entries[256..512]);
        let page = store.index_page_before(log(0), segment(0), Timestamp(511)).unwrap();
        assert_eq!(page, entries[256..512]);
        assert_eq!(store.log_snapshot(log(1)).unwrap(), None);
        assert!(store.log_aborted(log(1)).unwrap().is_empty());
        assert!(store.index_page_at(log(1), segment(0), Offset::new(9)).unwrap().is_empty());
    }

    #[test]
    fn what_a_log_drops_leaves_the_view() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let entries = entries(3);
        let aborted = [3, 9].map(|marker| AbortedEntry {
            producer: ProducerId(2),
            first_offset: Offset::new(marker - 2),
            marker: Offset::new(marker),
        });
        let compacted = SegmentId { revision: 1, ..segment(0) };
        let first = LogUpdate {
            snapshot: &snapshot(),
            index: vec![(segment(0), &entries), (compacted, &entries[..1])],
            aborted: &aborted,
            dropped: &[],
            aborted_from: Offset::ZERO,
        };
        store.keep_log(log(0), &first).unwrap();
        let second = LogUpdate {
            snapshot: &snapshot(),
            index: Vec::new(),
            aborted: &[],
            dropped: &[segment(0)],
            aborted_from: Offset::new(9),
        };
        store.keep_log(log(0), &second).unwrap();
        assert_eq!(store.log_aborted(log(0)).unwrap(), aborted[1..]);
        assert!(store.index_page_at(log(0), segment(0), Offset::new(9)).unwrap().is_empty());
        assert_eq!(store.index_page_at(log(0), compacted, Offset::new(9)).unwrap().len(), 1);
    }

    #[test]
    fn a_value_cut_anywhere_or_of_another_version_is_no_snapshot() {
        let mut value = encode_snapshot(&snapshot());
        for cut in 0..value.len() {
            assert_eq!(decode_snapshot(&value[..cut]), None);
        }
        value[0] = SNAPSHOT_VERSION + 1;
        assert_eq!(decode_snapshot(&value), None);
    }

    #[test]
    fn a_snapshot_of_the_version_before_is_read_without_its_markers_times() {
        let mut snapshot = snapshot();
        snapshot.segments.truncate(1);
        snapshot.segments[0].largest_marker = None;
        let mut value = encode_snapshot(&snapshot);
        // The flag lies behind the 3 offsets, the anchor, the count and the segment's other fields.
        let flag = 1 + 24 + (1 + 20) + 4 + (20 + 1 + 8 + 1 + 16);
        assert_eq!(value.remove(flag), 0);
        value[0] = 2;
        assert_eq!(decode_snapshot(&value), Some(snapshot));
    }
}
