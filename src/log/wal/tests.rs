//! The write-ahead log below a store of real files.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::log::boot::Boot;
use crate::log::meter::wal_off;
use crate::log::object::files::Os;
use crate::log::object::local_store::LocalRecordStore;
use crate::log::object::record_store::{Location, RecordStore, Together};
use crate::metrics::Metrics;
use crate::types::{LogId, Offset, PartitionId, TopicId};

const FILE_BYTES: u64 = 32 << 10;
const CONFIG: WalConfig = WalConfig { writers: 2, file_bytes: FILE_BYTES, syncs_min: 1 };

fn gauge() -> IntGauge {
    wal_off(&Metrics::default()).unwrap()
}

fn object(partition: u32) -> ObjectId {
    let log = LogId { topic: TopicId::random(), partition: PartitionId(partition) };
    ObjectId::appended(log, Offset::ZERO)
}

fn open(dir: &Path, config: WalConfig) -> LocalRecordStore {
    LocalRecordStore::open(dir, Boot::default()).unwrap().with_wal(config, gauge())
}

/// A store whose first writer has its files, and two objects of four bytes that were synced.
fn begun() -> (TempDir, LocalRecordStore, [ObjectId; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), CONFIG);
    let objects = [object(0), object(1)];
    for object in objects {
        store.append(object, 0, b"1234").unwrap();
        store.sync(object).unwrap();
    }
    let first = store.sync_together(0, &[unsynced(objects[0], 4, b"x")]);
    assert_eq!((first.done.len(), first.is_checkpoint_due), (0, true), "there are no files yet");
    assert!(store.checkpoint(false, &|_| None).is_empty());
    (dir, store, objects)
}

fn unsynced(object: ObjectId, position: u64, bytes: &[u8]) -> Unsynced {
    Unsynced { object, position, pieces: vec![Bytes::copy_from_slice(bytes)] }
}

/// Appends to the objects and syncs that together.
fn append(store: &LocalRecordStore, objects: &[ObjectId], position: u64, bytes: &[u8]) -> Together {
    let unsynced = |object: &ObjectId| {
        store.append(*object, position, bytes).unwrap();
        self::unsynced(*object, position, bytes)
    };
    store.sync_together(0, &objects.iter().map(unsynced).collect::<Vec<Unsynced>>())
}

/// As a power loss may leave the objects' files.
fn lose(dir: &Path, objects: &[ObjectId], length: u64) {
    for object in objects {
        let path = dir.join(format!("{}/{:020}.log", object.log, object.base.get()));
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
    }
}

/// Flips a bit of a file of the write-ahead log.
fn flip(dir: &Path, name: &str, at: usize) {
    let path = dir.join(DIR).join(name);
    let mut file = fs::read(&path).unwrap();
    file[at] ^= 1;
    fs::write(&path, file).unwrap();
}

fn whole(store: &LocalRecordStore, object: ObjectId) -> Bytes {
    store.read(Location { object, position: 0, length: 1 << 20 }).unwrap()
}

#[test]
fn what_was_synced_together_is_replayed_once_by_the_next_start() {
    let (dir, store, objects) = begun();
    assert_eq!(append(&store, &objects, 4, b"five").done, [true, true]);
    assert_eq!(append(&store, &objects[..1], 8, b"six").done, [true]);
    drop(store);
    lose(dir.path(), &objects, 4);
    let looked_at = LocalRecordStore::existing(dir.path(), Boot::default()).unwrap();
    assert_eq!(looked_at.pending().unwrap(), (3, Vec::new()));
    assert!(looked_at.strangers().unwrap().is_empty());
    assert_eq!(looked_at.logs().unwrap().len(), 2);
    drop(looked_at);
    let store = open(dir.path(), CONFIG);
    assert_eq!(whole(&store, objects[0]), "1234fivesix");
    assert_eq!(whole(&store, objects[1]), "1234five");
    assert_eq!(store.pending().unwrap().0, 0);
    // The files are there already, and what is left in them is of no value.
    store.truncate(objects[0], 4).unwrap();
    store.sync(objects[0]).unwrap();
    store.sync(objects[1]).unwrap();
    assert_eq!(append(&store, &objects[1..], 8, b"!").done, [true]);
    drop(store);
    let store = open(dir.path(), CONFIG);
    assert_eq!(
        (whole(&store, objects[0]), whole(&store, objects[1])),
        ("1234".into(), "1234five!".into())
    );
}

