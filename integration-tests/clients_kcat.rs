//! kcat as Debian packages it (librdkafka 2.0.2), an old client that many scripts rely on.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Buf;
use serde_json::Value;
use uuid::Uuid;

use crate::harness::{Finished, PATIENCE, Program, Target, kcat, python, unique, until};
use crate::protocol::batch::Codec;
use crate::protocol::client::Client;
use crate::protocol::requests::{Topic, fetch, fetched};

/// Produces `input`, a record per line, with `arguments` besides broker and topic.
#[track_caller]
pub fn produce(broker: SocketAddr, topic: &str, arguments: &[&str], input: &str) {
    let mut command = kcat(broker);
    command.args(["-P", "-t", topic]).args(arguments);
    Program::start_with_input("kcat -P", command, input.as_bytes()).finish(PATIENCE).success();
}

/// Consumes with `arguments` besides broker and topic, up to the end of the topic.
#[track_caller]
fn consume(broker: SocketAddr, topic: &str, arguments: &[&str]) -> Finished {
    let mut command = kcat(broker);
    command.args(["-C", "-q", "-e", "-t", topic]).args(arguments);
    Program::start("kcat -C", command).finish(PATIENCE).success()
}

/// All committed records of a topic, each printed as kcat's `format` says.
#[track_caller]
pub fn consume_all(broker: SocketAddr, topic: &str, format: &str) -> Finished {
    let committed = "isolation.level=read_committed";
    consume(broker, topic, &["-o", "beginning", "-X", committed, "-f", format])
}

#[track_caller]
fn create(broker: SocketAddr, topic: &str, partitions: u32) {
    let mut command = python("create_topic.py");
    command.args([&broker.to_string(), topic, &partitions.to_string()]);
    Program::start("create_topic.py", command).finish(PATIENCE).success();
}

#[test]
fn kcat_lists_the_broker_and_its_topics() {
    let target = Target::start();
    let (single, triple) = (unique("single"), unique("triple"));
    produce(target.kafka(), &single, &[], "created by its first record\n");
    create(target.kafka(), &triple, 3);

    let mut command = kcat(target.kafka());
    command.args(["-L", "-J"]);
    let listed = Program::start("kcat -L", command).finish(PATIENCE).success();
    let listed: Value = serde_json::from_str(&listed.stdout).expect("kcat -J prints JSON");

    let brokers = listed["brokers"].as_array().expect("brokers");
    assert_eq!(brokers.len(), 1, "{listed}");
    assert_eq!(brokers[0]["name"], target.kafka().to_string(), "{listed}");
    assert_eq!(listed["controllerid"], brokers[0]["id"], "{listed}");
    for (topic, partitions) in [(&single, 1), (&triple, 3)] {
        let topics = listed["topics"].as_array().expect("topics");
        let found = topics.iter().find(|found| found["topic"] == topic.as_str());
        let found = found.unwrap_or_else(|| panic!("{topic} is not listed: {listed}"));
        let described = found["partitions"].as_array().expect("partitions");
        assert_eq!(described.len(), partitions, "{listed}");
        assert!(described.iter().all(|part| part["leader"] == brokers[0]["id"]), "{listed}");
    }
}

#[track_caller]
fn round_trips_keys_and_headers(arguments: &[&str], codec: Codec) {
    let target = Target::start();
    let topic = unique("round-trip");
    let input: String = (0..200).map(|n| format!("key{n}:value{n}\n")).collect();
    let headers = ["-K:", "-H", "source=kcat", "-H", "empty="];
    produce(target.kafka(), &topic, &[&headers, arguments].concat(), &input);

    let consumed = consume_all(target.kafka(), &topic, "%p %o %k %h %s\n");

    let expected: Vec<String> =
        (0..200).map(|n| format!("0 {n} key{n} source=kcat,empty= value{n}")).collect();
    assert_eq!(consumed.lines(), expected);
    assert!(stored_codecs(target.kafka(), &topic).contains(&(codec as u8)));
}

