//! Drives whole logs over temporary directories.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::append::writer::{Command, Writer};
use super::object::local_store::LocalRecordStore;
use super::object::record_store::RecordStore;
use super::settings::Settings;
use super::*;
use crate::config::{Config, Durability};
use crate::log::append::queue::block_on;
use crate::log::append::tail::Window;
use crate::log::boot::Boot;
use crate::log::format::batch::{self, NewRecord, Producer};
use crate::metrics::Metrics;
use crate::store::Store;
use crate::types::{
    Clock, LeaderEpoch, LogId, ManualClock, Offset, PartitionId, ProducerEpoch, ProducerId,
    Timestamp, TopicId,
};

mod admission;
mod answers;
mod cold;
mod compaction;
mod cursor;
mod damage;
mod faults;
mod manifests;
mod misfits;
mod power_loss;
mod producers;
mod torn;
mod trim;
mod upkeep;

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

    fn over(records: Arc<dyn RecordStore>, dir: &Path, config: &Config) -> Fixture {
        let view = Store::open(&dir.join("view")).unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
        let logs =
            Logs::over(records, view, config, clock, LeaderEpoch(3), &Metrics::default()).unwrap();
        let log = logs.open(id()).unwrap();
        Fixture { logs, log }
    }

    fn with(dir: &Path, config: &Config) -> Fixture {
        let store = Store::open(&dir.join("view")).unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
        let metrics = Metrics::default();
        let epoch = LeaderEpoch(3);
        let logs =
            Logs::start(&dir.join("logs"), Boot::default(), store, config, clock, epoch, &metrics)
                .unwrap();
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
    AppendOptions {
        durable: Durable::Synced,
        batch_bytes_max: 1 << 20,
        origin: AppendOrigin::Broker,
    }
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

fn segment(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("logs/{}/{base:020}.log", id()))
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
        let torn = segment(dir.path(), 0);
        File::options().write(true).open(torn).unwrap().set_len(cut).unwrap();
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
    let config = config().starting_with(|it| {
        it.log_segment_bytes = 300;
        it.log_index_interval_bytes = 100;
    });
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
fn racing_opens_of_a_log_get_the_same_one() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    let other = LogId { partition: PartitionId(1), ..id() };
    let opened = std::thread::scope(|scope| {
        let open = || fixture.logs.open(other).unwrap();
        [scope.spawn(open), scope.spawn(open)].map(|opening| opening.join().unwrap())
    });
    assert!(Arc::ptr_eq(&opened[0].shared, &opened[1].shared));
    let found = fixture.logs.partition(other).unwrap();
    assert!(Arc::ptr_eq(&opened[0].shared, &found.shared));
}

#[test]
fn deleted_topic_is_gone_for_readers_writers_and_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(plain(&["a"])).unwrap();
    let window = Window {
        from: Offset::ZERO,
        limit: Offset::new(1),
        bytes_max: 1 << 20,
        at_least_one: true,
    };
    assert!(fixture.log.shared.readable().tail.read(window).is_some());
    let mut seen = fixture.log.subscribe();
    assert_eq!(fixture.logs.on_disk().unwrap(), [id()]);
    fixture.logs.delete_topic(id().topic).unwrap();
    assert_eq!(fixture.append(plain(&["b"])), Err(AppendError::Deleted));
    let read = fixture.log.read_blocking(request(0, Isolation::ReadUncommitted));
    assert_eq!(read.unwrap_err(), ReadError::Deleted);
    assert!(block_on(seen.changed()).is_err());
    assert!(fixture.logs.on_disk().unwrap().is_empty());
    assert!(fixture.logs.partition(id()).is_none());
    assert!(fixture.log.shared.readable().tail.read(window).is_none(), "its bytes are let go of");
}

/// Everything of a log that a reader or a producer can notice.
fn seen(fixture: &Fixture) -> impl PartialEq + std::fmt::Debug + use<> {
    let span = fixture.log.span();
    let (mut records, mut aborted, mut from) = (Vec::new(), Vec::new(), 0);
    while from < span.last_stable.get() {
        let read = fixture.read(from, Isolation::ReadCommitted);
        let batches = records::decode(read.records.clone(), 1 << 20).unwrap();
        from = batches.last().unwrap().last_offset.get() + 1;
        records.extend_from_slice(&read.records);
        aborted.extend(read.aborted);
    }
    aborted.sort_by_key(|txn| txn.last_offset);
    aborted.dedup();
    (span, crc32c::crc32c(&records), aborted, fixture.log.open_transactions())
}

