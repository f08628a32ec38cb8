//! When each producer of a log last appended, as far as recovery can tell from the log alone, and which
//! producers are idle for so long that they are forgotten. Pure: the clocks' times are arguments.
//!
//! The log's time at a batch is the largest timestamp of all batches up to that one. A producer was last
//! seen at the log's time of its last batch, and its idle time is counted up to the log's time at the end.
//! So a producer that appended old records recently is not idle, and neither does a wall clock that is wrong
//! at the start make all producers idle.

use std::time::Duration;

use crate::log::append::producer::Producers;
use crate::log::segment::Segment;
use crate::store::ProducerEntry;
use crate::types::Timestamp;

/// A producer that recovery keeps stays for at least this long after the start, whatever the wall clock
/// says. Clients send a batch again for two minutes by default (`delivery.timeout.ms`).
const KEPT_MIN: Duration = Duration::from_secs(60 * 60);
/// Recovery forgets idle producers this many times per `idle_max` of the log's time, so that its memory
/// holds few more producers than those that are not idle.
const EXPIRIES_PER_IDLE_MAX: u32 = 16;

/// What recovery must know of time.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::log) struct Clocks {
    /// The wall clock, from `AgeClock`.
    pub(in crate::log) wall: Timestamp,
    /// The monotonic clock at the same moment.
    pub(in crate::log) monotonic_ms: i64,
    /// How long an idle producer is remembered.
    pub(in crate::log) idle_max: Duration,
}

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct LogTime {
    clocks: Clocks,
    /// The largest timestamp so far that does not lie in the future.
    newest: Option<Timestamp>,
    /// The log's time when idle producers were last forgotten.
    expired_at: Option<Timestamp>,
}

impl LogTime {
    pub(super) fn new(clocks: Clocks) -> LogTime {
        LogTime { clocks, newest: None, expired_at: None }
    }

    /// Takes in the largest timestamp of the next batch, or of the next segment. A timestamp that lies in
    /// the future is ignored.
    pub(super) fn pass(&mut self, timestamp: Timestamp) {
        if self.is_usable(timestamp) {
            self.newest = self.newest.max(Some(timestamp));
        }
    }

    /// The log's time, in milliseconds; the wall clock's as long as no batch had a usable timestamp.
    pub(super) fn now_ms(&self) -> i64 {
        self.newest.unwrap_or(self.clocks.wall).0
    }

    /// Forgets idle producers, if the log's time has advanced enough since they were last forgotten.
    pub(super) fn forget_idle(&mut self, producers: &mut Producers) {
        let Some(newest) = self.newest else { return };
        let expired_at = *self.expired_at.get_or_insert(newest);
        if newest.0.saturating_sub(expired_at.0)
            > millis(self.clocks.idle_max / EXPIRIES_PER_IDLE_MAX)
        {
            producers.expire(newest.0, self.clocks.idle_max);
            self.expired_at = Some(newest);
        }
    }

    /// At the log's end: forgets idle producers, and converts the times of the others to the monotonic
    /// clock.
    pub(super) fn end(&self, producers: &mut Producers) {
        let Clocks { wall, monotonic_ms, idle_max } = self.clocks;
        producers.expire(self.now_ms(), idle_max);
        let idle_ms_max = millis(idle_max.saturating_sub(KEPT_MIN));
        producers.set_seen(|seen_ms| {
            let idle_ms = wall.0.saturating_sub(seen_ms).clamp(0, idle_ms_max);
            monotonic_ms.saturating_sub(idle_ms)
        });
    }

    /// Takes in the segments of the view's snapshot. Returns for each producer of the snapshot the latest
    /// time at which it can have appended: the log's time at the end of the segment of its last batch. If
    /// that segment has no usable timestamp, the time of the next segment that has one.
    pub(super) fn pass_known(
        &mut self,
        segments: &[Segment],
        producers: &[ProducerEntry],
    ) -> Vec<i64> {
        let mut ends = Vec::with_capacity(segments.len());
        for segment in segments {
            let timestamp = segment.youngest().filter(|timestamp| self.is_usable(*timestamp));
            timestamp.into_iter().for_each(|timestamp| self.pass(timestamp));
            ends.push((segment.object.base, timestamp.and(self.newest)));
        }
        let seen = |producer: &ProducerEntry| {
            // A producer without a batch is known from its marker alone, which has no offset here.
            let (_, _, _, last) = producer.batches.last()?;
            let holding = ends.partition_point(|(base, _)| base <= last).checked_sub(1)?;
            ends.get(holding..)?.iter().find_map(|(_, end)| *end)
        };
        producers.iter().map(|producer| seen(producer).unwrap_or(self.clocks.wall).0).collect()
    }

    /// Whether a timestamp is set, and does not lie in the future.
    fn is_usable(&self, timestamp: Timestamp) -> bool {
        timestamp.0 >= 0 && timestamp <= self.clocks.wall
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
