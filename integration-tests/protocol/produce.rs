//! Produce: what is stored, what is refused, and idempotence.

use bytes::Bytes;
use kafka_protocol::messages::{
    FetchRequest, FindCoordinatorRequest, MetadataRequest, ProduceRequest,
};

use super::batch::{Batch, Codec};
use super::client::{Client, text};
use super::requests::{
    Topic, append, append_values, fetch, fetched, new_producer, produce, produced, read_from,
};
use super::{broker, code};
use crate::harness::{PATIENCE, unique, until};

#[track_caller]
fn send(client: &mut Client, version: i16, topic: &Topic, acks: i16, records: Bytes) -> (i16, i64) {
    let request = produce(version, topic, 0, acks, Some(records));
    let partition = produced(client.call(version, &request));
    (partition.error_code, partition.base_offset)
}

#[test]
fn batches_are_kept_as_the_bytes_that_came() {
    let broker = broker();
    let mut client = broker.connect();
    let fetch_version = client.latest::<FetchRequest>();
    for version in client.versions::<ProduceRequest>() {
        let topic = Topic::create(&mut client);
        let mut offset = 0;
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            if codec == Codec::Zstd && version < 7 {
                continue;
            }
            let sent = Batch::of(["one", "two", "three"]).compressed(codec).encode();
            for acks in [1, -1] {
                let answer = send(&mut client, version, &topic, acks, sent.clone());
                assert_eq!(answer, (code::NONE, offset), "v{version} {codec:?}");
                let request = fetch(fetch_version, &topic, 0, offset);
                let records = fetched(client.call(fetch_version, &request)).records;
                let kept = records.expect("records");
                // The broker sets base offset and leader epoch, which the CRC does not cover.
                assert_eq!(kept[..8], offset.to_be_bytes());
                assert_eq!(kept[8..12], sent[8..12]);
                assert_eq!(kept[16..], sent[16..], "v{version} {codec:?}");
                offset += 3;
            }
        }
        let values: Vec<_> =
            read_from(&mut client, &topic, 0).into_iter().map(|record| record.value).collect();
        assert!(values.chunks(3).all(|batch| batch == ["one", "two", "three"]));
    }
}

#[test]
fn acks_0_is_not_answered_and_stored_all_the_same() {
    let broker = broker();
    let mut client = broker.connect();
    for version in client.versions::<ProduceRequest>() {
        let topic = Topic::create(&mut client);
        let request = produce(version, &topic, 0, 0, Some(Batch::of(["silent"]).encode()));
        client.send(version, &request);
        // The next answer on the connection is the next request's.
        client.call(4, &MetadataRequest::default().with_topics(Some(Vec::new())));
        until("the record", PATIENCE, || {
            let records = read_from(&mut client, &topic, 0);
            if records.len() == 1 { Ok(()) } else { Err(format!("{records:?}")) }
        });
    }
}

#[test]
fn other_acks_are_refused() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    for version in client.versions::<ProduceRequest>() {
        for acks in [2, -2] {
            let (error, _) =
                send(&mut client, version, &topic, acks, Batch::of(["never"]).encode());
            assert_eq!(error, code::INVALID_REQUIRED_ACKS);
        }
    }
    assert!(read_from(&mut client, &topic, 0).is_empty());
}

#[test]
fn what_is_not_there_is_not_created_by_writing_to_it() {
    let broker = broker();
    let mut client = broker.connect();
    let known = Topic::create(&mut client);
    for version in client.versions::<ProduceRequest>() {
        let records = Batch::of(["lost"]).encode();
        let (error, _) = send(&mut client, version, &Topic::unknown(), -1, records.clone());
        let expected =
            if version >= 13 { code::UNKNOWN_TOPIC_ID } else { code::UNKNOWN_TOPIC_OR_PARTITION };
        assert_eq!(error, expected, "v{version}");
        for partition in [1, -1, i32::MAX] {
            let request = produce(version, &known, partition, -1, Some(records.clone()));
            let answer = produced(client.call(version, &request));
            assert_eq!(answer.error_code, code::UNKNOWN_TOPIC_OR_PARTITION, "{partition}");
            assert_eq!((answer.index, answer.base_offset), (partition, -1));
        }
    }
}