#[test]
fn new_files_and_large_appends_are_left_to_their_own_sync() {
    let (_dir, store, objects) = begun();
    let new = object(7);
    store.append(new, 0, b"new").unwrap();
    let large = vec![7; 128 << 10];
    let asked = [
        unsynced(new, 0, b"new"),
        unsynced(objects[0], 4, b"small"),
        unsynced(objects[1], 4, &large),
    ];
    assert_eq!(store.sync_together(0, &asked).done, [false, true, false]);
    // More than a file holds, and a writer without files.
    let medium = vec![7; FILE_BYTES as usize];
    assert!(store.sync_together(0, &[unsynced(objects[0], 4, &medium)]).done.is_empty());
    assert!(store.sync_together(1, &asked).done.is_empty());
    assert!(store.sync_together(9, &asked).done.is_empty());
}

#[test]
fn a_file_is_written_anew_only_once_its_segments_are_checkpointed() {
    let (dir, store, objects) = begun();
    let bytes = vec![b'a'; 7000];
    let mut position = 4;
    let mut told = Vec::new();
    // Three records fit a file.
    for _ in 0..8 {
        let Together { done, is_checkpoint_due } = append(&store, &objects[..1], position, &bytes);
        told.push((done == [true], is_checkpoint_due));
        position += 7000;
    }
    let (done, due) = (|times| vec![(true, false); times], |times| vec![(true, true); times]);
    assert_eq!(told, [done(4), due(2), vec![(false, true); 2]].concat());
    store.sync(objects[0]).unwrap();
    assert!(store.checkpoint(false, &|_| None).is_empty());
    assert_eq!(append(&store, &objects[..1], position, &bytes).done, [true]);
    drop(store);
    // What was checkpointed survives a power loss in place: all else is replayed.
    lose(dir.path(), &objects[..1], position);
    let store = open(dir.path(), CONFIG);
    assert_eq!(whole(&store, objects[0]).len() as u64, position + 7000);
    assert!(store.checkpoint(true, &|_| None).is_empty());
}

/// Why a log may lack something, by what a start has found.
fn refused(store: &LocalRecordStore, object: ObjectId) -> Option<String> {
    store.list(object.log).unwrap().refused
}

#[test]
fn what_cannot_be_replayed_is_kept_for_every_start_until_it_can_or_is_given_up() {
    let (dir, store, objects) = begun();
    append(&store, &objects[..1], 4, b"lost");
    append(&store, &objects[1..], 4, b"kept");
    append(&store, &objects[..1], 8, b"behind");
    drop(store);
    lose(dir.path(), &objects, 4);
    flip(dir.path(), "0-a", BLOCK_BYTES + 85);
    for _ in 0..2 {
        let store = open(dir.path(), CONFIG);
        let reason = refused(&store, objects[0]).unwrap();
        assert!(reason.contains("goes on at byte 8"), "{reason}");
        assert_eq!(refused(&store, objects[1]), None, "a later record goes on where it is");
        assert_eq!(
            (whole(&store, objects[0]), whole(&store, objects[1])),
            ("1234".into(), "1234kept".into()),
            "what does not fit leaves no hole"
        );
    }
    let looked_at = LocalRecordStore::existing(dir.path(), Boot::default()).unwrap();
    let (pending, faults) = looked_at.pending().unwrap();
    assert_eq!((pending, faults.len()), (2, 1), "{faults:?}");
    assert!(faults[0].contains("kept-0: 1 records are damaged at byte 4096"), "{faults:?}");
    drop(looked_at);
    // The damage was of the kind that passes.
    flip(dir.path(), "kept-0", BLOCK_BYTES + 85);
    let store = open(dir.path(), CONFIG);
    assert_eq!(refused(&store, objects[0]), None);
    assert_eq!(
        (whole(&store, objects[0]), whole(&store, objects[1])),
        ("1234lostbehind".into(), "1234kept".into())
    );
    assert!(!dir.path().join(DIR).join("kept-0").exists());
    objects.iter().for_each(|object| store.sync(*object).unwrap());
    append(&store, &objects[..1], 14, b"x");
    assert!(store.checkpoint(false, &|_| None).is_empty());
    append(&store, &objects[..1], 14, b"again");
    append(&store, &objects[..1], 19, b"never");
    drop(store);
    lose(dir.path(), &objects[..1], 14);
    flip(dir.path(), "0-a", BLOCK_BYTES + 85);
    let repaired = LocalRecordStore::existing(dir.path(), Boot::default()).unwrap();
    let told = repaired.repair_wal().unwrap();
    assert!(told.iter().any(|told| told.contains("0-a is given-up-0 now")), "{told:?}");
    assert_eq!(whole(&repaired, objects[0]), "1234lostbehind", "it has no hole");
    assert!(repaired.repair_wal().unwrap().is_empty());
    drop(repaired);
    let store = open(dir.path(), CONFIG);
    assert!(dir.path().join(DIR).join("given-up-0").exists());
    assert_eq!(store.pending().unwrap(), (0, Vec::new()));
    assert_eq!(refused(&store, objects[0]), None);
}

