//! Disks whose syncs fail where a log needs them besides its appends.

use super::*;

/// A batch of which two do not fit one run.
fn large() -> Bytes {
    plain(&[&"x".repeat(600 << 10)])
}

/// What becomes of two large batches that are written in one cycle, if the second does not fit the
/// disk and the sync that takes it back fails with `errno`.
fn second_does_not_fit(
    store: &FaultyStore,
    fixture: &Fixture,
    errno: i32,
) -> [Result<Appended, AppendError>; 2] {
    let held = store.gate.lock().unwrap();
    let before = block_on(fixture.log.enqueue(plain(&["a"]), synced()));
    while store.syncs() == 0 {
        std::thread::yield_now();
    }
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
fn a_failed_sync_of_what_was_taken_back_is_not_asked_again_for_what_came_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = Fixture::over(store.clone(), dir.path(), &config());
    let [first, second] = second_does_not_fit(&store, &fixture, EIO);
    // The disk told of the loss once: asked again, it would say that all is well.
    assert!(matches!(first, Err(AppendError::Storage { .. })), "{first:?}");
    assert!(matches!(second, Err(AppendError::Storage { .. })), "{second:?}");
    assert_eq!((store.syncs(), fixture.log.span().high_watermark), (2, Offset::new(1)));
    assert!(matches!(fixture.append(plain(&["b"])), Err(AppendError::Storage { .. })));
}

#[test]
fn what_was_taken_back_without_a_file_handle_is_synced_with_the_next_append() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = Fixture::over(store.clone(), dir.path(), &config());
    let [first, second] = second_does_not_fit(&store, &fixture, EMFILE);
    assert_eq!(first.unwrap().base_offset, Offset::new(1));
    assert!(matches!(second, Err(AppendError::Storage { .. })), "{second:?}");
    assert_eq!(fixture.append(plain(&["b"])).unwrap().base_offset, Offset::new(2));
    assert_eq!(fixture.values(2), ["b"]);
}
