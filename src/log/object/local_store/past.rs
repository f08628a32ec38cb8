//! Reads past the page cache (`O_DIRECT`): the disk copies whole blocks directly into the reader's memory.

use std::io::{self, ErrorKind};
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::LocalRecordStore;
use crate::log::object::buffers::{self, BLOCK_BYTES};
use crate::log::object::files::{File, Files};
use crate::log::object::record_store::{Location, RecordStore, Way};

/// A shorter read goes through the page cache: the reader will soon ask for the next bytes, which the kernel
/// has read ahead by then. Also, the buffers of shorter reads are not aligned.
pub(super) const BYTES_MIN: usize = buffers::BYTES_MIN;

impl<F: Files> LocalRecordStore<F> {
    /// See `RecordStore::read_past`.
    pub(super) fn past_cache(&self, location: Location) -> Option<(Bytes, Way)> {
        let is_refused = self.past_refused.load(Ordering::Relaxed);
        if is_refused || location.length < BYTES_MIN {
            return None;
        }
        if self.is_cached(location) {
            // Not with `read`: once the kernel reads ahead, all later bytes are found in the page cache
            // and none are read past it.
            return self.read_once(location).ok().map(|bytes| (bytes, Way::Kept));
        }
        match self.read_direct(location) {
            Ok(bytes) => (bytes.len() == location.length).then_some((bytes, Way::Past)),
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                if !self.past_refused.swap(true, Ordering::Relaxed) {
                    tracing::debug!(%error, "file system has no reads past its cache, cold reads fill it");
                }
                None
            }
            // The caller reads through the page cache instead, and reports the error of that read.
            Err(_) => None,
        }
    }

    /// The bytes at `location` from the disk itself, fewer only where the file ends.
    fn read_direct(&self, location: Location) -> io::Result<Bytes> {
        let Location { object, position, length } = location;
        let before = (position % BLOCK_BYTES as u64) as usize;
        let blocks = Location {
            position: position - before as u64,
            length: (before + length).next_multiple_of(BLOCK_BYTES),
            ..location
        };
        // Opened only for this read: no handle must be closed when the object is deleted.
        let file = self.files.open_direct(&self.path(object))?;
        let bytes = self.fill(blocks, |rest, at| match at % BLOCK_BYTES as u64 {
            0 => file.read_at(rest, at),
            // The read ended inside a block, which is the end of the file.
            _ => Ok(0),
        })?;
        Ok(bytes.slice(before.min(bytes.len())..(before + length).min(bytes.len())))
    }

    /// Whether the page cache seems to hold the bytes at `location`. It asks for three pages, at a quarter,
    /// a half and three quarters, since a single page proves little: to ask for a page that is absent brings
    /// it in. The first and the last page are not asked for: `locate` may have read the first ones to find a
    /// batch, and `read_ready` may have asked for the last one.
    fn is_cached(&self, location: Location) -> bool {
        let Ok(file) = self.file(location.object, false) else { return true };
        // If the file system cannot tell, the bytes count as cached.
        let is_absent = |read: io::Result<usize>| {
            read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
        };
        let quarter = location.length as u64 / 4;
        [2, 3, 1].iter().all(|quarters| {
            let position = location.position + quarters * quarter;
            !is_absent(file.read_ready_at(&mut [0], position))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::Advice;
    use uuid::Uuid;

    use super::*;
    use crate::log::boot::Boot;
    use crate::log::object::record_store::ObjectId;
    use crate::types::{LogId, Offset, PartitionId, TopicId};

    fn object(base: u64) -> ObjectId {
        let log = LogId { topic: TopicId(Uuid::from_u128(7)), partition: PartitionId(3) };
        ObjectId::appended(log, Offset::new(base))
    }

    #[test]
    fn reads_past_the_cache_are_the_same_at_any_place_and_at_the_end_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalRecordStore::open(dir.path(), Boot::default()).unwrap();
        let mut compared = 0;
        for bytes in [0, 1, 4_095, 4_096, 4_097, 1_300_001, 2 << 20] {
            let object = object(bytes);
            let bytes: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
            store.append(object, 0, &bytes).unwrap();
            for position in [0, 1, 511, 512, 4_095, 4_096, 4_097, 700_001, 1_300_000, 2 << 20] {
                for length in [BYTES_MIN, BYTES_MIN + 1, 600_000, 1 << 20, (1 << 20) + 1, 3 << 20] {
                    let location = Location { object, position, length };
                    let read = match store.read_direct(location) {
                        // Not on this file system: then not at any place.
                        Err(error) if error.kind() == ErrorKind::InvalidInput && compared == 0 => {
                            return;
                        }
                        read => read.unwrap(),
                    };
                    assert!(read == store.read(location).unwrap(), "{location:?}");
                    compared += 1;
                }
            }
        }
    }

    #[test]
    fn a_file_system_that_cannot_read_past_its_cache_is_asked_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalRecordStore::open(dir.path(), Boot::default()).unwrap();
        store.append(object(0), 0, &vec![7; 1 << 20]).unwrap();
        store.sync(object(0)).unwrap();
        let location = Location { object: object(0), position: 0, length: 1 << 20 };
        let kept = store.read_past(location);
        assert!(kept.is_some_and(|(bytes, way)| way == Way::Kept && bytes == vec![7; 1 << 20]));
        let file = fs::File::open(store.path(object(0))).unwrap();
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        store.past_refused.store(true, Ordering::Relaxed);
        assert_eq!(store.read_past(location), None);
        assert_eq!(store.read(location).unwrap(), vec![7; 1 << 20]);
    }
}