#[test]
fn a_file_with_a_damaged_header_goes_by_its_first_record_or_may_concern_every_log() {
    let (dir, store, objects) = begun();
    append(&store, &objects, 4, b"five");
    append(&store, &objects, 8, b"six");
    drop(store);
    flip(dir.path(), "0-a", 20);
    flip(dir.path(), "0-a", BLOCK_BYTES + 85);
    lose(dir.path(), &objects, 4);
    for _ in 0..2 {
        let store = open(dir.path(), CONFIG);
        for object in objects {
            let reason = refused(&store, object).unwrap();
            assert!(reason.contains("its header and its first record are damaged"), "{reason}");
        }
        assert_eq!(refused(&store, object(9)), None, "it was not there");
    }
    flip(dir.path(), "kept-0", BLOCK_BYTES + 85);
    assert_eq!(whole(&open(dir.path(), CONFIG), objects[1]), "1234fivesix");
}

#[test]
fn a_torn_record_is_the_end_of_the_log() {
    let (dir, store, objects) = begun();
    append(&store, &objects, 4, b"five");
    append(&store, &objects, 8, b"torn");
    drop(store);
    flip(dir.path(), "0-a", 2 * BLOCK_BYTES + 85);
    lose(dir.path(), &objects, 4);
    assert_eq!(whole(&open(dir.path(), CONFIG), objects[0]), "1234five");
}

#[test]
fn replay_does_not_bring_deleted_segments_back() {
    let (dir, store, objects) = begun();
    append(&store, &objects, 4, b"five");
    let next = ObjectId { base: Offset::new(7), ..objects[0] };
    store.append(next, 0, b"").unwrap();
    store.sync(next).unwrap();
    store.delete(objects[0]).unwrap();
    store.delete_log(objects[1].log).unwrap();
    assert_eq!(store.pending().unwrap().0, 2);
    drop(store);
    let store = open(dir.path(), CONFIG);
    assert_eq!(store.list(objects[0].log).unwrap().objects, [(next, 0)]);
    assert_eq!(store.logs().unwrap(), [objects[0].log]);
    assert_eq!(refused(&store, next), None);
}

#[test]
fn a_failed_sync_in_place_keeps_the_files_of_every_writer() {
    let (dir, store, _) = begun();
    let off = gauge();
    let wal = Wal::open(&Os, dir.path(), CONFIG, 100, off.clone());
    let done = |_: &[ObjectId]| InPlace::default();
    let objects = [object(2), object(3)];
    for writer in [0, 1] {
        // The first writer has its files already.
        wal.put(writer, &[&unsynced(objects[writer], 0, b"?")]);
        assert!(wal.checkpoint(&Os, false, done).is_empty());
    }
    let asked = [unsynced(objects[0], 0, &[7; 20_000]), unsynced(objects[1], 0, &[7; 20_000])];
    for writer in [0, 0, 1, 1] {
        assert!(wal.put(writer, &[&asked[writer]]).is_done);
    }
    let put_off = |_: &[ObjectId]| InPlace { is_put_off: true, ..InPlace::default() };
    assert!(wal.checkpoint(&Os, false, put_off).is_empty());
    let full = wal.put(0, &[&asked[0]]);
    assert_eq!((full.is_done, full.is_checkpoint_due), (false, true), "it was not checkpointed");
    let fails = |objects: &[ObjectId]| InPlace {
        failed: vec![(objects[0], io::Error::other("a bad sector"))],
        ..InPlace::default()
    };
    let failed = wal.checkpoint(&Os, false, fails);
    assert_eq!(failed.iter().map(|(object, _)| *object).collect::<Vec<_>>(), objects[..1]);
    assert_eq!(off.get(), 2);
    // No later sync, of which the system says that all is well, may give the others up.
    assert!(wal.checkpoint(&Os, true, done).is_empty());
    assert!(!wal.put(1, &[&asked[1]]).is_done);
    wal.preserve();
    assert_eq!(off.get(), 2, "each is counted once");
    assert_eq!(store.pending().unwrap().0, 5);
}

