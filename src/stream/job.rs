//! Jobs: submitted, running, checkpointed, restarted, stopped.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::attempt::{self, Command, Outcome, Progress};
use super::checkpoint::journal::JobJournal;
use super::checkpoint::record::{Ended, Event, JobImage, Submitted};
use super::graph::Graph;
use super::metrics::JobMetrics;
use super::operator::Failure;
use super::restart::Backoff;
use crate::config::Config;
use crate::group::Groups;
use crate::metadata::Metadata;
use crate::metadata::journal::Journal;
use crate::metrics::Metrics;
use crate::txn::ProducerIds;
use crate::types::{Clock, Timestamp};

pub use super::status::{CheckpointStatus, JobState, JobStatus, OperatorStatus};

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
    /// Plans again what `NewJob::definition` holds, without blocking the calling task.
    fn plan(&self, definition: &str) -> BoxFuture<'static, Result<(Graph, JobOptions), String>>;
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
    pub metadata: Metadata,
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
pub struct Jobs {
    inner: Arc<Inner>,
}

struct Inner {
    rooms: Rooms,
    journal: Arc<JobJournal>,
    metrics: JobMetrics,
    jobs: DashMap<String, Arc<Entry>>,
}

/// How many jobs that have ended stay in the list; beyond it, those that ended first are forgotten.
const ENDED_JOBS_MAX: usize = 100;
/// Commands that wait for a job's supervisor; who sends one more waits.
const COMMANDS_MAX: usize = 16;

/// One job: its supervisor task owns it, others see its status and send it commands.
struct Entry {
    status: ArcSwap<JobStatus>,
    submitted: Submitted,
    commands: mpsc::Sender<Command>,
    /// Taken by the supervisor.
    inbox: Mutex<Option<mpsc::Receiver<Command>>>,
    /// Whether a supervisor is at work.
    supervised: watch::Sender<bool>,
    /// How many attempts have failed.
    failures: watch::Sender<u64>,
    /// It has ended for good and left nothing open: it may be forgotten.
    settled: AtomicBool,
}

impl Entry {
    fn new(id: &str, submitted: Submitted, state: JobState, failure: Option<String>) -> Entry {
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let status = JobStatus {
            id: JobId(id.into()),
            name: submitted.name.clone(),
            state,
            started_at: Timestamp(submitted.at_ms),
            ended_at: None,
            failure,
            attempt: 0,
            records_in: 0,
            records_out: 0,
            watermark: None,
            checkpoint: None,
            operators: Vec::new(),
            positions: BTreeMap::new(),
        };
        Entry {
            status: ArcSwap::from_pointee(status),
            submitted,
            commands,
            inbox: Mutex::new(Some(inbox)),
            supervised: watch::Sender::new(false),
            failures: watch::Sender::new(0),
            settled: AtomicBool::new(false),
        }
    }

    fn update(&self, change: impl FnOnce(&mut JobStatus)) {
        // Only the supervisor writes, or whoever ends a job that has none.
        let mut status = JobStatus::clone(&self.status.load());
        change(&mut status);
        self.status.store(Arc::new(status));
    }

    /// Waits for room in the supervisor's inbox. A job without a supervisor has nobody to tell.
    async fn tell(&self, command: Command) {
        tokio::select! {
            biased;
            _ = self.commands.send(command) => {}
            () = unsupervised(self) => {}
        }
    }

    fn show(&self, graph: &Graph, progress: Progress) {
        self.update(|status| {
            status.attempt = progress.attempt.saturating_sub(1);
            status.records_in = progress.records_in;
            status.records_out = progress.records_out;
            status.watermark = progress.watermark;
            status.checkpoint = progress.checkpoint;
            status.positions = progress.positions;
            let nodes = graph.nodes.iter().zip(progress.operators);
            status.operators = nodes
                .map(|(node, (records_in, records_out))| OperatorStatus {
                    id: node.id,
                    name: node.name.clone(),
                    records_in,
                    records_out,
                })
                .collect();
        });
    }
}

