//! Remembers where reads ended. A read that begins where an earlier read ended needs no index look-up,
//! and if its bytes are in the page cache, it needs no thread that may wait for the disk.

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

/// Most bytes that one read takes on a network thread, which has other connections to serve.
const READY_BYTES_MAX: usize = 1 << 20;
/// How many ends of reads are remembered for each log; the oldest is forgotten first.
const CURSORS_MAX: usize = 64;

/// The ends of reads, oldest first.
#[derive(Default)]
pub(in crate::log) struct Cursors {
    ends: Mutex<VecDeque<Cursor>>,
}

/// The place where the batch with base offset `offset` begins.
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
    /// The answer for a reader that continues where an earlier read ended. `None` if its bytes are not
    /// in the page cache, or if anything about them needs a closer look (damage, a replaced segment).
    pub(in crate::log) fn read_ready(&self, request: &ReadRequest) -> Option<ReadResult> {
        let (span, window) = self.window(request).ok()?;
        let cursor = self.cursors.at(window.from)?;
        // If the previous bytes were not in the page cache, the next ones hardly are.
        if window.bytes_max > READY_BYTES_MAX || cursor.way == Way::Past {
            return None;
        }
        let read = |location| Some((self.settings.store.read_ready(location)?, Way::Kept));
        self.go_on(request, (span, window), cursor, read)
    }

    /// The same on a thread that may wait: reads past the page cache, where `bytes_past` does.
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
        // A compaction or a trim may have removed aborted transactions from the list since the records
        // were read; then the records and the list do not fit together.
        let is_unchanged =
            readable.departures == departures && request.from >= self.span.borrow().start;
        (is_unchanged || request.isolation == Isolation::ReadUncommitted)
            .then(|| reader::result(&readable, request, span, records))
    }

    /// Remembers that a read of `location` ended at `position`, where the batch with base offset
    /// `offset` begins, or will begin once it is appended.
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

    /// Which bytes to read, and the value of `departures` at that time.
    fn location(&self, cursor: Cursor, window: Window) -> Option<(Location, u64)> {
        let readable = self.readable();
        let (object, position, end) = place(&readable, cursor)?;
        let length = (window.bytes_max as u64).min(end - position) as usize;
        Some((Location { object, position, length }, readable.departures))
    }
}

/// The object and position that a cursor points to now, and where that object ends. A cursor at the end
/// of a segment points to the beginning of the next one. `None` if the segment is gone, or has damage
/// behind the cursor.
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

/// The whole batches inside the window. `None` if the first one does not begin at the window's first
/// offset, or if any of them fails its CRC or offset check.
fn whole(bytes: &Bytes, window: Window) -> Option<Bytes> {
    let taken = window.over(bytes, 0);
    let wanted = bytes.slice(taken.from..taken.to);
    let checked = reader::checked(wanted.clone())?;
    let begins = reader::first_offset(&checked) == Some(window.from);
    let is_whole = begins && taken.from == 0 && checked.len() == wanted.len();
    is_whole.then(|| buffers::part_of(bytes, checked))
}
