//! Whole jobs over real logs in a temporary directory: their results, and what a read_committed
//! reader sees after a kill at each step of a checkpoint.

mod bounded;
mod faults;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Instant;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion_common::ScalarValue;
use datafusion_expr::{ColumnarValue, Operator as BinaryOp};
use datafusion_functions_aggregate::count::count_udaf;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::aggregate::AggregateExprBuilder;
use datafusion_physical_expr::expressions::{BinaryExpr, col, lit};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tempfile::TempDir;

use super::*;
use crate::config::Config;
use crate::group::Groups;
use crate::log::batch::{self, NewRecord};
use crate::log::{
    AppendOptions, AppendOrigin, Durable, Isolation, Logs, Partition, ReadRequest, records,
};
use crate::metadata::local_journal::LocalJournal;
use crate::metadata::{Metadata, NewTopic};
use crate::metrics::Metrics;
use crate::stream::checkpoint::transaction::TransactionalWriter;
use crate::stream::graph::{
    Edge, Emit, Exchange, Format, Json, Node, Sink, Source, Startup, TumbleAggregate, Watermarks,
};
use crate::stream::job::{JobState, Jobs, NewJob, Planner};
use crate::txn::ProducerIds;
use crate::types::{Clock, LeaderEpoch, ProducerId, SystemClock};

const MILLIS: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);
const PATIENCE: Duration = Duration::from_secs(30);

/// The rooms below the executor, over a directory that outlives them.
struct Broker {
    logs: Logs,
    rooms: Rooms,
    metrics: Metrics,
}

impl Broker {
    /// Every start has a view of its own: the logs are the truth.
    async fn start(dir: &TempDir, start: u32) -> Broker {
        let config = Arc::new(Config { num_partitions: 2, ..Config::default() });
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let metrics = Metrics::default();
        let (logs_dir, view): (PathBuf, PathBuf) =
            (dir.path().join("logs"), dir.path().join(format!("view-{start}")));
        let epoch = LeaderEpoch(start as i32);
        let logs =
            Logs::over_directories(&logs_dir, &view, &config, clock.clone(), epoch, &metrics);
        let journal = Arc::new(LocalJournal::new(logs.clone(), clock.clone()));
        let metadata =
            Metadata::start(logs.clone(), journal.clone(), config.clone(), clock.clone(), &metrics)
                .await
                .unwrap();
        let producer_ids = ProducerIds::start(journal.clone()).await.unwrap();
        let groups =
            Groups::start(metadata.clone(), config.clone(), clock.clone(), &metrics).await.unwrap();
        let rooms = Rooms { metadata, groups, producer_ids, journal, config, clock };
        Broker { logs, rooms, metrics }
    }

    /// Ends the logs' threads; what the executor left open stays open.
    async fn end(self) {
        let logs = self.logs;
        tokio::task::spawn_blocking(move || logs.shutdown()).await.unwrap();
    }

    async fn create(&self, topic: &str, partitions: u32) {
        let topic = NewTopic {
            name: topic.to_owned(),
            partitions: Some(partitions),
            configs: BTreeMap::new(),
        };
        self.rooms.metadata.create(topic, false).await.unwrap();
    }

    fn logs_of(&self, topic: &str) -> Vec<Partition> {
        let image = self.rooms.metadata.image();
        let Some(topic) = image.topic(topic) else { return Vec::new() };
        (0..topic.partitions)
            .map(|id| self.rooms.metadata.log(topic.id, PartitionId(id)).unwrap())
            .collect()
    }

    async fn produce(&self, topic: &str, partition: usize, values: &[String]) {
        let records: Vec<_> = values
            .iter()
            .map(|value| NewRecord {
                value: Some(Bytes::from(value.clone())),
                ..NewRecord::default()
            })
            .collect();
        let options = AppendOptions {
            durable: Durable::Synced,
            batch_bytes_max: 1 << 20,
            origin: AppendOrigin::Broker,
        };
        let log = self.logs_of(topic).swap_remove(partition);
        log.append(batch::encode(&records, None), options).await.unwrap();
    }

