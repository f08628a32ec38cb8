//! A writer owns the logs of its shard. In each cycle it drains its queue, writes the batches of each log
//! with one write, syncs the logs that need it with as few syncs as possible, and answers all callers (group
//! commit).

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::owner::{OwnedLog, Replacement, Trimmed};
use super::queue::{Receiver, Room};
use super::tail::TailBudget;
use crate::log::format::batch::BatchHeader;
use crate::log::object::record_store::{ObjectId, Together, Unsynced};
use crate::log::outcome::{AppendError, Appended, Durable, Marker, TrimError};
use crate::log::refusals::Refusal;
use crate::log::segment::Damage;
use crate::log::settings::Settings;
use crate::store::ProducerEntry;
use crate::types::{IdHash, LogId, Offset, ProducerEpoch, ProducerId};

/// Most bytes that one cycle takes from the queue.
const CYCLE_BYTES_MAX: usize = 8 << 20;
/// The longest wait for appends that would share a sync.
const GROUP_WAIT_MAX: Duration = Duration::from_micros(500);
/// After waits in vain the writer skips waiting, for at most this many groups.
const GROUPS_ALONE_MAX: u32 = 64;
/// A write that takes longer than this is slow: the page cache is waiting for the disk.
pub(in crate::log) const QUICK_WRITE_MAX: Duration = Duration::from_millis(5);
/// After a slow write, appends go to the writer thread for this long.
pub(in crate::log) const SLOW_WRITES_PAUSE: Duration = Duration::from_secs(1);

/// Batches to append, already validated.
pub(in crate::log) struct Batches {
    /// The batches, without gaps between them.
    pub(in crate::log) bytes: Bytes,
    /// One header for each batch.
    pub(in crate::log) headers: Vec<BatchHeader>,
}

/// The outcome of an append.
pub(in crate::log) type Written = Result<Appended, AppendError>;

/// Batches that wait to be appended.
pub(in crate::log) struct Append {
    pub(in crate::log) log: LogId,
    pub(in crate::log) batches: Batches,
    pub(in crate::log) durable: Durable,
    pub(in crate::log) reply: oneshot::Sender<Written>,
    pub(in crate::log) room: Room,
}

/// A transaction to end by a marker.
pub(in crate::log) struct End {
    pub(in crate::log) log: LogId,
    pub(in crate::log) producer: ProducerId,
    pub(in crate::log) epoch: ProducerEpoch,
    pub(in crate::log) marker: Marker,
    pub(in crate::log) reply: oneshot::Sender<Result<Option<Appended>, AppendError>>,
    pub(in crate::log) room: Room,
}

/// A log whose start is to be raised.
pub(in crate::log) struct Trim {
    pub(in crate::log) log: LogId,
    pub(in crate::log) before: Offset,
    pub(in crate::log) reply: oneshot::Sender<Result<Trimmed, TrimError>>,
    pub(in crate::log) room: Room,
}

/// A fault that the scrub found in a segment.
pub(in crate::log) struct Discovery {
    pub(in crate::log) object: ObjectId,
    pub(in crate::log) fault: Fault,
    /// True if the log has noted the fault now, or knew it already.
    pub(in crate::log) reply: oneshot::Sender<bool>,
}

/// What is wrong with the segment.
pub(in crate::log) enum Fault {
    Damage {
        damage: Damage,
        /// No valid batch was found between the damage and the end that the segment had then.
        to_the_end: bool,
    },
    /// The segment cannot be read.
    Disk(String),
}

/// A command to a writer.
pub(in crate::log) enum Command {
    /// Own this log from now on.
    Adopt(Box<OwnedLog>),
    Append(Append),
    End(End),
    Trim(Trim),
    /// Answer a log's producers, with their last batches as far as they are written. If the writer does
    /// not own the log, drop the sender.
    Producers(LogId, oneshot::Sender<Vec<ProducerEntry>>),
    /// Forget idle producers of a log.
    ExpireProducers(LogId),
    /// Swap in a compacted segment; the answer is whether that was possible.
    Replace(LogId, Replacement, oneshot::Sender<bool>),
    /// End the active segment, so that it can be compacted or deleted.
    Roll(LogId, oneshot::Sender<Result<(), String>>),
    /// Refuse all appends to a log: a reader met damage.
    Refuse(LogId, Refusal),
    /// Refuse all appends to a log: a checkpoint failed to sync a segment.
    SyncFailed(LogId, Refusal),
    /// Note a fault of a segment.
    Discovered(Discovery),
    /// Drop a log that is being deleted. The answer comes when nothing writes to it any more.
    Forget(LogId, oneshot::Sender<()>),
    /// Sync all logs, update the view, then end.
    Stop,
    /// End at once, as a crash would.
    Halt,
}

