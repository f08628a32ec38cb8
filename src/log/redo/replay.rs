//! What a start, or a repair, does with redo files: it puts their bytes where they belong. What cannot be
//! put back is kept and told, log by log: one bad sector must stop no other log.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::path::Path;

use bytes::Bytes;

use super::format::{Blocks, Entry, Pass, RECORD_BYTES_MAX, RecordHead, entries};
use super::{InPlace, writer_of};
use crate::log::buffers::BLOCK_BYTES;
use crate::log::files::{File, Files};
use crate::log::record_store::ObjectId;
use crate::types::{IdHash, LogId};

/// The directory of redo files, beside those of logs.
pub(in crate::log) const DIR: &str = "redo";
/// Files with something that could not be put back: every start tries again.
const KEPT_PREFIX: &str = "kept-";

/// The objects that are put back.
pub(in crate::log) trait Target {
    /// How long an object is; `None` if there is none.
    fn length(&self, object: ObjectId) -> io::Result<Option<u64>>;

    /// Writes bytes at `position`, which is at most the object's length.
    fn put_back(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes objects survive power loss by themselves.
    fn sync_in_place(&self, objects: &[ObjectId]) -> InPlace;
}

/// What a replay has found and done.
#[derive(Debug, Default)]
pub(in crate::log) struct Replayed {
    /// The last generation that any file had.
    pub(in crate::log) generation: u64,
    /// Logs that may lack something of their end, and why.
    pub(in crate::log) lacking: HashMap<LogId, String, IdHash>,
}

/// A file that a writer has begun.
struct Begun<T> {
    name: String,
    file: T,
    length: u64,
    pass: Pass,
}

/// A replay at work.
struct Replay<'a, T> {
    target: &'a T,
    lengths: HashMap<ObjectId, Option<u64>, IdHash>,
    lacking: HashMap<LogId, String, IdHash>,
    /// Appends that were put back.
    put_back: u64,
    /// Appends whose objects were deleted since.
    gone: u64,
}

/// Puts back what the files below the logs' directory `dir` hold, makes that durable in its place and
/// empties the files, each for good before `replay` returns.
pub(in crate::log) fn replay<F: Files>(
    files: &F,
    dir: &Path,
    target: &impl Target,
) -> io::Result<Replayed> {
    let dir = dir.join(DIR);
    let begun = begun(files, &dir)?;
    let mut generation = begun.last().map_or(0, |last| last.pass.generation);
    let mut replay = Replay {
        target,
        lengths: HashMap::default(),
        lacking: HashMap::default(),
        put_back: 0,
        gone: 0,
    };
    let mut held = Vec::new();
    for begun in begun.into_iter().filter(|begun| !begun.pass.is_empty()) {
        let lacking = replay.lacking.len();
        walk(&begun, |entry| replay.entry(entry));
        held.push((begun, replay.lacking.len() == lacking));
    }
    if held.is_empty() {
        return Ok(Replayed { generation, ..Replayed::default() });
    }
    let there = replay.lengths.iter().filter(|(_, length)| length.is_some());
    let there: Vec<ObjectId> = there.map(|(object, _)| *object).collect();
    let in_place = target.sync_in_place(&there);
    let is_settled = in_place.is_done();
    for (object, error) in in_place.failed {
        replay.lacks(object, &format!("a sync failed: {error}"));
    }
    for (Begun { name, file, pass, .. }, is_put_back) in held {
        if is_put_back && is_settled {
            generation = generation.wrapping_add(1);
            file.write_all_at(Blocks::header(Pass::empty(generation)).bytes(), 0)?;
            file.sync_data()?;
            if name.starts_with(KEPT_PREFIX) {
                files.remove_file(&dir.join(&name))?;
            }
        } else if !name.starts_with(KEPT_PREFIX) {
            let kept = format!("{KEPT_PREFIX}{}", pass.generation);
            tracing::error!(
                file = name,
                kept,
                "redo log could not be put back whole: it is kept, and tried again by each start"
            );
            files.rename(&dir.join(&name), &dir.join(kept))?;
            files.sync_dir(&dir)?;
        }
    }
    let Replay { put_back, gone, lacking, .. } = replay;
    tracing::info!(
        appends = put_back,
        segments = there.len(),
        of_deleted = gone,
        logs_lacking = lacking.len(),
        "redo log put back"
    );
    Ok(Replayed { generation, lacking })
}

/// How many appends a `replay` would look at.
pub(in crate::log) fn pending<F: Files>(files: &F, dir: &Path) -> io::Result<u64> {
    let mut pending = 0;
    let begun = begun(files, &dir.join(DIR))?;
    for begun in begun.iter().filter(|begun| !begun.pass.is_empty()) {
        walk(begun, |_| pending += 1);
    }
    Ok(pending)
}

