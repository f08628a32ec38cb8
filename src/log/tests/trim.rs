//! Logs whose start is raised, and what a crash leaves of that.

use super::*;
use crate::log::data_dir::DataDir;
use crate::log::object::record_store::ObjectId;
use crate::types::Progress;

/// One batch of two records per segment.
fn small_segments() -> Config {
    config().starting_with(|it| it.log_segment_bytes = 100)
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join(format!("logs/{}", id()))).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

fn name(base: u64) -> String {
    format!("{base:020}.log")
}

fn start_note(start: u64) -> String {
    format!("start-{start:020}")
}

/// Notes a log's start as versions before the manifest did.
fn note_start(dir: &Path, start: u64) {
    File::create(dir.join(format!("logs/{}/{}", id(), start_note(start)))).unwrap();
}

fn out_of_range(log: &Partition, from: u64) -> bool {
    let read = log.read_blocking(request(from, Isolation::ReadUncommitted));
    matches!(read, Err(ReadError::OutOfRange { .. }))
}

#[test]
fn a_raised_start_holds_after_a_restart_and_frees_whole_segments() {
    for view_survives in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Fixture::with(dir.path(), &small_segments());
        for values in [["a", "b"], ["c", "d"], ["e", "f"]] {
            fixture.append(plain(&values)).unwrap();
        }
        assert_eq!(fixture.log.trim_blocking(Offset::new(3)), Ok(Offset::new(3)));
        // It never goes back.
        assert_eq!(fixture.log.trim_blocking(Offset::new(1)), Ok(Offset::new(3)));
        assert_eq!(files(dir.path()), [name(2), name(4), "manifest".to_owned()]);
        drop(fixture);
        if !view_survives {
            std::fs::remove_dir_all(dir.path().join("view")).unwrap();
        }
        let fixture = Fixture::with(dir.path(), &small_segments());
        assert_eq!(fixture.log.span().start, Offset::new(3));
        assert!(out_of_range(&fixture.log, 2));
        // The batch that holds offset 3 begins before it, as with Kafka.
        assert_eq!(fixture.values(3), ["c", "d"]);
        assert_eq!(fixture.append(plain(&["g"])).unwrap().base_offset, Offset::new(6));
    }
}

#[test]
fn a_log_trimmed_to_its_end_is_empty_and_goes_on_at_its_offset() {
    for view_survives in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Fixture::open(dir.path());
        fixture.append(by(7, 0, 0, false, &["a", "b"])).unwrap();
        assert_eq!(
            fixture.log.trim_blocking(Offset::new(3)),
            Err(TrimError::OutOfRange { before: Offset::new(3), end: Offset::new(2) })
        );
        assert_eq!(fixture.log.trim_blocking(Offset::new(2)), Ok(Offset::new(2)));
        assert_eq!(files(dir.path()), [name(2), "manifest".to_owned()]);
        drop(fixture);
        if !view_survives {
            std::fs::remove_dir_all(dir.path().join("view")).unwrap();
        }
        let fixture = Fixture::open(dir.path());
        let span = fixture.log.span();
        assert_eq!((span.start, span.end), (Offset::new(2), Offset::new(2)));
        assert!(fixture.values(2).is_empty());
        if view_survives {
            let again = fixture.append(by(7, 0, 0, false, &["a", "b"])).unwrap();
            assert!(again.duplicate, "the producer is known beyond its records");
        }
        assert_eq!(fixture.append(plain(&["c"])).unwrap().base_offset, Offset::new(2));
        assert_eq!(fixture.values(2), ["c"]);
    }
}

#[test]
fn a_trim_frees_its_space_although_the_caller_stopped_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::with(dir.path(), &small_segments());
    for values in [["a", "b"], ["c", "d"]] {
        fixture.append(plain(&values)).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    runtime.block_on(async {
        let mut trim = Box::pin(fixture.log.trim(Offset::new(2)));
        let _ = futures_util::poll!(&mut trim);
    });
    while files(dir.path()).contains(&name(0)) {
        std::thread::yield_now();
    }
    assert_eq!(fixture.log.span().start, Offset::new(2));
}

