//! Compacted logs, driven step by step: what stays, what readers and producers notice, and what a
//! crash leaves.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::log::format::compression;
use crate::log::format::scan::{Found, Scan};
use crate::log::object::record_store::{Listing, Location, ObjectId, RecordStore};
use crate::log::recover::recovery;
use crate::types::{Clock, SystemClock};

mod property;
mod steps;

/// One compacted log, and its clock.
pub(super) struct Compacted {
    pub(super) logs: Logs,
    pub(super) log: Partition,
    pub(super) clock: Arc<ManualClock>,
}

/// Room enough in the table of keys.
pub(super) const ROOM: usize = 1 << 20;

fn compaction() -> Compaction {
    Compaction {
        dirty_ratio_min: 0.0,
        lag_min: Duration::ZERO,
        lag_max: None,
        delete_retention: Duration::from_secs(1),
    }
}

impl Compacted {
    fn open(dir: &Path, clock: Timestamp) -> Compacted {
        let store = Arc::new(LocalRecordStore::open(&dir.join("logs"), Boot::default()).unwrap());
        Compacted::over(store, dir, clock)
    }

    pub(super) fn over(records: Arc<dyn RecordStore>, dir: &Path, clock: Timestamp) -> Compacted {
        let config = config().starting_with(|it| {
            it.log_index_interval_bytes = 100;
            // Tests compact when they want to.
            it.log_cleaner_backoff = Duration::from_secs(86_400);
        });
        let view = Store::open(&dir.join("view")).unwrap();
        let clock = Arc::new(ManualClock::at(clock));
        let metrics = Metrics::default();
        let logs =
            Logs::over(records, view, &config, clock.clone(), LeaderEpoch(3), &metrics).unwrap();
        let config = LogConfig {
            compaction: Some(compaction()),
            segment_bytes: 400,
            ..LogConfig::internal(&config)
        };
        logs.configure(id().topic, "clicks", config);
        let log = logs.open(id()).unwrap();
        Compacted { logs, log, clock }
    }

    pub(super) fn configure(&self, change: impl FnOnce(&mut LogConfig)) {
        let mut config = (*self.log.config()).clone();
        change(&mut config);
        self.logs.configure(id().topic, "clicks", config);
    }

    pub(super) fn append(&self, batch: Bytes) -> Result<Appended, AppendError> {
        self.log.append_blocking(batch, synced())
    }

    fn end(&self, producer: i64, marker: Marker) {
        let (producer, epoch) = (ProducerId(producer), ProducerEpoch(0));
        self.log.end_transaction_blocking(producer, epoch, marker).unwrap();
    }

    /// Begins a new segment.
    pub(super) fn roll(&self) {
        let (reply, ended) = oneshot::channel();
        self.log.shared.send(Command::Roll(id(), reply)).unwrap();
        block_on(ended).unwrap().unwrap();
    }

    pub(super) fn compact(&self) {
        assert_eq!(self.logs.compact_now(ROOM), 0);
    }

    /// Makes something dirty, so that a compaction is due, and compacts.
    fn compact_again(&self) {
        self.append(keyed(&[("other", Some("x"))], None)).unwrap();
        self.roll();
        self.compact();
    }

    /// What a reader gets: offset, key and value of every record.
    fn all(&self, isolation: Isolation) -> Vec<Read> {
        let span = self.log.span();
        let (mut read, mut from) = (Vec::new(), span.start);
        while from < span.last_stable {
            let result = self.log.read_blocking(request(from.get(), isolation)).unwrap();
            let (records, next) = consumed(result, from);
            assert!(next > from, "a reader makes progress");
            read.extend(records);
            from = next;
        }
        read
    }

    fn uncommitted(&self) -> Vec<Read> {
        self.all(Isolation::ReadUncommitted)
    }

    fn committed(&self) -> Vec<Read> {
        self.all(Isolation::ReadCommitted)
    }

