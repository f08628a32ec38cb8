//! Logs at rest, seen from outside: what retention leaves to consumers and on the disk, damage that
//! is found while the broker runs, and a partition whose files cannot be read.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kafka_protocol::messages::{FetchRequest, ListOffsetsRequest, ProduceRequest};
use serde_json::Value;

use crate::clients_kcat::consume_all;
use crate::harness::{Broker, Options, PATIENCE, Target, until};
use crate::protocol::batch::{Batch, Codec, next_offset, read};
use crate::protocol::client::Client;
use crate::protocol::code;
use crate::protocol::requests::{
    Topic, append, fetch, fetched, offset_of, produce, produced, read_from,
};

const EARLIEST: i64 = -2;
const LATEST: i64 = -1;
/// The smallest segments that Kafka allows.
const SEGMENT_BYTES: &str = "1048576";
/// Three of them fit into a segment.
const BATCH_BYTES: usize = 300_000;

/// A broker that looks often. The reference looks every five minutes.
fn often() -> (Target, Duration) {
    let options = Options::new()
        .set("log.initial.task.delay.ms", 0)
        .set("log.retention.check.interval.ms", 50);
    let target = Target::start_with(options);
    let patience = if target.is_reference() { Duration::from_secs(330) } else { PATIENCE };
    (target, patience)
}

fn earliest(client: &mut Client, topic: &Topic) -> i64 {
    let version = client.latest::<ListOffsetsRequest>();
    let answer = offset_of(client, version, topic, EARLIEST);
    assert_eq!(answer.error_code, code::NONE);
    answer.offset
}

#[track_caller]
fn wait_for_earliest(client: &mut Client, topic: &Topic, expected: i64, limit: Duration) {
    until("retention", limit, || match earliest(client, topic) {
        offset if offset == expected => Ok(()),
        offset => Err(format!("the log starts at {offset}, not yet at {expected}")),
    });
}

fn log_folder(broker: &Broker, topic: &Topic) -> PathBuf {
    broker.data_dir().join("logs").join(format!("{}-0", topic.id))
}

fn bytes_on_disk(broker: &Broker, topic: &Topic) -> u64 {
    let files = fs::read_dir(log_folder(broker, topic)).expect("a log").flatten();
    files.map(|file| file.metadata().expect("a file").len()).sum()
}

fn offsets_from_the_beginning(target: &Target, topic: &Topic) -> Vec<i64> {
    let consumed = consume_all(target.kafka(), &topic.name, "%o\n");
    consumed.lines().iter().map(|line| line.parse().expect("an offset")).collect()
}

/// Waits until retention has looked at every log once more.
#[track_caller]
fn another_look(client: &mut Client, limit: Duration) {
    let topic = Topic::create_configured(client, 1, &[("retention.ms", "3600000")]);
    assert_eq!(append(client, &topic, &Batch::of(["of the year 2023"])), (0, 0));
    wait_for_earliest(client, &topic, 1, limit);
}

#[test]
fn the_oldest_segments_go_while_what_is_left_is_not_smaller_than_the_bound() {
    let (target, patience) = often();
    let mut client = Client::connect(target.kafka());
    let batch = Batch::of_size(BATCH_BYTES);
    let batches = |count: u64| count * batch.encode().len() as u64;
    // Segments of 3, 3, 3 and 1 batches, and where the log starts afterwards.
    let cases = [
        (batches(10) + 1, 0),
        (batches(10), 0),
        (batches(7) + 1, 0),
        (batches(7), 3),
        (batches(4) + 1, 3),
        (batches(4), 6),
        (batches(1) + 1, 6),
        (batches(1), 9),
        // Also the segment that is appended to.
        (1, 9),
        (0, 10),
    ];
    let topics = cases.map(|(bound, _)| {
        let (bound, configs) = (bound.to_string(), ("segment.bytes", SEGMENT_BYTES));
        let configs = [configs, ("retention.bytes", &bound), ("retention.ms", "-1")];
        Topic::create_configured(&mut client, 1, &configs)
    });
    for topic in &topics {
        for offset in 0..10 {
            assert_eq!(append(&mut client, topic, &batch), (0, offset));
        }
    }
    for (topic, (bound, expected)) in topics.iter().zip(cases) {
        println!("bound {bound}");
        wait_for_earliest(&mut client, topic, expected, patience);
    }
    another_look(&mut client, patience);
    for (topic, (bound, expected)) in topics.iter().zip(cases) {
        assert_eq!(earliest(&mut client, topic), expected, "bound {bound}");
        assert_eq!(append(&mut client, topic, &Batch::of(["more"])), (0, 10));
    }
}

