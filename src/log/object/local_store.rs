//! Keeps objects as local files below `<topic uuid>-<partition>/`. Only this folder knows their paths. File
//! handles are opened on demand and kept in a bounded cache.
//!
//! ```text
//! 00000000000000000000.log          a segment by its base offset, as it was appended
//! 00000000000000000000-2.log        the same, compacted twice
//! 00000000000000000000-3.log.draft  the same, being compacted; useless after a crash
//! manifest                          where the log starts, and up to where it was on the disk
//! manifest.draft                    a larger one, being made
//! start-00000000000000000120        written by earlier versions: the log starts at offset 120 or later
//! 00000000000000000000.damaged-at-7040  bytes that a repair took out of the first, at byte 7040
//! ```
//!
//! Beside them, `redo/` holds the write-ahead log: appends that several logs synced together (`wal/`).

mod at_rest;
mod manifests;
mod past;
mod together;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use prometheus::IntGauge;
use uuid::Uuid;

use self::together::Replayed;
use super::buffers::Buffers;
use super::files::{self, Entry, File, Files, Os};
use super::manifest::Manifest;
use super::record_store::{Listing, Location, ObjectId, RecordStore, Together, Unsynced, Way};
use crate::log::append::owner::out_of_handles;
use crate::log::boot::Boot;
use crate::log::wal::{Wal, WalConfig};
use crate::types::{IdHash, LogId, Offset, PartitionId, Timestamp, TopicId};

/// Most files that are kept open by default; others are opened again when they are needed.
const OPEN_FILES_MAX: usize = 512;
/// `read_once` asks for each stretch of so many bytes whether it is in the page cache.
const ONCE_STEP_BYTES: usize = 64 << 10;
/// Most cached handles that are closed so that one file can be opened. More than one, because another thread
/// may take the handle that was freed.
const HANDLES_CLOSED_MAX: usize = 8;
const SUFFIX: &str = ".log";
const DRAFT_SUFFIX: &str = ".log.draft";
const START_PREFIX: &str = "start-";

/// A record store in the files below one directory, of the operating system or of a simulated disk.
pub struct LocalRecordStore<F: Files = Os> {
    files: F,
    dir: PathBuf,
    handles: Mutex<Handles<F::File>>,
    /// Files whose directory entries this process has synced. The process that created any other file may
    /// have been killed before it synced the entry.
    entered: Mutex<HashSet<ObjectId, IdHash>>,
    /// Logs whose directories this process has created, and whose entries it has not synced yet.
    made: Mutex<HashSet<LogId>>,
    buffers: Buffers,
    /// What is synced together.
    wal: Option<Wal<F>>,
    /// The highest generation of the write-ahead log that the replay found.
    wal_generation: u64,
    /// What the replay found in it.
    replayed: Mutex<Replayed>,
    manifests: manifests::Known,
    boot: Boot,
    /// Objects whose sync failed in a checkpoint.
    failed: Mutex<HashSet<ObjectId, IdHash>>,
    /// A handle through which the file system reports writes that failed since the start.
    file_system: F::File,
    /// The same, for the manifests.
    file_system_of_manifests: F::File,
    /// The file system cannot read past the page cache.
    past_refused: AtomicBool,
}

struct Handles<T> {
    /// With the tick of their last use.
    files: HashMap<ObjectId, (Arc<T>, u64), IdHash>,
    /// The order in which files are considered for closing, each with the tick of the use that is known
    /// there. Every open file is in here; files that are closed already may be, too.
    turns: VecDeque<(ObjectId, u64)>,
    tick: u64,
    /// The tick of the last call of `rest`.
    rested: u64,
    /// Most files that are kept open.
    files_max: usize,
}

impl LocalRecordStore {
    /// Opens a store over `dir`, which is created if it is absent.
    pub fn open(dir: &Path, boot: Boot) -> io::Result<LocalRecordStore> {
        create_dir(dir)?;
        LocalRecordStore::over(Os, dir, boot)
    }