#[test]
fn a_start_inside_an_open_transaction_bounds_the_last_stable_offset() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(by(7, 0, 0, true, &["a", "b"])).unwrap();
    fixture.log.trim_blocking(Offset::new(1)).unwrap();
    assert_eq!(fixture.log.span().last_stable, Offset::new(1));
    fixture.end(7, 0, Marker::Abort).unwrap();
    assert_eq!(fixture.log.span().last_stable, Offset::new(3));
}

#[test]
fn time_lookups_end_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    fixture.append(plain(&["a", "b", "c"])).unwrap();
    fixture.log.trim_blocking(Offset::new(1)).unwrap();
    let found = block_on_runtime(fixture.log.first_at_or_after(Timestamp(0))).unwrap().unwrap();
    assert_eq!((found.offset, found.timestamp), (Offset::new(1), Timestamp(1001)));
}

#[test]
fn the_largest_timestamp_is_looked_for_behind_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    let append = |times: &[i64]| {
        let at = |ms: &i64| NewRecord { timestamp: Timestamp(*ms), ..NewRecord::default() };
        let records: Vec<NewRecord> = times.iter().map(at).collect();
        fixture.append(batch::encode(&records, None)).unwrap();
    };
    append(&[9000, 4000, 8000, 4000]);
    append(&[7000, 6000]);
    append(&[7000, 5000]);
    append(&[3000]);
    let largest = || {
        let found = block_on_runtime(fixture.log.max_timestamp()).unwrap();
        found.map(|found| (found.offset.get(), found.timestamp.0))
    };
    assert_eq!(largest(), Some((0, 9000)));
    for (start, expected) in [
        (1, Some((2, 8000))),
        (2, Some((2, 8000))),
        (3, Some((4, 7000))),
        (5, Some((6, 7000))),
        (7, Some((7, 5000))),
        (8, Some((8, 3000))),
        (9, None),
    ] {
        fixture.log.trim_blocking(Offset::new(start)).unwrap();
        assert_eq!(largest(), expected, "start {start}");
    }
    // Of later segments it is known.
    append(&[100]);
    assert_eq!(largest(), Some((9, 100)));
}

#[test]
fn what_a_crash_leaves_of_a_deletion_or_a_compaction_is_removed_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::with(dir.path(), &small_segments());
    for values in [["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"]] {
        fixture.append(plain(&values)).unwrap();
    }
    drop(fixture);
    // The start was noted and nothing was deleted yet; then the next two segments were joined.
    let store = LocalRecordStore::open(&dir.path().join("logs"), Boot::default()).unwrap();
    note_start(dir.path(), 2);
    let joined = ObjectId { revision: 1, ..ObjectId::appended(id(), Offset::new(2)) };
    let bytes: Vec<u8> =
        [2, 4].iter().flat_map(|base| std::fs::read(segment(dir.path(), *base)).unwrap()).collect();
    store.append_draft(joined, 0, &bytes).unwrap();
    store.publish(joined).unwrap();
    store.append_draft(ObjectId { revision: 2, ..joined }, 0, b"half").unwrap();

    let fixture = Fixture::with(dir.path(), &small_segments());
    let left = [format!("{:020}-1.log", 2), name(6), "manifest".to_owned(), start_note(2)];
    assert_eq!(files(dir.path()), left);
    assert_eq!(fixture.values(2), ["c", "d", "e", "f"]);
    assert_eq!(fixture.values(6), ["g", "h"]);
    assert_eq!(fixture.append(plain(&["i"])).unwrap().base_offset, Offset::new(8));
}

/// Publishes the compacted form of some segments, and removes only the first of these.
fn join(dir: &Path, bases: &[u64]) {
    let store = LocalRecordStore::open(&dir.join("logs"), Boot::default()).unwrap();
    let joined = ObjectId { revision: 1, ..ObjectId::appended(id(), Offset::new(bases[0])) };
    let bytes: Vec<u8> =
        bases.iter().flat_map(|base| std::fs::read(segment(dir, *base)).unwrap()).collect();
    store.append_draft(joined, 0, &bytes).unwrap();
    store.publish(joined).unwrap();
    store.delete(ObjectId::appended(id(), Offset::new(bases[0]))).unwrap();
}

