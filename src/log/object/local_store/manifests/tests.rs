use super::*;
use crate::log::boot::Boot;
use crate::log::object::manifest::ManifestSegment;
use crate::log::object::record_store::RecordStore;
use crate::store::SegmentId;
use crate::types::{PartitionId, TopicId};

use std::fs;
use std::path::Path;

fn log(partition: u32) -> LogId {
    LogId { topic: TopicId(uuid::Uuid::from_u128(7)), partition: PartitionId(partition) }
}

fn open(dir: &Path) -> LocalRecordStore {
    LocalRecordStore::open(dir, Boot::default()).unwrap()
}

fn manifest(version: u64, segments: u64) -> Manifest {
    let id = |base| SegmentId { base: Offset::new(base), revision: 0 };
    let segments = (0..segments).map(|base| ManifestSegment { id: id(base), bytes: 9 }).collect();
    Manifest { version, end: Offset::new(10 * version), segments, ..Manifest::default() }
}

/// The store with a log that has a segment, and the path of its manifest.
fn begun(dir: &Path) -> (LocalRecordStore, PathBuf) {
    let store = open(dir);
    let object = ObjectId::appended(log(0), Offset::ZERO);
    store.append(object, 0, b"a").unwrap();
    store.sync(object).unwrap();
    let path = store.manifest_path(log(0));
    (store, path)
}

fn stored(store: &LocalRecordStore) -> Option<Manifest> {
    let listing = store.list(log(0)).unwrap();
    assert_eq!(listing.manifest_fault, None);
    listing.manifest
}

#[test]
fn the_newest_manifest_counts_and_a_torn_one_leaves_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, path) = begun(dir.path());
    assert_eq!(stored(&store), None, "the file has no manifest yet");
    for version in 1..=9 {
        store.put_manifest(log(0), manifest(version, 2)).unwrap();
        assert_eq!(stored(&store), Some(manifest(version, 2)));
        if version % 3 == 0 {
            // As another process finds it.
            store = open(dir.path());
            assert_eq!(stored(&store), Some(manifest(version, 2)));
        }
        let whole = fs::read(&path).unwrap();
        let older = [0, 4096].map(|at| Manifest::decode(&whole[at..]).map(|m| m.version));
        let newest = older.iter().position(|found| *found == Some(version)).unwrap();
        let mut torn = whole.clone();
        torn[newest * 4096 + 30] ^= 1;
        fs::write(&path, &torn).unwrap();
        let before = (version > 1).then(|| manifest(version - 1, 2));
        match before {
            Some(before) => assert_eq!(stored(&store), Some(before)),
            None => assert!(store.list(log(0)).unwrap().manifest_fault.is_some()),
        }
        fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn an_older_manifest_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = begun(dir.path());
    store.put_manifest(log(0), manifest(5, 1)).unwrap();
    store.put_manifest(log(0), manifest(4, 3)).unwrap();
    assert_eq!(stored(&store), Some(manifest(5, 1)));
    // By a process that has not read it: nothing may seem to be kept.
    let store = open(dir.path());
    assert!(store.put_manifest(log(0), manifest(5, 3)).is_err());
    assert_eq!(stored(&store), Some(manifest(5, 1)));
}

#[test]
fn a_manifest_that_outgrows_its_slot_gets_a_larger_file() {
    let dir = tempfile::tempdir().unwrap();
    let (store, path) = begun(dir.path());
    for (version, segments) in [(1, 1), (2, 1_000), (3, 999), (4, 100_000), (5, 2), (6, 3)] {
        store.put_manifest(log(0), manifest(version, segments)).unwrap();
        assert_eq!(stored(&store), Some(manifest(version, segments)));
        assert_eq!(stored(&open(dir.path())), Some(manifest(version, segments)));
    }
    assert!(fs::metadata(&path).unwrap().len() >= 2 * 2_000_000);
}

#[test]
fn manifests_of_many_logs_are_kept_at_once_and_a_deleted_log_gets_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let logs: Vec<LogId> = (0..SYNC_ONE_BY_ONE_MAX as u32 + 9).map(log).collect();
    for log in &logs {
        store.append(ObjectId::appended(*log, Offset::ZERO), 0, b"a").unwrap();
    }
    for version in 1..4 {
        let all: Vec<_> = logs.iter().map(|log| (*log, manifest(version, 1))).collect();
        assert!(store.put_manifests(&all).is_empty());
    }
    let slots = store.slots(logs[3]);
    let (newest, durable) = {
        let slots = lock(&slots);
        (slots.newest, slots.durable)
    };
    assert!(newest.is_some() && newest == durable);
    store.delete_log(logs[3]).unwrap();
    assert!(lock(&slots).is_deleted);
    assert!(store.put_manifest(logs[3], manifest(4, 1)).is_ok(), "it is gone, and stays so");
    let store = open(dir.path());
    for log in &logs {
        let expected = (*log != logs[3]).then(|| manifest(3, 1));
        assert_eq!(store.list(*log).unwrap().manifest, expected);
    }
}

#[test]
fn a_file_that_no_version_wrote_is_damaged_and_written_anew() {
    for length in [1, 4096, 8192, 20_000] {
        let dir = tempfile::tempdir().unwrap();
        let (store, path) = begun(dir.path());
        drop(store);
        fs::write(&path, vec![7; length]).unwrap();
        let store = open(dir.path());
        assert!(store.list(log(0)).unwrap().manifest_fault.is_some());
        store.put_manifest(log(0), manifest(1, 1)).unwrap();
        assert_eq!(stored(&open(dir.path())), Some(manifest(1, 1)));
    }
    let dir = tempfile::tempdir().unwrap();
    let (store, path) = begun(dir.path());
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(store.list(log(0)).unwrap().manifest_fault.is_some(), "it is not read into memory");
}
