//! The start of an attempt: logs, producer ids, positions, state, and subtasks ready to run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use datafusion_common::internal_datafusion_err;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tracing::info;

use super::plan::{Plan, Section, SectionRoot};
use super::{Job, source_groups};
use crate::log::Partition;
use crate::metadata::{MetadataError, NewTopic, Topic};
use crate::stream::chain::{Chain, OperatorCounters, Stage};
use crate::stream::checkpoint::record::{Commit, Event, JobImage, Started, topic_id};
use crate::stream::checkpoint::state_topic;
use crate::stream::checkpoint::transaction::{TransactionalWriter, settle};
use crate::stream::exchange::{HashSend, Receiver, Ring};
use crate::stream::format::json::{self, Encoder};
use crate::stream::graph::{Format, Graph, Node, Op, Source as SourcePlan, Startup};
use crate::stream::operator::{Failure, Operator, StateEntry};
use crate::stream::operators::filter::Filter;
use crate::stream::operators::project::Project;
use crate::stream::operators::sink::Sink;
use crate::stream::operators::source::{Source, SourceCounters, StartPartition};
use crate::stream::operators::tumble_aggregate::TumbleAggregate;
use crate::stream::state::{KeyEncoder, KeyGroups, StateBudget};
use crate::stream::subtask::{Control, Report, Root, StateTarget, Subtask};
use crate::types::{Offset, PartitionId, ProducerEpoch, ProducerId, TopicId};

/// Builds what can be built of each operator without touching a log.
pub(super) fn check(graph: &Graph) -> Result<(), Failure> {
    for node in &graph.nodes {
        let input = || graph.nodes[node.inputs[0].from].schema.clone();
        let checked = match &node.op {
            Op::Source(source) => json::check(&source.physical).map_err(Failure::Rows),
            Op::Sink(_) => json::check(&input()).map_err(Failure::Rows),
            Op::TumbleAggregate(plan) => {
                let schema = node.schema.clone();
                TumbleAggregate::new(plan.clone(), &input(), schema, KeyGroups::ALL).map(drop)
            }
            Op::Filter(_) | Op::Project(_) => Ok(()),
        };
        checked.map_err(|failure| Failure::Rows(format!("operator '{}': {failure}", node.name)))?;
    }
    Ok(())
}

/// What an attempt keeps of its start.
pub(super) struct Running {
    pub(super) started: Started,
    /// Every log that the job's producers may write.
    pub(super) written_logs: Vec<Partition>,
    pub(super) state_log: Partition,
    pub(super) rings: Vec<Arc<Ring>>,
    /// Per node, in graph order.
    pub(super) counters: Vec<Arc<OperatorCounters>>,
    pub(super) progress: Arc<AtomicU64>,
    /// The topics it reads and writes, as it found them.
    pub(super) topics: Vec<UsedTopic>,
    /// Per source subtask.
    pub(super) watermarks: Vec<Arc<AtomicI64>>,
}

/// A topic that an attempt holds logs of.
pub(super) struct UsedTopic {
    pub(super) name: String,
    pub(super) id: TopicId,
    pub(super) partitions: usize,
    /// Whether it is read: then its growth matters.
    pub(super) read: bool,
}

impl UsedTopic {
    fn new<'a>(
        name: &str,
        mut logs: impl ExactSizeIterator<Item = &'a Partition>,
        read: bool,
    ) -> Option<UsedTopic> {
        let partitions = logs.len();
        let id = logs.next()?.id().topic;
        Some(UsedTopic { name: name.to_owned(), id, partitions, read })
    }
}

