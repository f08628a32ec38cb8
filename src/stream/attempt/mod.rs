//! One attempt to run a job: settles what an earlier one left open, restores, runs the subtasks and
//! performs checkpoints until it fails or is told to end.

mod plan;
mod start;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use self::plan::Plan;
use self::start::Running;
use super::checkpoint::coordinator::{Coordinator, Effect, Event};
use super::checkpoint::journal::JobJournal;
use super::checkpoint::record::{self, Commit, SourcePosition, StateManifest, Touched};
use super::checkpoint::state_topic;
use super::checkpoint::transaction::{append_failure, settle};
use super::graph::{Graph, Op};
use super::job::{CheckpointStatus, JobOptions, Rooms};
use super::metrics::JobMetrics;
use super::operator::Failure;
use super::subtask::{Ack, Control, Report};
use crate::group::{CommittedOffset, GroupOffset, MemberRef};
use crate::log::Marker;
use crate::types::{Offset, PartitionId, ProducerEpoch, Timestamp};

/// A checkpoint that takes longer ends the attempt (Flink's
/// `execution.checkpointing.timeout`).
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(600);
/// How often counters and watermarks are shown while nothing else happens.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(200);

/// A subtask has one barrier to acknowledge at a time, and it ends once: its reports always fit.
const REPORTS_PER_SUBTASK: usize = 2;

/// What an attempt is told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// End now, drop what is not committed.
    Cancel,
    /// Take a last checkpoint, then end.
    Stop,
    /// The broker stops: end now, the job goes on at the next start.
    Shutdown,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Canceled,
    Finished,
    Shutdown,
    Failed(Failure),
    /// A source's topic has more partitions than the attempt reads.
    Grown,
    /// A test's kill -9: nothing was tidied up.
    #[cfg(test)]
    Killed,
}

/// Between which steps of a checkpoint a test kills an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failpoint {
    /// Output and state of the epoch are in the logs, the commit record is not written.
    BeforeCommit,
    /// The commit record is written, no marker is.
    AfterCommit,
    /// One partition has its marker, others do not.
    BetweenMarkers,
    /// All markers are written, the sources' group is not told.
    AfterMarkers,
}

/// A job as its attempts need it.
pub(crate) struct Job {
    pub(crate) id: Arc<str>,
    pub(crate) graph: Graph,
    pub(crate) options: JobOptions,
    pub(crate) rooms: Rooms,
    pub(crate) journal: Arc<JobJournal>,
    pub(crate) metrics: JobMetrics,
    /// In which epoch and where a test kills the attempt.
    #[cfg(test)]
    pub(crate) failpoint: Option<(u64, Failpoint)>,
}

/// What an attempt shows of itself while it runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) attempt: u32,
    pub(crate) records_in: u64,
    pub(crate) records_out: u64,
    pub(crate) watermark: Option<Timestamp>,
    pub(crate) checkpoint: Option<CheckpointStatus>,
    /// Rows in and out per node, in graph order.
    pub(crate) operators: Vec<(u64, u64)>,
    pub(crate) positions: BTreeMap<(String, u32), u64>,
}

/// Whether a graph can be run at all: its shape, its types, its aggregates.
pub(crate) fn check(graph: &Graph, options: &JobOptions) -> Result<(), Failure> {
    Plan::new(graph, options.parallelism)?;
    start::check(graph)
}

/// Runs one attempt to its end. `publish` is called whenever there is something new to show.
pub(crate) async fn run(
    job: &Job,
    commands: &mut mpsc::Receiver<Command>,
    publish: impl Fn(Progress),
) -> Outcome {
    let plan = match Plan::new(&job.graph, job.options.parallelism) {
        Ok(plan) => plan,
        Err(failure) => return Outcome::Failed(failure),
    };
    let mut attempt = match Attempt::start(job, &plan).await {
        Ok(attempt) => attempt,
        Err(failure) => return Outcome::Failed(failure),
    };
    let outcome = attempt.work(commands, &publish).await;
    attempt.stop_threads().await;
    publish(attempt.progress());
    #[cfg(test)]
    if outcome == Outcome::Killed {
        return outcome;
    }
    if attempt.undecided {
        // An ABORT could contradict the commit record. The next record of the job, a start or its
        // end, comes after it or in its place: whoever writes that one settles.
        return outcome;
    }
    // What is not committed is taken back at once, so that it does not hold readers up until the
    // next attempt; that one would do it again.
    let committed = attempt.last.as_ref().map_or(&[][..], |commit| &commit.outputs);
    let epoch = ProducerEpoch(attempt.running.started.producer_epoch);
    if let Err(failure) = settle(
        &attempt.running.written_logs,
        &attempt.running.started.producers(),
        committed,
        epoch,
    )
    .await
    {
        warn!(job = %job.id, %failure, "open transactions could not be ended, the next attempt tries again");
    }
    outcome
}

