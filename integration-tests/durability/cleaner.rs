//! Compacted topics on disks that are damaged or full.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use kafka_protocol::messages::FetchRequest;
use serde_json::Value;

use super::full::disk;
use crate::harness::{Broker, Options, PATIENCE, until};
use crate::protocol::batch::{self, Batch};
use crate::protocol::client::Client;
use crate::protocol::code::{CORRUPT_MESSAGE, KAFKA_STORAGE_ERROR, NONE};
use crate::protocol::requests::{Topic, append, fetch, fetched, read_from};

const CONFIGS: [(&str, &str); 2] =
    [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0")];

/// A broker over `data_dir` whose cleaner looks for work every `backoff_ms`, and whose scrub never does.
fn broker(data_dir: &Path, segment_bytes: u64, backoff_ms: u64) -> Broker {
    Broker::start_with(
        Options::new()
            .data_dir(data_dir)
            .set("log.segment.bytes", segment_bytes)
            .set("log.scrub.bytes.per.second", 0)
            .set("log.cleaner.backoff.ms", backoff_ms),
    )
}

const NEVER_MS: u64 = 86_400_000;

/// A batch of one record.
fn keyed(key: &str, value: &[u8]) -> Batch {
    let mut batch = Batch::of([value]);
    batch.records[0].1 = Bytes::copy_from_slice(key.as_bytes());
    batch
}

#[track_caller]
fn fill(client: &mut Client, topic: &Topic, records: usize, bytes: usize) {
    for n in 0..records {
        let batch = keyed(&format!("key {}", n % 10), &vec![n as u8; bytes]);
        assert_eq!(append(client, topic, &batch), (NONE, n as i64));
    }
}

#[test]
fn damage_that_a_compaction_meets_stops_appends_to_its_partition_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data_dir = folder.path().join("data");
    let mut first = broker(&data_dir, 4_096, NEVER_MS);
    let mut client = Client::connect(first.kafka());
    let [hit, spared] = [0, 1].map(|_| Topic::create_configured(&mut client, 1, &CONFIGS));
    for topic in [&hit, &spared] {
        fill(&mut client, topic, 40, 900);
    }
    assert!(first.terminate().success());
    // A bit of the first record's value.
    let segment = data_dir.join(format!("logs/{}-0/{:020}.log", hit.id, 0));
    let mut bytes = fs::read(&segment).expect("a segment");
    bytes[100] ^= 0x10;
    fs::write(&segment, bytes).expect("a segment");

    let mut broker = broker(&data_dir, 4_096, 20);
    until("the damage to be told", PATIENCE, || {
        let body: Value = serde_json::from_str(&broker.get("/readyz")).expect("JSON");
        let refusing = &body["refusing"][0];
        let reason = refusing["reason"].as_str().unwrap_or_default();
        let is_told = refusing["topic"] == hit.name && reason.contains("is damaged at byte 0");
        if is_told { Ok(()) } else { Err(body.to_string()) }
    });
    let mut client = Client::connect(broker.kafka());
    assert_eq!(append(&mut client, &hit, &keyed("more", b"x")), (KAFKA_STORAGE_ERROR, -1));
    assert_eq!(append(&mut client, &spared, &keyed("more", b"x")), (NONE, 40));
    // Readers are told, and can go on behind it.
    let version = client.latest::<FetchRequest>();
    let mut read_at = |offset| {
        let answer = fetched(client.call(version, &fetch(version, &hit, 0, offset)));
        let records = batch::read(answer.records.unwrap_or_default());
        (answer.error_code, records.first().map(|record| record.offset))
    };
    assert_eq!(read_at(0), (CORRUPT_MESSAGE, None));
    assert_eq!(read_at(1), (NONE, Some(1)));
    // The other log is compacted meanwhile, the damaged one is not read again and again.
    until("the other log to be compacted", PATIENCE, || {
        match broker.metric("ottla_log_cleaner_runs_total") {
            runs if runs > 0.0 => Ok(()),
            runs => Err(format!("{runs} compactions")),
        }
    });
    assert_eq!(broker.metric("ottla_log_cleaner_failures_total"), 1.0);
    assert_eq!(broker.metric("ottla_log_cleaner_set_aside_logs"), 1.0);
    assert_eq!(broker.metric("ottla_log_damaged_batches_total"), 1.0);
    assert!(broker.terminate().success());
}

#[test]
fn a_compaction_that_fills_the_disk_waits_ever_longer_and_goes_on_when_there_is_room() {
    let Some(disk) = disk() else { return };
    let data_dir = disk.path().join("data");
    let mut first = broker(&data_dir, 1 << 20, NEVER_MS);
    let mut client = Client::connect(first.kafka());
    let topic = Topic::create_configured(&mut client, 1, &CONFIGS);
    // Of each key, the last 250 KB stay: more than there will be room for.
    fill(&mut client, &topic, 24, 250_000);
    assert!(first.terminate().success());

    let filler = disk.fill();
    let length = fs::metadata(&filler).expect("the filler").len();
    let file = fs::File::options().write(true).open(&filler).expect("the filler");
    // Room to start, and for small appends.
    file.set_len(length - (700 << 10)).expect("the filler");
    drop(file);
    let mut broker = broker(&data_dir, 1 << 20, 100);
    until("three attempts", PATIENCE, || match broker.metric("ottla_log_cleaner_failures_total") {
        failures if failures >= 3.0 => Ok(()),
        failures => Err(format!("{failures} attempts: {}", broker.log())),
    });
    assert_eq!(broker.metric("ottla_log_cleaner_waits_for_room"), 1.0);
    assert_eq!(broker.log().matches("disk is full").count(), 1, "{}", broker.log());
    assert_eq!(broker.log().matches("ERROR").count(), 0, "{}", broker.log());
    // Between two attempts there is the room that was left.
    let mut client = Client::connect(broker.kafka());
    until("a small append", PATIENCE, || {
        match append(&mut client, &topic, &keyed("small", b"x")) {
            (NONE, 24) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });

    fs::remove_file(&filler).expect("the filler");
    until("the compaction", PATIENCE, || match broker.metric("ottla_log_cleaner_runs_total") {
        runs if runs >= 1.0 => Ok(()),
        runs => Err(format!("{runs} compactions: {}", broker.log())),
    });
    until("the word that there is room", PATIENCE, || {
        match broker.metric("ottla_log_cleaner_waits_for_room") {
            0.0 => Ok(()),
            _ => Err(broker.log()),
        }
    });
    let kept: Vec<u8> =
        read_from(&mut client, &topic, 0).iter().map(|record| record.value[0]).collect();
    // The newest of each key, and what the active segment holds besides.
    assert!((14..24).all(|value| kept.contains(&value)), "{kept:?}");
    assert!(kept.len() < 25 && kept.last() == Some(&b'x'), "{kept:?}");
    assert!(broker.terminate().success());
}
