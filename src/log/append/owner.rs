//! One log as its writer owns it: stages appends, writes them as one run, keeps producer state in step
//! with the bytes, and publishes offsets. Knows no queue and no thread.

mod durable;
mod upkeep;
mod view;

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::producer::{Admission, BatchFacts, Producers};
use super::run::{KEPT_BATCHES_MAX, Reply, Run, Waiting, chunks};
use super::tail::TailBudget;
use super::writer::{Append, Batches, End, Written};
use crate::log::config::{LogConfig, TimestampType};
use crate::log::format::batch::{self, BatchHeader};
use crate::log::object::record_store::ObjectId;
use crate::log::outcome::{AppendError, Appended, Durable, OffsetSpan};
use crate::log::partition::Shared;
use crate::log::refusals::Refusal;
use crate::log::segment::Segment;
use crate::log::settings::Settings;
use crate::store::{Anchor, SegmentId};
use crate::types::{LogId, Offset, Timestamp};

pub(in crate::log) use durable::{out_of_handles, out_of_room};
pub(in crate::log) use upkeep::{Replacement, Trimmed};

/// Most bytes of one write, unless a single batch is larger. It fits the five batches of default size that a
/// producer has in flight. It is not larger because small batches are copied together for the write, and
/// because a reader that sends a part of a run keeps the whole run in memory.
const RUN_BYTES_MAX: usize = 128 << 10;
/// The coordinator epoch in transaction markers: there is one node, so it never changes.
const COORDINATOR_EPOCH: i32 = 0;

/// See the module's header.
pub(in crate::log) struct OwnedLog {
    shared: Arc<Shared>,
    span: watch::Sender<OffsetSpan>,
    producers: Producers,
    start: Offset,
    end: Offset,
    /// Bytes that the log had when it was opened, and all that were written since.
    written_bytes: u64,
    active: Option<ObjectId>,
    active_bytes: u64,
    /// Largest timestamp of the active segment's first batch of records.
    active_since: Option<Timestamp>,
    /// When the active segment was begun, or the log opened.
    active_begun: Timestamp,
    /// The active segment's last batch.
    anchor: Option<Anchor>,
    /// Segments that are deleted and that the view still lists.
    dropped: Vec<SegmentId>,
    /// Bytes appended since the last snapshot in the view.
    view_due_bytes: u64,
    /// How many of the aborted transactions the view has.
    view_aborted: usize,
    /// The next append begins a new segment.
    roll_due: bool,
    /// What of the active segment may not survive power loss.
    unsynced: SinceSync,
    /// Why the log refuses appends, if it does.
    refused: Option<Refusal>,
    /// A sync has failed: unsynced bytes may never reach the disk, so readers must not see them.
    sync_failed: bool,
    /// Why the log's start cannot be raised any more, if it cannot.
    start_failed: Option<String>,
    run: Run,
    /// Callers whose appends are written in this cycle, and that are not answered yet.
    written: Vec<Waiting>,
    touched: bool,
}

/// The changes of the active segment since its last sync.
#[derive(Default)]
struct SinceSync {
    /// How many bytes were appended.
    bytes: u64,
    /// The last of these bytes, kept in memory until the end of the cycle that wrote them.
    gathered: Vec<Bytes>,
    gathered_bytes: u64,
    /// A failed write was cut off: only a sync of the segment itself makes that durable.
    is_cut: bool,
    /// The segment was there when the log was opened: the process before may have cut it, and ended before
    /// it synced that. If the cut bytes came back after a later segment was begun, they would be damage.
    is_inherited: bool,
    /// No manifest lists the segment yet.
    is_unlisted: bool,
}

impl SinceSync {
    fn is_any(&self) -> bool {
        self.bytes > 0 || self.is_cut
    }

    /// Whether only a sync of the segment itself will do.
    fn is_in_place(&self) -> bool {
        self.is_cut || self.is_inherited || self.is_unlisted
    }

    /// Notes a sync of the segment, or another that was as good.
    fn clear(&mut self) {
        (self.bytes, self.is_cut, self.is_inherited) = (0, false, false);
        self.let_go();
    }