    /// Headers of all batches on disk, which hold every offset once.
    fn on_disk(&self) -> Vec<batch::BatchHeader> {
        let store = &*self.log.shared.settings.store;
        let listing = recovery::list(id(), store).unwrap();
        let (objects, leftovers) = recovery::current(&listing, store).unwrap();
        assert_eq!((leftovers, listing.drafts), (Vec::new(), false));
        let mut headers: Vec<batch::BatchHeader> = Vec::new();
        for (object, length) in objects {
            let mut scan = Scan::new(store, object, 0, length);
            let mut next = object.base;
            while let Some(found) = scan.advance().unwrap() {
                let Found::Batch { header, .. } = found else { panic!("{found:?}") };
                assert_eq!(header.base_offset, next);
                assert!(headers.last().is_none_or(|last| last.next_offset() == next));
                next = header.next_offset();
                headers.push(header);
            }
        }
        headers
    }
}

/// Offset, key and value.
type Read = (u64, String, Option<String>);

/// The records that Kafka's Java consumer returns of a fetch from `from`, and the offset at which it
/// continues. It takes aborted producers from the list by first offset, and drops them at their marker.
fn consumed(result: ReadResult, from: Offset) -> (Vec<Read>, Offset) {
    let mut pending = result.aborted.clone();
    pending.sort_by_key(|txn| txn.first_offset);
    pending.reverse();
    let mut aborted = HashSet::new();
    let (mut read, mut next) = (Vec::new(), from);
    let mut rest = result.records;
    while let Ok(header) = batch::BatchHeader::parse(&rest) {
        let bytes = rest.split_to(header.bytes);
        while let Some(txn) = pending.pop_if(|txn| txn.first_offset <= header.last_offset()) {
            aborted.insert(txn.producer);
        }
        next = header.next_offset();
        let producer = header.producer.map(|producer| producer.id);
        if header.control() {
            if header.record_count > 0 && batch::marker_of(&bytes) == Some(Marker::Abort) {
                producer.map(|producer| aborted.remove(&producer));
            }
            continue;
        }
        let is_aborted = producer.is_some_and(|producer| aborted.contains(&producer));
        if header.transactional() && is_aborted {
            continue;
        }
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        for record in records::decode_batch(&header, &bytes, 1 << 20).unwrap().records {
            if record.offset >= from {
                let key = record.key.map_or_else(String::new, text);
                read.push((record.offset.get(), key, record.value.map(text)));
            }
        }
    }
    (read, next)
}

fn read(offset: u64, key: &str, value: &str) -> Read {
    (offset, key.to_owned(), Some(value.to_owned()))
}

fn gone(offset: u64, key: &str) -> Read {
    (offset, key.to_owned(), None)
}

pub(super) fn keyed(records: &[(&str, Option<&str>)], producer: Option<Producer>) -> Bytes {
    let record = |(i, (key, value)): (usize, &(&str, Option<&str>))| NewRecord {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
        timestamp: Timestamp(1000 + i as i64),
        ..NewRecord::default()
    };
    let records: Vec<NewRecord> = records.iter().enumerate().map(record).collect();
    batch::encode(&records, producer)
}

fn producer(id: i64, base_sequence: i32, transactional: bool) -> Option<Producer> {
    let (id, epoch) = (ProducerId(id), ProducerEpoch(0));
    Some(Producer { id, epoch, base_sequence, transactional })
}

/// The batch with its body compressed.
pub(super) fn compressed(batch: &Bytes, codec: Codec) -> Bytes {
    let mut out = batch[..batch::HEADER_BYTES].to_vec();
    compression::deflate(codec, &batch[batch::HEADER_BYTES..], &mut out).unwrap();
    let length = (out.len() - 12) as i32;
    out[8..12].copy_from_slice(&length.to_be_bytes());
    out[22] |= codec.number() as u8;
    let crc = crc32c::crc32c(&out[21..]);
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    Bytes::from(out)
}

pub(super) const NOW: Timestamp = Timestamp(1_000_000);

