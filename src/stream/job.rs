//! Jobs: submitted, running, checkpointed, restarted, stopped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::graph::Graph;
use crate::catalog::Catalog;
use crate::catalog::journal::Journal;
use crate::config::Config;
use crate::group::Groups;
use crate::metrics::Metrics;
use crate::txn::ProducerIds;
use crate::types::{Clock, Timestamp};

/// A job's identity: 32 hex digits, as Flink's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub Arc<str>);

/// A job to run.
pub struct NewJob {
    /// For people: `insert-into_page_counts`.
    pub name: String,
    /// What the planner needs to plan it again after a restart; opaque here, persisted.
    pub definition: String,
    /// Its plan.
    pub graph: Graph,
    /// How to run it.
    pub options: JobOptions,
}

/// How to run a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobOptions {
    /// `execution.checkpointing.interval`.
    pub checkpoint_interval: Duration,
    /// `parallelism.default`.
    pub parallelism: usize,
}

/// Turns a persisted definition back into a graph; `sql/` implements it.
pub trait Planner: Send + Sync + 'static {
    /// Plans again what `NewJob::definition` holds.
    fn plan(&self, definition: &str) -> Result<(Graph, JobOptions), String>;
}

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

/// Why a job could not be submitted, stopped or run.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JobError {
    /// No such job.
    #[error("job '{0}' does not exist; `ottla job list` shows those that do")]
    Unknown(String),
    /// Its state does not allow it.
    #[error("job '{0}' has already ended")]
    Ended(String),
    /// Anything that ends an attempt: a poison record, a full disk, a panic.
    #[error("{0}")]
    Failed(String),
}

/// The rooms below that jobs work with.
#[derive(Clone)]
pub struct Rooms {
    /// Topics and logs.
    pub catalog: Catalog,
    /// Where source positions are shown to lag tools.
    pub groups: Groups,
    /// Producer ids of sinks and state.
    pub producer_ids: ProducerIds,
    /// Where jobs and their commit decisions are written.
    pub journal: Arc<dyn Journal>,
    /// Defaults and bounds.
    pub config: Arc<Config>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// A cheap handle to the job runtime.
#[derive(Clone)]
pub struct Jobs {}

impl Jobs {
    /// Replays the job journal; runs nothing before `recover`.
    pub async fn start(rooms: Rooms, metrics: &Metrics) -> Result<Jobs, JobError> {
        let _ = (rooms, metrics);
        todo!("stream helper")
    }

    /// Plans and restarts every job that had not ended, from its last checkpoint.
    pub async fn recover(&self, planner: Arc<dyn Planner>) {
        let _ = planner;
        todo!("stream helper")
    }

    /// Persists the job and starts it.
    pub async fn submit(&self, job: NewJob) -> Result<JobId, JobError> {
        let _ = job;
        todo!("stream helper")
    }

    /// All jobs, newest first.
    pub fn list(&self) -> Vec<JobStatus> {
        todo!("stream helper")
    }

    /// One job.
    pub fn status(&self, id: &str) -> Option<JobStatus> {
        let _ = id;
        todo!("stream helper")
    }

    /// Stops it now; its output since the last checkpoint is aborted.
    pub async fn cancel(&self, id: &str) -> Result<(), JobError> {
        let _ = id;
        todo!("stream helper")
    }

    /// Takes a last checkpoint, then stops it.
    pub async fn stop(&self, id: &str) -> Result<(), JobError> {
        let _ = id;
        todo!("stream helper")
    }

    /// Stops all attempts without ending the jobs: they go on at the next start.
    pub async fn shutdown(&self) {
        todo!("stream helper")
    }
}
