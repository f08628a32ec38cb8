//! A record store that fails when told to, and loses what was not synced.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::time::Instant;

use super::*;
use crate::log::append::writer::{QUICK_WRITE_MAX, SLOW_WRITES_PAUSE};
use crate::log::object::manifest::Manifest;
use crate::log::object::record_store::{Listing, Location, ObjectId};
use crate::types::Offset;

mod changes;
mod cleaner;
mod reads;
mod syncs;

/// What the store is told to fail.
#[derive(Default)]
struct Faults {
    /// Every append, with this errno, after half of its bytes were written.
    append: Option<i32>,
    /// The append of this number, from 1, in the same way.
    nth_append: Option<(usize, i32)>,
    /// Appends asked for.
    appends: usize,
    /// Every write of a compaction, with this errno.
    draft: Option<i32>,
    /// Writes of compactions asked for.
    drafts: usize,
    /// Nothing of these logs can be read, with this errno.
    read: HashMap<LogId, i32>,
    /// The read of this number, from 1, and so many behind it come with a bit flipped in this byte.
    flip: Option<(usize, usize, usize)>,
    /// Reads asked for.
    reads: usize,
    /// Objects of which cached bytes were dropped.
    dropped: Vec<ObjectId>,
    /// No file can be opened, neither for an append nor to truncate after one.
    handles_gone: bool,
    /// Every sync, with this errno.
    sync: Option<i32>,
    /// The sync of this number, from 1, with this errno.
    nth_sync: Option<(usize, i32)>,
    /// Syncs asked for.
    syncs: usize,
    /// Every change of this kind.
    change: Option<(Change, Failure)>,
    /// Nothing of these logs can be listed, with this errno.
    list: HashMap<LogId, i32>,
    /// Which thread appended last.
    appended_by: Option<std::thread::ThreadId>,
    /// How much longer every append takes.
    delay: Duration,
    /// Length of each object that survives a power loss.
    synced: HashMap<ObjectId, u64>,
}

/// A change of the files of a log.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    Manifest,
    Delete,
    DeleteLog,
}

/// How a change fails.
#[derive(Clone, Copy, Debug)]
struct Failure {
    errno: i32,
    /// The change is made all the same.
    happens: bool,
}

struct FaultyStore {
    inner: LocalRecordStore,
    faults: Mutex<Faults>,
    /// While a test holds this, every sync waits.
    gate: Mutex<()>,
}

impl FaultyStore {
    fn open(dir: &Path) -> Arc<FaultyStore> {
        let inner = LocalRecordStore::open(&dir.join("logs"), Boot::default()).unwrap();
        Arc::new(FaultyStore { inner, faults: Mutex::default(), gate: Mutex::default() })
    }

    fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults.lock().unwrap());
    }

    fn handle(&self) -> io::Result<()> {
        match self.faults.lock().unwrap().handles_gone {
            true => Err(io::Error::from_raw_os_error(EMFILE)),
            false => Ok(()),
        }
    }

    fn fail_reads(&self, log: LogId, errno: i32) {
        self.faults.lock().unwrap().read.insert(log, errno);
    }

    fn readable(&self, log: LogId) -> io::Result<()> {
        match self.faults.lock().unwrap().read.get(&log) {
            Some(errno) => Err(io::Error::from_raw_os_error(*errno)),
            None => Ok(()),
        }
    }

    fn change(&self, kind: Change, make: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let faults = self.faults.lock().unwrap();
        let Some((_, Failure { errno, happens })) = faults.change.filter(|(it, _)| *it == kind)
        else {
            return make();
        };
        if happens {
            make()?;
        }
        Err(io::Error::from_raw_os_error(errno))
    }

    fn reads(&self) -> usize {
        self.faults.lock().unwrap().reads
    }

    fn syncs(&self) -> usize {
        self.faults.lock().unwrap().syncs
    }

    /// Waits until more than `syncs` syncs have begun. If the gate is held, the writer then waits in one.
    fn await_sync_after(&self, syncs: usize) {
        while self.syncs() == syncs {
            std::thread::yield_now();
        }
    }

    /// Cuts every object to its synced length.
    fn lose_power(&self) {
        let faults = self.faults.lock().unwrap();
        for log in self.inner.logs().unwrap() {
            for (object, _) in self.inner.list(log).unwrap().objects {
                let length = faults.synced.get(&object).copied().unwrap_or(0);
                self.inner.truncate(object, length).unwrap();
            }
        }
    }
}

