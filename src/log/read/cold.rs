//! Reads of bytes that are not in the page cache. The first reader of such bytes reads them past the
//! page cache (`O_DIRECT`): on a virtual machine the first touch of a page that the disk has just filled
//! is expensive, and bytes that one consumer reads once would evict pages that others read again. The
//! second reader of the same bytes reads them through the page cache, for all later readers.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::log::object::record_store::{Location, ObjectId, Way};
use crate::log::partition::Shared;

/// How many stretches are remembered for each log; the oldest is forgotten first.
const STRETCHES_MAX: usize = 64;
/// A file whose last write is younger than this counts as being written.
const QUIET_MS_MIN: i64 = 1000;

/// The byte ranges that were read past the page cache, oldest first. A range that was forgotten is read
/// past the page cache once more.
#[derive(Default)]
pub(in crate::log) struct Passed {
    stretches: Mutex<VecDeque<(ObjectId, Range<u64>)>>,
}

impl Passed {
    fn stretches(&self) -> MutexGuard<'_, VecDeque<(ObjectId, Range<u64>)>> {
        self.stretches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::log) fn has(&self, object: ObjectId, position: u64) -> bool {
        self.stretches().iter().any(|(of, stretch)| *of == object && stretch.contains(&position))
    }

    /// Adds a stretch. If it continues a stretch of the same object, that stretch is extended.
    pub(in crate::log) fn put(&self, object: ObjectId, stretch: Range<u64>) {
        let mut stretches = self.stretches();
        let before = |(of, it): &&mut (ObjectId, Range<u64>)| {
            *of == object && it.start <= stretch.start && it.end >= stretch.start
        };
        if let Some((_, longer)) = stretches.iter_mut().rev().find(before) {
            longer.end = longer.end.max(stretch.end);
            return;
        }
        if stretches.len() == STRETCHES_MAX {
            stretches.pop_front();
        }
        stretches.push_back((object, stretch));
    }
}

impl Shared {
    /// Reads the bytes at `location` past the page cache. `None` if they should be read through the page
    /// cache instead: somebody has read them before, the segment is being written, or the file system
    /// cannot do it.
    pub(in crate::log) fn bytes_past(&self, location: Location) -> Option<(Bytes, Way)> {
        if self.passed.has(location.object, location.position) || self.is_growing(location.object) {
            return None;
        }
        self.settings.store.read_past(location)
    }

    /// Whether the object is being written: file systems make appends wait for reads past the page cache.
    fn is_growing(&self, object: ObjectId) -> bool {
        if self.readable().segments.last().is_none_or(|last| last.object != object) {
            return false;
        }
        let written_at = self.settings.store.written_at(object);
        let quiet_since = self.settings.age.now().0.saturating_sub(QUIET_MS_MIN);
        !written_at.is_ok_and(|written| written.0 < quiet_since)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::types::{LogId, Offset, PartitionId, TopicId};

    fn object(base: u64) -> ObjectId {
        let log = LogId { topic: TopicId(Uuid::from_u128(7)), partition: PartitionId(0) };
        ObjectId::appended(log, Offset::new(base))
    }

    #[test]
    fn a_reader_makes_its_stretch_longer_and_is_never_behind_its_own_end() {
        let passed = Passed::default();
        for from in (100..200).step_by(10) {
            assert!(!passed.has(object(0), from));
            passed.put(object(0), from..from + 10);
        }
        assert_eq!(passed.stretches().len(), 1);
        assert!(passed.has(object(0), 100) && passed.has(object(0), 199));
        assert!(!passed.has(object(0), 99) && !passed.has(object(0), 200));
        assert!(!passed.has(object(1), 150));
        // A read inside it does not make it shorter.
        passed.put(object(0), 120..130);
        assert!(passed.has(object(0), 199));
    }

    #[test]
    fn the_oldest_stretch_is_forgotten_first() {
        let passed = Passed::default();
        for base in 0..=STRETCHES_MAX as u64 {
            passed.put(object(base), 0..1);
        }
        assert!(!passed.has(object(0), 0) && passed.has(object(1), 0));
        assert_eq!(passed.stretches().len(), STRETCHES_MAX);
    }
}
