//! Where sequential readers go on. A read that begins where an earlier one has ended needs no look-up,
//! and if the page cache has its bytes, no thread that may wait for the disk.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::buffers;
use super::outcome::{Isolation, ReadRequest, ReadResult};
use super::partition::{Readable, Shared};
use super::reader;
use super::record_store::{Location, ObjectId};
use super::tail::Window;
use crate::types::Offset;

/// Most bytes that are read on a thread with other things to do.
const READY_BYTES_MAX: usize = 1 << 20;
/// Ends of reads that are remembered of one log, the latest ones.
const CURSORS_MAX: usize = 64;

/// Ends of reads, the latest last.
#[derive(Default)]
pub(super) struct Cursors {
    ends: Mutex<VecDeque<Cursor>>,
}

/// Where the batch begins that has this offset first.
#[derive(Clone, Copy)]
struct Cursor {
    offset: Offset,
    object: ObjectId,
    position: u64,
}

impl Cursors {
    fn at(&self, offset: Offset) -> Option<Cursor> {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.iter().rev().find(|cursor| cursor.offset == offset).copied()
    }

    /// Remembers that the batch of `offset` begins at `position` of `object`, or will.
    pub(super) fn put(&self, offset: Offset, object: ObjectId, position: u64) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.back().is_some_and(|last| last.offset == offset && last.object == object) {
            return;
        }
        if ends.len() == CURSORS_MAX {
            ends.pop_front();
        }
        ends.push_back(Cursor { offset, object, position });
    }
}

impl Shared {
    /// The answer to a reader who goes on where a read has ended, if its bytes are in the page cache
    /// and nothing about them is out of the ordinary.
    pub(super) fn read_ready(&self, request: &ReadRequest) -> Option<ReadResult> {
        let (span, window) = self.window(request).ok()?;
        if window.bytes_max > READY_BYTES_MAX {
            return None;
        }
        let (location, departures) = self.ready_location(window)?;
        let bytes = self.settings.store.read_ready(location)?;
        let records = whole(&bytes, window)?;
        let next = reader::last_offset(&records)?.plus(1);
        self.cursors.put(next, location.object, location.position + records.len() as u64);
        let readable = self.readable();
        // Aborted transactions must be known as they were when the records were read.
        let is_settled =
            readable.departures == departures && request.from >= self.span.borrow().start;
        (is_settled || request.isolation == Isolation::ReadUncommitted)
            .then(|| reader::result(&readable, request, span, records))
    }

    /// Which bytes to read, and how often segments had departed then.
    fn ready_location(&self, window: Window) -> Option<(Location, u64)> {
        let cursor = self.cursors.at(window.from)?;
        let readable = self.readable();
        let (object, position, end) = place(&readable, cursor)?;
        let length = (window.bytes_max as u64).min(end - position) as usize;
        Some((Location { object, position, length }, readable.departures))
    }
}

/// Where a cursor points now, and where the bytes end there: at the end of a segment it points to the
/// beginning of the next one. Nowhere, when its segment is gone or has damage behind it.
fn place(readable: &Readable, cursor: Cursor) -> Option<(ObjectId, u64, u64)> {
    let at = readable.segments.iter().rposition(|segment| segment.object == cursor.object)?;
    let segment = &readable.segments[at];
    let (segment, position) = match readable.segments.get(at + 1) {
        Some(next) if cursor.position == segment.bytes && next.object.base == cursor.offset => {
            (next, 0)
        }
        _ => (segment, cursor.position),
    };
    let is_whole = segment.damaged.iter().all(|damage| damage.end <= position);
    (is_whole && position < segment.bytes).then_some((segment.object, position, segment.bytes))
}

/// The whole batches that the window wants, if the first one begins where it should and all of them
/// are as they were written.
fn whole(bytes: &Bytes, window: Window) -> Option<Bytes> {
    let taken = window.over(bytes, 0);
    let wanted = bytes.slice(taken.from..taken.to);
    let checked = reader::checked(wanted.clone())?;
    let begins = reader::first_offset(&checked) == Some(window.from);
    let is_whole = begins && taken.from == 0 && checked.len() == wanted.len();
    is_whole.then(|| buffers::part_of(bytes, checked))
}
