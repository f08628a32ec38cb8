//! Logs that the write-ahead log does not fit: they refuse appends, and no other log does.

use super::power_loss::{Disk, Random};
use super::*;
use crate::log::data_dir::DataDir;
use crate::log::meter::wal_off;
use crate::log::object::files::Files;
use crate::log::object::record_store::{ObjectId, Unsynced};
use crate::log::wal::{DIR, WalConfig};
use crate::types::{Offset, Progress};

const WAL: WalConfig = WalConfig { writers: 1, file_bytes: 256 << 10, syncs_min: 1 };

/// A broker with two logs of different topics, which share a write-ahead log.
struct Pair {
    logs: Logs,
    one: Partition,
    other: Partition,
}

fn other() -> LogId {
    LogId { topic: TopicId(uuid::Uuid::from_u128(43)), ..id() }
}

impl Pair {
    fn start(dir: &Path) -> Pair {
        Pair::with(dir, &config())
    }

    fn with(dir: &Path, config: &Config) -> Pair {
        let view = Store::open(&dir.join("view")).unwrap();
        let metrics = Metrics::default();
        let store = LocalRecordStore::open(&dir.join("logs"), Boot::default()).unwrap();
        let store = Arc::new(store.with_wal(WAL, wal_off(&metrics).unwrap()));
        let clock = Arc::new(ManualClock::at(Timestamp(1_000_000)));
        let logs = Logs::over(store, view, config, clock, LeaderEpoch(3), &metrics).unwrap();
        let (one, other) = (logs.open(id()).unwrap(), logs.open(other()).unwrap());
        Pair { logs, one, other }
    }

    fn append(&self, value: &str) {
        for log in [&self.one, &self.other] {
            log.append_blocking(plain(&[value]), synced()).unwrap();
        }
    }

    /// Whether the first log refuses, with the reason, and that the other one does not.
    fn refused(&self) -> Option<String> {
        let list = self.logs.refusals().list();
        assert!(list.iter().all(|refusing| refusing.log == id()), "{list:?}");
        list.first().map(|refusing| refusing.refusal.to_string())
    }
}

/// Has the write-ahead log's files made, and appends to both logs until `to` values are there.
fn begun(dir: &Path) -> Pair {
    let pair = Pair::start(dir);
    for value in ["a", "b"] {
        pair.append(value);
    }
    // The checkpoint's thread makes the writer's files, the second one last.
    let last = dir.join("logs").join(DIR).join("0-b");
    let since = std::time::Instant::now();
    while !last.exists() {
        assert!(since.elapsed() < Duration::from_secs(120), "no write-ahead log was made");
        std::thread::sleep(Duration::from_millis(5));
    }
    pair.append("c");
    pair
}

fn all(log: &Partition) -> Vec<String> {
    values(log.read_blocking(request(0, Isolation::ReadUncommitted)).unwrap().records)
}

fn wal_files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("logs").join(DIR)).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_segment_that_was_set_back_makes_its_log_refuse_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let pair = begun(dir.path());
    let path = segment(dir.path(), 0);
    let old = std::fs::read(&path).unwrap();
    // What lies between is in the segments only: the write-ahead log goes on behind it.
    for value in ["d", "e"] {
        pair.append(value);
    }
    assert!(pair.logs.inner.settings.store.checkpoint(true, &|_| None).is_empty());
    pair.append("f");
    drop(pair);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &old).unwrap();
    for start in 0..3 {
        let pair = Pair::start(dir.path());
        let refused = pair.refused().unwrap();
        assert!(refused.contains("the write-ahead log goes on at byte"), "{refused}");
        let before = pair.other.span().end;
        assert_eq!(
            pair.other.append_blocking(plain(&["g"]), synced()).unwrap().base_offset,
            before
        );
        let error = pair.one.append_blocking(plain(&["g"]), synced()).unwrap_err();
        assert!(matches!(error, AppendError::Storage { .. }), "{error}");
        // Offsets that were acknowledged are not given out again, whatever comes next.
        assert_eq!(pair.one.span().end, Offset::new(6), "start {start}");
        assert_eq!(all(&pair.one), ["a", "b", "c"]);
        assert!(wal_files(dir.path()).iter().any(|name| name.starts_with("kept-")));
        drop(pair);
    }
    // The right file is put back: nothing is lost.
    std::fs::write(&path, &whole).unwrap();
    let pair = Pair::start(dir.path());
    assert_eq!(pair.refused(), None);
    assert_eq!(all(&pair.one), ["a", "b", "c", "d", "e", "f"]);
    assert_eq!(all(&pair.other), ["a", "b", "c", "d", "e", "f", "g", "g", "g"]);
    assert_eq!(pair.one.append_blocking(plain(&["h"]), synced()).unwrap().base_offset.get(), 6);
    assert!(!wal_files(dir.path()).iter().any(|name| name.starts_with("kept-")));
}

#[test]
fn offsets_that_a_repair_gives_up_with_a_file_of_the_write_ahead_log_are_not_given_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let pair = begun(dir.path());
    let path = segment(dir.path(), 0);
    let old = std::fs::read(&path).unwrap();
    for value in ["d", "e"] {
        pair.append(value);
    }
    assert!(pair.logs.inner.settings.store.checkpoint(true, &|_| None).is_empty());
    pair.append("f");
    drop(pair);
    std::fs::write(&path, &old).unwrap();
    std::fs::remove_dir_all(dir.path().join("view")).unwrap();
    let identity = "format = 4\ncluster_id = \"id\"\nleader_epoch = 4\n";
    std::fs::write(dir.path().join("ottla.toml"), identity).unwrap();
    let claim = DataDir::inspect(dir.path()).unwrap();
    let at_rest = verify::AtRest::open(&claim).unwrap();
    let told = at_rest.repair_wal().unwrap();
    assert!(told.iter().any(|told| told.contains("given-up-0")), "{told:?}");
    let mended = at_rest.repair(id(), false, &Progress::default()).unwrap();
    assert_eq!(mended.len(), 1, "{mended:?}");
    drop(at_rest);
    for offset in 6..8 {
        let pair = Pair::start(dir.path());
        assert_eq!(pair.refused(), None);
        let appended = pair.one.append_blocking(plain(&["x"]), synced()).unwrap();
        assert_eq!(appended.base_offset, Offset::new(offset));
    }
}

