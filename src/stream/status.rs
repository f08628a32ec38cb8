//! A job as shown to people and metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use super::job::JobId;
use crate::types::Timestamp;

/// Flink's job states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// `CREATED`.
    Created,
    /// `RUNNING`.
    Running,
    /// `RESTARTING` after a failure.
    Restarting,
    /// `FAILED` for good.
    Failed,
    /// `CANCELED`.
    Canceled,
    /// `FINISHED`: stopped after a last checkpoint.
    Finished,
}

impl JobState {
    /// By Flink's name.
    pub fn name(self) -> &'static str {
        match self {
            JobState::Created => "CREATED",
            JobState::Running => "RUNNING",
            JobState::Restarting => "RESTARTING",
            JobState::Failed => "FAILED",
            JobState::Canceled => "CANCELED",
            JobState::Finished => "FINISHED",
        }
    }
}

/// A job as shown to people and metrics.
#[derive(Clone, Debug)]
pub struct JobStatus {
    /// Its id.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: JobState,
    /// When it was submitted.
    pub started_at: Timestamp,
    /// When it ended, if it did and the time is known.
    pub ended_at: Option<Timestamp>,
    /// Why it failed last, if it did.
    pub failure: Option<String>,
    /// How often it was restarted, also by the broker's restarts.
    pub attempt: u32,
    /// Rows read from topics by this attempt.
    pub records_in: u64,
    /// Rows written to topics by this attempt.
    pub records_out: u64,
    /// The smallest watermark of its sources, if any was emitted.
    pub watermark: Option<Timestamp>,
    /// The newest completed checkpoint.
    pub checkpoint: Option<CheckpointStatus>,
    /// Node id, name and operator counts, in graph order.
    pub operators: Vec<OperatorStatus>,
    /// Source positions: topic and partition to next offset.
    pub positions: BTreeMap<(String, u32), u64>,
}

/// One operator in a `JobStatus`.
#[derive(Clone, Debug)]
pub struct OperatorStatus {
    /// Its node's id.
    pub id: u32,
    /// Its node's name.
    pub name: String,
    /// Rows in.
    pub records_in: u64,
    /// Rows out.
    pub records_out: u64,
}

/// A completed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointStatus {
    /// Its epoch.
    pub epoch: u64,
    /// When it was triggered.
    pub triggered_at: Timestamp,
    /// How long it took, from barrier to commit record.
    pub took: Duration,
    /// State bytes written by it.
    pub state_bytes: u64,
}
