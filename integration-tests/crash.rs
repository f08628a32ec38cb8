//! kill -9, SIGTERM and a lost view under load: what was acknowledged is there once, in order, with
//! its bytes.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{
    FetchRequest, GroupId, OffsetCommitRequest, OffsetFetchRequest, ProduceRequest,
};

use crate::harness::{Broker, Options, PATIENCE, until};
use crate::protocol::batch::{self, Batch, Record};
use crate::protocol::client::{Client, text};
use crate::protocol::requests::{
    Topic, append, describe, fetch, fetched, new_producer, produce, produced, read_partition,
};

/// Rounds of load, kill and restart.
const ROUNDS: u64 = 25;
/// Producers at work; each writes to a partition of its own, so its order can be checked.
const PRODUCERS: i32 = 4;
/// Requests that a producer has on the way.
const PIPELINE: usize = 3;

/// A broker's answer to a batch: where its records lie.
#[derive(Clone, Debug)]
struct Acknowledged {
    base_offset: i64,
    values: Vec<Vec<u8>>,
}

/// One producer over all rounds, and what it was promised.
struct Producer {
    partition: i32,
    /// `Some` for an idempotent one.
    id: Option<(i64, i16)>,
    next_sequence: i32,
    /// What was sent and not acknowledged when the connection broke, to be sent again with the
    /// sequence numbers it had. Only an idempotent producer may do so without doubling anything.
    unanswered: Vec<(i32, Vec<Vec<u8>>)>,
    ledger: Vec<Acknowledged>,
    made: u64,
    /// Every value that was ever sent, acknowledged or not.
    sent: HashMap<Vec<u8>, u32>,
}

