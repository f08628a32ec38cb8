//! The write-ahead log (WAL), through which all logs of a writer are synced with one write and one sync.
//! Appended bytes are written to their segments first, into the page cache. A copy of them goes to a WAL file
//! and is synced there: the blocks of that file are allocated already, so neither its length nor its block map
//! must be written. Each writer has two WAL files, which it fills alternately. Before a file is reused, the
//! segments that it holds bytes of are synced in place by the thread `log-checkpoint` (a checkpoint). A start
//! replays the files into the segments (`replay.rs`) before anything else reads them. See docs/adr/0011.
//!
//! Knows objects and bytes, no offsets and no batches. Relies on two rules: bytes of an object that were
//! appended and synced never change while the process runs; and the bytes that `put` gets begin where the
//! object was durable before, in the WAL or in place.

mod format;
mod replay;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus::IntGauge;
use uuid::Uuid;

use self::format::{Blocks, Generation, RECORD_BYTES_MAX, record_bytes};
use crate::log::object::buffers::BLOCK_BYTES;
use crate::log::object::files::{File, Files};
use crate::log::object::record_store::{ObjectId, Unsynced};
use crate::types::IdHash;

pub(super) use replay::{DIR, Target, pending, repair, replay};

/// The extension of a WAL file that is not complete yet.
const DRAFT: &str = "draft";
/// How many bytes of a new file one write fills.
const FILL_BYTES: usize = 1 << 20;

/// The configuration of the write-ahead log.
#[derive(Clone, Copy, Debug)]
pub(super) struct WalConfig {
    /// How many writers there are; each has its own files.
    pub(super) writers: usize,
    /// Bytes of each of a writer's two files; 0 turns the write-ahead log off.
    pub(super) file_bytes: u64,
    /// A writer gets its files after this many syncs of single logs: a broker with few writes needs none.
    pub(super) syncs_min: u32,
}

/// See the module's header.
pub(super) struct Wal<F: Files> {
    config: WalConfig,
    dir: PathBuf,
    wals: Vec<Mutex<WriterWal<F::File>>>,
    /// The number of the last generation that was begun or emptied.
    generation: AtomicU64,
    /// The number of writers whose files are off.
    off: IntGauge,
}

/// One writer's files.
struct WriterWal<T> {
    state: State<T>,
    /// The buffer in which a record is built.
    blocks: Blocks,
}

enum State<T> {
    /// The writer has no files yet. Counts the syncs of single logs that the files would have saved.
    Without(u32),
    With(Pair<T>),
    /// The files could not be made, or a write or sync failed. They are kept for the next start.
    Off,
}

/// Two files that are filled alternately.
struct Pair<T> {
    wal_files: [WalFile<T>; 2],
    /// Which of the two is being filled.
    current: usize,
}

struct WalFile<T> {
    file: T,
    /// `None` until this process first writes a record to the file.
    generation: Option<Generation>,
    /// The sequence number of the next record.
    sequence: u64,
    /// Where the next record is written.
    position: u64,
    /// The segments that must be synced in place before the file is reused.
    to_checkpoint: HashSet<ObjectId, IdHash>,
}

/// The outcome of `Wal::put`.
#[derive(Default)]
pub(super) struct Put {
    /// The bytes survive power loss. If false, nothing was done.
    pub(super) is_done: bool,
    /// `Wal::checkpoint` should be called.
    pub(super) is_checkpoint_due: bool,
}

/// The outcome of syncing segments in place.
#[derive(Debug, Default)]
pub(super) struct InPlace {
    /// The segments whose sync failed, which may have lost bytes, with the reason.
    pub(super) failed: Vec<(ObjectId, io::Error)>,
    /// Others may have lost bytes, too; it is not known which.
    pub(super) is_doubtful: bool,
    /// Some were not tried because no file handle was free.
    pub(super) is_put_off: bool,
}

impl InPlace {
    /// Whether all of the segments survive power loss.
    fn is_done(&self) -> bool {
        self.failed.is_empty() && !self.is_doubtful && !self.is_put_off
    }
}

/// What `Wal::checkpoint` must do for a writer.
enum Due {
    Nothing,
    Files,
    Checkpoint(Vec<ObjectId>),
}

