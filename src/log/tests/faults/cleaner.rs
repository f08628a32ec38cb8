//! Compactions that meet damage, a full disk or a busy writer.

use std::sync::mpsc;

use super::*;
use crate::log::tests::compaction::{Compacted, NOW, ROOM, keyed};
use crate::log::upkeep::clean::Cleaner;
use crate::log::upkeep::periodic::Pace;

const BACKOFF: Duration = Duration::from_secs(15);

/// Two sealed segments of one key, and one that is appended to.
fn dirty(store: &Arc<FaultyStore>, dir: &Path) -> Compacted {
    let log = Compacted::over(store.clone(), dir, NOW);
    for value in ["1", "2", "3"] {
        log.append(keyed(&[("a", Some(value)), ("a", Some(value))], None)).unwrap();
        log.append(keyed(&[("a", Some(value))], None)).unwrap();
        log.roll();
    }
    log
}

/// Runs a round; how many compactions have failed so far.
fn round(cleaner: &mut Cleaner) -> u64 {
    cleaner.round(&Pace::free());
    cleaner.meter.failures.get()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn damage_that_a_compaction_meets_is_reported_to_the_owner_and_not_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    drop(dirty(&store, dir.path()));
    // Nothing is in memory now.
    let log = Compacted::over(store.clone(), dir.path(), NOW);
    flip(&segment(dir.path(), 3), 62);
    let mut cleaner = log.logs.cleaner(ROOM, BACKOFF);
    assert_eq!(round(&mut cleaner), 1);

    let refusals = log.logs.refusals().list();
    let [refusing] = &refusals[..] else { panic!("{refusals:?}") };
    assert!(refusing.refusal.reason.contains("is damaged at byte 0"), "{refusing:?}");
    let refused = log.append(keyed(&[("b", None)], None)).unwrap_err().to_string();
    assert!(refused.contains("is damaged at byte 0"), "{refused}");
    assert_eq!(log.logs.inner.settings.meter.damaged.get(), 1);
    // Readers get the next readable offset, and can read behind the damage.
    let read = |from| log.log.read_blocking(request(from, Isolation::ReadUncommitted));
    let Err(ReadError::Corrupt { offset, next, .. }) = read(3) else { panic!() };
    assert_eq!((offset, next), (Offset::new(3), Some(Offset::new(5))));
    assert!(read(0).is_ok() && read(5).is_ok());

    // However much time passes, and also when somebody asks anew: nothing is read.
    store.fail_reads(id(), EIO);
    for cleaner in [&mut cleaner, &mut log.logs.cleaner(ROOM, BACKOFF)] {
        let before = round(cleaner);
        log.clock.advance(Duration::from_secs(86_400));
        assert_eq!(round(cleaner), before);
        assert_eq!(cleaner.meter.set_aside.get(), 1);
    }
    assert_eq!(log.logs.inner.settings.meter.damaged.get(), 1);
}

#[test]
fn a_segment_that_a_compaction_cannot_read_refuses_appends() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let log = dirty(&store, dir.path());
    store.fail_reads(id(), EIO);
    let mut cleaner = log.logs.cleaner(ROOM, BACKOFF);
    assert_eq!(round(&mut cleaner), 1);
    let refused = log.append(keyed(&[("b", None)], None)).unwrap_err().to_string();
    assert!(refused.contains("cannot be read at byte 0"), "{refused}");
}

#[test]
fn a_compaction_without_a_file_handle_waits_and_reports_no_disk_fault() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let log = dirty(&store, dir.path());
    store.fail_reads(id(), EMFILE);
    let mut cleaner = log.logs.cleaner(ROOM, BACKOFF);
    assert_eq!(round(&mut cleaner), 1);
    assert_eq!(round(&mut cleaner), 1, "it is not tried again at once");
    assert_eq!(cleaner.meter.set_aside.get(), 1);
    log.append(keyed(&[("b", None)], None)).unwrap();
    store.set(|faults| faults.read.clear());
    log.clock.advance(BACKOFF);
    assert_eq!((round(&mut cleaner), cleaner.meter.runs.get()), (1, 1));
    assert_eq!(cleaner.meter.set_aside.get(), 0);
}

#[test]
fn a_full_disk_is_filled_by_compactions_ever_more_seldom_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let log = dirty(&store, dir.path());
    // Another log that is due: it would fill the disk as well.
    let other = LogId { partition: PartitionId(1), ..id() };
    let other = log.logs.open(other).unwrap();
    for value in ["1", "2", "3", "4", "5", "6", "7", "8"] {
        other.append_blocking(keyed(&[("a", Some(value))], None), synced()).unwrap();
    }
    store.set(|faults| faults.draft = Some(ENOSPC));
    let mut cleaner = log.logs.cleaner(ROOM, BACKOFF);
    let mut attempts_at = Vec::new();
    // A look every 15 s for an hour, as the thread does it.
    for look in 0..240 {
        let before = store.faults.lock().unwrap().drafts;
        round(&mut cleaner);
        match store.faults.lock().unwrap().drafts - before {
            0 => {}
            drafts => {
                assert_eq!(drafts, 1, "one log's attempt is enough");
                attempts_at.push(look * 15);
            }
        }
        assert_eq!(cleaner.meter.waits_for_room.get(), 1);
        log.clock.advance(BACKOFF);
    }
    assert_eq!(attempts_at, [0, 15, 45, 105, 225, 465, 945, 1845, 2745]);
    assert_eq!(cleaner.meter.failures.get(), 9);

    store.set(|faults| faults.draft = None);
    log.clock.advance(60 * BACKOFF);
    round(&mut cleaner);
    assert_eq!((cleaner.meter.waits_for_room.get(), cleaner.meter.runs.get()), (0, 2));
    assert!(log.logs.refusals().list().is_empty());
}

#[test]
fn a_look_for_something_to_compact_waits_for_no_writer() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let log = dirty(&store, dir.path());
    log.compact();
    // The writer waits in a sync.
    let held = store.gate.lock().unwrap();
    let syncs = store.syncs();
    let pending = block_on(log.log.enqueue(keyed(&[("b", None)], None), synced()));
    store.await_sync_after(syncs);
    let (tell, told) = mpsc::channel();
    let logs = log.logs.clone();
    let look = std::thread::spawn(move || {
        let failures = logs.compact_now(ROOM);
        tell.send(failures).unwrap();
    });
    let failures = told.recv_timeout(Duration::from_secs(60));
    drop(held);
    look.join().unwrap();
    assert_eq!(failures, Ok(0));
    block_on(pending).unwrap();
}

#[test]
fn appends_share_their_sync_though_a_compaction_asks_for_the_producers_between_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let log = dirty(&store, dir.path());
    let append = |key| block_on(log.log.enqueue(keyed(&[(key, None)], None), synced()));
    let held = store.gate.lock().unwrap();
    let syncs = store.syncs();
    let first = append("a");
    store.await_sync_after(syncs);
    let second = append("b");
    let (reply, producers) = oneshot::channel();
    log.log.shared.send(Command::Producers(id(), reply)).unwrap();
    let third = append("c");
    drop(held);
    for pending in [first, second, third] {
        block_on(pending).unwrap();
    }
    assert!(block_on(producers).unwrap().is_empty());
    assert_eq!(store.syncs(), syncs + 2);
}