impl Jobs {
    /// Replays the job journal; runs nothing before `recover`.
    pub async fn start(rooms: Rooms, metrics: &Metrics) -> Result<Jobs, JobError> {
        let metrics = JobMetrics::register(metrics)
            .map_err(|error| JobError::Failed(format!("job metrics: {error}")))?;
        let journal = JobJournal::open(rooms.journal.clone())
            .await
            .map_err(|failure| JobError::Failed(failure.to_string()))?;
        let jobs = DashMap::new();
        for (id, image) in journal.jobs().await {
            let JobImage { submitted: Some(submitted), ended, .. } = image else { continue };
            let (state, failure, ended_at) = match ended {
                None => (JobState::Created, None, None),
                Some(ended) => (
                    match ended.state.as_str() {
                        FINISHED => JobState::Finished,
                        CANCELED => JobState::Canceled,
                        _ => JobState::Failed,
                    },
                    ended.failure,
                    ended.at_ms.map(Timestamp),
                ),
            };
            let entry = Entry::new(&id, submitted, state, failure);
            entry.update(|status| status.ended_at = ended_at);
            jobs.insert(id, Arc::new(entry));
        }
        Ok(Jobs { inner: Arc::new(Inner { rooms, journal: Arc::new(journal), metrics, jobs }) })
    }

    /// Plans and restarts every job that had not ended, from its last checkpoint.
    pub async fn recover(&self, planner: Arc<dyn Planner>) {
        let waiting: Vec<_> = self
            .inner
            .jobs
            .iter()
            .filter(|entry| entry.status.load().state == JobState::Created)
            .map(|entry| (entry.key().clone(), entry.value().clone()))
            .collect();
        let ended = self.inner.jobs.iter().filter(|entry| {
            let state = entry.status.load().state;
            matches!(state, JobState::Failed | JobState::Canceled | JobState::Finished)
        });
        let ended: Vec<_> =
            ended.map(|entry| (entry.key().clone(), entry.value().clone())).collect();
        for (id, entry) in ended {
            entry.settled.store(self.inner.conclude(&id).await, Ordering::Relaxed);
        }
        self.inner.forget_oldest().await;
        attempt::trim_state(&self.inner.rooms, &self.inner.journal).await;
        for (id, entry) in waiting {
            match planner.plan(&entry.submitted.definition).await {
                Ok((graph, options)) => self.supervise(&id, &entry, graph, options),
                Err(reason) => {
                    // Not an end in the journal: the next start may be able to plan it.
                    error!(job = %id, %reason, "job cannot be planned after the restart");
                    entry.update(|status| {
                        status.state = JobState::Failed;
                        status.failure =
                            Some(format!("the job cannot be planned after a restart: {reason}"));
                    });
                    self.inner.conclude(&id).await;
                }
            }
        }
    }

    /// Persists the job and starts it.
    pub async fn submit(&self, job: NewJob) -> Result<JobId, JobError> {
        let id = Uuid::new_v4().simple().to_string();
        let submitted = Submitted {
            name: job.name,
            definition: job.definition,
            checkpoint_interval: job.options.checkpoint_interval,
            parallelism: job.options.parallelism,
            at_ms: self.inner.rooms.clock.now().0,
        };
        // A plan that no attempt could run is refused here, where its author can be told.
        attempt::check(&job.graph, &job.options)
            .map_err(|failure| JobError::Failed(failure.to_string()))?;
        let event = Event::Submitted(submitted.clone());
        self.inner.journal.append(&id, event).await.map_err(|failure| {
            JobError::Failed(format!("the job could not be written down: {failure}"))
        })?;
        let entry = Arc::new(Entry::new(&id, submitted, JobState::Created, None));
        self.inner.jobs.insert(id.clone(), entry.clone());
        self.supervise(&id, &entry, job.graph, job.options);
        Ok(JobId(id.into()))
    }

