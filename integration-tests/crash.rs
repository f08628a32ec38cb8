//! kill -9, damage at rest and a lost view: what was acknowledged is there once, in order, with its
//! bytes. Under load and at random moments: `durability/`.

use std::fs;
use std::path::{Path, PathBuf};

use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{FetchRequest, GroupId, OffsetCommitRequest, OffsetFetchRequest};

use crate::harness::{Broker, Options, PATIENCE, until};
use crate::protocol::batch::{self, Batch, Record};
use crate::protocol::client::{Client, text};
use crate::protocol::requests::{
    Topic, append, describe, fetch, fetched, new_producer, read_partition,
};

/// splitmix64: the same choices in every run.
fn choice(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
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
    let epochs = Topic::create(&mut client);
    let of_epoch = |epoch, sequence| Batch::of(["x"]).by_producer(id, epoch, sequence);
    assert_eq!(append(&mut client, &epochs, &of_epoch(epoch, 0)), (0, 0));
    assert_eq!(append(&mut client, &epochs, &of_epoch(epoch + 1, 0)), (0, 1));
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
        // Nor is an old epoch taken for the one that followed it.
        let (fenced, _) = append(&mut client, &epochs, &of_epoch(epoch, 1));
        assert_eq!(fenced, 47);
        assert_eq!(append(&mut client, &epochs, &of_epoch(epoch + 1, 0)), (0, 1));
        // A producer id is not given twice, whatever was lost of the block it came from.
        assert_ne!(new_producer(&mut client).0, id);
    }
    assert_eq!(read_partition(&mut Client::connect(broker.kafka()), &topic, 0, 0).len(), 12);
}

/// All that a client can see of a broker's state, taken before and after.
#[derive(Debug, PartialEq)]
pub struct Seen {
    topics: Vec<(String, uuid::Uuid, usize)>,
    records: Vec<Vec<Record>>,
    committed: Vec<i64>,
}

const GROUP: &str = "rebuilt";

#[track_caller]
pub fn see(broker: &Broker, topics: &[Topic]) -> Seen {
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
    filled_with(Options::new().set("log.segment.bytes", 1 << 20))
}

/// The same, with options of one's own.
pub fn filled_with(options: Options) -> (Broker, Vec<Topic>, Seen, (i64, i16)) {
    let mut broker = Broker::start_with(options);
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
pub fn files(folder: &Path) -> Vec<PathBuf> {
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
    // The beginning of the next batch, which a crash kept from being finished.
    let (mut at, mut next_offset) = (0, 0);
    while at < whole.len() {
        let number = |from: usize, bytes: usize| {
            whole[at + from..at + from + bytes].iter().fold(0, |n: u64, b| n << 8 | u64::from(*b))
        };
        (at, next_offset) = (at + 12 + number(8, 4) as usize, number(0, 8) + number(23, 4) + 1);
    }
    torn.extend_from_slice(&u64::to_be_bytes(next_offset));
    torn.extend_from_slice(&whole[8..50]);
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
            let is_segment = path.extension().is_some_and(|extension| extension == "log");
            is_segment && folder == format!("{}0", id.replace('-', ""))
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
