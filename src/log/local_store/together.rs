//! Objects that are synced together, through the redo log.

use std::io::{self, ErrorKind};

use super::{LocalRecordStore, SUFFIX, file_name, lock};
use crate::log::files::{File, Files};
use crate::log::record_store::{ObjectId, Together, Unsynced};
use crate::log::redo;

/// Bytes of one object from which on they are not synced together with others.
const TOGETHER_BYTES_MAX: usize = 128 << 10;
/// Objects up to which each is synced by itself, rather than the whole file system.
const SYNC_ONE_BY_ONE_MAX: usize = 32;

impl<F: Files> LocalRecordStore<F> {
    /// Puts what the redo log holds in its place, for good.
    pub(in crate::log) fn replay_redo(&self) -> io::Result<u64> {
        redo::replay(&self.files, &self.dir, self)
    }

    #[cfg(test)]
    pub(in crate::log) fn redo(&self) -> Option<&redo::Redo<F>> {
        self.redo.as_ref()
    }

    /// How many appends the redo log holds.
    pub(in crate::log) fn pending(&self) -> io::Result<u64> {
        redo::pending(&self.files, &self.dir)
    }

    /// See `RecordStore::sync_together`.
    pub(super) fn put_together(&self, writer: usize, unsynced: &[Unsynced]) -> Together {
        let Some(redo) = &self.redo else { return Together::default() };
        let mut done = {
            let entered = lock(&self.entered);
            // What is large is synced as quickly in its place, and written once only. Nor does the redo
            // log keep names.
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
        let put = redo.put(writer, &fitting);
        if !put.is_done {
            done.clear();
        }
        Together { done, is_settle_due: put.is_settle_due }
    }

    /// Syncs objects whose names are on the disk; those for which that failed, with the reason. One
    /// that was deleted has nothing to lose.
    pub(super) fn sync_all(&self, objects: &[ObjectId]) -> Vec<(ObjectId, io::Error)> {
        if objects.len() > SYNC_ONE_BY_ONE_MAX {
            let synced = self.file_system.sync_fs();
            // It does not say which file it failed for, so that any of them may have lost something.
            let failed = |error: io::Error| {
                let failure = |object| (object, io::Error::new(error.kind(), error.to_string()));
                objects.iter().copied().map(failure).collect()
            };
            return synced.err().map_or_else(Vec::new, failed);
        }
        let sync = |object: ObjectId| match self.file(object, false).and_then(|f| f.sync_data()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Some((object, error)),
            _ => None,
        };
        objects.iter().copied().filter_map(sync).collect()
    }
}

impl<F: Files> redo::Target for LocalRecordStore<F> {
    fn length(&self, object: ObjectId) -> io::Result<Option<u64>> {
        let name = file_name(object, SUFFIX);
        let entries = self.entries(object.log)?;
        Ok(entries.iter().find(|entry| entry.name == name).map(|entry| entry.bytes))
    }

    fn put_back(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(object, false)?.write_all_at(bytes, position)
    }

    fn settle_in_place(&self, objects: &[ObjectId]) -> io::Result<()> {
        match self.sync_all(objects).into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}
