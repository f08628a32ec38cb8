//! What a start does with WAL files: it puts their bytes where they belong, all of them or it fails. A
//! repair replays what it can, and sets the rest aside.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::path::Path;

use bytes::Bytes;

use super::format::{Blocks, Entry, Generation, RECORD_BYTES_MAX, RecordHead, entries};
use super::{InPlace, writer_of};
use crate::log::object::buffers::BLOCK_BYTES;
use crate::log::object::files::{self, File, Files};
use crate::log::object::record_store::ObjectId;
use crate::types::IdHash;

/// The directory of WAL files, beside those of logs. The name on disk is older than the name in the
/// code, and stays: a start must find the files of an earlier build.
pub(in crate::log) const DIR: &str = "redo";
/// Files that a repair has given up. Nobody reads them again.
const GIVEN_UP_PREFIX: &str = "given-up-";

/// The objects that a replay writes to.
pub(in crate::log) trait Target {
    /// The length of an object; `None` if it does not exist.
    fn length(&self, object: ObjectId) -> io::Result<Option<u64>>;

    /// Writes bytes at `position`, which is at most the object's length.
    fn write_at(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<()>;

    /// Syncs objects in place.
    fn sync_in_place(&self, objects: &[ObjectId]) -> InPlace;
}

/// A file that a writer has begun.
struct Begun<T> {
    name: String,
    file: T,
    length: u64,
    generation: Generation,
    /// What is wrong with it, as sentences.
    faults: Vec<String>,
}

impl<T> Begun<T> {
    fn fault(&mut self, reason: &str) {
        self.faults.push(format!("WAL file {}: {reason}", self.name));
    }
}

/// The state of a replay.
struct Replay<'a, T> {
    target: &'a T,
    lengths: HashMap<ObjectId, Option<u64>, IdHash>,
    /// Appends that were written again.
    replayed: u64,
    /// Appends whose objects were deleted since.
    gone: u64,
}

/// Replays what the files below the logs' directory `dir` hold, makes that durable in its place and
/// empties the files, each for good before `replay` returns the last generation that any of them had.
/// Where anything of that fails no file is emptied, so that the next start does it all again: nothing
/// may be appended before.
pub(in crate::log) fn replay<F: Files>(
    files: &F,
    dir: &Path,
    target: &impl Target,
) -> io::Result<u64> {
    let dir = dir.join(DIR);
    let (generation, begun) = replay_files(files, &dir, target)?;
    let mut faults = begun.iter().flat_map(|begun| &begun.faults);
    if let Some(first) = faults.next() {
        let more = faults.count();
        return Err(io::Error::other(format!(
            "{first} ({more} more faults); acknowledged records may be missing at the ends of logs \
             without it: check the disk, make room and start again, or give up what cannot be replayed \
             with `ottla doctor --repair DATA_DIR`"
        )));
    }
    empty(generation, begun)
}

/// `replay` that gives up what cannot be replayed: what was wrong, as sentences.
pub(in crate::log) fn repair<F: Files>(
    files: &F,
    dir: &Path,
    target: &impl Target,
) -> io::Result<Vec<String>> {
    let dir = dir.join(DIR);
    let (generation, begun) = replay_files(files, &dir, target)?;
    let (whole, faulty): (Vec<_>, Vec<_>) =
        begun.into_iter().partition(|begun| begun.faults.is_empty());
    let mut told = Vec::new();
    for begun in faulty {
        let names = files.list(&dir)?;
        let is_free = |name: &String| names.iter().all(|entry| entry.name != *name);
        let name = (0u64..).map(|n| format!("{GIVEN_UP_PREFIX}{n}")).find(is_free);
        // Cannot be absent: there are more numbers than files.
        let name = name.unwrap_or_default();
        files.rename(&dir.join(&begun.name), &dir.join(&name))?;
        told.extend(begun.faults);
        told.push(format!("WAL file {} is {name} now, and read no more", begun.name));
    }
    if !told.is_empty() {
        files.sync_dir(&dir)?;
    }
    empty(generation, whole)?;
    Ok(told)
}