impl RecordStore for FaultyStore {
    fn append(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<Location> {
        self.handle()?;
        let (errno, delay) = {
            let mut faults = self.faults.lock().unwrap();
            faults.appends += 1;
            faults.appended_by = Some(std::thread::current().id());
            let nth = faults.nth_append.filter(|(number, _)| *number == faults.appends);
            (faults.append.or(nth.map(|(_, errno)| errno)), faults.delay)
        };
        std::thread::sleep(delay);
        match errno {
            None => self.inner.append(object, position, bytes),
            Some(errno) => {
                self.inner.append(object, position, &bytes[..bytes.len() / 2])?;
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }

    fn read(&self, location: Location) -> io::Result<Bytes> {
        self.readable(location.object.log)?;
        let bytes = self.inner.read(location)?;
        let mut faults = self.faults.lock().unwrap();
        faults.reads += 1;
        match faults.flip {
            Some((first, more, byte)) if (first..=first + more).contains(&faults.reads) => {
                let mut flipped = bytes.to_vec();
                flipped[byte] ^= 1;
                Ok(flipped.into())
            }
            _ => Ok(bytes),
        }
    }

    fn drop_cached(&self, object: ObjectId) {
        self.set(|faults| faults.dropped.push(object));
        self.inner.drop_cached(object);
    }

    fn sync(&self, object: ObjectId) -> io::Result<()> {
        let mut number = 0;
        self.set(|faults| {
            faults.syncs += 1;
            number = faults.syncs;
        });
        let _passed = self.gate.lock().unwrap();
        let mut faults = self.faults.lock().unwrap();
        let nth = faults.nth_sync.filter(|(nth, _)| *nth == number).map(|(_, errno)| errno);
        if let Some(errno) = faults.sync.or(nth) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let objects = self.inner.list(object.log)?.objects;
        let length = objects.iter().find(|(other, _)| *other == object).map(|(_, l)| *l);
        faults.synced.insert(object, length.unwrap_or(0));
        self.inner.sync(object)
    }

    fn truncate(&self, object: ObjectId, length: u64) -> io::Result<()> {
        self.handle()?;
        self.inner.truncate(object, length)
    }

    fn delete(&self, object: ObjectId) -> io::Result<()> {
        self.change(Change::Delete, || self.inner.delete(object))
    }

    fn delete_log(&self, log: LogId) -> io::Result<()> {
        self.change(Change::DeleteLog, || self.inner.delete_log(log))
    }

    fn append_draft(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<()> {
        let mut faults = self.faults.lock().unwrap();
        faults.drafts += 1;
        match faults.draft {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => self.inner.append_draft(object, position, bytes),
        }
    }

    fn publish(&self, object: ObjectId) -> io::Result<()> {
        self.inner.publish(object)
    }

    fn discard_drafts(&self, log: LogId) -> io::Result<()> {
        self.inner.discard_drafts(log)
    }

    fn put_manifests(&self, manifests: &[(LogId, Manifest)]) -> Vec<(LogId, io::Error)> {
        let failed = manifests.iter().map(|(log, manifest)| {
            let put = || self.inner.put_manifest(*log, manifest.clone());
            self.change(Change::Manifest, put).map_err(|error| (*log, error))
        });
        failed.filter_map(Result::err).collect()
    }

    fn list(&self, log: LogId) -> io::Result<Listing> {
        match self.faults.lock().unwrap().list.get(&log) {
            Some(errno) => Err(io::Error::from_raw_os_error(*errno)),
            None => self.inner.list(log),
        }
    }

    fn rest(&self) {
        self.inner.rest();
    }

    fn logs(&self) -> io::Result<Vec<LogId>> {
        self.inner.logs()
    }
}

fn one_batch_per_segment() -> Config {
    config().starting_with(|it| it.log_segment_bytes = 100)
}

const ENOSPC: i32 = 28;
const EIO: i32 = 5;
const EMFILE: i32 = 24;

#[test]
fn a_full_disk_refuses_appends_keeps_reads_and_heals_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = Fixture::over(store.clone(), dir.path(), &config());
    // Also as the very first append, which creates the segment.
    for (n, value) in ["a", "b", "c"].into_iter().enumerate() {
        let batch = by(1, 0, n as i32, false, &[value]);
        store.set(|faults| faults.append = Some(ENOSPC));
        let refused = fixture.append(batch.clone());
        assert!(matches!(refused, Err(AppendError::Storage { .. })));
        assert_eq!(fixture.log.span().end, Offset::new(n as u64));
        store.set(|faults| faults.append = None);
        let stored = fixture.append(batch).unwrap();
        assert_eq!((stored.base_offset.get(), stored.duplicate), (n as u64, false));
    }
    assert_eq!(fixture.values(0), ["a", "b", "c"]);
    drop(fixture);
    let fixture = Fixture::open(dir.path());
    assert_eq!(fixture.values(0), ["a", "b", "c"]);
}

#[test]
fn a_lack_of_file_handles_refuses_appends_and_heals_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = Fixture::over(store.clone(), dir.path(), &config());
    fixture.append(by(1, 0, 0, false, &["a"])).unwrap();

    // No handle for the append: nothing was written. A truncation would need a handle, too.
    store.set(|faults| faults.handles_gone = true);
    let second = by(1, 0, 1, false, &["b"]);
    assert!(matches!(fixture.append(second.clone()), Err(AppendError::Storage { .. })));
    store.set(|faults| faults.handles_gone = false);

    // No handle for the sync: written, but neither acknowledged nor shown before it is synced.
    store.set(|faults| faults.sync = Some(EMFILE));
    assert!(matches!(fixture.append(second.clone()), Err(AppendError::Storage { .. })));
    assert_eq!(fixture.log.span().high_watermark, Offset::new(1));
    store.set(|faults| faults.sync = None);
    let stored = fixture.append(second).unwrap();
    assert_eq!((stored.base_offset.get(), stored.duplicate), (1, true));
    assert_eq!(fixture.values(0), ["a", "b"]);
}

#[test]
fn a_failed_write_fences_the_log_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = Fixture::over(store.clone(), dir.path(), &config());
    fixture.append(plain(&["a"])).unwrap();
    store.set(|faults| faults.append = Some(EIO));
    assert!(matches!(fixture.append(plain(&["b"])), Err(AppendError::Storage { .. })));
    store.set(|faults| faults.append = None);
    assert!(matches!(fixture.append(plain(&["b"])), Err(AppendError::Storage { .. })));
    assert_eq!(fixture.values(0), ["a"]);
    let other = LogId { partition: PartitionId(1), ..id() };
    let other = fixture.logs.open(other).unwrap();
    other.append_blocking(plain(&["x"]), synced()).unwrap();
}

#[test]
fn a_failed_sync_is_never_acknowledged_and_fences_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = Fixture::over(store.clone(), dir.path(), &config());
    fixture.append(plain(&["a"])).unwrap();
    store.set(|faults| faults.sync = Some(EIO));
    assert!(matches!(fixture.append(plain(&["b"])), Err(AppendError::Storage { .. })));
    assert_eq!(fixture.log.span().high_watermark, Offset::new(1));
    store.set(|faults| faults.sync = None);
    let syncs = store.syncs();
    assert!(matches!(fixture.append(plain(&["b"])), Err(AppendError::Storage { .. })));
    assert_eq!(store.syncs(), syncs, "a failed sync is not asked again");
    assert_eq!(fixture.values(0), ["a"]);
}

