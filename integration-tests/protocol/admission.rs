//! What a topic's configs make of the batches that are produced to it: another codec, bounds on
//! timestamps, keys where it is compacted.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use kafka_protocol::messages::{FetchRequest, ListOffsetsRequest, ProduceRequest};

use super::batch::{Batch, Codec};
use super::client::Client;
use super::requests::{Topic, fetch, fetched, offset_of, produce, produced, read_from};
use super::{broker, code};

const CODECS: [(&str, Codec); 5] = [
    ("uncompressed", Codec::None),
    ("gzip", Codec::Gzip),
    ("snappy", Codec::Snappy),
    ("lz4", Codec::Lz4),
    ("zstd", Codec::Zstd),
];
const MINUTE: i64 = 60_000;

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
    i64::try_from(since.as_millis()).expect("a time that fits")
}

/// Error, base offset, and the records at fault.
#[track_caller]
fn send(client: &mut Client, topic: &Topic, batch: &Batch) -> (i16, i64, Vec<i32>) {
    let version = client.latest::<ProduceRequest>();
    let request = produce(version, topic, 0, -1, Some(batch.encode()));
    let answer = produced(client.call(version, &request));
    let at_fault = answer.record_errors.iter().map(|fault| fault.batch_index).collect();
    (answer.error_code, answer.base_offset, at_fault)
}

/// The stored bytes from `offset` on.
#[track_caller]
fn stored(client: &mut Client, topic: &Topic, offset: i64) -> Bytes {
    let version = client.latest::<FetchRequest>();
    fetched(client.call(version, &fetch(version, topic, 0, offset))).records.expect("records")
}

#[test]
fn batches_are_stored_under_the_topics_codec() {
    let broker = broker();
    let mut client = broker.connect();
    for (name, to) in CODECS {
        let topic = Topic::create_configured(&mut client, 1, &[("compression.type", name)]);
        let values = ["one".repeat(500), "two".to_owned(), "three".repeat(5000)];
        let times = [now(), now() - 5, now() + 7];
        let mut offset = 0;
        for (_, from) in CODECS {
            let sent = Batch::of(&values).at(&times).compressed(from);
            assert_eq!(send(&mut client, &topic, &sent), (code::NONE, offset, Vec::new()));
            let sent = sent.encode();
            let kept = stored(&mut client, &topic, offset);
            assert_eq!(i16::from(kept[22] & 7), to as i16, "{from:?} to {to:?}");
            // Magic, then last offset delta, base and largest timestamp, producer and count.
            assert_eq!((kept[16], &kept[23..61]), (2, &sent[23..61]), "{from:?} to {to:?}");
            if from == to {
                assert_eq!(kept[16..], sent[16..]);
            }
            let records = read_from(&mut client, &topic, offset);
            let found: Vec<_> = records.iter().map(|one| (one.timestamp, &one.value[..])).collect();
            let wanted: Vec<_> =
                times.into_iter().zip(values.iter().map(String::as_bytes)).collect();
            assert_eq!(found, wanted, "{from:?} to {to:?}");
            offset += 3;
        }
    }
}

#[test]
fn producers_go_on_in_sequence_when_their_batches_are_given_another_codec() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create_configured(&mut client, 1, &[("compression.type", "zstd")]);
    let (id, epoch) = super::requests::new_producer(&mut client);
    let batch = |sequence| {
        let codec = if sequence % 4 == 0 { Codec::Lz4 } else { Codec::None };
        Batch::of(["x", "y"]).compressed(codec).by_producer(id, epoch, sequence)
    };
    let version = client.latest::<ProduceRequest>();
    let sent: Vec<i32> = (0..20)
        .map(|at| {
            let records = batch(at * 2).encode();
            client.send(version, &produce(version, &topic, 0, -1, Some(records)))
        })
        .collect();
    for (at, correlation_id) in (0..).zip(sent) {
        let answer = produced(client.receive::<ProduceRequest>(version, correlation_id));
        assert_eq!((answer.error_code, answer.base_offset), (code::NONE, at * 2));
    }
    // A batch sent again is known, though it is not stored as it came.
    assert_eq!(send(&mut client, &topic, &batch(38)), (code::NONE, 38, Vec::new()));
    let (error, ..) = send(&mut client, &topic, &batch(44));
    assert_eq!(error, code::OUT_OF_ORDER_SEQUENCE_NUMBER);
}

#[test]
fn a_batch_that_is_too_large_under_the_topics_codec_is_refused() {
    let broker = broker();
    let mut client = broker.connect();
    let configs = [("compression.type", "uncompressed"), ("max.message.bytes", "10000")];
    let topic = Topic::create_configured(&mut client, 1, &configs);
    let batch = |bytes| Batch::of_size(bytes).compressed(Codec::Zstd);
    assert_eq!(send(&mut client, &topic, &batch(9_000)).0, code::NONE);
    assert_eq!(send(&mut client, &topic, &batch(11_000)).0, code::MESSAGE_TOO_LARGE);
}

#[test]
fn bodies_that_cannot_be_read_are_refused_where_another_codec_is_wanted() {
    let broker = broker();
    let mut client = broker.connect();
    for (name, to) in CODECS {
        let topic = Topic::create_configured(&mut client, 1, &[("compression.type", name)]);
        for (_, from) in CODECS.into_iter().filter(|(_, from)| *from != to) {
            let body = Some(Bytes::from(vec![0xee; 40]));
            let batch = Batch { body, ..Batch::of(["x"]).compressed(from) };
            let (error, ..) = send(&mut client, &topic, &batch);
            assert_eq!(error, code::UNKNOWN_SERVER_ERROR, "{from:?} to {to:?}");
        }
        assert!(read_from(&mut client, &topic, 0).is_empty());
    }
}