#[test]
fn a_deleted_view_is_rebuilt_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(by(1, 0, 0, true, &["a"])).unwrap();
    fixture.end(1, 1, Marker::Abort).unwrap();
    fixture.append(by(2, 0, 5, false, &["b", "c"])).unwrap();
    fixture.append(by(3, 4, 0, true, &["d"])).unwrap();
    let before = seen(&fixture);
    fixture.logs.shutdown();
    drop(fixture);
    let with_view = Fixture::open(dir.path());
    assert_eq!(seen(&with_view), before);
    assert!(with_view.append(by(2, 0, 5, false, &["b", "c"])).unwrap().duplicate);
    drop(with_view);

    std::fs::remove_dir_all(dir.path().join("view")).unwrap();
    let without = Fixture::open(dir.path());
    assert_eq!(seen(&without), before);
    assert!(without.append(by(2, 0, 5, false, &["b", "c"])).unwrap().duplicate);
    assert!(matches!(without.append(by(1, 0, 1, true, &["z"])), Err(AppendError::Fenced { .. })));
    assert!(matches!(
        without.append(by(2, 0, 9, false, &["z"])),
        Err(AppendError::OutOfOrderSequence { expected: 7, .. })
    ));
    without.end(3, 4, Marker::Commit).unwrap();
    assert_eq!(without.log.span().last_stable, Offset::new(6));
}

#[test]
fn a_view_that_knows_only_the_beginning_is_caught_up() {
    let dir = tempfile::tempdir().unwrap();
    let config = config().starting_with(|it| {
        it.log_segment_bytes = 500;
        it.log_index_interval_bytes = 80;
    });
    let fixture = Fixture::with(dir.path(), &config);
    for n in 0..30 {
        fixture.append(by(1, 0, n, false, &[&format!("v{n}")])).unwrap();
    }
    fixture.logs.shutdown();
    drop(fixture);
    let old = tempfile::tempdir().unwrap();
    copy(&dir.path().join("view"), old.path());
    let fixture = Fixture::with(dir.path(), &config);
    for n in 30..60 {
        fixture.append(by(1, 0, n, false, &[&format!("v{n}")])).unwrap();
    }
    let before = seen(&fixture);
    fixture.logs.shutdown();
    drop(fixture);
    // A crash of the machine may take back what sled had not flushed.
    std::fs::remove_dir_all(dir.path().join("view")).unwrap();
    copy(old.path(), &dir.path().join("view"));
    let fixture = Fixture::with(dir.path(), &config);
    assert_eq!(seen(&fixture), before);
    for n in 0..60 {
        assert_eq!(fixture.values(n)[0], format!("v{n}"));
    }
}

#[test]
fn a_view_that_did_not_fit_once_is_not_believed_by_halves_later() {
    let dir = tempfile::tempdir().unwrap();
    let config = config().starting_with(|it| it.log_segment_bytes = 400);
    let fixture = Fixture::with(dir.path(), &config);
    fixture.append(by(1, 0, 0, true, &["a"])).unwrap();
    fixture.end(1, 0, Marker::Abort).unwrap();
    for n in 0..10 {
        fixture.append(by(2, 0, n, false, &["b"])).unwrap();
    }
    let before = seen(&fixture);
    fixture.logs.shutdown();
    drop(fixture);
    // A power loss brings a segment back that a compaction had joined to the one before it.
    File::create(segment(dir.path(), 1)).unwrap();
    let fixture = Fixture::with(dir.path(), &config);
    assert_eq!(seen(&fixture), before);
    // Killed before the view was told anything new.
    drop(fixture);
    let fixture = Fixture::with(dir.path(), &config);
    assert_eq!(seen(&fixture), before);
}

