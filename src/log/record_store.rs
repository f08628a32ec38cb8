//! The door to where record bytes lie. Everything above names bytes by object, position and
//! length, never by a path, so that an object store fits behind the same door.

use std::fmt;
use std::io;

use bytes::Bytes;

use crate::types::{LogId, Offset};

/// One append-only object: a log's segment, named by the offset of its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// The log it belongs to.
    pub log: LogId,
    /// Offset of its first record.
    pub base: Offset,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:020}", self.log, self.base.get())
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

/// Where record bytes lie. Calls block; one owner appends to an object, anyone reads.
pub trait RecordStore: Send + Sync + 'static {
    /// Writes all of `bytes` at `position`, the object's length as its owner knows it; 0 creates
    /// it. An error may leave part of the bytes behind: the owner truncates, or gives the log up.
    fn append(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<Location>;

    /// Up to `location.length` bytes; fewer only where the object ends.
    fn read(&self, location: Location) -> io::Result<Bytes>;

    /// Makes everything appended to the object, and the object's existence, survive power loss.
    fn sync(&self, object: ObjectId) -> io::Result<()>;

    /// Cuts the object to `length` bytes.
    fn truncate(&self, object: ObjectId, length: u64) -> io::Result<()>;

    /// Removes an object. One that does not exist is no error.
    fn delete(&self, object: ObjectId) -> io::Result<()>;

    /// Removes every object of a log, and every trace of it.
    fn delete_log(&self, log: LogId) -> io::Result<()>;

    /// Every object of a log with its length, by base offset.
    fn list(&self, log: LogId) -> io::Result<Vec<(Offset, u64)>>;

    /// Every log that has an object, or a trace left by an interrupted deletion.
    fn logs(&self) -> io::Result<Vec<LogId>>;
}
