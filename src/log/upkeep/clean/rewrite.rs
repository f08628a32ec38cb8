//! What compaction leaves of a batch: the rules of Kafka's `Cleaner` and of
//! `MemoryRecords.filterTo`. Pure but for the codecs.

use std::collections::HashMap;

use bytes::Bytes;

use super::keys::KeyMap;
use super::txns::Transactions;
use crate::log::format::batch::{self, BatchHeader};
use crate::log::format::raw_records::RawBatch;
use crate::store::ProducerEntry;
use crate::types::{Offset, ProducerEpoch, ProducerId, Timestamp};

/// A batch inflates to at most this much; one that is larger stays as it is.
pub(super) const INFLATED_BYTES_MAX: usize = 64 << 20;

/// What is left of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// All of it, as it is.
    All,
    /// Fewer records, or the same ones with a time at which they may go.
    Rewritten(Bytes),
    /// Nothing.
    Nothing,
}

/// What a producer wrote last, which tells its next sequence and its epoch after a restart.
#[derive(Clone, Copy, Debug)]
enum Last {
    /// A batch that ends at this offset.
    Data(Offset),
    /// A marker, which fences lower epochs.
    Marker(ProducerEpoch),
}

/// Decides batch by batch, in the order of the log.
pub(super) struct Rewriter<'a> {
    keys: &'a KeyMap,
    /// Records from here on are newer than what `keys` knows: they stay.
    reached: Offset,
    /// Records before it can be read no more.
    start: Offset,
    transactions: Transactions,
    last: HashMap<ProducerId, Last>,
    now: Timestamp,
    /// What may go at the earliest then, if it was found fit to go now.
    horizon: Timestamp,
    /// Batches that could not be decoded and stay.
    pub(super) opaque: u64,
}

/// What a rewriter must know of the log.
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

    /// What is left of a whole batch with a right CRC.
    pub(super) fn batch(&mut self, header: &BatchHeader, bytes: &Bytes) -> Left {
        if header.control() {
            return self.marker(header, bytes);
        }
        let is_aborted = self.transactions.is_aborted(header);
        self.transactions.saw_data(header);
        // Without it a producer would have to begin anew after the next restart.
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
        // Of other control batches nobody here knows what they are for.
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

    /// What is left of a batch of records; `None` when it cannot be told.
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

    /// Whether a record stays: the newest of its key does, a tombstone until its horizon. A record
    /// without a key can be from before the topic was compacted only; it goes.
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
