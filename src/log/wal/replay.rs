//! What a start does with WAL files: it puts their bytes where they belong. A log that they do not fit is
//! told, and refuses appends; its files are kept for the next start, and the other logs go on. A repair
//! replays what it can, and sets the rest aside.

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::path::Path;

use bytes::Bytes;

use super::format::{Blocks, Entry, Generation, RECORD_BYTES_MAX, RecordHead, entries};
use super::{InPlace, writer_of};
use crate::log::object::buffers::BLOCK_BYTES;
use crate::log::object::files::{self, File, Files};
use crate::log::object::record_store::ObjectId;
use crate::types::{IdHash, LogId};

/// The directory of WAL files, beside those of logs. The name on disk is older than the name in the
/// code, and stays: a start must find the files of an earlier build.
pub(in crate::log) const DIR: &str = "redo";
/// Files that do not fit their logs. Each start replays them again.
const KEPT_PREFIX: &str = "kept-";
/// Files that a repair has given up. Nobody reads them again.
const GIVEN_UP_PREFIX: &str = "given-up-";

/// The objects that a replay writes to.
pub(in crate::log) trait Target {
    /// The length of an object; `None` if it does not exist.
    fn length(&self, object: ObjectId) -> io::Result<Option<u64>>;

    /// Takes note of bytes that were promised to be in an object, whether or not they can be written.
    fn promised(&self, object: ObjectId, bytes: &Bytes);

    /// Whether an object that is absent was deleted for sure, with these bytes in it.
    fn is_deleted(&self, object: ObjectId, bytes: &Bytes) -> io::Result<bool>;

    /// Writes bytes at `position`, which is at most the object's length.
    fn write_at(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<()>;

    /// Syncs objects in place.
    fn sync_in_place(&self, objects: &[ObjectId]) -> InPlace;

    /// Keeps elsewhere, durably, how far objects were `promised`: the files that say so will be emptied.
    fn keep_promises(&self) -> io::Result<()>;
}

/// What a replay could not put where it belongs.
#[derive(Debug, Default)]
pub(in crate::log) struct Misfits {
    /// Logs that lack acknowledged bytes, with the reason.
    logs: HashMap<LogId, String, IdHash>,
    /// Why any log may lack some.
    damage: Vec<String>,
    /// Logs that lack nothing in spite of the damage.
    whole: HashSet<LogId, IdHash>,
}

impl Misfits {
    /// Why a log that was there before the replay may lack acknowledged bytes.
    pub(in crate::log) fn of(&self, log: LogId) -> Option<String> {
        if let Some(reason) = self.logs.get(&log) {
            return Some(reason.clone());
        }
        let damage = self.damage.first().filter(|_| !self.whole.contains(&log))?;
        Some(format!("{damage}, and does not tell whose records it lost: maybe this log's"))
    }

    /// Whether every log is whole.
    pub(in crate::log) fn is_empty(&self) -> bool {
        self.logs.is_empty() && self.damage.is_empty()
    }

    /// Everything as sentences.
    fn told(&self) -> impl Iterator<Item = String> + '_ {
        self.damage.iter().chain(self.logs.values()).cloned()
    }
}

/// A file that a writer has begun.
struct Begun<T> {
    name: String,
    file: T,
    length: u64,
    generation: Generation,
    /// Why it cannot be read as a whole.
    damage: Option<String>,
    /// It holds bytes that are not in their place.
    is_kept: bool,
}

impl<T> Begun<T> {
    fn fault(&self, reason: &str) -> String {
        format!("WAL file {}: {reason}", self.name)
    }
}

/// The state of a replay.
struct Replay<'a, T> {
    target: &'a T,
    lengths: HashMap<ObjectId, Option<u64>, IdHash>,
    /// Appends that were written again.
    replayed: u64,
    /// Appends whose objects were deleted since.
    deleted: u64,
    misfits: Misfits,
}

/// What a walk meets in a file.
enum Met {
    Entry(Entry),
    /// Records that cannot be read; a sentence.
    Damage(String),
}

