//! Produce and Fetch from a request's frame to its answer's, as a connection drives them but without
//! a socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, CreateTopicsRequest, DeleteTopicsRequest, FetchRequest, ProduceRequest, RequestHeader,
    TopicName,
};
use kafka_protocol::protocol::{Encodable, Request, StrBytes};
use ottla::api::{AnswerBudget, Context, Meter, Reply, Resources, Session, begin};
use ottla::config::Config;
use ottla::group::Groups;
use ottla::log::Logs;
use ottla::log::data_dir::DataDir;
use ottla::metadata::journal::Journal;
use ottla::metadata::placement::{Broker, SingleNode};
use ottla::metadata::{LocalJournal, Metadata};
use ottla::metrics::Metrics;
use ottla::security::Authorizer;
use ottla::store::Store;
use ottla::txn::ProducerIds;
use ottla::types::{Clock, ListenerName, ManualClock};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{NOW, batch_of};

const TOPIC: &str = "bench";
const FETCH_BYTES_MAX: i32 = 1 << 20;

/// A broker without sockets.
pub struct Bench {
    pub runtime: Runtime,
    ctx: Arc<Context>,
    session: Arc<Session>,
    logs: Logs,
    metadata: Metadata,
    _dir: DataDir,
    _tmp: TempDir,
}

impl Bench {
    pub fn start() -> Bench {
        let runtime = Runtime::new().unwrap();
        let tmp = tempfile::tempdir().unwrap();
        let data_dir = tmp.path().join("data");
        let config =
            Arc::new(Config { data_dir, offsets_topic_partitions: 1, ..Config::default() });
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
        let metrics = Metrics::default();
        let dir = DataDir::open(&config.data_dir).unwrap();
        let store = Store::open(&dir.view()).unwrap();
        let logs = Logs::start(
            &dir.logs(),
            dir.boot(),
            store,
            &config,
            clock.clone(),
            dir.epoch(),
            &metrics,
        )
        .unwrap();
        let journal: Arc<dyn Journal> = Arc::new(LocalJournal::new(logs.clone(), clock.clone()));
        let (metadata, groups, producer_ids) = runtime.block_on(async {
            let (config, clock) = (config.clone(), clock.clone());
            let metadata = Metadata::start(
                logs.clone(),
                journal.clone(),
                config.clone(),
                clock.clone(),
                &metrics,
            )
            .await
            .unwrap();
            let groups = Groups::start(metadata.clone(), config, clock, &metrics).await.unwrap();
            (metadata, groups, ProducerIds::start(journal).await.unwrap())
        });
        let broker = Broker { id: config.node_id, host: "broker.bench".to_owned(), port: 9092 };
        let advertised = [(ListenerName::plaintext(), broker)];
        let ctx = Arc::new(Context {
            cluster_id: dir.cluster_id().to_owned(),
            resources: Resources::new(metadata.clone(), groups, producer_ids, Authorizer::AllowAll),
            placement: Arc::new(SingleNode::new(config.node_id, advertised, dir.epoch())),
            clock,
            meter: Meter::register(&metrics).unwrap(),
            answers: AnswerBudget::register(config.queued_max_response_bytes, &metrics).unwrap(),
            config,
        });
        Bench { runtime, ctx, session: session(), logs, metadata, _dir: dir, _tmp: tmp }
    }

    /// The bytes of the answer to the request in `frame`.
    pub async fn answer(&self, frame: Bytes) -> usize {
        let (head, records) = self.reply(frame).await;
        head.len() + records.iter().map(Bytes::len).sum::<usize>()
    }

    /// The error code of the answer to a Produce of one partition.
    pub async fn produce_error(&self, frame: Bytes) -> i16 {
        // Length, correlation id and tags; counts, name and index.
        let at = 4 + 4 + 1 + 1 + (1 + TOPIC.len()) + 1 + 4;
        let (head, _) = self.reply(frame).await;
        i16::from_be_bytes([head[at], head[at + 1]])
    }

