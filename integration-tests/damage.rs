//! A partition that is damaged in the middle: what goes on, what says so, and the way out of it.

use std::fs;
use std::path::PathBuf;

use kafka_protocol::messages::{DeleteTopicsRequest, FetchRequest, ProduceRequest};
use serde_json::Value;

use crate::harness::{Broker, Finished, PATIENCE, Program, kcat, until};
use crate::protocol::batch::{self, Batch};
use crate::protocol::client::Client;
use crate::protocol::requests::{Topic, append, fetch, fetched, produce, produced, read_partition};

/// Kafka's CORRUPT_MESSAGE and KAFKA_STORAGE_ERROR.
const CORRUPT: i16 = 2;
const STORAGE: i16 = 56;

/// A stopped broker with a topic of two partitions, the first one of ten batches of one record.
struct Damaged {
    broker: Broker,
    topic: Topic,
    segment: PathBuf,
    original: Vec<u8>,
}

impl Damaged {
    fn new() -> Damaged {
        let mut broker = Broker::start();
        let mut client = Client::connect(broker.kafka());
        let topic = Topic::create_with(&mut client, 2);
        for at in 0..10 {
            assert_eq!(append(&mut client, &topic, &Batch::of([format!("value {at}")])).0, 0);
        }
        assert!(broker.terminate().success());
        let log = broker.data_dir().join("logs").join(format!("{}-0", topic.id));
        let segment = log.join(format!("{:020}.log", 0));
        let original = fs::read(&segment).expect("a segment");
        Damaged { broker, topic, segment, original }
    }

    /// Flips a bit of the `batch`th batch's payload, and loses the view, so that the next start
    /// reads the whole log.
    fn flip(&self, batch: usize) {
        let mut flipped = self.original.clone();
        let batch_bytes = flipped.len() / 10;
        flipped[batch * batch_bytes + 70] ^= 0x04;
        fs::write(&self.segment, flipped).expect("a segment");
        fs::remove_dir_all(self.broker.data_dir().join("view")).expect("a view");
    }

    fn doctor(&self, arguments: &[&str]) -> Finished {
        let mut command = Broker::ottla(["doctor"]);
        command.args(arguments).arg(self.broker.data_dir());
        Program::start("ottla doctor", command).finish(PATIENCE)
    }

    fn readyz(&self) -> Value {
        serde_json::from_str(&self.broker.get("/readyz")).expect("JSON")
    }

    fn refuses_metric(&self) -> f64 {
        let topic = &self.topic.name;
        self.broker
            .metric(&format!("ottla_log_refuses_appends{{partition=\"0\",topic=\"{topic}\"}}"))
    }
}