#[test]
fn the_newest_record_of_each_key_stays_at_its_offset_and_fillers_hold_the_others_places() {
    let dir = tempfile::tempdir().unwrap();
    let log = Compacted::open(dir.path(), NOW);
    log.append(keyed(&[("a", Some("1")), ("b", Some("1")), ("a", Some("2"))], None)).unwrap();
    for codec in [Codec::Gzip(-1), Codec::Snappy, Codec::Lz4, Codec::Zstd(3)] {
        let batch = keyed(&[("c", Some("1")), ("a", Some("3"))], None);
        log.append(compressed(&batch, codec)).unwrap();
    }
    log.append(keyed(&[("d", Some("1"))], None)).unwrap();
    log.roll();
    log.append(keyed(&[("b", Some("2"))], None)).unwrap();
    let before = log.log.size_bytes();
    log.compact();
    assert!(log.log.size_bytes() < before);
    let left = [
        read(1, "b", "1"),
        read(9, "c", "1"),
        read(10, "a", "3"),
        read(11, "d", "1"),
        read(12, "b", "2"),
    ];
    assert_eq!(log.uncommitted(), left);
    let shapes: Vec<(u64, i32, i32, i16)> = log
        .on_disk()
        .iter()
        .map(|h| (h.base_offset.get(), h.last_offset_delta, h.record_count, h.compression()))
        .collect();
    // Batches that were removed are one filler; a batch that lost some records keeps its codec.
    assert_eq!(shapes, [(0, 2, 1, 0), (3, 5, 0, 0), (9, 1, 2, 4), (11, 0, 1, 0), (12, 0, 1, 0)]);
    // From the middle of a filler too.
    let result = log.log.read_blocking(request(5, Isolation::ReadUncommitted)).unwrap();
    assert_eq!(consumed(result, Offset::new(5)).0[0], read(9, "c", "1"));
    for view_survives in [true, false] {
        if !view_survives {
            std::fs::remove_dir_all(dir.path().join("view")).unwrap();
        }
        log.logs.shutdown();
        let again = Compacted::open(dir.path(), NOW);
        assert_eq!(again.uncommitted(), left);
        again.logs.shutdown();
    }
}

#[test]
fn a_log_is_compacted_only_as_its_topic_says() {
    let dir = tempfile::tempdir().unwrap();
    let log = Compacted::open(dir.path(), NOW);
    log.configure(|config| config.compaction = None);
    let same = || log.append(keyed(&[("a", Some("1"))], None)).unwrap();
    same();
    same();
    log.roll();
    let files = log.on_disk().len();
    log.compact();
    assert_eq!(log.on_disk().len(), files);
    let lag_min = Duration::from_secs(2000);
    log.configure(|config| config.compaction = Some(Compaction { lag_min, ..compaction() }));
    log.compact();
    assert_eq!(log.uncommitted().len(), 2);
    log.clock.advance(lag_min);
    log.compact();
    assert_eq!(log.uncommitted(), [read(1, "a", "1")]);
    // Half of the log is dirty now.
    let ratio = |min| Compaction { dirty_ratio_min: min, ..compaction() };
    log.configure(|config| config.compaction = Some(ratio(0.9)));
    same();
    log.roll();
    log.compact();
    assert_eq!(log.uncommitted().len(), 2);
    log.configure(|config| config.compaction = Some(ratio(0.1)));
    log.compact();
    assert_eq!(log.uncommitted(), [read(2, "a", "1")]);
}

#[test]
fn records_without_a_time_wait_for_the_minimum_lag_from_when_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    // The file system has no other clock.
    let log = Compacted::open(dir.path(), SystemClock::default().now());
    let lag_min = Duration::from_secs(3600);
    log.configure(|config| config.compaction = Some(Compaction { lag_min, ..compaction() }));
    for _ in 0..2 {
        let (key, value) = (Some("a".into()), Some("1".into()));
        let record = NewRecord { key, value, timestamp: Timestamp(-1), ..NewRecord::default() };
        log.append(batch::encode(&[record], None)).unwrap();
    }
    log.roll();
    log.compact();
    assert_eq!(log.uncommitted().len(), 2);
    log.clock.advance(2 * lag_min);
    log.compact();
    assert_eq!(log.uncommitted(), [read(1, "a", "1")]);
}