#[test]
fn a_newest_segment_that_is_gone_is_lost_and_not_deleted() {
    for has_older in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let pair = begun(dir.path());
        if has_older {
            let (reply, rolled) = oneshot::channel();
            pair.one.shared.send(Command::Roll(id(), reply)).unwrap();
            block_on(rolled).unwrap().unwrap();
        }
        for value in ["d", "e"] {
            pair.append(value);
        }
        drop(pair);
        let gone = segment(dir.path(), if has_older { 3 } else { 0 });
        let aside = dir.path().join("aside");
        std::fs::rename(&gone, &aside).unwrap();
        std::fs::remove_dir_all(dir.path().join("view")).unwrap();
        for _ in 0..2 {
            let pair = Pair::start(dir.path());
            let refused = pair.refused().unwrap();
            // Of its only segment, or of its newest.
            assert!(refused.contains("are gone") || refused.contains("is gone"), "{refused}");
            assert_eq!(pair.one.span().end, Offset::new(5));
            assert!(pair.one.append_blocking(plain(&["x"]), synced()).is_err());
        }
        std::fs::rename(&aside, &gone).unwrap();
        let pair = Pair::start(dir.path());
        assert_eq!(pair.refused(), None);
        assert_eq!(pair.one.span().end, Offset::new(5));
    }
}

#[test]
fn a_newest_segment_that_was_deleted_with_the_start_raised_is_no_loss() {
    let dir = tempfile::tempdir().unwrap();
    let pair = begun(dir.path());
    pair.append("d");
    assert_eq!(pair.one.trim_blocking(Offset::new(4)).unwrap(), Offset::new(4));
    drop(pair);
    let pair = Pair::start(dir.path());
    assert_eq!(pair.refused(), None);
    assert_eq!(pair.one.append_blocking(plain(&["x"]), synced()).unwrap().base_offset.get(), 4);
}

#[test]
fn damage_of_the_write_ahead_log_stops_no_log_that_goes_on_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let pair = begun(dir.path());
    pair.append("marked");
    // Of this log a later record goes on where it is.
    pair.other.append_blocking(plain(&["e"]), synced()).unwrap();
    drop(pair);
    let file = dir.path().join("logs").join(DIR).join("0-a");
    let mut bytes = std::fs::read(&file).unwrap();
    // Its first copy is the first log's last record; the other log has another one behind its own.
    let marked = bytes.windows(6).position(|window| window == b"marked").unwrap();
    bytes[marked] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    for _ in 0..2 {
        let pair = Pair::start(dir.path());
        let refused = pair.refused().unwrap();
        assert!(refused.contains("does not tell whose records it lost"), "{refused}");
        assert!(pair.one.append_blocking(plain(&["x"]), synced()).is_err());
        pair.other.append_blocking(plain(&["f"]), synced()).unwrap();
        // A log that is made now cannot lack anything.
        let new = LogId { topic: TopicId::random(), ..id() };
        pair.logs.open(new).unwrap().append_blocking(plain(&["y"]), synced()).unwrap();
    }
    bytes[marked] ^= 1;
    let kept = dir.path().join("logs").join(DIR).join("kept-0");
    std::fs::write(kept, &bytes).unwrap();
    let pair = Pair::start(dir.path());
    assert_eq!(pair.refused(), None);
    assert_eq!(all(&pair.one), ["a", "b", "c", "marked"]);
}

#[test]
fn a_removed_segment_does_not_come_back_behind_a_checkpoint() {
    for seed in 0..20 {
        let disk = Disk::new(Random::from(seed));
        let open = || {
            let store =
                LocalRecordStore::over(disk.clone(), Path::new(""), Boot::default()).unwrap();
            let small = WalConfig { file_bytes: 8 << 10, ..WAL };
            store.with_wal(small, wal_off(&Metrics::default()).unwrap())
        };
        let store = open();
        let object = ObjectId::appended(id(), Offset::ZERO);
        let next = ObjectId::appended(id(), Offset::new(9));
        let batch = plain(&["a"]);
        let length = batch.len() as u64;
        for object in [object, next] {
            store.append(object, 0, &batch).unwrap();
            store.sync(object).unwrap();
        }
        let append = |position: u64| {
            store.append(object, position, &batch).unwrap();
            store.sync_together(0, &[Unsynced { object, position, pieces: vec![batch.clone()] }])
        };
        append(length);
        store.checkpoint(false, &|_| None);
        // A record for each of the two files.
        assert_eq!([append(2 * length).done, append(3 * length).done], [[true], [true]]);
        store.delete(object).unwrap();
        assert!(store.checkpoint(false, &|_| None).is_empty());
        drop(store);
        disk.lose_power(false);
        let store = open();
        let listing = store.list(id()).unwrap();
        assert_eq!(listing.refused, None, "seed {seed}");
        assert_eq!(listing.objects, [(next, length)], "seed {seed}");
        let names = disk.list(Path::new(DIR)).unwrap();
        assert!(names.iter().all(|entry| !entry.name.starts_with("kept-")), "seed {seed}");
    }
}