/// Every file that was begun, the earliest pass first.
fn begun<F: Files>(files: &F, dir: &Path) -> io::Result<Vec<Begun<F::File>>> {
    let listed = match files.list(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut begun = Vec::new();
    for entry in listed {
        let is_ours = writer_of(&entry.name).is_some() || entry.name.starts_with(KEPT_PREFIX);
        if !is_ours || entry.bytes == 0 {
            continue;
        }
        let opened = files.open(&dir.join(&entry.name));
        let found = opened.and_then(|file| Ok((pass_of(&file)?, file)));
        match found {
            Ok((Some(pass), file)) => {
                begun.push(Begun { name: entry.name, file, length: entry.bytes, pass });
            }
            Ok((None, _)) => {}
            Err(error) => tracing::error!(
                file = entry.name, %error,
                "redo log cannot be read: if power was lost, ends of logs may be missing"
            ),
        }
    }
    begun.sort_by_key(|begun| begun.pass.generation);
    Ok(begun)
}

/// What a file is written in. Where its header is damaged, the first record tells.
fn pass_of(file: &impl File) -> io::Result<Option<Pass>> {
    let header = read(file, 0, BLOCK_BYTES)?;
    if let Some(pass) = Pass::parse(&header) {
        return Ok(Some(pass));
    }
    if header.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    tracing::error!("the header of a redo log is damaged: it goes by its first record");
    let position = BLOCK_BYTES as u64;
    let head = RecordHead::parse(&read(file, position, BLOCK_BYTES)?);
    let head = head.filter(|head| head.sequence == 0);
    let Some(head) = head else { return Ok(None) };
    let is_whole = entries(&read(file, position, head.length)?).is_some();
    Ok(is_whole.then_some(Pass { generation: 0, mark: head.mark }))
}

/// Tells every entry of the file's pass, in the order in which they were written.
fn walk<T: File>(begun: &Begun<T>, mut tell: impl FnMut(Entry)) {
    let Begun { name, file, length, pass } = begun;
    let (mut position, mut expected) = (BLOCK_BYTES as u64, 0);
    // The first place of a record that is missing. A record is written when all before it are on the
    // disk: what is not whole is the end, unless there is another one behind it.
    let mut torn = None;
    while position < *length {
        let whole = record(file, position, |head| {
            let fits = head.length as u64 <= length - position;
            head.mark == pass.mark && head.sequence >= expected && fits
        });
        let Some((head, whole)) = whole else {
            if position - *torn.get_or_insert(position) > RECORD_BYTES_MAX as u64 {
                break;
            }
            position += BLOCK_BYTES as u64;
            continue;
        };
        if let Some(torn) = torn.take() {
            tracing::error!(
                file = name,
                byte = torn,
                lost_records = head.sequence - expected,
                "redo log is damaged: if power was lost, what it held there is missing at the end of logs"
            );
        }
        expected = head.sequence.saturating_add(1);
        position += (head.length as u64).next_multiple_of(BLOCK_BYTES as u64);
        whole.into_iter().for_each(&mut tell);
    }
}

/// The record at `position`, if a whole one that `is_wanted` begins there; none where it cannot be read.
fn record(
    file: &impl File,
    position: u64,
    is_wanted: impl Fn(&RecordHead) -> bool,
) -> Option<(RecordHead, Vec<Entry>)> {
    let head = RecordHead::parse(&read(file, position, BLOCK_BYTES).ok()?).filter(is_wanted)?;
    let whole = entries(&read(file, position, head.length).ok()?)?;
    Some((head, whole))
}

impl<T: Target> Replay<'_, T> {
    fn entry(&mut self, entry: Entry) {
        let object = entry.object;
        match self.try_entry(&entry) {
            Ok(()) => {}
            Err(reason) => self.lacks(object, &reason),
        }
    }

    fn try_entry(&mut self, entry: &Entry) -> Result<(), String> {
        let Entry { object, position, bytes } = entry;
        let length = match self.lengths.get(object) {
            Some(length) => *length,
            None => self.target.length(*object).map_err(|error| error.to_string())?,
        };
        self.lengths.insert(*object, length);
        let Some(length) = length else {
            self.gone += 1;
            return Ok(());
        };
        if *position > length {
            return Err(format!("the redo log goes on at byte {position}, it ends at {length}"));
        }
        let written = self.target.put_back(*object, *position, bytes);
        written.map_err(|error| format!("putting back failed: {error}"))?;
        let end = position.saturating_add(bytes.len() as u64);
        self.lengths.insert(*object, Some(length.max(end)));
        self.put_back += 1;
        Ok(())
    }

    fn lacks(&mut self, object: ObjectId, reason: &str) {
        tracing::error!(segment = %object, reason, "the end of a segment was not put back");
        let told = || format!("segment {object} may lack its end: {reason}");
        self.lacking.entry(object.log).or_insert_with(told);
    }
}

/// Up to `length` bytes at `position`; fewer at the file's end.
fn read(file: &impl File, position: u64, length: usize) -> io::Result<Bytes> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], position + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes.into())
}
