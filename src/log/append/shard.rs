//! A shard: the logs of one writer, and who may write them. That is its writer thread; but an append that needs
//! no disk is carried out by the thread that brings it if nobody else is writing, which saves the two
//! changes of threads that would cost more than the append (docs/adr/0009).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::queue::{Closed, Queue, Room};
use super::writer::{Batches, Command, Writer, Written};
use crate::types::LogId;

/// A shard of the logs, for whoever has commands for it. Cheap to clone.
#[derive(Clone)]
pub(in crate::log) struct Shard {
    queue: Queue<Command>,
    /// `None` once the shard is written no more, and where a test drives the writer itself.
    writer: Arc<Mutex<Option<Writer>>>,
}

impl Shard {
    /// A shard whose writer is elsewhere until `begin`.
    pub(in crate::log) fn new(queue: Queue<Command>) -> Shard {
        Shard { queue, writer: Arc::default() }
    }

    /// Hands the writer over: from now on commands are carried out by `serve`.
    pub(in crate::log) fn begin(&self, writer: Writer) {
        *self.lock() = Some(writer);
    }

    /// Carries out commands until the writer is told to stop.
    pub(in crate::log) fn serve(&self) {
        // Also when a command panics: whoever waits must learn that nothing is written any more.
        let _end = End(self);
        while self.queue.wait() {
            let mut writer = self.lock();
            let Some(state) = writer.as_mut() else { return };
            if state.cycle().is_break() {
                // At once: nobody may append by a writer that has been told to stop.
                *writer = None;
                return;
            }
        }
    }

    /// Waits until `bytes` have room in the queue.
    pub(in crate::log) async fn room(&self, bytes: usize) -> Result<Room, Closed> {
        self.queue.room(bytes).await
    }

    /// Has the writer thread carry out a command.
    pub(in crate::log) fn send(&self, command: Command) -> Result<(), Closed> {
        self.queue.send(command)
    }

    /// Appends here and now, if nobody is writing and no command waits; else gives the batches back.
    pub(in crate::log) fn append(&self, log: LogId, batches: Batches) -> Result<Written, Batches> {
        let _watch = GivenUpOnPanic(self);
        // A lock that a panic has poisoned is given up by whoever panicked.
        let Ok(mut writer) = self.writer.try_lock() else { return Err(batches) };
        match writer.as_mut() {
            Some(writer) => writer.append_here(log, batches),
            None => Err(batches),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Writer>> {
        // A writer whose command panicked is given up: nobody knows what it holds.
        self.writer.lock().unwrap_or_else(|poisoned| {
            let mut writer = poisoned.into_inner();
            *writer = None;
            writer
        })
    }

    /// Takes the writer away, which closes the queue: whoever waits learns that nothing is written any
    /// more.
    fn give_up(&self) {
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Ends the shard with its thread.
struct End<'a>(&'a Shard);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// Ends the shard when a thread that appends panics: its own thread would not notice.
struct GivenUpOnPanic<'a>(&'a Shard);

impl Drop for GivenUpOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                "writing a shard of the logs panicked: restart the broker to append to them"
            );
            self.0.give_up();
        }
    }
}
