//! Where sequential readers go on. A read that begins where an earlier one has ended needs no look-up,
//! and if the page cache has its bytes, no thread that may wait for the disk.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::reader;
use crate::log::append::tail::Window;
use crate::log::object::buffers;
use crate::log::object::record_store::{Location, ObjectId, Way};
use crate::log::outcome::{Isolation, OffsetSpan, ReadRequest, ReadResult};
use crate::log::partition::{Readable, Shared};
use crate::types::Offset;

/// Most bytes that are read on a thread with other things to do.
const READY_BYTES_MAX: usize = 1 << 20;
/// Ends of reads that are remembered of one log, the latest ones.
const CURSORS_MAX: usize = 64;

/// Ends of reads, the latest last.
#[derive(Default)]
pub(in crate::log) struct Cursors {
    ends: Mutex<VecDeque<Cursor>>,
}

/// Where the batch begins that has this offset first.
#[derive(Clone, Copy)]
struct Cursor {
    offset: Offset,
    object: ObjectId,
    position: u64,
    way: Way,
}

impl Cursors {
    fn at(&self, offset: Offset) -> Option<Cursor> {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.iter().rev().find(|cursor| cursor.offset == offset).copied()
    }

    fn put(&self, cursor: Cursor) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same =
            |last: &&mut Cursor| (last.offset, last.object) == (cursor.offset, cursor.object);
        if let Some(last) = ends.back_mut().filter(is_same) {
            *last = cursor;
            return;
        }
        if ends.len() == CURSORS_MAX {
            ends.pop_front();
        }
        ends.push_back(cursor);
    }
}

impl Shared {
    /// The answer to a reader who goes on where a read has ended, if its bytes are in the page cache
    /// and nothing about them is out of the ordinary.
    pub(in crate::log) fn read_ready(&self, request: &ReadRequest) -> Option<ReadResult> {
        let (span, window) = self.window(request).ok()?;
        let cursor = self.cursors.at(window.from)?;
        // Where the last bytes were not in the page cache, the next ones hardly are.
        if window.bytes_max > READY_BYTES_MAX || cursor.way == Way::Past {
            return None;
        }
        let read = |location| Some((self.settings.store.read_ready(location)?, Way::Kept));
        self.go_on(request, (span, window), cursor, read)
    }

    /// The same for a thread that may wait, unless the page cache is to keep the bytes.
    pub(in crate::log) fn read_past(&self, request: &ReadRequest) -> Option<ReadResult> {
        let (span, window) = self.window(request).ok()?;
        let cursor = self.cursors.at(window.from)?;
        let read = |location| self.bytes_past(location);
        self.go_on(request, (span, window), cursor, read)
    }

    fn go_on(
        &self,
        request: &ReadRequest,
        (span, window): (OffsetSpan, Window),
        cursor: Cursor,
        read: impl FnOnce(Location) -> Option<(Bytes, Way)>,
    ) -> Option<ReadResult> {
        let (location, departures) = self.location(cursor, window)?;
        let (bytes, way) = read(location)?;
        let records = whole(&bytes, window)?;
        let next = reader::last_offset(&records)?.plus(1);
        self.read_to(next, location, location.position + records.len() as u64, way);
        let readable = self.readable();
        // Aborted transactions must be known as they were when the records were read.
        let is_unchanged =
            readable.departures == departures && request.from >= self.span.borrow().start;
        (is_unchanged || request.isolation == Isolation::ReadUncommitted)
            .then(|| reader::result(&readable, request, span, records))
    }

    /// Remembers that a read of `location` has ended at `position`, where the batch of `offset` begins,
    /// or will.
    pub(in crate::log) fn read_to(
        &self,
        offset: Offset,
        location: Location,
        position: u64,
        way: Way,
    ) {
        let object = location.object;
        self.cursors.put(Cursor { offset, object, position, way });
        if way == Way::Past {
            self.passed.put(object, location.position..position);
        }
    }

    /// Which bytes to read, and how often segments had departed then.
    fn location(&self, cursor: Cursor, window: Window) -> Option<(Location, u64)> {
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