/// Replays what the files below the logs' directory `dir` hold and makes that durable in its place. Files
/// of which everything is in its place are emptied, each for good before `replay` returns the last
/// generation that any of them had; the others are kept for the next start. Where a disk fails, no
/// file is emptied, so that the next start does it all again: nothing may be appended before.
pub(in crate::log) fn replay<F: Files>(
    files: &F,
    dir: &Path,
    target: &impl Target,
) -> io::Result<(u64, Misfits)> {
    let dir = dir.join(DIR);
    let Outcome { generation, begun, misfits } = replay_files(files, &dir, target)?;
    for fault in misfits.told() {
        tracing::error!(fault, "write-ahead log was not replayed as a whole, its file is kept");
    }
    let (kept, whole): (Vec<_>, Vec<_>) = begun.into_iter().partition(|begun| begun.is_kept);
    for begun in kept.iter().filter(|begun| !begun.name.starts_with(KEPT_PREFIX)) {
        rename_to_free(files, &dir, &begun.name, KEPT_PREFIX)?;
    }
    if let Err(error) = target.keep_promises() {
        tracing::warn!(%error, "how far logs were on the disk was not noted");
    }
    if !kept.is_empty() {
        // Before any of their names is used again, or another file emptied.
        files.sync_dir(&dir)?;
    }
    Ok((empty(files, &dir, generation, whole)?, misfits))
}

/// `replay` that gives up what cannot be replayed: what was wrong, as sentences.
pub(in crate::log) fn repair<F: Files>(
    files: &F,
    dir: &Path,
    target: &impl Target,
) -> io::Result<Vec<String>> {
    let dir = dir.join(DIR);
    let Outcome { generation, begun, misfits } = replay_files(files, &dir, target)?;
    let mut told: Vec<String> = misfits.told().collect();
    // Before a file is given up: the offsets that it promised may not be given out again.
    target.keep_promises()?;
    let (faulty, whole): (Vec<_>, Vec<_>) = begun.into_iter().partition(|begun| begun.is_kept);
    for begun in faulty {
        let name = rename_to_free(files, &dir, &begun.name, GIVEN_UP_PREFIX)?;
        told.push(format!("WAL file {} is {name} now, and read no more", begun.name));
    }
    if !told.is_empty() {
        files.sync_dir(&dir)?;
    }
    empty(files, &dir, generation, whole)?;
    Ok(told)
}

/// Gives a file the first name with `prefix` and a number that is free.
fn rename_to_free<F: Files>(files: &F, dir: &Path, name: &str, prefix: &str) -> io::Result<String> {
    let names = files.list(dir)?;
    let is_free = |name: &String| names.iter().all(|entry| entry.name != *name);
    let free = (0u64..).map(|n| format!("{prefix}{n}")).find(is_free);
    // Cannot be absent: there are more numbers than files.
    let free = free.unwrap_or_default();
    files.rename(&dir.join(name), &dir.join(&free))?;
    Ok(free)
}

/// How many appends a `replay` would look at, and what is wrong with its files.
pub(in crate::log) fn pending<F: Files>(files: &F, dir: &Path) -> io::Result<(u64, Vec<String>)> {
    let (mut pending, mut faults) = (0, Vec::new());
    for begun in begun(files, &dir.join(DIR))? {
        faults.extend(begun.damage.clone());
        walk(&begun, |met| match met {
            Met::Entry(_) => pending += 1,
            Met::Damage(reason) => faults.push(reason),
        });
    }
    Ok((pending, faults))
}

/// What became of the files.
struct Outcome<T> {
    /// The last generation that any of them had.
    generation: u64,
    /// Those that hold something.
    begun: Vec<Begun<T>>,
    /// The logs that they do not fit.
    misfits: Misfits,
}

