//! One compaction of one log. First it reads the dirty part and notes the newest offset of each key. Then it
//! rewrites all segments up to there, in groups that fit one segment. The only file here that touches the
//! store, besides `draft.rs`.

use std::io;

use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::draft::Draft;
use super::keys::KeyMap;
use super::range::{self, Facts, Range};
use super::rewrite::{INFLATED_BYTES_MAX, Left, Rewriter, Surroundings};
use super::txns::Transactions;
use crate::log::append::owner::{Replacement, out_of_handles};
use crate::log::append::queue::block_on;
use crate::log::append::writer::Command;
use crate::log::config::{Compaction, LogConfig};
use crate::log::format::batch::BatchHeader;
use crate::log::format::raw_records::RawBatch;
use crate::log::format::scan::{Found, Scan};
use crate::log::object::record_store::ObjectId;
use crate::log::partition::{Readable, Shared};
use crate::store::ProducerEntry;
use crate::types::Offset;

/// After this many bytes the pass asks whether to continue.
const CHUNK_BYTES: u64 = 256 << 10;

/// What one compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
}

/// Why a compaction ended early. Segments that it had swapped in before stay.
#[derive(Debug)]
pub(super) enum Ended {
    /// The broker stops, or the log is being deleted.
    Stopped,
    /// A segment was deleted or noted as damaged meanwhile. The segments behind it wait for the next
    /// compaction: the log counts as compacted up to the end of the last segment that was swapped in.
    Overtaken,
    /// A segment that seems to be damaged, or could not be read.
    Suspect(Suspect),
    /// The store failed.
    Io(io::Error),
}

/// The place where a pass met bytes that are no batch, or could not read.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) object: ObjectId,
    pub(super) position: u64,
    /// The offset that should begin there.
    pub(super) offset: Offset,
    pub(super) reason: String,
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Ended {
        Ended::Io(error)
    }
}

/// A sealed segment as it was when the pass began.
struct Source {
    object: ObjectId,
    bytes: u64,
    /// The first offset of the next segment.
    end: Offset,
}

/// See the module's header.
pub(super) struct Pass<'a> {
    pub(super) shared: &'a Shared,
    pub(super) config: &'a LogConfig,
    pub(super) compaction: Compaction,
    /// Bound of the memory for the keys.
    pub(super) keys_bytes_max: usize,
    /// Whether to continue.
    pub(super) goes_on: &'a dyn Fn() -> bool,
}

/// The log's producers, as its writer knows them; `None` if the log is being deleted or the writer has
/// ended.
fn producers(shared: &Shared) -> Option<Vec<ProducerEntry>> {
    let (reply, told) = oneshot::channel();
    shared.send(Command::Producers(shared.id, reply)).ok()?;
    block_on(told).ok()
}

/// The part of a log that may be compacted now.
pub(super) fn range(shared: &Shared, compaction: &Compaction) -> Range {
    let last_stable = shared.span.borrow().last_stable;
    let now = shared.settings.age.now();
    let timeless = {
        let readable = shared.readable();
        range::timeless(&readable.segments, readable.cleaned_to, compaction)
    };
    // Asks the file system without holding the lock, which the writer may wait for.
    let written_at = timeless.into_iter().filter_map(|object| {
        let written_at = shared.settings.store.written_at(object).ok()?;
        Some((object, written_at))
    });
    let written_at = &written_at.collect();
    let Readable { segments, cleaned_to, .. } = &*shared.readable();
    let cleaned_to = *cleaned_to;
    range::range(&Facts { segments, last_stable, cleaned_to, now, written_at }, compaction)
}

