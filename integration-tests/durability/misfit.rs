//! Segments that lack what the broker had synced: their partitions refuse appends, all others go on.

use std::fs;
use std::path::PathBuf;

use kafka_protocol::messages::FetchRequest;
use serde_json::Value;

use crate::harness::{Broker, Options};
use crate::protocol::batch::Batch;
use crate::protocol::client::Client;
use crate::protocol::code::{KAFKA_STORAGE_ERROR, NONE};
use crate::protocol::requests::{Topic, append, fetch, fetched, read_from};

/// Appends of one topic before its writer gets a write-ahead log, and more.
const APPENDS: usize = 300;

/// Smaller than what the tests append after a copy was made.
const WAL_BYTES: u64 = 16 << 20;

/// A running broker with two topics.
struct Scene {
    broker: Broker,
    client: Client,
    hit: Topic,
    spared: Topic,
    appended: usize,
}

impl Scene {
    fn start(wal_bytes: u64) -> Scene {
        let options = Options::new().set("log.wal.bytes", wal_bytes).set("log.retention.ms", -1);
        let broker = Broker::start_with(options);
        let mut client = Client::connect(broker.kafka());
        let [hit, spared] = [0, 1].map(|_| Topic::create(&mut client));
        let mut scene = Scene { broker, client, hit, spared, appended: 0 };
        scene.append(APPENDS, 100);
        scene
    }

    /// Appends records to both topics.
    #[track_caller]
    fn append(&mut self, records: usize, bytes: usize) {
        for _ in 0..records {
            for topic in [&self.hit, &self.spared] {
                let batch = Batch::of([vec![self.appended as u8; bytes]]);
                let answer = append(&mut self.client, topic, &batch);
                assert_eq!(answer, (NONE, self.appended as i64));
            }
            self.appended += 1;
        }
    }

    fn segment(&self) -> PathBuf {
        self.broker.data_dir().join(format!("logs/{}-0/{:020}.log", self.hit.id, 0))
    }

    fn kill(&mut self) {
        self.broker.kill();
    }

    /// Starts again: the topic that was hit refuses appends for a reason that holds `reason`, and gives no
    /// offset out again; the other one has all its records and takes more.
    #[track_caller]
    fn starts_without_the_hit_one(&mut self, reason: &str) {
        self.broker.restart();
        self.client = Client::connect(self.broker.kafka());
        let body: Value = serde_json::from_str(&self.broker.get("/readyz")).expect("JSON");
        assert_eq!(body["refusing_total"], 1, "{body}");
        assert_eq!(body["refusing"][0]["topic"], self.hit.name, "{body}");
        let told = body["refusing"][0]["reason"].as_str().unwrap_or_default();
        assert!(told.contains(reason), "{told}");
        let batch = Batch::of(["more"]);
        assert_eq!(append(&mut self.client, &self.hit, &batch), (KAFKA_STORAGE_ERROR, -1));
        assert_eq!(read_from(&mut self.client, &self.spared, 0).len(), self.appended);
        assert_eq!(append(&mut self.client, &self.spared, &batch), (NONE, self.appended as i64));
    }
}

#[test]
fn a_segment_put_back_from_a_copy_stops_its_partition_and_no_other() {
    let mut scene = Scene::start(WAL_BYTES);
    scene.append(150, 90_000);
    let copy = fs::read(scene.segment()).expect("a segment");
    scene.append(150, 90_000);
    scene.kill();
    let whole = fs::read(scene.segment()).expect("a segment");
    fs::write(scene.segment(), &copy).expect("a segment");
    scene.starts_without_the_hit_one("");
    // What was there before the copy was made is readable.
    let version = scene.client.latest::<FetchRequest>();
    let answer = fetched(scene.client.call(version, &fetch(version, &scene.hit, 0, 0)));
    assert_eq!(answer.error_code, NONE);
    assert!(answer.records.is_some_and(|records| !records.is_empty()));
    // The right segment mends it.
    scene.kill();
    fs::write(scene.segment(), &whole).expect("a segment");
    scene.broker.restart();
    let mut client = Client::connect(scene.broker.kafka());
    assert_eq!(read_from(&mut client, &scene.hit, 0).len(), scene.appended);
    assert_eq!(
        append(&mut client, &scene.hit, &Batch::of(["more"])),
        (NONE, scene.appended as i64)
    );
    assert!(scene.broker.terminate().success());
}

#[test]
fn a_newest_segment_that_is_gone_is_lost_and_its_offsets_are_not_given_out_again() {
    for stops in [true, false] {
        let mut scene = Scene::start(WAL_BYTES);
        scene.append(20, 1_000);
        if stops {
            assert!(scene.broker.terminate().success());
        } else {
            scene.kill();
        }
        fs::remove_file(scene.segment()).expect("a segment");
        // Not at the next start, either.
        for _ in 0..2 {
            scene.starts_without_the_hit_one("");
            scene.appended += 1;
            scene.kill();
        }
    }
}

#[test]
fn a_segment_that_is_gone_is_lost_also_when_the_view_is_gone() {
    let mut scene = Scene::start(WAL_BYTES);
    scene.append(20, 1_000);
    assert!(scene.broker.terminate().success());
    fs::remove_file(scene.segment()).expect("a segment");
    fs::remove_dir_all(scene.broker.data_dir().join("view")).expect("the view");
    scene.starts_without_the_hit_one("");
    assert!(scene.broker.terminate().success());
}

#[test]
fn zeros_over_acknowledged_batches_are_damage_while_the_machine_runs_on() {
    let mut scene = Scene::start(0);
    scene.kill();
    let mut bytes = fs::read(scene.segment()).expect("a segment");
    let batch = bytes.len() / APPENDS;
    // The header of the third batch from the end: whole batches follow.
    let at = (APPENDS - 3) * batch;
    bytes[at..at + 61].fill(0);
    fs::write(scene.segment(), &bytes).expect("a segment");
    scene.starts_without_the_hit_one("is damaged");
    assert!(scene.broker.terminate().success());
}
