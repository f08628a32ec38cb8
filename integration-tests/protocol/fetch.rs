//! Fetch: ranges, limits, waiting, ids and isolation.

use std::time::{Duration, Instant};

use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::fetch_request::FetchPartition;

use super::batch::{Batch, read};
use super::requests::{Topic, append, append_values, fetch, fetch_topic, fetched};
use super::{broker, code};

#[test]
fn a_fetch_returns_whole_batches_from_the_one_that_holds_the_offset() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    append_values(&mut client, &topic, ["0", "1", "2"]);
    append_values(&mut client, &topic, ["3", "4"]);
    for version in client.versions::<FetchRequest>() {
        for (offset, first) in [(0, 0), (1, 0), (2, 0), (3, 3), (4, 3)] {
            let answer = fetched(client.call(version, &fetch(version, &topic, 0, offset)));
            assert_eq!(answer.error_code, code::NONE);
            assert_eq!((answer.high_watermark, answer.last_stable_offset), (5, 5));
            if version >= 5 {
                assert_eq!(answer.log_start_offset, 0);
            }
            let records = read(answer.records.expect("records"));
            let offsets: Vec<i64> = records.iter().map(|record| record.offset).collect();
            assert_eq!(offsets, (first..5).collect::<Vec<_>>(), "v{version} at {offset}");
        }
    }
}

#[test]
fn offsets_outside_the_log_are_told_from_its_end() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    append_values(&mut client, &topic, ["0", "1"]);
    for version in client.versions::<FetchRequest>() {
        let at_end = fetched(client.call(version, &fetch(version, &topic, 0, 2)));
        assert_eq!(at_end.error_code, code::NONE);
        assert!(at_end.records.is_none_or(|records| records.is_empty()));
        for outside in [3, -1, i64::MAX] {
            let answer = fetched(client.call(version, &fetch(version, &topic, 0, outside)));
            assert_eq!(answer.error_code, code::OFFSET_OUT_OF_RANGE, "v{version} {outside}");
            assert_eq!(answer.high_watermark, -1);
        }
    }
}

#[test]
fn an_unknown_partition_is_said_to_be_unknown() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    for version in client.versions::<FetchRequest>() {
        let request = fetch(version, &Topic::unknown(), 0, 0);
        let answer = fetched(client.call(version, &request));
        let unknown =
            if version >= 13 { code::UNKNOWN_TOPIC_ID } else { code::UNKNOWN_TOPIC_OR_PARTITION };
        assert_eq!(answer.error_code, unknown, "v{version}");
        let answer = fetched(client.call(version, &fetch(version, &topic, 7, 0)));
        assert_eq!(answer.error_code, code::UNKNOWN_TOPIC_OR_PARTITION, "v{version}");
        assert_eq!(answer.partition_index, 7);
    }
}

#[test]
fn a_fetch_at_the_end_waits_as_long_as_it_may() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    for version in client.versions::<FetchRequest>() {
        let request = fetch(version, &topic, 0, 0).with_max_wait_ms(300);
        let start = Instant::now();
        let answer = fetched(client.call(version, &request));
        assert_eq!(answer.error_code, code::NONE);
        let waited = start.elapsed();
        assert!(waited >= Duration::from_millis(290), "v{version} waited {waited:?}");
        assert!(waited < Duration::from_secs(10), "v{version} waited {waited:?}");
        let start = Instant::now();
        client.call(
            version,
            &fetch(version, &topic, 0, 0).with_max_wait_ms(20_000).with_min_bytes(0),
        );
        assert!(start.elapsed() < Duration::from_secs(10), "min_bytes=0 waited");
    }
}

#[test]
fn an_append_ends_the_wait() {
    let broker = broker();
    let (mut client, mut producer) = (broker.connect(), broker.connect());
    let topic = Topic::create(&mut client);
    for (version, offset) in client.versions::<FetchRequest>().into_iter().zip(0..) {
        let request = fetch(version, &topic, 0, offset).with_max_wait_ms(25_000);
        let start = Instant::now();
        let waiting = client.send(version, &request);
        append_values(&mut producer, &topic, ["awaited"]);
        let answer = fetched(client.receive::<FetchRequest>(version, waiting));
        assert_eq!(read(answer.records.expect("records")).len(), 1);
        assert!(start.elapsed() < Duration::from_secs(10), "the append did not end the wait");
    }
}

