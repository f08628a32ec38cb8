//! Logs at rest: retention, the scrub, and what a deletion leaves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::log::upkeep::periodic::Pace;
use crate::log::upkeep::scrub::Scrub;
use crate::types::Clock;

/// One batch per segment.
fn small_segments() -> Config {
    config().starting_with(|it| it.log_segment_bytes = 100)
}

fn clocked(dir: &Path, config: &Config, now: Timestamp) -> (Fixture, Arc<ManualClock>) {
    let store = Store::open(&dir.join("view")).unwrap();
    let clock = Arc::new(ManualClock::at(now));
    let logs = Logs::start(
        &dir.join("logs"),
        Boot::default(),
        store,
        config,
        clock.clone(),
        LeaderEpoch(3),
        &Metrics::default(),
    );
    let logs = logs.unwrap();
    let log = logs.open(id()).unwrap();
    (Fixture { logs, log }, clock)
}

fn keep(fixture: &Fixture, age_ms: Option<u64>, bytes_max: Option<u64>) {
    let retention = Some(Retention { age_max: age_ms.map(Duration::from_millis), bytes_max });
    let config = LogConfig { retention, ..(*fixture.log.config()).clone() };
    fixture.logs.configure(id().topic, "clicks", config);
}

fn append_at(fixture: &Fixture, ms: i64) {
    let record = NewRecord { timestamp: Timestamp(ms), ..NewRecord::default() };
    fixture.append(batch::encode(&[record], None)).unwrap();
}

fn start(fixture: &Fixture) -> u64 {
    fixture.log.span().start.get()
}

/// How many segments there are on the disk.
fn files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir.join(format!("logs/{}", id()))).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".log")).count()
}

/// One round of the scrub.
pub(super) fn scrub(logs: &Logs) {
    let pace = Pace::free();
    let (open, settings) = (logs.inner.open.clone(), logs.inner.settings.clone());
    Scrub::new(open, settings, u64::MAX).round(&pace);
}

fn damaged(fixture: &Fixture) -> u64 {
    fixture.logs.inner.settings.meter.damaged.get()
}

#[test]
fn old_segments_go_and_a_changed_bound_holds_at_the_next_look() {
    let dir = tempfile::tempdir().unwrap();
    let (fixture, _) = clocked(dir.path(), &small_segments(), Timestamp(1_000_000));
    for ms in [100_000, 500_000, 900_000] {
        append_at(&fixture, ms);
    }
    fixture.logs.apply_retention();
    assert_eq!(start(&fixture), 0, "nobody asked");
    keep(&fixture, Some(600_000), None);
    fixture.logs.apply_retention();
    assert_eq!((start(&fixture), files(dir.path())), (1, 2));
    let read = fixture.log.read_blocking(request(0, Isolation::ReadUncommitted));
    assert!(matches!(read, Err(ReadError::OutOfRange { .. })));
    keep(&fixture, Some(50_000), None);
    fixture.logs.apply_retention();
    assert_eq!((start(&fixture), files(dir.path())), (3, 1));
    assert_eq!(fixture.log.size_bytes(), 0);
    // Offsets continue, and nothing is left to delete.
    fixture.logs.apply_retention();
    append_at(&fixture, 990_000);
    assert_eq!(fixture.log.span().end, Offset::new(4));
    fixture.logs.apply_retention();
    assert_eq!(start(&fixture), 3);
    let meter = &fixture.logs.inner.settings.meter;
    assert_eq!(meter.expired_segments.get(), 3);
    drop(fixture);
    let fixture = Fixture::with(dir.path(), &small_segments());
    assert_eq!((start(&fixture), fixture.log.span().end.get()), (3, 4));
}

#[test]
fn a_segment_that_begins_without_a_time_ends_by_the_time_it_was_begun() {
    let dir = tempfile::tempdir().unwrap();
    let (fixture, clock) = clocked(dir.path(), &config(), Timestamp(1_000_000));
    let segment_age_max = Some(Duration::from_millis(500));
    let config = LogConfig { segment_age_max, ..(*fixture.log.config()).clone() };
    fixture.logs.configure(id().topic, "clicks", config);
    append_at(&fixture, -1);
    append_at(&fixture, 999_000);
    clock.advance(Duration::from_millis(500));
    append_at(&fixture, -1);
    assert_eq!(files(dir.path()), 1);
    clock.advance(Duration::from_millis(1));
    append_at(&fixture, -1);
    append_at(&fixture, 1_000_000);
    assert_eq!(files(dir.path()), 2);
    clock.advance(Duration::from_millis(501));
    append_at(&fixture, 1_001_000);
    assert_eq!(files(dir.path()), 3);
    // If the first record has a timestamp, a record without one never ends the segment.
    clock.advance(Duration::from_millis(501));
    append_at(&fixture, -1);
    assert_eq!(files(dir.path()), 3);
}

