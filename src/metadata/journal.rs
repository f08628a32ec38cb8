//! The metadata journal: a sequence per slot, claimed by vacant position, so that two writers
//! racing for one position cannot both win. One machine keeps it in local logs; the same door fits
//! etcd. All decisions that are not records of a topic (topics, configs, jobs and their commits)
//! are journal records.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use thiserror::Error;

/// How many slots partitions, groups, transactions and jobs hash to.
pub const SLOTS: u16 = 64;

/// One of `SLOTS` independent sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

impl Slot {
    /// Topics and their configs.
    pub const METADATA: Slot = Slot(0);
    /// Blocks of producer ids.
    pub const PRODUCER_IDS: Slot = Slot(1);
}

/// A position was not vacant, or the journal failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JournalError {
    /// Another writer took the position: read it, apply it, try the next.
    #[error("position is occupied, the next vacant one is {next}")]
    Occupied {
        /// The next vacant position.
        next: u64,
    },
    /// Storage failed.
    #[error("the journal failed: {0}")]
    Storage(String),
}

/// See the module's header.
pub trait Journal: Send + Sync + 'static {
    /// Durably writes `record` at `seq`, if vacant and next.
    fn append(
        &self,
        slot: Slot,
        seq: u64,
        record: Bytes,
    ) -> BoxFuture<'static, Result<(), JournalError>>;
    /// Records from `from` on with their positions, in order, at most about 1 MiB; empty at the end.
    /// Begins with the oldest record kept where `from` is trimmed away: a first position above
    /// `from` tells a reader that what it knows of the slot is void, and that what follows is all.
    fn read(
        &self,
        slot: Slot,
        from: u64,
    ) -> BoxFuture<'static, Result<Vec<(u64, Bytes)>, JournalError>>;
    /// Durably forgets all that is written below `before`, whatever becomes of the space: nobody
    /// reads it again, also after a restart. A lower `before` than an earlier one changes nothing,
    /// and a position is never vacant a second time.
    ///
    /// Whoever trims has written anew, at `before` and behind, what of the forgotten still counts.
    fn trim(&self, slot: Slot, before: u64) -> BoxFuture<'static, Result<(), JournalError>>;
    /// Waits until a position at or after `from` is written.
    fn watch(&self, slot: Slot, from: u64) -> BoxFuture<'static, Result<(), JournalError>>;
}