/// splitmix64: the same choices in every run.
fn choice(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// What all producers of a round share.
#[derive(Default)]
struct Load {
    /// Set to end the round without ending the broker.
    stop: AtomicBool,
    /// Set before the broker is ended: until then no connection may break.
    broker_ends: AtomicBool,
    acked: AtomicU64,
}

impl Load {
    #[track_caller]
    fn may_break(&self, error: &std::io::Error) {
        let told = self.broker_ends.load(Ordering::Relaxed);
        assert!(told, "a connection broke before the broker was ended: {error}");
    }

    #[track_caller]
    fn wait_for(&self, enough: u64) {
        until("enough acknowledged batches", PATIENCE, || {
            let batches = self.acked.load(Ordering::Relaxed);
            if batches >= enough { Ok(()) } else { Err(format!("{batches} of {enough}")) }
        });
    }
}

impl Producer {
    fn new(partition: i32, id: Option<(i64, i16)>) -> Producer {
        Producer {
            partition,
            id,
            next_sequence: 0,
            unanswered: Vec::new(),
            ledger: Vec::new(),
            made: 0,
            sent: HashMap::new(),
        }
    }

    /// A few values that no other batch has, of sizes that differ.
    fn values(&mut self) -> Vec<Vec<u8>> {
        let seed = choice(self.made ^ (u64::from(self.partition.unsigned_abs()) << 40));
        self.made += 1;
        (0..1 + seed % 5)
            .map(|at| {
                let size = usize::try_from(choice(seed + at) % 900).expect("a small number");
                let mut value = format!("{}:{}:{at}:", self.partition, self.made).into_bytes();
                value.resize(value.len() + size, b'.');
                value
            })
            .collect()
    }

    fn batch(&self, values: &[Vec<u8>], sequence: i32) -> Batch {
        let batch = Batch::of(values);
        match self.id {
            Some((id, epoch)) => batch.by_producer(id, epoch, sequence),
            None => batch,
        }
    }

    /// Produces with `acks=all` until the broker ends or is told to; counts what was acknowledged.
    fn run(&mut self, broker: SocketAddr, topic: &Topic, load: &Load) {
        let mut client = match Client::try_connect(broker) {
            Ok(client) => client,
            Err(error) => return load.may_break(&error),
        };
        const VERSION: i16 = 13;
        let mut on_the_way: Vec<(i32, i32, Vec<Vec<u8>>)> = Vec::new();
        let mut again = std::mem::take(&mut self.unanswered);
        again.reverse();
        let mut is_open = true;
        while is_open || !on_the_way.is_empty() {
            let may_send = is_open && !load.stop.load(Ordering::Relaxed);
            if may_send && on_the_way.len() < PIPELINE {
                let (sequence, values) = again.pop().unwrap_or_else(|| {
                    let values = self.values();
                    for value in &values {
                        *self.sent.entry(value.clone()).or_default() += 1;
                    }
                    let sequence = self.next_sequence;
                    self.next_sequence += i32::try_from(values.len()).expect("few values");
                    (sequence, values)
                });
                let records = self.batch(&values, sequence).encode();
                let request = produce(VERSION, topic, self.partition, -1, Some(records));
                match client.try_send(VERSION, &request) {
                    Ok(correlation_id) => on_the_way.push((correlation_id, sequence, values)),
                    Err(error) => {
                        load.may_break(&error);
                        is_open = false;
                        again.push((sequence, values));
                    }
                }
                continue;
            }
            if on_the_way.is_empty() {
                break;
            }
            let (correlation_id, sequence, values) = on_the_way.remove(0);
            match client.try_receive::<ProduceRequest>(VERSION, correlation_id) {
                Ok(answer) => {
                    let answer = produced(answer);
                    assert_eq!(answer.error_code, 0, "sequence {sequence} of {:?}", self.id);
                    self.ledger.push(Acknowledged { base_offset: answer.base_offset, values });
                    load.acked.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    assert_ne!(error.kind(), ErrorKind::InvalidData, "{error}");
                    load.may_break(&error);
                    // All that follows on this connection is unanswered as well.
                    self.unanswered.push((sequence, values));
                    self.unanswered.extend(
                        on_the_way.drain(..).map(|(_, sequence, values)| (sequence, values)),
                    );
                    is_open = false;
                }
            }
        }
        again.reverse();
        self.unanswered.append(&mut again);
        if self.id.is_none() {
            // Whether these were stored nobody can know: they may be there or not.
            self.unanswered.clear();
        }
    }

    /// The values of all acknowledged batches, in order.
    fn acknowledged(&self) -> Vec<&[u8]> {
        self.ledger.iter().flat_map(|batch| batch.values.iter().map(Vec::as_slice)).collect()
    }

    /// Compares the ledger with what the partition holds; returns how many records are lost.
    #[track_caller]
    fn check(&self, records: &[Record]) -> usize {
        let by_offset: HashMap<i64, &Record> =
            records.iter().map(|record| (record.offset, record)).collect();
        assert_eq!(by_offset.len(), records.len(), "an offset was read twice");
        let mut lost = 0;
        for acknowledged in &self.ledger {
            for (offset, value) in (acknowledged.base_offset..).zip(&acknowledged.values) {
                match by_offset.get(&offset) {
                    Some(record) if record.value == value[..] => {}
                    Some(_) => panic!("other bytes at offset {offset} of {}", self.partition),
                    None => lost += 1,
                }
            }
        }
        let offsets: Vec<i64> = self.ledger.iter().map(|batch| batch.base_offset).collect();
        assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]), "acknowledged out of order");
        let mut seen: HashMap<&[u8], u32> = HashMap::new();
        for record in records {
            *seen.entry(&record.value).or_default() += 1;
        }
        for (value, times) in seen {
            let name = String::from_utf8_lossy(&value[..value.len().min(24)]);
            assert!(self.sent.contains_key(value), "'{name}' was never sent");
            assert_eq!(times, 1, "'{name}' is there {times} times");
        }
        lost
    }
}