#[test]
fn a_damaged_partition_is_served_around_the_damage_and_repaired_by_the_doctor() {
    let mut damaged = Damaged::new();
    damaged.flip(3);
    damaged.broker.restart();

    // What is whole is served, what is not is named, and a consumer can seek past it.
    let mut client = Client::connect(damaged.broker.kafka());
    let version = client.latest::<FetchRequest>();
    let read_at = |client: &mut Client, offset| {
        let answer = fetched(client.call(version, &fetch(version, &damaged.topic, 0, offset)));
        let records = batch::read(answer.records.unwrap_or_default());
        (answer.error_code, records.iter().map(|record| record.offset).collect::<Vec<_>>())
    };
    assert_eq!(read_at(&mut client, 0), (0, vec![0, 1, 2]));
    assert_eq!(read_at(&mut client, 3), (CORRUPT, vec![]));
    assert_eq!(read_at(&mut client, 4), (0, (4..10).collect()));

    // It takes no appends; its neighbour does.
    let version = client.latest::<ProduceRequest>();
    let append_to = |client: &mut Client, partition| {
        let records = Batch::of(["more"]).encode();
        let request = produce(version, &damaged.topic, partition, -1, Some(records));
        produced(client.call(version, &request)).error_code
    };
    assert_eq!(append_to(&mut client, 0), STORAGE);
    assert_eq!(append_to(&mut client, 1), 0);

    // It says so wherever somebody may look.
    let body = damaged.readyz();
    assert_eq!((&body["status"], &body["refusing_total"]), (&"ready".into(), &1.into()), "{body}");
    let refusing = &body["refusing"][0];
    assert_eq!(refusing["topic"], damaged.topic.name);
    assert_eq!(refusing["partition"], 0);
    assert!(refusing["reason"].as_str().is_some_and(|reason| reason.contains("is damaged")));
    assert!(refusing["next_step"].as_str().is_some_and(|step| step.contains("doctor --repair")));
    assert_eq!(damaged.refuses_metric(), 1.0);
    let log = damaged.broker.log();
    let says = |line: &str| line.contains("ERROR") && line.contains(&damaged.topic.name);
    assert!(log.lines().any(says), "{log}");
    assert!(damaged.broker.terminate().success());

    // The doctor names the offset and changes nothing until it is asked to.
    let before = fs::read(&damaged.segment).expect("a segment");
    let told = damaged.doctor(&[]);
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    assert!(told.stdout.contains(&format!("{}-0 (", damaged.topic.name)), "{}", told.stdout);
    assert!(told.stdout.contains("offset 3 "), "{}", told.stdout);
    assert!(fs::read(&damaged.segment).expect("a segment") == before);
    let repaired = damaged.doctor(&["--repair"]).success();
    assert!(repaired.stdout.contains("gave up offsets 3 to 3 (1)"), "{}", repaired.stdout);
    assert!(damaged.doctor(&[]).status.success());
    let log_dir = damaged.segment.parent().expect("a log's folder");
    let batch_bytes = damaged.original.len() / 10;
    let saved = log_dir.join(format!("{:020}.damaged-at-{}", 0, 3 * batch_bytes));
    let lost = &before[3 * batch_bytes..4 * batch_bytes];
    assert!(fs::read(&saved).expect("the saved bytes") == lost);

    // It can be written to again, and every other record has its offset and its bytes.
    damaged.broker.restart();
    let mut client = Client::connect(damaged.broker.kafka());
    assert_eq!(append(&mut client, &damaged.topic, &Batch::of(["value 10"])), (0, 10));
    let records = read_partition(&mut client, &damaged.topic, 0, 0);
    let seen: Vec<(i64, String)> = records
        .iter()
        .map(|record| (record.offset, String::from_utf8_lossy(&record.value).into_owned()))
        .collect();
    let expected: Vec<(i64, String)> =
        (0..11).filter(|at| *at != 3).map(|at| (at, format!("value {at}"))).collect();
    assert_eq!(seen, expected);
    let mut command = kcat(damaged.broker.kafka());
    command.args(["-C", "-t", &damaged.topic.name, "-p", "0", "-o", "beginning", "-e", "-q"]);
    command.args(["-f", "%o %s\n", "-X", "check.crcs=true"]);
    let consumed = Program::start("kcat", command).finish(PATIENCE).success();
    let lines: Vec<String> =
        expected.iter().map(|(offset, value)| format!("{offset} {value}")).collect();
    assert_eq!(consumed.lines(), lines);
    assert_eq!(damaged.readyz()["refusing_total"], 0);
    assert_eq!(damaged.refuses_metric(), 0.0);
}

