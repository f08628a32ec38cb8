//! What becomes of written bytes: they are synced, shown to readers and answered for; and what a disk
//! that fails at it makes of the log.

use std::io;

use rustix::io::Errno;
use tracing::{error, warn};

use super::{OwnedLog, SinceSync};
use crate::log::append::run::{KEPT_BATCHES_MAX, Waiting};
use crate::log::object::record_store::{ObjectId, Unsynced};
use crate::log::outcome::{AppendError, Durable, OffsetSpan};
use crate::log::refusals::Refusal;
use crate::log::settings::Settings;

impl OwnedLog {
    /// Takes a failed write back. A full disk is tried again with the next append, and so is a lack
    /// of file handles; after any other failure, or when taking back fails, the log is given up.
    pub(super) fn write_failed(
        &mut self,
        error: &io::Error,
        object: ObjectId,
        position: u64,
        settings: &Settings,
    ) -> String {
        // The file could not be opened: nothing was written, and taking back would fail alike.
        if out_of_handles(error) {
            return self.wait_for_handles("append", error, settings);
        }
        let taken_back = match settings.store.truncate(object, position) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && position == 0 => Ok(()),
            // A power loss may else bring back what was taken back: behind the end of a segment
            // that was given up for the next one meanwhile, where nobody may cut it.
            Ok(()) => match settings.sync_object(object) {
                // The next sync does it: nothing was asked of the disk yet.
                Err(again) if out_of_handles(&again) => {
                    self.unsynced.is_cut = true;
                    Ok(())
                }
                // What this cycle wrote before may be lost with it: asking again would lie.
                Err(again) => {
                    self.sync_failed = true;
                    Err(again)
                }
                Ok(()) => Ok(()),
            },
            other => other,
        };
        let passing = out_of_room(error);
        match taken_back {
            Ok(()) if passing => {
                warn!(log = settings.label(self.shared.id), %error, "append failed and was taken back");
                format!("{error}; make room, appends go on by themselves")
            }
            Ok(()) => self.refuse(Refusal::disk(format!("a write failed: {error}")), settings),
            Err(again) => {
                let reason = format!("a write failed: {error}; taking it back failed: {again}");
                self.refuse(Refusal::disk(reason), settings)
            }
        }
    }

    /// Answers the callers that need no sync; all of them, when none does.
    pub(in crate::log) fn answer_unsynced(&mut self, settings: &Settings) {
        self.touched = false;
        let needs_sync = |waiting: &Waiting| waiting.durable == Durable::Synced;
        if settings.sync && self.unsynced.is_any() && self.written.iter().any(needs_sync) {
            if self.written.iter().all(needs_sync) {
                return;
            }
            // First, so that a client may ask for what its `acks=1` append was told.
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

    /// What callers wait for, if all that is not synced is at hand to be synced together with other
    /// logs.
    pub(in crate::log) fn take_unsynced(&mut self) -> Option<Unsynced> {
        let SinceSync { bytes, gathered, gathered_bytes, is_cut } = &mut self.unsynced;
        let object = self.active.filter(|_| !self.written.is_empty())?;
        let is_all = *bytes == *gathered_bytes && *bytes > 0;
        if self.sync_failed || *is_cut || !is_all {
            return None;
        }
        let position = self.active_bytes - *bytes;
        Some(Unsynced { object, position, pieces: std::mem::take(gathered) })
    }

    /// What was to be synced together survives power loss.
    pub(in crate::log) fn is_synced_together(&mut self) {
        self.unsynced.clear();
    }

    /// Whether nothing of it waits for a sync.
    pub(in crate::log) fn is_synced(&self) -> bool {
        !self.unsynced.is_any()
    }

    /// Syncs for those that wait for it, moves the high watermark and answers them.
    pub(in crate::log) fn answer_synced(&mut self, settings: &Settings) {
        if self.written.is_empty() {
            return;
        }
        self.unsynced.let_go();
        let synced = self.sync(settings);
        match synced {
            Ok(()) => self.publish(),
            // It is written all the same, and what is appended next lies behind it.
            Err(_) => self.publish_end(),
        }
        self.answer_all(synced);
    }

    /// The last one first: a connection waits for its first request in flight, and so is woken once,
    /// when it can send all its answers together.
    fn answer_all(&mut self, result: Result<(), String>) {
        let log = self.shared.id;
        for waiting in self.written.drain(..).rev() {
            let outcome = result.clone().map(|()| waiting.outcome);
            waiting.reply.send(outcome.map_err(|reason| AppendError::Storage { log, reason }));
        }
        self.written.shrink_to(KEPT_BATCHES_MAX);
    }

    /// Makes all written bytes durable, where durability asks for it.
    fn sync(&mut self, settings: &Settings) -> Result<(), String> {
        if settings.sync { self.force_sync(settings) } else { Ok(()) }
    }

    pub(super) fn force_sync(&mut self, settings: &Settings) -> Result<(), String> {
        let Some(active) = self.active.filter(|_| self.unsynced.is_any()) else {
            return Ok(());
        };
        // After a failed sync the kernel may have dropped the pages: asking again would lie.
        if let Some(refusal) = self.refused.as_ref().filter(|_| self.sync_failed) {
            return Err(refusal.to_string());
        }
        match settings.sync_object(active) {
            Ok(()) => {
                self.unsynced.clear();
                Ok(())
            }
            // Nothing was asked of the disk yet, so asking again is honest.
            Err(error) if out_of_handles(&error) => {
                Err(self.wait_for_handles("sync", &error, settings))
            }
            Err(error) => {
                self.sync_failed = true;
                Err(self.refuse(Refusal::disk(format!("a sync failed: {error}")), settings))
            }
        }
    }

    /// Tells of a file that could not be opened now but may be later.
    fn wait_for_handles(&self, action: &str, error: &io::Error, settings: &Settings) -> String {
        warn!(log = settings.label(self.shared.id), action, %error, "no file handle was free");
        format!("{error}; raise the limit of open files (ulimit -n), appends go on by themselves")
    }

    /// Gives the log up for writing; reading goes on.
    pub(super) fn refuse(&mut self, refusal: Refusal, settings: &Settings) -> String {
        let Refusal { reason, next_step } = &refusal;
        settings.note_refusal(self.shared.id, &refusal);
        error!(
            log = settings.label(self.shared.id),
            reason, next_step, "log is fenced: it takes no more appends"
        );
        let told = refusal.to_string();
        self.refused = Some(refusal);
        told
    }

    /// Shows readers where the log begins and how far it goes, unless a failed sync has left that in
    /// the air. Then it has not changed either: no start is raised before all is on the disk.
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
        };
        debug_assert!(self.invariants(&span));
        // The log's own receiver waits for nothing. Who subscribes asks for the span after that, so
        // that it either is counted here or sees what is put here.
        let is_awaited = || self.span.receiver_count() > 1;
        self.span.send_if_modified(|old| std::mem::replace(old, span) != span && is_awaited());
    }

    /// Tells readers where the log ends, and shows them nothing more.
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