#[test]
fn nothing_acknowledged_is_lost_doubled_or_moved_by_kill_9() {
    let mut broker = Broker::start_with(Options::new().set("log.segment.bytes", 1 << 20));
    let mut client = Client::connect(broker.kafka());
    let topic = Topic::create_with(&mut client, PRODUCERS);
    let mut producers: Vec<Producer> = (0..PRODUCERS)
        .map(|partition| {
            Producer::new(partition, (partition % 2 == 0).then(|| new_producer(&mut client)))
        })
        .collect();
    let mut rounds_with_unanswered = 0;
    for round in 0..ROUNDS {
        let load = Load::default();
        // The moment of the kill is a number of answers, not a time, and then a little more.
        let enough = 5 + choice(round) % 120;
        let address = broker.kafka();
        thread::scope(|scope| {
            for producer in &mut producers {
                let (topic, load) = (&topic, &load);
                scope.spawn(move || producer.run(address, topic, load));
            }
            load.wait_for(enough);
            thread::sleep(Duration::from_micros(choice(round + 1_000) % 5_000));
            load.broker_ends.store(true, Ordering::Relaxed);
            broker.kill();
        });
        let is_caught = producers.iter().any(|producer| !producer.unanswered.is_empty());
        rounds_with_unanswered += u64::from(is_caught);
        broker.restart();
    }
    // Or the kills came between the requests and show nothing.
    assert!(rounds_with_unanswered >= ROUNDS / 2, "{rounds_with_unanswered} of {ROUNDS} rounds");
    // The idempotent ones send what was unanswered once more.
    let load = Load::default();
    let address = broker.kafka();
    thread::scope(|scope| {
        for producer in &mut producers {
            let (topic, load) = (&topic, &load);
            scope.spawn(move || producer.run(address, topic, load));
        }
        load.wait_for(50);
        load.stop.store(true, Ordering::Relaxed);
    });
    let mut client = Client::connect(broker.kafka());
    let (mut batches, mut stored, mut lost) = (0, 0, 0);
    for producer in &producers {
        let records = read_partition(&mut client, &topic, producer.partition, 0);
        lost += producer.check(&records);
        if producer.id.is_some() {
            // Everything it sent was acknowledged in the end: nothing more, and in its order.
            let read: Vec<&[u8]> = records.iter().map(|record| &record.value[..]).collect();
            assert!(
                producer.acknowledged() == read,
                "partition {} differs from its ledger",
                producer.partition
            );
        }
        batches += producer.ledger.len();
        stored += records.len();
    }
    println!("{ROUNDS} kills, {batches} acknowledged batches, {stored} records, {lost} lost");
    assert_eq!(lost, 0);
}

#[test]
fn sigterm_under_load_ends_with_0_and_keeps_what_was_acknowledged() {
    let mut broker = Broker::start();
    let mut client = Client::connect(broker.kafka());
    let topic = Topic::create_with(&mut client, PRODUCERS);
    let mut producers: Vec<Producer> = (0..PRODUCERS)
        .map(|partition| {
            Producer::new(partition, (partition % 2 == 0).then(|| new_producer(&mut client)))
        })
        .collect();
    for round in 0..10 {
        let load = Load::default();
        let enough = 20 + choice(round) % 60;
        let address = broker.kafka();
        thread::scope(|scope| {
            for producer in &mut producers {
                let (topic, load) = (&topic, &load);
                scope.spawn(move || producer.run(address, topic, load));
            }
            load.wait_for(enough);
            load.broker_ends.store(true, Ordering::Relaxed);
            let status = broker.terminate_within(Duration::from_secs(15));
            assert_eq!(status.code(), Some(0));
        });
        broker.restart();
        // What was in flight was finished: a request that was carried out was answered, too.
        let mut client = Client::connect(broker.kafka());
        for producer in &producers {
            let records = read_partition(&mut client, &topic, producer.partition, 0);
            let stored: Vec<&[u8]> = records.iter().map(|record| &record.value[..]).collect();
            assert!(
                producer.acknowledged() == stored,
                "round {round}: {} records of partition {} are stored, {} acknowledged",
                stored.len(),
                producer.partition,
                producer.acknowledged().len()
            );
        }
    }
    let mut client = Client::connect(broker.kafka());
    for producer in &producers {
        let records = read_partition(&mut client, &topic, producer.partition, 0);
        assert_eq!(producer.check(&records), 0);
    }
}