#[test]
fn many_objects_are_checkpointed_at_once() {
    let (dir, store, _) = begun();
    let objects: Vec<ObjectId> = (10..590).map(object).collect();
    for object in &objects {
        store.append(*object, 0, b"1234").unwrap();
        store.sync(*object).unwrap();
    }
    assert_eq!(append(&store, &objects, 4, b"five").done, [true; 580]);
    store.delete(objects[7]).unwrap();
    assert!(store.checkpoint(true, &|_| None).is_empty());
    assert_eq!(store.pending().unwrap().0, 0);
    drop(store);
    assert_eq!(whole(&open(dir.path(), CONFIG), objects[579]), "1234five");
}

#[test]
fn a_stop_empties_the_files_and_files_of_another_size_are_removed() {
    let (dir, store, objects) = begun();
    append(&store, &objects, 4, b"five");
    assert!(store.checkpoint(true, &|_| None).is_empty());
    assert_eq!(store.pending().unwrap().0, 0);
    assert_eq!(append(&store, &objects, 8, b"six").done, [true, true]);
    assert_eq!(store.pending().unwrap().0, 2);
    drop(store);
    lose(dir.path(), &objects, 8);
    drop(open(dir.path(), WalConfig { file_bytes: 0, ..CONFIG }));
    assert_eq!(fs::read_dir(dir.path().join(DIR)).unwrap().count(), 0);
    assert_eq!(whole(&open(dir.path(), CONFIG), objects[0]), "1234fivesix");
}

#[test]
fn a_writer_gets_its_files_after_enough_syncs_of_single_logs() {
    let dir = tempfile::tempdir().unwrap();
    let config = WalConfig { syncs_min: 5, ..CONFIG };
    let wal = Wal::open(&Os, dir.path(), config, 0, gauge());
    let asked = [unsynced(object(0), 0, b"a"), unsynced(object(1), 0, b"b")];
    let due = |asked: &[&Unsynced]| wal.put(0, asked).is_checkpoint_due;
    let [first, second] = &asked;
    assert_eq!(
        [due(&[first, second]), due(&[first, second]), due(&[second])],
        [false, false, true]
    );
}

#[test]
fn files_of_a_writer_that_is_gone_are_replayed_and_removed() {
    let (dir, store, objects) = begun();
    assert!(store.sync_together(1, &[unsynced(objects[0], 4, b"five")]).is_checkpoint_due);
    assert!(store.checkpoint(false, &|_| None).is_empty());
    store.append(objects[0], 4, b"five").unwrap();
    assert_eq!(store.sync_together(1, &[unsynced(objects[0], 4, b"five")]).done, [true]);
    drop(store);
    lose(dir.path(), &objects[..1], 4);
    let store = open(dir.path(), WalConfig { writers: 1, ..CONFIG });
    assert_eq!(whole(&store, objects[0]), "1234five");
    assert!(!dir.path().join(DIR).join("1-a").exists());
}

#[test]
fn a_writer_whose_files_fail_syncs_each_log_by_itself() {
    let (dir, store, objects) = begun();
    append(&store, &objects, 4, b"five");
    let Some(wal) = store.wal() else { panic!("it has a write-ahead log") };
    if let State::With(pair) = &mut lock(&wal.wals[0]).state {
        pair.wal_files[0].file = fs::File::open(dir.path().join(DIR).join("0-a")).unwrap();
    }
    let failed = append(&store, &objects, 8, b"six");
    assert_eq!((failed.done.len(), failed.is_checkpoint_due), (0, false));
    assert!(append(&store, &objects, 8, b"six").done.is_empty());
    // What was promised before is still promised.
    drop(store);
    lose(dir.path(), &objects, 4);
    assert_eq!(whole(&open(dir.path(), CONFIG), objects[1]), "1234five");
}
