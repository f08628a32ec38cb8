//! Which part of a log may be compacted, and whether that is worth it, by the rules of Kafka's
//! `LogCleanerManager`. Pure.

use std::collections::HashMap;

use crate::log::config::Compaction;
use crate::log::object::record_store::ObjectId;
use crate::log::segment::Segment;
use crate::types::{Offset, Timestamp};

/// What the decision is made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// Every segment; the last one is appended to.
    pub(super) segments: &'a [Segment],
    /// No open transaction begins before this offset.
    pub(super) last_stable: Offset,
    /// The log is compacted up to this offset.
    pub(super) cleaned_to: Offset,
    /// The time by which ages are measured.
    pub(super) now: Timestamp,
    /// The time of the last write to each segment whose records have no timestamps.
    pub(super) written_at: &'a HashMap<ObjectId, Timestamp>,
}

/// The part of a log that may be compacted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    /// Where the dirty part begins: everything before it is compacted already.
    pub(super) from: Offset,
    /// The first offset that must not be changed. A segment begins there.
    pub(super) to: Offset,
    /// How many segments lie before `to`.
    pub(super) segments: usize,
    /// Bytes of the segments before `to` that are compacted already.
    pub(super) clean_bytes: u64,
    /// Bytes of the other segments before `to`.
    pub(super) dirty_bytes: u64,
    /// Some of the records have waited for longer than `max.compaction.lag.ms`.
    pub(super) overdue: bool,
}

impl Range {
    /// The share of bytes that is not compacted yet, 0 to 1.
    pub(super) fn dirty_ratio(&self) -> f64 {
        let total = self.clean_bytes + self.dirty_bytes;
        if total == 0 { 0.0 } else { self.dirty_bytes as f64 / total as f64 }
    }

    /// Whether the range should be compacted now.
    pub(super) fn is_due(&self, compaction: &Compaction) -> bool {
        let is_late = self.overdue && self.dirty_bytes > 0;
        is_late || self.dirty_ratio() > compaction.dirty_ratio_min
    }
}

/// The sealed segments below the first open transaction whose records are old enough.
pub(super) fn range(facts: &Facts<'_>, compaction: &Compaction) -> Range {
    let start = facts.segments.first().map_or(facts.cleaned_to, |first| first.object.base);
    let from = facts.cleaned_to.max(start);
    let mut range =
        Range { from, to: start, segments: 0, clean_bytes: 0, dirty_bytes: 0, overdue: false };
    let youngest = before(facts.now, compaction.lag_min);
    let eldest = compaction.lag_max.map(|lag_max| before(facts.now, lag_max));
    for pair in facts.segments.windows(2) {
        let [segment, next] = pair else { break };
        let (end, is_dirty) = (next.object.base, next.object.base > facts.cleaned_to);
        // A segment of unknown age counts as young.
        let is_young = !compaction.lag_min.is_zero()
            && segment
                .youngest()
                .or_else(|| facts.written_at.get(&segment.object).copied())
                .is_none_or(|time| time > youngest);
        if end > facts.last_stable || (is_dirty && is_young) {
            break;
        }
        if is_dirty {
            range.dirty_bytes += segment.bytes;
            range.overdue |= is_older(segment, eldest);
        } else {
            range.clean_bytes += segment.bytes;
        }
        range.to = end;
        range.segments += 1;
    }
    range
}

/// The segments whose age `range` needs, but whose records have no timestamps. For these the time of the
/// file counts, as in Kafka's `LogSegment.largestTimestamp`.
pub(super) fn timeless(
    segments: &[Segment],
    cleaned_to: Offset,
    compaction: &Compaction,
) -> Vec<ObjectId> {
    if compaction.lag_min.is_zero() {
        return Vec::new();
    }
    let is_dirty =
        |pair: &&[Segment]| pair.last().is_some_and(|next| next.object.base > cleaned_to);
    let dirty = segments.windows(2).filter(is_dirty).filter_map(|pair| pair.first());
    dirty.filter(|segment| segment.youngest().is_none()).map(|segment| segment.object).collect()
}

/// Whether the active segment must end now. Otherwise its records could miss `max.compaction.lag.ms` if
/// nothing more is appended, since the active segment is never compacted.
pub(super) fn must_end(active: &Segment, compaction: &Compaction, now: Timestamp) -> bool {
    is_older(active, compaction.lag_max.map(|lag_max| before(now, lag_max)))
}

fn is_older(segment: &Segment, eldest: Option<Timestamp>) -> bool {
    // Records without a timestamp have no age.
    let first = segment.first_timestamp.filter(|first| first.0 > 0);
    eldest.is_some_and(|eldest| first.is_some_and(|first| first < eldest))
}

