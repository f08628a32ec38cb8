//! The one trait of all operators, and what travels between them.

use arrow::array::{BooleanArray, Int8Array, Int64Array};
use arrow::compute::{filter, filter_record_batch};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion_common::DataFusionError;
use thiserror::Error;

use super::checkpoint::transaction::EpochAppend;
use crate::types::{Offset, PartitionId, Timestamp};

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
    /// With `Emit::OnEvent`: the watermark in ms that was in force when each row arrived, so that a
    /// row is judged late exactly although watermarks travel once per batch. `None`: the operator's
    /// own watermark counts.
    pub watermarks: Option<Int64Array>,
}

impl Batch {
    /// A batch of inserts.
    pub fn inserts(rows: RecordBatch) -> Batch {
        Batch { rows, kinds: None, watermarks: None }
    }

    /// Whether every row is an insert.
    pub fn is_inserts(&self) -> bool {
        let insert = RowKind::Insert as i8;
        self.kinds.as_ref().is_none_or(|kinds| kinds.values().iter().all(|kind| *kind == insert))
    }

    /// The rows for which `keep` is true.
    pub fn filter(&self, keep: &BooleanArray) -> Result<Batch, ArrowError> {
        let pick = |column: &dyn arrow::array::Array| filter(column, keep);
        Ok(Batch {
            rows: filter_record_batch(&self.rows, keep)?,
            kinds: match &self.kinds {
                Some(kinds) => Some(Int8Array::from(pick(kinds)?.to_data())),
                None => None,
            },
            watermarks: match &self.watermarks {
                Some(watermarks) => Some(Int64Array::from(pick(watermarks)?.to_data())),
                None => None,
            },
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// No row with an earlier event time will follow (except late ones).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watermark(pub Timestamp);

/// Divides the stream into what belongs to checkpoint `epoch` and what does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// The checkpoint, from 1.
    pub epoch: u64,
    /// Write all state, not only what changed since the last barrier: what came before need not be
    /// read again.
    pub full: bool,
}

/// Why an attempt ends.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    /// A record that cannot become a row.
    #[error("topic '{topic}', partition {partition}, offset {offset}: {reason}")]
    Record {
        /// The source's topic.
        topic: String,
        /// Its partition.
        partition: PartitionId,
        /// The record.
        offset: Offset,
        /// Field and reason.
        reason: String,
    },
    /// An operator could not work on rows it was given.
    #[error("{0}")]
    Rows(String),
    /// A topic or partition is not what the job was planned for.
    #[error("{0}")]
    Topic(String),
    /// A log, the journal or a producer id could not be had.
    #[error("{0}")]
    Storage(String),
    /// A bug: the thread panicked. The broker and the other jobs go on.
    #[error("the operator panicked: {0}")]
    Panic(String),
    /// The attempt was told to end.
    #[error("the attempt was stopped")]
    Stopped,
}

impl From<ArrowError> for Failure {
    fn from(error: ArrowError) -> Failure {
        Failure::Rows(error.to_string())
    }
}

impl From<DataFusionError> for Failure {
    fn from(error: DataFusionError) -> Failure {
        // The root cause is what the query's author can act on; the wrapping is about plans.
        Failure::Rows(error.find_root().to_string())
    }
}

/// Where an operator's results go: the operators after it, in the same call stack.
pub trait Output {
    /// Rows.
    fn batch(&mut self, batch: Batch) -> Result<(), Failure>;
    /// Progress of event time; never goes back.
    fn watermark(&mut self, watermark: Watermark) -> Result<(), Failure>;
    /// Nothing is to be expected for now: do not wait for this input's watermark. Ended by the next
    /// batch or watermark.
    fn idle(&mut self) -> Result<(), Failure>;
}

/// One piece of an operator's state. The key is the operator's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEntry {
    /// Unique within the operator's subtask.
    pub key: Vec<u8>,
    /// `None` removes it.
    pub value: Option<Bytes>,
}

/// What an operator hands over at a barrier.
#[derive(Default)]
pub struct Snapshot {
    /// State that changed (or all of it, if the barrier is full).
    pub state: Vec<StateEntry>,
    /// Output of the epoch that the barrier ends, on its way to the logs.
    pub appends: Vec<EpochAppend>,
}

/// A step of a job. Synchronous: it pushes its results into `out` before it returns.
pub trait Operator: Send {
    /// Takes rows.
    fn batch(&mut self, batch: Batch, out: &mut dyn Output) -> Result<(), Failure>;

    /// Takes a higher watermark than the last.
    fn watermark(&mut self, watermark: Watermark, out: &mut dyn Output) -> Result<(), Failure> {
        out.watermark(watermark)
    }

    /// The input is idle.
    fn idle(&mut self, out: &mut dyn Output) -> Result<(), Failure> {
        out.idle()
    }

    /// Hands over what belongs to the epoch that ends here.
    fn barrier(&mut self, barrier: Barrier, snapshot: &mut Snapshot) -> Result<(), Failure> {
        let _ = (barrier, snapshot);
        Ok(())
    }

    /// Takes back what all subtasks of this operator handed over, before any row.
    fn restore(&mut self, entries: &[StateEntry]) -> Result<(), Failure> {
        let _ = entries;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! An output that keeps what it is given.

    use super::*;

    #[derive(Default)]
    pub(crate) struct Kept {
        pub(crate) batches: Vec<Batch>,
        pub(crate) watermarks: Vec<i64>,
        pub(crate) idle: usize,
    }

    impl Output for Kept {
        fn batch(&mut self, batch: Batch) -> Result<(), Failure> {
            self.batches.push(batch);
            Ok(())
        }

        fn watermark(&mut self, watermark: Watermark) -> Result<(), Failure> {
            self.watermarks.push(watermark.0.0);
            Ok(())
        }

        fn idle(&mut self) -> Result<(), Failure> {
            self.idle += 1;
            Ok(())
        }
    }

    impl Kept {
        /// All rows as text, one line each, columns joined by commas.
        pub(crate) fn lines(&self) -> Vec<String> {
            self.batches.iter().flat_map(|batch| lines(&batch.rows)).collect()
        }
    }

    pub(crate) fn lines(rows: &RecordBatch) -> Vec<String> {
        (0..rows.num_rows())
            .map(|row| {
                rows.columns()
                    .iter()
                    .map(|column| arrow::util::display::array_value_to_string(column, row).unwrap())
                    .collect::<Vec<_>>()
                    .join(",")
            })
            .collect()
    }
}