#[test]
fn a_segment_that_was_joined_to_one_below_the_start_does_not_come_back() {
    // The start lies in what was joined, or behind it.
    for start in [3, 4, 5] {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Fixture::with(dir.path(), &small_segments());
        fixture.append(by(7, 0, 0, true, &["a", "b"])).unwrap();
        fixture.append(by(7, 0, 2, true, &["c"])).unwrap();
        fixture.end(7, 0, Marker::Abort).unwrap();
        for values in [["e", "f"], ["g", "h"]] {
            fixture.append(plain(&values)).unwrap();
        }
        drop(fixture);
        // A power loss undid all other removals, but not the note of the start.
        join(dir.path(), &[0, 2, 3]);
        note_start(dir.path(), start);
        std::fs::remove_dir_all(dir.path().join("view")).unwrap();

        let fixture = Fixture::with(dir.path(), &small_segments());
        let holding = if start < 4 { format!("{:020}-1.log", 0) } else { name(4) };
        let left = [holding, name(4), name(6), "manifest".to_owned(), start_note(start)];
        assert_eq!(files(dir.path()), left[usize::from(start >= 4)..], "start {start}");
        assert_eq!(fixture.log.span().start, Offset::new(start));
        // An aborted transaction that began before the start is known, too.
        let aborted = fixture.read(start, Isolation::ReadCommitted).aborted;
        assert_eq!(aborted.len(), usize::from(start < 4), "start {start}");
        assert_eq!(fixture.append(plain(&["i"])).unwrap().base_offset, Offset::new(8));
    }
}

#[test]
fn a_damaged_segment_below_the_start_is_left_alone_only_if_it_may_hold_the_start() {
    for (damage, holds) in [(70, false), (1_000, true)] {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Fixture::with(dir.path(), &small_segments());
        for values in [["a", "b"], ["c", "d"], ["e", "f"]] {
            fixture.append(plain(&values)).unwrap();
        }
        drop(fixture);
        join(dir.path(), &[0, 2]);
        note_start(dir.path(), 4);
        let path = dir.path().join(format!("logs/{}/{:020}-1.log", id(), 0));
        let mut bytes = std::fs::read(&path).unwrap();
        let at = damage.min(bytes.len() - 1);
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        std::fs::remove_dir_all(dir.path().join("view")).unwrap();
        let fixture = Fixture::with(dir.path(), &small_segments());
        assert_eq!(fixture.append(plain(&["g"])).is_err(), holds, "byte {at}");
        assert_eq!(path.exists(), holds, "byte {at}");
        assert_eq!(fixture.values(4), ["e", "f"]);
    }
}

