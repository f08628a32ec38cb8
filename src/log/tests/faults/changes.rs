//! Disks that fail while a log is trimmed, deleted or opened.

use super::*;

/// Four segments of one batch each, all of them synced.
fn four_segments(store: &Arc<FaultyStore>, dir: &Path) -> Fixture {
    let fixture = Fixture::over(store.clone(), dir, &one_batch_per_segment());
    for value in ["a", "b", "c", "d"] {
        fixture.append(plain(&[value])).unwrap();
    }
    fixture
}

fn fail(store: &FaultyStore, change: Change, errno: i32, happens: bool) {
    store.set(|faults| faults.change = Some((change, Failure { errno, happens })));
}

fn heal(store: &FaultyStore) {
    store.set(|faults| {
        faults.change = None;
        faults.list.clear();
    });
}

/// Every value from the log's start on.
fn all(fixture: &Fixture) -> Vec<String> {
    let span = fixture.log.span();
    (span.start.get()..span.end.get()).map(|from| fixture.values(from)[0].clone()).collect()
}

#[test]
fn a_start_that_is_not_noted_is_not_raised_and_loses_nothing() {
    for (errno, happens) in [(ENOSPC, false), (EMFILE, true), (EIO, false), (EIO, true)] {
        let case = format!("errno {errno}, noted: {happens}");
        let dir = tempfile::tempdir().unwrap();
        let store = FaultyStore::open(dir.path());
        let fixture = four_segments(&store, dir.path());
        fail(&store, Change::Manifest, errno, happens);
        let trimmed = fixture.log.trim_blocking(Offset::new(2));
        assert!(matches!(trimmed, Err(TrimError::Storage { .. })), "{case}: {trimmed:?}");
        assert_eq!(all(&fixture), ["a", "b", "c", "d"], "{case}");
        heal(&store);
        // After a failure, a second attempt that succeeds is not believed.
        if errno == EIO {
            let again = fixture.log.trim_blocking(Offset::new(2));
            assert!(matches!(again, Err(TrimError::Storage { .. })), "{case}: {again:?}");
            let refused = fixture.append(plain(&["e"]));
            assert!(matches!(refused, Err(AppendError::Storage { .. })), "{case}: {refused:?}");
        }
        drop(fixture);
        let fixture = Fixture::over(store, dir.path(), &one_batch_per_segment());
        let start = if happens { 2 } else { 0 };
        assert_eq!(fixture.log.span().start, Offset::new(start), "{case}");
        assert_eq!(fixture.log.trim_blocking(Offset::new(2)), Ok(Offset::new(2)), "{case}");
        assert_eq!(fixture.append(plain(&["e"])).unwrap().base_offset, Offset::new(4), "{case}");
        assert_eq!(all(&fixture), ["c", "d", "e"], "{case}");
    }
}

#[test]
fn segments_that_cannot_be_deleted_stay_until_a_start_can() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let mut fixture = four_segments(&store, dir.path());
    fail(&store, Change::Delete, EIO, false);
    assert_eq!(fixture.log.trim_blocking(Offset::new(2)), Ok(Offset::new(2)));
    for (value, heals) in [("e", false), ("f", true)] {
        assert_eq!(store.list(id()).unwrap().objects[0].0.base, Offset::ZERO);
        assert_eq!(fixture.log.span().start, Offset::new(2));
        fixture.append(plain(&[value])).unwrap();
        drop(fixture);
        if heals {
            heal(&store);
        }
        fixture = Fixture::over(store.clone(), dir.path(), &one_batch_per_segment());
        let read = fixture.log.read_blocking(request(1, Isolation::ReadUncommitted));
        assert!(matches!(read, Err(ReadError::OutOfRange { .. })));
    }
    assert_eq!(store.list(id()).unwrap().objects[0].0.base, Offset::new(2));
    assert_eq!(all(&fixture), ["c", "d", "e", "f"]);
}

#[test]
fn a_topic_that_cannot_be_deleted_is_gone_for_clients_and_deleted_when_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = four_segments(&store, dir.path());
    fail(&store, Change::DeleteLog, EIO, false);
    assert!(matches!(fixture.logs.delete_topic(id().topic), Err(LogError::Io { .. })));
    assert_eq!(fixture.append(plain(&["e"])), Err(AppendError::Deleted));
    assert_eq!(fixture.logs.on_disk().unwrap(), [id()]);
    heal(&store);
    fixture.logs.delete_topic(id().topic).unwrap();
    assert!(fixture.logs.on_disk().unwrap().is_empty());
}

#[test]
fn a_log_that_cannot_be_listed_stays_closed_and_whole_and_stops_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let other = LogId { partition: PartitionId(1), ..id() };
    let fixture = four_segments(&store, dir.path());
    fixture.logs.open(other).unwrap().append_blocking(plain(&["x"]), synced()).unwrap();
    drop(fixture);
    store.set(|faults| {
        faults.list.insert(other, EIO);
    });
    let fixture = Fixture::over(store.clone(), dir.path(), &one_batch_per_segment());
    assert!(matches!(fixture.logs.open(other), Err(LogError::Io { .. })));
    fixture.logs.open_or_refuse(other);
    assert!(fixture.logs.partition(other).is_none());
    assert!(fixture.logs.refusals().has(other));
    fixture.append(plain(&["e"])).unwrap();
    drop(fixture);
    heal(&store);
    let fixture = Fixture::over(store, dir.path(), &one_batch_per_segment());
    assert_eq!(all(&fixture), ["a", "b", "c", "d", "e"]);
    let log = fixture.logs.open(other).unwrap();
    let read = log.read_blocking(request(0, Isolation::ReadUncommitted)).unwrap();
    assert_eq!(values(read.records), ["x"]);
    assert_eq!(log.append_blocking(plain(&["y"]), synced()).unwrap().base_offset, Offset::new(1));
}