#[test]
fn the_largest_timestamp_is_that_of_a_published_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = Fixture::over(store.clone(), dir.path(), &config());
    let at = |ms: i64| {
        let record = NewRecord { timestamp: Timestamp(ms), ..NewRecord::default() };
        batch::encode(&[record], None)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let largest = || {
        let found = runtime.block_on(fixture.log.max_timestamp()).unwrap();
        found.map(|found| (found.timestamp.0, found.offset.get()))
    };
    fixture.append(at(7)).unwrap();
    fixture.append(at(5)).unwrap();
    assert_eq!(largest(), Some((7, 0)));
    let held = store.gate.lock().unwrap();
    let syncs = store.syncs();
    let unpublished = block_on(fixture.log.enqueue(at(9), synced()));
    store.await_sync_after(syncs);
    assert_eq!(largest(), Some((7, 0)));
    drop(held);
    block_on(unpublished).unwrap();
    assert_eq!(largest(), Some((9, 2)));
}

#[test]
fn a_failed_sync_of_a_full_segment_fails_everything_it_held() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = Fixture::over(store.clone(), dir.path(), &one_batch_per_segment());
    let held = store.gate.lock().unwrap();
    let first = block_on(fixture.log.enqueue(plain(&["a"]), synced()));
    store.await_sync_after(0);
    // Both are written in one cycle, and the second needs a new segment. Before that the segment of the
    // first is synced, which fails; a second sync would succeed.
    let second = block_on(fixture.log.enqueue(plain(&["b"]), synced()));
    let third = block_on(fixture.log.enqueue(plain(&["c"]), synced()));
    store.set(|faults| faults.nth_sync = Some((2, EIO)));
    drop(held);
    assert!(block_on(first).is_ok());
    assert!(matches!(block_on(third), Err(AppendError::Storage { .. })));
    assert!(matches!(block_on(second), Err(AppendError::Storage { .. })));
    assert_eq!((store.syncs(), fixture.log.span().high_watermark), (2, Offset::new(1)));
}