#[test]
fn a_topic_is_kept_to_its_size() {
    let (mut target, patience) = often();
    let mut client = Client::connect(target.kafka());
    let topic = Topic::create_configured(
        &mut client,
        1,
        &[("segment.bytes", SEGMENT_BYTES), ("retention.bytes", "1500000"), ("retention.ms", "-1")],
    );
    // Segments of 3, 3, 3 and 1 batches: what is left may not be smaller than the bound, so the
    // first goes and the second stays.
    for offset in 0..10 {
        assert_eq!(append(&mut client, &topic, &Batch::of_size(BATCH_BYTES)).0, 0, "{offset}");
    }
    wait_for_earliest(&mut client, &topic, 3, patience);
    assert_eq!(offsets_from_the_beginning(&target, &topic), [3, 4, 5, 6, 7, 8, 9]);
    let version = client.latest::<FetchRequest>();
    let answer = fetched(client.call(version, &fetch(version, &topic, 0, 2)));
    assert_eq!(answer.error_code, code::OFFSET_OUT_OF_RANGE);
    if let Some(broker) = target.ottla() {
        let left = bytes_on_disk(broker, &topic);
        assert!(left < 8 * BATCH_BYTES as u64, "{left} bytes");
        another_look(&mut client, patience);
        assert_eq!(earliest(&mut client, &topic), 3);
        assert_eq!(broker.metric("ottla_log_retention_removed_segments_total"), 2.0);
        broker.kill();
        broker.restart();
        let mut client = Client::connect(broker.kafka());
        assert_eq!(earliest(&mut client, &topic), 3);
    }
}

#[test]
fn a_log_whose_records_are_all_too_old_is_empty_and_goes_on_at_its_offset() {
    let (mut target, patience) = often();
    let mut client = Client::connect(target.kafka());
    let topic = Topic::create_configured(&mut client, 1, &[("retention.ms", "3600000")]);
    // Of the year 2023. The segment that is appended to goes, too.
    assert_eq!(append(&mut client, &topic, &Batch::of(["a", "b"])), (0, 0));
    wait_for_earliest(&mut client, &topic, 2, patience);
    assert!(offsets_from_the_beginning(&target, &topic).is_empty());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let now = i64::try_from(now.as_millis()).expect("before the end of time");
    assert_eq!(append(&mut client, &topic, &Batch::of(["c"]).at(&[now])), (0, 2));
    // A young record keeps its segment, with all that is in it.
    assert_eq!(append(&mut client, &topic, &Batch::of(["d"])), (0, 3));
    assert_eq!(offsets_from_the_beginning(&target, &topic), [2, 3]);
    if let Some(broker) = target.ottla() {
        let said = broker.log();
        assert!(said.contains("retention removed the oldest segments"), "{said}");
        assert!(said.contains(&topic.name), "{said}");
    }
}