    /// Keeps bytes in memory for `sync_together`.
    fn gather(&mut self, bytes: &Bytes) {
        self.gathered_bytes += bytes.len() as u64;
        self.gathered.push(bytes.clone());
    }

    /// Drops the bytes that are kept in memory.
    fn let_go(&mut self) {
        self.gathered.clear();
        self.gathered.shrink_to(KEPT_BATCHES_MAX);
        self.gathered_bytes = 0;
    }
}

/// A log's state as recovery found it.
pub(in crate::log) struct Recovered {
    pub(in crate::log) producers: Producers,
    pub(in crate::log) start: Offset,
    pub(in crate::log) end: Offset,
    pub(in crate::log) anchor: Option<Anchor>,
    /// Bytes behind the last snapshot in the view.
    pub(in crate::log) view_due_bytes: u64,
    /// How many of the aborted transactions the view has.
    pub(in crate::log) view_aborted: usize,
    /// Why the log refuses appends, if it does.
    pub(in crate::log) refused: Option<Refusal>,
    /// The manifest lists the active segment.
    pub(in crate::log) is_listed: bool,
    /// Recovery has synced the active segment.
    pub(in crate::log) is_synced: bool,
}

impl OwnedLog {
    pub(in crate::log) fn new(
        shared: Arc<Shared>,
        span: watch::Sender<OffsetSpan>,
        recovered: Recovered,
    ) -> OwnedLog {
        let (active, active_bytes, active_since) = match shared.readable().segments.last() {
            Some(segment) => (Some(segment.object), segment.bytes, segment.first_timestamp),
            None => (None, 0, None),
        };
        let written_bytes = shared.readable().segments.iter().map(|segment| segment.bytes).sum();
        let active_begun = shared.settings.age.now();
        let log = OwnedLog {
            shared,
            span,
            producers: recovered.producers,
            start: recovered.start,
            end: recovered.end,
            written_bytes,
            active,
            active_bytes,
            active_since,
            active_begun,
            anchor: recovered.anchor,
            dropped: Vec::new(),
            view_due_bytes: recovered.view_due_bytes,
            view_aborted: recovered.view_aborted,
            roll_due: false,
            unsynced: SinceSync {
                is_inherited: active.is_some() && !recovered.is_synced,
                is_unlisted: !recovered.is_listed,
                ..SinceSync::default()
            },
            refused: recovered.refused,
            sync_failed: false,
            start_failed: None,
            run: Run::default(),
            written: Vec::new(),
            touched: false,
        };
        log.publish();
        log
    }

    pub(in crate::log) fn id(&self) -> LogId {
        self.shared.id
    }

    pub(in crate::log) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Stages batches, or answers at once why they are refused. Returns true if this is the first time
    /// that the cycle touches the log.
    pub(in crate::log) fn stage_append(
        &mut self,
        append: Append,
        settings: &Settings,
        tails: &mut TailBudget,
    ) -> bool {
        let Append { batches, reply, durable, room, .. } = append;
        let reply = Reply::Append(reply);
        let config = self.shared.config();
        let stamp = stamp(&config, settings);
        self.make_room(&config, batches.bytes.len(), time_of(&batches, stamp), settings, tails);
        match self.stage(batches, stamp, settings) {
            Ok(outcome) => {
                self.run.waiting.push(Waiting { reply, durable, outcome, _room: room });
            }
            Err(error) => reply.send(Err(error)),
        }
        self.touch()
    }

    /// Appends between two cycles, without a sync. Returns the batches if the append needs a new segment,
    /// or if a snapshot for the view is due.
    pub(in crate::log) fn append_here(
        &mut self,
        batches: Batches,
        settings: &Settings,
        tails: &mut TailBudget,
    ) -> Result<Written, Batches> {
        let config = self.shared.config();
        let (stamp, bytes) = (stamp(&config, settings), batches.bytes.len());
        let fits = self.active.is_some()
            && !self.roll_due
            && !self.must_roll(&config, bytes, time_of(&batches, stamp))
            && !self.is_view_due(settings);
        if !fits {
            return Err(batches);
        }
        let written = self.stage(batches, stamp, settings).and_then(|outcome| {
            let reason = match self.write_run(false, settings, tails) {
                Ok(()) => return Ok(outcome),
                Err(reason) => reason,
            };
            Err(AppendError::Storage { log: self.shared.id, reason })
        });
        if written.is_ok() {
            self.publish();
        }
        Ok(written)
    }

