//! A store of real files.

use rustix::fs::Advice;

use super::*;

fn object(base: u64) -> ObjectId {
    let topic = TopicId(Uuid::from_u128(7));
    let log = LogId { topic, partition: PartitionId(3) };
    ObjectId::appended(log, Offset::new(base))
}

#[test]
fn objects_are_appended_read_truncated_listed_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalRecordStore::open(dir.path(), Boot::default()).unwrap();
    assert!(store.list(object(0).log).unwrap() == Listing::default());
    store.append(object(0), 0, b"hello ").unwrap();
    let location = store.append(object(0), 6, b"world").unwrap();
    store.append(object(11), 0, b"next").unwrap();
    store.sync(object(0)).unwrap();
    assert_eq!(store.read(location).unwrap(), "world");
    assert_eq!(store.read(Location { length: 99, ..location }).unwrap(), "world");
    store.truncate(object(0), 5).unwrap();
    assert_eq!(store.list(object(0).log).unwrap().objects, [(object(0), 5), (object(11), 4)]);
    assert_eq!(store.logs().unwrap(), [object(0).log]);
    store.delete(object(0)).unwrap();
    store.delete(object(0)).unwrap();
    assert_eq!(store.list(object(0).log).unwrap().objects, [(object(11), 4)]);
    store.delete_log(object(0).log).unwrap();
    store.delete_log(object(0).log).unwrap();
    assert!(store.logs().unwrap().is_empty());
    assert_eq!(store.read(location).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_draft_is_seen_when_it_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalRecordStore::open(dir.path(), Boot::default()).unwrap();
    let log = object(0).log;
    store.append(object(0), 0, b"as it came").unwrap();
    let compacted = ObjectId { revision: 1, ..object(0) };
    store.append_draft(compacted, 0, b"left by an earlier try").unwrap();
    store.append_draft(compacted, 0, b"sho").unwrap();
    store.append_draft(compacted, 3, b"rt").unwrap();
    let listing = store.list(log).unwrap();
    assert_eq!((listing.objects, listing.drafts), (vec![(object(0), 10)], true));
    store.publish(compacted).unwrap();
    let listing = store.list(log).unwrap();
    assert_eq!(listing.objects, [(object(0), 10), (compacted, 5)]);
    assert!(!listing.drafts);
    let whole = Location { object: compacted, position: 0, length: 99 };
    assert_eq!(store.read(whole).unwrap(), "short");
    store.append_draft(ObjectId { revision: 2, ..object(0) }, 0, b"x").unwrap();
    store.discard_drafts(log).unwrap();
    assert!(!store.list(log).unwrap().drafts);
}

#[test]
fn files_unused_since_the_last_rest_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalRecordStore::open(dir.path(), Boot::default()).unwrap();
    store.append(object(0), 0, b"a").unwrap();
    store.append(object(1), 0, b"b").unwrap();
    store.rest();
    store.sync(object(1)).unwrap();
    assert_eq!(lock(&store.handles).files.len(), 2);
    store.rest();
    assert_eq!(lock(&store.handles).files.len(), 1);
    store.rest();
    assert!(lock(&store.handles).files.is_empty());
}

#[test]
fn files_in_use_stay_open_when_others_come() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalRecordStore::open(dir.path(), Boot::default()).unwrap();
    for base in 0..3 * OPEN_FILES_MAX as u64 {
        store.append(object(base), 0, b"a").unwrap();
        store.sync(object(7.min(base))).unwrap();
    }
    let handles = lock(&store.handles);
    assert!(handles.files.contains_key(&object(7)));
    assert!(!handles.files.contains_key(&object(8)));
    assert_eq!(handles.files.len(), OPEN_FILES_MAX);
    assert!(handles.turns.len() <= OPEN_FILES_MAX + 1);
}

#[test]
fn a_look_that_comes_once_reads_the_same_and_opens_nothing_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalRecordStore::open(dir.path(), Boot::default()).unwrap();
    let bytes: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    store.append(object(0), 0, &bytes).unwrap();
    store.sync(object(0)).unwrap();
    store.rest();
    store.rest();
    // Once as the cache has it, and twice without: what it read is dropped again.
    for is_cached in [true, false, false] {
        if !is_cached {
            let file = fs::File::open(store.path(object(0))).unwrap();
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        }
        for (position, length) in [(0, 300_000), (1, 70_000), (65_535, 4_097), (299_999, 10)] {
            let location = Location { object: object(0), position, length };
            let end = bytes.len().min(position as usize + length);
            assert!(store.read_once(location).unwrap() == bytes[position as usize..end]);
        }
    }
    assert!(lock(&store.handles).files.is_empty());
    store.delete(object(0)).unwrap();
    let location = Location { object: object(0), position: 0, length: 1 };
    assert_eq!(store.read_once(location).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.written_at(object(0)).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_file_deleted_while_it_is_opened_is_not_kept_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalRecordStore::open(dir.path(), Boot::default()).unwrap());
    let location = |base| Location { object: object(base), position: 0, length: 1 };
    for base in 0..300 {
        store.append(object(base), 0, b"a").unwrap();
        store.rest();
        store.rest();
        let reader = store.clone();
        let reading = std::thread::spawn(move || drop(reader.read(location(base))));
        store.delete(object(base)).unwrap();
        reading.join().unwrap();
        assert!(lock(&store.handles).files.is_empty(), "object {base}");
    }
}

#[test]
fn more_objects_than_handles_stay_readable() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalRecordStore::open(dir.path(), Boot::default()).unwrap().with_open_files(20);
    let count = 30;
    for base in 0..count {
        store.append(object(base), 0, &base.to_be_bytes()).unwrap();
    }
    assert_eq!(lock(&store.handles).files.len(), 20);
    for base in 0..count {
        let location = Location { object: object(base), position: 0, length: 8 };
        assert_eq!(store.read(location).unwrap()[..], base.to_be_bytes());
    }
}

#[test]
fn a_file_that_an_earlier_process_made_is_synced_with_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    // It was killed before it could sync what it had made.
    LocalRecordStore::open(dir.path(), Boot::default())
        .unwrap()
        .append(object(0), 0, b"a")
        .unwrap();
    let store = LocalRecordStore::open(dir.path(), Boot::default()).unwrap();
    store.append(object(0), 1, b"b").unwrap();
    let path = store.log_dir(object(0).log);
    fs::rename(&path, dir.path().join("elsewhere")).unwrap();
    // The handle is open, so only the directory is missed.
    assert_eq!(store.sync(object(0)).unwrap_err().kind(), ErrorKind::NotFound);
    fs::rename(dir.path().join("elsewhere"), &path).unwrap();
    store.sync(object(0)).unwrap();
}

#[test]
fn foreign_names_are_no_logs() {
    assert_eq!(parse_log_id("lost+found"), None);
    assert_eq!(parse_log_id(&object(0).log.to_string()), Some(object(0).log));
}