    /// All jobs, newest first.
    pub fn list(&self) -> Vec<JobStatus> {
        let mut jobs: Vec<_> =
            self.inner.jobs.iter().map(|entry| JobStatus::clone(&entry.status.load())).collect();
        jobs.sort_by(|a, b| (b.started_at, &b.id).cmp(&(a.started_at, &a.id)));
        jobs
    }

    /// One job.
    pub fn status(&self, id: &str) -> Option<JobStatus> {
        self.inner.jobs.get(id).map(|entry| JobStatus::clone(&entry.status.load()))
    }

    /// Stops it now; its output since the last checkpoint is aborted.
    pub async fn cancel(&self, id: &str) -> Result<(), JobError> {
        self.end(id, Command::Cancel).await
    }

    /// Takes a last checkpoint, then stops it.
    pub async fn stop(&self, id: &str) -> Result<(), JobError> {
        self.end(id, Command::Stop).await
    }

    /// Stops all attempts without ending the jobs: they go on at the next start.
    pub async fn shutdown(&self) {
        let entries: Vec<_> = self.inner.jobs.iter().map(|entry| entry.value().clone()).collect();
        join_all(entries.iter().map(|entry| async {
            entry.tell(Command::Shutdown).await;
            unsupervised(entry).await;
        }))
        .await;
    }

    async fn end(&self, id: &str, command: Command) -> Result<(), JobError> {
        let entry = self
            .inner
            .jobs
            .get(id)
            .map(|entry| entry.value().clone())
            .ok_or_else(|| JobError::Unknown(id.to_owned()))?;
        let status = entry.status.load_full();
        if matches!(status.state, JobState::Canceled | JobState::Finished) {
            return Err(JobError::Ended(id.to_owned()));
        }
        if !*entry.supervised.borrow() {
            // Waiting to be recovered, or could not be planned: there is no attempt to stop.
            return self.inner.finish(id, &entry, JobState::Canceled, status.failure.clone()).await;
        }
        if command == Command::Stop && status.state != JobState::Running {
            return Err(JobError::Failed(format!(
                "job '{id}' is not running, so it cannot take a last checkpoint; wait until it \
                 runs, or cancel it to go without"
            )));
        }
        let mut failures = entry.failures.subscribe();
        entry.tell(command).await;
        tokio::select! {
            () = unsupervised(&entry) => {}
            // Without its last checkpoint the job goes on, as Flink's does: say so.
            _ = failures.changed(), if command == Command::Stop => {}
        }
        let status = entry.status.load();
        match status.state {
            JobState::Canceled | JobState::Finished => Ok(()),
            _ => Err(JobError::Failed(
                status
                    .failure
                    .clone()
                    .unwrap_or_else(|| format!("job '{id}' did not end; the broker is stopping")),
            )),
        }
    }

    fn supervise(&self, id: &str, entry: &Arc<Entry>, graph: Graph, options: JobOptions) {
        let inbox = entry.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(commands) = inbox else { return };
        entry.supervised.send_replace(true);
        let job = attempt::Job {
            id: id.into(),
            graph,
            options,
            rooms: self.inner.rooms.clone(),
            journal: self.inner.journal.clone(),
            metrics: self.inner.metrics.clone(),
            #[cfg(test)]
            failpoint: None,
        };
        let (inner, entry) = (self.inner.clone(), entry.clone());
        tokio::spawn(async move {
            let id = job.id.clone();
            let run = AssertUnwindSafe(inner.run(job, &entry, commands)).catch_unwind();
            if run.await.is_err() {
                // Its subtasks' panics end an attempt; this is one of the supervisor's own.
                error!(job = %id, "the job's supervisor panicked, the next start of the broker runs it again");
                entry.update(|status| {
                    status.state = JobState::Failed;
                    status.failure = Some("the job's supervisor panicked, see the log".to_owned());
                });
            }
            entry.supervised.send_replace(false);
        });
    }
}

const FINISHED: &str = "finished";
const CANCELED: &str = "canceled";

/// Waits until no supervisor is at work.
async fn unsupervised(entry: &Entry) {
    // The sender lives in the entry, which is borrowed here: it cannot be gone.
    let _ = entry.supervised.subscribe().wait_for(|supervised| !supervised).await;
}