#[test]
fn fresh_records_stay_whatever_their_batches_say_of_their_time() {
    let (target, patience) = often();
    let mut client = Client::connect(target.kafka());
    let topic = Topic::create_configured(&mut client, 1, &[("retention.ms", "3600000")]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let now = i64::try_from(now.as_millis()).expect("before the end of time");
    let mut expected = Vec::new();
    // What old versions of sarama send, the last record's time, and none.
    for says in [-1, 1_700_000_000_000, 0] {
        for codec in [Codec::None, Codec::Zstd] {
            let times = [now, 1_700_000_000_000];
            let batch = Batch::of(["fresh", "of the year 2023"]).at(&times).compressed(codec);
            let batch = Batch { max_timestamp: Some(says), ..batch };
            let offset = expected.len() as i64;
            assert_eq!(append(&mut client, &topic, &batch), (0, offset));
            expected.extend([offset, offset + 1]);
        }
    }
    another_look(&mut client, patience);
    assert_eq!(earliest(&mut client, &topic), 0);
    assert_eq!(offsets_from_the_beginning(&target, &topic), expected);
}

/// A value that says where it belongs, with bytes after it that no codec makes less of.
fn value(key: &str, offset: i64) -> Vec<u8> {
    let mut value = format!("{key} {offset} ").into_bytes();
    let mut state = offset.unsigned_abs() + 1;
    value.resize_with(10_000, || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    value
}

/// The key of the record at `offset`: each other one has a key of its own.
fn key(offset: i64) -> String {
    if offset % 2 == 0 { format!("of-{offset}") } else { format!("one-of-ten-{}", offset / 2 % 10) }
}

/// Appends ten records from `first` on.
#[track_caller]
fn append_keyed(client: &mut Client, topic: &Topic, first: i64) {
    let offsets = first..first + 10;
    let mut batch = Batch::of(offsets.clone().map(|offset| value(&key(offset), offset)));
    for (record, offset) in batch.records.iter_mut().zip(offsets) {
        record.1 = key(offset).into();
    }
    assert_eq!(append(client, topic, &batch), (0, first), "each offset is given once, in order");
}

/// Reads from `position` to the end of the log as it is now; returns offsets and the end. A log that
/// has lost its beginning meanwhile is read from where it starts.
#[track_caller]
fn read_shrinking(client: &mut Client, topic: &Topic, mut position: i64) -> (Vec<i64>, i64) {
    let version = client.latest::<FetchRequest>();
    let mut offsets = Vec::new();
    loop {
        let answer = fetched(client.call(version, &fetch(version, topic, 0, position)));
        if answer.error_code == code::OFFSET_OUT_OF_RANGE {
            let start = earliest(client, topic);
            assert!(start > position, "{position} is out of range, and the log starts at {start}");
            position = start;
            continue;
        }
        assert_eq!(answer.error_code, code::NONE, "at {position}");
        let bytes = answer.records.unwrap_or_default();
        let next = next_offset(&bytes);
        for record in read(bytes) {
            if record.offset >= position {
                let expected = value(&key(record.offset), record.offset);
                assert!(record.value == expected[..], "other bytes at {}", record.offset);
                offsets.push(record.offset);
            }
        }
        match next {
            Some(next) => position = next.max(position),
            None => {
                assert!(position >= answer.high_watermark, "an empty answer before the end");
                return (offsets, position);
            }
        }
    }
}

/// Where the log starts, the offsets that are there, and its end: all of one moment.
#[track_caller]
fn look(client: &mut Client, topic: &Topic) -> (i64, Vec<i64>, i64) {
    loop {
        let start = earliest(client, topic);
        let (offsets, end) = read_shrinking(client, topic, start);
        if earliest(client, topic) == start {
            return (start, offsets, end);
        }
    }
}

#[test]
fn a_log_that_is_compacted_and_kept_to_its_size_loses_no_more_than_that() {
    const BOUND: i64 = 4 << 20;
    const RECORDS: i64 = 1_500;
    let options = Options::new()
        .set("log.initial.task.delay.ms", 0)
        .set("log.retention.check.interval.ms", 5)
        .set("log.cleaner.backoff.ms", 5);
    let mut target = Target::start_with(options);
    // Kafka's cleaner looks every 15 s, and retention every five minutes.
    let patience = if target.is_reference() { Duration::from_secs(700) } else { PATIENCE };
    let mut client = Client::connect(target.kafka());
    let topic = Topic::create_configured(
        &mut client,
        1,
        &[
            ("cleanup.policy", "compact,delete"),
            ("min.cleanable.dirty.ratio", "0.01"),
            ("segment.bytes", SEGMENT_BYTES),
            ("retention.bytes", &BOUND.to_string()),
            ("retention.ms", "-1"),
        ],
    );
    // The records with keys of their own alone are more than is kept.
    let is_written = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Client::connect(target.kafka());
            let mut position = 0;
            loop {
                let was_last = is_written.load(Ordering::Acquire);
                let (offsets, end) = read_shrinking(&mut client, &topic, position);
                assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]), "{offsets:?}");
                assert!(offsets.first().is_none_or(|first| *first >= position));
                position = end;
                if was_last {
                    assert_eq!(position, RECORDS);
                    break;
                }
            }
        });
        for first in (0..RECORDS).step_by(10) {
            append_keyed(&mut client, &topic, first);
        }
        is_written.store(true, Ordering::Release);
    });
    // What is superseded goes, unless only the segment that is appended to has something newer.
    let keys = RECORDS - 20..RECORDS;
    let newest = |offset: i64| offset % 2 == 0 || keys.contains(&offset);
    let superseded_below = RECORDS - 100 - 20;
    until("retention and compaction", patience, || {
        let (start, left, _) = look(&mut client, &topic);
        let bytes: i64 = left.len() as i64 * 10_000;
        let superseded: Vec<&i64> =
            left.iter().filter(|offset| **offset < superseded_below && !newest(**offset)).collect();
        if superseded.is_empty() && bytes < BOUND + (1 << 20) + 1_000_000 {
            Ok(())
        } else {
            Err(format!("from {start}, {bytes} bytes, superseded: {superseded:?}"))
        }
    });
    // Everything from the start on whose key has nothing newer is there, and no less than the bound.
    let (start, left, end) = look(&mut client, &topic);
    assert_eq!(end, RECORDS);
    let expected: Vec<i64> = (start..RECORDS).filter(|offset| newest(*offset)).collect();
    let kept: Vec<i64> = left.iter().copied().filter(|offset| newest(*offset)).collect();
    assert_eq!(kept, expected);
    assert!(start > 0, "retention has taken nothing");
    // Compaction may take from what retention has left.
    assert!(left.len() as i64 * 10_100 > BOUND / 2 - (1 << 20), "{} records are left", left.len());

    if let Some(broker) = target.ottla() {
        broker.kill();
        broker.restart();
        let mut client = Client::connect(broker.kafka());
        let (again, left, end) = look(&mut client, &topic);
        assert!(again >= start);
        assert_eq!(end, RECORDS);
        let expected: Vec<i64> = (again..RECORDS).filter(|offset| newest(*offset)).collect();
        let kept: Vec<i64> = left.into_iter().filter(|offset| newest(*offset)).collect();
        assert_eq!(kept, expected);
        append_keyed(&mut client, &topic, RECORDS);
    }
}

