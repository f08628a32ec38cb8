//! Drives whole logs over temporary directories.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::batch::{self, NewRecord, Producer};
use super::queue::block_on;
use super::*;
use crate::types::{ManualClock, Offset, PartitionId, ProducerEpoch, ProducerId, Timestamp};

/// A broker's logs over a directory, and one log of them.
struct Fixture {
    logs: Logs,
    log: Partition,
}

fn id() -> LogId {
    LogId { topic: TopicId(uuid::Uuid::from_u128(42)), partition: PartitionId(0) }
}

fn config() -> Config {
    Config { log_writer_threads: 1, ..Config::default() }
}

impl Fixture {
    fn open(dir: &Path) -> Fixture {
        Fixture::with(dir, &config())
    }

    fn with(dir: &Path, config: &Config) -> Fixture {
        let store = Store::open(&dir.join("view")).unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
        let metrics = Metrics::default();
        let epoch = LeaderEpoch(3);
        let logs = Logs::start(&dir.join("logs"), store, config, clock, epoch, &metrics).unwrap();
        let log = logs.open(id()).unwrap();
        Fixture { logs, log }
    }

    fn append(&self, batch: Bytes) -> Result<Appended, AppendError> {
        self.log.append_blocking(batch, synced())
    }

    fn read(&self, from: u64, isolation: Isolation) -> ReadResult {
        self.log.read_blocking(request(from, isolation)).unwrap()
    }

    fn values(&self, from: u64) -> Vec<String> {
        values(self.read(from, Isolation::ReadUncommitted).records)
    }

    fn end(&self, producer: i64, epoch: i16, marker: Marker) -> Option<Appended> {
        let (producer, epoch) = (ProducerId(producer), ProducerEpoch(epoch));
        self.log.end_transaction_blocking(producer, epoch, marker).unwrap()
    }
}

fn synced() -> AppendOptions {
    AppendOptions { durable: Durable::Synced, batch_bytes_max: 1 << 20 }
}

fn request(from: u64, isolation: Isolation) -> ReadRequest {
    let from = Offset::new(from);
    ReadRequest { from, bytes_max: 1 << 20, at_least_one: true, isolation }
}

fn values(records: Bytes) -> Vec<String> {
    let batches = records::decode(records, 1 << 20).unwrap();
    let records = batches.into_iter().flat_map(|batch| batch.records);
    records.map(|r| String::from_utf8(r.value.unwrap().to_vec()).unwrap()).collect()
}

fn records(values: &[&str]) -> Vec<NewRecord> {
    let record = |(i, value): (usize, &&str)| NewRecord {
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        timestamp: Timestamp(1000 + i as i64),
        ..NewRecord::default()
    };
    values.iter().enumerate().map(record).collect()
}

fn plain(values: &[&str]) -> Bytes {
    batch::encode(&records(values), None)
}

fn by(id: i64, epoch: i16, base_sequence: i32, transactional: bool, values: &[&str]) -> Bytes {
    let (id, epoch) = (ProducerId(id), ProducerEpoch(epoch));
    batch::encode(&records(values), Some(Producer { id, epoch, base_sequence, transactional }))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn appended_batches_are_read_back_verbatim_and_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    let first = fixture.append(plain(&["a", "b"])).unwrap();
    assert_eq!((first.base_offset, first.last_offset), (Offset::new(0), Offset::new(1)));
    let second = fixture.append(plain(&["c"])).unwrap();
    assert_eq!(second.base_offset, Offset::new(2));
    assert_eq!(fixture.values(0), ["a", "b", "c"]);
    assert_eq!(fixture.values(2), ["c"]);
    assert!(fixture.values(3).is_empty());
    let sent = plain(&["c"]);
    let stored = fixture.read(2, Isolation::ReadUncommitted).records;
    assert_eq!(stored[16..], sent[16..]);
    assert_eq!(stored[12..16], [0, 0, 0, 3]);
    let span = fixture.log.span();
    fixture.logs.shutdown();
    drop(fixture);

    let fixture = Fixture::open(dir.path());
    assert_eq!(fixture.log.span(), span);
    assert_eq!(fixture.values(0), ["a", "b", "c"]);
    assert_eq!(fixture.values(1), ["a", "b", "c"]);
    assert_eq!(fixture.append(plain(&["d"])).unwrap().base_offset, Offset::new(3));
    assert_eq!(fixture.values(2), ["c", "d"]);
    assert_eq!(fixture.values(3), ["d"]);
}

#[test]
fn a_stopped_log_answers_that_it_is_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(plain(&["a"])).unwrap();
    fixture.logs.shutdown();
    assert_eq!(fixture.append(plain(&["b"])), Err(AppendError::Stopping));
    assert_eq!(fixture.values(0), ["a"]);
}

#[test]
fn tail_torn_at_any_byte_is_cut_to_the_last_whole_batch() {
    let origin = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(origin.path());
    fixture.append(plain(&["kept"])).unwrap();
    let whole = fixture.log.size_bytes();
    fixture.append(plain(&["torn"])).unwrap();
    let bytes = fixture.log.size_bytes();
    drop(fixture);
    for cut in whole..bytes {
        let dir = tempfile::tempdir().unwrap();
        copy(&origin.path().join("logs"), &dir.path().join("logs"));
        let segment = dir.path().join(format!("logs/{}/{:020}.log", id(), 0));
        std::fs::File::options().write(true).open(&segment).unwrap().set_len(cut).unwrap();
        let fixture = Fixture::open(dir.path());
        assert_eq!(fixture.log.span().end, Offset::new(1), "cut at {cut}");
        assert_eq!(fixture.append(plain(&["new"])).unwrap().base_offset, Offset::new(1));
        assert_eq!(fixture.values(0), ["kept", "new"]);
    }
}

