//! Fetch, driven by a client's frames and decoded by the codec: its own encoder is the measure of
//! the hand-written one.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{FetchResponse, TopicName};
use kafka_protocol::protocol::{Encodable, StrBytes};

use super::*;
use crate::api::tests::fixture::{Bench, batch, chunks, decode, frame};
use crate::log::Durable;
use crate::log::{AppendOptions, AppendOrigin};
use crate::metadata::Topic;
use crate::types::{LogId, PartitionId};

const OPTIONS: AppendOptions = AppendOptions {
    durable: Durable::Written,
    batch_bytes_max: 1 << 20,
    origin: AppendOrigin::Broker,
};

fn name(topic: &'static str) -> TopicName {
    StrBytes::from_static_str(topic).into()
}

fn request(version: i16, topic: &Topic, parts: &[(i32, i64)]) -> FetchRequest {
    let partitions = parts.iter().map(|(index, offset)| {
        FetchPartition::default()
            .with_partition(*index)
            .with_fetch_offset(*offset)
            .with_current_leader_epoch(-1)
            .with_partition_max_bytes(1 << 20)
    });
    let mut asked = FetchTopic::default().with_partitions(partitions.collect());
    if version >= 13 {
        asked.topic_id = topic.id.0;
    } else {
        asked.topic = super::super::wire_name(&topic.name);
    }
    FetchRequest::default()
        .with_max_wait_ms(0)
        .with_min_bytes(1)
        .with_max_bytes(50 << 20)
        .with_session_epoch(if version >= 7 { -1 } else { 0 })
        .with_topics(vec![asked])
}

fn only(response: &FetchResponse) -> &PartitionData {
    &response.responses[0].partitions[0]
}

async fn append(bench: &Bench, topic: &Topic, index: u32, records: Bytes) {
    let log = bench.metadata.log(topic.id, PartitionId(index)).unwrap();
    log.append(records, OPTIONS).await.unwrap();
}

#[tokio::test]
async fn every_version_returns_the_batches_as_they_lie_in_the_log() {
    let bench = Bench::start().await;
    let topic = bench.topic("clicks", 2).await;
    append(&bench, &topic, 0, batch(1000, &["a", "b"])).await;
    append(&bench, &topic, 1, batch(1000, &["c"])).await;
    for version in 4..=18 {
        let sent = frame(version, &request(version, &topic, &[(0, 0), (1, 0)]));
        let reply = crate::api::begin(&bench.ctx, &bench.session, sent)
            .await
            .unwrap()
            .into_pending()
            .1
            .await;
        let chunks = chunks(reply);
        let answer: FetchResponse = decode(version, chunks.clone());
        assert_eq!((answer.error_code, answer.session_id), (0, 0));
        let partitions = &answer.responses[0].partitions;
        assert_eq!(partitions.len(), 2);
        assert_eq!((partitions[0].high_watermark, partitions[0].last_stable_offset), (2, 2));
        let records = partitions[0].records.clone().unwrap();
        // All but the fields that the broker sets (base offset, leader epoch) is as it came.
        assert_eq!(records[16..], batch(1000, &["a", "b"])[16..]);
        assert!(chunks.contains(&records), "records travel as a chunk");
        // The codec's own encoding of what was decoded is the same, byte for byte.
        let mut again = BytesMut::new();
        answer.encode(&mut again, version).unwrap();
        let mut whole = BytesMut::new();
        chunks.into_iter().for_each(|chunk| whole.put(chunk));
        assert!(whole.ends_with(&again), "v{version}");
    }
}

#[tokio::test]
async fn refusals_are_by_partition() {
    let bench = Bench::start().await;
    let topic = bench.topic("clicks", 1).await;
    append(&bench, &topic, 0, batch(1000, &["a"])).await;
    let parts = [(0, 0), (0, 5), (0, -7), (9, 0)];
    let answer = bench.call(12, request(12, &topic, &parts)).await;
    let codes: Vec<i16> = answer.responses[0].partitions.iter().map(|p| p.error_code).collect();
    assert_eq!(codes, [0, 1, 1, 3]);
    let refused = &answer.responses[0].partitions[1];
    assert_eq!((refused.high_watermark, refused.records.as_deref()), (-1, Some(&[][..])));

    let mut unknown = request(12, &topic, &[(0, 0)]);
    unknown.topics[0].topic = name("nowhere");
    assert_eq!(only(&bench.call(12, unknown).await).error_code, 3);
    let mut unknown = request(13, &topic, &[(0, 0)]);
    unknown.topics[0].topic_id = TopicId::random().0;
    assert_eq!(only(&bench.call(13, unknown).await).error_code, 100);
}