/// Begins an attempt: fences and settles the one before, restores, builds the subtasks.
pub(super) async fn start(
    job: &Job,
    plan: &Plan,
    control: &watch::Receiver<Control>,
    reports: &mpsc::Sender<Report>,
) -> Result<(Running, Vec<Subtask>, Option<Commit>), Failure> {
    let image = job.journal.image(&job.id).await?;
    job.journal.state_space().decided(&job.id);
    let state_log = state_log(job).await?;
    let sinks = sink_logs(job).await?;
    let mut written_logs: Vec<Partition> = sinks.values().flatten().cloned().collect();
    written_logs.push(state_log.clone());
    written_logs.sort_by_key(Partition::id);
    written_logs.dedup_by_key(|log| log.id());
    let started = begin(job, plan, &image, &written_logs).await?;
    let last = image.commit;

    let entries = restore(job, &state_log, last.as_ref()).await?;
    let counters: Vec<_> = job.graph.nodes.iter().map(|_| Arc::default()).collect();
    let mut running = Running {
        started,
        written_logs,
        state_log,
        rings: Vec::new(),
        counters,
        progress: Arc::default(),
        topics: Vec::new(),
        watermarks: Vec::new(),
    };
    let written = sinks.iter().filter_map(|(name, logs)| UsedTopic::new(name, logs.iter(), false));
    running.topics.extend(written);
    let mut builder = Builder {
        job,
        plan,
        epoch: last.as_ref().map_or(0, |commit| commit.epoch) + 1,
        budget: StateBudget::new(job.rooms.config.stream_state_bytes_max),
        sinks,
        entries,
        writers: running.started.producers.clone().into_iter(),
        rings: BTreeMap::new(),
        positions: BTreeMap::new(),
    };
    for (index, section) in plan.sections.iter().enumerate() {
        match section.root {
            SectionRoot::Source(position) => {
                let positions = positions(job, &job.graph.nodes[position], last.as_ref()).await?;
                if let Op::Source(source) = &job.graph.nodes[position].op {
                    let logs = positions.iter().map(|start| &start.log);
                    running.topics.extend(UsedTopic::new(&source.topic, logs, true));
                }
                builder.positions.insert(position, positions);
            }
            SectionRoot::Exchange(_) => {
                let bytes_max = job.rooms.config.stream_ring_bytes;
                let full_seconds = job.metrics.backpressured_seconds.with_label_values(&[&*job.id]);
                let rings: Vec<_> = (0..plan.parallelism)
                    .map(|_| Ring::new(plan.parallelism, bytes_max).measured(full_seconds.clone()))
                    .map(Arc::new)
                    .collect();
                running.rings.extend(rings.iter().cloned());
                builder.rings.insert(index, rings);
            }
        }
    }
    let mut subtasks = Vec::with_capacity(plan.subtasks());
    for index in 0..plan.sections.len() {
        for shard in 0..plan.parallelism {
            let subtask = builder.subtask(&mut running, index, shard, control, reports)?;
            subtasks.push(subtask);
        }
    }
    info!(
        job = %job.id,
        attempt = running.started.attempt,
        epoch = last.as_ref().map(|commit| commit.epoch),
        subtasks = subtasks.len(),
        "job attempt starts"
    );
    Ok((running, subtasks, last))
}

/// Ends what the attempt before left open, then records the new one.
async fn begin(
    job: &Job,
    plan: &Plan,
    image: &JobImage,
    written_logs: &[Partition],
) -> Result<Started, Failure> {
    let before = image.started.clone().unwrap_or_default();
    let writers = plan.writers(&job.graph);
    let attempt = before.attempt + 1;
    // The last epochs are kept for settling with a higher one.
    let used_up = before.producer_epoch >= i16::MAX - 2;
    let fresh = before.producers.len() != writers || used_up;
    let next_epoch = ProducerEpoch(before.producer_epoch + i16::from(before.attempt > 0));
    let producers = before.producers();
    let outputs = image.commit.as_ref().map_or(&[][..], |commit| &commit.outputs);
    let mut logs = written_logs.to_vec();
    // Also logs that the new plan no longer writes.
    for log in outputs.iter().filter_map(|touched| touched.log()) {
        if let Some(log) = job.rooms.metadata.log(log.topic, log.partition) {
            logs.push(log);
        }
    }
    logs.sort_by_key(Partition::id);
    logs.dedup_by_key(|log| log.id());
    settle(&logs, &producers, outputs, next_epoch).await?;

    let started = if fresh {
        let mut producers = Vec::with_capacity(writers);
        for _ in 0..writers {
            let mut pair = [0; 2];
            for id in &mut pair {
                let allocated = job.rooms.producer_ids.allocate().await;
                *id = allocated.map_err(|error| Failure::Storage(error.to_string()))?.0;
            }
            producers.push(pair);
        }
        Started { attempt, producer_epoch: 0, producers }
    } else {
        Started { attempt, producer_epoch: next_epoch.0, producers: before.producers }
    };
    job.journal.append(&job.id, Event::Started(started.clone())).await?;
    Ok(started)
}