/// The logs of one shard, and what is needed to write them. Driven by the thread that has locked the shard.
pub(in crate::log) struct Writer {
    /// The writer's number, from 0.
    index: usize,
    receiver: Receiver<Command>,
    settings: Arc<Settings>,
    logs: HashMap<LogId, OwnedLog, IdHash>,
    tails: TailBudget,
    /// Logs with callers that wait for the end of the cycle.
    touched: Vec<LogId>,
    /// What the last sync tells about the next one.
    group: Group,
    /// A write was slow: until then, appends go to the writer thread.
    slow_until: Option<Instant>,
}

/// How many appends may share the next sync, and how long to wait for them. Clients that wait for their
/// answers send as many requests again as were answered, in addition to those that came during the sync. One
/// sync for all of these costs no more than one sync for a single append.
#[derive(Default)]
struct Group {
    /// How many appends may share the next sync.
    expected: usize,
    /// How long the last sync took. To wait longer than this costs more than a shared sync saves.
    sync: Duration,
    /// How many groups to skip waiting for after the next wait in vain; each such wait doubles it.
    alone: u32,
    /// How many of the next groups to skip waiting for.
    skip: u32,
}

impl Group {
    /// Notes that a group of `appends` was synced, and that `queued` commands came during the sync.
    fn is_synced(&mut self, appends: usize, queued: usize, sync: Duration) {
        (self.expected, self.sync) = (appends + queued, sync);
    }

    /// How long to wait for the rest of a group that has `appends` already; `None` is not at all.
    fn patience(&mut self, appends: usize) -> Option<Duration> {
        if appends == 0 || appends >= self.expected {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        Some(self.sync.min(GROUP_WAIT_MAX))
    }

    /// Notes the end of a wait; `is_whole` if the whole group came.
    fn is_waited_for(&mut self, is_whole: bool) {
        self.skip = if is_whole { 0 } else { self.alone };
        self.alone = if is_whole { 1 } else { (2 * self.alone).clamp(1, GROUPS_ALONE_MAX) };
    }
}

impl Writer {
    pub(in crate::log) fn new(
        index: usize,
        receiver: Receiver<Command>,
        settings: Arc<Settings>,
        tail_bytes_max: usize,
    ) -> Writer {
        Writer {
            index,
            receiver,
            settings,
            logs: HashMap::default(),
            tails: TailBudget::new(tail_bytes_max),
            touched: Vec::new(),
            group: Group::default(),
            slow_until: None,
        }
    }