#[tokio::test]
async fn leader_epochs_fence_both_ways() {
    let bench = Bench::start().await;
    let topic = bench.topic("clicks", 1).await;
    let log = LogId { topic: topic.id, partition: PartitionId(0) };
    let (_, epoch) = bench.ctx.placement.leader(log);
    for (believed, code) in [(epoch.0 - 1, 74), (epoch.0, 0), (epoch.0 + 1, 75)] {
        let mut request = request(12, &topic, &[(0, 0)]);
        request.topics[0].partitions[0].current_leader_epoch = believed;
        // An epoch of -1 is none.
        let code = if believed < 0 { 0 } else { code };
        assert_eq!(only(&bench.call(12, request).await).error_code, code, "{believed}");
    }
}

#[tokio::test]
async fn sessions_that_were_never_given_out_are_not_found() {
    let bench = Bench::start().await;
    let topic = bench.topic("clicks", 1).await;
    let mut asked = request(12, &topic, &[(0, 0)]);
    asked.session_epoch = 0;
    assert_eq!(bench.call(12, asked.clone()).await.session_id, 0);
    (asked.session_id, asked.session_epoch) = (5, 1);
    let answer = bench.call(12, asked).await;
    assert_eq!((answer.error_code, answer.responses.len()), (70, 0));
}

#[tokio::test]
async fn first_batch_always_fits_and_the_limit_holds_for_the_rest() {
    let bench = Bench::start().await;
    let topic = bench.topic("clicks", 2).await;
    for index in [0, 1] {
        append(&bench, &topic, index, batch(1000, &["a large enough value"])).await;
    }
    let mut asked = request(12, &topic, &[(0, 0), (1, 0)]);
    asked.max_bytes = 1;
    let answer = bench.call(12, asked.clone()).await;
    let sizes = |answer: &FetchResponse| -> Vec<usize> {
        let partitions = answer.responses[0].partitions.iter();
        partitions.map(|p| p.records.as_ref().map_or(0, Bytes::len)).collect()
    };
    let size = batch(1000, &["a large enough value"]).len();
    assert_eq!(sizes(&answer), [size, 0]);
    asked.max_bytes = 1 << 20;
    for partition in &mut asked.topics[0].partitions {
        partition.partition_max_bytes = 1;
    }
    assert_eq!(sizes(&bench.call(12, asked).await), [size, 0]);
}

#[tokio::test]
async fn long_poll_ends_with_the_record_that_it_waits_for() {
    let bench = Bench::start().await;
    let topic = bench.topic("clicks", 2).await;
    let mut asked = request(12, &topic, &[(0, 0), (1, 0)]);
    asked.max_wait_ms = 60_000;
    let begun = crate::api::begin(&bench.ctx, &bench.session, frame(12, &asked)).await.unwrap();
    let waiting = tokio::spawn(begun.into_pending().1);
    // Let the poll begin to wait; without that it merely finds the record at once.
    tokio::task::yield_now().await;
    append(&bench, &topic, 1, batch(1000, &["late"])).await;
    let chunks = chunks(waiting.await.unwrap());
    let answer: FetchResponse = decode(12, chunks);
    assert!(!answer.responses[0].partitions[1].records.as_ref().unwrap().is_empty());
}