/// Replays what can be replayed, and makes that durable.
fn replay_files<F: Files>(
    files: &F,
    dir: &Path,
    target: &impl Target,
) -> io::Result<Outcome<F::File>> {
    let mut begun = begun(files, dir)?;
    let told = begun.iter().map(|begun| begun.generation.number);
    let generation = told.filter(|told| *told != u64::MAX).max().unwrap_or(0);
    begun.retain(|begun| !begun.generation.is_empty() || begun.damage.is_some());
    if begun.is_empty() {
        return Ok(Outcome { generation, begun, misfits: Misfits::default() });
    }
    let mut replay = Replay {
        target,
        lengths: HashMap::default(),
        replayed: 0,
        deleted: 0,
        misfits: Misfits::default(),
    };
    for begun in &mut begun {
        let mut is_kept = false;
        walk(begun, |met| is_kept |= !replay.meet(met));
        begun.is_kept = is_kept;
    }
    for begun in &mut begun {
        if let Some(reason) = &begun.damage {
            // When it was written is not known either: after the others, maybe.
            replay.meet(Met::Damage(reason.clone()));
            begun.is_kept = true;
        }
    }
    let Replay { lengths, replayed, deleted, mut misfits, .. } = replay;
    let there = lengths.iter().filter(|(_, length)| length.is_some());
    let there: Vec<ObjectId> = there.map(|(object, _)| *object).collect();
    let in_place = target.sync_in_place(&there);
    if in_place.is_doubtful || in_place.is_put_off {
        let reason = match in_place.failed.first() {
            Some((object, error)) => format!("segment {object} was not synced: {error}"),
            None => "the replayed segments were not synced".to_owned(),
        };
        return Err(io::Error::other(format!(
            "{reason}; the write-ahead log holds acknowledged records of them: check the disk, or \
             raise the limit of open files, and start again"
        )));
    }
    for (object, error) in in_place.failed {
        // Which of the files has its bytes does not matter.
        begun.iter_mut().for_each(|begun| begun.is_kept = true);
        let reason = format!("segment {object} was not synced: {error}");
        misfits.logs.entry(object.log).or_insert(reason);
    }
    tracing::info!(
        appends = replayed,
        segments = there.len(),
        of_deleted = deleted,
        "write-ahead log replayed"
    );
    Ok(Outcome { generation, begun, misfits })
}

/// Empties files for good, and removes those that were kept; the last generation then.
fn empty<F: Files>(
    files: &F,
    dir: &Path,
    mut number: u64,
    begun: Vec<Begun<F::File>>,
) -> io::Result<u64> {
    for Begun { name, file, .. } in begun {
        if name.starts_with(KEPT_PREFIX) {
            files.remove_file(&dir.join(name))?;
            files.sync_dir(dir)?;
            continue;
        }
        number = number.wrapping_add(1);
        file.write_all_at(Blocks::header(Generation::empty(number)).bytes(), 0)?;
        file.sync_data()?;
    }
    Ok(number)
}

