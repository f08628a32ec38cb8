//! The redo log: a file that all logs of a writer sync into together. Appended bytes lie in their
//! segments at once, in the page cache; a copy of them goes to the redo log, which is one write and
//! one sync for however many logs, over blocks that the file has already: no length, no block map has
//! to follow. Each writer has two such files and writes them in turn. Before one is written anew, the
//! segments of all that it holds are synced (it is settled), by a thread with time for it. A start
//! puts what the files hold back into the segments (`replay.rs`) before anything else looks at them.
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

use self::format::{Blocks, Pass, RECORD_BYTES_MAX, record_bytes};
use crate::log::object::buffers::BLOCK_BYTES;
use crate::log::object::files::{File, Files};
use crate::log::object::record_store::{ObjectId, Unsynced};
use crate::types::IdHash;

pub(super) use replay::{DIR, Target, pending, repair, replay};

/// What ends the name of a file that is being made.
const DRAFT: &str = "draft";
/// How much of a new file is written at once.
const FILL_BYTES: usize = 1 << 20;

/// How a redo log is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct RedoConfig {
    /// Writers that may have one, each its own.
    pub(super) writers: usize,
    /// Bytes of each of a writer's two files; 0 is none.
    pub(super) file_bytes: u64,
    /// Only a writer that has synced logs so often gets its files: who writes little needs none.
    pub(super) syncs_min: u32,
}

/// See the module's header.
pub(super) struct Redo<F: Files> {
    config: RedoConfig,
    dir: PathBuf,
    lanes: Vec<Mutex<Lane<F::File>>>,
    /// The last one that was given to a file.
    generation: AtomicU64,
    /// Counts the lanes that are off.
    off: IntGauge,
}

/// One writer's files.
struct Lane<T> {
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
    halves: [Half<T>; 2],
    /// Which one is written.
    current: usize,
}

struct Half<T> {
    file: T,
    /// `None` before it is begun by this process.
    pass: Option<Pass>,
    /// The next record's.
    sequence: u64,
    /// Where the next record goes.
    position: u64,
    /// What must be synced in its place before the file is written anew.
    unsettled: HashSet<ObjectId, IdHash>,
}

/// What became of bytes that were to be synced.
#[derive(Default)]
pub(super) struct Put {
    /// They survive power loss; else nothing was done.
    pub(super) is_done: bool,
    /// Something is due that `settle` does.
    pub(super) is_settle_due: bool,
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

/// What a lane asks of `settle`.
enum Due {
    Nothing,
    Files,
    Settled(Vec<ObjectId>),
}

impl<F: Files> Redo<F> {
    /// In the directory `dir` of the logs. Files that a replay has left there, empty, are used again
    /// where they fit; `generation` is the last one that any of them had. `off` counts the writers
    /// whose files are not used any more.
    pub(super) fn open(
        files: &F,
        dir: &Path,
        config: RedoConfig,
        generation: u64,
        off: IntGauge,
    ) -> Redo<F> {
        let file_bytes = config.file_bytes.next_multiple_of(BLOCK_BYTES as u64);
        let config = RedoConfig { file_bytes, ..config };
        let writers = if file_bytes == 0 { 0 } else { config.writers };
        let dir = dir.join(DIR);
        let mut lanes = Vec::with_capacity(writers);
        for writer in 0..writers {
            let pair = existing(files, &dir, writer, file_bytes);
            let state = pair.map_or(State::Without(0), State::With);
            lanes.push(Lane { state, blocks: Blocks::default() });
        }
        let is_used = |writer: usize| {
            lanes.get(writer).is_some_and(|lane| matches!(lane.state, State::With(_)))
        };
        for entry in files.list(&dir).unwrap_or_default() {
            // They are empty, and what cannot be removed takes room, no more.
            let draft_of = Path::new(&entry.name).with_extension("");
            let is_draft =
                entry.name.ends_with(DRAFT) && writer_of(&draft_of.to_string_lossy()).is_some();
            if is_draft || writer_of(&entry.name).is_some_and(|writer| !is_used(writer)) {
                let _ = files.remove_file(&dir.join(&entry.name));
            }
        }
        let lanes = lanes.into_iter().map(Mutex::new).collect();
        Redo { config, dir, lanes, generation: AtomicU64::new(generation), off }
    }