#[tokio::test]
async fn long_poll_gives_up_in_time_and_ends_when_the_topic_goes() {
    let bench = Bench::start().await;
    let topic = bench.topic("clicks", 1).await;
    let mut asked = request(12, &topic, &[(0, 0)]);
    asked.max_wait_ms = 20;
    let answer = bench.call(12, asked.clone()).await;
    assert_eq!((only(&answer).error_code, only(&answer).high_watermark), (0, 0));

    asked.max_wait_ms = 60_000;
    let begun = crate::api::begin(&bench.ctx, &bench.session, frame(12, &asked)).await.unwrap();
    let waiting = tokio::spawn(begun.into_pending().1);
    tokio::task::yield_now().await;
    bench.metadata.delete(topic.id).await.unwrap();
    let chunks = chunks(waiting.await.unwrap());
    assert_eq!(only(&decode(12, chunks)).error_code, 3);
}

#[tokio::test]
async fn fetched_bytes_are_counted() {
    let bench = Bench::start().await;
    let topic = bench.topic("clicks", 1).await;
    append(&bench, &topic, 0, batch(1000, &["a"])).await;
    bench.call(12, request(12, &topic, &[(0, 0)])).await;
    let counters = bench.ctx.meter.topic(&topic, || true).unwrap();
    assert_eq!(counters.bytes_out.get(), batch(1000, &["a"]).len() as u64);
}

#[tokio::test]
async fn long_poll_gathers_from_all_partitions_until_there_is_enough() {
    let bench = Bench::start().await;
    let topic = bench.topic("clicks", 2).await;
    let size = batch(1000, &["a"]).len();
    append(&bench, &topic, 0, batch(1000, &["a"])).await;
    let mut asked = request(12, &topic, &[(0, 0), (1, 0)]);
    (asked.max_wait_ms, asked.min_bytes) = (60_000, 4 * size as i32);
    let begun = crate::api::begin(&bench.ctx, &bench.session, frame(12, &asked)).await.unwrap();
    let waiting = tokio::spawn(begun.into_pending().1);
    for index in [1, 0, 1] {
        tokio::task::yield_now().await;
        append(&bench, &topic, index, batch(1000, &["a"])).await;
    }
    let chunks = chunks(waiting.await.unwrap());
    let answer: FetchResponse = decode(12, chunks);
    let partitions = answer.responses[0].partitions.iter();
    let sizes: Vec<usize> = partitions.map(|p| p.records.as_ref().map_or(0, Bytes::len)).collect();
    assert_eq!(sizes, [2 * size, 2 * size]);
}

/// Appends batches of one size to a partition.
async fn fill(bench: &Bench, topic: &Topic, batches: usize) -> usize {
    for _ in 0..batches {
        append(bench, topic, 0, batch(1000, &["a"])).await;
    }
    batch(1000, &["a"]).len()
}

/// How a request that would wait for a minute ends when nothing happens: at once, or not.
async fn at_once(bench: &Bench, mut asked: FetchRequest) -> Option<FetchResponse> {
    asked.max_wait_ms = 60_000;
    let begun = crate::api::begin(&bench.ctx, &bench.session, frame(12, &asked)).await.unwrap();
    let answered = tokio::time::timeout(Duration::from_secs(5), begun.into_pending().1).await;
    answered.ok().map(|reply| decode(12, chunks(reply)))
}

#[tokio::test]
async fn min_bytes_that_no_answer_can_have_do_not_make_a_fetch_wait() {
    let bench = Bench::start().await;
    let topic = bench.topic("clicks", 2).await;
    let size = fill(&bench, &topic, 3).await;
    let bytes = |answer: &FetchResponse| only(answer).records.as_ref().map_or(0, Bytes::len);

    let mut above_max = request(12, &topic, &[(0, 0)]);
    (above_max.min_bytes, above_max.max_bytes) = (1 << 30, 2 * size as i32);
    assert_eq!(bytes(&at_once(&bench, above_max).await.unwrap()), 2 * size);

    let mut above_partition = request(12, &topic, &[(0, 0), (1, 0)]);
    above_partition.min_bytes = 1 << 30;
    above_partition.topics[0].partitions[0].partition_max_bytes = 2 * size as i32;
    assert_eq!(bytes(&at_once(&bench, above_partition).await.unwrap()), 2 * size);
}