    async fn reply(&self, frame: Bytes) -> (BytesMut, Vec<Bytes>) {
        match begin(&self.ctx, &self.session, frame).await.unwrap().into_pending().1.await {
            Reply::Frame(head, records, _) => (head, records),
            other => panic!("no answer but {other:?}"),
        }
    }

    pub async fn create_topic(&self) {
        let topic = CreatableTopic::default()
            .with_name(topic_name())
            .with_num_partitions(1)
            .with_replication_factor(1);
        self.answer(frame(7, &CreateTopicsRequest::default().with_topics(vec![topic]))).await;
        assert!(self.metadata.image().topic(TOPIC).is_some());
    }

    async fn delete_topic(&self) {
        let topic = DeleteTopicState::default().with_name(Some(topic_name()));
        self.answer(frame(6, &DeleteTopicsRequest::default().with_topics(vec![topic]))).await;
        assert!(self.metadata.image().topic(TOPIC).is_none());
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.logs.shutdown();
    }
}

fn session() -> Arc<Session> {
    let address: SocketAddr = ([127, 0, 0, 1], 40_000).into();
    Arc::new(Session::plaintext(ListenerName::plaintext(), address, address))
}

fn topic_name() -> TopicName {
    StrBytes::from_static_str(TOPIC).into()
}

/// A request frame without its length, as a client encodes it.
fn frame<Q: Request>(version: i16, body: &Q) -> Bytes {
    let api = ApiKey::try_from(Q::KEY).unwrap();
    let header = RequestHeader::default()
        .with_request_api_key(Q::KEY)
        .with_request_api_version(version)
        .with_correlation_id(1)
        .with_client_id(Some(StrBytes::from_static_str("bench")));
    let mut frame = BytesMut::new();
    header.encode(&mut frame, api.request_header_version(version)).unwrap();
    body.encode(&mut frame, version).unwrap();
    frame.freeze()
}

/// A Produce of one batch.
pub fn produce(acks: i16, batch: Bytes) -> Bytes {
    let partition = PartitionProduceData::default().with_records(Some(batch));
    let topic =
        TopicProduceData::default().with_name(topic_name()).with_partition_data(vec![partition]);
    frame(9, &ProduceRequest::default().with_acks(acks).with_topic_data(vec![topic]))
}

fn fetch() -> Bytes {
    let partition = FetchPartition::default()
        .with_current_leader_epoch(-1)
        .with_partition_max_bytes(FETCH_BYTES_MAX);
    let topic = FetchTopic::default().with_topic(topic_name()).with_partitions(vec![partition]);
    let request =
        FetchRequest::default().with_min_bytes(1).with_session_epoch(-1).with_topics(vec![topic]);
    frame(12, &request)
}

/// One request after the other, each waiting for its answer.
pub fn answer(criterion: &mut Criterion) {
    let bench = Bench::start();
    let mut group = criterion.benchmark_group("Produce, acks=1");
    group.sample_size(20).warm_up_time(Duration::from_secs(1));
    for kib in [1, 16, 256] {
        let request = produce(1, batch_of(kib << 10));
        group.throughput(Throughput::Bytes(request.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{kib} KiB")), |bencher| {
            // A topic per sample, which goes with it: the disk does not fill up.
            bencher.iter_custom(|times| {
                bench.runtime.block_on(async {
                    bench.create_topic().await;
                    let began = Instant::now();
                    for _ in 0..times {
                        bench.answer(request.clone()).await;
                    }
                    let took = began.elapsed();
                    bench.delete_topic().await;
                    took
                })
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("Fetch");
    bench.runtime.block_on(async {
        bench.create_topic().await;
        for _ in 0..128 {
            bench.answer(produce(1, batch_of(16 << 10))).await;
        }
    });
    let request = fetch();
    let bytes = bench.runtime.block_on(bench.answer(request.clone()));
    assert!(bytes > FETCH_BYTES_MAX as usize / 2, "only {bytes} bytes were fetched");
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function("1 MiB from memory", |bencher| {
        bencher.iter(|| {
            assert_eq!(bench.runtime.block_on(bench.answer(request.clone())), bytes);
        });
    });
    group.finish();
}