#[test]
fn a_log_is_kept_to_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let (fixture, _) = clocked(dir.path(), &small_segments(), Timestamp(1_000_000));
    for _ in 0..4 {
        append_at(&fixture, 1_000_000);
    }
    let segment_bytes = fixture.log.size_bytes() / 4;
    for (bytes_max, expected) in [
        (4 * segment_bytes, 0),
        (3 * segment_bytes + 1, 0),
        (3 * segment_bytes, 1),
        (segment_bytes, 3),
        (0, 4),
    ] {
        keep(&fixture, None, Some(bytes_max));
        fixture.logs.apply_retention();
        assert_eq!(start(&fixture), expected, "{bytes_max} bytes");
    }
    assert_eq!(files(dir.path()), 1);
}

#[test]
fn records_without_a_time_are_as_old_as_their_file() {
    const YEAR_2100: i64 = 4_102_444_800_000;
    for (now, expected) in [(1_000_000, 0), (YEAR_2100, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let (fixture, _) = clocked(dir.path(), &small_segments(), Timestamp(now));
        append_at(&fixture, -1);
        append_at(&fixture, -1);
        keep(&fixture, Some(1000), None);
        fixture.logs.apply_retention();
        assert_eq!(start(&fixture), expected, "at {now}");
    }
}

#[test]
fn a_transaction_marker_keeps_its_segment_as_long_as_a_record_of_its_time_would() {
    for restart in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (mut fixture, mut clock) = clocked(dir.path(), &config(), Timestamp(1_000_000));
        // The records carry a time long ago, the marker that of the broker.
        fixture.append(by(7, 0, 0, true, &["a"])).unwrap();
        fixture.end(7, 0, Marker::Commit).unwrap();
        if restart {
            fixture.logs.shutdown();
            drop(fixture);
            (fixture, clock) = clocked(dir.path(), &config(), Timestamp(1_000_000));
        }
        keep(&fixture, Some(500_000), None);
        fixture.logs.apply_retention();
        assert_eq!(start(&fixture), 0, "restart {restart}");
        clock.advance(Duration::from_millis(500_001));
        fixture.logs.apply_retention();
        assert_eq!(start(&fixture), 2);
    }
}

#[test]
fn a_clock_set_forward_or_back_expires_nothing_early() {
    const DAY_MS: i64 = 86_400_000;
    let now = 400 * DAY_MS;
    for jump_ms in [DAY_MS, 365 * DAY_MS, -DAY_MS, -365 * DAY_MS] {
        let dir = tempfile::tempdir().unwrap();
        let (fixture, clock) = clocked(dir.path(), &small_segments(), Timestamp(now));
        keep(&fixture, Some(DAY_MS as u64 / 2), None);
        append_at(&fixture, now);
        clock.set_wall(Timestamp(now + jump_ms));
        fixture.append(by(7, 0, 0, false, &["a"])).unwrap();
        // What the broker would stamp now.
        append_at(&fixture, clock.now().0);
        fixture.logs.apply_retention();
        assert_eq!(start(&fixture), 0, "{jump_ms} ms");
        let again = fixture.append(by(7, 0, 0, false, &["a"])).unwrap();
        assert!(again.duplicate, "producers are remembered by the monotonic clock");
        clock.set_wall(Timestamp(now));
        clock.advance(Duration::from_millis(DAY_MS as u64 / 2 + 1));
        fixture.logs.apply_retention();
        assert!(start(&fixture) > 0, "the first record is old enough now");
    }
}

#[test]
fn an_open_transaction_and_unread_records_go_no_further_than_whole_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (fixture, _) = clocked(dir.path(), &small_segments(), Timestamp(1_000_000));
    fixture.append(by(7, 0, 0, true, &["a", "b"])).unwrap();
    append_at(&fixture, 1_000_000);
    keep(&fixture, Some(1000), None);
    fixture.logs.apply_retention();
    let span = fixture.log.span();
    assert_eq!((span.start, span.last_stable), (Offset::new(2), Offset::new(2)));
    fixture.end(7, 0, Marker::Abort).unwrap();
    assert_eq!(fixture.log.span().last_stable, Offset::new(4));
}