    /// All values that a read_committed reader sees, sorted.
    async fn committed(&self, topic: &str) -> Vec<String> {
        let mut values = Vec::new();
        for log in self.logs_of(topic) {
            let mut from = Offset::ZERO;
            while from < log.span().last_stable {
                let request = ReadRequest {
                    from,
                    bytes_max: 1 << 20,
                    at_least_one: true,
                    isolation: Isolation::ReadCommitted,
                };
                let read = log.read(request).await.unwrap();
                let batches = records::decode(read.records, 1 << 20).unwrap();
                from = batches.last().unwrap().last_offset.plus(1);
                for batch in records::committed(batches, &read.aborted) {
                    let texts = batch.records.into_iter().map(|record| record.value.unwrap());
                    values.extend(texts.map(|text| String::from_utf8(text.to_vec()).unwrap()));
                }
            }
        }
        values.sort();
        values
    }

    async fn wait_for(&self, topic: &str, count: usize) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let values = self.committed(topic).await;
            if values.len() >= count || Instant::now() > deadline {
                return values;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn click(page: &str, second: i64) -> String {
    format!(r#"{{"page":"{page}","ts":"1970-01-01 00:{:02}:{:02}"}}"#, second / 60, second % 60)
}

fn counted(page: &str, start: i64, count: u64) -> String {
    let time = |second: i64| format!("1970-01-01 00:{:02}:{:02}", second / 60, second % 60);
    format!(
        r#"{{"page":"{page}","window_start":"{}","window_end":"{}","n":{count}}}"#,
        time(start),
        time(start + 10)
    )
}

/// Clicks that are no bot's, counted per page and 10 s.
fn graph() -> Graph {
    let clicks: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("page", DataType::Utf8, true),
        Field::new("ts", MILLIS, true),
    ]));
    let counts: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("page", DataType::Utf8, true),
        Field::new("window_start", MILLIS, false),
        Field::new("window_end", MILLIS, false),
        Field::new("window_time", MILLIS, false),
        Field::new("n", DataType::Int64, false),
    ]));
    let results: SchemaRef = Arc::new(counts.project(&[0, 1, 2, 4]).unwrap());
    let count = AggregateExprBuilder::new(count_udaf(), vec![lit(1_i64)])
        .schema(clicks.clone())
        .alias("n")
        .build()
        .unwrap();
    let page = col("page", &clicks).unwrap();
    let no_bot = BinaryExpr::new(page, BinaryOp::NotEq, lit(ScalarValue::from("bot")));
    let source = Source {
        topic: "clicks".to_owned(),
        format: Format::Json(Json::default()),
        physical: clicks.clone(),
        computed: None,
        watermark: Some(Watermarks {
            column: 1,
            expr: col("ts", &clicks).unwrap(),
            emit: Emit::OnEvent,
            idle_timeout: None,
        }),
        startup: Startup::Earliest,
        group: None,
    };
    let tumble = TumbleAggregate {
        time: 1,
        size: Duration::from_secs(10),
        offset_ms: 0,
        keys: vec![0],
        aggregates: vec![Arc::new(count)],
    };
    let columns = ["page", "window_start", "window_end", "n"];
    let project = columns.iter().map(|name| col(name, &counts).unwrap()).collect();
    let sink = Sink { topic: "counts".to_owned(), format: Format::Json(Json::default()) };
    let ops = [
        (Op::Source(source), clicks.clone()),
        (Op::Filter(Arc::new(no_bot)), clicks),
        (Op::TumbleAggregate(tumble), counts),
        (Op::Project(project), results.clone()),
        (Op::Sink(sink), results),
    ];
    let mut graph = Graph::default();
    for (position, (op, schema)) in ops.into_iter().enumerate() {
        let exchange = match op {
            Op::TumbleAggregate(_) => Exchange::Hash(vec![0]),
            _ => Exchange::Forward,
        };
        let inputs =
            if position == 0 { vec![] } else { vec![Edge { from: position - 1, exchange }] };
        let id = position as u32 + 1;
        graph.nodes.push(Node { id, name: format!("node {id}"), inputs, op, schema });
    }
    graph
}

fn options(parallelism: usize) -> JobOptions {
    JobOptions { checkpoint_interval: Duration::from_millis(20), parallelism }
}