#[test]
fn a_log_that_has_lost_its_end_refuses_appends_also_without_the_view() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(by(1, 0, 0, false, &["a"])).unwrap();
    let kept = fixture.log.size_bytes();
    fixture.append(by(1, 0, 1, false, &["b"])).unwrap();
    fixture.logs.shutdown();
    drop(fixture);
    File::options().write(true).open(segment(dir.path(), 0)).unwrap().set_len(kept).unwrap();
    let fixture = Fixture::open(dir.path());
    assert!(matches!(fixture.append(plain(&["c"])), Err(AppendError::Storage { .. })));
    drop(fixture);
    std::fs::remove_dir_all(dir.path().join("view")).unwrap();
    for _ in 0..2 {
        let fixture = Fixture::open(dir.path());
        assert_eq!(fixture.log.span().end, Offset::new(2));
        assert!(matches!(fixture.append(plain(&["c"])), Err(AppendError::Storage { .. })));
        assert_eq!(fixture.values(0), ["a"]);
    }
}

#[test]
fn a_flipped_bit_inside_the_log_is_reported_and_never_cut() {
    let origin = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(origin.path());
    let mut ends = Vec::new();
    for value in ["first", "second", "third"] {
        fixture.append(plain(&[value])).unwrap();
        ends.push(fixture.log.size_bytes());
    }
    drop(fixture);
    // One byte of each kind: offset, length, magic, CRC, count, payload.
    for at in [7, 8, 11, 16, 17, 60, 70] {
        let dir = tempfile::tempdir().unwrap();
        copy(&origin.path().join("logs"), &dir.path().join("logs"));
        let path = segment(dir.path(), 0);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[ends[0] as usize + at] ^= 0x04;
        std::fs::write(&path, &bytes).unwrap();

        let fixture = Fixture::open(dir.path());
        assert_eq!(fixture.log.span().end, Offset::new(3), "flipped byte {at}");
        assert_eq!(fixture.values(0), ["first"]);
        let damaged = fixture.log.read_blocking(request(1, Isolation::ReadUncommitted));
        let next = Some(Offset::new(2));
        assert!(
            matches!(damaged, Err(ReadError::Corrupt { next: n, .. }) if n == next),
            "flipped byte {at}"
        );
        assert_eq!(fixture.values(2), ["third"]);
        let refused = fixture.append(plain(&["fourth"]));
        assert!(matches!(refused, Err(AppendError::Storage { .. })));
        drop(fixture);
        assert_eq!(std::fs::read(&path).unwrap(), bytes);

        let reports: Vec<_> = verify::verify(&dir.path().join("logs")).unwrap().collect();
        let report = reports[0].as_ref().unwrap();
        assert_eq!(report.findings.len(), 1);
        assert_eq!(report.findings[0].offset, Offset::new(1));
        assert_eq!(report.findings[0].next, Some(Offset::new(2)));
    }
}

#[test]
fn a_bit_that_flips_under_a_running_broker_is_found_by_the_reader() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(plain(&["first"])).unwrap();
    let at = fixture.log.size_bytes() as usize;
    fixture.append(plain(&["second"])).unwrap();
    fixture.append(plain(&["third"])).unwrap();
    fixture.logs.shutdown();
    drop(fixture);
    let fixture = Fixture::open(dir.path());
    let path = segment(dir.path(), 0);
    let bytes = std::fs::read(&path).unwrap();
    // Base offset, length, last offset delta, payload.
    for byte in [7, 10, 26, 70] {
        let mut flipped = bytes.clone();
        flipped[at + byte] ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        assert_eq!(fixture.values(0), ["first"], "flipped byte {byte}");
        let damaged = fixture.log.read_blocking(request(1, Isolation::ReadUncommitted));
        let next = Some(Offset::new(2));
        assert!(
            matches!(damaged, Err(ReadError::Corrupt { next: n, .. }) if n == next),
            "flipped byte {byte}"
        );
        assert_eq!(fixture.values(2), ["third"], "flipped byte {byte}");
    }
    // Nothing is appended to a log that is known not to be whole.
    let refused = fixture.append(plain(&["fourth"]));
    assert!(matches!(refused, Err(AppendError::Storage { .. })), "{refused:?}");
    assert_eq!(fixture.logs.refusals().list().len(), 1);
}