#[test]
fn an_idle_segment_ends_and_is_compacted_within_the_maximum_lag() {
    let dir = tempfile::tempdir().unwrap();
    let log = Compacted::open(dir.path(), NOW);
    let late = Compaction {
        dirty_ratio_min: 1.0,
        lag_max: Some(Duration::from_secs(3600)),
        ..compaction()
    };
    log.configure(|config| config.compaction = Some(late));
    log.append(keyed(&[("a", Some("1")), ("a", Some("2"))], None)).unwrap();
    log.compact();
    assert_eq!(log.uncommitted().len(), 2);
    log.clock.advance(Duration::from_secs(3600));
    log.compact();
    assert_eq!(log.uncommitted(), [read(1, "a", "2")]);
    // It does not end again and again.
    let segments = log.log.shared.readable().segments.len();
    log.compact();
    assert_eq!(log.log.shared.readable().segments.len(), segments);
}

#[test]
fn tombstones_go_when_readers_had_time_to_see_them() {
    let dir = tempfile::tempdir().unwrap();
    let log = Compacted::open(dir.path(), NOW);
    log.append(keyed(&[("a", Some("1")), ("b", Some("1"))], None)).unwrap();
    log.append(keyed(&[("a", None), ("c", Some("1"))], None)).unwrap();
    log.roll();
    log.compact();
    let seen = [read(1, "b", "1"), gone(2, "a"), read(3, "c", "1")];
    assert_eq!(log.uncommitted(), seen);
    let dated = log.on_disk().into_iter().find(|header| header.delete_horizon().is_some()).unwrap();
    assert_eq!(dated.delete_horizon(), Some(Timestamp(NOW.0 + 1000)));
    // Timestamps read as they were, though they are counted from the horizon now.
    let result = log.log.read_blocking(request(2, Isolation::ReadUncommitted)).unwrap();
    let decoded = records::decode(result.records, 1 << 20).unwrap();
    let times: Vec<i64> = decoded[0].records.iter().map(|record| record.timestamp.0).collect();
    assert_eq!(times, [1000, 1001]);
    let largest = block_on_runtime(log.log.max_timestamp()).unwrap().unwrap();
    assert_eq!((largest.offset, largest.timestamp), (Offset::new(1), Timestamp(1001)));
    let late = block_on_runtime(log.log.first_at_or_after(Timestamp(1000))).unwrap().unwrap();
    assert_eq!((late.offset, late.timestamp), (Offset::new(1), Timestamp(1001)));

    log.clock.advance(Duration::from_millis(999));
    log.compact_again();
    assert_eq!(log.uncommitted()[..3], seen);
    log.clock.advance(Duration::from_millis(1));
    log.compact_again();
    let left = [read(1, "b", "1"), read(3, "c", "1"), read(5, "other", "x")];
    assert_eq!(log.uncommitted(), left);
}