    /// Takes the queued commands as one group, carries them out and answers them. Breaks when it was told
    /// to stop.
    pub(in crate::log) fn cycle(&mut self) -> ControlFlow<()> {
        let mut bytes = 0;
        let mut to_sync = 0;
        let mut has_waited = false;
        while bytes < CYCLE_BYTES_MAX
            && let Some(command) = self.next(to_sync, &mut has_waited)
        {
            match command {
                Command::Append(append) => {
                    bytes += append.batches.bytes.len();
                    to_sync += usize::from(self.waits_for_disk(&append));
                    self.append(append);
                }
                Command::End(end) => self.end(end),
                Command::Trim(trim) => self.trim(trim),
                Command::Producers(id, reply) => {
                    // What is only staged stays so: the appends that wait may share their sync.
                    if let Some(log) = self.logs.get(&id) {
                        let _ = reply.send(log.producers());
                    }
                }
                Command::ExpireProducers(id) => {
                    if let Some(log) = self.logs.get_mut(&id) {
                        log.expire_producers(&self.settings);
                    }
                }
                Command::Replace(id, replacement, reply) => {
                    self.finish();
                    let settings = &self.settings;
                    let replaced = self.logs.get_mut(&id);
                    let replaced = replaced.is_some_and(|log| log.replace(replacement, settings));
                    let _ = reply.send(replaced);
                }
                Command::Roll(id, reply) => {
                    self.finish();
                    if let Some(log) = self.logs.get_mut(&id) {
                        let _ = reply.send(log.roll(&self.settings));
                    }
                }
                Command::Refuse(id, refusal) => {
                    self.finish();
                    if let Some(log) = self.logs.get_mut(&id) {
                        log.give_up(refusal, &self.settings);
                    }
                }
                Command::SyncFailed(id, refusal) => {
                    self.finish();
                    if let Some(log) = self.logs.get_mut(&id) {
                        log.sync_failed(refusal, &self.settings);
                    }
                }
                Command::Discovered(discovery) => self.note(discovery),
                Command::Adopt(log) => {
                    self.logs.insert(log.id(), *log);
                }
                Command::Forget(id, done) => {
                    self.finish();
                    if let Some(log) = self.logs.remove(&id) {
                        self.tails.forget(log.shared());
                    }
                    // The caller may have stopped waiting.
                    let _ = done.send(());
                }
                Command::Stop => {
                    self.stop();
                    return ControlFlow::Break(());
                }
                Command::Halt => return ControlFlow::Break(()),
            }
        }
        let began = Instant::now();
        self.finish();
        if to_sync > 0 {
            self.group.is_synced(to_sync, self.receiver.len(), began.elapsed());
        }
        ControlFlow::Continue(())
    }

    /// The next command of a cycle that has `to_sync` appends to sync so far. When the queue is empty, it
    /// waits a short time, once in a cycle, for appends that would share the sync.
    fn next(&mut self, to_sync: usize, has_waited: &mut bool) -> Option<Command> {
        let next = self.receiver.ready();
        if next.is_some() || *has_waited {
            return next;
        }
        *has_waited = true;
        let patience = self.group.patience(to_sync)?;
        let is_whole = self.receiver.wait_for(self.group.expected - to_sync, patience);
        self.group.is_waited_for(is_whole);
        self.receiver.ready()
    }

    fn waits_for_disk(&self, append: &Append) -> bool {
        append.durable == Durable::Synced && self.settings.sync
    }

    /// Appends on a network thread, between two cycles. Returns the batches, to be queued, if commands
    /// wait in the queue, if writes are slow, or if the append needs more than a write.
    pub(in crate::log) fn append_here(
        &mut self,
        id: LogId,
        batches: Batches,
    ) -> Result<Written, Batches> {
        let began = Instant::now();
        let is_slow = self.slow_until.is_some_and(|until| began < until);
        let log = self.logs.get_mut(&id).filter(|_| !is_slow && self.receiver.len() == 0);
        let Some(log) = log else { return Err(batches) };
        let written = log.append_here(batches, &self.settings, &mut self.tails)?;
        if began.elapsed() > QUICK_WRITE_MAX {
            self.slow_until = Some(began + SLOW_WRITES_PAUSE);
        }
        Ok(written)
    }

    fn append(&mut self, append: Append) {
        let Some(log) = self.logs.get_mut(&append.log) else {
            let _ = append.reply.send(Err(AppendError::Deleted));
            return;
        };
        if log.stage_append(append, &self.settings, &mut self.tails) {
            self.touched.push(log.id());
        }
    }

    fn end(&mut self, end: End) {
        let Some(log) = self.logs.get_mut(&end.log) else {
            let _ = end.reply.send(Err(AppendError::Deleted));
            return;
        };
        if log.stage_end(end, &self.settings, &mut self.tails) {
            self.touched.push(log.id());
        }
    }

    fn trim(&mut self, trim: Trim) {
        // The trim may reach up to the end of what was staged before it, so that must be written first.
        self.finish();
        let trimmed = match self.logs.get_mut(&trim.log) {
            Some(log) => log.trim(trim.before, &self.settings),
            None => Err(TrimError::Deleted),
        };
        let _ = trim.reply.send(trimmed);
        drop(trim.room);
    }