fn readyz(broker: &Broker) -> Value {
    serde_json::from_str(&broker.get("/readyz")).expect("JSON")
}

#[test]
fn damage_at_rest_is_found_while_the_broker_runs() {
    let options =
        Options::new().set("log.initial.task.delay.ms", 0).set("log.scrub.interval.ms", 20);
    let broker = Broker::start_with(options);
    let mut client = Client::connect(broker.kafka());
    let topic = Topic::create_with(&mut client, 2);
    for at in 0..10 {
        assert_eq!(append(&mut client, &topic, &Batch::of([format!("value {at}")])).0, 0);
    }
    let path = log_folder(&broker, &topic).join(format!("{:020}.log", 0));
    let bytes = fs::metadata(&path).expect("a segment").len() as f64;
    until("the scrub", PATIENCE, || {
        let scrubbed = broker.metric("ottla_log_scrubbed_bytes_total");
        if scrubbed >= bytes { Ok(()) } else { Err(format!("{scrubbed} bytes")) }
    });
    assert!(broker.metric("ottla_log_scrub_round_ended_timestamp_seconds") > 1e9);
    assert_eq!(broker.metric("ottla_log_damaged_batches_total"), 0.0);

    let mut flipped = fs::read(&path).expect("a segment");
    let at = 3 * flipped.len() / 10 + 70;
    flipped[at] ^= 0x04;
    fs::write(&path, flipped).expect("a segment");
    until("the damage", PATIENCE, || match broker.metric("ottla_log_damaged_batches_total") {
        0.0 => Err("none found".to_owned()),
        _ => Ok(()),
    });
    let refusing = &readyz(&broker)["refusing"][0];
    assert_eq!((&refusing["topic"], &refusing["partition"]), (&topic.name[..].into(), &0.into()));
    let version = client.latest::<ProduceRequest>();
    let mut append_to = |partition| {
        let request = produce(version, &topic, partition, -1, Some(Batch::of(["more"]).encode()));
        produced(client.call(version, &request)).error_code
    };
    assert_eq!([append_to(0), append_to(1)], [code::KAFKA_STORAGE_ERROR, code::NONE]);
    // It is found once, however often the scrub comes by.
    let ended = broker.metric("ottla_log_scrub_round_ended_timestamp_seconds");
    until("another round", PATIENCE, || {
        let now = broker.metric("ottla_log_scrub_round_ended_timestamp_seconds");
        if now > ended { Ok(()) } else { Err("no end".to_owned()) }
    });
    assert_eq!(broker.metric("ottla_log_damaged_batches_total"), 1.0);
}

