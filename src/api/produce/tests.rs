//! Produce, driven by a client's frames.

use bytes::BytesMut;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{CreateTopicsRequest, ProduceRequest, ProduceResponse};
use kafka_protocol::protocol::StrBytes;

use super::*;
use crate::api::tests::fixture::{Bench, batch, chunks};
use crate::log::batch::{NewRecord, encode};
use crate::log::{Isolation, ReadRequest};
use crate::types::Offset;

fn request(acks: i16, topic: TopicProduceData, parts: Vec<(i32, Bytes)>) -> ProduceRequest {
    let partitions = parts.into_iter().map(|(index, records)| {
        PartitionProduceData::default().with_index(index).with_records(Some(records))
    });
    ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(1000)
        .with_topic_data(vec![topic.with_partition_data(partitions.collect())])
}

fn named(name: &'static str) -> TopicProduceData {
    TopicProduceData::default().with_name(StrBytes::from_static_str(name).into())
}

fn only(response: &ProduceResponse) -> &PartitionProduceResponse {
    &response.responses[0].partition_responses[0]
}

#[tokio::test]
async fn every_version_appends_and_answers_the_base_offset() {
    let bench = Bench::start().await;
    let topic = bench.topic("clicks", 1).await;
    for (appended, version) in (3..=13).enumerate() {
        let data = if version >= 13 {
            TopicProduceData::default().with_topic_id(topic.id.0)
        } else {
            named("clicks")
        };
        let acks = if version % 2 == 0 { 1 } else { -1 };
        let records = batch(1000, &["a", "b"]);
        let answer = bench.call(version, request(acks, data, vec![(0, records)])).await;
        let partition = only(&answer);
        assert_eq!(partition.error_code, 0, "v{version}: {:?}", partition.error_message);
        assert_eq!(partition.base_offset, 2 * appended as i64);
        assert_eq!(partition.log_append_time_ms, -1);
        assert_eq!(partition.log_start_offset, if version >= 5 { 0 } else { -1 });
        if version >= 13 {
            assert_eq!(answer.responses[0].topic_id, topic.id.0);
        } else {
            assert_eq!(answer.responses[0].name.as_str(), "clicks");
        }
    }
    let counters = bench.ctx.meter.topic(&topic, || true).unwrap();
    assert_eq!(counters.records_in.get(), 22);
    assert_eq!(counters.bytes_in.get(), 11 * batch(1000, &["a", "b"]).len() as u64);
}

#[tokio::test]
async fn unknown_places_are_refused_each_by_itself() {
    let bench = Bench::start().await;
    bench.topic("clicks", 1).await;
    let records = batch(1000, &["a"]);
    let parts = vec![(0, records.clone()), (7, records.clone()), (-1, records.clone())];
    let answer = bench.call(9, request(-1, named("clicks"), parts)).await;
    let codes: Vec<i16> =
        answer.responses[0].partition_responses.iter().map(|p| p.error_code).collect();
    assert_eq!(codes, [0, 3, 3]);
    let answer = bench.call(9, request(-1, named("nowhere"), vec![(0, records.clone())])).await;
    assert_eq!((only(&answer).error_code, only(&answer).base_offset), (3, -1));
    let unknown = TopicProduceData::default().with_topic_id(TopicId::random().0);
    let answer = bench.call(13, request(-1, unknown, vec![(0, records)])).await;
    assert_eq!(only(&answer).error_code, 100);
}

#[tokio::test]
async fn acks_zero_is_silent_when_it_works_and_closes_when_not() {
    let bench = Bench::start().await;
    let topic = bench.topic("clicks", 1).await;
    let good = request(0, named("clicks"), vec![(0, batch(1000, &["a"]))]);
    assert!(matches!(bench.send(9, &good).await, Ok(Reply::Silence)));
    let log = bench.metadata.log(topic.id, PartitionId(0)).unwrap();
    assert_eq!(log.span().end, Offset::new(1));
    let bad = request(0, named("nowhere"), vec![(0, batch(1000, &["a"]))]);
    assert!(matches!(bench.send(9, &bad).await, Ok(Reply::Close(_))));
}

#[tokio::test]
async fn acks_out_of_range_are_refused() {
    let bench = Bench::start().await;
    bench.topic("clicks", 1).await;
    let records = batch(1000, &["a"]);
    let answer = bench.call(9, request(2, named("clicks"), vec![(0, records)])).await;
    assert_eq!(only(&answer).error_code, 21);
}

