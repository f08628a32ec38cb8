//! The door to where record bytes lie. Everything above names bytes by object, position and
//! length, never by a path, so that an object store fits behind the same door.

use std::fmt;
use std::io;

use bytes::Bytes;

use crate::store::SegmentId;
use crate::types::{LogId, Offset, Timestamp};

/// One object: a log's segment, named by its first offset, and by how often its contents were
/// replaced. An object only grows; compaction writes a new one with a higher revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// The log it belongs to.
    pub log: LogId,
    /// Its first offset.
    pub base: Offset,
    /// 0 as appended; of two objects with one base, the higher one replaces the other.
    pub revision: u32,
}

impl ObjectId {
    /// A segment to append to.
    pub fn appended(log: LogId, base: Offset) -> ObjectId {
        ObjectId { log, base, revision: 0 }
    }

    /// What its index is found by in the view.
    pub fn segment(&self) -> SegmentId {
        SegmentId { base: self.base, revision: self.revision }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:020}", self.log, self.base.get())?;
        match self.revision {
            0 => Ok(()),
            revision => write!(f, "-{revision}"),
        }
    }
}

/// Bytes inside an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Which object.
    pub object: ObjectId,
    /// Its first byte.
    pub position: u64,
    /// How many bytes.
    pub length: usize,
}

/// Bytes at the end of an object that were appended since they were made to survive power loss last.
#[derive(Clone, Debug)]
pub struct Unsynced {
    /// Which object.
    pub object: ObjectId,
    /// Where in it they begin.
    pub position: u64,
    /// The bytes, one piece behind the other.
    pub pieces: Vec<Bytes>,
}

impl Unsynced {
    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }
}

/// What `RecordStore::sync_together` has done.
#[derive(Clone, Debug, Default)]
pub struct Together {
    /// For each of the asked whether it survives power loss now; false also where the list ends.
    pub done: Vec<bool>,
    /// `checkpoint` has something to do.
    pub is_checkpoint_due: bool,
}

/// How the bytes of a read came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By way of what is kept for others.
    Kept,
    /// Past that.
    Past,
}

/// What lies in the store of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Every object with its length, by base offset and revision.
    pub objects: Vec<(ObjectId, u64)>,
    /// The log start that was set last.
    pub start: Option<Offset>,
    /// Whether there are drafts, which a crash has left.
    pub drafts: bool,
}

/// Where record bytes lie. Calls block; one owner appends to an object, anyone reads.
pub trait RecordStore: Send + Sync + 'static {
    /// Writes all of `bytes` at `position`, the object's length as its owner knows it; 0 creates
    /// it. An error may leave part of the bytes behind: the owner truncates, or gives the log up.
    fn append(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<Location>;

    /// Up to `location.length` bytes; fewer only where the object ends.
    fn read(&self, location: Location) -> io::Result<Bytes>;

    /// The bytes at `location`, or the first of them, that can be had without waiting for a disk.
    fn read_ready(&self, _location: Location) -> Option<Bytes> {
        None
    }

    /// The bytes at `location` for somebody who will not come back soon but go on behind them, and how
    /// they came: nothing more is kept because of him. `None` where that cannot be done, or does not
    /// pay.
    fn read_past(&self, _location: Location) -> Option<(Bytes, Way)> {
        None
    }

    /// `read` for somebody who looks at everything once and will not come back soon: what is kept
    /// for those who do stays as it is.
    fn read_once(&self, location: Location) -> io::Result<Bytes> {
        self.read(location)
    }

    /// When the object was written last, by the wall clock of whoever keeps it.
    fn written_at(&self, object: ObjectId) -> io::Result<Timestamp> {
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("{object} carries no time")))
    }

    /// Makes everything appended to the object, and the object's existence, survive power loss.
    fn sync(&self, object: ObjectId) -> io::Result<()>;

    /// Makes appended bytes survive power loss, those of several objects at once, where that costs less
    /// than a `sync` of each: which is left for the caller to do for those that are not done. Of one
    /// object the bytes are always brought by the same `writer`, a small number, and are never cut off.
    fn sync_together(&self, _writer: usize, _unsynced: &[Unsynced]) -> Together {
        Together::default()
    }

    /// Does what `sync_together` has put off, blocking; `all` of it at a shutdown. The objects that
    /// may have lost what it promised.
    fn checkpoint(&self, _all: bool) -> Vec<(ObjectId, io::Error)> {
        Vec::new()
    }

    /// Cuts the object to `length` bytes.
    fn truncate(&self, object: ObjectId, length: u64) -> io::Result<()>;

    /// Removes an object. One that does not exist is no error.
    fn delete(&self, object: ObjectId) -> io::Result<()>;

    /// Removes every object of a log, and every trace of it.
    fn delete_log(&self, log: LogId) -> io::Result<()>;

    /// Writes all of `bytes` at `position` of an object that nobody sees before it is published; 0
    /// begins it anew. One draft is written at a time, by one owner.
    fn append_draft(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes a draft survive power loss and then seen, whole or not at all.
    fn publish(&self, object: ObjectId) -> io::Result<()>;

    /// Removes what was never published of a log.
    fn discard_drafts(&self, log: LogId) -> io::Result<()>;

    /// Notes where a log starts, so that it survives power loss; it only rises.
    fn set_start(&self, log: LogId, start: Offset) -> io::Result<()>;

    /// What lies here of a log.
    fn list(&self, log: LogId) -> io::Result<Listing>;

    /// Every log that has an object, or a trace left by an interrupted deletion.
    fn logs(&self) -> io::Result<Vec<LogId>>;

    /// Lets go of what is only kept open for speed and was not used since the last call.
    fn rest(&self);
}