#[test]
fn a_partition_that_cannot_be_read_answers_errors_while_all_others_serve() {
    let mut broker = Broker::start();
    let mut client = Client::connect(broker.kafka());
    let (unreadable, other) = (Topic::create(&mut client), Topic::create(&mut client));
    for topic in [&unreadable, &other] {
        assert_eq!(append(&mut client, topic, &Batch::of(["a", "b"])), (0, 0));
    }
    assert!(broker.terminate().success());
    let path = log_folder(&broker, &unreadable).join(format!("{:020}.log", 0));
    let aside = broker.folder().join("aside");
    fs::rename(&path, &aside).expect("a segment");
    fs::create_dir(&path).expect("a folder in its place");
    broker.restart();

    let mut client = Client::connect(broker.kafka());
    let version = client.latest::<ListOffsetsRequest>();
    for timestamp in [EARLIEST, LATEST, 0] {
        let answer = offset_of(&mut client, version, &unreadable, timestamp);
        assert_eq!(
            (answer.error_code, answer.offset),
            (code::KAFKA_STORAGE_ERROR, -1),
            "{timestamp}"
        );
    }
    let version = client.latest::<FetchRequest>();
    for offset in [0, 1, 2] {
        let answer = fetched(client.call(version, &fetch(version, &unreadable, 0, offset)));
        assert_eq!(answer.error_code, code::KAFKA_STORAGE_ERROR, "at {offset}");
    }
    assert_eq!(append(&mut client, &unreadable, &Batch::of(["c"])).0, code::KAFKA_STORAGE_ERROR);
    assert_eq!(readyz(&broker)["refusing"][0]["topic"], unreadable.name);
    assert_eq!(append(&mut client, &other, &Batch::of(["c"])), (0, 2));
    assert_eq!(read_from(&mut client, &other, 0).len(), 3);

    assert!(broker.terminate().success());
    fs::remove_dir(&path).expect("the folder");
    fs::rename(&aside, &path).expect("the segment");
    broker.restart();
    let mut client = Client::connect(broker.kafka());
    assert_eq!(read_from(&mut client, &unreadable, 0).len(), 2);
    assert_eq!(append(&mut client, &unreadable, &Batch::of(["c"])), (0, 2));
}