#[test]
fn the_scrub_finds_each_damage_once_and_leaves_the_rest_readable() {
    // A byte of the payload, of the length, of the CRC and of the base offset.
    for at in [62, 10, 18, 7] {
        let dir = tempfile::tempdir().unwrap();
        let config = config().starting_with(|it| it.log_segment_bytes = 250);
        let fixture = Fixture::with(dir.path(), &config);
        // Three batches of a segment, two of the active one.
        for value in ["a", "b", "c", "d", "e"] {
            fixture.append(plain(&[value])).unwrap();
        }
        let batch = fixture.log.size_bytes() / 5;
        assert_eq!(files(dir.path()), 2);
        drop(fixture);
        // The new broker has nothing in memory.
        let fixture = Fixture::with(dir.path(), &config);
        scrub(&fixture.logs);
        assert_eq!(damaged(&fixture), 0);
        let scrubbed_bytes = fixture.logs.inner.settings.meter.scrubbed_bytes.get();
        assert_eq!(scrubbed_bytes, 5 * batch);
        assert!(fixture.logs.inner.settings.meter.scrub_ended.get() > 0.0);
        for (base, position) in [(0, batch), (3, batch)] {
            let path = segment(dir.path(), base);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[position as usize + at] ^= 0x40;
            std::fs::write(path, bytes).unwrap();
        }
        for _ in 0..2 {
            scrub(&fixture.logs);
            assert_eq!(damaged(&fixture), 2, "byte {at}");
        }
        let appended = fixture.append(plain(&["f"]));
        assert!(matches!(appended, Err(AppendError::Storage { .. })), "{appended:?}");
        let refusing = fixture.logs.refusals().list();
        assert!(refusing[0].refusal.reason.contains("damaged"), "{refusing:?}");
        assert_eq!(fixture.values(0), ["a"]);
        assert_eq!(fixture.values(2), ["c"]);
        assert_eq!(fixture.values(3), ["d"]);
        for (from, goes_on_at) in [(1, 2), (4, 5)] {
            let read = fixture.log.read_blocking(request(from, Isolation::ReadUncommitted));
            let Err(ReadError::Corrupt { offset, next, .. }) = read else { panic!("{read:?}") };
            assert_eq!((offset, next), (Offset::new(from), Some(Offset::new(goes_on_at))));
        }
    }
}

#[test]
fn a_segment_that_lost_its_end_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::with(dir.path(), &small_segments());
    for value in ["a", "b", "c"] {
        fixture.append(plain(&[value])).unwrap();
    }
    File::options().write(true).open(segment(dir.path(), 1)).unwrap().set_len(68).unwrap();
    scrub(&fixture.logs);
    assert_eq!(damaged(&fixture), 1);
    std::fs::remove_file(segment(dir.path(), 0)).unwrap();
    scrub(&fixture.logs);
    assert_eq!(fixture.logs.refusals().list().len(), 1);
}

#[test]
fn the_scrub_reports_no_damage_in_segments_that_change_under_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = config().starting_with(|it| it.log_segment_bytes = 2_000);
    let fixture = Fixture::with(dir.path(), &config);
    let other = LogId { topic: TopicId(uuid::Uuid::from_u128(43)), ..id() };
    let is_done = Arc::new(AtomicBool::new(false));
    let scrubbing = {
        let (logs, is_done) = (fixture.logs.clone(), is_done.clone());
        thread::spawn(move || {
            let mut rounds = 0;
            while !is_done.load(Ordering::Relaxed) {
                scrub(&logs);
                rounds += 1;
            }
            rounds
        })
    };
    for n in 0..300_u64 {
        fixture.append(plain(&["some", "values"])).unwrap();
        if n % 7 == 0 {
            fixture.log.trim_blocking(Offset::new(n)).unwrap();
        }
        if n % 10 == 0 {
            let log = fixture.logs.open(other).unwrap();
            log.append_blocking(plain(&["of a topic that is deleted"]), synced()).unwrap();
        }
        if n % 10 == 5 {
            fixture.logs.delete_topic(other.topic).unwrap();
        }
    }
    is_done.store(true, Ordering::Relaxed);
    assert!(scrubbing.join().unwrap() > 0);
    assert_eq!(damaged(&fixture), 0);
    assert!(fixture.logs.refusals().list().is_empty());
    fixture.append(plain(&["last"])).unwrap();
}