    /// Opens a store over `dir`, which must exist. Does not replay the write-ahead log.
    pub fn existing(dir: &Path, boot: Boot) -> io::Result<LocalRecordStore> {
        fs::metadata(dir)?;
        LocalRecordStore::unsynced(Os, dir, boot)
    }
}

impl<F: Files> LocalRecordStore<F> {
    /// Opens a store over the directory `dir` of `files`, which must exist, and replays the write-ahead log.
    pub(in crate::log) fn over(
        files: F,
        dir: &Path,
        boot: Boot,
    ) -> io::Result<LocalRecordStore<F>> {
        // Sync the entries of all logs: the process that made them may have been killed before it did.
        files.sync_dir(dir)?;
        let mut store = LocalRecordStore::unsynced(files, dir, boot)?;
        store.wal_generation = store.replay_wal()?;
        Ok(store)
    }

    /// With a write-ahead log; `off` counts the writers that cannot use theirs any more.
    pub(in crate::log) fn with_wal(
        mut self,
        config: WalConfig,
        off: IntGauge,
    ) -> LocalRecordStore<F> {
        self.wal = Some(Wal::open(&self.files, &self.dir, config, self.wal_generation, off));
        self
    }

    /// Sets how many files are kept open at most.
    pub(in crate::log) fn with_open_files(self, files_max: usize) -> LocalRecordStore<F> {
        lock(&self.handles).files_max = files_max;
        self
    }

    fn unsynced(files: F, dir: &Path, boot: Boot) -> io::Result<LocalRecordStore<F>> {
        let file_system = files.open_dir(dir)?;
        let file_system_of_manifests = files.open_dir(dir)?;
        let handles = Handles {
            files: HashMap::default(),
            turns: VecDeque::new(),
            tick: 0,
            rested: 0,
            files_max: OPEN_FILES_MAX,
        };
        Ok(LocalRecordStore {
            files,
            dir: dir.to_owned(),
            handles: Mutex::new(handles),
            entered: Mutex::default(),
            made: Mutex::default(),
            buffers: Buffers::default(),
            wal: None,
            wal_generation: 0,
            replayed: Mutex::default(),
            manifests: manifests::Known::default(),
            boot,
            failed: Mutex::default(),
            file_system,
            file_system_of_manifests,
            past_refused: AtomicBool::new(false),
        })
    }

    fn path(&self, object: ObjectId) -> PathBuf {
        self.log_dir(object.log).join(file_name(object, SUFFIX))
    }

    fn draft_path(&self, object: ObjectId) -> PathBuf {
        self.log_dir(object.log).join(file_name(object, DRAFT_SUFFIX))
    }

    fn log_dir(&self, log: LogId) -> PathBuf {
        self.dir.join(log.to_string())
    }

    /// Runs `open`, which needs a free file handle. If the process or the machine has none left, closes
    /// cached handles, the least recently used first, and runs it again.
    fn with_handle<T>(&self, mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let mut opened = open();
        for _ in 0..HANDLES_CLOSED_MAX {
            // Dropped only after the lock is released: closing a file may wait for the disk.
            let closed = match &opened {
                Err(error) if out_of_handles(error) => lock(&self.handles).close_one(),
                _ => break,
            };
            let Some(closed) = closed else { break };
            drop(closed);
            opened = open();
        }
        opened
    }

    /// Makes a file's directory entry survive power loss, and the entry of its directory.
    fn enter(&self, object: ObjectId) -> io::Result<()> {
        self.with_handle(|| self.files.sync_dir(&self.log_dir(object.log)))?;
        // A variable of its own: in the condition, the lock would be held during the sync.
        let is_made = lock(&self.made).contains(&object.log);
        if is_made {
            self.with_handle(|| self.files.sync_dir(&self.dir))?;
            lock(&self.made).remove(&object.log);
        }
        self.manifest_is_entered(object.log);
        lock(&self.entered).insert(object);
        Ok(())
    }

    /// Reads up to `location.length` bytes, with as many calls of `read` as that takes; fewer only at the
    /// end of the file.
    fn fill(
        &self,
        location: Location,
        read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
    ) -> io::Result<Bytes> {
        let mut buffer = self.buffers.lend(location.length);
        let filled = files::fill(buffer.bytes_mut(), location.position, read)?;
        Ok(buffer.filled(filled))
    }

