//! The metadata journal: a sequence per slot, claimed by vacant position, so that two writers
//! racing for one position cannot both win. One machine keeps it in local logs; the same door fits
//! etcd. All decisions that are not records of a topic (topics, configs, jobs and their commits)
//! are journal records.

use std::ops::Range;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use thiserror::Error;

/// How many slots partitions, groups, transactions and jobs hash to.
pub const SLOTS: u16 = 64;

/// One of `SLOTS` independent sequences. All of them are named here. Persisted: never give a slot
/// another use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

impl Slot {
    /// What the cluster knows: topics, configs, features.
    pub const METADATA: Slot = Slot(0);
    /// Blocks of producer ids.
    pub const PRODUCER_IDS: Slot = Slot(1);
    /// Jobs and their commits: each job in the slot that its id hashes to.
    pub const JOBS: Range<u16> = 2..SLOTS;
}

/// How many records a stretch of a slot has, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotSize {
    /// Records.
    pub records: u64,
    /// Bytes of the records, without what the journal adds to each.
    pub bytes: u64,
}

impl SlotSize {
    /// Counts one more record.
    pub fn add(&mut self, bytes: usize) {
        self.records += 1;
        self.bytes += bytes as u64;
    }
}

/// A slot is written anew when it has grown to this many times what was left of it last time.
const HISTORY_FACTOR: u64 = 4;

/// When a slot is worth writing anew: what a start reads must depend on what there is, and not on
/// what ever was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// All of the slot that is not trimmed.
    size: SlotSize,
    /// What the slot's records took when they were written anew last.
    kept: SlotSize,
}

impl History {
    /// A slot with no more than this is never written anew.
    pub const MIN: SlotSize = SlotSize { records: 1024, bytes: 1 << 20 };

    /// Counts a record that was appended or read.
    pub fn add(&mut self, bytes: usize) {
        self.size.add(bytes);
    }

    /// Whether most of the slot is history.
    pub fn is_most(&self) -> bool {
        let too_many = |size: u64, kept: u64, min: u64| size > min.max(HISTORY_FACTOR * kept);
        too_many(self.size.records, self.kept.records, History::MIN.records)
            || too_many(self.size.bytes, self.kept.bytes, History::MIN.bytes)
    }

    /// The slot was written anew, and `size` is all that counts of it.
    pub fn rewritten(&mut self, size: SlotSize) {
        *self = History { size, kept: size };
    }

    /// The slot could not be written anew: try again when it has grown as much once more.
    pub fn put_off(&mut self) {
        self.kept = self.size;
    }
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
    /// Who trims has first written anew, at `before` and behind, what of the forgotten still counts.
    fn trim(&self, slot: Slot, before: u64) -> BoxFuture<'static, Result<(), JournalError>>;
    /// Waits until a position at or after `from` is written.
    fn watch(&self, slot: Slot, from: u64) -> BoxFuture<'static, Result<(), JournalError>>;
}
