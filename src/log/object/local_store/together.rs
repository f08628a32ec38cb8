//! Objects that are synced together, through the write-ahead log.

use std::io::{self, ErrorKind};

use super::{LocalRecordStore, SUFFIX, file_name, lock};
use crate::log::append::owner::out_of_handles;
use crate::log::object::files::{File, Files};
use crate::log::object::record_store::{ObjectId, Together, Unsynced};
use crate::log::wal::{self, InPlace};

/// If an object has this many bytes to sync, or more, they do not go through the write-ahead log.
const TOGETHER_BYTES_MAX: usize = 128 << 10;
/// Up to this many objects are synced one by one, and more with one sync of the whole file system, which also
/// writes back the files of other programs.
const SYNC_ONE_BY_ONE_MAX: usize = 512;

impl<F: Files> LocalRecordStore<F> {
    /// Replays the write-ahead log into the segments, durably; its last generation.
    pub(super) fn replay_wal(&self) -> io::Result<u64> {
        wal::replay(&self.files, &self.dir, self)
    }

    /// Replays what can be replayed, and gives up the rest: what was wrong.
    pub(in crate::log) fn repair_wal(&self) -> io::Result<Vec<String>> {
        wal::repair(&self.files, &self.dir, self)
    }

    #[cfg(test)]
    pub(in crate::log) fn wal(&self) -> Option<&wal::Wal<F>> {
        self.wal.as_ref()
    }

    /// How many appends the write-ahead log holds, and what is wrong with it.
    pub(in crate::log) fn pending(&self) -> io::Result<(u64, Vec<String>)> {
        wal::pending(&self.files, &self.dir)
    }

    /// See `RecordStore::sync_together`.
    pub(super) fn put_together(&self, writer: usize, unsynced: &[Unsynced]) -> Together {
        let Some(wal) = &self.wal else { return Together::default() };
        let mut done = {
            let entered = lock(&self.entered);
            // What is large is synced as quickly in its place, and written once only. Nor does the
            // write-ahead log keep names.
            let fits = |unsynced: &Unsynced| {
                unsynced.bytes() < TOGETHER_BYTES_MAX && entered.contains(&unsynced.object)
            };
            unsynced.iter().map(fits).collect::<Vec<bool>>()
        };
        let fitting: Vec<&Unsynced> = unsynced
            .iter()
            .zip(&done)
            .filter(|(_, fits)| **fits)
            .map(|(unsynced, _)| unsynced)
            .collect();
        if fitting.is_empty() {
            return Together::default();
        }
        let put = wal.put(writer, &fitting);
        if !put.is_done {
            done.clear();
        }
        Together { done, is_checkpoint_due: put.is_checkpoint_due }
    }

    /// Syncs objects whose names are on the disk. One that was deleted has nothing to lose.
    pub(super) fn sync_in_place(&self, objects: &[ObjectId]) -> InPlace {
        let mut in_place = InPlace::default();
        if objects.len() > SYNC_ONE_BY_ONE_MAX {
            match self.file_system.sync_fs() {
                Ok(()) => return in_place,
                // The error does not say for which file.
                Err(_) => in_place.is_doubtful = true,
            }
        }
        for object in objects {
            // By a handle of its own: the system tells of an error once for each.
            match self.files.open(&self.path(*object)).and_then(|file| file.sync_data()) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if out_of_handles(&error) => in_place.is_put_off = true,
                Err(error) => {
                    lock(&self.failed).insert(*object);
                    in_place.failed.push((*object, error));
                }
            }
        }
        in_place
    }
}

impl<F: Files> wal::Target for LocalRecordStore<F> {
    fn length(&self, object: ObjectId) -> io::Result<Option<u64>> {
        let name = file_name(object, SUFFIX);
        let entries = self.entries(object.log)?;
        Ok(entries.iter().find(|entry| entry.name == name).map(|entry| entry.bytes))
    }

    fn write_at(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(object, false)?.write_all_at(bytes, position)
    }

    fn sync_in_place(&self, objects: &[ObjectId]) -> InPlace {
        self.sync_in_place(objects)
    }
}