#[test]
fn power_loss_under_page_cache_durability_leaves_a_log_that_takes_appends() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let config = Config { durability: Durability::PageCache, ..one_batch_per_segment() };
    let fixture = Fixture::over(store.clone(), dir.path(), &config);
    for value in ["a", "b", "c"] {
        fixture.append(plain(&[value])).unwrap();
    }
    drop(fixture);
    store.lose_power();
    let fixture = Fixture::over(store, dir.path(), &config);
    assert_eq!(
        (fixture.values(0), fixture.values(1)),
        (vec!["a".to_owned()], vec!["b".to_owned()])
    );
    assert_eq!(fixture.append(plain(&["c"])).unwrap().base_offset, Offset::new(2));
}

#[test]
fn power_loss_takes_nothing_that_was_acknowledged_as_synced() {
    for segment_bytes in [150, 1 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let store = FaultyStore::open(dir.path());
        let config = config().starting_with(|it| it.log_segment_bytes = segment_bytes);
        let fixture = Fixture::over(store.clone(), dir.path(), &config);
        let written = AppendOptions { durable: Durable::Written, ..synced() };
        for n in 0..10 {
            fixture.append(by(1, 0, 2 * n, false, &["synced"])).unwrap();
            let batch = by(1, 0, 2 * n + 1, false, &["written"]);
            fixture.log.append_blocking(batch, written).unwrap();
        }
        let end = fixture.log.span().end;
        drop(fixture);
        store.lose_power();
        std::fs::remove_dir_all(dir.path().join("view")).unwrap();
        let fixture = Fixture::over(store, dir.path(), &config);
        // Only the last append was not followed by a sync.
        assert_eq!(fixture.log.span().end.get(), end.get() - 1);
        assert!(fixture.append(by(1, 0, 18, false, &["synced"])).unwrap().duplicate);
    }
}

