//! Requests as a client of a given version fills them, and the fields of answers that tests ask for.

use bytes::Bytes;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::ListOffsetsPartitionResponse;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    CreateTopicsRequest, DeleteRecordsRequest, FetchRequest, FetchResponse, InitProducerIdRequest,
    ListOffsetsRequest, MetadataRequest, ProduceRequest, ProduceResponse, TopicName,
};
use uuid::Uuid;

use super::batch::{Batch, Record, read};
use super::client::{Client, text};
use super::code;
use crate::harness::{PATIENCE, unique, until};

/// A topic by both of its names.
#[derive(Clone, Debug)]
pub struct Topic {
    pub name: String,
    pub id: Uuid,
}

impl Topic {
    /// A new topic with one partition that nobody else uses.
    #[track_caller]
    pub fn create(client: &mut Client) -> Topic {
        Topic::create_with(client, 1)
    }

    /// A new topic that nobody else uses.
    #[track_caller]
    pub fn create_with(client: &mut Client, partitions: i32) -> Topic {
        Topic::create_named(client, &unique("topic"), partitions)
    }

    /// A new topic of this name.
    #[track_caller]
    pub fn create_named(client: &mut Client, name: &str, partitions: i32) -> Topic {
        Topic::create_as(client, creatable(name, partitions))
    }

    /// A new topic with these partitions and configs that nobody else uses.
    #[track_caller]
    pub fn create_configured(
        client: &mut Client,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> Topic {
        let config = |(name, value): &(&str, &str)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        };
        let configs = configs.iter().map(config).collect();
        let topic = creatable(&unique("configured"), partitions).with_configs(configs);
        Topic::create_as(client, topic)
    }

    #[track_caller]
    fn create_as(client: &mut Client, topic: CreatableTopic) -> Topic {
        let (name, partitions) = (&topic.name.to_string(), topic.num_partitions);
        let version = client.latest::<CreateTopicsRequest>();
        let request = create_topics(vec![topic]);
        let created = client.call(version, &request).topics.remove(0);
        assert_eq!(created.error_code, 0, "{:?}", created.error_message);
        // Kafka's broker learns from its controller a moment later.
        until("the new topic's leaders", PATIENCE, || {
            let topic = describe(client, name);
            let is_ready = topic.error_code == 0
                && topic.topic_id == created.topic_id
                && topic.partitions.iter().all(|partition| partition.error_code == 0);
            if is_ready { Ok(()) } else { Err(format!("{topic:?}")) }
        });
        let topic = Topic { name: name.to_owned(), id: created.topic_id };
        // And it names a leader a moment before that one serves.
        for partition in 0..partitions {
            until("the new topic's logs", PATIENCE, || {
                let version = client.latest::<FetchRequest>();
                let answer = client.call(version, &fetch(version, &topic, partition, 0));
                let error = fetched(answer).error_code;
                if error == code::NONE { Ok(()) } else { Err(format!("error {error}")) }
            });
        }
        topic
    }

    /// A name that no topic has.
    pub fn unknown() -> Topic {
        Topic { name: unique("unknown"), id: Uuid::new_v4() }
    }

    /// Its name as messages carry it.
    pub fn topic_name(&self) -> TopicName {
        topic_name(&self.name)
    }
}

/// A topic name as messages carry it.
pub fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// What metadata says of one topic, which is not created by asking.
#[track_caller]
pub fn describe(client: &mut Client, name: &str) -> MetadataResponseTopic {
    let version = client.latest::<MetadataRequest>();
    let topic = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![topic]))
        .with_allow_auto_topic_creation(false);
    client.call(version, &request).topics.remove(0)
}

/// One topic of a CreateTopics request.
pub fn creatable(name: &str, partitions: i32) -> CreatableTopic {
    CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
}

/// A CreateTopics request.
pub fn create_topics(topics: Vec<CreatableTopic>) -> CreateTopicsRequest {
    CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(30_000)
}

/// A Produce request of one partition.
pub fn produce(
    version: i16,
    topic: &Topic,
    partition: i32,
    acks: i16,
    records: Option<Bytes>,
) -> ProduceRequest {
    let partition = PartitionProduceData::default().with_index(partition).with_records(records);
    let mut of_topic = TopicProduceData::default().with_partition_data(vec![partition]);
    if version >= 13 {
        of_topic.topic_id = topic.id;
    } else {
        of_topic.name = topic.topic_name();
    }
    ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![of_topic])
}

/// The only partition of a Produce answer.
#[track_caller]
pub fn produced(response: ProduceResponse) -> PartitionProduceResponse {
    let mut topics = response.responses;
    assert_eq!(topics.len(), 1, "{topics:?}");
    let mut partitions = topics.remove(0).partition_responses;
    assert_eq!(partitions.len(), 1, "{partitions:?}");
    partitions.remove(0)
}