    /// Checks batches and adds them to the run. Returns the outcome, which holds once the run is written.
    fn stage(
        &mut self,
        batches: Batches,
        stamp: Option<Timestamp>,
        settings: &Settings,
    ) -> Result<Appended, AppendError> {
        let Batches { bytes, mut headers } = batches;
        if let Some(error) = self.refusal() {
            return Err(error);
        }
        let admissions = self.admit(&headers, settings.monotonic_ms())?;
        let mut outcome = Appended {
            base_offset: Offset::ZERO,
            last_offset: Offset::ZERO,
            log_start: self.start,
            append_time: None,
            duplicate: true,
        };
        let mut position = 0;
        for (index, (header, admission)) in headers.iter_mut().zip(&admissions).enumerate() {
            let next = position + header.bytes;
            let (base, last) = match admission {
                Admission::Duplicate(batch) => (batch.base_offset, batch.last_offset),
                Admission::New => {
                    header.base_offset = self.end.plus(self.run.offsets);
                    self.run.stage(bytes.slice(position..next), header, stamp);
                    outcome.duplicate = false;
                    outcome.append_time = stamp;
                    (header.base_offset, header.last_offset())
                }
            };
            if index == 0 {
                outcome.base_offset = base;
            }
            outcome.last_offset = last;
            position = next;
        }
        Ok(outcome)
    }

    /// Stages a marker, or answers at once why it is refused; returns the same as `stage_append`.
    pub(in crate::log) fn stage_end(
        &mut self,
        end: End,
        settings: &Settings,
        tails: &mut TailBudget,
    ) -> bool {
        let End { producer, epoch, marker, reply, room, .. } = end;
        let (now, seen_ms) = (settings.clock.now(), settings.monotonic_ms());
        let bytes = batch::encode_marker(producer, epoch, marker, COORDINATOR_EPOCH, now);
        self.make_room(&self.shared.config(), bytes.len(), None, settings, tails);
        if let Some(error) = self.refusal() {
            drop(reply.send(Err(error)));
            return self.touch();
        }
        match self.run.staged.may_end(&self.producers, producer, epoch, seen_ms) {
            Ok(true) => {}
            Ok(false) => {
                drop(reply.send(Ok(None)));
                return self.touch();
            }
            Err(error) => {
                drop(reply.send(Err(error)));
                return self.touch();
            }
        }
        let offset = self.end.plus(self.run.offsets);
        let aborted = self.run.staged.end(&self.producers, producer, epoch, marker, offset);
        self.run.aborted.extend(aborted);
        if let Ok(mut header) = BatchHeader::parse(&bytes) {
            header.base_offset = offset;
            self.run.stage(bytes, &header, None);
        }
        self.run.waiting.push(Waiting {
            reply: Reply::End(reply),
            durable: Durable::Synced,
            outcome: Appended {
                base_offset: offset,
                last_offset: offset,
                log_start: self.start,
                append_time: None,
                duplicate: false,
            },
            _room: room,
        });
        self.touch()
    }

    fn touch(&mut self) -> bool {
        !std::mem::replace(&mut self.touched, true)
    }

    fn refusal(&self) -> Option<AppendError> {
        let reason = self.refused.as_ref()?.to_string();
        Some(AppendError::Storage { log: self.shared.id, reason })
    }

    /// Writes the run if `bytes` more would make it too large. Ends the segment if `bytes` more do not fit
    /// it, or if it is too old for a record with the timestamp `next`.
    fn make_room(
        &mut self,
        config: &LogConfig,
        bytes: usize,
        next: Option<Timestamp>,
        settings: &Settings,
        tails: &mut TailBudget,
    ) {
        if self.run.bytes + bytes > RUN_BYTES_MAX {
            self.write_staged(settings, tails);
        }
        if self.must_roll(config, bytes, next) {
            self.write_staged(settings, tails);
            self.roll_due = self.active_bytes > 0;
        }
    }