impl<F: Files> Wal<F> {
    /// Opens the write-ahead log below the logs' directory `dir`. Empty files that a replay has left there
    /// are used if they have the right size, and removed otherwise. `generation` is the highest number of
    /// any of them. `off` is set to the number of writers whose files are off.
    pub(super) fn open(
        files: &F,
        dir: &Path,
        config: WalConfig,
        generation: u64,
        off: IntGauge,
    ) -> Wal<F> {
        let file_bytes = config.file_bytes.next_multiple_of(BLOCK_BYTES as u64);
        let config = WalConfig { file_bytes, ..config };
        let writers = if file_bytes == 0 { 0 } else { config.writers };
        let dir = dir.join(DIR);
        let mut wals = Vec::with_capacity(writers);
        for writer in 0..writers {
            let pair = existing(files, &dir, writer, file_bytes);
            let state = pair.map_or(State::Without(0), State::With);
            wals.push(WriterWal { state, blocks: Blocks::default() });
        }
        let is_used =
            |writer: usize| wals.get(writer).is_some_and(|wal| matches!(wal.state, State::With(_)));
        for entry in files.list(&dir).unwrap_or_default() {
            // These files are empty: if one cannot be removed, it only takes disk space.
            let draft_of = Path::new(&entry.name).with_extension("");
            let is_draft =
                entry.name.ends_with(DRAFT) && writer_of(&draft_of.to_string_lossy()).is_some();
            if is_draft || writer_of(&entry.name).is_some_and(|writer| !is_used(writer)) {
                let _ = files.remove_file(&dir.join(&entry.name));
            }
        }
        let wals = wals.into_iter().map(Mutex::new).collect();
        Wal { config, dir, wals, generation: AtomicU64::new(generation), off }
    }

    /// Makes bytes survive power loss: all of them, or none.
    pub(super) fn put(&self, writer: usize, unsynced: &[&Unsynced]) -> Put {
        let Some(wal) = self.wals.get(writer) else { return Put::default() };
        let WriterWal { state, blocks } = &mut *lock(wal);
        let pair = match state {
            State::With(pair) => pair,
            State::Without(syncs) => {
                *syncs = syncs.saturating_add(u32::try_from(unsynced.len()).unwrap_or(u32::MAX));
                return Put { is_done: false, is_checkpoint_due: *syncs >= self.config.syncs_min };
            }
            State::Off => return Put::default(),
        };
        let length = record_bytes(unsynced);
        let is_too_long = length > RECORD_BYTES_MAX;
        let length = length.next_multiple_of(BLOCK_BYTES) as u64;
        if is_too_long || length > self.config.file_bytes - BLOCK_BYTES as u64 {
            return Put::default();
        }
        let Some(generation) =
            pair.generation_with_room(length, self.config.file_bytes, || self.next_generation())
        else {
            return Put { is_done: false, is_checkpoint_due: true };
        };
        match pair.write(unsynced, generation, blocks) {
            Ok(()) => {
                blocks.rest();
                let is_checkpoint_due = pair.is_checkpoint_due(self.config.file_bytes);
                Put { is_done: true, is_checkpoint_due }
            }
            Err(error) => {
                // These bytes were not acknowledged, and the records before them are on the disk.
                tracing::warn!(%error, "write-ahead log failed, each log is synced by itself from now on");
                self.turn_off(state);
                Put::default()
            }
        }
    }

    /// Turns all files off and keeps them for the next start, after a failed sync of a segment: bytes of
    /// that segment may be lost in place, and be only in these files.
    pub(super) fn preserve(&self) {
        let turned_off = self.wals.iter().filter(|wal| self.turn_off(&mut lock(wal).state)).count();
        if turned_off > 0 {
            tracing::warn!(
                writers = turned_off,
                "a sync failed: the write-ahead log is off and kept for the next start, each log is synced by itself"
            );
        }
    }

    /// Turns the files of a writer off. Returns false if they were off already.
    fn turn_off(&self, state: &mut State<F::File>) -> bool {
        let is_news = !matches!(std::mem::replace(state, State::Off), State::Off);
        if is_news {
            self.off.inc();
        }
        is_news
    }

