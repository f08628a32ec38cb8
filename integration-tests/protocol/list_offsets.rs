//! ListOffsets: its sentinels, and timestamps inside compressed batches.

use kafka_protocol::messages::ListOffsetsRequest;

use super::batch::{Batch, Codec};
use super::requests::{Topic, append, append_values, describe, offset_of};
use super::{broker, code};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

#[test]
fn an_empty_log_starts_and_ends_at_0() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    for version in client.versions::<ListOffsetsRequest>() {
        for sentinel in [EARLIEST, LATEST] {
            let answer = offset_of(&mut client, version, &topic, sentinel);
            assert_eq!((answer.error_code, answer.offset), (code::NONE, 0));
            assert_eq!(answer.timestamp, -1);
            assert_eq!(answer.leader_epoch >= 0, version >= 4, "v{version} at {sentinel}");
        }
        for timestamp in [0, 1_700_000_000_000] {
            let answer = offset_of(&mut client, version, &topic, timestamp);
            assert_eq!((answer.error_code, answer.offset), (code::NONE, -1));
            assert_eq!(answer.leader_epoch, -1);
        }
        if version >= 7 {
            let answer = offset_of(&mut client, version, &topic, MAX_TIMESTAMP);
            assert_eq!((answer.error_code, answer.offset), (code::NONE, -1));
            assert_eq!(answer.leader_epoch, -1);
        }
    }
}

#[test]
fn sentinels_name_the_ends_and_the_largest_timestamp() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let first = Batch::of(["a", "b", "c"]).at(&[1_000, 9_000, 2_000]);
    assert_eq!(append(&mut client, &topic, &first), (code::NONE, 0));
    let second = Batch::of(["d", "e"]).at(&[3_000, 4_000]);
    assert_eq!(append(&mut client, &topic, &second), (code::NONE, 3));
    let appended_in = describe(&mut client, &topic.name).partitions[0].leader_epoch;
    for version in client.versions::<ListOffsetsRequest>() {
        assert_eq!(offset_of(&mut client, version, &topic, EARLIEST).offset, 0);
        let latest = offset_of(&mut client, version, &topic, LATEST);
        assert_eq!(latest.offset, 5);
        // Whatever is found has the epoch that it was appended in.
        let epoch = if version >= 4 { appended_in } else { -1 };
        assert_eq!(latest.leader_epoch, epoch);
        for wanted in [EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL, 1_000, 3_000, 9_000, 10_000] {
            let answer = offset_of(&mut client, version, &topic, wanted);
            let epoch = if answer.offset >= 0 { epoch } else { -1 };
            assert_eq!(answer.leader_epoch, epoch, "v{version} at {wanted}");
        }
        if version >= 7 {
            let answer = offset_of(&mut client, version, &topic, MAX_TIMESTAMP);
            assert_eq!((answer.offset, answer.timestamp), (1, 9_000));
        }
        if version >= 8 {
            assert_eq!(offset_of(&mut client, version, &topic, EARLIEST_LOCAL).offset, 0);
        }
        if version >= 9 {
            let answer = offset_of(&mut client, version, &topic, LATEST_TIERED);
            assert_eq!((answer.error_code, answer.offset), (code::NONE, -1));
        }
    }
}

#[test]
fn a_timestamp_finds_the_first_record_that_is_not_older() {
    let broker = broker();
    let mut client = broker.connect();
    for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let topic = Topic::create(&mut client);
        let first = Batch::of(["a", "b", "c"]).at(&[1_000, 3_000, 2_000]).compressed(codec);
        let second = Batch::of(["d", "e"]).at(&[5_000, 7_000]).compressed(codec);
        assert_eq!(append(&mut client, &topic, &first), (code::NONE, 0));
        assert_eq!(append(&mut client, &topic, &second), (code::NONE, 3));
        for version in client.versions::<ListOffsetsRequest>() {
            let expected = [
                (0, Some((0, 1_000))),
                (1_000, Some((0, 1_000))),
                (1_001, Some((1, 3_000))),
                (3_000, Some((1, 3_000))),
                (3_001, Some((3, 5_000))),
                (5_001, Some((4, 7_000))),
                (7_000, Some((4, 7_000))),
                (7_001, None),
            ];
            for (timestamp, found) in expected {
                let answer = offset_of(&mut client, version, &topic, timestamp);
                let found = found.unwrap_or((-1, -1));
                let got = (answer.offset, answer.timestamp);
                assert_eq!(got, found, "{codec:?} v{version} at {timestamp}");
            }
        }
    }
}

#[test]
fn an_unknown_topic_is_said_to_be_unknown() {
    let broker = broker();
    let mut client = broker.connect();
    for version in client.versions::<ListOffsetsRequest>() {
        let answer = offset_of(&mut client, version, &Topic::unknown(), LATEST);
        assert_eq!(answer.error_code, code::UNKNOWN_TOPIC_OR_PARTITION);
        assert_eq!((answer.offset, answer.timestamp), (-1, -1));
    }
}

#[test]
fn the_end_moves_with_each_append() {
    let broker = broker();
    let mut client = broker.connect();
    let topic = Topic::create(&mut client);
    let version = client.latest::<ListOffsetsRequest>();
    for end in 1..=5 {
        append_values(&mut client, &topic, ["x"]);
        assert_eq!(offset_of(&mut client, version, &topic, LATEST).offset, end);
    }
}