/// Every file that was begun, the earliest generation first.
fn begun<F: Files>(files: &F, dir: &Path) -> io::Result<Vec<Begun<F::File>>> {
    let listed = match files.list(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let is_read = |name: &str| writer_of(name).is_some() || name.starts_with(KEPT_PREFIX);
    let mut begun = Vec::new();
    for entry in listed.into_iter().filter(|entry| is_read(&entry.name)) {
        let file = files.open(&dir.join(&entry.name))?;
        let generation = Generation::empty(0);
        let (name, length) = (entry.name, entry.bytes);
        let mut this = Begun { name, file, length, generation, damage: None, is_kept: false };
        match generation_of(&this.file, this.length) {
            Ok(Some(generation)) => this.generation = generation,
            Ok(None) => {
                this.damage = Some(this.fault("its header and its first record are damaged"));
            }
            Err(error) => this.damage = Some(this.fault(&format!("it cannot be read: {error}"))),
        }
        begun.push(this);
    }
    begun.sort_by_key(|begun| begun.generation.number);
    Ok(begun)
}

/// What a file is written in; `None` if nothing tells.
///
/// A header that is not whole was torn when a generation was to begin, or is damaged. In both cases the first
/// record tells of the generation that the file holds: its own one, or the one before, which was checkpointed, and
/// which to replay once more changes nothing.
fn generation_of(file: &impl File, length: u64) -> io::Result<Option<Generation>> {
    if let Some(generation) = Generation::parse(&read(file, 0, BLOCK_BYTES)?) {
        return Ok(Some(generation));
    }
    let first = BLOCK_BYTES as u64;
    if let Some((head, _)) = record(file, first, |head| head.sequence == 0)? {
        // After all others: it is more likely to be damaged while it is written.
        return Ok(Some(Generation { number: u64::MAX, mark: head.mark }));
    }
    for position in (first..length).step_by(BLOCK_BYTES) {
        if record(file, position, |_| true)?.is_some() {
            return Ok(None);
        }
    }
    Ok(Some(Generation::empty(0)))
}

/// Tells every entry of the file's generation, in the order in which they were written.
fn walk<T: File>(begun: &Begun<T>, mut tell: impl FnMut(Met)) {
    let (mut position, mut expected) = (BLOCK_BYTES as u64, 0);
    // The first place of a record that is missing. A record is written when all before it are on the
    // disk: what is not whole is the end, unless there is another one behind it.
    let mut torn = None;
    while position < begun.length && !begun.generation.is_empty() {
        let whole = record(&begun.file, position, |head| {
            let fits = head.length as u64 <= begun.length - position;
            head.mark == begun.generation.mark && head.sequence >= expected && fits
        });
        let whole = whole.unwrap_or_else(|error| {
            let reason = format!("it cannot be read at byte {position}: {error}");
            tell(Met::Damage(begun.fault(&reason)));
            None
        });
        let Some((head, whole)) = whole else {
            if position - *torn.get_or_insert(position) > RECORD_BYTES_MAX as u64 {
                break;
            }
            position += BLOCK_BYTES as u64;
            continue;
        };
        if let Some(torn) = torn.take() {
            let lost = head.sequence - expected;
            let reason = format!("{lost} records are damaged at byte {torn}");
            tell(Met::Damage(begun.fault(&reason)));
        }
        expected = head.sequence.saturating_add(1);
        position += (head.length as u64).next_multiple_of(BLOCK_BYTES as u64);
        whole.into_iter().for_each(|entry| tell(Met::Entry(entry)));
    }
}

/// The record at `position`, if a whole one that `is_wanted` begins there.
fn record(
    file: &impl File,
    position: u64,
    is_wanted: impl Fn(&RecordHead) -> bool,
) -> io::Result<Option<(RecordHead, Vec<Entry>)>> {
    let head = RecordHead::parse(&read(file, position, BLOCK_BYTES)?).filter(is_wanted);
    let Some(head) = head else { return Ok(None) };
    Ok(entries(&read(file, position, head.length)?).map(|whole| (head, whole)))
}

impl<T: Target> Replay<'_, T> {
    /// Takes on what a walk has met. Whether all of it is in its place.
    fn meet(&mut self, met: Met) -> bool {
        match met {
            Met::Entry(entry) => {
                let log = entry.object.log;
                match self.entry(entry) {
                    Ok(()) => {
                        // It goes on where the log is, so the log lacks nothing of before.
                        self.misfits.whole.insert(log);
                        true
                    }
                    Err(reason) => {
                        self.misfits.logs.entry(log).or_insert(reason);
                        false
                    }
                }
            }
            Met::Damage(reason) => {
                self.misfits.damage.push(reason);
                self.misfits.whole.clear();
                false
            }
        }
    }

    /// Writes an entry to its segment; `Err` says why not.
    fn entry(&mut self, entry: Entry) -> Result<(), String> {
        let Entry { object, position, bytes } = entry;
        let failed = |error: io::Error| format!("segment {object} was not written: {error}");
        self.target.promised(object, &bytes);
        let length = match self.lengths.get(&object) {
            Some(length) => *length,
            None => self.target.length(object).map_err(failed)?,
        };
        self.lengths.insert(object, length);
        let Some(length) = length else {
            if self.target.is_deleted(object, &bytes).map_err(failed)? {
                self.deleted += 1;
                return Ok(());
            }
            return Err(format!(
                "segment {object} is gone, and nothing shows that it was deleted: the write-ahead log \
                 has acknowledged records of it"
            ));
        };
        if position > length {
            return Err(format!(
                "segment {object} ends at byte {length}, the write-ahead log goes on at byte \
                 {position}: acknowledged records are missing"
            ));
        }
        self.target.write_at(object, position, &bytes).map_err(failed)?;
        let end = position.saturating_add(bytes.len() as u64);
        self.lengths.insert(object, Some(length.max(end)));
        self.replayed += 1;
        Ok(())
    }
}

/// Up to `length` bytes at `position`; fewer at the end of the file.
fn read(file: &impl File, position: u64, length: usize) -> io::Result<Bytes> {
    let mut bytes = vec![0; length];
    let filled = files::fill(&mut bytes, position, |rest, at| file.read_at(rest, at))?;
    bytes.truncate(filled);
    Ok(bytes.into())
}
