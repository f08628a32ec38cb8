//! Readers of bytes that are not in the page cache.

use rustix::fs::Advice;

use super::*;
use crate::log::object::record_store::{Location, ObjectId, Way};

const BATCHES: u64 = 60;

fn value(number: u64) -> String {
    format!("{number:03}").repeat(33_333 + number as usize)
}

/// A log of several segments that are not in the page cache, if the file system can do that.
fn cold(dir: &Path) -> Fixture {
    let config = config().starting_with(|it| it.log_segment_bytes = 3 << 20);
    let fixture = Fixture::with(dir, &config);
    for number in 0..BATCHES {
        fixture.append(plain(&[&value(number)])).unwrap();
    }
    fixture.logs.shutdown();
    drop(fixture);
    let fixture = Fixture::with(dir, &config);
    forget(&fixture, dir);
    fixture
}

fn objects(fixture: &Fixture) -> Vec<ObjectId> {
    fixture.log.shared.readable().segments.iter().map(|segment| segment.object).collect()
}

/// Drops the log from the page cache.
fn forget(fixture: &Fixture, dir: &Path) {
    for object in objects(fixture) {
        let file = File::open(segment(dir, object.base.get())).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    }
}

/// Reads the log from its start to its end as a consumer does.
fn consume(fixture: &Fixture, bytes_max: usize) {
    let mut next = 0;
    while next < BATCHES {
        let asked = ReadRequest { bytes_max, ..request(next, Isolation::ReadUncommitted) };
        let read = block_on_runtime(fixture.log.read(asked)).unwrap();
        for read in values(read.records) {
            assert!(read == value(next), "offset {next}");
            next += 1;
        }
    }
}

/// Whether the file system of the tests can read past the page cache and drop pages from it.
fn is_able(fixture: &Fixture) -> bool {
    let last = *objects(fixture).last().unwrap();
    let location = Location { object: last, position: 0, length: 1 << 20 };
    fixture.log.shared.settings.store.read_past(location).is_some_and(|(_, way)| way == Way::Past)
}

#[test]
fn the_first_reader_leaves_the_cache_as_it_is_and_the_second_one_fills_it() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = cold(dir.path());
    if !is_able(&fixture) {
        return;
    }
    consume(&fixture, 1 << 20);
    let shared = &fixture.log.shared;
    let objects = objects(&fixture);
    let middle = |object| Location { object, position: 1 << 20, length: 1 << 20 };
    for object in &objects[..objects.len() - 1] {
        assert!(shared.passed.has(*object, 1 << 20), "{object}");
        assert!(shared.settings.store.read_ready(middle(*object)).is_none(), "{object}");
    }
    consume(&fixture, 1 << 20);
    for object in &objects[..objects.len() - 1] {
        let cached = shared.settings.store.read_ready(middle(*object));
        assert!(cached.is_some_and(|bytes| bytes.len() == 1 << 20), "{object}");
    }
    // Bytes that are in the page cache are not read past it.
    let kept = shared.settings.store.read_past(middle(objects[0]));
    assert!(kept.is_some_and(|(_, way)| way == Way::Kept));
}

#[test]
fn cold_readers_get_the_same_bytes_whatever_they_ask_for() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = cold(dir.path());
    for bytes_max in [1, 250_000, 600_000, (1 << 20) - 1, 1 << 20, 2_500_000, 8 << 20] {
        forget(&fixture, dir.path());
        consume(&fixture, bytes_max);
    }
}

#[test]
fn a_segment_that_may_be_written_now_is_read_through_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = cold(dir.path());
    // By the clock of the tests it was written in the future.
    let last = *objects(&fixture).last().unwrap();
    let location = Location { object: last, position: 0, length: 1 << 20 };
    assert!(fixture.log.shared.bytes_past(location).is_none());
}

#[test]
fn a_flipped_bit_is_found_also_past_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = cold(dir.path());
    let path = segment(dir.path(), 0);
    let mut bytes = std::fs::read(&path).unwrap();
    // In the middle of the batch at offset 11.
    let at = (0..11).map(|number| plain(&[&value(number)]).len()).sum::<usize>() + 50_000;
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    for is_second in [false, true] {
        forget(&fixture, dir.path());
        let read = |from| {
            let asked =
                ReadRequest { bytes_max: 1 << 20, ..request(from, Isolation::ReadUncommitted) };
            block_on_runtime(fixture.log.read(asked))
        };
        // The first read takes what is before it, and the next one goes on where that ended.
        assert_eq!(values(read(5).unwrap().records).len(), 6, "second: {is_second}");
        let met = read(11);
        let next = Some(Offset::new(12));
        assert!(matches!(met, Err(ReadError::Corrupt { next: n, .. }) if n == next));
        assert_eq!(values(read(12).unwrap().records)[0], value(12));
    }
    assert_eq!(fixture.log.shared.settings.meter.corrupt_reads.get(), 2);
}
