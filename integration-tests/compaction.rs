//! Compacted topics as real clients see them. What stays must be the same on Apache Kafka.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::FetchRequest;

use crate::clients_kcat::{consume_all, produce};
use crate::harness::{
    JVM_PATIENCE, Options, PATIENCE, Program, Target, heavy, java, python, until,
};
use crate::protocol::client::Client;
use crate::protocol::requests::{Topic, fetch, fetched};

/// Kafka's cleaner looks for work every 15 s.
const COMPACTION_PATIENCE: Duration = Duration::from_secs(180);

/// Filling whose newest record is always in a later segment than what is looked at.
const PAD: &str = "pad";

const CONFIGS: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("min.cleanable.dirty.ratio", "0.01"),
    // Kafka's smallest.
    ("segment.bytes", "1048576"),
    ("delete.retention.ms", "0"),
];

/// A record of a key other than the filling.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    offset: u64,
    key: String,
    /// `None` is a tombstone.
    value: Option<String>,
}

#[track_caller]
fn seen(target: &Target, topic: &str) -> Vec<Seen> {
    // A length of -1 is a null.
    let printed = consume_all(target.kafka(), topic, "%o %k %S %s\n");
    let record = |line: &String| {
        let mut fields = line.splitn(4, ' ');
        let mut field = || fields.next().expect("four fields").to_owned();
        let (offset, key, length, value) = (field(), field(), field(), field());
        (key != PAD).then(|| Seen {
            offset: offset.parse().expect("an offset"),
            key,
            value: (length != "-1").then_some(value),
        })
    };
    printed.lines().iter().filter_map(|line| record(&line.to_string())).collect()
}

/// More than two segments of nothing of interest.
fn padding(target: &Target, topic: &str) -> u64 {
    let lines = 130;
    // Different bytes, so that no codec makes less of them.
    let value = |n: usize| -> String {
        let mut state = n as u64 + 1;
        let step = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'a' + (state >> 33) as u8 % 26)
        };
        (0..20_000).map(step).collect()
    };
    let input: String = (0..lines).map(|n| format!("{PAD}:{}\n", value(n))).collect();
    produce(target.kafka(), topic, &["-K:"], &input);
    lines as u64
}

#[test]
fn clients_of_a_compacted_topic_see_the_newest_record_of_each_key_at_its_offset() {
    let target = Target::start_with(Options::new().set("log.cleaner.backoff.ms", 100));
    let mut client = Client::connect(target.kafka());
    let topic = Topic::create_configured(&mut client, 1, &CONFIGS);
    let name = topic.name.clone();
    // Each key is written by every client's codec, and some end with a tombstone.
    let mut newest: BTreeMap<String, Seen> = BTreeMap::new();
    let mut offset = 0;
    for (round, codec) in ["none", "gzip", "snappy", "lz4", "zstd"].into_iter().enumerate() {
        let mut input = String::new();
        for n in 0..60usize {
            let key = format!("k{}", n * (round + 3) % 23);
            let value = (n % 7 > 0).then(|| format!("{codec}-{n}"));
            input += &format!("{key}:{}\n", value.as_deref().unwrap_or_default());
            newest.insert(key.clone(), Seen { offset, key, value });
            offset += 1;
        }
        produce(target.kafka(), &name, &["-K:", "-Z", "-z", codec], &input);
    }
    let mut newest: Vec<Seen> = newest.into_values().collect();
    newest.sort_by_key(|seen| seen.offset);
    let (values, tombstones): (Vec<Seen>, Vec<Seen>) =
        newest.into_iter().partition(|seen| seen.value.is_some());
    assert!(values.len() > 5 && tombstones.len() > 1, "{values:?} {tombstones:?}");
    offset += padding(&target, &name);
    until("the superseded records to go", COMPACTION_PATIENCE, || {
        let left: Vec<Seen> =
            seen(&target, &name).into_iter().filter(|seen| seen.value.is_some()).collect();
        if left == values { Ok(()) } else { Err(format!("{left:?}")) }
    });
    // Tombstones that a compaction has passed over go with a later one.
    offset += padding(&target, &name);
    until("the tombstones to go", COMPACTION_PATIENCE, || {
        let left = seen(&target, &name);
        if left == values { Ok(()) } else { Err(format!("{left:?}")) }
    });

    if !target.is_reference() {
        // What stands in the place of whole batches that went is an empty batch.
        let version = client.latest::<FetchRequest>();
        let answer = fetched(client.call(version, &fetch(version, &topic, 0, 0)));
        let records = answer.records.expect("records");
        let count = i32::from_be_bytes(records[57..61].try_into().expect("a batch header"));
        assert_eq!(count, 0);
    }

    let mut command = python("read_compacted.py");
    let lookups = if target.is_reference() { "reference" } else { "exact" };
    command.args([&target.kafka().to_string(), &name, &offset.to_string(), lookups]);
    let read = Program::start("read_compacted.py", command).finish(3 * PATIENCE).success();
    let expected: Vec<String> = values
        .iter()
        .map(|seen| format!("{} {} {}", seen.offset, seen.key, seen.value.as_deref().unwrap_or("")))
        .collect();
    assert_eq!(read.lines(), expected);

    for module in ["clients", "clients-3.9"] {
        let mut command = java(module, "Consume");
        let group_and_topic = name.as_str();
        command.args([&target.kafka().to_string(), &values.len().to_string(), group_and_topic]);
        let _turn = heavy();
        let read = Program::start("Consume", command).finish(JVM_PATIENCE).success();
        let expected: Vec<String> = expected.iter().map(|line| format!("0 {line}")).collect();
        assert_eq!(read.lines(), expected, "{module}");
        forget_group(&target, group_and_topic);
    }
}

/// Lets the next member of a group begin at the first record again.
#[track_caller]
fn forget_group(target: &Target, group: &str) {
    let mut command = python("delete_group.py");
    command.args([&target.kafka().to_string(), group]);
    Program::start("delete_group.py", command).finish(PATIENCE).success();
}