#[test]
fn appends_that_need_no_disk_cause_no_sync() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let page_cache = Config { durability: Durability::PageCache, ..config() };
    let fixture = Fixture::over(store.clone(), dir.path(), &page_cache);
    fixture.append(plain(&["a"])).unwrap();
    assert_eq!((store.syncs(), fixture.values(0).len()), (0, 1));
    drop(fixture);
    let fixture = Fixture::over(store.clone(), dir.path(), &config());
    let syncs = store.syncs();
    let written = AppendOptions { durable: Durable::Written, ..synced() };
    fixture.log.append_blocking(plain(&["b"]), written).unwrap();
    assert_eq!((store.syncs(), fixture.values(0).len()), (syncs, 2));
}

#[test]
fn appends_that_arrive_during_a_sync_share_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = Fixture::over(store.clone(), dir.path(), &config());
    let held = store.gate.lock().unwrap();
    let mut pending = vec![block_on(fixture.log.enqueue(plain(&["0"]), synced()))];
    store.await_sync_after(0);
    for n in 1..100 {
        pending.push(block_on(fixture.log.enqueue(plain(&[&n.to_string()]), synced())));
    }
    assert_eq!(fixture.log.span().high_watermark, Offset::ZERO);
    drop(held);
    for (n, append) in pending.into_iter().enumerate() {
        assert_eq!(block_on(append).unwrap().base_offset, Offset::new(n as u64));
    }
    assert_eq!(store.syncs(), 2);
    assert_eq!(fixture.log.span().high_watermark, Offset::new(100));
}

#[test]
fn what_acks_1_was_told_can_be_asked_for_before_the_disk_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = Fixture::over(store.clone(), dir.path(), &config());
    let held = store.gate.lock().unwrap();
    let first = block_on(fixture.log.enqueue(plain(&["a"]), synced()));
    store.await_sync_after(0);
    // One cycle has both: the first is answered before the sync that the second waits for, which
    // here never comes.
    let written = AppendOptions { durable: Durable::Written, ..synced() };
    let second = block_on(fixture.log.enqueue(plain(&["b"]), written));
    let third = block_on(fixture.log.enqueue(plain(&["c"]), synced()));
    store.set(|faults| faults.nth_sync = Some((2, EIO)));
    drop(held);
    assert!(block_on(first).is_ok());
    assert_eq!(block_on(second).unwrap().last_offset, Offset::new(1));
    assert!(block_on(third).is_err());
    // An offset behind the high watermark has no records yet, but is not out of range.
    assert_eq!(fixture.log.span().high_watermark, Offset::new(1));
    assert_eq!(fixture.values(2), Vec::<String>::new());
}

#[test]
fn appends_that_need_no_disk_are_written_where_they_arrive_while_writing_is_quick() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = Fixture::over(store.clone(), dir.path(), &config());
    let is_by_us = |durable| {
        let options = AppendOptions { durable, ..synced() };
        fixture.log.append_blocking(plain(&["a"]), options).unwrap();
        store.faults.lock().unwrap().appended_by == Some(std::thread::current().id())
    };
    assert!((0..100).all(|_| !is_by_us(Durable::Synced)));
    // The writer thread may still hold the shard, or a write may have been slow; but not for ever.
    let deadline = Instant::now() + Duration::from_secs(60);
    let await_one_by_us = || {
        loop {
            let began = Instant::now();
            if is_by_us(Durable::Written) {
                return began;
            }
            assert!(began < deadline, "always written by the writer thread");
        }
    };
    await_one_by_us();
    // After a slow write, the next appends go to the writer thread for a while.
    store.set(|faults| faults.delay = 2 * QUICK_WRITE_MAX);
    let began = await_one_by_us();
    for _ in 0..10 {
        assert!(!is_by_us(Durable::Written) || began.elapsed() >= SLOW_WRITES_PAUSE);
    }
    store.set(|faults| faults.delay = Duration::ZERO);
    let end = fixture.log.span().end.get();
    assert_eq!(fixture.values(0).len() as u64, end);
}

