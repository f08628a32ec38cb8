//! Compaction (`cleanup.policy=compact`): of the records with the same key only the newest is kept, under
//! its own offset. The thread `log-cleaner` compacts one log at a time, the one with the largest dirty part
//! first. Read `pass.rs` first.

mod backoff;
mod draft;
mod keys;
mod meter;
mod pass;
mod range;
mod rewrite;
mod txns;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use self::backoff::Backoff;
use self::pass::{Done, Ended, Pass, Suspect};
use self::range::Range;
use super::periodic::Pace;
use super::scrub::Scrub;
use crate::log::append::owner::out_of_room;
use crate::log::append::queue::block_on;
use crate::log::append::writer::Command;
use crate::log::config::{Compaction, LogConfig};
use crate::log::logs::OpenLogs;
use crate::log::partition::{Partition, Shared};
use crate::log::segment::Segment;
use crate::log::settings::Settings;
use crate::types::LogId;

pub(in crate::log) use meter::CleanMeter;

/// The state of the thread `log-cleaner`.
pub(in crate::log) struct Cleaner {
    logs: Arc<OpenLogs>,
    pub(in crate::log) meter: CleanMeter,
    settings: Arc<Settings>,
    /// Bound of the memory for a log's keys.
    keys_bytes_max: usize,
    /// How long a log is not tried again after its first failure.
    backoff: Duration,
    /// The logs whose last compaction failed.
    setbacks: HashMap<LogId, Setback>,
    /// The disk was full at the last attempt: no log is compacted until this pause is over.
    full: Option<Backoff>,
    /// Checks again what a compaction found damaged.
    scrub: Scrub,
}

/// Why the last compaction of a log failed, and the pause until the next one.
struct Setback {
    reason: String,
    backoff: Backoff,
}

/// A log that may be compacted.
struct Candidate {
    partition: Partition,
    config: Arc<LogConfig>,
    compaction: Compaction,
    range: Range,
    /// A segment of `range` is damaged.
    is_damaged: bool,
}

impl Cleaner {
    /// A log whose compaction fails is not tried again for `backoff`; each further failure doubles that.
    pub(in crate::log) fn new(
        logs: Arc<OpenLogs>,
        settings: Arc<Settings>,
        meter: CleanMeter,
        keys_bytes_max: usize,
        backoff: Duration,
    ) -> Cleaner {
        let scrub = Scrub::new(logs.clone(), settings.clone(), u64::MAX);
        let setbacks = HashMap::new();
        Cleaner { logs, meter, settings, keys_bytes_max, backoff, setbacks, full: None, scrub }
    }

    /// Follows configs that were changed while it runs.
    pub(super) fn configure(&mut self, keys_bytes_max: usize, backoff: Duration) {
        (self.keys_bytes_max, self.backoff) = (keys_bytes_max, backoff);
    }

    /// Compacts every log that is due.
    pub(in crate::log) fn round(&mut self, pace: &Pace) {
        self.work(pace, &|| pace.goes_on());
    }

    /// `round`, as long as `goes_on` returns true.
    fn work(&mut self, pace: &Pace, goes_on: &dyn Fn() -> bool) {
        let mut left_alone = HashSet::new();
        while goes_on() {
            let Some(candidate) = self.most_dirty(&left_alone) else { return };
            if self.full.is_some_and(|full| full.holds(self.settings.clock.monotonic())) {
                return;
            }
            let log = candidate.partition.id();
            if !self.compact(&candidate, pace, goes_on) {
                left_alone.insert(log);
            }
        }
    }

    /// Of the logs that are due, the one with the largest dirty share.
    fn most_dirty(&mut self, left_alone: &HashSet<LogId>) -> Option<Candidate> {
        self.setbacks.retain(|log, _| self.logs.contains_key(log));
        let now = self.settings.clock.monotonic();
        let partitions: Vec<Partition> = self.logs.iter().map(|log| log.clone()).collect();
        let candidates = partitions.into_iter().filter_map(candidate);
        let mut ratio_max = 0f64;
        let mut best: Option<Candidate> = None;
        let mut set_aside = 0;
        for candidate in candidates {
            let setback = self.setbacks.get(&candidate.partition.id());
            // Damage stays until the segment is deleted or repaired: to read it again would be useless.
            if candidate.is_damaged || setback.is_some_and(|setback| setback.backoff.holds(now)) {
                set_aside += 1;
                continue;
            }
            let ratio = candidate.range.dirty_ratio();
            ratio_max = ratio_max.max(ratio);
            let is_better = best.as_ref().is_none_or(|best| ratio > best.range.dirty_ratio());
            if is_better
                && candidate.range.is_due(&candidate.compaction)
                && !left_alone.contains(&candidate.partition.id())
            {
                best = Some(candidate);
            }
        }
        self.meter.dirty_ratio_max.set(ratio_max);
        self.meter.set_aside.set(set_aside);
        best
    }