    /// Makes files for writers that are due to get them. For the others, syncs the segments of the file that
    /// is not being filled, so that it can be reused; with `all`, the segments of both files, and empties
    /// these. `sync` syncs segments in place; those whose sync failed are returned.
    pub(super) fn checkpoint(
        &self,
        files: &F,
        all: bool,
        sync: impl Fn(&[ObjectId]) -> InPlace,
    ) -> Vec<(ObjectId, io::Error)> {
        for (writer, wal) in self.wals.iter().enumerate() {
            let due = lock(wal).due(all, self.config.syncs_min);
            match due {
                Due::Nothing => {}
                Due::Files => self.make_files(files, writer, wal),
                Due::Checkpoint(objects) => {
                    let in_place = sync(&objects);
                    if in_place.is_done() {
                        if let State::With(pair) = &mut lock(wal).state {
                            self.checkpointed(pair, all);
                        }
                    } else if !in_place.failed.is_empty() || in_place.is_doubtful {
                        // The kernel reports an error once, and it may concern segments of other writers,
                        // too.
                        self.preserve();
                        return in_place.failed;
                    }
                }
            }
        }
        Vec::new()
    }

    fn checkpointed(&self, pair: &mut Pair<F::File>, all: bool) {
        pair.wal_files[1 - pair.current].to_checkpoint.clear();
        if !all {
            return;
        }
        for wal_file in &mut pair.wal_files {
            wal_file.to_checkpoint.clear();
            if wal_file.sequence > 0
                && let Err(error) = wal_file.empty(self.next_number())
            {
                tracing::warn!(%error, "write-ahead log was not emptied, the next start reads it again");
            }
        }
    }

    fn make_files(&self, files: &F, writer: usize, wal: &Mutex<WriterWal<F::File>>) {
        let made = self.try_make_files(files, writer);
        let state = &mut lock(wal).state;
        if let State::Off = state {
            return;
        }
        match made {
            Ok(pair) => {
                tracing::info!(writer, bytes = self.config.file_bytes, "write-ahead log is ready");
                *state = State::With(pair);
            }
            Err(error) => {
                for path in [0, 1].map(|index| self.dir.join(name(writer, index))) {
                    // If a file cannot be removed, it is empty, and the next start removes it.
                    let _ = files.remove_file(&path.with_extension(DRAFT));
                    let _ = files.remove_file(&path);
                }
                tracing::warn!(%error, "no write-ahead log could be made, each log is synced by itself");
                self.turn_off(state);
            }
        }
    }

    fn try_make_files(&self, files: &F, writer: usize) -> io::Result<Pair<F::File>> {
        files.create_dir_all(&self.dir)?;
        let zeros = Blocks::zeros(FILL_BYTES);
        // Renamed only when it is complete: a replay takes a file without a header for damaged.
        let make = |index| {
            let path = self.dir.join(name(writer, index));
            let draft = path.with_extension(DRAFT);
            drop(files.create(&draft)?);
            let file = files.open_blocks(&draft)?;
            let mut wal_file = WalFile::new(file);
            wal_file.empty(self.next_number())?;
            let mut at = BLOCK_BYTES as u64;
            while at < self.config.file_bytes {
                let length = (self.config.file_bytes - at).min(FILL_BYTES as u64);
                wal_file.file.write_all_at(&zeros.bytes()[..length as usize], at)?;
                at += length;
            }
            wal_file.file.sync_data()?;
            files.rename(&draft, &path)?;
            io::Result::Ok(wal_file)
        };
        let wal_files = [make(0)?, make(1)?];
        files.sync_dir(&self.dir)?;
        files.sync_dir(parent(&self.dir))?;
        Ok(Pair { wal_files, current: 0 })
    }

    fn next_number(&self) -> u64 {
        // It could only wrap if somebody had written a huge number into a file.
        self.generation.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    fn next_generation(&self) -> Generation {
        Generation { number: self.next_number(), mark: Uuid::new_v4() }
    }
}

impl<T: File> WriterWal<T> {
    fn due(&self, all: bool, syncs_min: u32) -> Due {
        match &self.state {
            State::Without(syncs) if *syncs >= syncs_min && !all => Due::Files,
            State::With(pair) => {
                let wal_files = pair.wal_files.iter().enumerate();
                let due = wal_files.filter(|(index, _)| all || *index != pair.current);
                let objects: HashSet<ObjectId, IdHash> =
                    due.flat_map(|(_, wal_file)| wal_file.to_checkpoint.iter().copied()).collect();
                match objects.is_empty() {
                    true => Due::Nothing,
                    false => Due::Checkpoint(objects.into_iter().collect()),
                }
            }
            _ => Due::Nothing,
        }
    }
}

impl<T: File> Pair<T> {
    /// The generation that a record of `length` bytes goes into: the current one if the record fits the
    /// file, otherwise a new one in the other file. `None` if the segments of the other file are not synced
    /// yet.
    fn generation_with_room(
        &mut self,
        length: u64,
        file_bytes: u64,
        next: impl FnOnce() -> Generation,
    ) -> Option<Generation> {
        let wal_file = &self.wal_files[self.current];
        if let Some(generation) = wal_file.generation {
            if wal_file.position + length <= file_bytes {
                return Some(generation);
            }
            if !self.wal_files[1 - self.current].to_checkpoint.is_empty() {
                return None;
            }
            self.current = 1 - self.current;
        }
        let generation = next();
        self.wal_files[self.current].begin(generation);
        Some(generation)
    }