#[test]
fn a_scrub_that_cannot_read_a_log_fences_it_and_goes_on_with_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let other = LogId { partition: PartitionId(1), ..id() };
    let fixture = Fixture::over(store.clone(), dir.path(), &config());
    fixture.append(plain(&["a"])).unwrap();
    let log = fixture.logs.open(other).unwrap();
    log.append_blocking(plain(&["b", "c"]), synced()).unwrap();
    // Missing file handles are no fault of the disk.
    store.fail_reads(id(), EMFILE);
    upkeep::scrub(&fixture.logs);
    assert!(fixture.logs.refusals().list().is_empty());
    store.fail_reads(id(), EIO);
    upkeep::scrub(&fixture.logs);
    let meter = &fixture.logs.inner.settings.meter;
    assert_eq!(meter.scrubbed_bytes.get(), 2 * log.size_bytes());
    assert_eq!(meter.damaged.get(), 0);
    assert!(matches!(fixture.append(plain(&["d"])), Err(AppendError::Storage { .. })));
    log.append_blocking(plain(&["e"]), synced()).unwrap();
}

#[test]
fn a_failed_sync_of_the_empty_segment_after_a_trim_fences_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = Fixture::over(store.clone(), dir.path(), &config());
    fixture.append(plain(&["a"])).unwrap();
    store.set(|faults| faults.sync = Some(EIO));
    let trimmed = fixture.log.trim_blocking(Offset::new(1));
    assert!(matches!(trimmed, Err(TrimError::Storage { .. })));
    store.set(|faults| faults.sync = None);
    // The next sync of that segment would succeed, and prove nothing.
    assert!(matches!(fixture.append(plain(&["b"])), Err(AppendError::Storage { .. })));
    assert_eq!(fixture.log.span().start, Offset::ZERO);
    assert_eq!(fixture.values(0), ["a"]);
}

#[test]
fn records_appended_after_a_trim_that_failed_half_way_are_kept_by_the_next_trim() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let fixture = Fixture::over(store.clone(), dir.path(), &config());
    fixture.append(plain(&["a"])).unwrap();
    store.set(|faults| faults.sync = Some(EMFILE));
    let trimmed = fixture.log.trim_blocking(Offset::new(1));
    assert!(matches!(trimmed, Err(TrimError::Storage { .. })));
    store.set(|faults| faults.sync = None);
    for value in ["b", "c", "d"] {
        fixture.append(plain(&[value])).unwrap();
    }
    assert_eq!(fixture.log.trim_blocking(Offset::new(2)).unwrap(), Offset::new(2));
    drop(fixture);
    let fixture = Fixture::over(store, dir.path(), &config());
    assert_eq!(fixture.values(2), ["c", "d"]);
    assert_eq!(fixture.append(plain(&["e"])).unwrap().base_offset, Offset::new(4));
}

#[test]
fn records_found_in_the_page_cache_are_synced_before_a_start_is_noted() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::open(dir.path());
    let config = Config { durability: Durability::PageCache, ..config() };
    let fixture = Fixture::over(store.clone(), dir.path(), &config);
    for value in ["a", "b", "c"] {
        fixture.append(plain(&[value])).unwrap();
    }
    drop(fixture);
    // The next broker finds it there, and notes a start behind some of it.
    let fixture = Fixture::over(store.clone(), dir.path(), &config);
    assert_eq!(fixture.log.trim_blocking(Offset::new(2)), Ok(Offset::new(2)));
    drop(fixture);
    store.lose_power();
    let fixture = Fixture::over(store, dir.path(), &config);
    assert_eq!(fixture.logs.refusals().list(), []);
    assert_eq!(fixture.values(2), ["c"]);
    assert_eq!(fixture.append(plain(&["d"])).unwrap().base_offset, Offset::new(3));
}