#[test]
fn a_batch_that_is_not_what_it_says_is_refused_whole() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    append_values(&mut client, &topic, ["good"]);
    let good = Batch::of(["a", "b"]);
    let wrong_crc = Batch { has_wrong_crc: true, ..good.clone() }.encode();
    let mut flipped = good.encode().to_vec();
    *flipped.last_mut().expect("bytes") ^= 0x10;
    let magic = |magic| Batch { magic, ..good.clone() }.encode();
    let delta = |delta| Batch { last_offset_delta: Some(delta), ..good.clone() }.encode();
    let count = |count| Batch { record_count: Some(count), ..good.clone() }.encode();
    let twice = [good.encode(), good.encode()].concat();
    let torn = good.encode().slice(..good.encode().len() - 1);
    let cases: [(&str, Bytes, i16); 12] = [
        ("wrong CRC", wrong_crc, code::CORRUPT_MESSAGE),
        ("flipped payload bit", flipped.into(), code::CORRUPT_MESSAGE),
        ("magic 0", magic(0), code::INVALID_RECORD),
        ("magic 1", magic(1), code::INVALID_RECORD),
        ("magic 9", magic(9), code::CORRUPT_MESSAGE),
        ("last offset delta above count", delta(7), code::INVALID_RECORD),
        ("last offset delta below count", delta(0), code::INVALID_RECORD),
        ("no records", count(0), code::INVALID_RECORD),
        ("fewer records than there are", count(1), code::INVALID_RECORD),
        ("two batches", twice.into(), code::INVALID_RECORD),
        ("empty", Bytes::new(), code::INVALID_RECORD),
        ("torn", torn, code::INVALID_RECORD),
    ];
    for version in client.versions::<ProduceRequest>() {
        for (what, records, expected) in &cases {
            let (error, offset) = send(&mut client, version, &topic, -1, records.clone());
            assert_eq!((error, offset), (*expected, -1), "{what}, v{version}");
        }
    }
    assert_eq!(read_from(&mut client, &topic, 0).len(), 1);
}

/// `batch` with other bytes at one place and a CRC that fits them.
fn edited(batch: &Batch, at: usize, bytes: &[u8]) -> Bytes {
    let mut edited = batch.encode().to_vec();
    edited[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c::crc32c(&edited[21..]);
    edited[17..21].copy_from_slice(&crc.to_be_bytes());
    edited.into()
}

#[test]
fn a_batch_that_no_producer_makes_is_refused_whatever_its_crc_says() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let good = Batch::of(["a", "b"]);
    let by_producer = Batch::of(["a", "b"]).by_producer(new_producer(&mut client).0, 0, 0);
    let length = |length: i32| edited(&good, 8, &length.to_be_bytes());
    const CORRUPT: &[i16] = &[code::CORRUPT_MESSAGE];
    const INVALID: &[i16] = &[code::INVALID_RECORD];
    const UNKNOWN_CODEC: &[i16] = &[code::UNKNOWN_SERVER_ERROR];
    const NO_TRANSACTION: &[i16] = &[53];
    let cases: [(&str, Bytes, &[i16]); 11] = [
        ("a negative length", length(-1), CORRUPT),
        ("a length of nothing", length(0), CORRUPT),
        ("a length below the header's", length(20), CORRUPT),
        ("codec 5", edited(&good, 22, &[5]), UNKNOWN_CODEC),
        ("codec 7", edited(&good, 22, &[7]), UNKNOWN_CODEC),
        ("a control batch", edited(&by_producer, 22, &[0x20]), INVALID),
        ("a transaction's batch without one", edited(&good, 22, &[0x10]), NO_TRANSACTION),
        ("a negative count", edited(&good, 57, &(-1_i32).to_be_bytes()), INVALID),
        ("a base offset", edited(&good, 0, &5_i64.to_be_bytes()), INVALID),
        ("a negative base offset", edited(&good, 0, &(-1_i64).to_be_bytes()), INVALID),
        ("a negative last delta", edited(&good, 23, &(-1_i32).to_be_bytes()), INVALID),
    ];
    let version = client.latest::<ProduceRequest>();
    for (what, records, expected) in cases {
        let request = produce(version, &topic, 0, -1, Some(records));
        let error = produced(client.call(version, &request)).error_code;
        assert!(expected.contains(&error), "{what}: error {error}, not one of {expected:?}");
    }
    assert!(read_from(&mut client, &topic, 0).is_empty());
}

