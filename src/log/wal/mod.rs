//! The write-ahead log (WAL): a file that all logs of a writer sync into together. Appended bytes lie in
//! their segments at once, in the page cache; a copy of them goes to the WAL, which is one write and one
//! sync for however many logs, over blocks that the file has already: no length, no block map has
//! to follow. Each writer has two such files and writes them in turn. Before one is written anew, the
//! segments of all that it holds are synced (a checkpoint), by a thread with time for it. A start
//! replays the files into the segments (`replay.rs`) before anything else looks at them.
//!
//! Knows objects and bytes, no offsets and no batches. It relies on two things: bytes of an object that
//! were appended and synced never change as long as the process runs, and what it is given begins where
//! the object was synced before, one way or the other.

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

/// What ends the name of a file that is being made.
const DRAFT: &str = "draft";
/// How much of a new file is written at once.
const FILL_BYTES: usize = 1 << 20;

/// How a write-ahead log is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct WalConfig {
    /// Writers that may have one, each its own.
    pub(super) writers: usize,
    /// Bytes of each of a writer's two files; 0 is none.
    pub(super) file_bytes: u64,
    /// Only a writer that has synced logs so often gets its files: who writes little needs none.
    pub(super) syncs_min: u32,
}

/// See the module's header.
pub(super) struct Wal<F: Files> {
    config: WalConfig,
    dir: PathBuf,
    wals: Vec<Mutex<WriterWal<F::File>>>,
    /// The number of the last generation that was begun or emptied.
    generation: AtomicU64,
    /// Counts the writers whose files are off.
    off: IntGauge,
}

/// One writer's files.
struct WriterWal<T> {
    state: State<T>,
    /// Holds a record on its way to the file.
    blocks: Blocks,
}

enum State<T> {
    /// Without files; so many logs' syncs were seen.
    Without(u32),
    With(Pair<T>),
    /// Not used any more: files could not be made, or failed. They stay for the next start.
    Off,
}

/// Two files that are written in turn.
struct Pair<T> {
    wal_files: [WalFile<T>; 2],
    /// Which one is written.
    current: usize,
}

struct WalFile<T> {
    file: T,
    /// `None` before it is begun by this process.
    generation: Option<Generation>,
    /// The next record's.
    sequence: u64,
    /// Where the next record goes.
    position: u64,
    /// What must be synced in its place before the file is written anew.
    to_checkpoint: HashSet<ObjectId, IdHash>,
}

/// What became of bytes that were to be synced.
#[derive(Default)]
pub(super) struct Put {
    /// They survive power loss; else nothing was done.
    pub(super) is_done: bool,
    /// Something is due that `checkpoint` does.
    pub(super) is_checkpoint_due: bool,
}

/// What became of objects that were to be synced in their place.
#[derive(Debug, Default)]
pub(super) struct InPlace {
    /// Those that may have lost something there, with the reason.
    pub(super) failed: Vec<(ObjectId, io::Error)>,
    /// Others may have, too; which ones is not known.
    pub(super) is_doubtful: bool,
    /// Some were not tried, for want of file handles.
    pub(super) is_put_off: bool,
}

impl InPlace {
    /// All of them survive power loss.
    fn is_done(&self) -> bool {
        self.failed.is_empty() && !self.is_doubtful && !self.is_put_off
    }
}

/// What a writer's files ask of `checkpoint`.
enum Due {
    Nothing,
    Files,
    Checkpoint(Vec<ObjectId>),
}

impl<F: Files> Wal<F> {
    /// In the directory `dir` of the logs. Files that a replay has left there, empty, are used again
    /// where they fit; `generation` is the last one that any of them had. `off` counts the writers
    /// whose files are not used any more.
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
            // They are empty, and what cannot be removed takes room, no more.
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

    /// Makes bytes survive power loss, all of them or none.
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
                // Nothing was promised of these bytes, and what was written before stays on the disk.
                tracing::warn!(%error, "write-ahead log failed, each log is synced by itself from now on");
                self.turn_off(state);
                Put::default()
            }
        }
    }

    /// Takes no more, and keeps what there is for the next start: what was synced in its place may be
    /// lost there.
    pub(super) fn preserve(&self) {
        let turned_off = self.wals.iter().filter(|wal| self.turn_off(&mut lock(wal).state)).count();
        if turned_off > 0 {
            tracing::warn!(
                writers = turned_off,
                "a sync failed: the write-ahead log is off and kept for the next start, each log is synced by itself"
            );
        }
    }

    /// Whether it was not off before.
    fn turn_off(&self, state: &mut State<F::File>) -> bool {
        let is_news = !matches!(std::mem::replace(state, State::Off), State::Off);
        if is_news {
            self.off.inc();
        }
        is_news
    }

    /// Does what is due: makes files, and syncs the segments of the files that are not written
    /// now; with `all` also those of the others, which then are empty. `sync` syncs objects in their place; those for which that failed
    /// are told here.
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
                        // The system may have told of objects of other writers, too, once.
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
                    // What cannot be removed is empty, and removed by the next start.
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
        // Under their names only once they are whole: a file without a header is damaged.
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
        // Wraps, if ever, for a file that was tampered with.
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
    /// What a record of `length` bytes is written in: the current generation, or the first or next one,
    /// over the other file. `None` while the segments of that are not synced.
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
            // For good before the first record: under the old one, older records would be read on.
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

    /// Whether the segments of the other file must be synced, so that it can be reused when this one is
    /// full. Not sooner than at half of it: much of it is written back until then by the system, which has time.
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

    /// The next record is the first one of `generation`.
    fn begin(&mut self, generation: Generation) {
        self.generation = Some(generation);
        self.sequence = 0;
        self.position = BLOCK_BYTES as u64;
    }

    /// Makes what it holds worthless, durably.
    fn empty(&mut self, number: u64) -> io::Result<()> {
        (self.generation, self.sequence) = (None, 0);
        self.file.write_all_at(Blocks::header(Generation::empty(number)).bytes(), 0)?;
        self.file.sync_data()
    }
}

/// A writer's files, if both are there and of the right length.
fn existing<F: Files>(
    files: &F,
    dir: &Path,
    writer: usize,
    file_bytes: u64,
) -> Option<Pair<F::File>> {
    let listed = files.list(dir).ok()?;
    // Whoever made them may have been killed before their names were on the disk.
    files.sync_dir(dir).and_then(|()| files.sync_dir(parent(dir))).ok()?;
    let open = |index| {
        let name = name(writer, index);
        let entry = listed.iter().find(|entry| entry.name == name)?;
        let fits = entry.bytes == file_bytes;
        Some(WalFile::new(files.open_blocks(&dir.join(&name)).ok().filter(|_| fits)?))
    };
    Some(Pair { wal_files: [open(0)?, open(1)?], current: 0 })
}

/// Where the directory of WAL files is.
fn parent(dir: &Path) -> &Path {
    // Cannot be absent: it was joined to another one.
    dir.parent().unwrap_or(dir)
}

/// Whose file that is, if it is a writer's.
fn writer_of(name: &str) -> Option<usize> {
    name.strip_suffix("-a").or_else(|| name.strip_suffix("-b"))?.parse().ok()
}

fn name(writer: usize, index: usize) -> String {
    format!("{writer}-{}", if index == 0 { "a" } else { "b" })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whatever panicked has left files that a replay can read.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