/// The codecs in the attributes of a topic's batches. librdkafka sends uncompressed, and says so only
/// in its log, when it believes that the broker does not know a codec; and a batch of few records,
/// as the first may be, when compression would make it larger.
#[track_caller]
pub fn stored_codecs(broker: SocketAddr, topic: &str) -> Vec<u8> {
    // v12 is the last version that names topics.
    const VERSION: i16 = 12;
    let topic = Topic { name: topic.to_owned(), id: Uuid::nil() };
    let mut client = Client::connect(broker);
    let (mut codecs, mut next) = (Vec::new(), 0);
    loop {
        let answer = client.call(VERSION, &fetch(VERSION, &topic, 0, next));
        let records = fetched(answer).records.unwrap_or_default();
        let mut batches = &records[..];
        // Base offset, length of what follows, leader epoch, magic, CRC, attributes, and the last
        // offset's delta. The last batch may be cut.
        while let Some(mut header) = batches.get(..27) {
            let (base, length) = (header.get_i64(), header.get_u32());
            codecs.push(header[10] & 7);
            next = base + 1 + i64::from((&header[11..]).get_i32());
            batches = batches.get(12 + length as usize..).unwrap_or_default();
        }
        if records.is_empty() {
            return codecs;
        }
    }
}

#[test]
fn kcat_round_trips_keys_and_headers_uncompressed() {
    round_trips_keys_and_headers(&[], Codec::None);
}

#[test]
fn kcat_round_trips_keys_and_headers_with_gzip() {
    round_trips_keys_and_headers(&["-z", "gzip"], Codec::Gzip);
}

#[test]
fn kcat_round_trips_keys_and_headers_with_snappy() {
    round_trips_keys_and_headers(&["-z", "snappy"], Codec::Snappy);
}

#[test]
fn kcat_round_trips_keys_and_headers_with_lz4() {
    round_trips_keys_and_headers(&["-z", "lz4"], Codec::Lz4);
}

#[test]
fn kcat_round_trips_keys_and_headers_with_zstd() {
    round_trips_keys_and_headers(&["-z", "zstd"], Codec::Zstd);
}

#[test]
fn kcat_round_trips_keys_and_headers_idempotently() {
    round_trips_keys_and_headers(&["-X", "enable.idempotence=true"], Codec::None);
}

#[test]
fn kcat_consumes_from_an_offset_and_from_the_end() {
    let target = Target::start();
    let topic = unique("offsets");
    produce(target.kafka(), &topic, &[], "a\nb\nc\nd\ne\n");

    let from = |offset| consume(target.kafka(), &topic, &["-o", offset, "-f", "%o=%s "]).stdout;

    assert_eq!(from("beginning"), "0=a 1=b 2=c 3=d 4=e ");
    assert_eq!(from("3"), "3=d 4=e ");
    assert_eq!(from("-2"), "3=d 4=e ");
    assert_eq!(from("end"), "");
}

#[test]
fn kcat_finds_records_by_timestamp() {
    let target = Target::start();
    let topic = unique("timestamps");
    produce(target.kafka(), &topic, &[], "a\nb\nc\n");
    let stamps = consume(target.kafka(), &topic, &["-o", "beginning", "-f", "%T\n"]);
    let stamps = stamps.stdout.lines().map(|stamp| stamp.parse::<u128>().expect("a timestamp"));
    let between = stamps.max().expect("three records") + 1;
    until("the clock to move on", PATIENCE, || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        if now.as_millis() >= between { Ok(()) } else { Err(format!("still {now:?}")) }
    });
    produce(target.kafka(), &topic, &[], "d\ne\n");

    let from = |stamp: &str| {
        consume(target.kafka(), &topic, &["-o", &format!("s@{stamp}"), "-f", "%o=%s "]).stdout
    };
    assert_eq!(from(&between.to_string()), "3=d 4=e ");
    assert_eq!(from("1"), "0=a 1=b 2=c 3=d 4=e ");

    let query = |stamp: &str| {
        let mut command = kcat(target.kafka());
        command.args(["-Q", "-t", &format!("{topic}:0:{stamp}")]);
        Program::start("kcat -Q", command).finish(PATIENCE).success().stdout
    };
    assert_eq!(query(&between.to_string()).trim(), format!("{topic} [0] offset 3"));
    assert_eq!(query("-2").trim(), format!("{topic} [0] offset 0"));
    assert_eq!(query("-1").trim(), format!("{topic} [0] offset 5"));
}