    fn write(
        &mut self,
        unsynced: &[&Unsynced],
        generation: Generation,
        blocks: &mut Blocks,
    ) -> io::Result<()> {
        let wal_file = &mut self.wal_files[self.current];
        if wal_file.sequence == 0 {
            // The new header must be durable before the first record: a replay under the old header would
            // also read older records that are left in the file.
            wal_file.file.write_all_at(Blocks::header(generation).bytes(), 0)?;
            wal_file.file.sync_data()?;
        }
        blocks.put(unsynced, generation, wal_file.sequence);
        wal_file.file.write_all_at(blocks.bytes(), wal_file.position)?;
        wal_file.file.sync_data()?;
        wal_file.position += blocks.bytes().len() as u64;
        wal_file.sequence += 1;
        wal_file.to_checkpoint.extend(unsynced.iter().map(|unsynced| unsynced.object));
        Ok(())
    }

    /// Whether the segments of the other file should be synced now, so that it can be reused when this file
    /// is full. Not before this file is half full: until then the kernel writes most of these bytes back by
    /// itself.
    fn is_checkpoint_due(&self, file_bytes: u64) -> bool {
        self.wal_files[self.current].position > file_bytes / 2
            && !self.wal_files[1 - self.current].to_checkpoint.is_empty()
    }
}

impl<T: File> WalFile<T> {
    fn new(file: T) -> WalFile<T> {
        let position = BLOCK_BYTES as u64;
        WalFile { file, generation: None, sequence: 0, position, to_checkpoint: HashSet::default() }
    }

    /// Begins `generation`: the next record will be its first.
    fn begin(&mut self, generation: Generation) {
        self.generation = Some(generation);
        self.sequence = 0;
        self.position = BLOCK_BYTES as u64;
    }

    /// Empties the file, durably.
    fn empty(&mut self, number: u64) -> io::Result<()> {
        (self.generation, self.sequence) = (None, 0);
        self.file.write_all_at(Blocks::header(Generation::empty(number)).bytes(), 0)?;
        self.file.sync_data()
    }
}

/// A writer's files, if both exist and have the right length.
fn existing<F: Files>(
    files: &F,
    dir: &Path,
    writer: usize,
    file_bytes: u64,
) -> Option<Pair<F::File>> {
    let listed = files.list(dir).ok()?;
    // The process that made them may have been killed before it synced their names.
    files.sync_dir(dir).and_then(|()| files.sync_dir(parent(dir))).ok()?;
    let open = |index| {
        let name = name(writer, index);
        let entry = listed.iter().find(|entry| entry.name == name)?;
        let fits = entry.bytes == file_bytes;
        Some(WalFile::new(files.open_blocks(&dir.join(&name)).ok().filter(|_| fits)?))
    };
    Some(Pair { wal_files: [open(0)?, open(1)?], current: 0 })
}

/// The directory of the logs, in which the directory of WAL files is.
fn parent(dir: &Path) -> &Path {
    // Cannot be absent: it was joined to another one.
    dir.parent().unwrap_or(dir)
}

/// The number of the writer whose file has this name; `None` if it is no WAL file.
fn writer_of(name: &str) -> Option<usize> {
    name.strip_suffix("-a").or_else(|| name.strip_suffix("-b"))?.parse().ok()
}

fn name(writer: usize, index: usize) -> String {
    format!("{writer}-{}", if index == 0 { "a" } else { "b" })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while the lock was held leaves files that a replay can read.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