#[test]
fn a_fetch_waits_until_there_are_min_bytes() {
    let broker = broker();
    let (mut client, mut producer) = (broker.connect(), broker.connect());
    let topic = Topic::create(&mut client);
    let version = client.latest::<FetchRequest>();
    let request = fetch(version, &topic, 0, 0).with_max_wait_ms(25_000).with_min_bytes(20_000);
    let start = Instant::now();
    let waiting = client.send(version, &request);
    for _ in 0..3 {
        let (error, _) = append(&mut producer, &topic, &Batch::of_size(8_000));
        assert_eq!(error, code::NONE);
    }
    let answer = fetched(client.receive::<FetchRequest>(version, waiting));
    assert_eq!(read(answer.records.expect("records")).len(), 3);
    assert!(start.elapsed() < Duration::from_secs(10), "enough bytes did not end the wait");
}

#[test]
fn min_bytes_above_max_bytes_do_not_wait_for_what_no_answer_may_have() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    for _ in 0..3 {
        let (error, _) = append(&mut client, &topic, &Batch::of_size(8_000));
        assert_eq!(error, code::NONE);
    }
    for version in client.versions::<FetchRequest>() {
        let request = fetch(version, &topic, 0, 0)
            .with_max_wait_ms(25_000)
            .with_min_bytes(1 << 30)
            .with_max_bytes(20_000);
        let start = Instant::now();
        let answer = fetched(client.call(version, &request));
        assert_eq!(read(answer.records.expect("records")).len(), 2, "v{version}");
        assert!(start.elapsed() < Duration::from_secs(15), "v{version} waited");
    }
}

#[test]
fn an_error_that_the_log_finds_in_one_partition_is_told_at_once() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create_with(&mut client, 2);
    let version = client.latest::<FetchRequest>();
    let partitions = [(0, 0), (1, 7)].map(|(index, offset)| {
        FetchPartition::default()
            .with_partition(index)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(1 << 20)
    });
    let request = fetch(version, &topic, 0, 0)
        .with_max_wait_ms(25_000)
        .with_topics(vec![fetch_topic(version, &topic, partitions.to_vec())]);
    let start = Instant::now();
    let answer = client.call(version, &request);
    let codes = |index| answer.responses[0].partitions.iter().find(|p| p.partition_index == index);
    assert_eq!(codes(1).expect("partition 1").error_code, code::OFFSET_OUT_OF_RANGE);
    assert!(start.elapsed() < Duration::from_secs(15), "the error waited");
}

#[test]
fn the_first_batch_is_returned_however_small_the_limits() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    for offset in 0..2 {
        let answer = append(&mut client, &topic, &Batch::of_size(50_000));
        assert_eq!(answer, (code::NONE, offset));
    }
    for version in client.versions::<FetchRequest>() {
        let mut request = fetch(version, &topic, 0, 0).with_max_bytes(1);
        request.topics[0].partitions[0].partition_max_bytes = 1;
        let answer = fetched(client.call(version, &request));
        let records = answer.records.expect("records");
        assert!(records.len() < 100_000, "{} bytes", records.len());
        assert_eq!(read(records).len(), 1, "v{version}");
    }
}