#[test]
fn a_batch_over_the_largest_size_is_refused_and_the_largest_is_not() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    // `message.max.bytes`, of which the batch header and the record's own lengths take a part.
    let overhead = Batch::of_size(1_000_000).encode().len() - 1_000_000;
    let largest = 1_048_588 - overhead;
    assert_eq!(append(&mut client, &topic, &Batch::of_size(largest)), (code::NONE, 0));
    let (error, _) = append(&mut client, &topic, &Batch::of_size(largest + 1));
    assert_eq!(error, code::MESSAGE_TOO_LARGE);
    assert_eq!(read_from(&mut client, &topic, 0).len(), 1);
}

#[test]
fn each_partition_of_a_request_has_its_own_fate() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create_with(&mut client, 2);
    let version = client.latest::<ProduceRequest>();
    let wrong = Batch { has_wrong_crc: true, ..Batch::of(["wrong"]) }.encode();
    let mut request = produce(version, &topic, 0, -1, Some(wrong));
    let good = produce(version, &topic, 1, -1, Some(Batch::of(["good"]).encode()));
    request.topic_data[0].partition_data.push(good.topic_data[0].partition_data[0].clone());
    let answer = client.call(version, &request).responses.remove(0).partition_responses;
    let mut errors: Vec<_> = answer.iter().map(|one| (one.index, one.error_code)).collect();
    errors.sort_unstable();
    assert_eq!(errors, [(0, code::CORRUPT_MESSAGE), (1, code::NONE)]);
}

#[test]
fn a_transactional_batch_without_a_transactional_id_fails_its_whole_request() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create_with(&mut client, 2);
    wait_for_transactions(&mut client);
    let (id, epoch) = new_producer(&mut client);
    let plain = Batch::of(["plain"]).encode();
    let transactional = edited(&Batch::of(["in none"]).by_producer(id, epoch, 0), 22, &[0x10]);
    for version in client.versions::<ProduceRequest>() {
        let mut send = |batches: [&Bytes; 2], transactional_id: Option<&str>| {
            let mut request = produce(version.max(3), &topic, 0, -1, Some(batches[0].clone()));
            let other = produce(version.max(3), &topic, 1, -1, Some(batches[1].clone()));
            request.topic_data[0]
                .partition_data
                .push(other.topic_data[0].partition_data[0].clone());
            request.transactional_id = transactional_id.map(|id| text(id).into());
            let answer = client.call(version.max(3), &request).responses.remove(0);
            let mut errors: Vec<_> =
                answer.partition_responses.iter().map(|one| (one.index, one.error_code)).collect();
            errors.sort_unstable();
            [errors[0].1, errors[1].1]
        };
        let refused = [code::TRANSACTIONAL_ID_AUTHORIZATION_FAILED; 2];
        assert_eq!(send([&plain, &transactional], None), refused, "v{version}");
        assert_eq!(send([&transactional, &plain], None), refused, "v{version}");
        // An id that no producer has: each batch is judged by itself.
        let unknown = unique("transactional");
        let each = [code::NONE, code::INVALID_PRODUCER_ID_MAPPING];
        // Kafka asks the id's own coordinator, which may still be loading its partition.
        let answer = until("the coordinator of the id", PATIENCE, || {
            let errors = send([&plain, &transactional], Some(&unknown));
            match errors[1] {
                code::NOT_ENOUGH_REPLICAS => Err(format!("errors {errors:?}")),
                _ => Ok(errors),
            }
        });
        assert_eq!(answer, each, "v{version}");
    }
}