#[test]
fn a_hole_of_zeros_left_by_a_power_loss_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(plain(&["first"])).unwrap();
    let from = fixture.log.size_bytes() as usize;
    fixture.append(plain(&["second"])).unwrap();
    let to = fixture.log.size_bytes() as usize;
    fixture.append(plain(&["third"])).unwrap();
    drop(fixture);
    let path = segment(dir.path(), 0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[from..to].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    // Whoever asks before the start is told that more than a torn batch goes.
    let reports: Vec<_> = verify::verify(&dir.path().join("logs")).unwrap().collect();
    let findings = &reports[0].as_ref().unwrap().findings;
    assert_eq!((findings.len(), findings[0].next), (1, None));
    let reason = "a hole of zeros, whole batches behind it from offset 2 on";
    assert_eq!(findings[0].reason, reason);
    let fixture = Fixture::open(dir.path());
    assert_eq!(fixture.log.span().end, Offset::new(1));
    fixture.append(plain(&["again"])).unwrap();
    assert_eq!(fixture.values(0), ["first", "again"]);
}

#[test]
fn a_missing_segment_is_reported_and_the_rest_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    let config = config().starting_with(|it| it.log_segment_bytes = 1);
    let fixture = Fixture::with(dir.path(), &config);
    for value in ["a", "b", "c"] {
        fixture.append(plain(&[value])).unwrap();
    }
    drop(fixture);
    std::fs::remove_file(segment(dir.path(), 1)).unwrap();
    let fixture = Fixture::with(dir.path(), &config);
    assert_eq!(fixture.values(0), ["a"]);
    let lost = fixture.log.read_blocking(request(1, Isolation::ReadUncommitted));
    let next = Some(Offset::new(2));
    assert!(matches!(lost, Err(ReadError::Corrupt { next: n, .. }) if n == next));
    assert_eq!(fixture.values(2), ["c"]);
    assert!(matches!(fixture.append(plain(&["d"])), Err(AppendError::Storage { .. })));
}

#[test]
fn reads_respect_their_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    let one = plain(&["a"]).len();
    for value in ["a", "b", "c"] {
        fixture.append(plain(&[value])).unwrap();
    }
    let read = |bytes_max, at_least_one| {
        let request =
            ReadRequest { bytes_max, at_least_one, ..request(0, Isolation::ReadUncommitted) };
        values(fixture.log.read_blocking(request).unwrap().records)
    };
    let check = || {
        assert!(read(one - 1, false).is_empty());
        assert_eq!(read(one - 1, true), ["a"]);
        assert_eq!(read(2 * one, false), ["a", "b"]);
        assert_eq!(read(3 * one - 1, true), ["a", "b"]);
    };
    check();
    let beyond = fixture.log.read_blocking(request(4, Isolation::ReadUncommitted));
    assert!(matches!(beyond, Err(ReadError::OutOfRange { .. })));
    // The same from disk.
    fixture.log.shared.readable_mut().tail = Default::default();
    check();
}

#[test]
fn timestamps_are_found_exactly_inside_batches_and_over_segments() {
    let dir = tempfile::tempdir().unwrap();
    let config = config().starting_with(|it| {
        it.log_segment_bytes = 400;
        it.log_index_interval_bytes = 80;
    });
    let fixture = Fixture::with(dir.path(), &config);
    let at = |ms: i64| NewRecord { timestamp: Timestamp(ms), ..NewRecord::default() };
    // Three records each, ten apart and late by one in the middle of each batch.
    for n in 0..20 {
        let base = 1000 + 100 * n;
        let batch = batch::encode(&[at(base), at(base + 50), at(base + 20)], None);
        fixture.append(batch).unwrap();
    }
    let check = |fixture: &Fixture| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let find = |ms| {
            let found = runtime.block_on(fixture.log.first_at_or_after(Timestamp(ms))).unwrap();
            found.map(|found| (found.timestamp.0, found.offset.get()))
        };
        assert_eq!(find(0), Some((1000, 0)));
        assert_eq!(find(1001), Some((1050, 1)));
        assert_eq!(find(1051), Some((1100, 3)));
        assert_eq!(find(2120), Some((2150, 34)));
        assert_eq!(find(2951), None);
        let largest = runtime.block_on(fixture.log.max_timestamp()).unwrap().unwrap();
        assert_eq!((largest.timestamp.0, largest.offset.get()), (2950, 58));
    };
    check(&fixture);
    fixture.logs.shutdown();
    drop(fixture);
    check(&Fixture::with(dir.path(), &config));
}

