//! What compaction keeps of a batch, by the rules of Kafka's `Cleaner` and `MemoryRecords.filterTo`. Pure,
//! except that it decompresses and compresses batches.

use std::collections::HashMap;

use bytes::Bytes;

use super::keys::KeyMap;
use super::txns::Transactions;
use crate::log::format::batch::{self, BatchHeader};
use crate::log::format::raw_records::RawBatch;
use crate::store::ProducerEntry;
use crate::types::{Offset, ProducerEpoch, ProducerId, Timestamp};

/// A batch that decompresses to more than this is kept unchanged.
pub(super) const INFLATED_BYTES_MAX: usize = 64 << 20;

/// What remains of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The batch, unchanged.
    All,
    /// The batch with fewer records, or with the same records and a delete horizon.
    Rewritten(Bytes),
    /// Nothing.
    Nothing,
}

/// What a producer wrote last. After a restart it tells the producer's next sequence and its epoch.
#[derive(Clone, Copy, Debug)]
enum Last {
    /// A batch that ends at this offset.
    Data(Offset),
    /// A marker, which fences lower epochs.
    Marker(ProducerEpoch),
}

/// Decides what remains of each batch. Must see all batches of a log, in order.
pub(super) struct Rewriter<'a> {
    keys: &'a KeyMap,
    /// `keys` knows the records before this offset. Later ones are kept.
    reached: Offset,
    /// The log's start: records before it are dropped, since nobody can read them.
    start: Offset,
    transactions: Transactions,
    last: HashMap<ProducerId, Last>,
    now: Timestamp,
    /// The delete horizon that a tombstone or marker gets now: it is dropped after that time.
    horizon: Timestamp,
    /// How many batches were kept because they could not be decoded.
    pub(super) opaque: u64,
}

/// What a rewriter must know about the log.
pub(super) struct Surroundings<'a> {
    pub(super) keys: &'a KeyMap,
    pub(super) reached: Offset,
    pub(super) start: Offset,
    pub(super) transactions: Transactions,
    pub(super) producers: &'a [ProducerEntry],
    pub(super) now: Timestamp,
    pub(super) delete_retention: std::time::Duration,
}

impl<'a> Rewriter<'a> {
    pub(super) fn new(log: Surroundings<'a>) -> Rewriter<'a> {
        let last = |entry: &ProducerEntry| match entry.batches.last() {
            Some((_, _, _, last_offset)) => (entry.id, Last::Data(*last_offset)),
            None => (entry.id, Last::Marker(entry.epoch)),
        };
        let retention_ms = i64::try_from(log.delete_retention.as_millis()).unwrap_or(i64::MAX);
        Rewriter {
            keys: log.keys,
            reached: log.reached,
            start: log.start,
            transactions: log.transactions,
            last: log.producers.iter().map(last).collect(),
            now: log.now,
            horizon: Timestamp(log.now.0.saturating_add(retention_ms)),
            opaque: 0,
        }
    }

    /// What remains of a whole batch with a correct CRC.
    pub(super) fn batch(&mut self, header: &BatchHeader, bytes: &Bytes) -> Left {
        if header.control() {
            return self.marker(header, bytes);
        }
        let is_aborted = self.transactions.is_aborted(header);
        self.transactions.saw_data(header);
        // A producer's last batch is kept, if need be without records: after a restart it tells the
        // sequence that the producer continues with.
        let tells_sequence = match header.producer.and_then(|p| self.last.get(&p.id)) {
            Some(Last::Data(last_offset)) => *last_offset == header.last_offset(),
            _ => false,
        };
        if header.record_count == 0 {
            return if tells_sequence { Left::All } else { Left::Nothing };
        }
        if is_aborted {
            return match tells_sequence {
                true => Left::Rewritten(batch::emptied(header, bytes)),
                false => Left::Nothing,
            };
        }
        match self.records(header, bytes, tells_sequence) {
            Some(left) => left,
            None => {
                self.opaque += 1;
                Left::All
            }
        }
    }

    fn marker(&mut self, header: &BatchHeader, bytes: &Bytes) -> Left {
        // A control batch of a kind that this version does not know: keep it.
        if header.record_count > 0 && batch::marker_of(bytes).is_none() {
            return Left::All;
        }
        if !self.transactions.saw_marker(header) {
            return Left::All;
        }
        match header.delete_horizon() {
            Some(horizon) if horizon > self.now => Left::All,
            Some(_) => match header.producer.and_then(|p| Some((p, self.last.get(&p.id)?))) {
                Some((producer, Last::Marker(epoch))) if producer.epoch == *epoch => Left::All,
                _ => Left::Nothing,
            },
            None => {
                let raw = RawBatch::open(header, bytes, INFLATED_BYTES_MAX).ok();
                let dated = raw.and_then(|raw| {
                    let records: Vec<_> = raw.records().collect::<Result<_, _>>().ok()?;
                    raw.keep(records, Some(self.horizon)).ok()
                });
                dated.map_or(Left::All, Left::Rewritten)
            }
        }
    }

    /// What remains of a batch of records; `None` if it cannot be decoded.
    fn records(&self, header: &BatchHeader, bytes: &Bytes, tells_sequence: bool) -> Option<Left> {
        let raw = RawBatch::open(header, bytes, INFLATED_BYTES_MAX).ok()?;
        let mut kept = Vec::new();
        let (mut all, mut has_tombstones) = (true, false);
        for record in raw.records() {
            let record = record.ok()?;
            let delta = i32::try_from(record.offset_delta).ok()?;
            if delta > header.last_offset_delta {
                return None;
            }
            let offset = header.base_offset.plus(u64::from(record.offset_delta));
            if self.stays(header, offset, record.key, record.value.is_none()) {
                has_tombstones |= record.value.is_none();
                kept.push(record);
            } else {
                all = false;
            }
        }
        if kept.is_empty() {
            return Some(match tells_sequence {
                true => Left::Rewritten(batch::emptied(header, bytes)),
                false => Left::Nothing,
            });
        }
        let is_dated = header.delete_horizon().is_some();
        let horizon = (has_tombstones && !is_dated).then_some(self.horizon);
        if all && horizon.is_none() {
            return Some(Left::All);
        }
        raw.keep(kept, horizon).ok().map(Left::Rewritten)
    }

    /// Whether a record is kept: the newest record of a key is, a tombstone only until its delete horizon.
    /// A record without a key is dropped: it was written before the topic was compacted.
    fn stays(
        &self,
        header: &BatchHeader,
        offset: Offset,
        key: Option<&[u8]>,
        is_tombstone: bool,
    ) -> bool {
        if offset < self.start {
            return false;
        }
        if offset >= self.reached {
            return true;
        }
        let is_newest = |key| self.keys.newest(key).is_none_or(|newest: Offset| offset >= newest);
        let is_over = || header.delete_horizon().is_some_and(|horizon| horizon <= self.now);
        key.is_some_and(is_newest) && !(is_tombstone && is_over())
    }
}

#[cfg(test)]
mod tests;
