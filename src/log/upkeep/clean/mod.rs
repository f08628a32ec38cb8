//! Compaction (`cleanup.policy=compact`): of the records with one key the newest stays, under its
//! offset. The thread `log-cleaner` takes one log at a time, the one with most to gain first.

mod draft;
mod keys;
mod meter;
mod pass;
mod range;
mod rewrite;
mod txns;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::{debug, warn};

use self::pass::{Done, Ended, Pass};
use self::range::Range;
use super::rounds::Pace;
use crate::log::append::queue::block_on;
use crate::log::append::writer::Command;
use crate::log::config::{Compaction, LogConfig};
use crate::log::logs::OpenLogs;
use crate::log::partition::{Partition, Shared};
use crate::types::LogId;

pub(in crate::log) use meter::CleanMeter;

/// The state of the thread.
pub(in crate::log) struct Cleaner {
    logs: Arc<OpenLogs>,
    meter: CleanMeter,
    /// Bound of a compaction's table of keys.
    keys_bytes_max: usize,
    /// What was last said of logs that cannot be compacted, so that it is said once.
    said: HashMap<LogId, String>,
}

/// A log that may be compacted.
struct Candidate {
    partition: Partition,
    config: Arc<LogConfig>,
    compaction: Compaction,
    range: Range,
}

impl Cleaner {
    pub(in crate::log) fn new(
        logs: Arc<OpenLogs>,
        meter: CleanMeter,
        keys_bytes_max: usize,
    ) -> Cleaner {
        Cleaner { logs, meter, keys_bytes_max, said: HashMap::new() }
    }

    /// Compacts whatever is due.
    pub(in crate::log) fn round(&mut self, pace: &Pace) {
        self.work(&|| pace.goes_on());
    }

    /// `round`, as long as `goes_on` says so.
    fn work(&mut self, goes_on: &dyn Fn() -> bool) {
        let mut left_alone = HashSet::new();
        while goes_on() {
            let Some(candidate) = self.most_dirty(&left_alone) else { return };
            let log = candidate.partition.id();
            if !self.compact(&candidate, goes_on) {
                left_alone.insert(log);
            }
        }
    }

    /// The log that most of is dirty, of those that are due.
    fn most_dirty(&mut self, left_alone: &HashSet<LogId>) -> Option<Candidate> {
        self.said.retain(|log, _| self.logs.contains_key(log));
        let partitions: Vec<Partition> = self.logs.iter().map(|log| log.clone()).collect();
        let candidates = partitions.into_iter().filter_map(candidate);
        let mut ratio_max = 0f64;
        let mut best: Option<Candidate> = None;
        for candidate in candidates {
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
        best
    }

    /// Whether the log is further than before.
    fn compact(&mut self, candidate: &Candidate, goes_on: &dyn Fn() -> bool) -> bool {
        let shared = &*candidate.partition.shared;
        let pass = Pass {
            shared,
            config: &candidate.config,
            compaction: candidate.compaction,
            keys_bytes_max: self.keys_bytes_max,
            goes_on,
        };
        let said = match pass.run(candidate.range) {
            Ok(done) => {
                self.count(&done);
                self.said.remove(&shared.id);
                return true;
            }
            Err(Ended::Stopped | Ended::Overtaken) => return false,
            Err(Ended::Damaged(object, position, reason)) => {
                format!("segment {object} is damaged at byte {position}: {reason}")
            }
            Err(Ended::Io(error)) => error.to_string(),
        };
        self.meter.failures.inc();
        if self.said.get(&shared.id) != Some(&said) {
            let log = shared.settings.label(shared.id);
            warn!(
                log,
                reason = said,
                "log was not compacted and stays as it is; it is tried again, run `ottla doctor` if \
                 it is damaged"
            );
            self.said.insert(shared.id, said);
        }
        false
    }

    fn count(&self, done: &Done) {
        self.meter.runs.inc();
        self.meter.bytes_read.inc_by(done.bytes_read);
        self.meter.bytes_written.inc_by(done.bytes_written);
    }
}

/// A log with what of it may be compacted, if its topic asks for that and there is anything.
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
    let cleaned_to = pass::survey(shared)?.cleaned_to;
    let range = pass::range(shared, cleaned_to, &compaction);
    (range.segments > 0).then_some(Candidate { partition, config, compaction, range })
}

/// Ends the segment that is appended to.
fn end_segment(shared: &Shared) {
    let (reply, ended) = oneshot::channel();
    if shared.send(Command::Roll(shared.id, reply)).is_err() {
        return;
    }
    match block_on(ended) {
        Ok(Ok(())) => debug!(log = shared.settings.label(shared.id), "ended a segment by its age"),
        // A log that takes no bytes has said so itself.
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
        let meter = CleanMeter::register(&crate::metrics::Metrics::default());
        let meter = meter.expect("a registry of its own");
        let mut cleaner = Cleaner::new(self.inner.open.clone(), meter, keys_bytes_max);
        cleaner.work(goes_on);
        cleaner.meter.failures.get()
    }
}
