//! A shard: the logs of one writer, and the lock that says which thread may write them. Usually the writer
//! thread holds it. An append that needs no sync is written by the network thread that brings it, if the
//! lock is free: that saves two thread switches, which cost more than the append (docs/adr/0009).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::queue::{Closed, Queue, Room};
use super::writer::{Batches, Command, Writer, Written};
use crate::types::LogId;

/// A handle to one shard of the logs. Cheap to clone.
#[derive(Clone)]
pub(in crate::log) struct Shard {
    queue: Queue<Command>,
    /// `None` once the writer has ended, and in tests that drive the writer themselves.
    writer: Arc<Mutex<Option<Writer>>>,
}

impl Shard {
    /// A shard without a writer; `begin` gives it one.
    pub(in crate::log) fn new(queue: Queue<Command>) -> Shard {
        Shard { queue, writer: Arc::default() }
    }

    /// Gives the shard its writer. From now on `serve` carries out commands.
    pub(in crate::log) fn begin(&self, writer: Writer) {
        *self.lock() = Some(writer);
    }

    /// Carries out commands until the writer is told to stop.
    pub(in crate::log) fn serve(&self) {
        // Runs also when a command panics: callers that wait must get an answer.
        let _end = End(self);
        while self.queue.wait() {
            let mut writer = self.lock();
            let Some(state) = writer.as_mut() else { return };
            if state.cycle().is_break() {
                // Before the lock is released: no append may reach a writer that has stopped.
                *writer = None;
                return;
            }
        }
    }

    /// Waits until the queue has room for `bytes`.
    pub(in crate::log) async fn room(&self, bytes: usize) -> Result<Room, Closed> {
        self.queue.room(bytes).await
    }

    /// Queues a command for the writer thread.
    pub(in crate::log) fn send(&self, command: Command) -> Result<(), Closed> {
        self.queue.send(command)
    }

    /// Appends on the calling thread, if the lock is free and no command waits. Otherwise returns the
    /// batches, to be queued.
    pub(in crate::log) fn append(&self, log: LogId, batches: Batches) -> Result<Written, Batches> {
        let _watch = GivenUpOnPanic(self);
        // If a panic poisoned the lock, the thread that panicked removes the writer.
        let Ok(mut writer) = self.writer.try_lock() else { return Err(batches) };
        match writer.as_mut() {
            Some(writer) => writer.append_here(log, batches),
            None => Err(batches),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Writer>> {
        // A writer whose command panicked is dropped: its state may be half changed.
        self.writer.lock().unwrap_or_else(|poisoned| {
            let mut writer = poisoned.into_inner();
            *writer = None;
            writer
        })
    }

    /// Drops the writer, which closes the queue: all callers that wait get an error.
    fn give_up(&self) {
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Drops the writer when its thread ends.
struct End<'a>(&'a Shard);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// Drops the writer when another thread panics while it appends: the writer thread would not notice.
struct GivenUpOnPanic<'a>(&'a Shard);

impl Drop for GivenUpOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                "an append panicked: the partitions of this writer take no more appends until the \
                 broker is restarted"
            );
            self.0.give_up();
        }
    }
}
