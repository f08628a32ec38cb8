//! Retention: deletes a log's oldest segments when their records are too old (`retention.ms`) or the log
//! is too large (`retention.bytes`). The decision is a pure function of the segments and the time. Only
//! whole segments are deleted, possibly the active one, but no records above the high watermark.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use crate::log::config::Retention;
use crate::log::logs::OpenLogs;
use crate::log::outcome::TrimError;
use crate::log::partition::{Partition, Shared};
use crate::log::settings::Settings;
use crate::types::{LogId, Offset, Timestamp};

/// A segment as retention sees it.
#[derive(Clone, Copy, Debug)]
struct Held {
    base: Offset,
    bytes: u64,
    /// The timestamp of its youngest record or marker; if none has one, the time of the last write, as Kafka's
    /// `LogSegment.largestTimestamp`. `None` if that is not known, either: such a segment is kept.
    youngest: Option<Timestamp>,
}

/// What is to be deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Expired {
    /// Everything before this offset.
    before: Offset,
    segments: usize,
    bytes: u64,
    /// How many of the segments are deleted because the log is too large.
    by_size: usize,
}

/// Which of the oldest segments to delete, by Kafka's rules. First for size, as long as the rest of the log
/// is not smaller than the bound (`UnifiedLog.deleteRetentionSizeBreachedSegments`). Then for age, as long
/// as the youngest record of a segment is older than the bound (`deleteRetentionMsBreachedSegments`). The
/// last segment is deleted, too, if it is not empty and ends at `high_watermark`.
fn expired(
    segments: &[Held],
    high_watermark: Offset,
    retention: &Retention,
    now: Timestamp,
) -> Expired {
    let size: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut over = retention.bytes_max.and_then(|bytes_max| size.checked_sub(bytes_max));
    let mut expired = Expired::default();
    for (index, segment) in segments.iter().enumerate() {
        let next = segments.get(index + 1).map(|next| next.base);
        let end = next.unwrap_or(high_watermark);
        if end > high_watermark || (next.is_none() && end <= segment.base) {
            break;
        }
        let is_too_much = over.is_some_and(|over| over >= segment.bytes);
        if !is_too_much && !is_too_old(segment, retention.age_max, now) {
            break;
        }
        // Once a segment is kept for its size, later ones are deleted only for their age.
        over = over.filter(|_| is_too_much).map(|over| over - segment.bytes);
        expired.before = end;
        expired.segments += 1;
        expired.bytes += segment.bytes;
        expired.by_size += usize::from(is_too_much);
    }
    expired
}

fn is_too_old(segment: &Held, age_max: Option<Duration>, now: Timestamp) -> bool {
    let (Some(age_max), Some(youngest)) = (age_max, segment.youngest) else { return false };
    let age_ms = i128::from(now.0) - i128::from(youngest.0);
    u128::try_from(age_ms).is_ok_and(|age_ms| age_ms > age_max.as_millis())
}

/// The first segment, if a record from the future in it keeps segments behind it that are old enough to be
/// deleted. Segments are deleted from the oldest on, so one such record keeps all that follow.
fn held_up(segments: &[Held], age_max: Option<Duration>, now: Timestamp) -> Option<&Held> {
    let (first, behind) = segments.split_first()?;
    let is_future = first.youngest.is_some_and(|youngest| youngest > now);
    let holds_up = is_future && behind.iter().any(|segment| is_too_old(segment, age_max, now));
    holds_up.then_some(first)
}

/// Applies the retention of all open logs. Holds no `Logs`, so it does not keep them alive.
pub(in crate::log) struct Retainer {
    open: Arc<OpenLogs>,
    settings: Arc<Settings>,
    /// Segments that keep expired ones behind them, and that were logged.
    told: HashMap<LogId, Offset>,
}

impl Retainer {
    pub(in crate::log) fn new(open: Arc<OpenLogs>, settings: Arc<Settings>) -> Retainer {
        Retainer { open, settings, told: HashMap::new() }
    }

