//! Objects that are synced together, through the write-ahead log.

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};

use bytes::Bytes;

use super::{LocalRecordStore, SUFFIX, file_name, lock};
use crate::log::append::owner::out_of_handles;
use crate::log::format::batch::BatchHeader;
use crate::log::object::files::{File, Files};
use crate::log::object::record_store::{Listing, ObjectId, RecordStore, Together, Unsynced};
use crate::log::wal::{self, InPlace};
use crate::types::{IdHash, LogId, Offset};

/// If an object has this many bytes to sync, or more, they do not go through the write-ahead log.
const TOGETHER_BYTES_MAX: usize = 128 << 10;
/// Up to this many objects are synced one by one, and more with one sync of the whole file system, which also
/// writes back the files of other programs.
const SYNC_ONE_BY_ONE_MAX: usize = 512;

impl<F: Files> LocalRecordStore<F> {
    /// Replays the write-ahead log into the segments, durably; its last generation. Logs that it does
    /// not fit are told by `list`.
    pub(super) fn replay_wal(&self) -> io::Result<u64> {
        let (generation, misfits) = wal::replay(&self.files, &self.dir, self)?;
        if !misfits.is_empty() {
            // What is created from now on lacks nothing.
            let refused = self.logs()?.into_iter().filter_map(|log| Some((log, misfits.of(log)?)));
            lock(&self.replayed).refused = refused.collect();
        }
        Ok(generation)
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

    /// Syncs objects whose names are on the disk. One that was deleted has nothing to lose, once its
    /// name is gone for good: it would come back without what was synced elsewhere.
    pub(super) fn sync_in_place(&self, objects: &[ObjectId]) -> InPlace {
        let mut in_place = InPlace::default();
        if objects.len() > SYNC_ONE_BY_ONE_MAX {
            match self.file_system.sync_fs() {
                Ok(()) => return in_place,
                // The error does not say for which file.
                Err(_) => in_place.is_doubtful = true,
            }
        }
        let mut gone: HashSet<LogId> = HashSet::new();
        for object in objects {
            // By a handle of its own: the system tells of an error once for each.
            let synced = match self.files.open(&self.path(*object)) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let is_first = gone.insert(object.log);
                    if is_first { self.sync_removal(object.log) } else { Ok(()) }
                }
                opened => opened.and_then(|file| file.sync_data()),
            };
            match synced {
                Ok(()) => {}
                Err(error) if out_of_handles(&error) => in_place.is_put_off = true,
                Err(error) => {
                    lock(&self.failed).insert(*object);
                    in_place.failed.push((*object, error));
                }
            }
        }
        in_place
    }

    /// Makes what was removed of a log, or its removal, survive power loss.
    fn sync_removal(&self, log: LogId) -> io::Result<()> {
        match self.files.sync_dir(&self.log_dir(log)) {
            Err(error) if error.kind() == ErrorKind::NotFound => self.files.sync_dir(&self.dir),
            synced => synced,
        }
    }
}

/// What a start found in the write-ahead log.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// Up to where it held each log's batches.
    pub(super) promised: HashMap<LogId, Offset, IdHash>,
    /// Logs that lack acknowledged records, or may lack some, with the reason.
    pub(super) refused: HashMap<LogId, String, IdHash>,
}

impl Replayed {
    pub(super) fn forget(&mut self, log: LogId) {
        self.promised.remove(&log);
        self.refused.remove(&log);
    }
}

/// The offset after the last one of whole batches; `None` if there are none.
fn end_of(mut batches: &[u8]) -> Option<Offset> {
    let mut end = None;
    while let Ok(header) = BatchHeader::parse(batches) {
        end = Some(header.next_offset());
        batches = batches.get(header.bytes..).unwrap_or_default();
    }
    end
}

impl<F: Files> wal::Target for LocalRecordStore<F> {
    fn length(&self, object: ObjectId) -> io::Result<Option<u64>> {
        let name = file_name(object, SUFFIX);
        let entries = self.entries(object.log)?;
        Ok(entries.iter().find(|entry| entry.name == name).map(|entry| entry.bytes))
    }

    fn promised(&self, object: ObjectId, bytes: &Bytes) {
        if let Some(end) = end_of(bytes) {
            let promised = &mut lock(&self.replayed).promised;
            let known = promised.entry(object.log).or_default();
            *known = end.max(*known);
        }
    }

    /// A log is deleted as a whole, or goes on behind what was deleted, or holds it elsewhere.
    fn is_deleted(&self, object: ObjectId, bytes: &Bytes) -> io::Result<bool> {
        match self.files.list(&self.log_dir(object.log)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
            listed => drop(listed?),
        }
        let end = end_of(bytes).unwrap_or(object.base);
        let Listing { objects, start, .. } = self.list(object.log)?;
        let goes_on = |other: ObjectId| {
            other.base >= end || (other.base == object.base && other.revision > object.revision)
        };
        Ok(start.is_some_and(|start| start >= end) || objects.iter().any(|(o, _)| goes_on(*o)))
    }

    fn write_at(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(object, false)?.write_all_at(bytes, position)
    }

    fn sync_in_place(&self, objects: &[ObjectId]) -> InPlace {
        self.sync_in_place(objects)
    }

    fn keep_promises(&self) -> io::Result<()> {
        self.keep_promises()
    }
}