async fn state_log(job: &Job) -> Result<Partition, Failure> {
    let metadata = &job.rooms.metadata;
    let topic = metadata
        .ensure_internal(state_topic::TOPIC, state_topic::PARTITIONS, state_topic::CONFIGS)
        .await
        .map_err(|error| Failure::Storage(error.to_string()))?;
    let hash = crate::stream::state::hash(job.id.as_bytes());
    let partition = PartitionId((hash % u64::from(topic.partitions)) as u32);
    metadata.log(topic.id, partition).ok_or_else(|| missing(&topic, partition))
}

fn missing(topic: &Topic, partition: PartitionId) -> Failure {
    Failure::Topic(format!("partition {partition} of topic '{}' is not open", topic.name))
}

fn logs_of(job: &Job, topic: &Topic) -> Result<Vec<Partition>, Failure> {
    (0..topic.partitions)
        .map(PartitionId)
        .map(|id| job.rooms.metadata.log(topic.id, id).ok_or_else(|| missing(topic, id)))
        .collect()
}

/// The partitions of every sink's topic, by topic name.
async fn sink_logs(job: &Job) -> Result<BTreeMap<String, Vec<Partition>>, Failure> {
    let mut logs = BTreeMap::new();
    for node in &job.graph.nodes {
        let Op::Sink(sink) = &node.op else { continue };
        let metadata = &job.rooms.metadata;
        if metadata.image().topic(&sink.topic).is_none() {
            let topic = NewTopic {
                name: sink.topic.clone(),
                partitions: None,
                configs: BTreeMap::default(),
            };
            match metadata.create(topic, false).await {
                Ok(_) | Err(MetadataError::Exists(_)) => {}
                Err(error) => {
                    return Err(Failure::Topic(format!(
                        "topic '{}' could not be created for the sink: {error}",
                        sink.topic
                    )));
                }
            }
        }
        let image = metadata.image();
        let topic = image.topic(&sink.topic).ok_or_else(|| {
            Failure::Topic(format!("topic '{}' was deleted just now", sink.topic))
        })?;
        logs.insert(sink.topic.clone(), logs_of(job, topic)?);
    }
    Ok(logs)
}

/// The operators' state as of the last commit, by node.
async fn restore(
    job: &Job,
    log: &Partition,
    commit: Option<&Commit>,
) -> Result<BTreeMap<u32, Vec<StateEntry>>, Failure> {
    let Some((commit, manifest)) = commit.and_then(|c| Some((c, c.state.clone()?))) else {
        return Ok(BTreeMap::new());
    };
    if manifest.partition != log.id().partition.0 {
        return Err(Failure::Storage(format!(
            "the state of job '{}' lies in partition {} of {}, expected {}",
            job.id,
            manifest.partition,
            state_topic::TOPIC,
            log.id().partition
        )));
    }
    let (log, id) = (log.clone(), job.id.clone());
    let (attempt, epoch) = (commit.attempt, commit.epoch);
    tokio::task::spawn_blocking(move || state_topic::read(&log, &id, attempt, epoch, &manifest))
        .await
        .map_err(|error| Failure::Panic(error.to_string()))?
}

/// Where a source begins in each partition: where the last commit left it, or where its options
/// say. A partition that was added since begins with its first record.
async fn positions(
    job: &Job,
    node: &Node,
    commit: Option<&Commit>,
) -> Result<Vec<StartPartition>, Failure> {
    let Op::Source(source) = &node.op else { return Ok(Vec::new()) };
    let image = job.rooms.metadata.image();
    let topic = image.topic(&source.topic).ok_or_else(|| {
        Failure::Topic(format!(
            "topic '{}' does not exist; create it or produce to it first",
            source.topic
        ))
    })?;
    let stored: Vec<_> = commit
        .iter()
        .flat_map(|commit| &commit.positions)
        .filter(|position| position.node == node.id)
        .collect();
    if stored.iter().any(|position| topic_id(&position.topic) != Some(topic.id)) {
        return Err(Failure::Topic(format!(
            "topic '{}' was deleted and created again since the last checkpoint; cancel this job \
             and submit it anew",
            source.topic
        )));
    }
    let mut positions = Vec::new();
    for log in logs_of(job, topic)? {
        let id = log.id().partition;
        let stored_here = stored.iter().find(|position| position.partition == id.0);
        let (position, watermark_ms) = match stored_here {
            Some(position) => (Offset::new(position.offset), position.watermark_ms),
            None if commit.is_some() => (log.span().start, None),
            None => (startup(job, node, source, &source.startup, &log).await?, None),
        };
        positions.push(StartPartition { id, log, position, watermark_ms });
    }
    Ok(positions)
}

