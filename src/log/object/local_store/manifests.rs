//! Manifests as local files: `manifest` in a log's directory holds two slots of equal size. A manifest is written
//! over the slot that does not hold the newest durable one, so that a torn write leaves that one. A manifest that
//! outgrows its slot gets a larger file, by a rename.

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::{LocalRecordStore, lock};
use crate::log::object::buffers::BLOCK_BYTES;
use crate::log::object::files::{self, File, Files};
use crate::log::object::manifest::Manifest;
use crate::log::object::record_store::{Listing, ObjectId, RecordStore};
use crate::types::{IdHash, LogId, Offset};

/// The file's name.
pub(super) const NAME: &str = "manifest";
/// Its name while a larger one is made.
pub(super) const DRAFT_NAME: &str = "manifest.draft";
/// Bytes of a slot, unless a manifest is larger: enough for 200 segments.
const SLOT_BYTES_MIN: u64 = BLOCK_BYTES as u64;
/// A larger file is damaged: it would hold more than a million segments.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Up to this many manifests are synced one by one, and more with one sync of the whole file system.
const SYNC_ONE_BY_ONE_MAX: usize = 64;

/// What this process knows of the manifest file of each log that it has written to.
pub(super) type Known = Mutex<HashMap<LogId, Arc<Mutex<Slots>>, IdHash>>;

/// One manifest file.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Bytes of each slot; 0 until the file was looked at.
    slot_bytes: u64,
    /// The newest manifest known to be on the disk.
    durable: Option<Slot>,
    /// The newest manifest, maybe in the page cache only.
    newest: Option<Slot>,
    /// This process has written the newest one.
    is_own: bool,
    /// The file's name is not on the disk yet.
    is_new: bool,
    /// The log was deleted.
    is_deleted: bool,
}

/// Where a manifest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    index: usize,
    version: u64,
}

/// What a manifest file holds.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) manifest: Option<Manifest>,
    /// Something was written to the file, and no slot of it is whole.
    pub(super) is_damaged: bool,
    slot_bytes: u64,
    /// The slot of the newest one.
    slot: usize,
    /// The newest one has a higher log start than the one before.
    raises_start: bool,
}

impl<F: Files> LocalRecordStore<F> {
    fn manifest_path(&self, log: LogId) -> PathBuf {
        self.log_dir(log).join(NAME)
    }