/// A member of a group, printing `partition value` of each record it gets.
fn member(broker: SocketAddr, group: &str, topic: &str) -> Program {
    let mut command = kcat(broker);
    command.args(["-u", "-f", "%p %s\n", "-G", group, topic]);
    // The topic's first records, had the member missed any; and a quick goodbye.
    command.args(["-X", "auto.offset.reset=earliest"]);
    Program::start("kcat -G", command)
}

/// The partitions kcat said were assigned to it last.
fn assigned(member: &Program) -> BTreeSet<u32> {
    let log = member.stderr();
    let Some(last) = log.lines().rfind(|line| line.contains("rebalanced")) else {
        return BTreeSet::new();
    };
    let Some((_, partitions)) = last.split_once("assigned:") else { return BTreeSet::new() };
    let numbers = partitions.split('[').skip(1).filter_map(|part| part.split(']').next());
    numbers.map(|number| number.parse().expect("a partition number")).collect()
}

#[test]
fn kcat_group_members_share_the_partitions_and_the_last_one_takes_all() {
    let target = Target::start();
    let (topic, group) = (unique("shared"), unique("group"));
    create(target.kafka(), &topic, 4);
    let all = BTreeSet::from([0, 1, 2, 3]);

    let mut first = member(target.kafka(), &group, &topic);
    until("the only member to own all partitions", PATIENCE, || {
        let owned = assigned(&first);
        if owned == all { Ok(()) } else { Err(format!("it owns {owned:?}: {}", first.stderr())) }
    });

    let mut second = member(target.kafka(), &group, &topic);
    until("the members to share the partitions", PATIENCE, || {
        let (ours, theirs) = (assigned(&first), assigned(&second));
        let complete = ours.union(&theirs).copied().collect::<BTreeSet<_>>() == all;
        if complete && ours.len() == 2 && theirs.len() == 2 {
            Ok(())
        } else {
            Err(format!("they own {ours:?} and {theirs:?}"))
        }
    });

    for partition in 0..4 {
        let partition = partition.to_string();
        produce(target.kafka(), &topic, &["-p", &partition], "shared\n");
    }
    until("each member to read its two partitions", PATIENCE, || {
        let (ours, theirs) = (first.stdout(), second.stdout());
        if ours.lines().count() == 2 && theirs.lines().count() == 2 {
            Ok(())
        } else {
            Err(format!("they read {ours:?} and {theirs:?}"))
        }
    });

    first.terminate();
    assert!(first.wait(PATIENCE).success(), "{}", first.stderr());
    until("the member that is left to own all partitions", PATIENCE, || {
        let owned = assigned(&second);
        if owned == all { Ok(()) } else { Err(format!("it owns {owned:?}: {}", second.stderr())) }
    });
    for partition in 0..4 {
        let partition = partition.to_string();
        produce(target.kafka(), &topic, &["-p", &partition], "alone\n");
    }
    until("the member that is left to read all partitions", PATIENCE, || {
        let read = second.stdout();
        let alone: BTreeSet<&str> = read.lines().filter(|line| line.ends_with("alone")).collect();
        if alone.len() == 4 { Ok(()) } else { Err(format!("it read {read:?}")) }
    });

    second.terminate();
    assert!(second.wait(PATIENCE).success(), "{}", second.stderr());
    // Both committed as they left: no record was read twice, none was missed.
    let mut read: Vec<String> = [first.stdout(), second.stdout()]
        .iter()
        .flat_map(|out| out.lines().map(String::from))
        .collect();
    read.sort();
    let expected: Vec<String> = (0..4)
        .flat_map(|partition| [format!("{partition} alone"), format!("{partition} shared")])
        .collect();
    assert_eq!(read, expected);
}