impl Pass<'_> {
    /// Compacts the log up to the end of `range`, or as far as the memory for the keys reaches.
    pub(super) fn run(&self, range: Range) -> Result<Done, Ended> {
        let done = self.rewrite(range);
        if done.is_err() {
            // A draft of a failed pass is useless, and a full disk needs the room.
            let discarded = self.shared.settings.store.discard_drafts(self.shared.id);
            if let Err(error) = discarded.as_ref().map_err(ToString::to_string)
                && !self.shared.is_deleted()
            {
                let log = self.shared.settings.label(self.shared.id);
                warn!(
                    log,
                    error,
                    "the draft of a failed compaction could not be removed, the next start removes it"
                );
            }
        }
        done
    }

    fn rewrite(&self, range: Range) -> Result<Done, Ended> {
        let (sources, aborted) = {
            let readable = self.shared.readable();
            let pairs = readable.segments.windows(2).take(range.segments);
            let source = |pair: &[crate::log::segment::Segment]| {
                let [segment, next] = pair else { return Ok(None) };
                if !segment.damaged.is_empty() {
                    return Err(Ended::Overtaken);
                }
                let (object, bytes) = (segment.object, segment.bytes);
                Ok(Some(Source { object, bytes, end: next.object.base }))
            };
            let sources: Vec<Option<Source>> = pairs.map(source).collect::<Result<_, _>>()?;
            let sources: Vec<Source> =
                sources.into_iter().flatten().take_while(|s| s.end <= range.to).collect();
            (sources, readable.aborted.clone())
        };
        // Asked after the segments were listed: so the last batch of a producer is known here, or lies
        // behind these segments.
        let producers = producers(self.shared).ok_or(Ended::Stopped)?;
        let transactions = Transactions::new(&aborted);
        let mut done = Done::default();
        let (keys, reached) = self.newest(&sources, range, &transactions, &mut done)?;
        let mut rewriter = Rewriter::new(Surroundings {
            keys: &keys,
            reached,
            start: self.shared.span.borrow().start,
            transactions,
            producers: &producers,
            now: self.shared.settings.age.now(),
            delete_retention: self.compaction.delete_retention,
        });
        let store = &*self.shared.settings.store;
        let mut open: Option<Draft<'_>> = None;
        for source in sources.iter().filter(|source| source.object.base < reached) {
            let fits =
                |draft: &Draft<'_>| draft.segment.bytes + source.bytes <= self.config.segment_bytes;
            if let Some(full) = open.take_if(|draft| !fits(draft)) {
                self.swap(full, range.from, reached, &mut done)?;
            }
            let interval = self.config.index_interval_bytes;
            let draft = open.get_or_insert_with(|| Draft::new(store, source.object, interval));
            draft.sources.push(source.object);
            self.each_batch(source, &mut done.bytes_read, |header, bytes| {
                match rewriter.batch(header, bytes) {
                    Left::All => draft.put(header, bytes)?,
                    Left::Nothing => draft.skip(header, bytes),
                    Left::Rewritten(left) => {
                        let header = BatchHeader::parse(&left)
                            .map_err(|e| io::Error::other(e.to_string()))?;
                        draft.changed = true;
                        draft.put(&header, &left)?;
                    }
                }
                Ok(true)
            })?;
        }
        if let Some(last) = open {
            self.swap(last, range.from, reached, &mut done)?;
        }
        if rewriter.opaque > 0 {
            let log = self.shared.settings.label(self.shared.id);
            warn!(
                log,
                batches = rewriter.opaque,
                "batches that cannot be decoded were not compacted"
            );
        }
        Ok(done)
    }

    /// The newest offset of each key, and the offset up to which all keys had room in the table.
    fn newest(
        &self,
        sources: &[Source],
        range: Range,
        transactions: &Transactions,
        done: &mut Done,
    ) -> Result<(KeyMap, Offset), Ended> {
        let mut keys = KeyMap::new(self.keys_bytes_max, range.to.since(range.from));
        let mut full_at = None;
        for source in sources.iter().filter(|source| source.end > range.from) {
            self.each_batch(source, &mut done.bytes_read, |header, bytes| {
                let is_clean = header.last_offset() < range.from;
                if is_clean || header.control() || transactions.is_aborted(header) {
                    return Ok(true);
                }
                full_at = put_keys(&mut keys, header, bytes, range.from);
                Ok(full_at.is_none())
            })?;
            if full_at.is_some() {
                break;
            }
        }
        Ok((keys, full_at.unwrap_or(range.to)))
    }

    /// Calls `visit` for every batch of a segment, until it returns false.
    fn each_batch(
        &self,
        source: &Source,
        bytes_read: &mut u64,
        mut visit: impl FnMut(&BatchHeader, &bytes::Bytes) -> io::Result<bool>,
    ) -> Result<(), Ended> {
        let mut scan = Scan::new(&*self.shared.settings.store, source.object, 0, source.bytes);
        let mut expected = source.object.base;
        let mut looked_at = None;
        loop {
            if looked_at.is_none_or(|at| scan.position() - at >= CHUNK_BYTES) {
                looked_at = Some(scan.position());
                if !(self.goes_on)() || self.shared.is_deleted() {
                    return Err(Ended::Stopped);
                }
            }
            let suspect = |position, reason| {
                let object = source.object;
                Ended::Suspect(Suspect { object, position, offset: expected, reason })
            };
            let batch = match scan.advance() {
                Ok(batch) => batch,
                Err(error) if !self.has(source) => {
                    debug!(segment = %source.object, %error, "segment went while it was compacted");
                    return Err(Ended::Overtaken);
                }
                // Whether a disk fails is not for a lack of file handles to tell.
                Err(error) if out_of_handles(&error) => return Err(self.failed(error)),
                Err(error) => return Err(suspect(scan.position(), error.to_string())),
            };
            let Some(batch) = batch else { break };
            let (position, header, bytes) = match batch {
                Found::Batch { position, header, bytes } => (position, header, bytes),
                Found::Bad { position, reason } => return Err(suspect(position, reason)),
            };
            if header.base_offset != expected {
                let found = header.base_offset;
                let reason = format!("its base offset is {found} instead of {expected}");
                return Err(suspect(position, reason));
            }
            expected = header.next_offset();
            *bytes_read += header.bytes as u64;
            if !visit(&header, &bytes).map_err(|error| self.failed(error))? {
                return Ok(());
            }
        }
        if expected != source.end {
            let reason = format!("it ends at offset {expected} instead of {}", source.end);
            let (object, position) = (source.object, source.bytes);
            return Err(Ended::Suspect(Suspect { object, position, offset: expected, reason }));
        }
        Ok(())
    }

    /// Whether the log still has the segment: retention may have deleted it.
    fn has(&self, source: &Source) -> bool {
        let readable = self.shared.readable();
        readable.segments.iter().any(|segment| segment.object == source.object)
    }

    /// How an error of the store ends the pass. If the log is being deleted, it is no failure.
    fn failed(&self, error: io::Error) -> Ended {
        match self.shared.is_deleted() {
            true => Ended::Stopped,
            false => Ended::Io(error),
        }
    }

    /// Publishes a finished draft, has the writer swap it in, and deletes its sources.
    fn swap(
        &self,
        mut draft: Draft<'_>,
        dirty_from: Offset,
        reached: Offset,
        done: &mut Done,
    ) -> Result<(), Ended> {
        let settings = &self.shared.settings;
        draft.finish().map_err(|error| self.failed(error))?;
        let end = draft.end();
        if !draft.changed && draft.sources.len() == 1 && end <= dirty_from {
            // The segment was clean already, and nothing in it has expired: keep it.
            return settings.store.discard_drafts(self.shared.id).map_err(|e| self.failed(e));
        }
        let object = draft.segment.object;
        done.bytes_written += draft.segment.bytes;
        settings.store.publish(object).map_err(|error| self.failed(error))?;
        let removed = draft.sources.clone();
        let cleaned_to = end.min(reached);
        let replacement = Replacement { removed, segment: draft.segment, cleaned_to };
        let (reply, replaced) = oneshot::channel();
        self.shared
            .send(Command::Replace(self.shared.id, replacement, reply))
            .map_err(|_| Ended::Stopped)?;
        match block_on(replaced) {
            Ok(true) => self.shared.delete(&draft.sources),
            Ok(false) => {
                self.shared.delete(&[object]);
                return Err(Ended::Overtaken);
            }
            // The writer has ended: the next start decides between the draft and its sources.
            Err(_) => return Err(Ended::Stopped),
        }
        Ok(())
    }
}

/// Notes the keys of a batch. Returns the offset of the first key that had no room.
fn put_keys(
    keys: &mut KeyMap,
    header: &BatchHeader,
    bytes: &bytes::Bytes,
    from: Offset,
) -> Option<Offset> {
    // A batch that cannot be decoded is kept unchanged, and its keys replace no older records.
    let raw = RawBatch::open(header, bytes, INFLATED_BYTES_MAX).ok()?;
    if raw.records().any(|record| match record {
        Ok(record) => i64::from(record.offset_delta) > i64::from(header.last_offset_delta),
        Err(_) => true,
    }) {
        return None;
    }
    for record in raw.records().flatten() {
        let offset = header.base_offset.plus(u64::from(record.offset_delta));
        if let Some(key) = record.key
            && offset >= from
            && !keys.put(key, offset)
        {
            return Some(offset);
        }
    }
    None
}