/// Runs one attempt of job `j` until it is killed or `until` output rows are committed.
async fn attempt(
    broker: &Broker,
    parallelism: usize,
    failpoint: Option<(u64, Failpoint)>,
    until: usize,
) -> Outcome {
    attempt_of(broker, graph(), parallelism, failpoint, until).await
}

async fn attempt_of(
    broker: &Broker,
    graph: Graph,
    parallelism: usize,
    failpoint: Option<(u64, Failpoint)>,
    until: usize,
) -> Outcome {
    let job = Job {
        id: "j".into(),
        graph,
        options: options(parallelism),
        rooms: broker.rooms.clone(),
        journal: Arc::new(JobJournal::open(broker.rooms.journal.clone()).await.unwrap()),
        metrics: JobMetrics::register(&Metrics::default()).unwrap(),
        failpoint,
    };
    let (commands, mut inbox) = mpsc::channel(1);
    let attempt = run(&job, &mut inbox, |_| ());
    let judge = async {
        broker.wait_for("counts", until).await;
        commands.send(Command::Shutdown).await.unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        outcome = attempt => outcome,
        () = judge => unreachable!("the judge waits forever"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clicks_are_counted_per_window_and_late_or_filtered_ones_are_not() {
    let dir = TempDir::new().unwrap();
    let broker = Broker::start(&dir, 1).await;
    broker.create("clicks", 1).await;
    let clicks = [("a", 1), ("b", 3), ("bot", 4), ("a", 2), ("a", 12), ("a", 5), ("b", 31)];
    let clicks: Vec<_> = clicks.iter().map(|(page, second)| click(page, *second)).collect();
    broker.produce("clicks", 0, &clicks).await;
    assert_eq!(attempt(&broker, 1, None, 3).await, Outcome::Shutdown);
    assert_eq!(
        broker.committed("counts").await,
        [counted("a", 0, 2), counted("a", 10, 1), counted("b", 0, 1)]
    );
    let shown = broker.rooms.groups.committed("ottla-job-j");
    assert_eq!(shown[0].committed.position, Offset::new(7).into());
    broker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_step_of_each_checkpoint_every_window_comes_out_once() {
    for failpoint in [
        Failpoint::BeforeCommit,
        Failpoint::AfterCommit,
        Failpoint::BetweenMarkers,
        Failpoint::AfterMarkers,
    ] {
        let dir = TempDir::new().unwrap();
        let mut expected = Vec::new();
        let mut kills = 0;
        // Each round brings a window of its own, is killed in its first or second checkpoint, and
        // fires the window before, whose state crossed the kill before.
        for round in 0..5_i64 {
            let broker = Broker::start(&dir, round as u32 + 1).await;
            if round == 0 {
                broker.create("clicks", 1).await;
            }
            let start = round * 10;
            let clicks: Vec<_> =
                (0..50).map(|n| click(["a", "b"][n as usize % 2], start + n % 10)).collect();
            let (first, second) = clicks.split_at(30);
            broker.produce("clicks", 0, first).await;
            let epoch = last_epoch(&broker).await + 1 + (round as u64 % 2);
            let more = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                broker.produce("clicks", 0, second).await;
            };
            let killed = attempt(&broker, 1, Some((epoch, failpoint)), usize::MAX);
            let killed = tokio::time::timeout(Duration::from_millis(1500), killed);
            let (killed, ()) = tokio::join!(killed, more);
            // Only an epoch with output and state has something between two markers.
            if failpoint != Failpoint::BetweenMarkers {
                assert!(killed.is_ok(), "{failpoint:?} was not reached in round {round}");
            }
            if let Ok(outcome) = killed {
                assert_eq!(outcome, Outcome::Killed, "{failpoint:?} in round {round}");
                kills += 1;
            }
            broker.end().await;
            if round < 4 {
                expected.extend([counted("a", start, 25), counted("b", start, 25)]);
            }
        }
        assert!(kills > 0, "{failpoint:?} was never reached");
        let broker = Broker::start(&dir, 9).await;
        let outcome = attempt(&broker, 1, None, expected.len()).await;
        assert_eq!(outcome, Outcome::Shutdown);
        expected.sort();
        assert_eq!(broker.committed("counts").await, expected, "{failpoint:?}");
        broker.end().await;
    }
}

async fn last_epoch(broker: &Broker) -> u64 {
    let journal = JobJournal::open(broker.rooms.journal.clone()).await.unwrap();
    journal.image("j").await.unwrap().commit.map_or(0, |commit| commit.epoch)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_subtasks_share_partitions_and_keys_and_survive_a_kill() {
    let dir = TempDir::new().unwrap();
    let broker = Broker::start(&dir, 1).await;
    broker.create("clicks", 2).await;
    let pages = ["a", "b", "c", "d", "e", "f"];
    for partition in 0..2 {
        let clicks: Vec<_> = (0..60).map(|n| click(pages[n % 6], (n / 6) as i64)).collect();
        broker.produce("clicks", partition, &clicks).await;
    }
    let outcome = attempt(&broker, 2, Some((1, Failpoint::AfterCommit)), usize::MAX).await;
    assert_eq!(outcome, Outcome::Killed);
    broker.end().await;

    let broker = Broker::start(&dir, 2).await;
    for partition in 0..2 {
        broker.produce("clicks", partition, &[click("a", 15)]).await;
    }
    assert_eq!(attempt(&broker, 2, None, 6).await, Outcome::Shutdown);
    let expected: Vec<_> = pages.iter().map(|page| counted(page, 0, 20)).collect();
    assert_eq!(broker.committed("counts").await, expected);
    broker.end().await;
}

struct Replan;

impl Planner for Replan {
    fn plan(&self, definition: &str) -> BoxFuture<'static, Result<(Graph, JobOptions), String>> {
        assert_eq!(definition, "the definition");
        std::future::ready(Ok((graph(), options(1)))).boxed()
    }
}

fn new_job() -> NewJob {
    NewJob {
        name: "count".to_owned(),
        definition: "the definition".to_owned(),
        graph: graph(),
        options: options(1),
    }
}

async fn eventually(jobs: &Jobs, id: &str, holds: impl Fn(&crate::stream::job::JobStatus) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = jobs.status(id).unwrap();
        if holds(&status) {
            return;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submitted_job_goes_on_after_a_restart_and_ends_when_stopped() {
    let dir = TempDir::new().unwrap();
    let broker = Broker::start(&dir, 1).await;
    broker.create("clicks", 1).await;
    let jobs = Jobs::start(broker.rooms.clone(), &broker.metrics).await.unwrap();
    let id = jobs.submit(new_job()).await.unwrap().0;
    broker.produce("clicks", 0, &[click("a", 1), click("a", 2)]).await;
    eventually(&jobs, &id, |status| status.records_in == 2 && status.checkpoint.is_some()).await;
    jobs.shutdown().await;
    broker.end().await;

    let broker = Broker::start(&dir, 2).await;
    let jobs = Jobs::start(broker.rooms.clone(), &broker.metrics).await.unwrap();
    assert_eq!(jobs.status(&id).unwrap().state, JobState::Created);
    jobs.recover(Arc::new(Replan)).await;
    broker.produce("clicks", 0, &[click("a", 3), click("a", 12)]).await;
    assert_eq!(broker.wait_for("counts", 1).await, [counted("a", 0, 3)]);
    jobs.stop(&id).await.unwrap();
    assert_eq!(jobs.status(&id).unwrap().state, JobState::Finished);
    assert!(jobs.stop(&id).await.is_err());
    broker.end().await;

    let broker = Broker::start(&dir, 3).await;
    let jobs = Jobs::start(broker.rooms.clone(), &broker.metrics).await.unwrap();
    assert_eq!(jobs.status(&id).unwrap().state, JobState::Finished);
    assert_eq!(broker.committed("counts").await.len(), 1);
    broker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_record_fails_the_job_by_name_and_a_cancelled_one_leaves_nothing_open() {
    let dir = TempDir::new().unwrap();
    let broker = Broker::start(&dir, 1).await;
    broker.create("clicks", 1).await;
    let jobs = Jobs::start(broker.rooms.clone(), &broker.metrics).await.unwrap();
    let id = jobs.submit(new_job()).await.unwrap().0;
    broker.produce("clicks", 0, &[click("a", 1), r#"{"ts":"soon"}"#.to_owned()]).await;
    eventually(&jobs, &id, |status| status.state == JobState::Restarting).await;
    let failure = jobs.status(&id).unwrap().failure.unwrap();
    assert!(
        failure.starts_with("topic 'clicks', partition 0, offset 1: field 'ts': expected a"),
        "{failure}"
    );
    jobs.cancel(&id).await.unwrap();
    assert_eq!(jobs.status(&id).unwrap().state, JobState::Canceled);
    for log in broker.logs_of("counts") {
        assert!(log.open_transactions().is_empty());
    }
    broker.end().await;
}

/// A condition with a bug.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Panics;

impl std::fmt::Display for Panics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("panics")
    }
}

impl PhysicalExpr for Panics {
    fn data_type(&self, _: &Schema) -> datafusion_common::Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _: &Schema) -> datafusion_common::Result<bool> {
        Ok(false)
    }

    fn evaluate(&self, _: &RecordBatch) -> datafusion_common::Result<ColumnarValue> {
        panic!("a bug in a function")
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        Vec::new()
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn PhysicalExpr>>,
    ) -> datafusion_common::Result<Arc<dyn PhysicalExpr>> {
        Ok(self)
    }

    fn fmt_sql(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("panics")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_ends_that_attempt_with_its_reason_and_other_jobs_go_on() {
    let dir = TempDir::new().unwrap();
    let broker = Broker::start(&dir, 1).await;
    broker.create("clicks", 1).await;
    let jobs = Jobs::start(broker.rooms.clone(), &broker.metrics).await.unwrap();
    let mut buggy = new_job();
    buggy.graph.nodes[1].op = Op::Filter(Arc::new(Panics));
    let buggy = jobs.submit(buggy).await.unwrap().0;
    let sound = jobs.submit(new_job()).await.unwrap().0;
    broker.produce("clicks", 0, &[click("a", 1), click("a", 12)]).await;
    eventually(&jobs, &buggy, |status| status.state == JobState::Restarting).await;
    let failure = jobs.status(&buggy).unwrap().failure.unwrap();
    assert_eq!(failure, "the operator panicked: a bug in a function");
    assert_eq!(broker.wait_for("counts", 1).await, [counted("a", 0, 1)]);
    assert_eq!(jobs.status(&sound).unwrap().state, JobState::Running);
    jobs.shutdown().await;
    broker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_of_a_later_epoch_under_the_same_producer_is_aborted_not_committed() {
    let dir = TempDir::new().unwrap();
    let broker = Broker::start(&dir, 1).await;
    broker.create("counts", 1).await;
    let log = broker.logs_of("counts").swap_remove(0);
    let pair = [ProducerId(900), ProducerId(901)];
    let runtime = tokio::runtime::Handle::current();
    let mut writer = TransactionalWriter::new(pair, ProducerEpoch(0), 1, 1 << 20, runtime);
    let mut covered = Vec::new();
    for epoch in 1..=3_u64 {
        let target = log.clone();
        let record = NewRecord {
            value: Some(Bytes::from(format!("epoch {epoch}"))),
            ..NewRecord::default()
        };
        // The writer blocks, as on a subtask's thread.
        let (back, appends) = tokio::task::spawn_blocking(move || {
            writer.append(&target, &[record]).unwrap();
            let appends = writer.end_epoch(epoch);
            (writer, appends)
        })
        .await
        .unwrap();
        writer = back;
        for append in appends {
            let last_offset = append.pending.await.unwrap().last_offset.get();
            if epoch == 1 {
                covered.push(Touched {
                    topic: append.log.topic.to_string(),
                    partition: 0,
                    producer: append.producer.0,
                    last_offset,
                });
            }
        }
        if epoch == 1 {
            let logs = std::slice::from_ref(&log);
            settle(logs, &HashSet::from(pair), &covered, ProducerEpoch(0)).await.unwrap();
        }
    }
    assert_eq!(log.open_transactions().len(), 2, "epochs 2 and 3 are not decided");
    settle(std::slice::from_ref(&log), &HashSet::from(pair), &covered, ProducerEpoch(1))
        .await
        .unwrap();
    assert!(log.open_transactions().is_empty());
    assert_eq!(broker.committed("counts").await, ["epoch 1"]);
    broker.end().await;
}
