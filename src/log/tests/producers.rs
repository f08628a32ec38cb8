//! How long producers are remembered: by live logs, and by those that recovery reads again.

use super::*;
use crate::log::append::producer::REMEMBERED_BATCHES;
use crate::log::upkeep;
use crate::store::ProducerEntry;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
const NOW: Timestamp = Timestamp(400 * DAY_MS);

fn open_at(dir: &Path, wall: Timestamp) -> (Fixture, Arc<ManualClock>) {
    let config = config().starting_with(|it| it.log_segment_bytes = 10_000);
    let view = Store::open(&dir.join("view")).unwrap();
    let clock = Arc::new(ManualClock::at(wall));
    let logs = dir.join("logs");
    let metrics = Metrics::default();
    let logs =
        Logs::start(&logs, Boot::default(), view, &config, clock.clone(), LeaderEpoch(3), &metrics)
            .unwrap();
    let log = logs.open(id()).unwrap();
    (Fixture { logs, log }, clock)
}

fn lose_view(dir: &Path) {
    std::fs::remove_dir_all(dir.join("view")).unwrap();
}

/// A batch of one record of a producer.
fn at(producer: i64, base_sequence: i32, transactional: bool, ms: i64) -> Bytes {
    let record = NewRecord { timestamp: Timestamp(ms), ..NewRecord::default() };
    let (id, epoch) = (ProducerId(producer), ProducerEpoch(0));
    batch::encode(&[record], Some(Producer { id, epoch, base_sequence, transactional }))
}

fn producers(fixture: &Fixture) -> Vec<i64> {
    let (reply, told) = oneshot::channel();
    fixture.log.shared.send(Command::Producers(id(), reply)).unwrap();
    let entries: Vec<ProducerEntry> = block_on(told).unwrap();
    let mut ids: Vec<i64> = entries.iter().map(|entry| entry.id.0).collect();
    ids.sort_unstable();
    ids
}

/// A log with one producer an hour for thirty days up to `NOW`, and one with an open transaction at
/// its beginning.
fn thirty_days(dir: &Path) {
    let (fixture, _) = open_at(dir, NOW);
    fixture.append(at(9_999, 0, true, NOW.0 - 30 * DAY_MS)).unwrap();
    for hour in 0..30 * 24 {
        fixture.append(at(hour, 0, false, NOW.0 - (30 * 24 - 1 - hour) * HOUR_MS)).unwrap();
    }
    fixture.logs.shutdown();
}

/// The producers of the last day of `thirty_days`, and the one with the transaction.
fn last_day() -> Vec<i64> {
    (29 * 24..30 * 24).chain([9_999]).collect()
}

#[test]
fn a_lost_view_brings_back_only_producers_of_the_last_day_and_open_transactions() {
    let dir = tempfile::tempdir().unwrap();
    thirty_days(dir.path());
    lose_view(dir.path());
    let (fixture, clock) = open_at(dir.path(), NOW);
    assert_eq!(producers(&fixture), last_day());
    // They are as old as their records, not as the start: half a day later half of them go.
    clock.advance(Duration::from_millis(12 * HOUR_MS as u64));
    upkeep::expire_producers(&fixture.logs.inner.open);
    assert_eq!(producers(&fixture), [&last_day()[12..], &[]].concat());
    // What is remembered is recognised, and what is not may begin anywhere.
    let last = 30 * 24 - 1;
    assert!(fixture.append(at(last, 0, false, NOW.0)).unwrap().duplicate);
    let skipped = fixture.append(at(last, 7, false, NOW.0));
    assert!(matches!(skipped, Err(AppendError::OutOfOrderSequence { .. })), "{skipped:?}");
    assert!(!fixture.append(at(3, 7, false, NOW.0)).unwrap().duplicate);
}

#[test]
fn a_kept_view_brings_back_no_more_than_a_lost_one_but_for_a_segment() {
    let dir = tempfile::tempdir().unwrap();
    thirty_days(dir.path());
    let (fixture, _) = open_at(dir.path(), NOW);
    let (back, expected) = (producers(&fixture), last_day());
    assert!(back.ends_with(&expected), "{back:?}");
    // A segment holds some 140 of the batches.
    assert!(back.len() < expected.len() + 150, "{} producers", back.len());
}

#[test]
fn a_wall_clock_that_is_wrong_at_the_start_makes_no_producer_unknown() {
    for ahead_ms in [-400 * DAY_MS, -DAY_MS, 0, DAY_MS, 10 * 365 * DAY_MS] {
        for view_survives in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            thirty_days(dir.path());
            if !view_survives {
                lose_view(dir.path());
            }
            let (fixture, clock) = open_at(dir.path(), Timestamp(NOW.0 + ahead_ms));
            let last = 30 * 24 - 1;
            // Sent again, as after a crash of the broker; and by a client with patience.
            for _ in 0..2 {
                let again = fixture.append(at(last, 0, false, NOW.0)).unwrap();
                assert!(again.duplicate, "{ahead_ms} ms ahead, view {view_survives}");
                clock.advance(Duration::from_secs(59 * 60));
                upkeep::expire_producers(&fixture.logs.inner.open);
            }
        }
    }
}

#[test]
fn whoever_writes_old_records_or_one_from_the_future_is_remembered_by_when_the_log_came_there() {
    for view_survives in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (fixture, _) = open_at(dir.path(), NOW);
        fixture.append(at(1, 0, false, NOW.0 - 40 * DAY_MS)).unwrap();
        fixture.append(at(2, 0, false, NOW.0 + 365 * DAY_MS)).unwrap();
        for n in 0..300 {
            fixture.append(at(3, n, false, NOW.0 - 20 * DAY_MS)).unwrap();
        }
        fixture.append(at(4, 0, false, NOW.0)).unwrap();
        // A year old, written now, as a copy of another topic would be.
        fixture.append(at(5, 0, false, NOW.0 - 365 * DAY_MS)).unwrap();
        fixture.logs.shutdown();
        drop(fixture);
        if !view_survives {
            lose_view(dir.path());
        }
        let (fixture, _) = open_at(dir.path(), NOW);
        let back = producers(&fixture);
        assert!(back.ends_with(&[4, 5]), "{back:?}");
        // Of a segment, the view knows only the time that it came to.
        assert_eq!(back.len(), if view_survives { 3 } else { 2 }, "{back:?}");
        assert!(fixture.append(at(5, 0, false, NOW.0 - 365 * DAY_MS)).unwrap().duplicate);
    }
}

#[test]
fn producers_of_records_without_a_time_count_as_heard_of_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let (fixture, _) = open_at(dir.path(), NOW);
    for n in 0..REMEMBERED_BATCHES as i32 {
        fixture.append(at(1, n, false, -1)).unwrap();
    }
    fixture.logs.shutdown();
    drop(fixture);
    lose_view(dir.path());
    let (fixture, clock) = open_at(dir.path(), NOW);
    clock.advance(Duration::from_millis(DAY_MS as u64 - 1));
    upkeep::expire_producers(&fixture.logs.inner.open);
    assert_eq!(producers(&fixture), [1]);
    clock.advance(Duration::from_millis(1));
    upkeep::expire_producers(&fixture.logs.inner.open);
    assert!(producers(&fixture).is_empty(), "also of a log that nobody appends to");
}