    /// Makes bytes survive power loss, all of them or none.
    pub(super) fn put(&self, writer: usize, unsynced: &[&Unsynced]) -> Put {
        let Some(lane) = self.lanes.get(writer) else { return Put::default() };
        let Lane { state, blocks } = &mut *lock(lane);
        let pair = match state {
            State::With(pair) => pair,
            State::Without(syncs) => {
                *syncs = syncs.saturating_add(u32::try_from(unsynced.len()).unwrap_or(u32::MAX));
                return Put { is_done: false, is_settle_due: *syncs >= self.config.syncs_min };
            }
            State::Off => return Put::default(),
        };
        let length = record_bytes(unsynced);
        let is_too_long = length > RECORD_BYTES_MAX;
        let length = length.next_multiple_of(BLOCK_BYTES) as u64;
        if is_too_long || length > self.config.file_bytes - BLOCK_BYTES as u64 {
            return Put::default();
        }
        let Some(pass) = pair.pass_with_room(length, self.config.file_bytes, || self.next_pass())
        else {
            return Put { is_done: false, is_settle_due: true };
        };
        match pair.write(unsynced, pass, blocks) {
            Ok(()) => {
                blocks.rest();
                let is_settle_due = pair.is_settle_due(self.config.file_bytes);
                Put { is_done: true, is_settle_due }
            }
            Err(error) => {
                // Nothing was promised of these bytes, and what was written before stays on the disk.
                tracing::warn!(%error, "redo log failed, each log is synced by itself from now on");
                self.turn_off(state);
                Put::default()
            }
        }
    }