/// Ends what a job that has no attempt left open, as its last commit record decides. A job that
/// will not run again must not hold up the readers of its topics.
pub(crate) async fn conclude(
    rooms: &Rooms,
    journal: &JobJournal,
    job: &str,
) -> Result<(), Failure> {
    let image = rooms.metadata.image();
    let partitions = image.topics().flat_map(|topic| {
        (0..topic.partitions).filter_map(|id| rooms.metadata.log(topic.id, PartitionId(id)))
    });
    let waiting: Vec<_> = partitions.filter(|log| !log.open_transactions().is_empty()).collect();
    if waiting.is_empty() {
        return Ok(());
    }
    let image = journal.image(job).await?;
    let Some(started) = image.started else { return Ok(()) };
    let outputs = image.commit.as_ref().map_or(&[][..], |commit| &commit.outputs);
    settle(&waiting, &started.producers(), outputs, ProducerEpoch(started.producer_epoch)).await
}

/// Gives back what ended jobs have left in the state topic.
pub(crate) async fn trim_state(rooms: &Rooms, journal: &JobJournal) {
    let image = rooms.metadata.image();
    let Some(topic) = image.topic(state_topic::TOPIC) else { return };
    for id in topic.logs() {
        let Some(log) = rooms.metadata.log(id.topic, id.partition) else { continue };
        if let Err(failure) = journal.state_space().trim(journal, &log).await {
            warn!(log = %id, %failure, "the state of ended jobs could not be trimmed, the next end or start tries again");
        }
    }
}

struct Attempt<'a> {
    job: &'a Job,
    running: Running,
    coordinator: Coordinator,
    control: watch::Sender<Control>,
    reports: mpsc::Receiver<Report>,
    threads: Vec<JoinHandle<()>>,
    /// The newest commit, of this attempt or an earlier one.
    last: Option<Commit>,
    /// The checkpoint under way.
    acks: Vec<Ack>,
    triggered: Option<(Timestamp, Duration, bool)>,
    checkpoint: Option<CheckpointStatus>,
    /// A commit record was sent off and not answered: it may be written or not.
    undecided: bool,
}

impl Drop for Attempt<'_> {
    /// Threads of an attempt that is dropped half way end as well.
    fn drop(&mut self) {
        self.cancel();
    }
}