#[test]
fn duplicates_keep_their_offset_also_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    for n in 0..7 {
        fixture.append(by(9, 0, n, false, &["x"])).unwrap();
    }
    let again = fixture.append(by(9, 0, 3, false, &["x"])).unwrap();
    assert!(again.duplicate);
    assert_eq!(again.base_offset, Offset::new(3));
    assert!(matches!(
        fixture.append(by(9, 0, 1, false, &["x"])),
        Err(AppendError::OutOfOrderSequence { expected: 7, sequence: 1, .. })
    ));
    drop(fixture);
    let fixture = Fixture::open(dir.path());
    let again = fixture.append(by(9, 0, 6, false, &["x"])).unwrap();
    assert!(again.duplicate);
    assert_eq!(again.base_offset, Offset::new(6));
    assert_eq!(fixture.log.span().end, Offset::new(7));
    assert_eq!(fixture.append(by(9, 0, 7, false, &["y"])).unwrap().base_offset, Offset::new(7));
}

#[test]
fn read_committed_stops_at_the_first_open_transaction_and_names_aborted_ones() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(plain(&["p0"])).unwrap();
    fixture.append(by(1, 0, 0, true, &["a1"])).unwrap();
    fixture.append(by(2, 0, 0, true, &["b2"])).unwrap();
    fixture.append(plain(&["p3"])).unwrap();
    assert_eq!(fixture.log.span().last_stable, Offset::new(1));
    assert_eq!(fixture.log.open_transactions().len(), 2);
    assert_eq!(values(fixture.read(0, Isolation::ReadCommitted).records), ["p0"]);
    assert!(fixture.read(1, Isolation::ReadCommitted).records.is_empty());

    let abort = fixture.end(1, 0, Marker::Abort).unwrap();
    assert_eq!(abort.base_offset, Offset::new(4));
    assert_eq!(fixture.log.span().last_stable, Offset::new(2));
    fixture.end(2, 0, Marker::Commit).unwrap();
    assert_eq!(fixture.end(2, 0, Marker::Commit), None);
    assert_eq!(fixture.log.span().last_stable, Offset::new(6));

    let check = |fixture: &Fixture| {
        let read = fixture.read(0, Isolation::ReadCommitted);
        let aborted = AbortedTxn {
            producer: ProducerId(1),
            first_offset: Offset::new(1),
            last_offset: Offset::new(4),
        };
        assert_eq!(read.aborted, [aborted]);
        let decoded = records::decode(read.records, 1 << 20).unwrap();
        assert_eq!(decoded.len(), 6);
        let committed = records::committed(decoded, &read.aborted);
        let offsets: Vec<u64> = committed.iter().map(|b| b.base_offset.get()).collect();
        assert_eq!(offsets, [0, 2, 3]);
        assert!(fixture.log.open_transactions().is_empty());
    };
    check(&fixture);
    drop(fixture);
    check(&Fixture::open(dir.path()));
}

#[test]
fn a_marker_of_a_higher_epoch_fences_the_lower_ones() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(by(1, 0, 0, true, &["a"])).unwrap();
    fixture.end(1, 2, Marker::Abort).unwrap();
    assert!(matches!(
        fixture.append(by(1, 0, 1, true, &["zombie"])),
        Err(AppendError::Fenced { current: ProducerEpoch(2), .. })
    ));
    fixture.append(by(1, 2, 0, true, &["b"])).unwrap();
    assert_eq!(fixture.log.open_transactions()[0].first_offset, Offset::new(2));
    assert_eq!(fixture.end(7, 4, Marker::Abort), None);
    assert!(matches!(
        fixture.append(by(7, 3, 0, true, &["zombie"])),
        Err(AppendError::Fenced { .. })
    ));
}

#[test]
fn segments_roll_and_reads_walk_over_them() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { log_segment_bytes: 300, log_index_interval_bytes: 100, ..config() };
    let fixture = Fixture::with(dir.path(), &config);
    let written: Vec<String> = (0..40).map(|n| format!("value-{n}")).collect();
    for value in &written {
        fixture.append(plain(&[value])).unwrap();
    }
    let read_all = |fixture: &Fixture| {
        let mut read = Vec::new();
        while read.len() < 40 {
            read.extend(fixture.values(read.len() as u64));
        }
        read
    };
    assert_eq!(read_all(&fixture), written);
    drop(fixture);
    assert!(std::fs::read_dir(dir.path().join(format!("logs/{}", id()))).unwrap().count() > 5);
    let fixture = Fixture::with(dir.path(), &config);
    assert_eq!(read_all(&fixture), written);
    assert_eq!(fixture.values(33)[0], "value-33");
}

#[test]
fn deleted_topic_is_gone_for_readers_writers_and_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(plain(&["a"])).unwrap();
    let mut seen = fixture.log.subscribe();
    assert_eq!(fixture.logs.on_disk().unwrap(), [id()]);
    fixture.logs.delete_topic(id().topic).unwrap();
    assert_eq!(fixture.append(plain(&["b"])), Err(AppendError::Deleted));
    let read = fixture.log.read_blocking(request(0, Isolation::ReadUncommitted));
    assert_eq!(read.unwrap_err(), ReadError::Deleted);
    assert!(block_on(seen.changed()).is_err());
    assert!(fixture.logs.on_disk().unwrap().is_empty());
    assert!(fixture.logs.partition(id()).is_none());
}