#[test]
fn limits_hold_for_a_partition_and_for_the_whole_answer() {
    let broker = broker();
    let mut client = broker.connect();
    let topics = [Topic::create(&mut client), Topic::create(&mut client)];
    for topic in &topics {
        for offset in 0..4 {
            let answer = append(&mut client, topic, &Batch::of_size(30_000));
            assert_eq!(answer, (code::NONE, offset));
        }
    }
    let version = client.latest::<FetchRequest>();
    let partition = FetchPartition::default().with_partition_max_bytes(70_000);
    let mut request = fetch(version, &topics[0], 0, 0).with_max_bytes(100_000);
    request.topics =
        topics.iter().map(|topic| fetch_topic(version, topic, vec![partition.clone()])).collect();
    let answer = client.call(version, &request);
    let sizes: Vec<usize> = answer
        .responses
        .iter()
        .flat_map(|topic| &topic.partitions)
        .map(|partition| partition.records.as_ref().map_or(0, |records| records.len()))
        .collect();
    assert!(sizes.iter().all(|size| *size <= 70_000), "{sizes:?}");
    assert!(sizes.iter().sum::<usize>() <= 100_000, "{sizes:?}");
    assert!(sizes.iter().any(|size| *size > 60_000), "{sizes:?}");
}

#[test]
fn read_committed_without_transactions_reads_everything() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    append_values(&mut client, &topic, ["0", "1"]);
    for version in client.versions::<FetchRequest>() {
        let request = fetch(version, &topic, 0, 0).with_isolation_level(1);
        let answer = fetched(client.call(version, &request));
        assert_eq!(answer.last_stable_offset, 2);
        assert!(answer.aborted_transactions.is_none_or(|aborted| aborted.is_empty()));
        assert_eq!(read(answer.records.expect("records")).len(), 2, "v{version}");
    }
}

#[test]
fn a_session_that_does_not_exist_is_refused() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let version = client.latest::<FetchRequest>();
    let request = fetch(version, &topic, 0, 0).with_session_id(123_456).with_session_epoch(5);
    let answer = client.call(version, &request);
    assert_eq!(answer.error_code, code::FETCH_SESSION_ID_NOT_FOUND);
    assert!(answer.responses.is_empty());
    let sessionless = client.call(version, &fetch(version, &topic, 0, 0));
    assert_eq!((sessionless.error_code, sessionless.session_id), (code::NONE, 0));
}

#[test]
fn a_full_request_is_answered_whatever_session_it_names() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    append_values(&mut client, &topic, ["0"]);
    for version in client.versions::<FetchRequest>().into_iter().filter(|version| *version >= 7) {
        // Epoch -1 asks for no session, whatever id comes with it: some clients send -1.
        for id in [-1, 0, 123_456] {
            let request = fetch(version, &topic, 0, 0).with_session_id(id).with_session_epoch(-1);
            let answer = client.call(version, &request);
            assert_eq!((answer.error_code, answer.session_id), (code::NONE, 0), "v{version} {id}");
            assert_eq!(read(fetched(answer).records.expect("records")).len(), 1);
        }
        let request = fetch(version, &topic, 0, 0).with_session_id(123_456).with_session_epoch(0);
        let answer = client.call(version, &request);
        assert_eq!(read(fetched(answer).records.expect("records")).len(), 1, "v{version}");
    }
}

#[test]
fn a_session_that_is_asked_for_can_be_used_or_done_without() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    append_values(&mut client, &topic, ["0"]);
    let version = client.latest::<FetchRequest>();
    let full = fetch(version, &topic, 0, 0).with_session_epoch(0);
    let answer = client.call(version, &full);
    let session_id = answer.session_id;
    assert_eq!(read(fetched(answer).records.expect("records")).len(), 1);
    // A broker that keeps no sessions says 0, and the client goes on with full requests.
    if session_id != 0 {
        append_values(&mut client, &topic, ["1"]);
        let mut next = full.clone().with_session_id(session_id).with_session_epoch(1);
        next.topics[0].partitions[0].fetch_offset = 1;
        assert_eq!(read(fetched(client.call(version, &next)).records.expect("records")).len(), 1);
    }
}

#[test]
fn a_leader_epoch_from_the_future_is_unknown() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let version = client.latest::<FetchRequest>();
    let mut request = fetch(version, &topic, 0, 0);
    request.topics[0].partitions[0].current_leader_epoch = 1_000_000;
    let answer = fetched(client.call(version, &request));
    assert_eq!(answer.error_code, code::UNKNOWN_LEADER_EPOCH);
}