#[test]
fn racing_producers_each_keep_their_order_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    std::thread::scope(|scope| {
        for producer in 1..=2 {
            let log = &fixture.log;
            scope.spawn(move || {
                for n in 0..200 {
                    let batch = by(producer, 0, n, false, &[&format!("{producer}:{n}")]);
                    let first = log.append_blocking(batch.clone(), synced()).unwrap();
                    let again = log.append_blocking(batch, synced()).unwrap();
                    assert!(again.duplicate && again.base_offset == first.base_offset);
                }
            });
        }
    });
    let values = fixture.values(0);
    assert_eq!(values.len(), 400);
    for producer in 1..=2 {
        let prefix = format!("{producer}:");
        let own: Vec<_> = values.iter().filter_map(|v| v.strip_prefix(&prefix)).collect();
        let expected: Vec<String> = (0..200).map(|n| n.to_string()).collect();
        assert_eq!(own, expected);
    }
}

#[test]
fn a_request_of_several_batches_is_stored_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    let gap = [by(1, 0, 0, false, &["a"]), by(1, 0, 2, false, &["c"])].concat();
    assert!(matches!(
        fixture.append(gap.into()),
        Err(AppendError::OutOfOrderSequence { expected: 1, .. })
    ));
    assert_eq!(fixture.log.span().end, Offset::ZERO);
    let both = [by(1, 0, 0, false, &["a", "b"]), by(1, 0, 2, false, &["c"])].concat();
    let stored = fixture.append(both.into()).unwrap();
    assert_eq!((stored.base_offset, stored.last_offset), (Offset::new(0), Offset::new(2)));
    assert_eq!(fixture.values(0), ["a", "b", "c"]);
}

#[test]
fn a_view_damaged_anywhere_changes_nothing_for_readers_and_producers() {
    let origin = tempfile::tempdir().unwrap();
    let config = config().starting_with(|it| {
        it.log_segment_bytes = 2000;
        it.log_index_interval_bytes = 80;
    });
    let fixture = Fixture::with(origin.path(), &config);
    for n in 0..40 {
        fixture.append(by(1, 0, n, n % 2 == 0, &["x"])).unwrap_or_else(|_| {
            fixture.end(1, 0, Marker::Abort).unwrap();
            fixture.append(by(1, 0, n, false, &["x"])).unwrap()
        });
    }
    let before = seen(&fixture);
    fixture.logs.shutdown();
    drop(fixture);
    let files: Vec<PathBuf> = std::fs::read_dir(origin.path().join("view"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| entry.path())
        .collect();
    for file in &files {
        let bytes = std::fs::read(file).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
        for step in 0..12 {
            let dir = tempfile::tempdir().unwrap();
            copy(origin.path(), dir.path());
            let mut damaged = bytes.clone();
            let at = used * step / 12;
            if step % 3 == 2 {
                damaged.truncate(at);
            } else {
                damaged[at] ^= 0x40;
            }
            std::fs::write(dir.path().join("view").join(file.file_name().unwrap()), damaged)
                .unwrap();
            let fixture = Fixture::with(dir.path(), &config);
            assert_eq!(seen(&fixture), before, "{} at byte {at}", file.display());
            for n in 0..40 {
                assert!(!fixture.values(n).is_empty());
            }
            assert!(fixture.append(by(1, 0, 39, false, &["x"])).unwrap().duplicate);
        }
    }
}

#[test]
fn log_lines_name_the_topic_until_it_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    let settings = fixture.logs.inner.settings.clone();
    assert_eq!(settings.label(id()), id().to_string());
    fixture.logs.name_topic(id().topic, "clicks");
    assert_eq!(settings.label(id()), format!("clicks-0 ({})", id()));
    fixture.logs.delete_topic(id().topic).unwrap();
    assert_eq!(settings.label(id()), id().to_string());
}

/// Look-ups by time run on the runtime's reader threads.
fn block_on_runtime<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}