#[test]
fn aborted_records_go_at_once_and_markers_when_nothing_of_their_transaction_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let log = Compacted::open(dir.path(), NOW);
    log.append(keyed(&[("a", Some("kept"))], None)).unwrap();
    log.append(keyed(&[("a", Some("aborted"))], producer(1, 0, true))).unwrap();
    log.append(keyed(&[("b", Some("committed"))], producer(2, 0, true))).unwrap();
    log.end(1, Marker::Abort);
    log.end(2, Marker::Commit);
    // The producer lives on, so its last batch is another one.
    log.append(keyed(&[("c", Some("next"))], producer(1, 1, true))).unwrap();
    log.end(1, Marker::Commit);
    log.append(keyed(&[("d", Some("open"))], producer(3, 0, true))).unwrap();
    log.roll();
    let before = log.committed();
    log.compact();
    assert_eq!(log.committed(), before, "the first open transaction holds compaction back");
    assert_eq!(log.on_disk().len(), 8);
    log.end(3, Marker::Commit);
    log.roll();
    let committed = |log: &Compacted| {
        let read = log.committed();
        read.into_iter().filter(|(_, key, _)| key != "other").collect::<Vec<_>>()
    };
    let before = committed(&log);
    assert_eq!(before[0], read(0, "a", "kept"));
    log.compact();
    assert_eq!(committed(&log), before);
    let uncommitted = log.uncommitted();
    assert!(uncommitted.iter().all(|(_, _, value)| value.as_deref() != Some("aborted")));
    let markers = |log: &Compacted| {
        log.on_disk()
            .iter()
            .filter(|h| h.control())
            .map(|h| h.base_offset.get())
            .collect::<Vec<_>>()
    };
    // The records of the aborted transaction were removed just now, so its marker still stays.
    assert_eq!(markers(&log), [3, 4, 6, 8]);
    log.compact_again();
    let alone: Vec<_> =
        log.on_disk().into_iter().filter(|h| h.delete_horizon().is_some()).collect();
    assert_eq!(alone.len(), 1);
    assert_eq!((alone[0].base_offset, alone[0].record_count), (Offset::new(3), 1));
    assert_eq!(markers(&log), [3, 4, 6, 8]);
    log.clock.advance(Duration::from_secs(1));
    log.compact_again();
    assert_eq!(markers(&log), [4, 6, 8]);
    assert_eq!(committed(&log), before);
    log.logs.shutdown();
    for view_survives in [true, false] {
        if !view_survives {
            std::fs::remove_dir_all(dir.path().join("view")).unwrap();
        }
        let again = Compacted::open(dir.path(), NOW);
        assert_eq!(committed(&again), before);
        assert_eq!(again.log.span().last_stable, again.log.span().end);
        again.logs.shutdown();
    }
}

#[test]
fn producers_go_on_where_they_were_although_their_records_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let log = Compacted::open(dir.path(), NOW);
    let first = log.append(keyed(&[("a", Some("1")), ("b", Some("1"))], producer(1, 0, false)));
    log.append(keyed(&[("a", Some("1"))], producer(2, 7, true))).unwrap();
    log.end(2, Marker::Abort);
    // This epoch is known by its marker only.
    let (id, epoch) = (ProducerId(3), ProducerEpoch(0));
    log.append(keyed(&[("a", Some("1"))], producer(3, 0, true))).unwrap();
    log.log.end_transaction_blocking(id, ProducerEpoch(epoch.0 + 5), Marker::Abort).unwrap();
    log.append(keyed(&[("a", Some("2")), ("b", Some("2"))], None)).unwrap();
    log.roll();
    log.compact();
    log.clock.advance(Duration::from_secs(1));
    log.compact_again();
    log.clock.advance(Duration::from_secs(1));
    log.compact_again();
    assert!(
        log.uncommitted()
            .iter()
            .all(|(_, key, value)| key == "other" || value.as_deref() == Some("2"))
    );
    log.logs.shutdown();
    std::fs::remove_dir_all(dir.path().join("view")).unwrap();
    let log = Compacted::open(dir.path(), NOW);
    let again = log.append(keyed(&[("a", Some("1")), ("b", Some("1"))], producer(1, 0, false)));
    let (first, again) = (first.unwrap(), again.unwrap());
    assert!(again.duplicate);
    assert_eq!((again.base_offset, again.last_offset), (first.base_offset, first.last_offset));
    let gap = log.append(keyed(&[("a", Some("1"))], producer(2, 9, true)));
    assert!(matches!(gap, Err(AppendError::OutOfOrderSequence { expected: 8, .. })), "{gap:?}");
    let zombie = log.append(keyed(&[("a", Some("1"))], producer(3, 1, true)));
    assert!(matches!(zombie, Err(AppendError::Fenced { .. })), "{zombie:?}");
    assert!(log.log.open_transactions().is_empty());
}

