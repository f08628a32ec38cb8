//! Reads that come damaged from a disk that holds the right bytes.

use super::*;

/// Bytes of a batch: its magic number, and one of its record.
const PLACES: [usize; 2] = [16, 65];

/// A log with one batch that only the disk has.
fn on_disk(dir: &Path) -> (Arc<FaultyStore>, Fixture) {
    let store = FaultyStore::open(dir);
    Fixture::over(store.clone(), dir, &config()).append(plain(&["a"])).unwrap();
    let fixture = Fixture::over(store.clone(), dir, &config());
    (store, fixture)
}

/// How many reads of the store the answer to a fetch takes.
fn reads() -> usize {
    let dir = tempfile::tempdir().unwrap();
    let (store, fixture) = on_disk(dir.path());
    store.set(|faults| faults.reads = 0);
    assert_eq!(fixture.values(0), ["a"]);
    store.reads()
}

#[test]
fn damage_that_is_gone_at_the_second_reading_is_counted_and_fences_no_log() {
    let last = reads();
    for number in 1..=last {
        for byte in PLACES {
            let dir = tempfile::tempdir().unwrap();
            let (store, fixture) = on_disk(dir.path());
            store.set(|faults| (faults.reads, faults.flip) = (0, Some((number, 0, byte))));
            assert_eq!(fixture.values(0), ["a"], "read {number}, byte {byte}");
            fixture.append(plain(&["b"])).unwrap();
            let meter = &fixture.log.shared.settings.meter;
            assert_eq!((meter.corrupt_reads.get(), meter.refusing.get()), (0, 0));
            let dropped = store.faults.lock().unwrap().dropped.len() as u64;
            assert_eq!(meter.reread_reads.get(), dropped, "read {number}, byte {byte}");
        }
    }
    // The last one of these reads is held against its CRC.
    let dir = tempfile::tempdir().unwrap();
    let (store, fixture) = on_disk(dir.path());
    store.set(|faults| (faults.reads, faults.flip) = (0, Some((last, 0, PLACES[1]))));
    assert_eq!(fixture.values(0), ["a"]);
    assert_eq!(fixture.log.shared.settings.meter.reread_reads.get(), 1);
}

#[test]
fn damage_that_stays_is_read_twice_and_fences_the_log() {
    for byte in PLACES {
        let dir = tempfile::tempdir().unwrap();
        let (store, fixture) = on_disk(dir.path());
        store.set(|faults| (faults.reads, faults.flip) = (0, Some((1, 1000, byte))));
        let met = fixture.log.read_blocking(request(0, Isolation::ReadUncommitted));
        assert!(matches!(met, Err(ReadError::Corrupt { .. })), "byte {byte}: {met:?}");
        assert!(!store.faults.lock().unwrap().dropped.is_empty());
        assert!(matches!(fixture.append(plain(&["b"])), Err(AppendError::Storage { .. })));
        let meter = &fixture.log.shared.settings.meter;
        assert_eq!((meter.corrupt_reads.get(), meter.reread_reads.get()), (1, 0));
        // A log that is known to be damaged is not read twice.
        store.set(|faults| faults.dropped.clear());
        let _ = fixture.log.read_blocking(request(0, Isolation::ReadUncommitted));
        assert!(store.faults.lock().unwrap().dropped.is_empty());
    }
}