async fn startup(
    job: &Job,
    node: &Node,
    source: &SourcePlan,
    startup: &Startup,
    log: &Partition,
) -> Result<Offset, Failure> {
    let (span, id) = (log.span(), log.id());
    let unset = match startup {
        Startup::Earliest => return Ok(span.start),
        Startup::Latest => return Ok(span.high_watermark),
        Startup::Timestamp(timestamp) => {
            let found = log.first_at_or_after(*timestamp).await.map_err(|error| {
                Failure::Topic(format!(
                    "topic '{}', partition {}: {error}",
                    source.topic, id.partition
                ))
            })?;
            return Ok(found.map_or(span.high_watermark, |found| found.offset));
        }
        Startup::GroupOffsets { reset } => reset,
    };
    let groups = source_groups(job);
    let group = groups.iter().find(|(of, _)| *of == node.id).map_or("", |(_, group)| group);
    let committed = job.rooms.groups.committed(group);
    let committed = committed
        .iter()
        .find(|offset| offset.topic == id.topic && offset.partition == id.partition)
        // A number that is no offset is none to a Java consumer either.
        .and_then(|offset| offset.committed.position.offset());
    match (committed, unset) {
        (Some(offset), _) => Ok(offset),
        (None, Some(reset)) => Box::pin(self::startup(job, node, source, reset, log)).await,
        (None, None) => Err(Failure::Topic(format!(
            "group '{group}' has no committed offset for topic '{}', partition {}; set \
             'scan.startup.mode' = 'earliest-offset' or 'properties.auto.offset.reset'",
            source.topic, id.partition
        ))),
    }
}

struct Builder<'a> {
    job: &'a Job,
    plan: &'a Plan,
    /// The first epoch that will be written.
    epoch: u64,
    budget: StateBudget,
    sinks: BTreeMap<String, Vec<Partition>>,
    entries: BTreeMap<u32, Vec<StateEntry>>,
    /// Producer ids not handed out yet.
    writers: std::vec::IntoIter<[i64; 2]>,
    /// Per receiving section, one per subtask.
    rings: BTreeMap<usize, Vec<Arc<Ring>>>,
    /// Per source.
    positions: BTreeMap<usize, Vec<StartPartition>>,
}