impl<'a> Attempt<'a> {
    async fn start(job: &'a Job, plan: &Plan) -> Result<Attempt<'a>, Failure> {
        let (control, control_of_subtasks) = watch::channel(Control::default());
        let (reporter, reports) = mpsc::channel(REPORTS_PER_SUBTASK * plan.subtasks().max(1));
        let (running, subtasks, last) =
            start::start(job, plan, &control_of_subtasks, &reporter).await?;
        let coordinator = Coordinator::new(
            subtasks.len(),
            last.as_ref().map_or(0, |commit| commit.epoch),
            last.is_none(),
        );
        let mut attempt = Attempt {
            job,
            running,
            coordinator,
            control,
            reports,
            threads: Vec::new(),
            checkpoint: last.as_ref().map(shown),
            last,
            acks: Vec::new(),
            triggered: None,
            undecided: false,
        };
        for subtask in subtasks {
            let name = format!("job-{}-{}", &job.id[..job.id.len().min(6)], subtask.index);
            let spawned = std::thread::Builder::new().name(name).spawn(move || subtask.run());
            match spawned {
                Ok(thread) => attempt.threads.push(thread),
                Err(error) => {
                    attempt.stop_threads().await;
                    return Err(Failure::Storage(format!(
                        "a thread could not be started: {error}"
                    )));
                }
            }
        }
        Ok(attempt)
    }

    async fn work(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        publish: &impl Fn(Progress),
    ) -> Outcome {
        let mut checkpoints = tokio::time::interval(self.job.options.checkpoint_interval);
        checkpoints.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut shows = tokio::time::interval(PUBLISH_INTERVAL);
        shows.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Cancel) => return Outcome::Canceled,
                    Some(Command::Stop) => Event::Stop,
                    // A closed channel means that the handle is gone with the broker.
                    Some(Command::Shutdown) | None => return Outcome::Shutdown,
                },
                report = self.reports.recv() => match report {
                    Some(Report::Acked(ack)) => {
                        let event = Event::Acked { subtask: ack.subtask, epoch: ack.epoch };
                        self.acks.push(ack);
                        event
                    }
                    Some(Report::Ended(failure)) => return Outcome::Failed(failure),
                    None => return Outcome::Failed(Failure::Stopped),
                },
                _ = checkpoints.tick() => {
                    let progress = self.running.progress.load(Ordering::Relaxed);
                    Event::Tick { progress }
                }
                _ = shows.tick() => {
                    publish(self.progress());
                    if let Some(outcome) = self.topics_changed() {
                        return outcome;
                    }
                    if self.overdue() {
                        return Outcome::Failed(Failure::Storage(format!(
                            "a checkpoint did not complete within {CHECKPOINT_TIMEOUT:?}"
                        )));
                    }
                    continue;
                }
            };
            match self.perform(event).await {
                Ok(false) => {}
                Ok(true) => return Outcome::Finished,
                #[cfg(test)]
                Err(Failure::Rows(reason)) if reason == KILLED => return Outcome::Killed,
                Err(failure) => return Outcome::Failed(failure),
            }
        }
    }

    /// Performs what an event calls for, and what that calls for. Returns whether the job is done.
    async fn perform(&mut self, event: Event) -> Result<bool, Failure> {
        let mut effects = self.coordinator.apply(event);
        while let Some(effect) = effects.pop() {
            let event = match effect {
                Effect::Inject(barrier) => {
                    let clock = &self.job.rooms.clock;
                    self.triggered = Some((clock.now(), clock.monotonic(), barrier.full));
                    let job = self.job;
                    job.journal.state_space().begin(&job.id, &self.running.state_log);
                    self.control.send_modify(|control| control.barrier = Some(barrier));
                    continue;
                }
                Effect::Commit { epoch } => {
                    Event::Committed { state_bytes: self.commit(epoch).await? }
                }
                Effect::Mark { epoch } => {
                    self.mark(epoch).await?;
                    self.show_positions().await;
                    self.trim_state().await;
                    Event::Marked
                }
                Effect::Finish => return Ok(true),
            };
            effects.extend(self.coordinator.apply(event));
        }
        Ok(false)
    }

    /// Waits until the epoch's appends are durable, then writes its commit record.
    async fn commit(&mut self, epoch: u64) -> Result<u64, Failure> {
        let (at, begun, full) = self.triggered.unwrap_or_default();
        let mut positions: Vec<SourcePosition> = Vec::new();
        let mut outputs: HashMap<_, Offset> = HashMap::new();
        let mut state_span: Option<(Offset, Offset)> = None;
        let mut state_bytes = 0;
        for ack in self.acks.drain(..).filter(|ack| ack.epoch == epoch) {
            positions.extend(ack.positions);
            state_bytes += ack.state_bytes;
            for append in ack.appends {
                let appended =
                    append.pending.await.map_err(|error| append_failure(append.log, &error))?;
                let last = outputs.entry((append.log, append.producer)).or_default();
                *last = (*last).max(appended.last_offset);
                if append.log == self.running.state_log.id() {
                    let (from, to) =
                        state_span.unwrap_or((appended.base_offset, appended.last_offset));
                    state_span =
                        Some((from.min(appended.base_offset), to.max(appended.last_offset)));
                }
            }
        }
        self.failpoint(epoch, Failpoint::BeforeCommit)?;
        let took = self.job.rooms.clock.monotonic().saturating_sub(begun);
        let base = self
            .last
            .as_ref()
            .filter(|last| !full && last.attempt == self.running.started.attempt)
            .and_then(|last| last.state.clone());
        let state = match (base, state_span) {
            (base, None) => base,
            (Some(base), Some((_, last))) => Some(StateManifest { to: last.plus(1).get(), ..base }),
            (None, Some((first, last))) => Some(StateManifest {
                partition: self.running.state_log.id().partition.0,
                base_epoch: epoch,
                from: first.get(),
                to: last.plus(1).get(),
            }),
        };
        positions.sort_by_key(|position| (position.node, position.partition));
        let outputs = outputs.into_iter().map(|((log, producer), last)| Touched {
            topic: log.topic.to_string(),
            partition: log.partition.0,
            producer: producer.0,
            last_offset: last.get(),
        });
        let commit = Commit {
            epoch,
            attempt: self.running.started.attempt,
            at_ms: at.0,
            took_ms: took.as_millis() as u64,
            state_bytes,
            positions,
            state,
            outputs: outputs.collect(),
        };
        let event = record::Event::Committed(Box::new(commit.clone()));
        self.undecided = true;
        self.job.journal.append(&self.job.id, event).await?;
        self.undecided = false;
        self.job.journal.state_space().decided(&self.job.id);
        self.job.metrics.checkpoint_seconds.observe(took.as_secs_f64());
        debug!(job = %self.job.id, epoch, ?took, state_bytes, "checkpoint committed");
        self.checkpoint = Some(CheckpointStatus { epoch, triggered_at: at, took, state_bytes });
        self.last = Some(commit);
        self.triggered = None;
        self.failpoint(epoch, Failpoint::AfterCommit)?;
        Ok(state_bytes)
    }

    /// Makes the committed epoch's output visible.
    async fn mark(&mut self, epoch: u64) -> Result<(), Failure> {
        let Some(commit) = &self.last else { return Ok(()) };
        let producer_epoch = ProducerEpoch(self.running.started.producer_epoch);
        // One after the other in a fixed order: few partitions are touched per epoch, and a test
        // can stop in between.
        for (index, touched) in commit.outputs.iter().enumerate() {
            if index == 1 {
                self.failpoint(epoch, Failpoint::BetweenMarkers)?;
            }
            let producer = touched.producer();
            for log in &self.running.written_logs {
                if touched.log() == Some(log.id()) {
                    log.end_transaction(producer, producer_epoch, Marker::Commit)
                        .await
                        .map_err(|error| append_failure(log.id(), &error))?;
                }
            }
        }
        self.failpoint(epoch, Failpoint::AfterMarkers)
    }

    /// After a checkpoint that wrote all state, what was written before it is of no use.
    async fn trim_state(&self) {
        let Some(Commit { epoch, state: Some(state), .. }) = &self.last else { return };
        if state.base_epoch != *epoch {
            return;
        }
        let (journal, log) = (&self.job.journal, &self.running.state_log);
        if let Err(failure) = journal.state_space().trim(journal, log).await {
            warn!(job = %self.job.id, %failure, "old state could not be trimmed, the next full checkpoint tries again");
        }
    }

    /// Shows the sources' positions to lag tools. Only a view: the commit record counts.
    async fn show_positions(&self) {
        let Some(commit) = &self.last else { return };
        for (node, group) in source_groups(self.job) {
            let committed_at = self.job.rooms.clock.now();
            let offsets: Vec<_> = commit
                .positions
                .iter()
                .filter(|position| position.node == node)
                .filter_map(|position| {
                    Some(GroupOffset {
                        topic: record::topic_id(&position.topic)?,
                        partition: PartitionId(position.partition),
                        committed: CommittedOffset {
                            position: Offset::new(position.offset).into(),
                            leader_epoch: None,
                            metadata: String::new(),
                            committed_at,
                            expires_at: None,
                        },
                    })
                })
                .collect();
            if offsets.is_empty() {
                continue;
            }
            if let Err(error) =
                self.job.rooms.groups.commit(&group, MemberRef::default(), offsets).await
            {
                warn!(job = %self.job.id, %group, %error, "positions could not be shown as committed offsets");
            }
        }
    }

    /// Whether the topics are still those that the attempt began with. Asked now and then: a caught
    /// up source would never touch a log that is gone.
    fn topics_changed(&self) -> Option<Outcome> {
        let image = self.job.rooms.metadata.image();
        for used in &self.running.topics {
            match image.topic(&used.name) {
                Some(topic) if topic.id == used.id => {
                    if used.read && topic.partitions as usize > used.partitions {
                        return Some(Outcome::Grown);
                    }
                }
                // Created again under this name or not: the logs the attempt holds are gone.
                _ => {
                    return Some(Outcome::Failed(Failure::Topic(format!(
                        "topic '{}' was deleted while the job ran",
                        used.name
                    ))));
                }
            }
        }
        None
    }

    fn overdue(&self) -> bool {
        self.triggered.is_some_and(|(_, begun, _)| {
            self.job.rooms.clock.monotonic().saturating_sub(begun) > CHECKPOINT_TIMEOUT
        })
    }

    fn cancel(&self) {
        self.control.send_modify(|control| control.cancelled = true);
        for ring in &self.running.rings {
            ring.close();
        }
    }

    /// Ends every thread and waits for them.
    async fn stop_threads(&mut self) {
        self.cancel();
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || {
            // A panic inside was reported before the thread ended.
            threads.into_iter().for_each(|thread| drop(thread.join()));
        });
        if joined.await.is_err() {
            warn!(job = %self.job.id, "subtask threads could not be joined");
        }
    }

    fn progress(&self) -> Progress {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let operators: Vec<_> = self
            .running
            .counters
            .iter()
            .map(|counters| (load(&counters.records_in), load(&counters.records_out)))
            .collect();
        let nodes = self.job.graph.nodes.iter().zip(&operators);
        let (mut records_in, mut records_out) = (0, 0);
        for (node, (rows_in, _)) in nodes {
            match node.op {
                Op::Source(_) => records_in += rows_in,
                Op::Sink(_) => records_out += rows_in,
                _ => {}
            }
        }
        let watermarks = self.running.watermarks.iter().map(|ms| ms.load(Ordering::Relaxed));
        let watermark = watermarks.min().filter(|ms| *ms != i64::MIN).map(Timestamp);
        if let Some(watermark) = watermark {
            let gauge = self.job.metrics.watermark_seconds.with_label_values(&[&self.job.id]);
            gauge.set(watermark.0 as f64 / 1000.0);
        }
        let image = self.job.rooms.metadata.image();
        let positions = self.last.iter().flat_map(|commit| &commit.positions);
        let positions = positions.filter_map(|position| {
            let topic = image.topic_by_id(record::topic_id(&position.topic)?)?;
            Some(((topic.name.to_string(), position.partition), position.offset))
        });
        Progress {
            attempt: self.running.started.attempt,
            records_in,
            records_out,
            watermark,
            checkpoint: self.checkpoint.clone(),
            operators,
            positions: positions.collect(),
        }
    }

    #[cfg(test)]
    fn failpoint(&self, epoch: u64, here: Failpoint) -> Result<(), Failure> {
        if self.job.failpoint == Some((epoch, here)) {
            return Err(Failure::Rows(KILLED.to_owned()));
        }
        Ok(())
    }

    #[cfg(not(test))]
    #[allow(clippy::unnecessary_wraps, clippy::unused_self)]
    fn failpoint(&self, _epoch: u64, _here: Failpoint) -> Result<(), Failure> {
        Ok(())
    }
}

#[cfg(test)]
const KILLED: &str = "killed at a failpoint";

fn shown(commit: &Commit) -> CheckpointStatus {
    CheckpointStatus {
        epoch: commit.epoch,
        triggered_at: Timestamp(commit.at_ms),
        took: Duration::from_millis(commit.took_ms),
        state_bytes: commit.state_bytes,
    }
}

/// Node id and group of each source.
fn source_groups(job: &Job) -> Vec<(u32, String)> {
    let sources = job.graph.nodes.iter().filter_map(|node| match &node.op {
        Op::Source(source) => Some((node.id, source.group.clone())),
        _ => None,
    });
    sources
        .map(|(node, group)| (node, group.unwrap_or_else(|| format!("ottla-job-{}", job.id))))
        .collect()
}