#[test]
fn a_batch_sent_again_after_a_crash_gets_the_offset_it_had() {
    let mut broker = Broker::start();
    let mut client = Client::connect(broker.kafka());
    let topic = Topic::create(&mut client);
    let (id, epoch) = new_producer(&mut client);
    let batch = |sequence| Batch::of(["x", "y"]).by_producer(id, epoch, sequence);
    for at in 0..6 {
        let answer = append(&mut client, &topic, &batch(at * 2));
        assert_eq!(answer, (0, i64::from(at) * 2));
    }
    for ends_by_kill in [true, false] {
        if ends_by_kill {
            broker.kill();
        } else {
            broker.terminate();
        }
        broker.restart();
        let mut client = Client::connect(broker.kafka());
        for at in 1..6 {
            let answer = append(&mut client, &topic, &batch(at * 2));
            assert_eq!(answer, (0, i64::from(at) * 2), "killed: {ends_by_kill}");
        }
        let (gap, _) = append(&mut client, &topic, &batch(40));
        assert_eq!(gap, 45);
        // A producer id is not given twice, whatever was lost of the block it came from.
        assert_ne!(new_producer(&mut client).0, id);
    }
    assert_eq!(read_partition(&mut Client::connect(broker.kafka()), &topic, 0, 0).len(), 12);
}

/// All that a client can see of a broker's state, taken before and after.
#[derive(Debug, PartialEq)]
struct Seen {
    topics: Vec<(String, uuid::Uuid, usize)>,
    records: Vec<Vec<Record>>,
    committed: Vec<i64>,
}

const GROUP: &str = "rebuilt";

fn see(broker: &Broker, topics: &[Topic]) -> Seen {
    let mut client = Client::connect(broker.kafka());
    let mut seen = Seen { topics: Vec::new(), records: Vec::new(), committed: Vec::new() };
    for topic in topics {
        let described = describe(&mut client, &topic.name);
        assert_eq!(described.error_code, 0, "{topic:?}");
        let partitions = described.partitions.len();
        seen.topics.push((topic.name.clone(), described.topic_id, partitions));
        for partition in 0..i32::try_from(partitions).expect("few partitions") {
            seen.records.push(read_partition(&mut client, topic, partition, 0));
        }
        let asked = OffsetFetchRequestTopic::default()
            .with_name(topic.topic_name())
            .with_partition_indexes(vec![0]);
        let request = OffsetFetchRequest::default()
            .with_group_id(GroupId(text(GROUP)))
            .with_topics(Some(vec![asked]));
        let committed = until("the group's offsets", PATIENCE, || {
            let answer = client.call(5, &request);
            // Kafka's way to say that the group is being loaded.
            match answer.error_code {
                0 => Ok(answer.topics[0].partitions[0].committed_offset),
                error => Err(format!("error {error}")),
            }
        });
        seen.committed.push(committed);
    }
    seen
}

/// Commits an offset of partition 0 for [`GROUP`].
fn commit(client: &mut Client, topic: &Topic, offset: i64) {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(offset);
    let of_topic = OffsetCommitRequestTopic::default()
        .with_name(topic.topic_name())
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(GROUP)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![of_topic]);
    until("the commit", PATIENCE, || {
        let answer = client.call(5, &request);
        match answer.topics[0].partitions[0].error_code {
            0 => Ok(()),
            error => Err(format!("error {error}")),
        }
    });
}

/// A stopped broker with topics, records of several producers and committed offsets.
fn filled() -> (Broker, Vec<Topic>, Seen, (i64, i16)) {
    let mut broker = Broker::start_with(Options::new().set("log.segment.bytes", 1 << 20));
    let mut client = Client::connect(broker.kafka());
    let topics: Vec<Topic> =
        (1..=3).map(|partitions| Topic::create_with(&mut client, partitions)).collect();
    let producer = new_producer(&mut client);
    for (topic, committed) in topics.iter().zip(7..) {
        for sequence in 0..10 {
            let batch = Batch::of([format!("{}-{sequence}", topic.name)]);
            let batch = batch.by_producer(producer.0, producer.1, sequence);
            assert_eq!(append(&mut client, topic, &batch).0, 0);
        }
        commit(&mut client, topic, committed);
    }
    // Segments beyond the first.
    for _ in 0..4 {
        assert_eq!(append(&mut client, &topics[0], &Batch::of_size(600_000)).0, 0);
    }
    let seen = see(&broker, &topics);
    assert_eq!(seen.committed, [7, 8, 9]);
    assert!(broker.terminate().success());
    (broker, topics, seen, producer)
}