    /// Compacts one log. Returns false if that failed or was given up.
    fn compact(&mut self, candidate: &Candidate, pace: &Pace, goes_on: &dyn Fn() -> bool) -> bool {
        let shared = &*candidate.partition.shared;
        let pass = Pass {
            shared,
            config: &candidate.config,
            compaction: candidate.compaction,
            keys_bytes_max: self.keys_bytes_max,
            goes_on,
        };
        let ended = match pass.run(candidate.range) {
            Ok(done) => {
                self.count(&done);
                self.setbacks.remove(&shared.id);
                self.has_room();
                return true;
            }
            Err(ended) => ended,
        };
        match ended {
            Ended::Stopped | Ended::Overtaken => return false,
            Ended::Io(error) if out_of_room(&error) => self.no_room(shared, &error),
            Ended::Io(error) => self.set_back(shared, error.to_string()),
            Ended::Suspect(suspect) => {
                let Suspect { object, position, offset, reason } = suspect;
                self.scrub.look_again(shared, object, position, offset, pace);
                if has_damage(shared, |segment| segment.object == object) {
                    // Its writer has said so, and it is no candidate any more.
                    debug!(log = self.settings.label(shared.id), "compaction met damage");
                } else {
                    self.set_back(shared, format!("segment {object} at byte {position}: {reason}"));
                }
            }
        }
        self.meter.failures.inc();
        false
    }

    /// Starts or doubles the pause of a log, and logs the reason if it is a new one.
    fn set_back(&mut self, shared: &Shared, reason: String) {
        let before = self.setbacks.get(&shared.id);
        let is_news = before.is_none_or(|before| before.reason != reason);
        let now = self.settings.clock.monotonic();
        let backoff = Backoff::after(before.map(|before| before.backoff), self.backoff, now);
        if is_news {
            warn!(
                log = self.settings.label(shared.id), reason, pause = ?backoff.pause(),
                "log was not compacted and stays as it is; it is tried again after ever longer \
                 pauses"
            );
        }
        self.setbacks.insert(shared.id, Setback { reason, backoff });
    }

    /// Pauses all compaction: another attempt would fill the disk again, and appends to all logs would fail
    /// meanwhile.
    fn no_room(&mut self, shared: &Shared, error: &io::Error) {
        let now = self.settings.clock.monotonic();
        let full = Backoff::after(self.full, self.backoff, now);
        if self.full.replace(full).is_none() {
            warn!(
                log = self.settings.label(shared.id), %error, pause = ?full.pause(),
                "the disk is full: no log is compacted until there is room, which is tried after \
                 ever longer pauses; make room"
            );
        }
        self.meter.waits_for_room.set(1);
    }

    fn has_room(&mut self) {
        if self.full.take().is_some() {
            info!("the disk has room again: compaction continues");
        }
        self.meter.waits_for_room.set(0);
    }

    fn count(&self, done: &Done) {
        self.meter.runs.inc();
        self.meter.bytes_read.inc_by(done.bytes_read);
        self.meter.bytes_written.inc_by(done.bytes_written);
    }
}

/// A log and the part of it that may be compacted; `None` if its topic is not compacted, or if there is
/// nothing to compact.
fn candidate(partition: Partition) -> Option<Candidate> {
    let shared = &*partition.shared;
    let config = shared.config();
    let compaction = config.compaction?;
    let must_end = {
        let readable = shared.readable();
        let now = shared.settings.age.now();
        let active = readable.segments.last();
        active.is_some_and(|active| range::must_end(active, &compaction, now))
    };
    if must_end {
        end_segment(shared);
    }
    if shared.readable().segments.len() < 2 {
        return None;
    }
    let range = pass::range(shared, &compaction);
    let is_damaged = has_damage(shared, |segment| segment.object.base < range.to);
    let candidate = Candidate { partition, config, compaction, range, is_damaged };
    (range.segments > 0).then_some(candidate)
}

/// Whether one of the chosen segments is damaged.
fn has_damage(shared: &Shared, choose: impl Fn(&Segment) -> bool) -> bool {
    let segments = &shared.readable().segments;
    segments.iter().any(|segment| choose(segment) && !segment.damaged.is_empty())
}

/// Ends the active segment, which is never compacted.
fn end_segment(shared: &Shared) {
    let (reply, ended) = oneshot::channel();
    if shared.send(Command::Roll(shared.id, reply)).is_err() {
        return;
    }
    match block_on(ended) {
        Ok(Ok(())) => debug!(log = shared.settings.label(shared.id), "ended a segment by its age"),
        // The log's writer has logged the reason already, if it refuses appends.
        Ok(Err(reason)) => {
            debug!(log = shared.settings.label(shared.id), reason, "segment could not be ended");
        }
        Err(_) => {}
    }
}

#[cfg(test)]
impl crate::log::Logs {
    /// Compacts whatever is due on the calling thread; how many logs failed.
    pub(crate) fn compact_now(&self, keys_bytes_max: usize) -> u64 {
        self.compact_while(keys_bytes_max, &|| true)
    }

    /// `compact_now`, as long as `goes_on` says so, which is asked before every chunk.
    pub(in crate::log) fn compact_while(
        &self,
        keys_bytes_max: usize,
        goes_on: &dyn Fn() -> bool,
    ) -> u64 {
        let mut cleaner = self.cleaner(keys_bytes_max, Duration::ZERO);
        cleaner.work(&Pace::free(), goes_on);
        cleaner.meter.failures.get()
    }

    /// A cleaner that works when it is told to.
    pub(in crate::log) fn cleaner(&self, keys_bytes_max: usize, backoff: Duration) -> Cleaner {
        let meter = CleanMeter::register(&crate::metrics::Metrics::default());
        let meter = meter.expect("a registry of its own");
        let (open, settings) = (&self.inner.open, &self.inner.settings);
        Cleaner::new(open.clone(), settings.clone(), meter, keys_bytes_max, backoff)
    }
}