#[test]
fn a_log_that_lost_synced_records_assigns_none_of_their_offsets_again() {
    // The whole last batch, a part of it, and a bit of its header.
    for damage in [0, 1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Fixture::open(dir.path());
        fixture.append(plain(&["a", "b"])).unwrap();
        let whole = fixture.log.size_bytes();
        fixture.append(plain(&["c", "d"])).unwrap();
        fixture.logs.shutdown();
        drop(fixture);
        let path = segment(dir.path(), 0);
        let mut bytes = std::fs::read(&path).unwrap();
        match damage {
            0 => bytes.truncate(whole as usize),
            1 => bytes.truncate(bytes.len() - 1),
            // The CRC field of its header.
            _ => bytes[whole as usize + 17] ^= 1,
        }
        std::fs::write(&path, &bytes).unwrap();
        // The second start sees the same as the first.
        for _ in 0..2 {
            let fixture = Fixture::open(dir.path());
            assert!(matches!(fixture.append(plain(&["e"])), Err(AppendError::Storage { .. })));
            assert_eq!(fixture.log.span().end, Offset::new(4));
            assert_eq!(fixture.values(0), ["a", "b"]);
            let lost = fixture.log.read_blocking(request(2, Isolation::ReadUncommitted));
            assert!(matches!(lost, Err(ReadError::Corrupt { .. })), "{lost:?}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn a_log_of_which_only_the_manifest_is_left_assigns_no_offset_again() {
    let dir = tempfile::tempdir().unwrap();
    drop(DataDir::open(dir.path()).unwrap());
    let fixture = Fixture::with(dir.path(), &small_segments());
    for values in [["a", "b"], ["c", "d"]] {
        fixture.append(plain(&values)).unwrap();
    }
    fixture.log.trim_blocking(Offset::new(3)).unwrap();
    drop(fixture);
    std::fs::remove_file(segment(dir.path(), 2)).unwrap();
    for _ in 0..2 {
        std::fs::remove_dir_all(dir.path().join("view")).unwrap();
        let fixture = Fixture::with(dir.path(), &small_segments());
        assert!(matches!(fixture.append(plain(&["e"])), Err(AppendError::Storage { .. })));
        let span = fixture.log.span();
        assert_eq!((span.start, span.end), (Offset::new(4), Offset::new(4)));
        drop(fixture);
        let reports: Vec<_> = verify::verify(&dir.path().join("logs")).unwrap().collect();
        let findings = &reports[0].as_ref().unwrap().findings;
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].next, Some(Offset::new(4)));
    }
    let at_rest = verify::AtRest::open(&DataDir::open(dir.path()).unwrap()).unwrap();
    assert_eq!(at_rest.repair(id(), false, &Progress::default()).unwrap().len(), 1);
    drop(at_rest);
    let fixture = Fixture::with(dir.path(), &small_segments());
    assert_eq!(fixture.append(plain(&["e"])).unwrap().base_offset, Offset::new(4));
}

#[test]
fn a_segment_ends_when_the_next_record_is_too_young_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    let config = LogConfig {
        segment_age_max: Some(Duration::from_millis(500)),
        ..(*fixture.log.config()).clone()
    };
    fixture.logs.configure(id().topic, "clicks", config);
    let at = |ms| {
        let record = NewRecord { timestamp: Timestamp(ms), ..NewRecord::default() };
        fixture.append(batch::encode(&[record], None)).unwrap();
    };
    at(1000);
    at(1500);
    at(900);
    let segments = |dir: &Path| {
        let names = files(dir).into_iter();
        names.filter(|name| name.ends_with(".log")).collect::<Vec<_>>()
    };
    assert_eq!(segments(dir.path()), [name(0)]);
    at(1501);
    at(2001);
    at(2002);
    assert_eq!(segments(dir.path()), [name(0), name(3), name(5)]);
    drop(fixture);
    // The age of the active segment is known after a restart.
    let fixture = Fixture::open(dir.path());
    fixture.logs.configure(
        id().topic,
        "clicks",
        LogConfig {
            segment_age_max: Some(Duration::from_millis(500)),
            ..(*fixture.log.config()).clone()
        },
    );
    let record = NewRecord { timestamp: Timestamp(2503), ..NewRecord::default() };
    fixture.append(batch::encode(&[record], None)).unwrap();
    assert_eq!(segments(dir.path()), [name(0), name(3), name(5), name(6)]);
}

#[test]
fn a_topic_may_ask_for_the_brokers_time_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::open(dir.path());
    assert_eq!(fixture.append(plain(&["a"])).unwrap().append_time, None);
    let config = LogConfig {
        timestamp_type: TimestampType::LogAppendTime,
        ..(*fixture.log.config()).clone()
    };
    fixture.logs.configure(id().topic, "clicks", config);
    let appended = fixture.append(plain(&["b", "c"])).unwrap();
    assert_eq!(appended.append_time, Some(Timestamp(1_000_000)));
    let read = fixture.read(0, Isolation::ReadUncommitted).records;
    let batches = records::decode(read, 1 << 20).unwrap();
    let times: Vec<i64> =
        batches.iter().flat_map(|batch| &batch.records).map(|record| record.timestamp.0).collect();
    assert_eq!(times, [1000, 1_000_000, 1_000_000]);
    let found = block_on_runtime(fixture.log.first_at_or_after(Timestamp(1001))).unwrap().unwrap();
    assert_eq!((found.offset, found.timestamp), (Offset::new(1), Timestamp(1_000_000)));
}