    /// The file, if it is open.
    fn open_file(&self, object: ObjectId) -> Option<Arc<F::File>> {
        let mut handles = lock(&self.handles);
        handles.tick += 1;
        let tick = handles.tick;
        let (file, used) = handles.files.get_mut(&object)?;
        *used = tick;
        Some(file.clone())
    }

    fn file(&self, object: ObjectId, create: bool) -> io::Result<Arc<F::File>> {
        if let Some(file) = self.open_file(object) {
            return Ok(file);
        }
        let path = self.path(object);
        let file = match self.with_handle(|| self.files.open(&path)) {
            Err(e) if e.kind() == ErrorKind::NotFound && create => {
                // Noted before it is created: if two threads create the directory, each syncs the entry.
                lock(&self.made).insert(object.log);
                self.files.create_dir_all(&self.log_dir(object.log))?;
                let file = self.with_handle(|| self.files.create(&path))?;
                // Before the names are synced, so that one sync does for both. Who writes the manifest tries
                // again, and reports the error.
                let _ = self.begin_manifest(object.log);
                file
            }
            other => other?,
        };
        let file = Arc::new(file);
        lock(&self.handles).keep(object, file.clone());
        // The file may have been deleted while it was opened. Then the deletion did not find this handle,
        // which would keep the disk space. Checked after the handle is cached, so that either the deletion
        // finds the handle, or this check finds the deletion.
        if file.is_removed()? {
            lock(&self.handles).files.remove(&object);
        }
        Ok(file)
    }
}

impl<F: Files> LocalRecordStore<F> {
    /// All entries of a log's directory; none if it does not exist.
    fn entries(&self, log: LogId) -> io::Result<Vec<Entry>> {
        match self.with_handle(|| self.files.list(&self.log_dir(log))) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed,
        }
    }
}

impl<T> Handles<T> {
    fn keep(&mut self, object: ObjectId, file: Arc<T>) {
        while self.files.len() >= self.files_max && self.close_one().is_some() {}
        self.tick += 1;
        if self.files.insert(object, (file, self.tick)).is_none() {
            self.turns.push_back((object, self.tick));
        }
    }

    /// Closes the file that has not been used for the longest time, about: one that was used since
    /// it had its turn gets another. Every step is paid for by an opening or a use. It is closed when
    /// what is returned is dropped and nobody uses it any more; `None` if none is open.
    fn close_one(&mut self) -> Option<Arc<T>> {
        while let Some((object, known)) = self.turns.pop_front() {
            match self.files.get(&object) {
                None => {}
                Some((_, used)) if *used > known => self.turns.push_back((object, *used)),
                Some(_) => return self.files.remove(&object).map(|(file, _)| file),
            }
        }
        None
    }
}

