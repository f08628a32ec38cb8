//! The one trait of all operators, and what travels between them.

use arrow::array::Int8Array;
use arrow::record_batch::RecordBatch;

use crate::types::Timestamp;

/// What a row does to the result (Flink's RowKind), as the numbers in `Batch::kinds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum RowKind {
    /// +I.
    Insert = 0,
    /// -U.
    UpdateBefore = 1,
    /// +U.
    UpdateAfter = 2,
    /// -D.
    Delete = 3,
}

/// Up to a few thousand rows.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The columns.
    pub rows: RecordBatch,
    /// One `RowKind` per row; `None` means all are inserts.
    pub kinds: Option<Int8Array>,
}

/// No row with an earlier event time will follow (except late ones).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watermark(pub Timestamp);

/// Divides the stream into what belongs to checkpoint `epoch` and what does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// The checkpoint, from 1.
    pub epoch: u64,
}
