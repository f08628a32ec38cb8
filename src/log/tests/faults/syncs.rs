//! Disks whose syncs fail where a log needs them besides its appends.

use super::*;

/// A batch of which two do not fit one run.
fn large() -> Bytes {
    plain(&[&"x".repeat(600 << 10)])
}

/// The outcomes of two large batches that are written in one cycle, if the second does not fit the disk
/// and the sync of its truncation fails with `errno`.
fn second_does_not_fit(
    store: &FaultyStore,
    fixture: &Fixture,
    errno: i32,
) -> [Result<Appended, AppendError>; 2] {
    let held = store.gate.lock().unwrap();
    let before = block_on(fixture.log.enqueue(plain(&["a"]), synced()));
    store.await_sync_after(0);
    let two = [large(), large()].map(|batch| block_on(fixture.log.enqueue(batch, synced())));
    store.set(|faults| {
        faults.nth_append = Some((3, ENOSPC));
        faults.nth_sync = Some((2, errno));
    });
    drop(held);
    assert!(block_on(before).is_ok());
    two.map(block_on)
}

#[test]
fn after_a_failed_sync_of_a_truncation_earlier_appends_are_not_synced_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = Fixture::over(store.clone(), dir.path(), &config());
    let [first, second] = second_does_not_fit(&store, &fixture, EIO);
    // The kernel reports a failed sync once: a second sync would succeed.
    assert!(matches!(first, Err(AppendError::Storage { .. })), "{first:?}");
    assert!(matches!(second, Err(AppendError::Storage { .. })), "{second:?}");
    assert_eq!((store.syncs(), fixture.log.span().high_watermark), (2, Offset::new(1)));
    assert!(matches!(fixture.append(plain(&["b"])), Err(AppendError::Storage { .. })));
}

#[test]
fn a_truncation_that_could_not_be_synced_for_want_of_a_file_handle_is_synced_with_the_next_append()
{
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = Fixture::over(store.clone(), dir.path(), &config());
    let [first, second] = second_does_not_fit(&store, &fixture, EMFILE);
    assert_eq!(first.unwrap().base_offset, Offset::new(1));
    assert!(matches!(second, Err(AppendError::Storage { .. })), "{second:?}");
    assert_eq!(fixture.append(plain(&["b"])).unwrap().base_offset, Offset::new(2));
    assert_eq!(fixture.values(2), ["b"]);
}

#[test]
fn a_start_that_is_raised_after_a_failed_sync_is_shown_to_readers() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = Fixture::over(store.clone(), dir.path(), &config());
    for value in ["a", "b", "c"] {
        fixture.append(plain(&[value])).unwrap();
    }
    store.set(|faults| faults.sync = Some(EIO));
    let to_the_end = || fixture.log.trim_blocking(Offset::new(3));
    assert!(matches!(to_the_end(), Err(TrimError::Storage { .. })));
    store.set(|faults| faults.sync = None);
    // The sync of the empty segment is not tried again; everything else is on the disk.
    let syncs = store.syncs();
    assert!(matches!(to_the_end(), Err(TrimError::Storage { .. })));
    assert_eq!(store.syncs(), syncs);
    assert_eq!(fixture.log.trim_blocking(Offset::new(2)), Ok(Offset::new(2)));
    let span = fixture.log.span();
    let offsets = [span.start, span.last_stable, span.high_watermark, span.end];
    assert_eq!(offsets.map(Offset::get), [2, 3, 3, 3]);
    let below = fixture.log.read_blocking(request(1, Isolation::ReadUncommitted));
    assert!(matches!(below, Err(ReadError::OutOfRange { .. })), "{below:?}");
    assert_eq!(fixture.values(2), ["c"]);
}

#[test]
fn what_was_on_the_disk_before_a_sync_failed_is_shown_to_readers() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = Fixture::over(store.clone(), dir.path(), &one_batch_per_segment());
    let held = store.gate.lock().unwrap();
    let first = block_on(fixture.log.enqueue(plain(&["a"]), synced()));
    store.await_sync_after(0);
    // One cycle: the second is synced when the third needs a new segment, which cannot be written.
    let second = block_on(fixture.log.enqueue(plain(&["b"]), synced()));
    let third = block_on(fixture.log.enqueue(plain(&["c"]), synced()));
    store.set(|faults| {
        faults.nth_append = Some((3, EIO));
        faults.nth_sync = Some((3, EIO));
    });
    drop(held);
    assert!(block_on(first).is_ok());
    assert_eq!(block_on(second).unwrap().base_offset, Offset::new(1));
    assert!(matches!(block_on(third), Err(AppendError::Storage { .. })));
    assert_eq!((store.syncs(), fixture.log.span().high_watermark), (3, Offset::new(2)));
    assert_eq!(fixture.values(1), ["b"]);
}

#[test]
fn what_could_not_be_synced_for_want_of_a_file_handle_counts_to_the_end_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = Fixture::over(store.clone(), dir.path(), &config());
    store.set(|faults| faults.sync = Some(EMFILE));
    assert!(matches!(fixture.append(plain(&["a"])), Err(AppendError::Storage { .. })));
    let span = fixture.log.span();
    assert_eq!((span.high_watermark, span.end), (Offset::ZERO, Offset::new(1)));
    store.set(|faults| faults.sync = None);
    assert_eq!(fixture.append(plain(&["b"])).unwrap().base_offset, Offset::new(1));
    assert_eq!(fixture.values(0), ["a", "b"]);
}