    /// Checks every log, as long as `goes_on` returns true. Blocking.
    pub(in crate::log) fn round(&mut self, goes_on: impl Fn() -> bool) {
        let now = self.settings.age.now();
        let logs: Vec<LogId> = self.open.iter().map(|entry| *entry.key()).collect();
        for id in logs {
            if !goes_on() {
                return;
            }
            let partition = self.open.get(&id).map(|partition| partition.clone());
            if let Some(partition) = partition {
                self.apply(&partition, now);
            }
        }
        self.told.retain(|id, _| self.open.contains_key(id));
    }

    fn apply(&mut self, partition: &Partition, now: Timestamp) {
        let shared = &partition.shared;
        let Some(retention) = shared.config().retention else { return };
        if retention == Retention::default() {
            return;
        }
        // Taken before the segments: records appended after this are above this high watermark.
        let span = *shared.span.borrow();
        let held = held(shared, &retention);
        let Expired { before, segments, bytes, by_size } =
            expired(&held, span.high_watermark, &retention, now);
        self.tell_if_held_up(shared, held.get(segments..).unwrap_or_default(), &retention, now);
        if segments == 0 || before <= span.start {
            return;
        }
        let log = self.settings.label(shared.id);
        match partition.trim_blocking(before) {
            Ok(start) => {
                self.settings.meter.expired_segments.inc_by(segments as u64);
                self.settings.meter.expired_bytes.inc_by(bytes);
                info!(
                    log, segments, bytes, by_size, by_age = segments - by_size, %start,
                    "retention removed the oldest segments"
                );
            }
            Err(TrimError::Deleted | TrimError::Stopping) => {}
            Err(error @ (TrimError::OutOfRange { .. } | TrimError::Storage { .. })) => {
                warn!(log, %error, "retention could not remove old segments and will try again");
            }
        }
    }

    fn tell_if_held_up(
        &mut self,
        shared: &Shared,
        held: &[Held],
        retention: &Retention,
        now: Timestamp,
    ) {
        let Some(first) = held_up(held, retention.age_max, now) else { return };
        if self.told.insert(shared.id, first.base) != Some(first.base) {
            warn!(
                log = self.settings.label(shared.id), segment = %first.base,
                timestamp = first.youngest.map(|youngest| youngest.0), now = now.0,
                "a record from the future keeps its segment and all expired ones behind it; \
                 delete up to it with DeleteRecords, or set retention.bytes"
            );
        }
    }
}