    /// What the manifest file of a log holds, which has `length` bytes.
    pub(super) fn read_manifest(&self, log: LogId, length: u64) -> io::Result<Stored> {
        let path = self.manifest_path(log);
        let file = match self.with_handle(|| self.files.open(&path)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Stored::default()),
            opened => opened?,
        };
        if length > FILE_BYTES_MAX {
            return Ok(Stored { is_damaged: true, ..Stored::default() });
        }
        let mut bytes = vec![0; length as usize];
        let filled = files::fill(&mut bytes, 0, |rest, at| file.read_at(rest, at))?;
        bytes.truncate(filled);
        let slot_bytes = length / 2;
        let (first, second) = bytes.split_at(bytes.len().min(slot_bytes as usize));
        let slots = [first, second].map(Manifest::decode);
        let start_of =
            |slot: usize| slots[slot].as_ref().map_or(Offset::ZERO, |manifest| manifest.start);
        let newest = slots.iter().enumerate().filter(|(_, manifest)| manifest.is_some());
        let newest = newest.max_by_key(|(_, manifest)| manifest.as_ref().map(|m| m.version));
        Ok(match newest {
            Some((slot, manifest)) => Stored {
                manifest: manifest.clone(),
                is_damaged: false,
                slot_bytes,
                slot,
                raises_start: start_of(slot) > start_of(1 - slot),
            },
            None => {
                let is_damaged = bytes.iter().any(|byte| *byte != 0);
                Stored { is_damaged, slot_bytes, ..Stored::default() }
            }
        })
    }

    /// Adds the manifest file of a log, which has `length` bytes, to a listing.
    pub(super) fn list_manifest(
        &self,
        log: LogId,
        length: u64,
        listing: &mut Listing,
    ) -> io::Result<()> {
        let Stored { manifest, is_damaged, raises_start, .. } = self.read_manifest(log, length)?;
        if is_damaged {
            listing.manifest_fault = Some("neither of its copies is whole".to_owned());
        }
        listing.start = listing.start.max(manifest.as_ref().map(|manifest| manifest.start));
        listing.is_start_new = raises_start;
        listing.manifest = manifest;
        Ok(())
    }

    /// See `RecordStore::settle_manifest`.
    pub(super) fn make_manifest_durable(&self, log: LogId) -> io::Result<()> {
        let slots = self.slots(log);
        let mut slots = lock(&slots);
        if slots.slot_bytes == 0 {
            self.look_at_slots(log, &mut slots)?;
        }
        self.sync_manifest(log, &mut slots)
    }

    /// Keeps the manifests of the logs of some objects. If one cannot be kept, nothing is lost; but if its log
    /// loses its end later, a start may take that for a torn write.
    pub(super) fn keep_manifests_of(
        &self,
        objects: &[ObjectId],
        manifest: &dyn Fn(LogId) -> Option<Manifest>,
    ) {
        let logs: HashSet<LogId, IdHash> = objects.iter().map(|object| object.log).collect();
        let manifests = logs.into_iter().filter_map(|log| Some((log, manifest(log)?)));
        for (log, error) in self.keep_manifests(&manifests.collect::<Vec<_>>()) {
            tracing::warn!(%log, %error, "manifest was not written at a checkpoint of the write-ahead log");
        }
    }

    /// Begins the manifest file of a new log. Its name gets to the disk with that of the log's first segment.
    pub(super) fn begin_manifest(&self, log: LogId) -> io::Result<()> {
        let slots = self.slots(log);
        let mut slots = lock(&slots);
        if slots.slot_bytes == 0 { self.look_at_slots(log, &mut slots) } else { Ok(()) }
    }

    /// Notes that the names in a log's directory are on the disk.
    pub(super) fn manifest_is_entered(&self, log: LogId) {
        let slots = lock(&self.manifests).get(&log).cloned();
        if let Some(slots) = slots {
            lock(&slots).is_new = false;
        }
    }

    /// See `RecordStore::put_manifests`.
    pub(super) fn keep_manifests(
        &self,
        manifests: &[(LogId, Manifest)],
    ) -> Vec<(LogId, io::Error)> {
        let is_many = manifests.len() > SYNC_ONE_BY_ONE_MAX;
        let mut failed = Vec::new();
        if is_many {
            self.settle_many(manifests);
        }
        let mut written = Vec::with_capacity(manifests.len());
        for (log, manifest) in manifests {
            match self.write_manifest(*log, manifest) {
                Ok(Some(slots)) => written.push((*log, slots)),
                Ok(None) => {}
                Err(error) => failed.push((*log, error)),
            }
            if !is_many {
                failed.extend(self.sync_manifests(&mut written));
            }
        }
        if is_many {
            self.sync_fs_of(written.iter().map(|(_, slots)| slots));
            failed.extend(self.sync_manifests(&mut written));
        }
        failed
    }

    /// Looks at files that this process has not written to yet, and makes what they hold durable with one sync.
    fn settle_many(&self, manifests: &[(LogId, Manifest)]) {
        let mut unsettled = Vec::new();
        for (log, _) in manifests {
            let slots = self.slots(*log);
            let mut locked = lock(&slots);
            // Whoever writes to it looks again, and reports the error.
            if locked.slot_bytes == 0 && self.look_at_slots(*log, &mut locked).is_ok() {
                drop(locked);
                unsettled.push(slots);
            }
        }
        if !unsettled.is_empty() {
            self.sync_fs_of(unsettled.iter());
        }
    }

    /// Makes the newest manifest of each file durable, with one sync of the file system. If that fails, which
    /// may be because of any other file, each file is to be synced by itself. It has a handle of its own: the
    /// system reports a failed write once for each handle, and checkpoints of segments must learn of it.
    fn sync_fs_of<'a>(&self, slots: impl Iterator<Item = &'a Arc<Mutex<Slots>>>) {
        let newest: Vec<_> = slots.map(|slots| (slots, lock(slots).newest)).collect();
        if self.file_system_of_manifests.sync_fs().is_err() {
            return;
        }
        for (slots, newest) in newest {
            let mut slots = lock(slots);
            if slots.newest == newest {
                (slots.durable, slots.is_new) = (newest, false);
            }
        }
    }

    /// Syncs files one by one, as far as they need it; the errors.
    fn sync_manifests(
        &self,
        written: &mut Vec<(LogId, Arc<Mutex<Slots>>)>,
    ) -> Vec<(LogId, io::Error)> {
        let synced = written.drain(..).map(|(log, slots)| {
            let synced = self.sync_manifest(log, &mut lock(&slots));
            synced.map_err(|error| (log, error))
        });
        synced.filter_map(Result::err).collect()
    }

    fn slots(&self, log: LogId) -> Arc<Mutex<Slots>> {
        lock(&self.manifests).entry(log).or_default().clone()
    }

    /// Writes a manifest to the slot that may be overwritten, in the page cache. `None` if nothing is to be
    /// synced: the log is deleted, or the manifest is older than what is there.
    fn write_manifest(
        &self,
        log: LogId,
        manifest: &Manifest,
    ) -> io::Result<Option<Arc<Mutex<Slots>>>> {
        let shared = self.slots(log);
        let mut slots = lock(&shared);
        if slots.is_deleted {
            return Ok(None);
        }
        if slots.slot_bytes == 0 {
            match self.look_at_slots(log, &mut slots) {
                // The log was deleted meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    lock(&self.manifests).remove(&log);
                    return Ok(None);
                }
                looked => looked?,
            }
        }
        // Also what another process wrote, or another thread that is still at it: only one slot may be overwritten.
        self.sync_manifest(log, &mut slots)?;
        if let Some(newest) = slots.newest.filter(|newest| newest.version >= manifest.version) {
            return match slots.is_own {
                true => Ok(None),
                false => Err(io::Error::other(format!(
                    "version {} is there already, and this process knows nothing of it",
                    newest.version
                ))),
            };
        }
        let version = manifest.version;
        let encoded = manifest.encode();
        if encoded.len() as u64 > slots.slot_bytes {
            // If this fails, the file may be the one before or the new one: look at it again.
            let grown = std::mem::take(&mut *slots);
            *slots = Slots { is_deleted: grown.is_deleted, ..Slots::default() };
            let slot_bytes = self.grow_manifest(log, &encoded)?;
            let newest = Some(Slot { index: 0, version });
            *slots =
                Slots { slot_bytes, durable: newest, newest, is_own: true, ..Slots::default() };
            return Ok(None);
        }
        let index = slots.durable.map_or(0, |durable| 1 - durable.index);
        let path = self.manifest_path(log);
        let file = self.with_handle(|| self.files.open(&path))?;
        file.write_all_at(&encoded, slots.slot_bytes * index as u64)?;
        (slots.newest, slots.is_own) = (Some(Slot { index, version }), true);
        drop(slots);
        Ok(Some(shared))
    }

    /// Learns what there is of a log's manifest file, and begins one if there is none. The newest manifest is
    /// written again, unchanged: the process before may have been killed before it was synced, or its sync may
    /// have failed, and the system does not write such bytes by itself any more.
    fn look_at_slots(&self, log: LogId, slots: &mut Slots) -> io::Result<()> {
        let path = self.manifest_path(log);
        let entry = self.entries(log)?.into_iter().find(|entry| entry.name == NAME);
        let stored = entry.map(|entry| self.read_manifest(log, entry.bytes)).transpose()?;
        // As above, its name may not be on the disk.
        let is_new = true;
        let file = self.with_handle(|| self.files.create(&path))?;
        *slots = match stored {
            Some(Stored { manifest: Some(manifest), slot_bytes, slot: index, .. }) => {
                file.write_all_at(&manifest.encode(), slot_bytes * index as u64)?;
                let newest = Some(Slot { index, version: manifest.version });
                Slots { slot_bytes, newest, is_new, ..Slots::default() }
            }
            _ => {
                file.set_len(0)?;
                // Written, so that a manifest needs no more room when the disk is full.
                file.write_all_at(&[0; 2 * SLOT_BYTES_MIN as usize], 0)?;
                Slots { slot_bytes: SLOT_BYTES_MIN, is_new, ..Slots::default() }
            }
        };
        Ok(())
    }

    /// Puts a file with larger slots in the place of the one that is there, durably; the bytes of a slot.
    fn grow_manifest(&self, log: LogId, encoded: &[u8]) -> io::Result<u64> {
        let dir = self.log_dir(log);
        let draft = dir.join(DRAFT_NAME);
        let slot_bytes = (encoded.len() as u64).next_power_of_two().max(SLOT_BYTES_MIN);
        let file = self.with_handle(|| self.files.create(&draft))?;
        file.set_len(0)?;
        file.set_len(2 * slot_bytes)?;
        file.write_all_at(encoded, 0)?;
        file.sync_data()?;
        self.files.rename(&draft, &dir.join(NAME))?;
        self.with_handle(|| self.files.sync_dir(&dir))?;
        Ok(slot_bytes)
    }

    /// Makes the newest manifest durable, if it is not.
    fn sync_manifest(&self, log: LogId, slots: &mut Slots) -> io::Result<()> {
        let is_durable = slots.newest == slots.durable && !slots.is_new;
        if slots.newest.is_none() || is_durable {
            return Ok(());
        }
        let path = self.manifest_path(log);
        let file = self.with_handle(|| self.files.open(&path))?;
        if let Err(error) = file.sync_data() {
            // The system takes the slot for written from now on: it must be written again.
            slots.newest = slots.durable;
            if slots.durable.is_none() {
                slots.slot_bytes = 0;
            }
            return Err(error);
        }
        slots.durable = slots.newest;
        if slots.is_new {
            self.with_handle(|| self.files.sync_dir(&self.log_dir(log)))?;
            slots.is_new = false;
        }
        Ok(())
    }

    /// Raises the durable ends in the manifests of logs to what the write-ahead log has promised, before its
    /// files are emptied or set aside.
    pub(super) fn keep_promises(&self) -> io::Result<()> {
        let promised: Vec<(LogId, Offset)> =
            lock(&self.replayed).promised.iter().map(|(log, end)| (*log, *end)).collect();
        let mut raised = Vec::new();
        for (log, end) in promised {
            match self.files.list(&self.log_dir(log)) {
                // The log was deleted.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                listed => drop(listed?),
            }
            let listing = self.list(log)?;
            if listing.manifest.as_ref().is_none_or(|manifest| manifest.end < end) {
                raised.push((log, Manifest::raised(&listing, end)));
            }
        }
        match self.keep_manifests(&raised).pop() {
            Some((log, error)) => {
                Err(io::Error::new(error.kind(), format!("manifest of {log}: {error}")))
            }
            None => Ok(()),
        }
    }

    /// Writes no manifest of a log from now on, since it is being deleted.
    pub(super) fn end_manifest(&self, log: LogId) {
        lock(&self.slots(log)).is_deleted = true;
    }

    /// Forgets a log that was deleted.
    pub(super) fn forget_manifest(&self, log: LogId) {
        lock(&self.manifests).remove(&log);
    }
}

#[cfg(test)]
mod tests;
