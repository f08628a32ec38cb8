//! A broker for tests: real rooms over a temporary directory, driven by the frames that a client
//! would send.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::{ApiKey, CreateTopicsRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::api::{AnswerBudget, Context, Meter, Refusal, Reply, Resources, Session, begin};
use crate::config::Config;
use crate::group::Groups;
use crate::log::Logs;
use crate::log::batch::{NewRecord, encode};
use crate::log::data_dir::DataDir;
use crate::metadata::journal::Journal;
use crate::metadata::placement::{Broker, SingleNode};
use crate::metadata::{LocalJournal, Metadata, Topic};
use crate::metrics::Metrics;
use crate::security::Authorizer;
use crate::store::Store;
use crate::txn::ProducerIds;
use crate::types::{Clock, ListenerName, ManualClock, Timestamp};

/// A broker without sockets.
pub(crate) struct Bench {
    pub ctx: Arc<Context>,
    /// The connection that all requests come on.
    pub session: Arc<Session>,
    /// The topics, past the authoriser.
    pub metadata: Metadata,
    /// The groups, past the authoriser.
    pub groups: Groups,
    logs: Logs,
    _dir: DataDir,
    _tmp: tempfile::TempDir,
}

impl Bench {
    /// A broker with default configs.
    pub(crate) async fn start() -> Bench {
        Bench::with(|_| {}).await
    }

    /// A broker with some configs changed.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Bench {
        Bench::guarded(change, Authorizer::AllowAll).await
    }

    /// A broker with some configs changed, whose clients may do what `authorizer` allows.
    pub(crate) async fn guarded(change: impl FnOnce(&mut Config), authorizer: Authorizer) -> Bench {
        let tmp = tempfile::tempdir().unwrap();
        let mut config = Config {
            data_dir: tmp.path().join("data"),
            offsets_topic_partitions: 1,
            ..Config::default()
        };
        change(&mut config);
        let config = Arc::new(config);
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
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
        let metadata =
            Metadata::start(logs.clone(), journal.clone(), config.clone(), clock.clone(), &metrics)
                .await
                .unwrap();
        let producer_ids = ProducerIds::start(journal).await.unwrap();
        let groups =
            Groups::start(metadata.clone(), config.clone(), clock.clone(), &metrics).await.unwrap();
        let broker = Broker { id: config.node_id, host: "broker.test".to_owned(), port: 9092 };
        let advertised = [(ListenerName::plaintext(), broker)];
        let ctx = Context {
            cluster_id: dir.cluster_id().to_owned(),
            resources: Resources::new(metadata.clone(), groups.clone(), producer_ids, authorizer),
            placement: Arc::new(SingleNode::new(config.node_id, advertised, dir.epoch())),
            clock,
            meter: Meter::register(&metrics).unwrap(),
            answers: AnswerBudget::register(config.queued_max_response_bytes, &metrics).unwrap(),
            config,
        };
        Bench {
            ctx: Arc::new(ctx),
            session: session(),
            metadata,
            groups,
            logs,
            _dir: dir,
            _tmp: tmp,
        }
    }

    /// Sends one request and decodes its answer, which must be whole and nothing more.
    pub(crate) async fn call<Q: Request>(&self, version: i16, body: Q) -> Q::Response {
        decode::<Q::Response>(version, chunks(self.send(version, &body).await.unwrap()))
    }

    /// Sends one request and waits for what becomes of it.
    pub(crate) async fn send<Q: Request>(&self, version: i16, body: &Q) -> Result<Reply, Refusal> {
        self.send_frame(frame(version, body)).await
    }

    /// Sends one request frame and waits for what becomes of it.
    pub(crate) async fn send_frame(&self, frame: Bytes) -> Result<Reply, Refusal> {
        Ok(begin(&self.ctx, &self.session, frame).await?.into_pending().1.await)
    }

    /// Creates a topic as a client does.
    pub(crate) async fn topic(&self, name: &'static str, partitions: i32) -> Arc<Topic> {
        let topic = CreatableTopic::default()
            .with_name(StrBytes::from_static_str(name).into())
            .with_num_partitions(partitions)
            .with_replication_factor(1);
        let response = self.call(7, CreateTopicsRequest::default().with_topics(vec![topic])).await;
        assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0].error_message);
        self.metadata.image().topic(name).unwrap().clone()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.logs.shutdown();
    }
}

/// The connection of a client on this machine.
pub(crate) fn session() -> Arc<Session> {
    let address = SocketAddr::from(([127, 0, 0, 1], 40_000));
    Arc::new(Session::plaintext(ListenerName::plaintext(), address, address))
}

/// The pieces of an answer.
pub(crate) fn chunks(reply: Reply) -> Vec<Bytes> {
    match reply {
        Reply::Frame(head, records, _) => [vec![head.freeze()], records].concat(),
        other => panic!("no answer but {other:?}"),
    }
}