fn before(now: Timestamp, lag: std::time::Duration) -> Timestamp {
    Timestamp(now.0.saturating_sub(i64::try_from(lag.as_millis()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;
    use std::time::Duration;

    use super::*;
    use crate::log::segment::LargestTimestamp;
    use crate::types::{LogId, PartitionId, TopicId};

    static NOBODY_KNOWS: LazyLock<HashMap<ObjectId, Timestamp>> = LazyLock::new(HashMap::new);

    /// Segments of 100 bytes at the offsets given, each with one timestamp.
    fn segments(bases: &[(u64, i64)]) -> Vec<Segment> {
        let log = LogId { topic: TopicId(uuid::Uuid::nil()), partition: PartitionId(0) };
        let segment = |&(base, at): &(u64, i64)| Segment {
            bytes: 100,
            first_timestamp: Some(Timestamp(at)),
            largest: Some(LargestTimestamp { timestamp: Timestamp(at), batch: Offset::new(base) }),
            ..Segment::new(ObjectId::appended(log, Offset::new(base)))
        };
        bases.iter().map(segment).collect()
    }

    fn compaction() -> Compaction {
        Compaction {
            dirty_ratio_min: 0.5,
            lag_min: Duration::ZERO,
            lag_max: None,
            delete_retention: Duration::ZERO,
        }
    }

    fn facts(segments: &[Segment], last_stable: u64, cleaned_to: u64, now: i64) -> Facts<'_> {
        Facts {
            segments,
            last_stable: Offset::new(last_stable),
            cleaned_to: Offset::new(cleaned_to),
            now: Timestamp(now),
            written_at: &NOBODY_KNOWS,
        }
    }

    #[test]
    fn the_active_segment_and_open_transactions_are_left_alone() {
        let segments = segments(&[(0, 1), (10, 2), (20, 3), (30, 4)]);
        let all = range(&facts(&segments, 40, 0, 100), &compaction());
        assert_eq!((all.from, all.to, all.segments), (Offset::ZERO, Offset::new(30), 3));
        assert_eq!((all.clean_bytes, all.dirty_bytes), (0, 300));
        let open = range(&facts(&segments, 25, 0, 100), &compaction());
        assert_eq!((open.to, open.dirty_bytes), (Offset::new(20), 200));
        assert_eq!(range(&facts(&segments[..1], 10, 0, 100), &compaction()).segments, 0);
        assert!(!range(&facts(&[], 0, 0, 100), &compaction()).is_due(&compaction()));
    }

    #[test]
    fn a_log_is_due_when_more_of_it_is_dirty_than_the_ratio_says() {
        let segments = segments(&[(0, 1), (10, 2), (20, 3)]);
        let half = range(&facts(&segments, 30, 10, 100), &compaction());
        assert_eq!((half.clean_bytes, half.dirty_bytes, half.dirty_ratio()), (100, 100, 0.5));
        assert!(!half.is_due(&compaction()), "the ratio must be exceeded");
        assert!(half.is_due(&Compaction { dirty_ratio_min: 0.49, ..compaction() }));
        let none = range(&facts(&segments, 30, 20, 100), &compaction());
        assert!(!none.is_due(&Compaction { dirty_ratio_min: 0.0, ..compaction() }));
        // A full table ended the last compaction inside a segment.
        assert_eq!(range(&facts(&segments, 30, 15, 100), &compaction()).dirty_bytes, 100);
    }

    #[test]
    fn young_records_wait_and_old_ones_may_not() {
        let segments = segments(&[(0, 1000), (10, 2000), (20, 1500), (30, 9000)]);
        let lag = |min, max| Compaction {
            dirty_ratio_min: 1.0,
            lag_min: Duration::from_millis(min),
            lag_max: Some(Duration::from_millis(max)),
            ..compaction()
        };
        let waiting = range(&facts(&segments, 40, 0, 2500), &lag(600, 10_000));
        assert_eq!(waiting.to, Offset::new(10));
        assert!(!waiting.is_due(&lag(600, 10_000)));
        let late = range(&facts(&segments, 40, 0, 2500), &lag(0, 1499));
        assert!(late.is_due(&lag(0, 1499)));
        assert!(!range(&facts(&segments, 40, 0, 2500), &lag(0, 1500)).overdue);
        assert!(!range(&facts(&segments, 40, 30, 2500), &lag(0, 1)).is_due(&lag(0, 1)));
        // What was compacted is not young again.
        assert_eq!(range(&facts(&segments, 40, 20, 2000), &lag(100, 10_000)).segments, 3);
    }

    #[test]
    fn records_without_a_time_wait_from_when_they_were_written() {
        let mut segments = segments(&[(0, -1), (10, -1), (20, 1500), (30, 9000)]);
        segments[1].largest = None;
        let wait = Compaction { lag_min: Duration::from_millis(600), ..compaction() };
        let asked = timeless(&segments, Offset::ZERO, &wait);
        assert_eq!(asked, [segments[0].object, segments[1].object]);
        assert_eq!(timeless(&segments, Offset::new(10), &wait), asked[1..]);
        assert!(timeless(&segments, Offset::ZERO, &compaction()).is_empty());
        let segments_at = |now, times: [Option<i64>; 2]| {
            let known = asked.iter().zip(times);
            let written_at = known.filter_map(|(object, at)| Some((*object, Timestamp(at?))));
            let written_at = &written_at.collect();
            range(&Facts { written_at, ..facts(&segments, 40, 0, now) }, &wait).segments
        };
        assert_eq!(segments_at(1599, [Some(1000), Some(1100)]), 0);
        assert_eq!(segments_at(1600, [Some(1000), Some(1100)]), 1);
        assert_eq!(segments_at(1700, [Some(1000), Some(1100)]), 2);
        assert_eq!(segments_at(1700, [Some(1000), None]), 1, "nobody knows how old it is");
    }

    #[test]
    fn an_idle_segment_ends_when_its_first_record_is_late() {
        let segments = segments(&[(0, 1000)]);
        let lag = |max| Compaction { lag_max: max, ..compaction() };
        let after = |ms| Some(Duration::from_millis(ms));
        assert!(must_end(&segments[0], &lag(after(500)), Timestamp(1501)));
        assert!(!must_end(&segments[0], &lag(after(500)), Timestamp(1500)));
        assert!(!must_end(&segments[0], &lag(None), Timestamp(i64::MAX)));
    }
}