#[test]
fn the_scrub_reads_no_faster_than_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::with(dir.path(), &small_segments());
    for n in 0..50 {
        fixture.append(plain(&[&n.to_string()])).unwrap();
    }
    let bytes = fixture.log.size_bytes();
    for bytes_per_second in [100, 1_000] {
        let (open, settings) =
            (fixture.logs.inner.open.clone(), fixture.logs.inner.settings.clone());
        let rested =
            Pace::rests_of(|pace| Scrub::new(open, settings, bytes_per_second).round(pace));
        // What was read last may stay below what it rests for.
        let (most, least) = (bytes, bytes - bytes_per_second);
        let allowed = least as f64..=most as f64 + 1.0;
        let rested_for = rested.as_secs_f64() * bytes_per_second as f64;
        assert!(allowed.contains(&rested_for), "{rested_for} of {bytes} at {bytes_per_second}");
    }
}

#[test]
fn a_stop_interrupts_the_scrub() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        log_scrub_bytes_per_second: 1,
        log_initial_task_delay: Duration::ZERO,
        log_scrub_interval: Duration::from_millis(1),
        ..config()
    };
    let fixture = Fixture::with(dir.path(), &config);
    fixture.append(plain(&["a"])).unwrap();
    while fixture.logs.inner.settings.meter.scrubbed_bytes.get() == 0 {
        thread::yield_now();
    }
    // The scrub rests for more than a minute now; without an interrupt this would wait for it.
    fixture.logs.shutdown();
}

#[test]
fn a_deleted_topic_leaves_no_open_file() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::with(dir.path(), &small_segments());
    for n in 0..20 {
        fixture.append(plain(&[&n.to_string()])).unwrap();
    }
    drop(fixture);
    let fixture = Fixture::with(dir.path(), &small_segments());
    let readers: Vec<_> = (0..3)
        .map(|reader| {
            let (log, logs) = (fixture.log.clone(), fixture.logs.clone());
            thread::spawn(move || {
                for from in (0..20).cycle() {
                    if reader == 0 {
                        scrub(&logs);
                    }
                    let read = log.read_blocking(request(from, Isolation::ReadUncommitted));
                    if matches!(read, Err(ReadError::Deleted)) {
                        return;
                    }
                    read.unwrap();
                }
            })
        })
        .collect();
    fixture.logs.delete_topic(id().topic).unwrap();
    for reader in readers {
        reader.join().unwrap();
    }
    // The handle is still held.
    let logs = dir.path().join("logs");
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let open = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let is_below = |path: &PathBuf| path.starts_with(&logs) && *path != logs;
    let left: Vec<_> = open.filter(is_below).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(fixture.logs.on_disk().unwrap().is_empty());
    assert!(fixture.logs.refusals().list().is_empty());
}

#[test]
fn a_segment_of_the_brokers_own_time_ends_by_that_time_and_not_the_producers() {
    let dir = tempfile::tempdir().unwrap();
    let (fixture, clock) = clocked(dir.path(), &config(), Timestamp(1_000_000));
    let config = LogConfig {
        timestamp_type: TimestampType::LogAppendTime,
        segment_age_max: Some(Duration::from_secs(10)),
        ..(*fixture.log.config()).clone()
    };
    fixture.logs.configure(id().topic, "clicks", config);
    for ms in [i64::MAX, 5, i64::MAX] {
        append_at(&fixture, ms);
    }
    assert_eq!(files(dir.path()), 1);
    clock.advance(Duration::from_secs(11));
    append_at(&fixture, 5);
    assert_eq!(files(dir.path()), 2);
}

#[test]
fn a_writer_that_syncs_often_gets_a_redo_log_and_a_stop_leaves_it_empty() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { log_wal_bytes: 64 << 10, ..config() };
    let logs = dir.path().join("logs");
    let pending =
        || LocalRecordStore::existing(&logs, Boot::default()).unwrap().pending().unwrap().0;
    let fixture = Fixture::with(dir.path(), &config);
    let mut appended = 0;
    // Made by a thread of its own, so that it is not said when.
    while pending() == 0 {
        assert!(appended < 1_000_000, "no write-ahead log after so many");
        fixture.append(plain(&["a"])).unwrap();
        appended += 1;
    }
    assert!(appended > 200);
    // Often enough that its segments are checkpointed and its files written anew.
    for _ in 0..100 {
        fixture.append(plain(&["a"])).unwrap();
        appended += 1;
    }
    drop(fixture);
    assert!(pending() > 0);
    let fixture = Fixture::with(dir.path(), &config);
    assert_eq!(fixture.log.span().high_watermark, Offset::new(appended));
    fixture.append(plain(&["a"])).unwrap();
    fixture.logs.shutdown();
    assert_eq!(pending(), 0);
}