    fn note(&mut self, discovery: Discovery) {
        self.finish();
        let Discovery { object, fault, reply } = discovery;
        let log = self.logs.get_mut(&object.log);
        let _ = reply.send(log.is_some_and(|log| log.note(object, fault, &self.settings)));
    }

    /// Writes and syncs what the cycle staged, publishes the new offsets and answers the callers.
    fn finish(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        for id in &touched {
            if let Some(log) = self.logs.get_mut(id) {
                log.write_staged(&self.settings, &mut self.tails);
                log.answer_unsynced(&self.settings);
            }
        }
        if self.settings.sync {
            self.sync_together(&touched);
        }
        // The last log first, and in each log the last append first: a connection waits for the answer
        // to its first request, so it is woken once, when all of its answers are there.
        for id in touched.iter().rev() {
            if let Some(log) = self.logs.get_mut(id).filter(|log| log.is_synced()) {
                log.answer_synced(&self.settings);
            }
        }
        for id in &touched {
            if let Some(log) = self.logs.get_mut(id) {
                log.answer_synced(&self.settings);
                log.keep_view_if_due(&self.settings);
            }
        }
        self.touched = touched;
        self.touched.clear();
    }

    /// Syncs as many of the logs as possible with one sync. Each of the others syncs itself in
    /// `answer_synced`.
    fn sync_together(&mut self, touched: &[LogId]) {
        let logs = &mut self.logs;
        let unsynced = touched.iter().filter_map(|id| logs.get_mut(id)?.take_unsynced());
        let unsynced: Vec<Unsynced> = unsynced.collect();
        if unsynced.is_empty() {
            return;
        }
        let began = Instant::now();
        let Together { done, is_checkpoint_due } =
            self.settings.store.sync_together(self.index, &unsynced);
        if done.contains(&true) {
            self.settings.meter.sync_seconds.observe(began.elapsed().as_secs_f64());
        }
        for (unsynced, _) in unsynced.iter().zip(done).filter(|(_, done)| *done) {
            if let Some(log) = self.logs.get_mut(&unsynced.object.log) {
                log.is_synced_together();
            }
        }
        if is_checkpoint_due && let Some(alarm) = self.settings.checkpoint_alarm.get() {
            alarm.wake();
        }
    }

    fn stop(&mut self) {
        self.finish();
        let settings = &self.settings;
        let closed =
            self.logs.values_mut().filter_map(|log| Some((log.id(), log.close(settings)?)));
        // All at once: a sync for each of thousands of logs would take long.
        let closed: Vec<_> = closed.collect();
        let failed: HashMap<LogId, io::Error> =
            settings.store.put_manifests(&closed).into_iter().collect();
        for (id, _) in closed {
            let Some(log) = self.logs.get_mut(&id) else { continue };
            match failed.get(&id) {
                None => log.keep_snapshot(settings),
                Some(error) => {
                    let log = settings.label(id);
                    tracing::warn!(log, %error, "manifest was not written, the next start scans more");
                }
            }
        }
        // If the view does not reach the disk, the next start only reads more of the logs.
        if let Err(error) = self.settings.view.flush() {
            tracing::warn!(%error, "view was not flushed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_waits_for_as_many_as_are_in_flight_and_ever_less_often_in_vain() {
        let sync = Duration::from_micros(300);
        let mut group = Group::default();
        assert_eq!(group.patience(1), None);
        group.is_synced(3, 2, sync);
        assert_eq!(group.patience(0), None);
        assert_eq!(group.patience(2), Some(sync));
        assert_eq!(group.patience(5), None);
        group.is_synced(3, 2, Duration::from_secs(1));
        assert_eq!(group.patience(2), Some(GROUP_WAIT_MAX));
        for skipped in [0, 1, 2, 4] {
            group.is_waited_for(false);
            for _ in 0..skipped {
                assert_eq!(group.patience(2), None);
            }
            assert_eq!(group.patience(2), Some(GROUP_WAIT_MAX), "after {skipped}");
        }
        group.is_waited_for(true);
        assert_eq!(group.patience(2), Some(GROUP_WAIT_MAX));
    }
}
