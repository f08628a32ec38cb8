//! `RecordStore`, the only way to the bytes of segments. Callers name bytes by object, position and length,
//! never by a path, so that an object store can implement the same trait.

use std::fmt;
use std::io;

use bytes::Bytes;

use super::manifest::Manifest;
use crate::log::boot::Boot;
use crate::store::SegmentId;
use crate::types::{LogId, Offset, Timestamp};

/// One object holds one segment of a log. It is named by the segment's first offset, and by how often the
/// segment was replaced. An object only grows; compaction writes a new object with a higher revision.
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

    /// The key of its index in the view.
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

/// Bytes at the end of an object that were appended since it was last made durable.
#[derive(Clone, Debug)]
pub struct Unsynced {
    /// Which object.
    pub object: ObjectId,
    /// The position where they begin.
    pub position: u64,
    /// The bytes, in pieces without gaps.
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
    /// For each of the given bytes, whether they survive power loss now. Those beyond the end of this list
    /// do not.
    pub done: Vec<bool>,
    /// Whether `checkpoint` should be called.
    pub is_checkpoint_due: bool,
}

/// How the bytes of a read were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the cache (of the file system), or through it.
    Kept,
    /// Past the cache.
    Past,
}

/// What lies in the store of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Every object with its length, by base offset and revision.
    pub objects: Vec<(ObjectId, u64)>,
    /// The highest log start that was noted.
    pub start: Option<Offset>,
    /// The newest manifest.
    pub manifest: Option<Manifest>,
    /// The newest manifest raises the log's start, and may be in the page cache only: `settle_manifest`.
    pub is_start_new: bool,
    /// Why there is no manifest, although one was written.
    pub manifest_fault: Option<String>,
    /// Whether there are drafts, which a crash has left.
    pub drafts: bool,
    /// Up to where batches were promised to survive power loss that were not synced with their object:
    /// the log ends there or later, if it is whole.
    pub promised: Option<Offset>,
    /// Why the log may lack records that were promised to survive.
    pub refused: Option<String>,
}

/// Stores the bytes of segments. Calls block. Each object has one owner that appends to it; anyone reads.
pub trait RecordStore: Send + Sync + 'static {
    /// Writes all of `bytes` at `position`, which is the object's length as its owner knows it; 0 creates
    /// the object. An error may leave some of the bytes behind: then the owner must truncate the object, or
    /// append no more to the log.
    fn append(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<Location>;

    /// Up to `location.length` bytes; fewer only where the object ends.
    fn read(&self, location: Location) -> io::Result<Bytes>;

    /// The bytes at `location`, or the first of them, if they can be read without waiting for a disk.
    fn read_ready(&self, _location: Location) -> Option<Bytes> {
        None
    }

    /// The bytes at `location`, read past the cache if they are not in it, for a reader that will continue
    /// behind them and not read them again. `None` if the store cannot do that, or if it does not pay.
    fn read_past(&self, _location: Location) -> Option<(Bytes, Way)> {
        None
    }

    /// `read` for a reader that reads everything once, such as the scrub: it does not change which bytes
    /// the cache holds for other readers.
    fn read_once(&self, location: Location) -> io::Result<Bytes> {
        self.read(location)
    }

    /// Drops cached bytes of the object that its disk holds, too, so that the next read asks the disk.
    fn drop_cached(&self, _object: ObjectId) {}

    /// The time of the last write to the object, by the wall clock of the store.
    fn written_at(&self, object: ObjectId) -> io::Result<Timestamp> {
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("{object} carries no time")))
    }

    /// Makes everything appended to the object, and the object's existence, survive power loss.
    fn sync(&self, object: ObjectId) -> io::Result<()>;

    /// Makes appended bytes of several objects survive power loss at once, if that costs less than a `sync`
    /// of each. The caller must `sync` the objects whose bytes are not `done`. The bytes of one object must
    /// always come with the same `writer` (a small number), and must never be cut off later.
    fn sync_together(&self, _writer: usize, _unsynced: &[Unsynced]) -> Together {
        Together::default()
    }

    /// Syncs objects in place that `sync_together` has made durable in another way, so that it has room for
    /// more; with `all`, every such object, as at a shutdown. `manifest` gives the manifest of a log, which is
    /// kept before what `sync_together` has promised of that log is forgotten. Returns the objects whose sync
    /// failed.
    fn checkpoint(
        &self,
        _all: bool,
        _manifest: &dyn Fn(LogId) -> Option<Manifest>,
    ) -> Vec<(ObjectId, io::Error)> {
        Vec::new()
    }

    /// Cuts the object to `length` bytes.
    fn truncate(&self, object: ObjectId, length: u64) -> io::Result<()>;

    /// Removes an object. One that does not exist is no error.
    fn delete(&self, object: ObjectId) -> io::Result<()>;

    /// Removes every object of a log, and every trace of it.
    fn delete_log(&self, log: LogId) -> io::Result<()>;

    /// Writes all of `bytes` at `position` of a draft: an object that readers do not see before it is
    /// published. Position 0 begins it anew. A log has one draft at a time, with one owner.
    fn append_draft(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes a draft survive power loss, and then visible, in one step.
    fn publish(&self, object: ObjectId) -> io::Result<()>;

    /// Removes the drafts of a log that were never published.
    fn discard_drafts(&self, log: LogId) -> io::Result<()>;

    /// Keeps the manifests of logs, durably. One that is older than what this process has stored is passed over,
    /// and counts as kept. Returns the logs whose manifest was not kept.
    fn put_manifests(&self, manifests: &[(LogId, Manifest)]) -> Vec<(LogId, io::Error)>;

    /// `put_manifests` of one log.
    fn put_manifest(&self, log: LogId, manifest: Manifest) -> io::Result<()> {
        match self.put_manifests(&[(log, manifest)]).pop() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// Makes the newest manifest of a log durable, which the process before may have left in the page cache.
    fn settle_manifest(&self, _log: LogId) -> io::Result<()> {
        Ok(())
    }

    /// The boot of the machine whose page cache is between the store and its disk.
    fn boot(&self) -> Boot {
        Boot::default()
    }

    /// What lies in the store of a log.
    fn list(&self, log: LogId) -> io::Result<Listing>;

    /// Every log that has an object, or a trace left by an interrupted deletion.
    fn logs(&self) -> io::Result<Vec<LogId>>;

    /// Closes files that are kept open only for speed and were not used since the last call.
    fn rest(&self);
}