#[test]
fn topics_and_offsets_that_were_acknowledged_survive_kill_9() {
    let mut broker = Broker::start();
    let mut topics = Vec::new();
    for round in 1..=8 {
        let mut client = Client::connect(broker.kafka());
        topics.push(Topic::create_with(&mut client, 2));
        for topic in &topics {
            commit(&mut client, topic, round);
        }
        // Nothing comes between the answer and the end.
        broker.kill();
        broker.restart();
        let seen = see(&broker, &topics);
        assert!(seen.topics.iter().all(|(_, _, partitions)| *partitions == 2));
        assert_eq!(seen.committed, vec![round; topics.len()]);
        let ids: Vec<_> = topics.iter().map(|topic| topic.id).collect();
        assert_eq!(seen.topics.iter().map(|(_, id, _)| *id).collect::<Vec<_>>(), ids);
    }
}

#[test]
fn a_bit_flipped_at_rest_costs_its_own_batch_and_no_other() {
    let (mut broker, topics, before, _) = filled();
    let (damaged, sound) = (&topics[2], &topics[1]);
    let segment = segments(&broker, damaged).remove(0);
    let original = fs::read(&segment).expect("a segment");
    // Each of this topic's ten batches holds one record of one size.
    let batch_bytes = original.len() / 10;
    // In the payload, the CRC, the producer id and the length of the fourth batch.
    for (at, appended) in [70, 18, 45, 10].into_iter().zip(0..) {
        let mut flipped = original.clone();
        flipped[3 * batch_bytes + at] ^= 0x04;
        fs::write(&segment, &flipped).expect("a segment");
        broker.restart();
        let mut client = Client::connect(broker.kafka());
        let version = client.latest::<FetchRequest>();
        let mut read_at = |offset| {
            let answer = fetched(client.call(version, &fetch(version, damaged, 0, offset)));
            // What is returned must be right to its last byte; what is wrong must not be returned.
            let records = batch::read(answer.records.unwrap_or_default());
            (answer.error_code, records.iter().map(|record| record.offset).collect::<Vec<_>>())
        };
        let (error, offsets) = read_at(0);
        assert_eq!((error, &offsets[..]), (0, &[0, 1, 2][..]), "byte {at}");
        let (error, offsets) = read_at(3);
        assert_eq!((error, &offsets[..]), (2, &[][..]), "byte {at}");
        assert!(broker.metric("ottla_log_corrupt_reads_total") >= 1.0, "byte {at}");
        let names_it = |line: &str| line.contains("damaged") && line.contains(&damaged.name);
        assert!(broker.log().lines().any(names_it), "{}", broker.log());
        let (error, offsets) = read_at(4);
        assert_eq!((error, &offsets[..]), (0, &[4, 5, 6, 7, 8, 9][..]), "byte {at}");
        assert_eq!(read_partition(&mut client, sound, 0, 0).len(), 10 + appended);
        // New records go on behind.
        assert_eq!(append(&mut client, sound, &Batch::of(["more"])).0, 0);
        assert!(broker.terminate().success());
        fs::write(&segment, &original).expect("a segment");
    }
    broker.restart();
    assert!(see(&broker, &topics[2..]).records == before.records[3..]);
}

/// Every file below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

