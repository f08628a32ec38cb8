//! Reads of what the page cache has not got: past it, for the first who asks. A page that the disk has
//! just filled is dear to touch on a virtual machine, and what one consumer reads once would push out
//! what others come back for. Who asks for the same bytes later has them cached for all that follow.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::log::object::record_store::{Location, ObjectId, Way};
use crate::log::partition::Shared;

/// Stretches that are remembered of one log, the latest ones.
const STRETCHES_MAX: usize = 64;
/// A file that was written later than this is being written.
const QUIET_MS_MIN: i64 = 1000;

/// What was read past the page cache, the latest last. What is forgotten is read past it once more.
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

    /// Adds a stretch; one that goes on where another ended makes that one longer.
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
    /// The bytes at `location` and how they came, unless the page cache is to keep them.
    pub(in crate::log) fn bytes_past(&self, location: Location) -> Option<(Bytes, Way)> {
        if self.passed.has(location.object, location.position) || self.is_growing(location.object) {
            return None;
        }
        self.settings.store.read_past(location)
    }

    /// Whether the object is written now: file systems have appends wait for reads past the cache.
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