#[test]
fn timestamps_out_of_range_are_refused_and_the_records_named() {
    let broker = broker();
    let mut client = broker.connect();
    let bounds = [
        ("message.timestamp.before.max.ms", "600000"),
        ("message.timestamp.after.max.ms", "600000"),
    ];
    let topic = Topic::create_configured(&mut client, 1, &bounds);
    for (_, codec) in CODECS {
        let at = |minutes: &[i64]| {
            let times: Vec<_> = minutes.iter().map(|minutes| now() + minutes * MINUTE).collect();
            Batch::of(minutes.iter().map(i64::to_string)).at(&times).compressed(codec)
        };
        let good = send(&mut client, &topic, &at(&[0, -9, 9]));
        assert_eq!((good.0, good.2), (code::NONE, Vec::new()));
        for (minutes, at_fault) in [
            (&[0, 11, 0][..], vec![1]),
            (&[-11, 0], vec![0]),
            (&[0, -11, 1, 11, 2], vec![1, 3]),
            (&[100_000], vec![0]),
        ] {
            let refused = send(&mut client, &topic, &at(minutes));
            assert_eq!(refused, (code::INVALID_TIMESTAMP, -1, at_fault), "{codec:?} {minutes:?}");
        }
        // Kafka's sign for no timestamp is not a time.
        let timeless = Batch::of(["a"]).at(&[-1]).compressed(codec);
        assert_eq!(send(&mut client, &topic, &timeless).0, code::NONE);
    }
}

#[test]
fn a_topic_without_configs_takes_the_past_and_an_hour_of_the_future() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    for (minutes, expected) in
        [(-50_000_000, code::NONE), (59, code::NONE), (61, code::INVALID_TIMESTAMP)]
    {
        let batch = Batch::of(["x"]).at(&[now() + minutes * MINUTE]);
        assert_eq!(send(&mut client, &topic, &batch).0, expected, "{minutes}");
    }
}

#[test]
fn no_bound_holds_where_the_broker_tells_the_time() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create_configured(
        &mut client,
        1,
        &[
            ("message.timestamp.type", "LogAppendTime"),
            ("message.timestamp.before.max.ms", "0"),
            ("message.timestamp.after.max.ms", "0"),
            ("compression.type", "lz4"),
        ],
    );
    let version = client.latest::<ListOffsetsRequest>();
    for (_, codec) in CODECS {
        let before = now();
        let batch = Batch::of(["a", "b", "c"]).at(&[5, now() * 2, 7]).compressed(codec);
        let (error, offset, _) = send(&mut client, &topic, &batch);
        assert_eq!(error, code::NONE, "{codec:?}");
        // The attributes' bit for the broker's time, and the time.
        let kept = stored(&mut client, &topic, offset);
        assert_eq!(kept[22], 8 | Codec::Lz4 as u8);
        let time = i64::from_be_bytes(kept[35..43].try_into().expect("eight bytes"));
        assert!((before..=now()).contains(&time));
        // All records of the batch have that time, so the first one is found.
        let answer = offset_of(&mut client, version, &topic, time);
        assert!(answer.timestamp == time && answer.offset <= offset, "{answer:?}");
    }
}

#[test]
fn a_claim_of_append_time_is_refused_where_the_broker_tells_the_time() {
    let broker = broker();
    let mut client = broker.connect();
    let claims = Batch { claims_append_time: true, ..Batch::of(["a", "b"]).at(&[1_000, 2_000]) };
    let stamped = [("message.timestamp.type", "LogAppendTime")];
    let topic = Topic::create_configured(&mut client, 1, &stamped);
    assert_eq!(send(&mut client, &topic, &claims).0, code::INVALID_TIMESTAMP);
    // Where producers tell the time, the claim is dropped, and only "no timestamp" is refused.
    let topic = Topic::create(&mut client);
    assert_eq!(send(&mut client, &topic, &claims), (code::NONE, 0, Vec::new()));
    let kept = stored(&mut client, &topic, 0);
    assert_eq!(kept[22], 0);
    assert_eq!(kept[23..], claims.encode()[23..]);
    let timeless = Batch { claims_append_time: true, ..Batch::of(["a"]).at(&[-1]) };
    assert_eq!(send(&mut client, &topic, &timeless).0, code::INVALID_TIMESTAMP);
}

#[test]
fn a_compacted_topic_takes_only_records_with_keys() {
    let broker = broker();
    let mut client = broker.connect();
    for policy in ["compact", "compact,delete"] {
        let topic = Topic::create_configured(&mut client, 1, &[("cleanup.policy", policy)]);
        for (_, codec) in CODECS {
            let keyed = Batch::of(["a", "b"]).at(&[now(), now()]).compressed(codec);
            assert_eq!(send(&mut client, &topic, &keyed).0, code::NONE, "{codec:?}");
            let keyless = Batch { has_null_keys: true, ..keyed };
            let refused = send(&mut client, &topic, &keyless);
            assert_eq!(refused, (code::INVALID_RECORD, -1, vec![0, 1]), "{codec:?}");
        }
    }
}

#[test]
fn a_largest_timestamp_that_no_record_has_is_not_believed() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let batch = Batch { max_timestamp: Some(i64::MAX), ..Batch::of(["a"]).at(&[now()]) };
    assert_eq!(send(&mut client, &topic, &batch).0, code::NONE);
    let version = client.latest::<ListOffsetsRequest>();
    assert_eq!(offset_of(&mut client, version, &topic, now() + MINUTE).offset, -1);
}