#[test]
fn a_partition_that_lost_its_synced_end_refuses_appends_until_it_is_repaired() {
    let mut damaged = Damaged::new();
    let batch_bytes = damaged.original.len() / 10;
    fs::write(&damaged.segment, &damaged.original[..7 * batch_bytes]).expect("a segment");
    damaged.broker.restart();
    let mut client = Client::connect(damaged.broker.kafka());
    assert_eq!(append(&mut client, &damaged.topic, &Batch::of(["more"])).0, STORAGE);
    assert_eq!(damaged.refuses_metric(), 1.0);
    assert!(damaged.broker.terminate().success());
    let told = damaged.doctor(&[]);
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    assert!(told.stdout.contains("offset 7 "), "{}", told.stdout);
    let repaired = damaged.doctor(&["--repair"]).success();
    assert!(repaired.stdout.contains("gave up offsets 7 to 9 (3)"), "{}", repaired.stdout);
    damaged.broker.restart();
    let mut client = Client::connect(damaged.broker.kafka());
    // The offsets that were acknowledged once are not given to other records.
    assert_eq!(append(&mut client, &damaged.topic, &Batch::of(["value 10"])), (0, 10));
    let records = read_partition(&mut client, &damaged.topic, 0, 0);
    let offsets: Vec<i64> = records.iter().map(|record| record.offset).collect();
    assert_eq!(offsets, [0, 1, 2, 3, 4, 5, 6, 10]);
}

#[test]
fn a_deleted_topic_refuses_nothing_any_more() {
    let mut damaged = Damaged::new();
    damaged.flip(3);
    damaged.broker.restart();
    assert_eq!(damaged.refuses_metric(), 1.0);
    let mut client = Client::connect(damaged.broker.kafka());
    let request = DeleteTopicsRequest::default()
        .with_topic_names(vec![damaged.topic.topic_name()])
        .with_timeout_ms(30_000);
    assert_eq!(client.call(5, &request).responses[0].error_code, 0);
    until("the topic's deletion", PATIENCE, || {
        let body = damaged.readyz();
        if body["refusing_total"] == 0 { Ok(()) } else { Err(body.to_string()) }
    });
    assert_eq!(damaged.refuses_metric(), 0.0);
}

#[test]
fn a_damaged_journal_hides_no_damage_of_others_and_is_not_passed_over() {
    let damaged = Damaged::new();
    damaged.flip(5);
    let journal = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, b"ottla:topic:__ottla_journal");
    let log = damaged.broker.data_dir().join("logs").join(format!("{journal}-0"));
    let segment = log.join(format!("{:020}.log", 0));
    let whole = fs::read(&segment).expect("the journal's segment");
    let mut flipped = whole.clone();
    // The payload of its first record: a second one follows.
    flipped[70] ^= 0x04;
    fs::write(&segment, &flipped).expect("the journal's segment");
    let told = damaged.doctor(&["--repair"]);
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    assert!(told.stdout.contains("gave up offsets 5 to 5 (1)"), "{}", told.stdout);
    assert!(told.stdout.contains("the journal holds decisions"), "{}", told.stdout);
    assert!(fs::read(&segment).expect("the journal's segment") == flipped);
}

#[test]
fn a_partition_whose_files_are_gone_gives_no_offset_out_again() {
    let mut damaged = Damaged::new();
    let log_dir = damaged.segment.parent().expect("a log's folder").to_owned();
    fs::remove_dir_all(log_dir).expect("the log's folder");
    damaged.broker.restart();
    let mut client = Client::connect(damaged.broker.kafka());
    assert_eq!(append(&mut client, &damaged.topic, &Batch::of(["more"])).0, STORAGE);
    let reason = damaged.readyz()["refusing"][0]["reason"].to_string();
    assert!(reason.contains("all of its files are gone"), "{reason}");
    assert!(damaged.broker.terminate().success());
    let told = damaged.doctor(&[]);
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    assert!(told.stdout.contains("all of its files are gone"), "{}", told.stdout);
    let repaired = damaged.doctor(&["--repair"]).success();
    assert!(repaired.stdout.contains("gave up offsets 0 to 9 (10)"), "{}", repaired.stdout);
    damaged.broker.restart();
    let mut client = Client::connect(damaged.broker.kafka());
    assert_eq!(append(&mut client, &damaged.topic, &Batch::of(["value 10"])), (0, 10));
    assert_eq!(read_partition(&mut client, &damaged.topic, 0, 10).len(), 1);
}