impl<F: Files> RecordStore for LocalRecordStore<F> {
    fn append(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<Location> {
        self.file(object, position == 0)?.write_all_at(bytes, position)?;
        Ok(Location { object, position, length: bytes.len() })
    }

    fn read(&self, location: Location) -> io::Result<Bytes> {
        let file = self.file(location.object, false)?;
        self.fill(location, |rest, position| file.read_at(rest, position))
    }

    fn read_ready(&self, location: Location) -> Option<Bytes> {
        // Only a file that is open already: to open one may wait for the disk.
        let file = self.open_file(location.object)?;
        // Ask for the last byte first: if many bytes are absent, a read of all of them would make the
        // kernel read them into the page cache.
        let end = location.position + location.length as u64;
        let is_there = || file.read_ready_at(&mut [0], end - 1).is_ok_and(|read| read == 1);
        if location.length >= past::BYTES_MIN && !is_there() {
            return None;
        }
        let read = |rest: &mut [u8], position| match file.read_ready_at(rest, position) {
            // The bytes that were read before are the answer.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            read => read,
        };
        self.fill(location, read).ok().filter(|bytes| !bytes.is_empty())
    }

    fn read_past(&self, location: Location) -> Option<(Bytes, Way)> {
        self.past_cache(location)
    }

    /// Uses a handle of its own, so that no cached handle is evicted. Bytes that are in the page cache stay
    /// there; bytes that had to be read from the disk are dropped from it again.
    fn read_once(&self, location: Location) -> io::Result<Bytes> {
        let file = self.files.open_once(&self.path(location.object))?;
        self.fill(location, |rest, position| {
            let step = rest.len().min(ONCE_STEP_BYTES);
            file.read_once_at(&mut rest[..step], position)
        })
    }

    fn drop_cached(&self, object: ObjectId) {
        // A file that cannot be opened is not read again either: that read says why.
        if let Ok(file) = self.file(object, false) {
            file.drop_cached();
        }
    }

    fn written_at(&self, object: ObjectId) -> io::Result<Timestamp> {
        self.files.written_at(&self.path(object))
    }

    fn sync(&self, object: ObjectId) -> io::Result<()> {
        let file = self.file(object, false)?;
        if let Err(error) = file.sync_data() {
            // The system tells of it once, and forgets what it could not write: of that the write-ahead log
            // may have the only copy.
            if let Some(wal) = &self.wal {
                wal.preserve();
            }
            return Err(error);
        }
        if lock(&self.failed).contains(&object) {
            return Err(io::Error::other("an earlier sync of it failed in the background"));
        }
        if !lock(&self.entered).contains(&object) {
            self.enter(object)?;
        }
        Ok(())
    }

    fn sync_together(&self, writer: usize, unsynced: &[Unsynced]) -> Together {
        self.put_together(writer, unsynced)
    }

    fn checkpoint(
        &self,
        all: bool,
        manifest: &dyn Fn(LogId) -> Option<Manifest>,
    ) -> Vec<(ObjectId, io::Error)> {
        let Some(wal) = &self.wal else { return Vec::new() };
        wal.checkpoint(&self.files, all, |objects| {
            self.keep_manifests_of(objects, manifest);
            self.sync_in_place(objects)
        })
    }

    fn truncate(&self, object: ObjectId, length: u64) -> io::Result<()> {
        self.file(object, false)?.set_len(length)
    }

    fn delete(&self, object: ObjectId) -> io::Result<()> {
        let removed = absent_is_fine(self.files.remove_file(&self.path(object)));
        // Close the handle after the removal, since a reader may have opened the file until then, and an
        // open file keeps its disk space. Dropped after the lock is released: closing frees the space,
        // which may take long.
        let _closed = lock(&self.handles).files.remove(&object);
        lock(&self.entered).remove(&object);
        lock(&self.failed).remove(&object);
        removed
    }

    fn delete_log(&self, log: LogId) -> io::Result<()> {
        // Before, or a checkpoint would make a file there meanwhile.
        self.end_manifest(log);
        let removed = absent_is_fine(self.files.remove_dir_all(&self.log_dir(log)));
        // After the removal, since a reader may have opened a file until then, which keeps its disk space.
        let of_log = |object: &ObjectId, _: &mut _| object.log == log;
        let _closed: Vec<_> = lock(&self.handles).files.extract_if(of_log).collect();
        lock(&self.entered).retain(|object| object.log != log);
        lock(&self.made).remove(&log);
        lock(&self.replayed).forget(log);
        self.forget_manifest(log);
        lock(&self.failed).retain(|object| object.log != log);
        removed
    }

    fn append_draft(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<()> {
        let path = self.draft_path(object);
        let file = self.with_handle(|| match position {
            0 => self.files.create(&path),
            _ => self.files.open(&path),
        })?;
        if position == 0 {
            file.set_len(0)?;
        }
        file.write_all_at(bytes, position)
    }

    fn publish(&self, object: ObjectId) -> io::Result<()> {
        let draft = self.draft_path(object);
        self.with_handle(|| self.files.open(&draft))?.sync_data()?;
        self.files.rename(&draft, &self.path(object))?;
        self.enter(object)
    }

    fn discard_drafts(&self, log: LogId) -> io::Result<()> {
        let entries = self.entries(log)?;
        let drafts = entries.iter().filter(|entry| entry.name.ends_with(DRAFT_SUFFIX));
        drafts
            .map(|draft| self.files.remove_file(&self.log_dir(log).join(&draft.name)))
            .try_for_each(absent_is_fine)
    }

    fn put_manifests(&self, manifests: &[(LogId, Manifest)]) -> Vec<(LogId, io::Error)> {
        self.keep_manifests(manifests)
    }

    fn settle_manifest(&self, log: LogId) -> io::Result<()> {
        self.make_manifest_durable(log)
    }

    fn boot(&self) -> Boot {
        self.boot
    }

    fn list(&self, log: LogId) -> io::Result<Listing> {
        let mut listing = Listing::default();
        {
            let replayed = lock(&self.replayed);
            listing.promised = replayed.promised.get(&log).copied();
            listing.refused = replayed.refused.get(&log).cloned();
        }
        for Entry { name, bytes } in self.entries(log)? {
            if let Some(object) = name.strip_suffix(SUFFIX).and_then(|stem| parse_object(log, stem))
            {
                listing.objects.push((object, bytes));
            } else if let Some(start) = name.strip_prefix(START_PREFIX) {
                // A crash of an earlier version may have left two notes: the higher one counts.
                listing.start = listing.start.max(start.parse().ok().map(Offset::new));
            } else if name.ends_with(DRAFT_SUFFIX) {
                listing.drafts = true;
            } else if name == manifests::NAME {
                self.list_manifest(log, bytes, &mut listing)?;
            }
        }
        listing.objects.sort_unstable();
        Ok(listing)
    }

    fn logs(&self) -> io::Result<Vec<LogId>> {
        let entries = self.files.list(&self.dir)?;
        let mut logs: Vec<LogId> =
            entries.iter().filter_map(|entry| parse_log_id(&entry.name)).collect();
        logs.sort_unstable();
        Ok(logs)
    }

    fn rest(&self) {
        let mut handles = lock(&self.handles);
        let tick = handles.tick;
        let rested = std::mem::replace(&mut handles.rested, tick);
        let is_idle = |_: &ObjectId, (_, used): &mut (Arc<F::File>, u64)| *used <= rested;
        let closed: Vec<_> = handles.files.extract_if(is_idle).collect();
        let mut turns: Vec<_> =
            handles.files.iter().map(|(object, (_, used))| (*object, *used)).collect();
        turns.sort_unstable_by_key(|(_, used)| *used);
        handles.turns = turns.into();
        drop(handles);
        drop(closed);
    }
}

fn file_name(object: ObjectId, suffix: &str) -> String {
    let base = object.base.get();
    match object.revision {
        0 => format!("{base:020}{suffix}"),
        revision => format!("{base:020}-{revision}{suffix}"),
    }
}

/// The inverse of `file_name`, without the suffix.
fn parse_object(log: LogId, stem: &str) -> Option<ObjectId> {
    let (base, revision) = stem.split_once('-').unwrap_or((stem, "0"));
    let (base, revision) = (Offset::new(base.parse().ok()?), revision.parse().ok()?);
    Some(ObjectId { log, base, revision })
}

/// The inverse of `LogId`'s `Display`.
fn parse_log_id(name: &str) -> Option<LogId> {
    let (topic, partition) = name.rsplit_once('-')?;
    Some(LogId {
        topic: TopicId(Uuid::parse_str(topic).ok()?),
        partition: PartitionId(partition.parse().ok()?),
    })
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Creates `dir` and its parents, and makes their directory entries survive power loss.
pub(in crate::log) fn create_dir(dir: &Path) -> io::Result<()> {
    let missing = dir.ancestors().skip(1).take_while(|parent| !parent.exists()).count();
    fs::create_dir_all(dir)?;
    // Also sync the entry of a directory that exists: the process that made it may have been killed before.
    for parent in dir.ancestors().skip(1).take(missing + 1) {
        let parent = if parent == Path::new("") { Path::new(".") } else { parent };
        match Os.sync_dir(parent) {
            // A parent that cannot be read was not made by Ottla.
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {}
            other => other?,
        }
    }
    Ok(())
}

/// A poisoned lock still guards a valid cache: every change to it is a single call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