    fn must_roll(&self, config: &LogConfig, bytes: usize, next: Option<Timestamp>) -> bool {
        let active = if self.roll_due { 0 } else { self.active_bytes };
        let filled = active + self.run.bytes as u64;
        let is_full = filled + bytes as u64 > config.segment_bytes;
        filled > 0 && (is_full || next.is_some_and(|next| self.is_aged(config, next)))
    }

    /// Whether the segment must end because its first records are much older than `next`, measured by the
    /// timestamps of records. If its records have no timestamps, the time at which the segment was begun
    /// counts. As Kafka does (`LogSegment.timeWaitedForRoll`).
    fn is_aged(&self, config: &LogConfig, next: Timestamp) -> bool {
        let Some(age_max) = config.segment_age_max() else { return false };
        let active = self.active.filter(|_| !self.roll_due);
        let staged = || self.run.headers.first().map(|first| first.max_timestamp);
        let since = active.and(self.active_since).or_else(staged).filter(|since| since.0 >= 0);
        let (since, next) = match since {
            Some(since) => (since, next),
            // Staged batches without timestamps: nothing tells how old they are.
            None if active.is_none() => return false,
            None => (self.active_begun, self.shared.settings.age.now()),
        };
        let age_ms = i128::from(next.0) - i128::from(since.0);
        let is_older =
            |limit: Duration| u128::try_from(age_ms).is_ok_and(|age_ms| age_ms > limit.as_millis());
        // The cheap test first: most segments are too young even with the largest jitter.
        is_older(age_max.saturating_sub(config.segment_jitter_max))
            && is_older(age_max.saturating_sub(self.jitter(config)))
    }

    /// How much earlier than `segment.ms` the active segment ends: a hash of the log and the segment, so
    /// that it is the same at each call, and different for each segment.
    fn jitter(&self, config: &LogConfig) -> Duration {
        let base = self.active.map_or(Offset::ZERO, |active| active.base);
        let share =
            BuildHasherDefault::<DefaultHasher>::default().hash_one((self.shared.id, base)) % 1000;
        config.segment_jitter_max * share as u32 / 1000
    }

    /// Checks every batch and stages the producers' new states: all batches, or none.
    fn admit(
        &mut self,
        headers: &[BatchHeader],
        now_ms: i64,
    ) -> Result<Vec<Admission>, AppendError> {
        // With one batch, the usual case, no copy is needed: a refused batch changes nothing.
        let before = (headers.len() > 1).then(|| self.run.staged.clone());
        let mut base = self.end.plus(self.run.offsets);
        let mut admissions = Vec::with_capacity(headers.len());
        for header in headers {
            let Some(facts) = BatchFacts::of(header, now_ms) else {
                base = base.plus(header.offsets());
                admissions.push(Admission::New);
                continue;
            };
            match self.run.staged.admit(&self.producers, &facts) {
                Ok(Admission::New) => {
                    self.run.staged.record(&self.producers, &facts, base);
                    base = base.plus(header.offsets());
                    admissions.push(Admission::New);
                }
                Ok(duplicate) => admissions.push(duplicate),
                Err(error) => {
                    if let Some(before) = before {
                        self.run.staged = before;
                    }
                    return Err(error);
                }
            }
        }
        Ok(admissions)
    }

    /// Writes the staged run. If that fails, no staged change takes effect, and the callers get the
    /// reason.
    pub(in crate::log) fn write_staged(&mut self, settings: &Settings, tails: &mut TailBudget) {
        let mut waiting = std::mem::take(&mut self.run.waiting);
        // Also for appends that need no sync: they share the sync of the others in this log.
        let gathers = settings.sync;
        match self.write_run(gathers, settings, tails) {
            Ok(()) => self.written.append(&mut waiting),
            Err(reason) => {
                let error = AppendError::Storage { log: self.shared.id, reason };
                for waiting in waiting.drain(..) {
                    waiting.reply.send(Err(error.clone()));
                }
            }
        }
        waiting.shrink_to(KEPT_BATCHES_MAX);
        self.run.waiting = waiting;
    }