#[tokio::test]
async fn an_error_in_one_partition_ends_the_wait_for_all() {
    let bench = Bench::start().await;
    let topic = bench.topic("clicks", 2).await;
    for wrong in [(0, 7), (0, -3), (9, 0)] {
        let asked = request(12, &topic, &[(1, 0), wrong]);
        let answer = at_once(&bench, asked).await.unwrap();
        let codes: Vec<i16> = answer.responses[0].partitions.iter().map(|p| p.error_code).collect();
        assert!(codes[0] == 0 && codes[1] != 0, "{codes:?}");
    }
}

#[tokio::test]
async fn a_full_request_is_answered_whatever_session_it_names() {
    let bench = Bench::start().await;
    let topic = bench.topic("clicks", 1).await;
    fill(&bench, &topic, 1).await;
    for (id, epoch) in [(-1, -1), (5, -1), (5, 0), (0, 0)] {
        let mut asked = request(12, &topic, &[(0, 0)]);
        (asked.session_id, asked.session_epoch) = (id, epoch);
        let answer = bench.call(12, asked).await;
        assert_eq!((answer.error_code, answer.session_id), (0, 0), "session {id}, epoch {epoch}");
        assert!(!only(&answer).records.as_ref().unwrap().is_empty());
    }
    for (id, epoch) in [(0, 1), (7, 3), (-1, 1), (0, -2)] {
        let mut asked = request(12, &topic, &[(0, 0)]);
        (asked.session_id, asked.session_epoch) = (id, epoch);
        assert_eq!(bench.call(12, asked).await.error_code, 70, "session {id}, epoch {epoch}");
    }
}

#[tokio::test]
async fn a_long_poll_reads_nothing_before_it_has_enough() {
    let bench = Bench::start().await;
    let topic = bench.topic("clicks", 1).await;
    let log = bench.metadata.log(topic.id, PartitionId(0)).unwrap();
    let size = fill(&bench, &topic, 1).await;
    for isolation in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
        let from = log.span().high_watermark;
        append(&bench, &topic, 0, batch(1000, &["a"])).await;
        let read =
            log.read(ReadRequest { from, bytes_max: 1 << 20, at_least_one: true, isolation });
        let partition = FetchedPartition {
            index: 0,
            bytes_max: 1 << 20,
            source: Ok((log.clone(), from)),
            answer: Ok(read.await.unwrap()),
        };
        let mut watched = Watched::of(&partition, isolation).unwrap();
        assert_eq!((watched.read_bytes, watched.look()), (size, Some(0)));
        fill(&bench, &topic, 3).await;
        assert_eq!(watched.look(), Some(3 * size), "what came is counted without a read");
        fill(&bench, &topic, 1).await;
        assert_eq!(watched.look(), Some(size), "and nothing twice");
        log.trim(from.plus(1)).await.unwrap();
        assert_eq!(watched.look(), None, "a log that starts later has to be read");
    }
}

#[tokio::test]
async fn answers_that_find_no_room_wait_and_come_without_records_in_time() {
    let bench = Bench::start().await;
    let topic = bench.topic("clicks", 1).await;
    let size = fill(&bench, &topic, 1).await;
    let all = bench.ctx.answers.take_all_of_records();
    let mut asked = request(12, &topic, &[(0, 0)]);
    asked.max_wait_ms = 20;
    let answer = bench.call(12, asked.clone()).await;
    assert_eq!((only(&answer).error_code, only(&answer).high_watermark), (0, 1));
    assert!(only(&answer).records.as_ref().is_none_or(Bytes::is_empty));
    assert!(bench.ctx.answers.is_short_of(&all));

    asked.max_wait_ms = 60_000;
    let begun = crate::api::begin(&bench.ctx, &bench.session, frame(12, &asked)).await.unwrap();
    let waiting = tokio::spawn(begun.into_pending().1);
    tokio::task::yield_now().await;
    drop(all);
    let reply = waiting.await.unwrap();
    let Reply::Frame(_, _, held) = &reply else { panic!("no answer but {reply:?}") };
    assert_eq!(held.bytes(), size, "what the answer takes is charged, no more");
    let answer: FetchResponse = decode(12, chunks(reply));
    assert_eq!(only(&answer).records.as_ref().unwrap().len(), size);
}