impl Inner {
    /// A job's supervisor: attempts, and pauses between them, until it ends.
    async fn run(&self, job: attempt::Job, entry: &Entry, mut commands: mpsc::Receiver<Command>) {
        let mut backoff = Backoff::default();
        loop {
            entry.update(|status| status.state = JobState::Running);
            let begun = self.rooms.clock.monotonic();
            let outcome = attempt::run(&job, &mut commands, |progress| {
                entry.show(&job.graph, progress);
            })
            .await;
            let ran = self.rooms.clock.monotonic().saturating_sub(begun);
            let failure = match outcome {
                Outcome::Grown => {
                    info!(job = %job.id, "a source's topic has more partitions, starting again to read them");
                    continue;
                }
                Outcome::Shutdown => return,
                Outcome::Canceled => return self.ended(&job.id, entry, JobState::Canceled).await,
                Outcome::Finished => return self.ended(&job.id, entry, JobState::Finished).await,
                Outcome::Failed(failure) => failure,
                #[cfg(test)]
                Outcome::Killed => return,
            };
            let pause = backoff.after(ran);
            warn!(job = %job.id, %failure, pause_ms = pause.as_millis() as u64, "job attempt failed, it will be restarted");
            entry.update(|status| {
                status.state = JobState::Restarting;
                status.failure = Some(failure.to_string());
            });
            entry.failures.send_modify(|failures| *failures += 1);
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Cancel | Command::Stop) => {
                        return self.ended(&job.id, entry, JobState::Canceled).await;
                    }
                    Some(Command::Shutdown) | None => return,
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn ended(&self, id: &str, entry: &Entry, state: JobState) {
        if let Err(error) = self.finish(id, entry, state, None).await {
            error!(job = %id, %error, "the end of a job could not be written down, it will run again at the next start");
        }
    }

    /// Ends the transactions of a job without an attempt; returns whether that worked.
    async fn conclude(&self, id: &str) -> bool {
        let concluded = attempt::conclude(&self.rooms, &self.journal, id).await;
        if let Err(failure) = &concluded {
            warn!(job = %id, %failure, "open transactions of a job could not be ended, the next start tries again");
        }
        concluded.is_ok()
    }

    /// Keeps the list of ended jobs, and what the journal says of them, within its bound.
    async fn forget_oldest(&self) {
        let settled = self.jobs.iter().filter(|entry| entry.settled.load(Ordering::Relaxed));
        let mut settled: Vec<_> = settled
            .map(|entry| (entry.status.load().ended_at, entry.submitted.at_ms, entry.key().clone()))
            .collect();
        settled.sort_unstable();
        let excess = settled.len().saturating_sub(ENDED_JOBS_MAX);
        for (_, _, id) in settled.into_iter().take(excess) {
            self.journal.forget(&id).await;
            self.jobs.remove(&id);
        }
    }

    /// Writes down that a job will not run again.
    async fn finish(
        &self,
        id: &str,
        entry: &Entry,
        state: JobState,
        failure: Option<String>,
    ) -> Result<(), JobError> {
        let name = if state == JobState::Finished { FINISHED } else { CANCELED };
        let now = self.rooms.clock.now();
        let ended = Ended { state: name.to_owned(), failure: failure.clone(), at_ms: Some(now.0) };
        let event = Event::Ended(ended);
        let written = self.journal.append(id, event).await;
        let settled = written.is_ok() && self.conclude(id).await;
        entry.update(|status| {
            status.state = state;
            status.failure = failure;
            status.ended_at = Some(now);
        });
        entry.settled.store(settled, Ordering::Relaxed);
        self.metrics.forget(id);
        info!(job = %id, state = name, "job ended");
        self.forget_oldest().await;
        if written.is_ok() {
            self.journal.state_space().decided(id);
            attempt::trim_state(&self.rooms, &self.journal).await;
        }
        written.map_err(|failure: Failure| JobError::Failed(failure.to_string()))
    }
}