impl Builder<'_> {
    /// Subtask `shard` of section `index`.
    fn subtask(
        &mut self,
        running: &mut Running,
        index: usize,
        shard: usize,
        control: &watch::Receiver<Control>,
        reports: &mpsc::Sender<Report>,
    ) -> Result<Subtask, Failure> {
        let plan = self.plan;
        let section = &plan.sections[index];
        let producer_epoch = ProducerEpoch(running.started.producer_epoch);
        let state = StateTarget {
            job: self.job.id.clone(),
            attempt: running.started.attempt,
            log: running.state_log.clone(),
            writer: self.writer(producer_epoch, state_topic::BATCH_BYTES_MAX)?,
        };
        let mut chain = self.chain(running, section, shard, producer_epoch)?;
        chain.restore(|node| self.entries.get(&node).map_or(&[][..], Vec::as_slice))?;
        let root = match section.root {
            SectionRoot::Source(position) => {
                Root::Source(Box::new(self.source(running, position, shard)?))
            }
            SectionRoot::Exchange(_) => {
                let ring = self.rings[&index][shard].clone();
                Root::Exchange(Receiver::new(ring, self.plan.parallelism))
            }
        };
        Ok(Subtask {
            index: index * plan.parallelism + shard,
            shard: shard as u32,
            root,
            chain,
            state,
            control: control.clone(),
            reports: reports.clone(),
            runtime: Handle::current(),
            clock: self.job.rooms.clock.clone(),
        })
    }

    fn writer(
        &mut self,
        producer_epoch: ProducerEpoch,
        batch_bytes_max: u32,
    ) -> Result<TransactionalWriter, Failure> {
        let ids = self.writers.next().ok_or_else(|| {
            Failure::from(internal_datafusion_err!("fewer producer ids than writers"))
        })?;
        Ok(TransactionalWriter::new(
            ids.map(ProducerId),
            producer_epoch,
            self.epoch,
            batch_bytes_max,
            Handle::current(),
        ))
    }

    fn source(
        &self,
        running: &mut Running,
        position: usize,
        shard: usize,
    ) -> Result<Source, Failure> {
        let node = &self.job.graph.nodes[position];
        let Op::Source(plan) = &node.op else {
            return Err(Failure::Rows(format!("'{}' is not a source", node.name)));
        };
        let partitions = self.positions[&position]
            .iter()
            .filter(|start| start.id.0 as usize % self.plan.parallelism == shard)
            .cloned()
            .collect();
        let watermark_ms = Arc::new(AtomicI64::new(i64::MIN));
        running.watermarks.push(watermark_ms.clone());
        let counters = SourceCounters {
            operator: running.counters[position].clone(),
            records_in: self.job.metrics.records_in.with_label_values(&[&self.job.id]),
            progress: running.progress.clone(),
            watermark_ms,
        };
        let clock = self.job.rooms.clock.clone();
        Source::new(node.id, plan, &node.schema, partitions, clock, counters)
    }

    fn chain(
        &mut self,
        running: &Running,
        section: &Section,
        shard: usize,
        producer_epoch: ProducerEpoch,
    ) -> Result<Chain, Failure> {
        let nodes = &self.job.graph.nodes;
        // The rows of a section's root come from outside: from this position in the graph.
        let (root, outside) = match section.root {
            SectionRoot::Source(position) => (position, true),
            SectionRoot::Exchange(from) => (from, false),
        };
        let in_chain = |position: usize| section.nodes.iter().position(|node| *node == position);
        let mut roots = Vec::new();
        let mut stages: Vec<Stage> = Vec::new();
        for &position in &section.nodes {
            let node = &nodes[position];
            let from = node.inputs[0].from;
            let at = stages.len();
            match in_chain(from) {
                Some(before) => stages[before].targets.push(at),
                None => roots.push(at),
            }
            stages.push(Stage {
                node: node.id,
                operator: self.operator(node, shard, producer_epoch)?,
                targets: Vec::new(),
                counters: running.counters[position].clone(),
            });
        }
        for send in &section.sends {
            let at = stages.len();
            match in_chain(send.from) {
                Some(before) => stages[before].targets.push(at),
                None if outside && send.from == root => roots.push(at),
                None => return Err(Failure::Rows("an exchange begins in another section".into())),
            }
            let schema = &nodes[send.from].schema;
            let types = send.columns.iter().map(|&column| schema.field(column).data_type().clone());
            let keys = KeyEncoder::new(types.collect())?;
            let rings = self.rings[&send.to].clone();
            stages.push(Stage {
                node: u32::MAX,
                operator: Box::new(HashSend::new(send.columns.clone(), keys, rings, shard)),
                targets: Vec::new(),
                counters: Arc::default(),
            });
        }
        Ok(Chain::new(stages, roots))
    }

    fn operator(
        &mut self,
        node: &Node,
        shard: usize,
        producer_epoch: ProducerEpoch,
    ) -> Result<Box<dyn Operator>, Failure> {
        let input = || self.job.graph.nodes[node.inputs[0].from].schema.clone();
        Ok(match &node.op {
            Op::Source(_) => {
                return Err(Failure::Rows(format!("source '{}' has an input", node.name)));
            }
            Op::Filter(predicate) => Box::new(Filter::new(predicate.clone())),
            Op::Project(columns) => Box::new(Project::new(columns.clone(), node.schema.clone())),
            Op::TumbleAggregate(plan) => {
                let key_groups = KeyGroups { subtask: shard, parallelism: self.plan.parallelism };
                let schema = node.schema.clone();
                let late = self.job.metrics.late_records.with_label_values(&[&self.job.id]);
                let window = TumbleAggregate::new(plan.clone(), &input(), schema, key_groups)?;
                Box::new(window.accounted(late, self.budget.clone()))
            }
            Op::Sink(sink) => {
                let Format::Json(json) = &sink.format;
                let encoder = Encoder::new(&input(), json.clone()).map_err(Failure::Rows)?;
                let bytes_max = self.job.rooms.config.dynamic.load().message_max_bytes;
                let writer = self.writer(producer_epoch, bytes_max)?;
                Box::new(Sink::new(
                    sink.topic.clone(),
                    encoder,
                    self.sinks[&sink.topic].clone(),
                    writer,
                    bytes_max,
                    self.job.rooms.clock.clone(),
                    self.job.metrics.records_out.with_label_values(&[&self.job.id]),
                ))
            }
        })
    }
}