/// Waits until the coordinator of transactions serves: Kafka makes its topic first.
fn wait_for_transactions(client: &mut Client) {
    let find = FindCoordinatorRequest::default().with_key(text("any")).with_key_type(1);
    until("the transaction coordinator", PATIENCE, || {
        let error = client.call(1, &find).error_code;
        if error == code::NONE { Ok(()) } else { Err(format!("error {error}")) }
    });
}

#[test]
fn a_batch_sent_again_is_not_stored_again() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let (id, epoch) = new_producer(&mut client);
    let batch = |sequence: i32| Batch::of(["x", "y"]).by_producer(id, epoch, sequence);
    for at in 0..7 {
        let answer = append(&mut client, &topic, &batch(at * 2));
        assert_eq!(answer, (code::NONE, i64::from(at) * 2));
    }
    // The last five batches are remembered with the offsets they got.
    for at in 2..7 {
        let answer = append(&mut client, &topic, &batch(at * 2));
        assert_eq!(answer, (code::NONE, i64::from(at) * 2));
    }
    let (older, _) = append(&mut client, &topic, &batch(2));
    assert_eq!(older, code::OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(read_from(&mut client, &topic, 0).len(), 14);
}

#[test]
fn a_gap_in_the_sequence_is_refused() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let (id, epoch) = new_producer(&mut client);
    let batch = |sequence| Batch::of(["x", "y"]).by_producer(id, epoch, sequence);
    assert_eq!(append(&mut client, &topic, &batch(0)), (code::NONE, 0));
    for gap in [3, 100, 1] {
        let (error, _) = append(&mut client, &topic, &batch(gap));
        assert_eq!(error, code::OUT_OF_ORDER_SEQUENCE_NUMBER, "sequence {gap}");
    }
    assert_eq!(append(&mut client, &topic, &batch(2)), (code::NONE, 2));
}

#[test]
fn the_sequence_wraps_after_the_largest_number() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let (id, epoch) = new_producer(&mut client);
    let batch = |sequence| Batch::of(["x", "y"]).by_producer(id, epoch, sequence);
    // A producer that the log does not know may start anywhere.
    assert_eq!(append(&mut client, &topic, &batch(i32::MAX)), (code::NONE, 0));
    assert_eq!(append(&mut client, &topic, &batch(1)), (code::NONE, 2));
    assert_eq!(append(&mut client, &topic, &batch(i32::MAX)), (code::NONE, 0));
}

#[test]
fn a_new_epoch_starts_at_sequence_0_and_fences_the_old_one() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let (id, epoch) = new_producer(&mut client);
    let batch = |epoch, sequence| Batch::of(["x"]).by_producer(id, epoch, sequence);
    assert_eq!(append(&mut client, &topic, &batch(epoch, 0)), (code::NONE, 0));
    let (error, _) = append(&mut client, &topic, &batch(epoch + 1, 1));
    assert_eq!(error, code::OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(append(&mut client, &topic, &batch(epoch + 1, 0)), (code::NONE, 1));
    let (error, _) = append(&mut client, &topic, &batch(epoch, 1));
    assert_eq!(error, code::INVALID_PRODUCER_EPOCH);
    assert_eq!(read_from(&mut client, &topic, 0).len(), 2);
}

#[test]
fn pipelined_batches_keep_their_order() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let (id, epoch) = new_producer(&mut client);
    let version = client.latest::<ProduceRequest>();
    let sent: Vec<i32> = (0..20)
        .map(|at| {
            let batch = Batch::of([at.to_string()]).by_producer(id, epoch, at);
            client.send(version, &produce(version, &topic, 0, -1, Some(batch.encode())))
        })
        .collect();
    for (at, correlation_id) in (0..).zip(sent) {
        let answer = produced(client.receive::<ProduceRequest>(version, correlation_id));
        assert_eq!((answer.error_code, answer.base_offset), (code::NONE, at));
    }
    let records = read_from(&mut client, &topic, 0);
    assert!(records.iter().enumerate().all(|(at, record)| record.value == at.to_string()));
}
