//! What a start, or a repair, does with redo files: it puts their bytes where they belong.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::path::Path;

use bytes::Bytes;

use super::format::{Blocks, Entry, Pass, RecordHead, entries};
use crate::log::buffers::BLOCK_BYTES;
use crate::log::files::{File, Files};
use crate::log::record_store::ObjectId;
use crate::types::IdHash;

/// The directory of redo files, beside those of logs.
pub(in crate::log) const DIR: &str = "redo";

/// The objects that are put back.
pub(in crate::log) trait Target {
    /// How long an object is; `None` if there is none.
    fn length(&self, object: ObjectId) -> io::Result<Option<u64>>;

    /// Writes bytes at `position`, which is at most the object's length.
    fn put_back(&self, object: ObjectId, position: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes objects survive power loss by themselves.
    fn settle_in_place(&self, objects: &[ObjectId]) -> io::Result<()>;
}

/// A file that a writer has begun.
struct Begun<T> {
    name: String,
    file: T,
    length: u64,
    pass: Pass,
}

impl<T> Begun<T> {
    fn has_any(&self) -> bool {
        !self.pass.is_empty()
    }
}

/// How far behind a record that is not whole others are looked for: further than any is long.
const LOOK_AHEAD_BYTES: u64 = 16 << 20;

/// What was put back.
#[derive(Default)]
struct Counts {
    appends: u64,
    /// Objects that were deleted since.
    gone: u64,
}

/// Puts back what the files below the logs' directory `dir` hold, makes that durable in its place and
/// empties the files, each for good before `replay` returns. The last generation that any of them had.
pub(in crate::log) fn replay<F: Files>(
    files: &F,
    dir: &Path,
    target: &impl Target,
) -> io::Result<u64> {
    let begun = begun(files, &dir.join(DIR))?;
    let mut generation = begun.last().map_or(0, |last| last.pass.generation);
    let mut counts = Counts::default();
    let mut lengths: HashMap<ObjectId, Option<u64>, IdHash> = HashMap::default();
    let mut held = Vec::new();
    for Begun { name, file, length, pass } in begun.into_iter().filter(Begun::has_any) {
        let before = counts.appends;
        walk(&name, &file, length, pass, |entry| {
            counts.appends += 1;
            put_back(target, &mut lengths, &mut counts, entry)
        })?;
        if counts.appends > before {
            held.push(file);
        }
    }
    if held.is_empty() {
        return Ok(generation);
    }
    let there: Vec<ObjectId> =
        lengths.iter().filter(|(_, length)| length.is_some()).map(|(object, _)| *object).collect();
    target.settle_in_place(&there)?;
    for file in held {
        generation += 1;
        file.write_all_at(Blocks::header(Pass::empty(generation)).bytes(), 0)?;
        file.sync_data()?;
    }
    let Counts { appends, gone } = counts;
    tracing::info!(appends, segments = there.len(), of_deleted = gone, "redo log put back");
    Ok(generation)
}

/// How many appends a `replay` would put back.
pub(in crate::log) fn pending<F: Files>(files: &F, dir: &Path) -> io::Result<u64> {
    let mut pending = 0;
    let begun = begun(files, &dir.join(DIR))?;
    for Begun { name, file, length, pass } in begun.into_iter().filter(Begun::has_any) {
        walk(&name, &file, length, pass, |_| {
            pending += 1;
            Ok(())
        })?;
    }
    Ok(pending)
}

/// Every file that may hold something, the earliest pass first.
fn begun<F: Files>(files: &F, dir: &Path) -> io::Result<Vec<Begun<F::File>>> {
    let listed = match files.list(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut begun = Vec::new();
    for entry in listed {
        let file = files.open(&dir.join(&entry.name))?;
        let block = read(&file, 0, BLOCK_BYTES)?;
        if let Some(pass) = Pass::parse(&block) {
            begun.push(Begun { name: entry.name, file, length: entry.bytes, pass });
        }
    }
    begun.sort_by_key(|begun| begun.pass.generation);
    Ok(begun)
}

/// Tells every entry of the file's pass, in the order in which they were written.
fn walk(
    name: &str,
    file: &impl File,
    length: u64,
    pass: Pass,
    mut tell: impl FnMut(Entry) -> io::Result<()>,
) -> io::Result<()> {
    let (mut position, mut expected) = (BLOCK_BYTES as u64, 0);
    // The first place of a record that is missing. A record is written when all before it are on the
    // disk: what is not whole is the end, unless there is another one behind it.
    let mut torn = None;
    while position < length {
        let head = RecordHead::parse(&read(file, position, BLOCK_BYTES)?);
        let head = head.filter(|head| {
            let fits = head.length as u64 <= length - position;
            head.mark == pass.mark && head.sequence >= expected && fits
        });
        let whole = match head {
            Some(head) => entries(&read(file, position, head.length)?).map(|whole| (head, whole)),
            None => None,
        };
        let Some((head, whole)) = whole else {
            if position - *torn.get_or_insert(position) > LOOK_AHEAD_BYTES {
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
                "redo log is damaged: what it held there may be missing at the end of logs"
            );
        }
        expected = head.sequence + 1;
        position += (head.length as u64).next_multiple_of(BLOCK_BYTES as u64);
        whole.into_iter().try_for_each(&mut tell)?;
    }
    Ok(())
}

fn put_back(
    target: &impl Target,
    lengths: &mut HashMap<ObjectId, Option<u64>, IdHash>,
    counts: &mut Counts,
    entry: Entry,
) -> io::Result<()> {
    let Entry { object, position, bytes } = entry;
    let length = match lengths.get(&object) {
        Some(length) => *length,
        None => target.length(object)?,
    };
    lengths.insert(object, length);
    let Some(length) = length else {
        counts.gone += 1;
        return Ok(());
    };
    if position > length {
        tracing::error!(
            segment = %object, position, length,
            "redo log has bytes behind the end of a segment, which was cut: they are left out"
        );
        return Ok(());
    }
    target.put_back(object, position, &bytes)?;
    lengths.insert(object, Some(length.max(position + bytes.len() as u64)));
    Ok(())
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