    /// Takes no more, and keeps what there is for the next start: what was synced in its place may be
    /// lost there.
    pub(super) fn preserve(&self) {
        let turned_off =
            self.lanes.iter().filter(|lane| self.turn_off(&mut lock(lane).state)).count();
        if turned_off > 0 {
            tracing::warn!(
                writers = turned_off,
                "a sync failed: the redo log is off and kept for the next start, each log is synced by itself"
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

    /// Does what is due: makes files, and settles those that are not written now, with `all` also the
    /// others, which then are empty. `sync` syncs objects in their place; those for which that failed
    /// are told here.
    pub(super) fn settle(
        &self,
        files: &F,
        all: bool,
        sync: impl Fn(&[ObjectId]) -> InPlace,
    ) -> Vec<(ObjectId, io::Error)> {
        for (writer, lane) in self.lanes.iter().enumerate() {
            let due = lock(lane).due(all, self.config.syncs_min);
            match due {
                Due::Nothing => {}
                Due::Files => self.make_files(files, writer, lane),
                Due::Settled(objects) => {
                    let in_place = sync(&objects);
                    if in_place.is_done() {
                        if let State::With(pair) = &mut lock(lane).state {
                            self.settled(pair, all);
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

    fn settled(&self, pair: &mut Pair<F::File>, all: bool) {
        pair.halves[1 - pair.current].unsettled.clear();
        if !all {
            return;
        }
        for half in &mut pair.halves {
            half.unsettled.clear();
            if half.sequence > 0
                && let Err(error) = half.empty(self.next_generation())
            {
                tracing::warn!(%error, "redo log was not emptied, the next start reads it again");
            }
        }
    }

    fn make_files(&self, files: &F, writer: usize, lane: &Mutex<Lane<F::File>>) {
        let made = self.try_make_files(files, writer);
        let state = &mut lock(lane).state;
        if let State::Off = state {
            return;
        }
        match made {
            Ok(pair) => {
                tracing::info!(writer, bytes = self.config.file_bytes, "redo log is ready");
                *state = State::With(pair);
            }
            Err(error) => {
                for path in [0, 1].map(|half| self.dir.join(name(writer, half))) {
                    // What cannot be removed is empty, and removed by the next start.
                    let _ = files.remove_file(&path.with_extension(DRAFT));
                    let _ = files.remove_file(&path);
                }
                tracing::warn!(%error, "no redo log could be made, each log is synced by itself");
                self.turn_off(state);
            }
        }
    }

    fn try_make_files(&self, files: &F, writer: usize) -> io::Result<Pair<F::File>> {
        files.create_dir_all(&self.dir)?;
        let zeros = Blocks::zeros(FILL_BYTES);
        // Under their names only once they are whole: a file without a header is damaged.
        let make = |half| {
            let path = self.dir.join(name(writer, half));
            let draft = path.with_extension(DRAFT);
            drop(files.create(&draft)?);
            let file = files.open_blocks(&draft)?;
            let mut half = Half::new(file);
            half.empty(self.next_generation())?;
            let mut at = BLOCK_BYTES as u64;
            while at < self.config.file_bytes {
                let length = (self.config.file_bytes - at).min(FILL_BYTES as u64);
                half.file.write_all_at(&zeros.bytes()[..length as usize], at)?;
                at += length;
            }
            half.file.sync_data()?;
            files.rename(&draft, &path)?;
            io::Result::Ok(half)
        };
        let halves = [make(0)?, make(1)?];
        files.sync_dir(&self.dir)?;
        files.sync_dir(parent(&self.dir))?;
        Ok(Pair { halves, current: 0 })
    }

    fn next_generation(&self) -> u64 {
        // Wraps, if ever, for a file that was tampered with.
        self.generation.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    fn next_pass(&self) -> Pass {
        Pass { generation: self.next_generation(), mark: Uuid::new_v4() }
    }
}

impl<T: File> Lane<T> {
    fn due(&self, all: bool, syncs_min: u32) -> Due {
        match &self.state {
            State::Without(syncs) if *syncs >= syncs_min && !all => Due::Files,
            State::With(pair) => {
                let halves = pair.halves.iter().enumerate();
                let due = halves.filter(|(half, _)| all || *half != pair.current);
                let objects: HashSet<ObjectId, IdHash> =
                    due.flat_map(|(_, half)| half.unsettled.iter().copied()).collect();
                match objects.is_empty() {
                    true => Due::Nothing,
                    false => Due::Settled(objects.into_iter().collect()),
                }
            }
            _ => Due::Nothing,
        }
    }
}

impl<T: File> Pair<T> {
    /// What a record of `length` bytes is written in: the current pass, or the first or next one,
    /// over the other file. `None` while that is not settled.
    fn pass_with_room(
        &mut self,
        length: u64,
        file_bytes: u64,
        next: impl FnOnce() -> Pass,
    ) -> Option<Pass> {
        let half = &self.halves[self.current];
        if let Some(pass) = half.pass {
            if half.position + length <= file_bytes {
                return Some(pass);
            }
            if !self.halves[1 - self.current].unsettled.is_empty() {
                return None;
            }
            self.current = 1 - self.current;
        }
        let pass = next();
        self.halves[self.current].begin(pass);
        Some(pass)
    }

    fn write(&mut self, unsynced: &[&Unsynced], pass: Pass, blocks: &mut Blocks) -> io::Result<()> {
        let half = &mut self.halves[self.current];
        if half.sequence == 0 {
            // For good before the first record: under the old one, older records would be read on.
            half.file.write_all_at(Blocks::header(pass).bytes(), 0)?;
            half.file.sync_data()?;
        }
        blocks.put(unsynced, pass, half.sequence);
        half.file.write_all_at(blocks.bytes(), half.position)?;
        half.file.sync_data()?;
        half.position += blocks.bytes().len() as u64;
        half.sequence += 1;
        half.unsettled.extend(unsynced.iter().map(|unsynced| unsynced.object));
        Ok(())
    }

    /// Whether the other file must be settled, to be there when this one is full. Not sooner than at
    /// half of it: much of it is written back until then by the system, which has time.
    fn is_settle_due(&self, file_bytes: u64) -> bool {
        self.halves[self.current].position > file_bytes / 2
            && !self.halves[1 - self.current].unsettled.is_empty()
    }
}

impl<T: File> Half<T> {
    fn new(file: T) -> Half<T> {
        let position = BLOCK_BYTES as u64;
        Half { file, pass: None, sequence: 0, position, unsettled: HashSet::default() }
    }

    /// The next record is the first one of `pass`.
    fn begin(&mut self, pass: Pass) {
        self.pass = Some(pass);
        self.sequence = 0;
        self.position = BLOCK_BYTES as u64;
    }

    /// Makes what it holds worthless, durably.
    fn empty(&mut self, generation: u64) -> io::Result<()> {
        (self.pass, self.sequence) = (None, 0);
        self.file.write_all_at(Blocks::header(Pass::empty(generation)).bytes(), 0)?;
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
    let open = |half| {
        let name = name(writer, half);
        let entry = listed.iter().find(|entry| entry.name == name)?;
        let fits = entry.bytes == file_bytes;
        Some(Half::new(files.open_blocks(&dir.join(&name)).ok().filter(|_| fits)?))
    };
    Some(Pair { halves: [open(0)?, open(1)?], current: 0 })
}

/// Where the directory of redo files is.
fn parent(dir: &Path) -> &Path {
    // Cannot be absent: it was joined to another one.
    dir.parent().unwrap_or(dir)
}

/// Whose file that is, if it is a writer's.
fn writer_of(name: &str) -> Option<usize> {
    name.strip_suffix("-a").or_else(|| name.strip_suffix("-b"))?.parse().ok()
}

fn name(writer: usize, half: usize) -> String {
    format!("{writer}-{}", if half == 0 { "a" } else { "b" })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whatever panicked has left files that a replay can read.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