/// How many appends a `replay` would look at, and what is wrong with its files.
pub(in crate::log) fn pending<F: Files>(files: &F, dir: &Path) -> io::Result<(u64, Vec<String>)> {
    let (mut pending, mut faults) = (0, Vec::new());
    for mut begun in begun(files, &dir.join(DIR))? {
        walk(&mut begun, |_| {
            pending += 1;
            Ok(())
        });
        faults.append(&mut begun.faults);
    }
    Ok((pending, faults))
}

/// Replays what can be replayed, and makes that durable; the last generation, and the files that hold
/// something.
fn replay_files<F: Files>(
    files: &F,
    dir: &Path,
    target: &impl Target,
) -> io::Result<(u64, Vec<Begun<F::File>>)> {
    let mut begun = begun(files, dir)?;
    let told = begun.iter().map(|begun| begun.generation.number);
    let generation = told.filter(|told| *told != u64::MAX).max().unwrap_or(0);
    begun.retain(|begun| !begun.generation.is_empty() || !begun.faults.is_empty());
    if begun.is_empty() {
        return Ok((generation, begun));
    }
    let mut replay = Replay { target, lengths: HashMap::default(), replayed: 0, gone: 0 };
    for begun in &mut begun {
        walk(begun, |entry| replay.entry(entry));
    }
    let Replay { lengths, replayed, gone, .. } = replay;
    let there = lengths.iter().filter(|(_, length)| length.is_some());
    let there: Vec<ObjectId> = there.map(|(object, _)| *object).collect();
    let in_place = target.sync_in_place(&there);
    if !in_place.is_done() {
        let reason = match in_place.failed.first() {
            Some((object, error)) => format!("segment {object} was not synced: {error}"),
            None => "the replayed segments were not synced".to_owned(),
        };
        begun.iter_mut().for_each(|begun| begun.fault(&reason));
    }
    tracing::info!(
        appends = replayed,
        segments = there.len(),
        of_deleted = gone,
        "write-ahead log replayed"
    );
    Ok((generation, begun))
}

/// Empties files for good; the last generation then.
fn empty<T: File>(mut number: u64, begun: Vec<Begun<T>>) -> io::Result<u64> {
    for Begun { file, .. } in begun {
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
    let mut begun = Vec::new();
    for entry in listed.into_iter().filter(|entry| writer_of(&entry.name).is_some()) {
        let file = files.open(&dir.join(&entry.name))?;
        let generation = Generation::empty(0);
        let mut this =
            Begun { name: entry.name, file, length: entry.bytes, generation, faults: Vec::new() };
        match generation_of(&this.file, this.length) {
            Ok(Some(generation)) => this.generation = generation,
            Ok(None) => this.fault("its header and its first record are damaged"),
            Err(error) => this.fault(&format!("it cannot be read: {error}")),
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
fn walk<T: File>(begun: &mut Begun<T>, mut tell: impl FnMut(Entry) -> Result<(), String>) {
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
            begun.fault(&format!("it cannot be read at byte {position}: {error}"));
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
            begun.fault(&format!("{lost} records are damaged at byte {torn}"));
        }
        expected = head.sequence.saturating_add(1);
        position += (head.length as u64).next_multiple_of(BLOCK_BYTES as u64);
        for entry in whole {
            if let Err(reason) = tell(entry) {
                begun.fault(&reason);
            }
        }
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
    /// Writes an entry to its segment; `Err` says why not.
    fn entry(&mut self, entry: Entry) -> Result<(), String> {
        let Entry { object, position, bytes } = entry;
        let failed = |error: io::Error| format!("segment {object} was not written: {error}");
        let length = match self.lengths.get(&object) {
            Some(length) => *length,
            None => self.target.length(object).map_err(failed)?,
        };
        self.lengths.insert(object, length);
        let Some(length) = length else {
            self.gone += 1;
            return Ok(());
        };
        if position > length {
            return Err(format!("segment {object} ends at {length}, it goes on at {position}"));
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
