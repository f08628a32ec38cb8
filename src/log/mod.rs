//! The partition store: append-only segments of verbatim record batches, group commit, recovery,
//! producer state and transactions. Knows topics only by id and no Kafka message.

pub mod batch;
pub mod data_dir;
pub mod partition;
pub mod records;

use std::path::Path;
use std::sync::Arc;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::types::{Clock, LeaderEpoch, LogId, TopicId};

pub use partition::{
    AbortedTxn, AppendError, AppendOptions, Appended, Durable, Isolation, Marker, OffsetSpan,
    OpenTxn, Partition, PendingAppend, ReadError, ReadRequest, ReadResult, TimestampOffset,
};

/// Every partition log of this node. Cheap to clone; writer threads stop with `shutdown`.
#[derive(Clone)]
pub struct Logs {}

/// What can go wrong when a log is opened, created or deleted.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file operation failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// On which path.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The bytes on disk are not a log Ottla can read.
    #[error("{path} is damaged at byte {position}: {reason}")]
    Corrupt {
        /// The segment.
        path: String,
        /// Where in it.
        position: u64,
        /// What was found.
        reason: String,
    },
}

impl Logs {
    /// Starts the writer threads over `dir` (created if absent). `epoch` is this node's leader
    /// epoch for every log. Opens no log yet.
    pub fn start(
        dir: &Path,
        store: Store,
        config: &Config,
        clock: Arc<dyn Clock>,
        epoch: LeaderEpoch,
        metrics: &Metrics,
    ) -> Result<Logs, LogError> {
        let _ = (dir, store, config, clock, epoch, metrics);
        todo!("log helper")
    }

    /// Opens a log, recovering it if it exists and creating it if not. Blocking: call it at
    /// start-up or inside `spawn_blocking`. Opening an open log returns the same handle.
    pub fn open(&self, id: LogId) -> Result<Partition, LogError> {
        let _ = id;
        todo!("log helper")
    }

    /// The handle of an open log.
    pub fn partition(&self, id: LogId) -> Option<Partition> {
        let _ = id;
        todo!("log helper")
    }

    /// Ids of all logs found on disk, open or not.
    pub fn on_disk(&self) -> Result<Vec<LogId>, LogError> {
        todo!("log helper")
    }

    /// Closes and deletes every log of a topic; readers in the middle get
    /// `ReadError::Deleted`. Blocking.
    pub fn delete_topic(&self, topic: TopicId) -> Result<(), LogError> {
        let _ = topic;
        todo!("log helper")
    }

    /// Drains the queues, syncs every log, writes the view, stops the threads. Blocking.
    pub fn shutdown(&self) {
        todo!("log helper")
    }
}