    /// Writes the run, and empties it also if the write fails; `Err` is the reason. With `gathers` its
    /// bytes are kept in memory for a sync together with other logs.
    fn write_run(
        &mut self,
        gathers: bool,
        settings: &Settings,
        tails: &mut TailBudget,
    ) -> Result<(), String> {
        let mut run = std::mem::take(&mut self.run);
        let mut written = Ok(());
        if run.bytes == 0 {
            self.producers.commit(&mut run.staged);
        } else {
            let bytes = run.assemble(settings.epoch);
            written = self.write(&bytes, settings).map(|object| {
                if gathers {
                    self.unsynced.gather(&bytes);
                }
                self.commit(&mut run, bytes, object, tails);
            });
        }
        run.clear();
        self.run = run;
        written
    }

    /// Writes bytes at the end of the active segment, or into a new one if that is due.
    fn write(&mut self, bytes: &[u8], settings: &Settings) -> Result<ObjectId, String> {
        let id = self.shared.id;
        let (object, position) = match self.active {
            Some(active) if !self.roll_due => (active, self.active_bytes),
            _ => {
                // Only the last segment of a log may have a torn tail. So a segment is synced when it
                // ends, also with `durability = page-cache`.
                self.force_sync(settings)?;
                (ObjectId::appended(id, self.end), 0)
            }
        };
        match settings.store.append(object, position, bytes) {
            Ok(_) => {
                self.unsynced.bytes += bytes.len() as u64;
                Ok(object)
            }
            Err(error) => Err(self.write_failed(&error, object, position, settings)),
        }
    }

    fn commit(&mut self, run: &mut Run, bytes: Bytes, object: ObjectId, tails: &mut TailBudget) {
        let first = self.end;
        self.producers.commit(&mut run.staged);
        self.end = self.end.plus(run.offsets);
        if self.active != Some(object) {
            self.active = Some(object);
            self.active_bytes = 0;
            self.active_since = None;
            self.active_begun = self.shared.settings.age.now();
            self.roll_due = false;
            self.unsynced.is_unlisted = true;
        }
        self.active_bytes += bytes.len() as u64;
        self.written_bytes += bytes.len() as u64;
        self.view_due_bytes += bytes.len() as u64;
        self.anchor = run.headers.last().map(|last| Anchor {
            position: self.active_bytes - last.bytes as u64,
            base_offset: last.base_offset,
            crc: last.crc,
        });

        let all_published = self.span.borrow().high_watermark == first;
        let index_interval_bytes = self.shared.config().index_interval_bytes;
        let mut readable = self.shared.readable_mut();
        if all_published {
            readable.published_largest = readable.largest();
        }
        if readable.segments.last().is_none_or(|last| last.object != object) {
            readable.segments.push(Segment::new(object));
        }
        if let Some(segment) = readable.segments.last_mut() {
            for header in &run.headers {
                segment.push(header, index_interval_bytes);
            }
            self.active_since = segment.first_timestamp;
        }
        for (base, chunk) in chunks(&run.headers, &bytes, first) {
            readable.tail.push(base, chunk, bytes.len());
        }
        readable.aborted.append(&mut run.aborted);
        if run.headers.iter().any(BatchHeader::transactional) {
            readable.open = self.producers.open_transactions();
        }
        drop(readable);
        for (_, chunk) in chunks(&run.headers, &bytes, first) {
            tails.pushed(&self.shared, chunk.len());
        }
    }
}

/// The broker's time, if the topic stamps records with it.
fn stamp(config: &LogConfig, settings: &Settings) -> Option<Timestamp> {
    let is_stamped = config.timestamp_type == TimestampType::LogAppendTime;
    is_stamped.then(|| settings.clock.now())
}

fn time_of(batches: &Batches, stamp: Option<Timestamp>) -> Option<Timestamp> {
    stamp.or_else(|| batches.headers.first().map(|header| header.max_timestamp))
}