#[tokio::test]
async fn a_request_with_plain_and_transactional_batches_is_judged_as_kafka_does() {
    let bench = Bench::start().await;
    let topic = bench.topic("clicks", 2).await;
    let plain = || batch(1000, &["a"]);
    let transactional = || {
        let mut batch = BytesMut::from(&plain()[..]);
        batch[22] |= 0x10;
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        batch.freeze()
    };
    let codes = async |id: Option<&'static str>, parts: Vec<(i32, Bytes)>| {
        let id = id.map(|id| StrBytes::from_static_str(id).into());
        let request = request(-1, named("clicks"), parts).with_transactional_id(id);
        let answer = bench.call(9, request).await;
        let partitions = answer.responses[0].partition_responses.iter();
        partitions.map(|partition| partition.error_code).collect::<Vec<_>>()
    };
    // Without a transactional id the whole request is refused, whatever comes first.
    assert_eq!(codes(None, vec![(0, plain()), (1, transactional())]).await, [53, 53]);
    assert_eq!(codes(None, vec![(0, transactional()), (1, plain())]).await, [53, 53]);
    let log = bench.metadata.log(topic.id, PartitionId(0)).unwrap();
    assert_eq!(log.span().end, Offset::ZERO);
    // With one, each batch is judged by itself.
    assert_eq!(codes(Some("t"), vec![(0, plain()), (1, transactional())]).await, [0, 49]);
    assert_eq!(codes(Some("t"), vec![(0, plain()), (1, plain())]).await, [0, 0]);
    assert_eq!(log.span().end, Offset::new(2));
}

#[tokio::test]
async fn crafted_batches_store_nothing() {
    let bench = Bench::start().await;
    let topic = bench.topic("clicks", 1).await;
    let good = batch(1000, &["a"]);
    let altered = |at: usize, byte: u8| {
        let mut bytes = BytesMut::from(&good[..]);
        bytes[at] = byte;
        bytes.freeze()
    };
    let mut twice = BytesMut::from(&good[..]);
    twice.extend_from_slice(&good);
    let cases = [
        ("no batch", Bytes::new(), 87),
        ("cut in the header", good.slice(..16), 87),
        ("magic 1", altered(16, 1), 87),
        ("magic 9", altered(16, 9), 2),
        ("cut in the records", good.slice(..good.len() - 1), 87),
        ("two batches", twice.freeze(), 87),
        ("control batch", altered(22, 0x20), 87),
        ("transactional without an id", altered(22, 0x10), 53),
        ("wrong crc", altered(good.len() - 1, 0xff), 2),
    ];
    for (what, records, code) in cases {
        let answer = bench.call(9, request(-1, named("clicks"), vec![(0, records)])).await;
        assert_eq!(only(&answer).error_code, code, "{what}: {:?}", only(&answer).error_message);
    }
    let log = bench.metadata.log(topic.id, PartitionId(0)).unwrap();
    assert_eq!(log.span().end, Offset::ZERO);
}

#[tokio::test]
async fn requests_keep_their_order_when_they_overlap() {
    let bench = Bench::start().await;
    bench.topic("clicks", 1).await;
    let mut later = Vec::new();
    for _ in 0..20 {
        let request = request(-1, named("clicks"), vec![(0, batch(1000, &["a"]))]);
        let frame = crate::api::tests::fixture::frame(9, &request);
        let begun = crate::api::begin(&bench.ctx, &bench.session, frame);
        later.push(begun.await.unwrap().into_pending().1);
    }
    for (expected, reply) in later.into_iter().enumerate() {
        let chunks = chunks(reply.await);
        let answer: ProduceResponse = crate::api::tests::fixture::decode(9, chunks);
        assert_eq!(only(&answer).base_offset, expected as i64);
    }
}

#[tokio::test]
async fn a_batch_must_fit_a_segment_in_the_form_that_is_stored() {
    let bench = Bench::start().await;
    for (name, codec) in [("packed", "zstd"), ("plain", "uncompressed"), ("as-sent", "producer")] {
        let configs = [
            ("compression.type", codec),
            ("segment.bytes", "1048576"),
            ("max.message.bytes", "4000000"),
        ];
        let config = |(name, value): (&'static str, &'static str)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_static_str(name))
                .with_value(Some(StrBytes::from_static_str(value)))
        };
        let topic = CreatableTopic::default()
            .with_name(StrBytes::from_static_str(name).into())
            .with_num_partitions(1)
            .with_replication_factor(1)
            .with_configs(configs.map(config).to_vec());
        let created = CreateTopicsRequest::default().with_topics(vec![topic]);
        assert_eq!(bench.call(7, created).await.topics[0].error_code, 0);
    }
    let error = async |name, records: &Bytes| {
        let answer = bench.call(9, request(-1, named(name), vec![(0, records.clone())])).await;
        only(&answer).error_code
    };
    let zeros = |bytes| {
        let value = Some(Bytes::from(vec![0; bytes]));
        encode(&[NewRecord { value, ..NewRecord::default() }], None)
    };
    let large = zeros(2_000_000);
    assert_eq!(error("as-sent", &large).await, 18);
    assert_eq!(error("plain", &large).await, 18);
    assert_eq!(error("packed", &large).await, 0);

    let packed = bench.metadata.image().topic("packed").unwrap().id;
    let log = bench.metadata.log(packed, PartitionId(0)).unwrap();
    let everything = ReadRequest {
        from: Offset::ZERO,
        bytes_max: 4_000_000,
        at_least_one: true,
        isolation: Isolation::ReadUncommitted,
    };
    let small = log.read(everything).await.unwrap().records;
    assert!(small.len() < 1 << 20);
    assert_eq!(error("as-sent", &small).await, 0);
    assert_eq!(error("plain", &small).await, 18);
    // What is too large for the topic, too, is refused for that.
    assert_eq!(error("as-sent", &zeros(5_000_000)).await, 10);
}