#[test]
fn a_lost_or_damaged_view_is_rebuilt_from_the_logs() {
    let (mut broker, topics, before, (id, epoch)) = filled();
    let view = broker.data_dir().join("view");
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("deleted", |view| fs::remove_dir_all(view).expect("a view")),
        ("emptied", |view| {
            for file in files(view) {
                fs::write(file, b"").expect("a file of the view");
            }
        }),
        ("cut in half", |view| {
            for file in files(view) {
                let bytes = fs::read(&file).expect("a file of the view");
                fs::write(&file, &bytes[..bytes.len() / 2]).expect("a file of the view");
            }
        }),
        ("flipped", |view| {
            for file in files(view) {
                let mut bytes = fs::read(&file).expect("a file of the view");
                for (at, byte) in bytes.iter_mut().enumerate() {
                    if at % 97 == 13 {
                        *byte ^= 0x5a;
                    }
                }
                fs::write(&file, bytes).expect("a file of the view");
            }
        }),
        ("overwritten", |view| {
            for file in files(view) {
                let size = fs::metadata(&file).expect("a file").len();
                let noise: Vec<u8> = (0..size).map(|at| choice(at) as u8).collect();
                fs::write(&file, noise).expect("a file of the view");
            }
        }),
        ("replaced by a file", |view| {
            fs::remove_dir_all(view).expect("a view");
            fs::write(view, b"not a folder").expect("a file");
        }),
    ];
    for (what, damage) in damages {
        damage(&view);
        broker.restart();
        assert!(see(&broker, &topics) == before, "after the view was {what}");
        let mut client = Client::connect(broker.kafka());
        for (topic, sequence) in topics.iter().skip(1).zip([9, 9]) {
            let again = Batch::of([format!("{}-{sequence}", topic.name)]);
            let again = again.by_producer(id, epoch, sequence);
            let answer = append(&mut client, topic, &again);
            assert_eq!(answer, (0, 9), "after the view was {what}");
        }
        assert!(new_producer(&mut client).0 > id, "after the view was {what}");
        assert!(broker.terminate().success());
    }
}

#[test]
fn a_torn_tail_is_cut_to_the_last_whole_batch() {
    let (mut broker, topics, before, _) = filled();
    let segment = segments(&broker, &topics[1]).pop().expect("a segment");
    let whole = fs::read(&segment).expect("a segment");
    let mut torn = whole.clone();
    // The beginning of a batch that a crash kept from being finished.
    torn.extend_from_slice(&whole[..50]);
    fs::write(&segment, torn).expect("a segment");
    broker.restart();
    assert!(see(&broker, &topics) == before);
    assert!(broker.log().contains("torn"), "{}", broker.log());
}

/// The segment files of a topic's first partition, in order.
fn segments(broker: &Broker, topic: &Topic) -> Vec<PathBuf> {
    let id = topic.id.to_string();
    files(&broker.data_dir().join("logs"))
        .into_iter()
        .filter(|path| {
            let folder = path.parent().and_then(Path::file_name).unwrap_or_default();
            let folder = folder.to_string_lossy().replace('-', "");
            folder == format!("{}0", id.replace('-', ""))
        })
        .collect()
}

#[test]
fn the_doctor_finds_a_clean_directory_clean_and_names_a_flipped_bit() {
    let (mut broker, topics, before, _) = filled();
    let data_dir = broker.data_dir();
    let examine = || {
        let program = crate::harness::Program::start(
            "ottla doctor",
            Broker::ottla([std::ffi::OsStr::new("doctor"), data_dir.as_os_str()]),
        );
        program.finish(PATIENCE)
    };
    let clean = examine();
    assert_eq!(clean.status.code(), Some(0), "{clean:?}");

    let segment = segments(&broker, &topics[2]).remove(0);
    let original = fs::read(&segment).expect("a segment");
    // The fourth batch: each of this topic holds one record of one size.
    let batch_bytes = original.len() / 10;
    let mut flipped = original.clone();
    flipped[3 * batch_bytes + 70] ^= 0x04;
    fs::write(&segment, &flipped).expect("a segment");
    let damaged = examine();
    assert_eq!(damaged.status.code(), Some(1), "{damaged:?}");
    assert!(damaged.stdout.contains("offset 3 "), "{}", damaged.stdout);
    assert!(damaged.stdout.contains(&topics[2].id.to_string()), "{}", damaged.stdout);
    // It has changed nothing, so the original bytes make the directory whole again.
    assert!(fs::read(&segment).expect("a segment") == flipped);
    fs::write(&segment, original).expect("a segment");
    assert_eq!(examine().status.code(), Some(0));
    broker.restart();
    assert!(see(&broker, &topics) == before);
    let served = examine();
    assert_ne!(served.status.code(), Some(0), "a served directory was examined");
    assert!(served.stderr.contains("in use"), "{}", served.stderr);
}
