//! What happens after a write: bytes are synced, shown to readers, and their appends answered. Also what
//! happens when the disk fails at any of this.

use std::io;

use rustix::io::Errno;
use tracing::{error, warn};

use super::OwnedLog;
use crate::log::append::run::{KEPT_BATCHES_MAX, Waiting};
use crate::log::object::record_store::{ObjectId, Unsynced};
use crate::log::outcome::{AppendError, Durable, OffsetSpan};
use crate::log::refusals::Refusal;
use crate::log::settings::Settings;

impl OwnedLog {
    /// Cuts off what a failed write may have left. After a full disk, or when file handles were missing, the
    /// next append tries again. After any other failure, or if the cut fails, the log refuses appends.
    pub(super) fn write_failed(
        &mut self,
        error: &io::Error,
        object: ObjectId,
        position: u64,
        settings: &Settings,
    ) -> String {
        // The file could not be opened: nothing was written, and a cut would fail for the same reason.
        if out_of_handles(error) {
            return self.wait_for_handles("append", error, settings);
        }
        let taken_back = match settings.store.truncate(object, position) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && position == 0 => Ok(()),
            // Sync the truncation now: if power fails after this segment is sealed, the cut bytes could
            // reappear, and recovery never cuts a sealed segment.
            Ok(()) => match settings.sync_object(object) {
                // The file could not be opened, so no sync has failed: the next sync will do.
                Err(again) if out_of_handles(&again) => {
                    self.unsynced.is_cut = true;
                    Ok(())
                }
                // The failed sync may also have lost what this cycle wrote before. Another sync would
                // report success all the same.
                Err(again) => {
                    self.note_failed_sync(settings);
                    Err(again)
                }
                Ok(()) => Ok(()),
            },
            other => other,
        };
        let passing = out_of_room(error);
        match taken_back {
            Ok(()) if passing => {
                warn!(log = settings.label(self.shared.id), %error, "append failed, its bytes were cut off");
                format!("{error}; make room, then appends work again")
            }
            Ok(()) => self.refuse(Refusal::disk(format!("a write failed: {error}")), settings),
            Err(again) => {
                let reason =
                    format!("a write failed: {error}; cutting its bytes off failed: {again}");
                self.refuse(Refusal::disk(reason), settings)
            }
        }
    }

    /// Answers the callers that need no sync. If no caller needs one, publishes and answers all.
    pub(in crate::log) fn answer_unsynced(&mut self, settings: &Settings) {
        self.touched = false;
        let needs_sync = |waiting: &Waiting| waiting.durable == Durable::Synced;
        if settings.sync && self.unsynced.is_any() && self.written.iter().any(needs_sync) {
            if self.written.iter().all(needs_sync) {
                return;
            }
            // Before the answers: a client may at once ask for the offsets of its `acks=1` append.
            self.publish_end();
            for waiting in self.written.extract_if(.., |waiting| !needs_sync(waiting)) {
                waiting.reply.send(Ok(waiting.outcome));
            }
        } else {
            self.unsynced.let_go();
            self.publish();
            self.answer_all(Ok(()));
        }
    }

    /// The unsynced bytes that callers wait for, to be synced together with those of other logs. `None` if
    /// some of the unsynced bytes are no longer in memory, or if only a sync of the segment will do.
    pub(in crate::log) fn take_unsynced(&mut self) -> Option<Unsynced> {
        let unsynced = &mut self.unsynced;
        let object = self.active.filter(|_| !self.written.is_empty())?;
        let is_all = unsynced.bytes == unsynced.gathered_bytes && unsynced.bytes > 0;
        if self.sync_failed || unsynced.is_in_place() || !is_all {
            return None;
        }
        let position = self.active_bytes - unsynced.bytes;
        Some(Unsynced { object, position, pieces: std::mem::take(&mut unsynced.gathered) })
    }

    /// Notes that the bytes of `take_unsynced` are durable now.
    pub(in crate::log) fn is_synced_together(&mut self) {
        self.note_synced();
    }

    /// Notes that the whole log is on the disk.
    fn note_synced(&mut self) {
        self.unsynced.clear();
        let mut noted = self.shared.noted();
        // After a failed sync, or of a log that was not whole, a sync proves nothing of what was there before.
        if noted.failed_sync.is_none() && !noted.is_void {
            noted.end = self.end;
        }
    }

    /// Notes, also for the next start of the process, that a sync has failed: the system takes the pages for
    /// written, and no later sync writes them.
    pub(super) fn note_failed_sync(&mut self, settings: &Settings) {
        self.sync_failed = true;
        let Some(boot) = settings.store.boot().id else { return };
        self.shared.noted().failed_sync = Some(boot);
        if let Err(error) = settings.store.put_manifest(self.shared.id, self.shared.manifest()) {
            error!(
                log = settings.label(self.shared.id), %error,
                "that a sync failed could not be noted: restart the machine, not only the broker"
            );
        }
    }

    /// Keeps a manifest. A full disk and missing file handles pass; after any other error the log refuses
    /// appends.
    pub(super) fn keep_manifest(&mut self, settings: &Settings) -> Result<(), String> {
        let Err(error) = settings.store.put_manifest(self.shared.id, self.shared.manifest()) else {
            // An empty segment is listed with its first bytes.
            self.unsynced.is_unlisted &= self.active_bytes == 0;
            return Ok(());
        };
        if out_of_handles(&error) {
            Err(self.wait_for_handles("write the manifest", &error, settings))
        } else if out_of_room(&error) {
            Err(format!("{error}; make room, then appends work again"))
        } else {
            let reason = format!("its manifest could not be written: {error}");
            Err(self.refuse(Refusal::disk(reason), settings))
        }
    }

    /// Whether all of the log is synced.
    pub(in crate::log) fn is_synced(&self) -> bool {
        !self.unsynced.is_any()
    }

    /// Syncs the log, publishes the new high watermark and answers the callers that waited for it.
    pub(in crate::log) fn answer_synced(&mut self, settings: &Settings) {
        if self.written.is_empty() {
            return;
        }
        self.unsynced.let_go();
        let synced = self.sync(settings);
        match synced {
            Ok(()) => self.publish(),
            // The bytes are in the log all the same: the next append lies behind them.
            Err(_) => self.publish_end(),
        }
        self.answer_all(synced);
    }

    /// Answers the last append first: a connection waits for the answer to its first request in flight, so
    /// it is woken once, when it can send all answers together.
    fn answer_all(&mut self, result: Result<(), String>) {
        let log = self.shared.id;
        for waiting in self.written.drain(..).rev() {
            let outcome = result.clone().map(|()| waiting.outcome);
            waiting.reply.send(outcome.map_err(|reason| AppendError::Storage { log, reason }));
        }
        self.written.shrink_to(KEPT_BATCHES_MAX);
    }

    /// Syncs the log, with `durability = disk`.
    fn sync(&mut self, settings: &Settings) -> Result<(), String> {
        if settings.sync { self.force_sync(settings) } else { Ok(()) }
    }

    pub(super) fn force_sync(&mut self, settings: &Settings) -> Result<(), String> {
        self.sync_active(settings)?;
        // Before anything in a new segment is acknowledged: if its file is gone at a start, it is known to be lost.
        match self.unsynced.is_unlisted && self.active_bytes > 0 {
            true => self.keep_manifest(settings),
            false => Ok(()),
        }
    }

    /// `force_sync` without the manifest that lists a new segment.
    pub(super) fn sync_active(&mut self, settings: &Settings) -> Result<(), String> {
        let is_due = self.unsynced.is_any() || self.unsynced.is_inherited;
        let Some(active) = self.active.filter(|_| is_due) else {
            return Ok(());
        };
        // After a failed sync the kernel may have dropped the pages: another sync would report success,
        // although the bytes are lost.
        if let Some(refusal) = self.refused.as_ref().filter(|_| self.sync_failed) {
            return Err(refusal.to_string());
        }
        match settings.sync_object(active) {
            Ok(()) => {
                self.note_synced();
                Ok(())
            }
            // The file could not be opened, so no sync has failed: a later sync can be trusted.
            Err(error) if out_of_handles(&error) => {
                Err(self.wait_for_handles("sync", &error, settings))
            }
            Err(error) => {
                self.note_failed_sync(settings);
                Err(self.refuse(Refusal::disk(format!("a sync failed: {error}")), settings))
            }
        }
    }

    /// Logs that no file handle was free, and returns the reason for callers.
    fn wait_for_handles(&self, action: &str, error: &io::Error, settings: &Settings) -> String {
        warn!(log = settings.label(self.shared.id), action, %error, "no file handle was free");
        format!(
            "{error}; raise the limit of open files (ulimit -n); appends work again when a handle is free"
        )
    }

    /// Refuses appends from now on; reads continue.
    pub(super) fn refuse(&mut self, refusal: Refusal, settings: &Settings) -> String {
        let Refusal { reason, next_step } = &refusal;
        settings.note_refusal(self.shared.id, &refusal);
        error!(
            log = settings.label(self.shared.id),
            reason, next_step, "log takes no more appends, only reads"
        );
        let told = refusal.to_string();
        self.refused = Some(refusal);
        told
    }

    /// Publishes the log's offsets to readers. Does nothing after a failed sync while bytes are unsynced:
    /// these may never reach the disk. The start cannot have changed then: a trim syncs first.
    pub(super) fn publish(&self) {
        if self.sync_failed && self.unsynced.is_any() {
            return;
        }
        let first_open = self.producers.first_open();
        let span = OffsetSpan {
            start: self.start,
            last_stable: first_open.map_or(self.end, |open| open.clamp(self.start, self.end)),
            high_watermark: self.end,
            end: self.end,
            shown_bytes: self.written_bytes,
        };
        debug_assert!(self.invariants(&span));
        // The log's own receiver does not wait. A subscriber reads the span after it has subscribed, so it
        // either is counted here, or reads the span that is set here.
        let is_awaited = || self.span.receiver_count() > 1;
        self.span.send_if_modified(|old| std::mem::replace(old, span) != span && is_awaited());
    }

    /// Publishes only the log's end, and leaves the high watermark where it is.
    fn publish_end(&self) {
        self.span.send_if_modified(|span| std::mem::replace(&mut span.end, self.end) != self.end);
    }

    fn invariants(&self, span: &OffsetSpan) -> bool {
        span.start <= span.last_stable
            && span.last_stable <= span.high_watermark
            && span.high_watermark <= span.end
            && self.active.is_none_or(|active| active.base <= self.end)
    }
}

/// Whether the process or the machine has no file handle left.
pub(in crate::log) fn out_of_handles(error: &io::Error) -> bool {
    is_one_of(error, &[Errno::MFILE, Errno::NFILE])
}

/// Whether the disk is full, or a quota on it.
pub(in crate::log) fn out_of_room(error: &io::Error) -> bool {
    is_one_of(error, &[Errno::NOSPC, Errno::DQUOT])
}

fn is_one_of(error: &io::Error, errnos: &[Errno]) -> bool {
    errnos.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