#[test]
fn a_small_table_of_keys_compacts_in_steps() {
    let dir = tempfile::tempdir().unwrap();
    let log = Compacted::open(dir.path(), NOW);
    let keys: Vec<String> = (0..40).map(|n| format!("key-{n}")).collect();
    for round in 0..3 {
        for key in &keys {
            log.append(keyed(&[(key, Some(&round.to_string()))], None)).unwrap();
        }
    }
    log.roll();
    // Room for eight keys at a time.
    assert_eq!(log.logs.compact_now(240), 0);
    let left: Vec<Read> =
        keys.iter().enumerate().map(|(n, key)| read(80 + n as u64, key, "2")).collect();
    assert_eq!(log.uncommitted(), left);
    log.on_disk();
}

#[test]
fn small_segments_are_joined_up_to_the_segment_size() {
    let dir = tempfile::tempdir().unwrap();
    let log = Compacted::open(dir.path(), NOW);
    for n in 0..20 {
        log.append(keyed(&[(&n.to_string(), Some("x"))], None)).unwrap();
        log.roll();
    }
    log.compact();
    let readable = log.log.shared.readable();
    let sizes: Vec<u64> = readable.segments.iter().map(|segment| segment.bytes).collect();
    drop(readable);
    assert!(sizes.len() < 8, "{sizes:?}");
    assert!(sizes.iter().all(|bytes| *bytes <= 400), "{sizes:?}");
    assert_eq!(log.uncommitted().len(), 20);
    // A pass that finds nothing to remove keeps the objects.
    let names = |log: &Compacted| {
        let readable = log.log.shared.readable();
        readable.segments.iter().map(|segment| segment.object).collect::<Vec<_>>()
    };
    let before = names(&log);
    log.compact_again();
    assert_eq!(names(&log)[..before.len() - 1], before[..before.len() - 1]);
}

#[test]
fn a_long_run_of_superseded_segments_becomes_one_filler() {
    let dir = tempfile::tempdir().unwrap();
    let log = Compacted::open(dir.path(), NOW);
    for n in 0..50 {
        log.append(keyed(&[("a", Some(&"x".repeat(200)))], producer(1, n, false))).unwrap();
        log.roll();
    }
    log.compact();
    let shapes: Vec<(u64, u64, i32)> = log
        .on_disk()
        .iter()
        .map(|header| (header.base_offset.get(), header.offsets(), header.record_count))
        .collect();
    assert_eq!(shapes, [(0, 49, 0), (49, 1, 1)]);
    assert_eq!(log.log.shared.readable().segments.len(), 2);
}

/// Ten segments of 30 keys, three times each, and the records that must remain from `start` on.
fn three_rounds(log: &Compacted) -> impl Fn(u64) -> Vec<Read> + use<> {
    for n in 0..90u64 {
        log.append(keyed(&[(&(n % 30).to_string(), Some(&n.to_string()))], None)).unwrap();
    }
    log.roll();
    let newest = |n: u64| read(n, &(n % 30).to_string(), &n.to_string());
    move |start| (start.max(60)..90).map(newest).collect()
}

#[test]
fn a_stop_in_the_middle_leaves_a_whole_log_and_no_draft() {
    let mut asked_max = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        let log = Compacted::open(dir.path(), NOW);
        let left = three_rounds(&log);
        let asked = std::cell::Cell::new(0);
        let goes_on = || {
            asked.set(asked.get() + 1);
            asked.get() <= asked_max
        };
        assert_eq!(log.logs.compact_while(ROOM, &goes_on), 0);
        log.on_disk();
        assert!(log.uncommitted().ends_with(&left(0)));
        if asked.get() <= asked_max {
            assert_eq!(log.uncommitted(), left(0));
            break;
        }
        asked_max += 3;
    }
    assert!(asked_max > 20, "there were many places to stop");
}