/// Appends `batch` to partition 0 with `acks=all`; returns error code and base offset.
#[track_caller]
pub fn append(client: &mut Client, topic: &Topic, batch: &Batch) -> (i16, i64) {
    let version = client.latest::<ProduceRequest>();
    let request = produce(version, topic, 0, -1, Some(batch.encode()));
    let partition = produced(client.call(version, &request));
    (partition.error_code, partition.base_offset)
}

/// Appends values to partition 0 in one batch; returns the base offset.
#[track_caller]
pub fn append_values<V: AsRef<[u8]>>(
    client: &mut Client,
    topic: &Topic,
    values: impl IntoIterator<Item = V>,
) -> i64 {
    let (error, base_offset) = append(client, topic, &Batch::of(values));
    assert_eq!(error, 0);
    base_offset
}

/// A Fetch request of one partition that does not wait.
pub fn fetch(version: i16, topic: &Topic, partition: i32, offset: i64) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20);
    FetchRequest::default()
        .with_max_wait_ms(0)
        .with_min_bytes(1)
        .with_max_bytes(50 << 20)
        .with_session_epoch(if version >= 7 { -1 } else { 0 })
        .with_topics(vec![fetch_topic(version, topic, vec![partition])])
}

/// The partitions of one topic of a Fetch request.
pub fn fetch_topic(version: i16, topic: &Topic, partitions: Vec<FetchPartition>) -> FetchTopic {
    let of_topic = FetchTopic::default().with_partitions(partitions);
    if version >= 13 {
        of_topic.with_topic_id(topic.id)
    } else {
        of_topic.with_topic(topic.topic_name())
    }
}

/// The only partition of a Fetch answer.
#[track_caller]
pub fn fetched(response: FetchResponse) -> PartitionData {
    assert_eq!(response.error_code, 0);
    let mut topics = response.responses;
    assert_eq!(topics.len(), 1, "{topics:?}");
    let mut partitions = topics.remove(0).partitions;
    assert_eq!(partitions.len(), 1, "{partitions:?}");
    partitions.remove(0)
}

/// Every record of partition 0 from `offset` to its end.
#[track_caller]
pub fn read_from(client: &mut Client, topic: &Topic, offset: i64) -> Vec<Record> {
    read_partition(client, topic, 0, offset)
}

/// Every record of a partition from `offset` to its end.
#[track_caller]
pub fn read_partition(
    client: &mut Client,
    topic: &Topic,
    partition: i32,
    mut offset: i64,
) -> Vec<Record> {
    let version = client.latest::<FetchRequest>();
    let mut records = Vec::new();
    loop {
        let answer = fetched(client.call(version, &fetch(version, topic, partition, offset)));
        assert_eq!(answer.error_code, 0, "fetching {topic:?}-{partition} at {offset}");
        let mut batch = read(answer.records.unwrap_or_default());
        batch.retain(|record| record.offset >= offset);
        match batch.last() {
            Some(last) => offset = last.offset + 1,
            None => {
                assert!(offset >= answer.high_watermark, "an empty answer before the end");
                return records;
            }
        }
        records.extend(batch);
    }
}

/// Asks for the offset of `timestamp` (or of one of its sentinels) in a partition.
pub fn list_offsets(topic: &Topic, partition: i32, timestamp: i64) -> ListOffsetsRequest {
    let partition =
        ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(timestamp);
    let of_topic =
        ListOffsetsTopic::default().with_name(topic.topic_name()).with_partitions(vec![partition]);
    ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![of_topic])
}

/// Deletes the records of a partition below `offset`.
pub fn delete_records(topic: &str, partition: i32, offset: i64) -> DeleteRecordsRequest {
    let partition =
        DeleteRecordsPartition::default().with_partition_index(partition).with_offset(offset);
    let of_topic =
        DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
    DeleteRecordsRequest::default().with_topics(vec![of_topic]).with_timeout_ms(30_000)
}

/// Asks for the offset of `timestamp` (or of one of its sentinels) in partition 0.
#[track_caller]
pub fn offset_of(
    client: &mut Client,
    version: i16,
    topic: &Topic,
    timestamp: i64,
) -> ListOffsetsPartitionResponse {
    client.call(version, &list_offsets(topic, 0, timestamp)).topics.remove(0).partitions.remove(0)
}

/// Asks for a producer id without transactions. The generated defaults (0) would name a producer.
pub fn init_producer_id() -> InitProducerIdRequest {
    InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000)
        .with_producer_id((-1).into())
        .with_producer_epoch(-1)
}

/// A producer id with its epoch.
#[track_caller]
pub fn new_producer(client: &mut Client) -> (i64, i16) {
    let version = client.latest::<InitProducerIdRequest>();
    // A coordinator that has just started may ask for patience.
    until("a producer id", PATIENCE, || {
        let answer = client.call(version, &init_producer_id());
        match answer.error_code {
            code::NONE => Ok((answer.producer_id.0, answer.producer_epoch)),
            code::COORDINATOR_LOAD_IN_PROGRESS => Err("the coordinator loads".to_owned()),
            other => panic!("no producer id: error {other}"),
        }
    })
}