/// A request frame without its length, as a client encodes it.
pub(crate) fn frame<Q: Request>(version: i16, body: &Q) -> Bytes {
    let api = ApiKey::try_from(Q::KEY).unwrap();
    let header = RequestHeader::default()
        .with_request_api_key(Q::KEY)
        .with_request_api_version(version)
        .with_correlation_id(77)
        .with_client_id(Some(StrBytes::from_static_str("test")));
    let mut frame = BytesMut::new();
    header.encode(&mut frame, api.request_header_version(version)).unwrap();
    body.encode(&mut frame, version).unwrap();
    frame.freeze()
}

/// Decodes a response frame with its length.
pub(crate) fn decode<R: Decodable + HeaderVersion>(version: i16, chunks: Vec<Bytes>) -> R {
    let mut whole = BytesMut::new();
    chunks.into_iter().for_each(|chunk| whole.put(chunk));
    let mut whole = whole.freeze();
    assert_eq!(whole.get_i32() as usize, whole.len());
    let header = ResponseHeader::decode(&mut whole, R::header_version(version)).unwrap();
    assert_eq!(header.correlation_id, 77);
    let body = R::decode(&mut whole, version).unwrap();
    assert!(whole.is_empty(), "{} bytes behind the answer", whole.len());
    body
}

/// A batch of one record per value, all at `timestamp`.
pub(crate) fn batch(timestamp: i64, values: &[&'static str]) -> Bytes {
    let records: Vec<NewRecord> = values
        .iter()
        .map(|value| NewRecord {
            value: Some(Bytes::from_static(value.as_bytes())),
            timestamp: Timestamp(timestamp),
            ..NewRecord::default()
        })
        .collect();
    encode(&records, None)
}

/// A client on a socket, without any knowledge of what it sends.
pub(crate) struct Client {
    stream: TcpStream,
}

impl Client {
    /// Speaks on `stream`.
    pub(crate) fn new(stream: TcpStream) -> Client {
        Client { stream }
    }

    /// Sends a request under a correlation id.
    pub(crate) async fn send(&mut self, correlation: i32, frame: Bytes) {
        let mut frame = BytesMut::from(&frame[..]);
        frame[4..8].copy_from_slice(&correlation.to_be_bytes());
        self.send_raw(&frame).await;
    }

    /// Sends bytes as one frame.
    pub(crate) async fn send_raw(&mut self, frame: &[u8]) {
        let mut whole = BytesMut::with_capacity(4 + frame.len());
        whole.put_i32(frame.len() as i32);
        whole.put_slice(frame);
        self.stream.write_all(&whole).await.unwrap();
    }

    /// The next answer: its correlation id, and the rest.
    pub(crate) async fn receive(&mut self) -> (i32, Bytes) {
        let length = self.stream.read_i32().await.unwrap();
        let mut frame = vec![0; length as usize];
        self.stream.read_exact(&mut frame).await.unwrap();
        let mut frame = Bytes::from(frame);
        (frame.get_i32(), frame)
    }

    /// The socket.
    pub(crate) fn into_inner(self) -> TcpStream {
        self.stream
    }
}

/// Requests for those who know no message.
pub(crate) mod sample {
    use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
    use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
    use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
    use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
    use kafka_protocol::messages::{
        ApiVersionsRequest, FetchRequest, GroupId, JoinGroupRequest, MetadataRequest,
        ProduceRequest,
    };

    use super::*;

    /// ApiVersions v0.
    pub(crate) fn api_versions() -> Bytes {
        frame(0, &ApiVersionsRequest::default())
    }

    /// Metadata v9 of a topic.
    pub(crate) fn metadata(topic: &'static str) -> Bytes {
        let name = StrBytes::from_static_str(topic).into();
        let topic = MetadataRequestTopic::default().with_name(Some(name));
        frame(9, &MetadataRequest::default().with_topics(Some(vec![topic])))
    }

    /// Produce v9 of one record to partition 0.
    pub(crate) fn produce(topic: &'static str, acks: i16) -> Bytes {
        let partition = PartitionProduceData::default().with_records(Some(batch(1000, &["x"])));
        let topic = TopicProduceData::default()
            .with_name(StrBytes::from_static_str(topic).into())
            .with_partition_data(vec![partition]);
        frame(9, &ProduceRequest::default().with_acks(acks).with_topic_data(vec![topic]))
    }

    /// Fetch v12 of partition 0 from its start.
    pub(crate) fn long_poll(topic: &'static str, wait_ms: i32) -> Bytes {
        let partition = FetchPartition::default()
            .with_current_leader_epoch(-1)
            .with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default()
            .with_topic(StrBytes::from_static_str(topic).into())
            .with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_max_wait_ms(wait_ms)
            .with_min_bytes(1)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        frame(12, &request)
    }

    /// JoinGroup v3 of a new member, which waits for others as long as the group's first rebalance is
    /// delayed.
    pub(crate) fn join_group(group: &'static str) -> Bytes {
        let protocol =
            JoinGroupRequestProtocol::default().with_name(StrBytes::from_static_str("range"));
        let request = JoinGroupRequest::default()
            .with_group_id(GroupId(StrBytes::from_static_str(group)))
            .with_session_timeout_ms(60_000)
            .with_rebalance_timeout_ms(600_000)
            .with_protocol_type(StrBytes::from_static_str("consumer"))
            .with_protocols(vec![protocol]);
        frame(3, &request)
    }
}