#[test]
fn retention_and_deletion_in_the_middle_of_a_compaction_do_not_trip_it() {
    for (moment, start) in [(2, 10), (12, 45), (20, 20), (25, 90), (28, 20), (30, 75)] {
        let dir = tempfile::tempdir().unwrap();
        let log = Compacted::open(dir.path(), NOW);
        let left = three_rounds(&log);
        let asked = std::cell::Cell::new(0);
        let goes_on = || {
            asked.set(asked.get() + 1);
            if asked.get() == moment {
                log.log.trim_blocking(Offset::new(start)).unwrap();
            }
            true
        };
        assert_eq!(log.logs.compact_while(ROOM, &goes_on), 0, "retention is no failure");
        assert!(asked.get() > moment, "{moment} of {}", asked.get());
        log.on_disk();
        log.compact();
        log.on_disk();
        assert_eq!(log.uncommitted(), left(start), "at {moment}");
        log.logs.shutdown();
        // A second broker needs the view for itself.
        drop(log);
        let again = Compacted::open(dir.path(), NOW);
        assert_eq!(again.uncommitted(), left(start), "at {moment}");
        assert_eq!(again.log.span().start, Offset::new(start));
    }
    for moment in [2, 20, 30] {
        let dir = tempfile::tempdir().unwrap();
        let log = Compacted::open(dir.path(), NOW);
        let _ = three_rounds(&log);
        let asked = std::cell::Cell::new(0);
        let goes_on = || {
            asked.set(asked.get() + 1);
            if asked.get() == moment {
                log.logs.delete_topic(id().topic).unwrap();
            }
            true
        };
        assert_eq!(log.logs.compact_while(ROOM, &goes_on), 0, "a deletion is no failure");
        assert!(log.logs.on_disk().unwrap().is_empty());
    }
}

#[test]
fn damage_and_batches_that_cannot_be_decoded_are_left_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let log = Compacted::open(dir.path(), NOW);
    let mut opaque = keyed(&[("a", Some("1"))], None).to_vec();
    // No record: its length is more than there is.
    opaque[batch::HEADER_BYTES] = 0x7e;
    let crc = crc32c::crc32c(&opaque[21..]);
    opaque[17..21].copy_from_slice(&crc.to_be_bytes());
    // As from before the topic was compacted.
    log.configure(|config| config.compaction = None);
    log.append(Bytes::from(opaque)).unwrap();
    log.configure(|config| config.compaction = Some(compaction()));
    log.append(keyed(&[("a", Some("2"))], None)).unwrap();
    log.append(keyed(&[("a", Some("3"))], None)).unwrap();
    log.roll();
    log.compact();
    let left = log.on_disk();
    assert_eq!(left.iter().map(|h| h.record_count).collect::<Vec<_>>(), [1, 0, 1]);

    log.append(keyed(&[("a", Some("4"))], None)).unwrap();
    log.append(keyed(&[("a", Some("5"))], None)).unwrap();
    log.roll();
    let object = log.log.shared.readable().segments[1].object;
    let path = segment(dir.path(), object.base.get());
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(log.logs.compact_now(ROOM), 1);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn readers_in_the_middle_are_not_disturbed() {
    let dir = tempfile::tempdir().unwrap();
    let log = Compacted::open(dir.path(), NOW);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for isolation in [Isolation::ReadCommitted, Isolation::ReadUncommitted] {
            let (log, stop) = (&log, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let read = log.all(isolation);
                    assert!(read.windows(2).all(|pair| pair[0].0 < pair[1].0));
                    let is_aborted = |(_, _, value): &Read| value.as_deref() == Some("aborted");
                    assert!(
                        isolation == Isolation::ReadUncommitted || !read.iter().any(is_aborted)
                    );
                    let found = block_on_runtime(log.log.first_at_or_after(Timestamp(1))).unwrap();
                    assert!(read.is_empty() || found.is_some());
                    block_on_runtime(log.log.max_timestamp()).unwrap();
                }
            });
        }
        for n in 0..60 {
            let key = (n % 7).to_string();
            log.append(keyed(&[(&key, Some("kept"))], None)).unwrap();
            log.append(keyed(&[(&key, Some("aborted"))], producer(1, n, true))).unwrap();
            log.end(1, Marker::Abort);
            log.compact();
        }
        stop.store(true, Ordering::Relaxed);
    });
    log.on_disk();
    let mut newest = BTreeMap::new();
    for (_, key, value) in log.committed() {
        newest.insert(key, value);
    }
    assert_eq!(newest.len(), 7);
}