/// The log's segments, by base offset.
fn held(shared: &Shared, retention: &Retention) -> Vec<Held> {
    let mut timeless = Vec::new();
    let mut held = Vec::new();
    for (index, segment) in shared.readable().segments.iter().enumerate() {
        let youngest = segment.youngest();
        if youngest.is_none() && segment.bytes > 0 && retention.age_max.is_some() {
            timeless.push((index, segment.object));
        }
        held.push(Held { base: segment.object.base, bytes: segment.bytes, youngest });
    }
    for (index, object) in timeless {
        // If the segment was deleted meanwhile, or its time cannot be read, its age stays unknown.
        held[index].youngest = shared.settings.store.written_at(object).ok();
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(10_000);

    /// Segments of ten offsets and the bytes and times given.
    fn held(segments: &[(u64, i64)]) -> Vec<Held> {
        let held = |(index, (bytes, time)): (usize, &(u64, i64))| Held {
            base: Offset::new(index as u64 * 10),
            bytes: *bytes,
            youngest: Some(Timestamp(*time)),
        };
        segments.iter().enumerate().map(held).collect()
    }

    /// Up to where a log whose last segment has ten offsets is let go.
    fn before(segments: &[(u64, i64)], age_ms: Option<u64>, bytes_max: Option<u64>) -> u64 {
        let age_max = age_ms.map(Duration::from_millis);
        let end = Offset::new(segments.len() as u64 * 10);
        expired(&held(segments), end, &Retention { age_max, bytes_max }, NOW).before.get()
    }

    #[test]
    fn a_segment_goes_when_its_youngest_record_is_older_than_the_bound() {
        let segments = [(1, 4_000), (1, 5_000), (1, 9_000)];
        for (age_ms, expected) in
            [(6_000, 0), (5_999, 10), (5_000, 10), (4_999, 20), (999, 30), (0, 30)]
        {
            assert_eq!(before(&segments, Some(age_ms), None), expected, "{age_ms} ms");
        }
        assert_eq!(before(&segments, None, None), 0);
        assert_eq!(before(&segments, Some(u64::MAX), None), 0);
    }

    #[test]
    fn a_younger_segment_keeps_what_is_behind_it() {
        assert_eq!(before(&[(1, 9_000), (1, 0), (1, 0)], Some(5_000), None), 0);
        assert_eq!(before(&[(1, 0), (1, 9_000), (1, 0)], Some(5_000), None), 10);
    }

    #[test]
    fn a_log_is_not_made_smaller_than_its_bound() {
        let segments = [(100, 0), (100, 0), (50, 0)];
        for (bytes_max, expected) in [
            (251, 0),
            (250, 0),
            (151, 0),
            (150, 10),
            (51, 10),
            (50, 20),
            (49, 20),
            (1, 20),
            (0, 30),
        ] {
            assert_eq!(before(&segments, None, Some(bytes_max)), expected, "{bytes_max} bytes");
        }
    }

    #[test]
    fn age_goes_on_where_size_ends() {
        let segments = [(100, 9_999), (100, 0), (100, 9_999), (100, 0)];
        assert_eq!(before(&segments, Some(5_000), Some(250)), 20);
        let expired = expired(
            &held(&segments),
            Offset::new(40),
            &Retention { age_max: Some(Duration::from_secs(5)), bytes_max: Some(250) },
            NOW,
        );
        let expected = Expired { before: Offset::new(20), segments: 2, bytes: 200, by_size: 1 };
        assert_eq!(expired, expected);
    }

    #[test]
    fn nothing_goes_that_readers_were_not_shown() {
        let all = Retention { age_max: Some(Duration::ZERO), bytes_max: Some(0) };
        let before = |high_watermark| {
            let segments = held(&[(1, 0), (1, 0), (1, 0)]);
            expired(&segments, Offset::new(high_watermark), &all, NOW).before.get()
        };
        // The active segment goes as far as readers see it, and is left alone if they see nothing.
        assert_eq!([9, 10, 19, 20, 25].map(before), [0, 10, 10, 20, 25]);
    }

    #[test]
    fn an_empty_log_stays_as_it_is() {
        let all = Retention { age_max: Some(Duration::ZERO), bytes_max: Some(0) };
        assert_eq!(expired(&held(&[(0, 0)]), Offset::ZERO, &all, NOW), Expired::default());
        assert_eq!(expired(&[], Offset::ZERO, &all, NOW), Expired::default());
    }

    #[test]
    fn a_segment_whose_age_nobody_knows_stays() {
        let timeless = [Held { base: Offset::ZERO, bytes: 1, youngest: None }];
        let age = Retention { age_max: Some(Duration::ZERO), bytes_max: None };
        assert_eq!(expired(&timeless, Offset::new(10), &age, NOW), Expired::default());
    }

    #[test]
    fn a_record_from_the_future_is_told_of_only_if_it_holds_something_up() {
        let age_max = Some(Duration::from_secs(5));
        let base = |segments| held_up(&held(segments), age_max, NOW).map(|held| held.base);
        assert_eq!(base(&[(1, 10_001), (1, 0)]), Some(Offset::ZERO));
        assert_eq!(base(&[(1, 10_001), (1, 9_000)]), None);
        assert_eq!(base(&[(1, 10_000), (1, 0)]), None);
        assert_eq!(base(&[(1, 10_001)]), None);
        // Whatever its time, it goes by size.
        assert_eq!(before(&[(100, i64::MAX), (100, 0)], None, Some(100)), 10);
    }
}
